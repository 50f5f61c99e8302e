//! A node of Debian's ClickHouse on loopback.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::Outcome;

pub(crate) const SERVER: &str = "/usr/sbin/clickhouse-server";

/// A running node; it is killed when dropped.
pub(crate) struct Node {
    process: Child,
    http_port: u16,
    pub(crate) tcp_port: u16,
    _dir: tempfile::TempDir,
}

impl Node {
    /// Starts a node with an empty database, and waits until it answers.
    pub(crate) fn start() -> Outcome<Self> {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let listeners = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let [http_port, tcp_port] = [&listeners[0], &listeners[1]]
            .map(|listener| listener.local_addr().map_or(0, |addr| addr.port()));
        drop(listeners);
        let path = dir.path().display();
        let config = format!(
            "<yandex><logger><level>error</level><console>1</console></logger>\
             <http_port>{http_port}</http_port><tcp_port>{tcp_port}</tcp_port>\
             <listen_host>127.0.0.1</listen_host><path>{path}/data/</path><tmp_path>{path}/tmp/</tmp_path>\
             <users_config>users.xml</users_config><default_profile>default</default_profile>\
             <default_database>default</default_database><mark_cache_size>67108864</mark_cache_size></yandex>"
        );
        fs::write(dir.path().join("config.xml"), config)?;
        fs::write(dir.path().join("users.xml"), USERS)?;
        let process = Command::new(SERVER)
            .arg(format!("--config-file={}", dir.path().join("config.xml").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("log"))?)
            .spawn()?;
        let node = Self { process, http_port, tcp_port, _dir: dir };
        let begin = Instant::now();
        while !node.answers() {
            if begin.elapsed() > Duration::from_secs(60) {
                return Err("ClickHouse does not start".into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(node)
    }

    fn answers(&self) -> bool {
        let Ok(mut io) = TcpStream::connect(("127.0.0.1", self.http_port)) else { return false };
        let mut answer = Vec::new();
        let asked = io.write_all(b"GET /ping HTTP/1.0\r\n\r\n");
        asked.and_then(|()| io.read_to_end(&mut answer)).is_ok() && answer.ends_with(b"Ok.\n")
    }

    pub(crate) fn url(&self) -> String {
        format!("clickhouse://127.0.0.1:{}/default", self.http_port)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A process that has ended needs no more.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const USERS: &str = "<yandex><profiles><default><max_memory_usage>8000000000</max_memory_usage></default></profiles>\
    <users><default><password></password><networks><ip>127.0.0.1</ip></networks><profile>default</profile>\
    <quota>default</quota></default></users><quotas><default></default></quotas></yandex>";
