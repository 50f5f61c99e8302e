//! ClickHouse servers that the tests start: Debian's package, alone or as a cluster with ZooKeeper, and a modern engine
//! in a Python process. All listen on loopback, and end with the test.

use std::{
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A process that ends with the test.
pub(super) struct Process {
    child: Child,
}

impl Process {
    fn start(command: &mut Command, log: &Path) -> Self {
        let file = |name: &str| File::create(log.with_extension(name)).unwrap();
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        Self { child: command.spawn().unwrap() }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns free ports of 127.0.0.1. ClickHouse takes no other loopback address for its own.
fn free_ports(count: usize) -> Vec<u16> {
    let listen = |_| std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // All are open at once, so that they differ.
    let listeners: Vec<_> = (0..count).map(listen).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// A node of Debian's ClickHouse.
pub(super) struct Node {
    /// `host:port` of HTTP.
    pub(super) host: String,
    dir: PathBuf,
    process: Option<Process>,
}

impl Node {
    /// Starts the node, and waits until it answers.
    pub(super) async fn start(&mut self) {
        let config = self.dir.join("config.xml");
        let log = self.dir.join("log");
        let mut command = Command::new(SERVER);
        command.arg(format!("--config-file={}", config.display()));
        self.process = Some(Process::start(&mut command, &log));
        self.wait().await;
    }

    async fn wait(&mut self) {
        let begin = Instant::now();
        while self.get("/ping", "").await.is_none_or(|(status, _)| status != 200) {
            let running = self.process.as_mut().unwrap().child.try_wait().unwrap().is_none();
            assert!(running && begin.elapsed() < Duration::from_secs(30), "{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log.err")).unwrap_or_default()
    }

    /// Kills the node.
    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    /// Carries a statement out, and returns its answer.
    pub(super) async fn query(&self, statement: &str) -> String {
        let (status, answer) = self.get("/", statement).await.unwrap();
        assert_eq!(status, 200, "{statement}: {answer}");
        answer
    }

    async fn get(&self, path: &str, body: &str) -> Option<(u16, String)> {
        http(&self.host, path, body).await
    }
}

pub(super) async fn http(host: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut io = TcpStream::connect(host).await.ok()?;
    let (len, method) = (body.len(), if body.is_empty() { "GET" } else { "POST" });
    let request = format!("{method} {path} HTTP/1.0\r\nContent-Length: {len}\r\n\r\n{body}");
    io.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

const SERVER: &str = "/usr/sbin/clickhouse-server";

/// Debian's ClickHouse: one node, or shards of replicas.
pub(super) struct Debian {
    pub(super) nodes: Vec<Node>,
    _zookeeper: Option<Process>,
    _dir: tempfile::TempDir,
}

impl Debian {
    /// Starts a single node. `None` if ClickHouse is not installed, which is printed.
    pub(super) async fn single() -> Option<Self> {
        Self::start(1, 1).await
    }

    /// Starts a cluster `main` of two shards with two replicas, and ZooKeeper: nodes 0 and 1 are the first shard.
    /// `None` if one of them is not installed, which is printed.
    pub(super) async fn cluster() -> Option<Self> {
        Self::start(2, 2).await
    }

    async fn start(shards: usize, replicas: usize) -> Option<Self> {
        if !Path::new(SERVER).exists() {
            println!("SKIPPED: ClickHouse is not installed: `apt-get install clickhouse-server`");
            return None;
        }
        let is_cluster = shards * replicas > 1;
        if is_cluster && !Path::new(ZOOKEEPER).exists() {
            println!("SKIPPED: ZooKeeper is not installed: `apt-get install zookeeper`");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let count = shards * replicas;
        // For each node HTTP, TCP, and the replicas; and ZooKeeper.
        let mut ports = free_ports(3 * count + 1);
        let zookeeper_port = ports.pop().unwrap();
        let zookeeper = is_cluster.then(|| zookeeper(dir.path(), zookeeper_port));
        let nodes = (0..count).map(|index| {
            let dir = dir.path().join(format!("node{index}"));
            fs::create_dir(&dir).unwrap();
            let mut config = node_config(&dir, &ports[3 * index..]);
            if is_cluster {
                config += &cluster_config(index, (shards, replicas), &ports, zookeeper_port);
            }
            fs::write(dir.join("config.xml"), format!("<yandex>{config}</yandex>")).unwrap();
            fs::write(dir.join("users.xml"), USERS).unwrap();
            Node { host: format!("127.0.0.1:{}", ports[3 * index]), dir, process: None }
        });
        let mut nodes: Vec<_> = nodes.collect();
        if is_cluster {
            let begin = Instant::now();
            while TcpStream::connect(("127.0.0.1", zookeeper_port)).await.is_err() {
                assert!(begin.elapsed() < Duration::from_secs(60), "ZooKeeper does not start");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        for node in &mut nodes {
            node.start().await;
        }
        Some(Self { nodes, _zookeeper: zookeeper, _dir: dir })
    }

    /// The hosts of a URL.
    pub(super) fn hosts(&self) -> String {
        let hosts: Vec<_> = self.nodes.iter().map(|node| &*node.host).collect();
        hosts.join(",")
    }
}

/// The script of Debian's package.
const ZOOKEEPER: &str = "/usr/share/zookeeper/bin/zkServer.sh";

fn zookeeper(dir: &Path, port: u16) -> Process {
    let dir = dir.join("zookeeper");
    fs::create_dir(&dir).unwrap();
    let config = format!(
        "tickTime=500\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\n\
         admin.enableServer=false\nmaxClientCnxns=0\n",
        dir.display()
    );
    fs::write(dir.join("zoo.cfg"), config).unwrap();
    let mut command = Command::new(ZOOKEEPER);
    command.arg("start-foreground").arg(dir.join("zoo.cfg"));
    command.env("ZOO_LOG_DIR", &dir).env("JVMFLAGS", "-Xmx128m").env("ZOOCFGDIR", &dir);
    Process::start(&mut command, &dir.join("log"))
}

fn node_config(dir: &Path, ports: &[u16]) -> String {
    let dir = dir.display();
    format!(
        "<logger><level>warning</level><console>1</console></logger><http_port>{}</http_port>\
         <tcp_port>{}</tcp_port><interserver_http_port>{}</interserver_http_port>\
         <interserver_http_host>127.0.0.1</interserver_http_host><listen_host>127.0.0.1</listen_host>\
         <path>{dir}/data/</path><tmp_path>{dir}/tmp/</tmp_path><users_config>users.xml</users_config>\
         <default_profile>default</default_profile><default_database>default</default_database>\
         <mark_cache_size>67108864</mark_cache_size>",
        ports[0], ports[1], ports[2]
    )
}

fn cluster_config(
    index: usize,
    (shards, replicas): (usize, usize),
    ports: &[u16],
    zookeeper: u16,
) -> String {
    let mut config = format!(
        "<zookeeper><node><host>127.0.0.1</host><port>{zookeeper}</port></node>\
         <session_timeout_ms>4000</session_timeout_ms></zookeeper>\
         <macros><shard>{}</shard><replica>r{index}</replica></macros>\
         <distributed_ddl><path>/clickhouse/task_queue/ddl</path></distributed_ddl>\
         <remote_servers><main>",
        index / replicas
    );
    for shard in 0..shards {
        config.push_str("<shard><internal_replication>true</internal_replication>");
        for replica in 0..replicas {
            let port = ports[3 * (shard * replicas + replica) + 1];
            write!(config, "<replica><host>127.0.0.1</host><port>{port}</port></replica>").unwrap();
        }
        config.push_str("</shard>");
    }
    config + "</main></remote_servers>"
}

/// A user without and one with a password.
const USERS: &str = "<yandex><profiles><default><max_memory_usage>4000000000</max_memory_usage></default>\
    <readonly><readonly>1</readonly></readonly></profiles>\
    <users><default><password></password><networks><ip>127.0.0.0/8</ip></networks>\
    <profile>default</profile><quota>default</quota></default>\
    <writer><password>s3 cret:@</password><networks><ip>127.0.0.0/8</ip></networks>\
    <profile>default</profile><quota>default</quota></writer>\
    <reader><password></password><networks><ip>127.0.0.0/8</ip></networks>\
    <profile>readonly</profile><quota>default</quota></reader></users>\
    <quotas><default></default></quotas></yandex>";

/// A modern ClickHouse in a Python process: the package `chdb-core-lite`.
pub(super) struct Modern {
    pub(super) host: String,
    _process: Process,
    _dir: tempfile::TempDir,
}

impl Modern {
    /// Starts it. `None` if the Python that `METRICS_TEST_CHDB_PYTHON` names has no such package, which is printed.
    pub(super) async fn start() -> Option<Self> {
        let python = std::env::var_os("METRICS_TEST_CHDB_PYTHON").unwrap_or("python3".into());
        let has_package = Command::new(&python)
            .args(["-c", "import chdb.session"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !has_package {
            println!(
                "SKIPPED: chdb is not installed: `pip install chdb-core-lite`, in a virtual environment whose python is \
                 METRICS_TEST_CHDB_PYTHON"
            );
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/clickhouse/chdb_http.py");
        let host = format!("127.0.0.1:{}", free_ports(1)[0]);
        let mut command = Command::new(&python);
        command.arg(script).arg(&host).arg(dir.path().join("data"));
        let process = Process::start(&mut command, &dir.path().join("log"));
        let begin = Instant::now();
        while http(&host, "/ping", "").await.is_none_or(|(status, _)| status != 200) {
            let log = fs::read_to_string(dir.path().join("log.err")).unwrap_or_default();
            assert!(begin.elapsed() < Duration::from_secs(60), "{log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(Self { host, _process: process, _dir: dir })
    }
}
