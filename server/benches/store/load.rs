//! Puts and gets from raw sockets, which cost the machine as little as can be.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::{self, Runtime},
    task::JoinSet,
};

use crate::{Outcome, workload::Lines};

/// The answer to a put.
const OK: &[u8] = b"ok\n\n";

/// Connections that each wait for the answers to some puts before they send the next, all on one thread.
#[derive(Debug)]
pub(crate) struct Load {
    runtime: Runtime,
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    stream: tokio::net::TcpStream,
    lines: Lines,
}

impl Load {
    /// Opens connections, each of which puts to `in_flight` keys of its own.
    pub(crate) fn connect(addr: SocketAddr, connections: usize, in_flight: usize) -> Outcome<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let connections = runtime.block_on(async {
            let mut opened = Vec::new();
            for connection in 0..connections {
                let stream = tokio::net::TcpStream::connect(addr).await?;
                stream.set_nodelay(true)?;
                let first = connection * in_flight;
                opened.push(Connection { stream, lines: Lines::new(first..first + in_flight) });
            }
            Ok::<_, io::Error>(opened)
        })?;
        Ok(Self { runtime, connections })
    }

    /// Puts for some time, and returns how many puts were acknowledged in a second.
    pub(crate) fn run(&mut self, time: Duration) -> Outcome<f64> {
        self.run_every(Duration::ZERO, time)
    }

    /// Puts this many a second if it can, and returns how many were acknowledged in a second.
    #[cfg(all(feature = "graphite", feature = "http"))]
    pub(crate) fn run_at(&mut self, rate: f64, time: Duration) -> Outcome<f64> {
        let batch: usize = self.connections.iter().map(|connection| connection.lines.len()).sum();
        self.run_every(Duration::from_secs_f64(batch as f64 / rate), time)
    }

    /// Each connection puts all its keys once in this time, or as soon as they are acknowledged.
    fn run_every(&mut self, period: Duration, time: Duration) -> Outcome<f64> {
        let start = Instant::now();
        let connections = std::mem::take(&mut self.connections);
        let acknowledged = self.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for mut connection in connections {
                tasks.spawn(async move {
                    let acknowledged = connection.put_until(start + time, period).await?;
                    Ok::<_, io::Error>((connection, acknowledged))
                });
            }
            let mut all = 0;
            while let Some(task) = tasks.join_next().await {
                let (connection, acknowledged) = task.map_err(io::Error::other)??;
                all += acknowledged;
                self.connections.push(connection);
            }
            Ok::<_, io::Error>(all)
        })?;
        Ok(acknowledged as f64 / start.elapsed().as_secs_f64())
    }
}

impl Connection {
    async fn put_until(&mut self, end: Instant, period: Duration) -> io::Result<usize> {
        let expected = OK.repeat(self.lines.len());
        let mut answers = vec![0; expected.len()];
        let mut acknowledged = 0;
        let mut next = Instant::now();
        loop {
            if !period.is_zero() {
                tokio::time::sleep_until(next.into()).await;
                next += period;
            }
            self.stream.write_all(self.lines.next()).await?;
            self.stream.read_exact(&mut answers).await?;
            if answers != expected {
                return Err(unexpected(&answers));
            }
            acknowledged += self.lines.len();
            if Instant::now() >= end {
                return Ok(acknowledged);
            }
        }
    }
}

/// Puts what `next` returns over one connection, without waiting for answers, and returns once all puts are
/// acknowledged. It returns a text and the number of puts in it.
pub(crate) fn fill(
    addr: SocketAddr,
    mut next: impl FnMut(&mut Vec<u8>) -> Option<usize>,
) -> Outcome<Duration> {
    let stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    let start = Instant::now();
    let reader = stream.try_clone()?;
    let reading = thread::spawn(move || read_answers(reader));
    let (mut puts, mut block) = (0, Vec::new());
    while let Some(count) = next(&mut block) {
        puts += count;
        if block.len() >= BLOCK {
            (&stream).write_all(&block)?;
            block.clear();
        }
    }
    (&stream).write_all(&block)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let acknowledged = reading.join().expect("reading does not panic")?;
    if acknowledged != puts {
        return Err(format!("{acknowledged} of {puts} puts were acknowledged").into());
    }
    Ok(start.elapsed())
}

/// Puts a second of [`Lines`] after the other.
pub(crate) fn fill_lines(addr: SocketAddr, lines: &mut Lines, seconds: usize) -> Outcome<Duration> {
    let mut left = seconds;
    fill(addr, |block| {
        left = left.checked_sub(1)?;
        block.extend_from_slice(lines.next());
        Some(lines.len())
    })
}

/// Reads to the end, and returns how many puts were acknowledged.
fn read_answers(mut stream: TcpStream) -> io::Result<usize> {
    let mut block = vec![0; BLOCK];
    let mut read = 0;
    loop {
        let len = stream.read(&mut block)?;
        if len == 0 {
            return Ok(read / OK.len());
        }
        for (index, &byte) in block[..len].iter().enumerate() {
            if byte != OK[(read + index) % OK.len()] {
                return Err(unexpected(&block[index..len]));
            }
        }
        read += len;
    }
}

/// Gets everything, and returns how many bytes the answer has, and how long it took.
pub(crate) fn get_all(addr: SocketAddr) -> Outcome<(usize, Duration)> {
    get(addr, "*")
}

/// Gets what is selected, and returns how many bytes the answer has, and how long it took.
pub(crate) fn get(addr: SocketAddr, selector: &str) -> Outcome<(usize, Duration)> {
    let mut stream = TcpStream::connect(addr)?;
    let start = Instant::now();
    stream.write_all(format!("get {selector}\n").as_bytes())?;
    let mut block = vec![0; 4 * BLOCK];
    let (mut bytes, mut last) = (0, [0; 2]);
    loop {
        let len = stream.read(&mut block)?;
        match &block[..len] {
            [] => return Err("the answer is incomplete".into()),
            [.., one, other] => last = [*one, *other],
            [one] => last = [last[1], *one],
        }
        if bytes == 0 && !block.starts_with(b"ok\n") {
            return Err(unexpected(&block[..len]).into());
        }
        bytes += len;
        if last == *b"\n\n" {
            return Ok((bytes, start.elapsed()));
        }
    }
}

fn unexpected(answers: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(&answers[..answers.len().min(80)]);
    io::Error::other(format!("unexpected answer {text:?}"))
}

/// How much is written and read at once.
const BLOCK: usize = 64 * 1024;

/// A request, and the answer that is expected.
pub(crate) type Exchange = (Vec<u8>, Vec<u8>);

/// Lets writers, each over a connection of its own, send one request after the other. `is_good` says whether an answer is
/// as expected; `None` if it is not complete.
pub(crate) fn exchange_by_many(
    addr: SocketAddr,
    writers: Vec<Vec<Exchange>>,
    is_good: fn(&[u8], &[u8]) -> Option<bool>,
) -> Outcome {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for exchanges in writers {
            tasks.spawn(async move {
                let mut stream = tokio::net::TcpStream::connect(addr).await?;
                stream.set_nodelay(true)?;
                let mut answer = Vec::with_capacity(1024);
                for (request, expected) in exchanges {
                    stream.write_all(&request).await?;
                    answer.clear();
                    loop {
                        if stream.read_buf(&mut answer).await? == 0 {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                        match is_good(&answer, &expected) {
                            Some(true) => break,
                            Some(false) => return Err(unexpected(&answer)),
                            None => {}
                        }
                    }
                }
                Ok(())
            });
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        Ok(())
    })
}
