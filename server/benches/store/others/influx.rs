//! InfluxDB 1.6, as Debian packages it, over its own protocol.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use metrics_client::{Key, Point};

use super::Database;
use crate::{Outcome, allocated_bytes_of, load};

const PROGRAM: &str = "influxd";

/// A running `influxd`; it ends when dropped.
pub(super) struct Influx {
    process: Child,
    addr: SocketAddr,
    connection: BufReader<TcpStream>,
    dir: PathBuf,
}

impl Influx {
    /// Starts it in a folder, on free ports of the loopback interface. Returns `None` if it is not
    /// installed.
    pub(super) fn start(dir: &Path) -> Outcome<Option<Self>> {
        let version = Command::new(PROGRAM).arg("version").stdout(Stdio::null()).status();
        if !version.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        fs::create_dir_all(dir)?;
        let [http, rpc] = [free_addr()?, free_addr()?];
        let config = dir.join("influxdb.conf");
        fs::write(&config, configuration(dir, http, rpc))?;
        let process = Command::new(PROGRAM)
            .arg("-config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        // From here on it ends when the connection cannot be made.
        let mut process = Ending(Some(process));
        let connection = connect(http)?;
        let process = process.0.take().expect("it was not taken");
        let mut influx = Self { process, addr: http, connection, dir: dir.into() };
        influx.query("CREATE DATABASE bench")?;
        Ok(Some(influx))
    }

    /// Sends a query, and returns how many points the answer has.
    fn query(&mut self, query: &str) -> Outcome<usize> {
        let query = query.replace(' ', "%20").replace('"', "%22").replace('=', "%3D");
        let request = format!(
            "POST /query?db=bench&epoch=s&chunked=true&q={query} HTTP/1.1\r\nHost: bench\r\n\
             Accept: application/csv\r\nContent-Length: 0\r\n\r\n"
        );
        self.connection.get_mut().write_all(request.as_bytes())?;
        read_answer(&mut self.connection)
    }
}

/// Ends a process when dropped.
struct Ending(Option<Child>);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(process) = &mut self.0 {
            // Nothing is left to do for a process that cannot be ended.
            process.kill().ok();
            process.wait().ok();
        }
    }
}

impl Drop for Influx {
    fn drop(&mut self) {
        // Nothing is left to do for a process that cannot be ended.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Synced before each answer, and otherwise the defaults; what is not written to is compacted soon, so
/// that the files settle.
fn configuration(dir: &Path, http: SocketAddr, rpc: SocketAddr) -> String {
    let dir = dir.display();
    format!(
        "reporting-disabled = true\n\
         bind-address = \"{rpc}\"\n\
         [meta]\n  dir = \"{dir}/meta\"\n\
         [data]\n  dir = \"{dir}/data\"\n  wal-dir = \"{dir}/wal\"\n  wal-fsync-delay = \"0s\"\n  \
         cache-snapshot-write-cold-duration = \"2s\"\n  compact-full-write-cold-duration = \"2s\"\n  \
         query-log-enabled = false\n\
         [http]\n  bind-address = \"{http}\"\n  log-enabled = false\n\
         [monitor]\n  store-enabled = false\n\
         [logging]\n  level = \"error\"\n"
    )
}

fn free_addr() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Connects as soon as the server listens.
fn connect(addr: SocketAddr) -> Outcome<BufReader<TcpStream>> {
    let start = Instant::now();
    loop {
        match TcpStream::connect(addr) {
            Ok(connection) => {
                connection.set_nodelay(true)?;
                return Ok(BufReader::with_capacity(256 * 1024, connection));
            }
            Err(error) if start.elapsed() > Duration::from_secs(30) => return Err(error.into()),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// A request of the write endpoint. A key is a tag of one measurement.
fn write_request(puts: &[(Key, Point)]) -> Vec<u8> {
    let mut lines = Vec::new();
    for (key, point) in puts {
        writeln!(lines, "points,key={key} value={} {}", point.value, point.timestamp)
            .expect("memory takes it");
    }
    let mut request = format!(
        "POST /write?db=bench&precision=s HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n\r\n",
        lines.len()
    )
    .into_bytes();
    request.append(&mut lines);
    request
}

/// Reads an answer, and returns how many points its body has: lines of CSV that begin with the name of the
/// measurement, and not with the names of the columns.
fn read_answer(connection: &mut BufReader<TcpStream>) -> Outcome<usize> {
    let mut line = String::new();
    connection.read_line(&mut line)?;
    let status = line.clone();
    let (mut length, mut is_chunked) = (0, false);
    loop {
        line.clear();
        connection.read_line(&mut line)?;
        let header = line.trim().to_ascii_lowercase();
        match header.split_once(": ") {
            Some(("content-length", value)) => length = value.parse()?,
            Some(("transfer-encoding", "chunked")) => is_chunked = true,
            Some(_) => {}
            None if header.is_empty() => break,
            None => return Err(format!("unexpected header {header:?}").into()),
        }
    }
    let (mut points, mut last) = (0, b'\n');
    loop {
        if is_chunked {
            line.clear();
            connection.read_line(&mut line)?;
            length = usize::from_str_radix(line.trim(), 16)?;
        }
        let is_last = length == 0;
        while length > 0 {
            let block = connection.fill_buf()?;
            if block.is_empty() {
                return Err("the answer is incomplete".into());
            }
            let len = block.len().min(length);
            for &byte in &block[..len] {
                points += usize::from(last == b'\n' && byte == b'p');
                last = byte;
            }
            connection.consume(len);
            length -= len;
        }
        if is_chunked {
            connection.read_exact(&mut [0; 2])?;
        }
        if is_last || !is_chunked {
            break;
        }
    }
    if status.starts_with("HTTP/1.1 20") {
        Ok(points)
    } else {
        Err(format!("InfluxDB answers {status}").into())
    }
}

impl Database for Influx {
    fn name(&self) -> &'static str {
        "InfluxDB"
    }

    fn put(&mut self, batch: &[(Key, Point)]) -> Outcome {
        self.connection.get_mut().write_all(&write_request(batch))?;
        read_answer(&mut self.connection).map(drop)
    }

    fn put_by_many(&mut self, batches: Vec<Vec<Vec<(Key, Point)>>>) -> Outcome {
        let writers = batches.into_iter().map(|batches| {
            batches.into_iter().map(|batch| (write_request(&batch), Vec::new())).collect()
        });
        // A successful write is answered with a head alone.
        load::exchange_by_many(self.addr, writers.collect(), |answer, _| {
            answer.ends_with(b"\r\n\r\n").then(|| answer.starts_with(b"HTTP/1.1 204"))
        })
    }

    fn settle(&mut self) -> Outcome<u64> {
        // The cache is written, and compacted, after two seconds without a write; both are looked for
        // each second or so.
        let (mut bytes, mut since) = (allocated_bytes_of(&self.dir)?, Instant::now());
        while since.elapsed() < SETTLED {
            thread::sleep(Duration::from_millis(200));
            // A file may have been removed.
            if let Ok(now) = allocated_bytes_of(&self.dir)
                && now != bytes
            {
                (bytes, since) = (now, Instant::now());
            }
        }
        Ok(bytes)
    }

    fn scan(&mut self) -> Outcome<usize> {
        self.query("SELECT value FROM points GROUP BY \"key\"")
    }

    fn get(&mut self, key: &Key) -> Outcome<usize> {
        self.query(&format!("SELECT value FROM points WHERE \"key\"='{key}'"))
    }
}

/// How long the files must not have changed.
const SETTLED: Duration = Duration::from_secs(8);
