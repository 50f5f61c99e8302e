//! graphite-web, as Debian packages it, on loopback.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::Outcome;

/// A running graphite-web; it ends when dropped.
pub(super) struct GraphiteWeb {
    process: Child,
    addr: SocketAddr,
}

impl GraphiteWeb {
    /// Starts it with series, given as JSON for the script that the tests use too. `None` if it is not installed.
    pub(super) fn start(dir: &Path, series: &str) -> Outcome<Option<Self>> {
        if !Path::new("/usr/lib/python3/dist-packages/graphite/render/functions.py").exists() {
            return Ok(None);
        }
        fs::write(dir.join("series.json"), series)?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/graphite/reference.py");
        let mut process = Command::new("/usr/bin/python3")
            .args([Path::new(script), dir])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(dir.join("log"))?)
            .spawn()?;
        let stdout = process.stdout.take().expect("it is piped");
        let mut running = Self { process, addr: (Ipv4Addr::LOCALHOST, 0).into() };
        let mut port = String::new();
        BufReader::new(stdout).read_line(&mut port)?;
        match port.trim().parse() {
            Ok(port) => running.addr.set_port(port),
            Err(_) => return Err(fs::read_to_string(dir.join("log"))?.into()),
        }
        Ok(Some(running))
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for GraphiteWeb {
    fn drop(&mut self) {
        // Nothing is left to do for a process that cannot be ended.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
