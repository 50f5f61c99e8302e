//! What becomes of packets, interval by interval.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use super::*;

const INTERVAL: Duration = Duration::from_secs(10);

/// Returns each name with its tags, and its value.
fn taken(aggregator: &mut Aggregator, interval: u32) -> BTreeMap<String, f64> {
    let aggregates = aggregator.take(interval * INTERVAL);
    let named = |(name, tags, value): (String, &[(String, String)], f64)| {
        let tags = tags.iter().map(|(tag, value)| format!(" {tag}={value}")).collect::<String>();
        (name + &tags, value)
    };
    aggregates.values().map(named).collect()
}

fn aggregator() -> Aggregator {
    Aggregator::new(StatsdSettings::default())
}

fn map<const N: usize>(values: [(&str, f64); N]) -> BTreeMap<String, f64> {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[test]
fn counter_is_the_sum_of_its_interval() {
    let mut aggregator = aggregator();
    aggregator.receive(b"a:1|c\na:2|c\na:1|c|@0.1\nb:-1|c\n", Duration::ZERO);
    assert_eq!(taken(&mut aggregator, 1), map([("a", 13.0), ("b", -1.0)]));
    aggregator.receive(b"a:5:6|c", INTERVAL);
    assert_eq!(taken(&mut aggregator, 2), map([("a", 11.0)]));
    assert_eq!(taken(&mut aggregator, 3), map([]));
}

#[test]
fn gauge_is_set_changed_and_sent_again() {
    let mut aggregator = aggregator();
    aggregator.receive(b"a:10|g\na:-4|g\na:+1.5|g", Duration::ZERO);
    assert_eq!(taken(&mut aggregator, 1), map([("a", 7.5)]));
    assert_eq!(taken(&mut aggregator, 2), map([("a", 7.5)]));
    // How a client sets a negative value.
    aggregator.receive(b"a:0|g\na:-5|g", 2 * INTERVAL);
    assert_eq!(taken(&mut aggregator, 3), map([("a", -5.0)]));
    assert_eq!(taken(&mut aggregator, 361), map([("a", -5.0)]));
    assert_eq!(taken(&mut aggregator, 363), map([("a", -5.0)]));
    assert_eq!(taken(&mut aggregator, 364), map([]));
    assert_eq!(aggregator.stats().series, 0);
}

#[test]
fn timer_has_count_bounds_mean_and_percentiles() {
    let settings = StatsdSettings { percentiles: vec![50.0, 99.9], ..StatsdSettings::default() };
    let mut aggregator = Aggregator::new(settings);
    aggregator.receive(b"a:7|ms\na:7|h|@0.5\na:7|d", Duration::ZERO);
    let seven = [("a.min", 7.0), ("a.max", 7.0), ("a.mean", 7.0), ("a.p50", 7.0), ("a.p99_9", 7.0)];
    let mut expected = map(seven);
    expected.insert("a.count".into(), 4.0);
    assert_eq!(taken(&mut aggregator, 1), expected);
    assert_eq!(taken(&mut aggregator, 2), map([]));
}

#[test]
fn set_counts_different_members() {
    let mut aggregator = aggregator();
    aggregator.receive(b"users:a|s\nusers:b|s\nusers:a|s", Duration::ZERO);
    assert_eq!(taken(&mut aggregator, 1), map([("users", 2.0)]));
    aggregator.receive(b"users:a|s", INTERVAL);
    assert_eq!(taken(&mut aggregator, 2), map([("users", 1.0)]));
}

#[test]
fn tags_in_another_order_are_the_same_series() {
    let mut aggregator = aggregator();
    aggregator.receive(b"a:1|c|#x:1,y\na:1|c|#y:true,x:1\na:1|c|#x:2", Duration::ZERO);
    assert_eq!(taken(&mut aggregator, 1), map([("a x=1 y=true", 2.0), ("a x=2", 1.0)]));
}

#[test]
fn series_and_members_are_bounded_and_counted() {
    let settings =
        StatsdSettings { max_series: 3, max_set_members: 2, ..StatsdSettings::default() };
    let mut aggregator = Aggregator::new(settings);
    aggregator.receive(b"a:1|c\nb:1|c\nc:1|s\nd:1|c\na:1|c\nc:2|s\nc:3|s\nc:1|s", Duration::ZERO);
    let stats = aggregator.stats();
    assert_eq!((stats.lines, stats.refused, stats.refused_members, stats.series), (7, 1, 1, 3));
    assert_eq!(taken(&mut aggregator, 1), map([("a", 2.0), ("b", 1.0), ("c", 2.0)]));
    // Room for others, after some time.
    for interval in 2..=8 {
        assert_eq!(taken(&mut aggregator, interval), map([]));
    }
    aggregator.receive(b"d:1|c", 8 * INTERVAL);
    assert_eq!(taken(&mut aggregator, 9), map([("d", 1.0)]));
}

#[test]
fn spellings_are_bounded() {
    let settings = StatsdSettings { max_series: 2, ..StatsdSettings::default() };
    let mut aggregator = Aggregator::new(settings);
    for order in 0..100 {
        let tags = (0..order).map(|_| ",x:1").collect::<String>();
        aggregator.receive(format!("a:1|c|#x:1{tags}").as_bytes(), Duration::ZERO);
    }
    assert!(aggregator.spellings.len() <= 4, "{}", aggregator.spellings.len());
    assert_eq!(taken(&mut aggregator, 1), map([("a x=1", 100.0)]));
}

#[test]
fn name_of_two_types_keeps_the_first() {
    let mut aggregator = aggregator();
    aggregator.receive(b"a:1|c\na:5|g", Duration::ZERO);
    assert_eq!(aggregator.stats().refused, 1);
    assert_eq!(taken(&mut aggregator, 1), map([("a", 1.0)]));
    aggregator.receive(b"a:5|g", INTERVAL);
    assert_eq!(taken(&mut aggregator, 2), map([("a", 5.0)]));
}

#[test]
fn value_with_a_timestamp_is_passed_on() {
    let mut aggregator = aggregator();
    aggregator.receive(b"a:3|g|T1150864247|#x:1\nb:1|c|@0.5|T1150864248", Duration::ZERO);
    let aggregates = aggregator.take(INTERVAL);
    assert_eq!(aggregates.values().count(), 0);
    let passed = aggregates
        .timestamped()
        .map(|(name, tags, value, timestamp)| (name.to_owned(), tags.len(), value, timestamp));
    assert_eq!(
        passed.collect::<Vec<_>>(),
        [("a".into(), 1, 3.0, 1_150_864_247), ("b".into(), 0, 2.0, 1_150_864_248)]
    );
}

#[test]
fn invalid_lines_are_counted_and_the_first_is_told() {
    let mut aggregator = aggregator();
    let bad = aggregator.receive(b"a:1|c\nbad\nb:x|c\n_sc|x|0\nc:1|c", Duration::ZERO).unwrap();
    assert_eq!((bad.line, bad.reason), (&b"bad"[..], InvalidLine::Name));
    let stats = aggregator.stats();
    assert_eq!((stats.packets, stats.lines, stats.invalid, stats.skipped), (1, 2, 2, 1));
}

#[test]
fn names_lose_what_has_a_meaning_in_a_key() {
    let mut aggregator = aggregator();
    let long = format!("{}:1|c", "n".repeat(900));
    aggregator.receive(format!("a b;c*\u{7}d:1|c\n{long}").as_bytes(), Duration::ZERO);
    assert_eq!(taken(&mut aggregator, 1), map([("a_b_c__d", 1.0)]));
    assert_eq!(aggregator.stats().refused, 1);
}

#[test]
fn sum_beyond_all_numbers_stays_a_number() {
    let mut aggregator = aggregator();
    aggregator.receive(b"a:1e308|c|@0.0001\nb:1e308|g\nb:+1e308|g\nb:+1e308|g", Duration::ZERO);
    assert_eq!(taken(&mut aggregator, 1), map([("a", f64::MAX), ("b", f64::MAX)]));
}
