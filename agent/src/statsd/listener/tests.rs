//! Real sockets: datagrams that arrive, and those that do not.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use super::*;

fn start(settings: StatsdSettings) -> Statsd {
    Statsd::start(settings).unwrap()
}

fn udp_settings() -> StatsdSettings {
    StatsdSettings { udp: Some(([127, 0, 0, 1], 0).into()), ..StatsdSettings::default() }
}

/// Waits until this many packets were received.
fn wait_for(statsd: &Statsd, packets: u64) -> StatsdStats {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        let stats = statsd.stats();
        if stats.packets >= packets || Instant::now() > limit {
            return stats;
        }
        thread::yield_now();
    }
}

fn values(statsd: &Statsd) -> Vec<(String, f64)> {
    let aggregates = statsd.take();
    let mut values = aggregates.values().map(|(name, _, value)| (name, value)).collect::<Vec<_>>();
    values.sort_by(|one, other| one.0.cmp(&other.0));
    values
}

#[test]
fn udp_packets_of_several_lines_are_aggregated() {
    let statsd = start(udp_settings());
    let client = StdUdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(statsd.udp_addr().unwrap()).unwrap();
    client.send(b"a:1|c\nb:2|g\n").unwrap();
    client.send(b"a:2|c").unwrap();
    client.send(b"").unwrap();
    let stats = wait_for(&statsd, 3);
    assert_eq!((stats.lines, stats.invalid, stats.dropped), (3, 0, 0));
    assert_eq!(values(&statsd), [("a".into(), 3.0), ("b".into(), 2.0)]);
}

#[cfg(unix)]
#[test]
fn unix_socket_of_a_dead_process_is_replaced() {
    use std::os::unix::{fs::PermissionsExt, net::UnixDatagram};

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("statsd.sock");
    // Left by a process that was killed.
    drop(UnixDatagram::bind(&path).unwrap());
    let settings = StatsdSettings { unix: Some(path.clone()), ..StatsdSettings::default() };
    let statsd = start(settings.clone());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    let client = UnixDatagram::unbound().unwrap();
    client.connect(&path).unwrap();
    client.send(b"a:1|c").unwrap();
    wait_for(&statsd, 1);
    assert_eq!(values(&statsd), [("a".into(), 1.0)]);
    let error = Statsd::start(settings).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains("statsd.sock"), "{error}");
    drop(statsd);
    assert!(!path.exists());
}

#[cfg(unix)]
#[test]
fn truncated_datagram_loses_its_last_line_alone() {
    use std::os::unix::net::UnixDatagram;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("statsd.sock");
    let statsd = start(StatsdSettings { unix: Some(path.clone()), ..StatsdSettings::default() });
    let client = UnixDatagram::unbound().unwrap();
    client.connect(&path).unwrap();
    let packet = "a:1|c\n".repeat(BUFFER_BYTES / 6 + 10);
    client.send(packet.as_bytes()).unwrap();
    let stats = wait_for(&statsd, 1);
    assert_eq!((stats.truncated, stats.invalid, stats.lines), (1, 0, BUFFER_BYTES as u64 / 6));
}

#[cfg(target_os = "linux")]
#[test]
fn datagrams_that_the_system_drops_are_counted() {
    let statsd = start(StatsdSettings { receive_buffer: 1, ..udp_settings() });
    let client = StdUdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(statsd.udp_addr().unwrap()).unwrap();
    // The receiver waits for the lock.
    let aggregator = statsd.shared.aggregator();
    for _ in 0..1000 {
        client.send(b"a:1|c").unwrap();
    }
    drop(aggregator);
    let dropped = drops(statsd.udp.as_ref().unwrap()).unwrap();
    assert!((1..1000).contains(&dropped), "{dropped}");
    assert_eq!(wait_for(&statsd, 1000 - dropped).packets, 1000 - dropped);
}

#[test]
fn address_in_use_is_named() {
    let other = StdUdpSocket::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let settings = StatsdSettings { udp: Some(address), ..StatsdSettings::default() };
    let error = Statsd::start(settings).unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}
