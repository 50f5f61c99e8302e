//! Two threads and a socket: one that only writes, one that only reads.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
};

use bytes::BytesMut;
use metrics_client::{ClientCodec, CodecError, Request};
use tokio_util::codec::Encoder;

/// A connection that is written from one thread and read from another.
#[derive(Debug)]
pub(crate) struct BlockingClient {
    stream: TcpStream,
}

impl BlockingClient {
    pub(crate) fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// Encodes and writes all `puts`, and returns once all are acknowledged.
    pub(crate) fn put_all(&self, puts: &[Request]) -> Result<(), CodecError> {
        thread::scope(|threads| {
            let reader = threads.spawn(|| self.read_acknowledgements(puts.len()));
            self.write(puts)?;
            Ok(reader.join().expect("reading does not panic")?)
        })
    }

    /// Writes `puts`, text of so many requests, at once, and returns once all are acknowledged.
    pub(crate) fn exchange(&self, puts: &[u8], count: usize) -> io::Result<()> {
        (&self.stream).write_all(puts)?;
        self.read_acknowledgements(count)
    }

    fn write(&self, puts: &[Request]) -> Result<(), CodecError> {
        let mut codec = ClientCodec::default();
        let mut block = BytesMut::with_capacity(BLOCK + 2 * 1024);
        for put in puts {
            codec.encode(put.clone(), &mut block)?;
            if block.len() >= BLOCK {
                (&self.stream).write_all(&block)?;
                block.clear();
            }
        }
        Ok((&self.stream).write_all(&block)?)
    }

    /// Reads as many bytes as so many answers have, and looks at none of them.
    fn read_acknowledgements(&self, count: usize) -> io::Result<()> {
        let mut block = vec![0; BLOCK];
        let mut left = count * b"ok\n\n".len();
        while left > 0 {
            match (&self.stream).read(&mut block)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                len => left -= len,
            }
        }
        Ok(())
    }
}

/// How much is written and read at once.
const BLOCK: usize = 64 * 1024;
