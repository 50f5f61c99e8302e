//! Programs that really send: collectd, carbon-c-relay, and the Python clients graphyte and graphitesend.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use metrics_client::{Metrics, Selector};
use metrics_server::{
    MemoryStore, Store,
    graphite::{GraphiteListener, GraphiteStatsHandle},
    store::Snapshot,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

/// A listener that serves until the end of the test.
struct Listener {
    addr: SocketAddr,
    store: Arc<MemoryStore>,
    stats: GraphiteStatsHandle,
}

impl Listener {
    async fn start() -> Self {
        let store = Arc::new(MemoryStore::new());
        let listener = GraphiteListener::bind("127.0.0.1:0").await.unwrap();
        let listener = listener.store(Arc::clone(&store));
        let (addr, stats) = (listener.local_addr(), listener.stats_handle());
        tokio::spawn(listener.serve());
        Self { addr, store, stats }
    }

    /// Waits for some points, and returns everything that is stored.
    async fn stored(&self, points: u64) -> Metrics {
        let arrived = async {
            while self.stats.stats().puts < points {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let arrived = timeout(Duration::from_secs(60), arrived).await;
        assert!(arrived.is_ok(), "{:?}", self.stats.stats());
        assert_eq!(self.stats.stats().invalid_lines, 0);
        self.store.get(&Selector::All).await.unwrap().into_metrics().await.unwrap()
    }
}

/// A program that is stopped at the end of the test.
struct ClientProgram(Child);

impl ClientProgram {
    /// Starts a program of a Debian package, or says that it is not installed.
    fn start(program: &str, args: &[&str]) -> Option<Self> {
        if !Path::new(program).exists() {
            println!("SKIPPED: {program} is not installed");
            return None;
        }
        let mut command = Command::new(program);
        command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
        Some(Self(command.spawn().unwrap()))
    }
}

impl Drop for ClientProgram {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[tokio::test]
#[ignore = "starts collectd"]
async fn collectd_sends() {
    let listener = Listener::start().await;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().display();
    let config = format!(
        "Hostname \"palm\"\nFQDNLookup false\nInterval 0.1\nBaseDir \"{folder}\"\n\
         PIDFile \"{folder}/pid\"\nLoadPlugin load\nLoadPlugin write_graphite\n\
         <Plugin write_graphite>\n<Node \"test\">\nHost \"127.0.0.1\"\nPort \"{}\"\n\
         Protocol \"tcp\"\n</Node>\n</Plugin>\n",
        listener.addr.port()
    );
    let path = dir.path().join("collectd.conf");
    std::fs::write(&path, config).unwrap();
    let Some(_program) =
        ClientProgram::start("/usr/sbin/collectd", &["-f", "-C", path.to_str().unwrap()])
    else {
        return;
    };
    let stored = listener.stored(10).await;
    for key in ["palm.load.load.shortterm", "palm.load.load.midterm", "palm.load.load.longterm"] {
        assert!(stored.get(key).is_some(), "{key}");
    }
}

#[tokio::test]
#[ignore = "starts carbon-c-relay"]
async fn carbon_c_relay_sends() {
    let listener = Listener::start().await;
    let dir = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let config = format!(
        "cluster here forward {} ;\nmatch * send to here ;\nlisten type linemode {free} proto tcp ;\n",
        listener.addr
    );
    let path = dir.path().join("relay.conf");
    std::fs::write(&path, config).unwrap();
    let args = ["-f", path.to_str().unwrap()];
    let Some(_program) = ClientProgram::start("/usr/bin/carbon-c-relay", &args) else { return };
    let connected = async {
        loop {
            match TcpStream::connect(free).await {
                Ok(io) => break io,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let mut io = timeout(Duration::from_secs(30), connected).await.unwrap();
    for second in 0..1000 {
        io.write_all(format!("palm.cpu {}.5 {}\n", second, 1_150_864_247 + second).as_bytes())
            .await
            .unwrap();
    }
    drop(io);
    let stored = listener.stored(1000).await;
    assert_eq!(stored.get("palm.cpu").map(<[_]>::len), Some(1000));
}

#[tokio::test]
#[ignore = "runs Python clients"]
async fn python_clients_send() {
    // The interpreter of an environment that has the clients.
    let python = std::env::var("METRICS_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let listener = Listener::start().await;
    let port = listener.addr.port();
    let scripts = [
        (
            "graphyte",
            format!(
                "import graphyte\nsender = graphyte.Sender('127.0.0.1', port={port}, prefix='palm')\n\
                 sender.send('cpu', 23.7, timestamp=5, tags={{'core': '0'}})\nsender.stop()\n\
                 sender = graphyte.Sender('127.0.0.1', port={port}, protocol='udp')\n\
                 sender.send('udp', 1, timestamp=6)\nsender.stop()\n"
            ),
            2,
        ),
        (
            "graphitesend",
            format!(
                "import graphitesend\nclient = graphitesend.init(graphite_server='127.0.0.1', \
                 graphite_port={port}, prefix='p', system_name='')\nclient.send('cpu', 23.7, 5)\n\
                 client.send_list([('mem', 1.5), ('disk', 2)], timestamp=5)\nclient.disconnect()\n"
            ),
            3,
        ),
    ];
    let mut expected = 0;
    for (module, script, points) in scripts {
        let run = |script: &str| Command::new(&python).args(["-c", script]).status().unwrap();
        if !run(&format!("import {module}")).success() {
            println!("SKIPPED: {python} has no {module}; set METRICS_TEST_PYTHON");
            continue;
        }
        assert!(run(&script).success());
        expected += points;
        let stored = listener.stored(expected).await;
        let keys: &[&str] = match module {
            "graphyte" => &["palm.cpu;core=0", "udp"],
            _ => &["p.cpu", "p.mem", "p.disk"],
        };
        for key in keys {
            assert!(stored.get(key).is_some(), "{key}");
        }
    }
}
