//! A server in a process of its own: the bench program starts itself once more.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    thread,
};

use metrics_server::{
    Server,
    store::{ClickHouseOptions, ClickHouseStore},
};
use tokio::sync::oneshot;

use crate::Outcome;

/// The environment variable that makes the bench program a server: the URL of its store.
const STORE: &str = "METRICS_BENCH_CLICKHOUSE";

/// A running server; it ends when it is dropped.
pub(crate) struct ServerProcess {
    process: Child,
    pub(crate) addr: SocketAddr,
}

impl ServerProcess {
    pub(crate) fn start(url: &str) -> Outcome<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.env(STORE, url).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let stdout = process.stdout.take().ok_or("the output of a server is missing")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        Ok(Self { addr: line.trim().parse()?, process })
    }

    /// Returns the most memory that the process ever had.
    pub(crate) fn peak_bytes(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"));
        let kib = peak.and_then(|kib| kib.trim().parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no VmHWM"))
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Serves until standard input ends, if this process was started for it, and says whether it was.
pub(crate) fn serve_if_asked() -> Outcome<bool> {
    let Ok(url) = env::var(STORE) else { return Ok(false) };
    let options: ClickHouseOptions = url.parse()?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let store = ClickHouseStore::open(options).await?;
        let server = Server::bind("127.0.0.1:0").await?.store(store);
        println!("{}", server.local_addr());
        let (stop, stopped) = oneshot::channel::<()>();
        thread::spawn(move || {
            // Ends with the bench program, also when that is killed.
            let _ = io::stdin().read_to_end(&mut Vec::new());
            drop(stop);
        });
        server
            .serve_until(async {
                let _ = stopped.await;
            })
            .await;
        Ok(true)
    })
}
