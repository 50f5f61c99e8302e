//! Puts and gets from raw sockets.

use std::{
    fmt::Write as _,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

const OK: &[u8] = b"ok\n\n";
const FIRST_SECOND: i64 = 1_150_864_247;

/// Connections that each wait for the answers to some puts before they send the next.
pub(crate) struct Connections(Vec<Connection>);

struct Connection {
    io: TcpStream,
    /// The number of the first key.
    first: usize,
    puts: usize,
}

impl Connections {
    /// Opens connections, each with `puts` keys of its own from the number `first` on.
    pub(crate) fn open(
        addr: SocketAddr,
        first: usize,
        count: usize,
        puts: usize,
    ) -> io::Result<Self> {
        let open = |index| {
            let io = TcpStream::connect(addr)?;
            io.set_nodelay(true)?;
            Ok(Connection { io, first: first + index * puts, puts })
        };
        (0..count).map(open).collect::<io::Result<_>>().map(Self)
    }

    /// Puts until a moment. Returns how many puts were acknowledged.
    pub(crate) fn put_until(mut self, end: Instant) -> io::Result<usize> {
        let mut acknowledged = 0;
        let mut second = FIRST_SECOND;
        while Instant::now() < end {
            acknowledged += self.put(second)?;
            second += 1;
        }
        Ok(acknowledged)
    }

    /// Puts all keys this many times.
    pub(crate) fn put_times(mut self, times: usize) -> io::Result<()> {
        (FIRST_SECOND..).take(times).try_for_each(|second| self.put(second).map(drop))
    }

    /// Puts all keys once: all connections send before the first one is read.
    fn put(&mut self, second: i64) -> io::Result<usize> {
        for connection in &mut self.0 {
            connection.io.write_all(lines(connection.first, connection.puts, second).as_bytes())?;
        }
        let mut acknowledged = 0;
        for connection in &mut self.0 {
            let mut answers = vec![0; OK.len() * connection.puts];
            connection.io.read_exact(&mut answers)?;
            if answers.chunks(OK.len()).any(|answer| answer != OK) {
                return Err(io::Error::other("a put was rejected"));
            }
            acknowledged += connection.puts;
        }
        Ok(acknowledged)
    }
}

fn lines(first: usize, puts: usize, second: i64) -> String {
    let mut lines = String::with_capacity(puts * 48);
    for key in first..first + puts {
        let value = (key as i64 * 37 + second / 4) % 7_900 + 1_000;
        // Writing to memory does not fail.
        let _ = writeln!(
            lines,
            "put rack{key:05}.cpu.user {}.{:02} {second}",
            value / 100,
            value % 100
        );
    }
    lines
}

/// Reads all points, and returns how many there are.
pub(crate) fn get_all(addr: SocketAddr) -> io::Result<usize> {
    let mut io = TcpStream::connect(addr)?;
    io.write_all(b"get *\n")?;
    let (mut buffer, mut lines, mut last) = (vec![0; 1 << 18], 0, [0, 0]);
    loop {
        let read = io.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        lines += buffer[..read].iter().filter(|&&byte| byte == b'\n').count();
        last = if read > 1 { [buffer[read - 2], buffer[read - 1]] } else { [last[1], buffer[0]] };
        if last == *b"\n\n" {
            // `ok`, and the empty line at the end.
            return Ok(lines - 2);
        }
    }
}

/// Sends puts without a pause, and connects again when the server closes the connection, until a moment.
pub(crate) fn press(addr: SocketAddr, index: usize, end: Instant) {
    let lines = lines(index * 1_000, 1_000, FIRST_SECOND);
    let mut answers = vec![0; 1 << 16];
    while Instant::now() < end {
        let Ok(mut io) = TcpStream::connect(addr) else { continue };
        // The server reads no further while puts wait.
        let limit = Some(Duration::from_millis(500));
        if io.set_write_timeout(limit).and_then(|()| io.set_read_timeout(limit)).is_err() {
            continue;
        }
        while Instant::now() < end {
            // What the server does not read now it reads from a next connection.
            if io.write_all(lines.as_bytes()).is_err() || matches!(io.read(&mut answers), Ok(0)) {
                break;
            }
        }
    }
}
