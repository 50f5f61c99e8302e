//! A bare `Framed`: the minimum of a round trip.

use std::{io, net::SocketAddr};

use futures_util::{SinkExt, StreamExt};
use metrics_client::{
    Key, Point, Sample,
    codec::{ClientCodec, Request, Response},
};
use tokio::net::TcpStream;
use tokio_util::codec::Framed;

use crate::support::workload::{self, Put};

/// A framed stream that one caller owns.
#[derive(Debug)]
pub(crate) struct BareFramed {
    framed: Framed<TcpStream, ClientCodec>,
    key: Key,
}

impl BareFramed {
    pub(crate) async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let key = Key::new(workload::KEY).map_err(io::Error::other)?;
        Ok(Self { framed: Framed::new(stream, ClientCodec::default()), key })
    }
}

impl Put for BareFramed {
    /// Sends a put, then reads its answer.
    async fn put(&mut self, value: f64) {
        let sample = Sample { key: self.key.clone(), point: Point::now(value) };
        self.framed.send(Request::Put(sample)).await.expect("the peer reads");
        let answer = self.framed.next().await;
        assert!(matches!(answer, Some(Ok(Ok(Response::Ok(_))))), "{answer:?}");
    }
}
