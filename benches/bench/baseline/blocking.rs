//! Two threads and a socket: one that only writes, one that only reads.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
};

use bytes::BytesMut;
use metrics_client::codec::{ClientCodec, CodecError, Request};
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

    /// Likewise, but [`ping`](Self::ping) never sleeps: it asks again and again whether there is
    /// something to read, and takes all of a core's time for it.
    pub(crate) fn connect_awake(addr: SocketAddr) -> io::Result<Self> {
        let client = Self::connect(addr)?;
        client.stream.set_nonblocking(true)?;
        Ok(client)
    }

    /// Encodes and writes all `puts`, and returns once all are acknowledged.
    pub(crate) fn put_all(&self, puts: &[Request]) -> Result<(), CodecError> {
        let answers = puts.len() * b"ok\n\n".len();
        self.exchange(answers, || self.encode(puts))
    }

    /// Writes `requests`, which are encoded already, in blocks, and returns once `answers` bytes
    /// have come back.
    pub(crate) fn send(&self, requests: &[u8], answers: usize) -> io::Result<()> {
        self.exchange(answers, || {
            requests.chunks(BLOCK).try_for_each(|block| (&self.stream).write_all(block))
        })
    }

    /// Writes `requests` at once, then reads `answers` bytes, all on this thread.
    pub(crate) fn ping(&self, requests: &[u8], answers: usize) -> io::Result<()> {
        (&self.stream).write_all(requests)?;
        self.read(answers)
    }

    /// Writes on this thread, and reads `answers` bytes on another.
    fn exchange<E: From<io::Error>>(
        &self,
        answers: usize,
        write: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        thread::scope(|threads| {
            let reader = threads.spawn(|| self.read(answers));
            write()?;
            Ok(reader.join().expect("reading does not panic")?)
        })
    }

    fn encode(&self, puts: &[Request]) -> Result<(), CodecError> {
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

    /// Reads `len` bytes, and looks at none of them.
    fn read(&self, len: usize) -> io::Result<()> {
        let mut block = vec![0; BLOCK.min(len)];
        let mut left = len;
        while left > 0 {
            left = match (&self.stream).read(&mut block) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => left.checked_sub(len).ok_or(io::ErrorKind::InvalidData)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }
}

/// How much is written and read at once.
const BLOCK: usize = 64 * 1024;
