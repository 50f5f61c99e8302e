//! Clients of others: what they send is what the server has.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use metrics_agent::{
    Agent, AgentSettings, Filter, Host, KeyStyle, Names, Schedule, Statsd, StatsdSettings,
};
use metrics_client::{MetricsClient, Reporter};
use metrics_server::Server;

/// Runs a script for which `PORT` and `SOCKET` say where the agent listens. Returns the latest values, or `None` if the
/// interpreter has no such module.
async fn reported(module: &str, script: &str) -> Option<BTreeMap<String, f64>> {
    // The interpreter of an environment that has the clients.
    let python = std::env::var("METRICS_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let has_module = Command::new(&python).args(["-c", &format!("import {module}")]).output();
    if !has_module.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: {python} has no {module}; set METRICS_TEST_PYTHON");
        return None;
    }
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr();
    tokio::spawn(server.serve_until(std::future::pending::<()>()));
    let client = MetricsClient::connect(address).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("statsd.sock");
    let statsd = Statsd::start(StatsdSettings {
        udp: Some(([127, 0, 0, 1], 0).into()),
        unix: Some(socket.clone()),
        ..StatsdSettings::default()
    });
    let statsd = statsd.unwrap();
    let port = statsd.udp_addr().unwrap().port();
    let settings = AgentSettings {
        schedule: Schedule::new(Duration::from_secs(600), Duration::ZERO),
        names: Names::new("palm", KeyStyle::Dotted, [], Filter::default()).unwrap(),
    };
    let clock = Arc::new(|| -> SystemTime { UNIX_EPOCH + Duration::from_secs(1000) });
    let reporter = Reporter::new(client.clone());
    let mut agent = Agent::new(settings, reporter, clock, Host::new);
    agent.set_statsd(Some(statsd));
    let status = Command::new(&python)
        .args(["-c", script])
        .env("PORT", port.to_string())
        .env("SOCKET", &socket)
        .env("DD_TELEMETRY_ENABLED", "false")
        .status();
    assert!(status.unwrap().success());
    let stats = agent.statsd().unwrap().stats();
    assert_eq!((stats.invalid, stats.refused, stats.dropped), (0, 0, 0), "{stats:?}");
    agent.set_statsd(None);
    agent.reporter().flush(Duration::from_secs(30)).await.unwrap();
    let metrics = client.get_all().await.unwrap();
    let values = metrics.iter().map(|(key, points)| (key.as_str().to_owned(), points[0].value));
    Some(values.collect())
}

fn assert_values(reported: &BTreeMap<String, f64>, expected: &[(&str, f64)]) {
    for (key, value) in expected {
        assert_eq!(reported.get(*key), Some(value), "{key} of {reported:?}");
    }
}

#[tokio::test]
#[ignore = "runs a Python client"]
async fn client_of_statsd_reports() {
    let script = "
import os, statsd
client = statsd.StatsClient('127.0.0.1', int(os.environ['PORT']), prefix='web')
for _ in range(5):
    client.incr('requests')
client.decr('requests', 2)
client.gauge('open', 10)
client.gauge('open', -4, delta=True)
client.gauge('temperature', -5)
client.timing('time', 320)
client.set('users', 'ann')
client.set('users', 'bob')
client.set('users', 'ann')
with client.pipeline() as pipe:
    pipe.incr('piped')
    pipe.incr('piped', 9)
    pipe.timing('time', 80)
";
    let Some(reported) = reported("statsd", script).await else { return };
    assert_values(
        &reported,
        &[
            ("palm.web.requests", 3.0),
            ("palm.web.open", 6.0),
            ("palm.web.temperature", -5.0),
            ("palm.web.time.count", 2.0),
            ("palm.web.time.min", 80.0),
            ("palm.web.time.max", 320.0),
            ("palm.web.time.mean", 200.0),
            ("palm.web.users", 2.0),
            ("palm.web.piped", 10.0),
        ],
    );
}

#[tokio::test]
#[ignore = "runs a Python client"]
async fn client_of_dogstatsd_reports() {
    let script = "
import os
from datadog.dogstatsd import DogStatsd
for client in [
    DogStatsd(host='127.0.0.1', port=int(os.environ['PORT']), constant_tags=['env:prod'], disable_telemetry=True),
    DogStatsd(socket_path=os.environ['SOCKET'], constant_tags=['env:prod'], disable_telemetry=True),
]:
    client.increment('requests', tags=['method:GET'])
    client.increment('requests', 2, tags=['method:GET'])
    client.gauge('open', 7.5)
    client.histogram('size', 100)
    client.distribution('size', 300)
    client.timing('time', 20)
    client.set('users', 'ann')
    client.event('title', 'a text\\nof two lines')
    client.service_check('check', 0)
    client.gauge_with_timestamp('past', 3, 1150864247)
    client.flush()
    client.close_socket()
";
    let Some(reported) = reported("datadog", script).await else { return };
    assert_values(
        &reported,
        &[
            ("palm.requests;env=prod;method=GET", 6.0),
            ("palm.open;env=prod", 7.5),
            ("palm.size.count;env=prod", 4.0),
            ("palm.size.min;env=prod", 100.0),
            ("palm.size.mean;env=prod", 200.0),
            ("palm.time.max;env=prod", 20.0),
            ("palm.users;env=prod", 1.0),
            ("palm.past;env=prod", 3.0),
        ],
    );
}
