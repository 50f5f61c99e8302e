//! Many agents in one process against one server with a store on disk, and all of them restarted at once.
//!
//! A short form by default. The long one, an hour of a thousand agents:
//!
//!     METRICS_TEST_FLEET_AGENTS=1000 METRICS_TEST_FLEET_SECONDS=3600 METRICS_TEST_FLEET_INTERVAL=10 \
//!         cargo test --release -p metrics-agent --test it fleet -- --ignored --nocapture
//!
//! `METRICS_TEST_FLEET_SERVER` names a server to use, such as a `metrics serve --data DIR`.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use metrics_agent::{Agent, AgentSettings, Filter, Host, KeyStyle, Names, Schedule};
use metrics_client::{MetricsClient, Reporter, client::TcpConnector};
use metrics_server::{Server, store::DiskStore};
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time,
};

/// Returns what a variable says, or a default.
fn variable<T: FromStr>(name: &str, default: T) -> T {
    let value = std::env::var(format!("METRICS_TEST_FLEET_{name}"));
    value.map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}: {value}")))
}

/// The files of this host that an agent reads, as they are now.
fn copied_proc() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in [
        "stat",
        "loadavg",
        "meminfo",
        "vmstat",
        "uptime",
        "diskstats",
        "net/dev",
        "self/statm",
        "self/mountinfo",
    ] {
        let to = dir.path().join(file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, fs::read(Path::new("/proc").join(file)).unwrap()).unwrap();
    }
    dir
}

/// What an agent has sent.
struct Sent {
    recorded: u64,
    acknowledged: u64,
}

/// Runs agents until `stop` is true. Each sends a message when its first samples are acknowledged.
fn start_agents(
    agents: usize,
    interval: Duration,
    address: &str,
    proc: &Path,
    stop: &watch::Receiver<bool>,
) -> (JoinSet<Sent>, mpsc::UnboundedReceiver<()>) {
    let (served, first_served) = mpsc::unbounded_channel();
    let mut running = JoinSet::new();
    for agent in 0..agents {
        let (address, proc) = (address.to_owned(), proc.to_owned());
        let (served, mut stop) = (served.clone(), stop.clone());
        running.spawn(async move {
            let [.., high, low] = u32::try_from(agent).unwrap().to_be_bytes();
            // Each as if it were a host of its own.
            let connector = TcpConnector::default()
                .local_address(std::net::IpAddr::V4(Ipv4Addr::new(127, 1, high, low)));
            let client =
                MetricsClient::builder(address).connector(connector).connect_lazy().unwrap();
            let names =
                Names::new(&format!("host{agent}"), KeyStyle::Dotted, [], Filter::default());
            let settings = AgentSettings {
                schedule: Schedule::with_jitter(interval, interval / 10),
                names: names.unwrap(),
            };
            let reporter = Reporter::builder(client).capacity(20_000).start();
            let new_host = move || Host::with_roots(&proc, proc.join("no-sys"));
            let mut agent =
                Agent::new(settings, reporter.clone(), Arc::new(SystemTime::now), new_host);
            let is_served = async {
                while reporter.stats().acknowledged == 0 {
                    time::sleep(Duration::from_millis(50)).await;
                }
                // The test may have seen enough.
                let _ = served.send(());
                std::future::pending::<()>().await;
            };
            tokio::select! {
                never = agent.run() => match never {},
                () = is_served => {}
                _ = stop.wait_for(|is_stopped| *is_stopped) => {}
            }
            // What is not sent by then is lost.
            let _ = reporter.close(Duration::from_secs(30)).await;
            let stats = reporter.stats();
            Sent { recorded: stats.recorded, acknowledged: stats.acknowledged }
        });
    }
    (running, first_served)
}

/// Waits until all agents are served. Returns how long that took.
async fn all_served(agents: usize, served: &mut mpsc::UnboundedReceiver<()>) -> Duration {
    let begin = Instant::now();
    for _ in 0..agents {
        served.recv().await.unwrap();
    }
    begin.elapsed()
}

/// Waits until `wanted` points of each agent's uptime are stored.
async fn wait_for_points(agents: usize, wanted: usize, address: &str) {
    let client = MetricsClient::connect(address).await.unwrap();
    for agent in 0..agents {
        let key = format!("host{agent}.uptime");
        while client.get(&*key).await.unwrap().points(&*key).len() < wanted {
            time::sleep(Duration::from_millis(200)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs for a time"]
async fn fleet_loses_nothing_and_is_served_after_a_restart() {
    let agents = variable("AGENTS", 200);
    let seconds = variable("SECONDS", 8);
    let interval = Duration::from_secs(variable("INTERVAL", 2));
    let data = tempfile::tempdir().unwrap();
    let address = match std::env::var("METRICS_TEST_FLEET_SERVER") {
        Ok(address) => address,
        Err(_) => {
            let store = Arc::new(DiskStore::open(data.path()).await.unwrap());
            let server = Server::bind("127.0.0.1:0").await.unwrap().store(store);
            let address = server.local_addr().to_string();
            tokio::spawn(server.serve_until(std::future::pending::<()>()));
            address
        }
    };
    let proc = copied_proc();
    let step = i64::try_from(interval.as_secs()).unwrap();
    let rounds = seconds as usize / step as usize;
    for wanted in [rounds, 0] {
        let (stop, stopped) = watch::channel(false);
        let (mut running, mut served) =
            start_agents(agents, interval, &address, proc.path(), &stopped);
        let took = all_served(agents, &mut served).await;
        println!("{agents} agents started at once, all served after {took:.1?}");
        wait_for_points(agents, wanted, &address).await;
        stop.send_replace(true);
        let (mut recorded, mut acknowledged) = (0, 0);
        while let Some(sent) = running.join_next().await {
            let sent = sent.unwrap();
            recorded += sent.recorded;
            acknowledged += sent.acknowledged;
        }
        println!("{recorded} samples recorded, {acknowledged} acknowledged");
        assert_eq!(recorded, acknowledged);
    }
    let client = MetricsClient::connect(&*address).await.unwrap();
    let mut points = 0;
    for agent in 0..agents {
        let key = format!("host{agent}.uptime");
        let metrics = client.get(&*key).await.unwrap();
        let seconds = metrics.points(&*key).iter().map(|point| point.timestamp).collect::<Vec<_>>();
        points += seconds.len();
        assert!(seconds.iter().all(|second| second % step == 0), "{key}: {seconds:?}");
        // Between the two runs some seconds have none.
        let gaps = seconds.windows(2).filter(|pair| pair[1] - pair[0] != step).count();
        assert!(gaps <= 1, "{key}: {seconds:?}");
    }
    println!("{points} points of uptime are stored");
    assert!(points >= agents * rounds, "{points}");
}
