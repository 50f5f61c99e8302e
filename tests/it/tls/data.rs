//! Data over TLS, its records, and session resumption.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use metrics_client::{
    MetricsClient, Sample,
    client::{Address, Connector, Pipelining, connector_fn},
    tls::{TlsConnector, rustls::HandshakeKind},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    join,
};
use tokio_rustls::client;

use super::{Authority, in_process};
use crate::peer::with_timeout;

#[tokio::test]
async fn hundred_thousand_samples_round_trip() {
    let authority = Authority::new("root");
    let server = authority.issue(&["localhost"]).serve().await;
    let client =
        super::client("localhost", &server, authority.connector()).connect().await.unwrap();
    let samples: Vec<_> = (0..100_000)
        .map(|i| Sample::new(format!("key.{}", i % 7), f64::from(i) / 3.0, i.into()).unwrap())
        .collect();
    client.put_all(&samples).await.unwrap();

    let metrics = client.get_all().await.unwrap();
    let mut streamed = 0;
    let mut stream = client.stream("*").await.unwrap();
    while let Some(sample) = stream.next().await {
        let Sample { key, point } = sample.unwrap();
        let sent = &samples[usize::try_from(point.timestamp).unwrap()];
        assert_eq!((&key, point), (&sent.key, sent.point));
        streamed += 1;
    }
    assert_eq!(streamed, samples.len());
    for (nth, sample) in samples.iter().enumerate() {
        assert_eq!(metrics.points(sample.key.as_str())[nth / 7], sample.point);
    }
    client.close().await.unwrap();
}

#[tokio::test]
async fn pipelining_probe_runs_over_tls() {
    let authority = Authority::new("root");
    let server = authority.issue(&["localhost"]).serve().await;
    let client =
        super::client("localhost", &server, authority.connector()).connect().await.unwrap();
    let callers: Vec<_> = (0..64)
        .map(|caller| {
            let client = client.clone();
            tokio::spawn(async move {
                loop {
                    client.put_at("a", 1.0, caller).await.unwrap();
                }
            })
        })
        .collect();
    let widened = async {
        while client.stats().in_flight <= 1 {
            tokio::task::yield_now().await;
        }
    };
    with_timeout(widened).await;
    assert_eq!(server.monitor.stats().accepted, 2);
    callers.iter().for_each(|caller| caller.abort());
}

#[tokio::test(start_paused = true)]
async fn request_is_one_tls_record_in_one_write() {
    let authority = Authority::new("root");
    let taps = Arc::new(Mutex::new(Vec::new()));
    let pipe = in_process(authority.issue(&["localhost"]).config());
    let tapped = TappedConnector { taps: Arc::clone(&taps), inner: pipe };
    let client = MetricsClient::builder("localhost:1")
        .connector(authority.connector().with_connector(tapped))
        .pipelining(Pipelining::On)
        .connect()
        .await
        .unwrap();
    taps.lock().unwrap().clear();
    client.put_at("a", 1.0, 1).await.unwrap();
    client.get("a").await.unwrap();
    let (one, two) = join!(client.put_at("b", 1.0, 1), client.put_at("c", 1.0, 1));
    one.and(two).unwrap();
    let writes = std::mem::take(&mut *taps.lock().unwrap());
    assert_eq!(writes.len(), 3, "{writes:?}");
    for write in writes {
        // Application data, and all of it (RFC 8446, section 5.1).
        assert_eq!(
            (write[0], u16::from_be_bytes([write[3], write[4]])),
            (23, write.len() as u16 - 5)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn session_is_resumed_on_reconnect() {
    let authority = Authority::new("root");
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let pipe = in_process(authority.issue(&["localhost"]).config());
    let connector = authority.connector().with_connector(pipe);
    let watched = HandshakeRecorder { kinds: Arc::clone(&kinds), inner: connector };
    let client = MetricsClient::builder("localhost:1").connector(watched).connect().await.unwrap();
    client.put_at("a", 1.0, 1).await.unwrap();
    let mut samples = client.stream("*").await.unwrap();
    samples.next().await.unwrap().unwrap();
    assert_eq!(*kinds.lock().unwrap(), [HandshakeKind::Full, HandshakeKind::Resumed]);
}

#[tokio::test(start_paused = true)]
async fn renewed_certificate_admits_the_client() {
    let authority = Authority::new("root");
    let expired = authority.issue_as(&["localhost"], |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    let config = Arc::new(Mutex::new(Arc::new(expired.config())));
    let dials = Arc::new(Mutex::new(0));
    let pipe = {
        let (config, dials) = (Arc::clone(&config), Arc::clone(&dials));
        connector_fn(move |_| {
            *dials.lock().unwrap() += 1;
            let pipe = in_process(Arc::clone(&config.lock().unwrap()));
            async move { pipe.connect(&Address::custom("pipe")).await }
        })
    };
    let client = MetricsClient::builder("localhost:1")
        .connector(authority.connector().with_connector(pipe))
        .request_timeout(Duration::from_secs(60))
        .connect_lazy()
        .unwrap();
    let renew = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!((5..50).contains(&*dials.lock().unwrap()), "{dials:?}");
        *config.lock().unwrap() = Arc::new(authority.issue(&["localhost"]).config());
    };
    let (put, ()) = join!(client.put_at("a", 1.0, 1), renew);
    put.unwrap();
}

/// Sees how the handshakes of a connector went.
struct HandshakeRecorder<C> {
    kinds: Arc<Mutex<Vec<HandshakeKind>>>,
    inner: TlsConnector<C>,
}

impl<C: Connector> Connector for HandshakeRecorder<C> {
    type Io = client::TlsStream<C::Io>;

    async fn connect(&self, address: &Address) -> io::Result<Self::Io> {
        let io = self.inner.connect(address).await?;
        self.kinds.lock().unwrap().extend(io.get_ref().1.handshake_kind());
        Ok(io)
    }
}

/// Sees what a connector's connections write, in which pieces.
struct TappedConnector<C> {
    taps: Arc<Mutex<Vec<Vec<u8>>>>,
    inner: C,
}

struct TeeIo<Io> {
    taps: Arc<Mutex<Vec<Vec<u8>>>>,
    io: Io,
}

impl<C: Connector> Connector for TappedConnector<C> {
    type Io = TeeIo<C::Io>;

    async fn connect(&self, address: &Address) -> io::Result<Self::Io> {
        Ok(TeeIo { taps: Arc::clone(&self.taps), io: self.inner.connect(address).await? })
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for TeeIo<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for TeeIo<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        if let Poll::Ready(Ok(len)) = written {
            self.taps.lock().unwrap().push(bytes[..len].to_vec());
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
