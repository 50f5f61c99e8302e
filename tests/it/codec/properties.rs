//! The codecs, over generated values: what is sent is what is received, however the bytes are cut.

use std::collections::BTreeMap;

use bytes::BytesMut;
use metrics_client::{
    Key, Metrics, Point, Sample, Selector,
    codec::{ClientCodec, CodecError, Request, Response, ServerCodec},
};
use proptest::{collection::vec, prelude::*, sample::Index};
use tokio_util::codec::Encoder;

use crate::fuzz::codec::{self, decode, pieces};

proptest! {
    #[test]
    fn request_is_received_as_it_was_sent(request in any_request(), cuts in any_cuts()) {
        let wire = encoded(ClientCodec::default(), &request);
        prop_assert_eq!(&wire, &format!("{request}\n"));
        let received = decode(ServerCodec::default(), pieces(&cuts, &wire));
        prop_assert_eq!(format!("{:?}", received.items), format!("[Ok({request:?})]"));
        prop_assert!(received.error.is_none());
    }

    #[test]
    fn response_is_received_as_it_was_sent(response in any_response(), cuts in any_cuts()) {
        let wire = encoded(ServerCodec::default(), &response);
        let received = decode(ClientCodec::default(), pieces(&cuts, &wire));
        prop_assert_eq!(format!("{:?}", received.items), format!("[Ok({response:?})]"));
        prop_assert!(received.error.is_none());
    }

    #[test]
    fn rows_in_any_order_become_sorted_metrics(
        rows in any_rows(), cuts in any_cuts(),
    ) {
        let wire = answer(&rows);
        let received = decode(ClientCodec::default(), pieces(&cuts, wire.as_bytes()));
        let [Ok(Response::Ok(metrics))] = &received.items[..] else {
            panic!("{:?}", received.items);
        };
        prop_assert_eq!(as_rows(metrics), grouped(&rows));
        prop_assert_eq!(as_rows(&rows.iter().cloned().collect()), grouped(&rows));
    }

    #[test]
    fn extending_metrics_is_the_same_as_collecting_all(
        rows in any_rows(), split in any::<Index>(),
    ) {
        let (first, second) = rows.split_at(split.index(rows.len() + 1));
        let mut metrics: Metrics = first.iter().cloned().collect();
        metrics.extend(second.iter().cloned());
        prop_assert_eq!(as_rows(&metrics), grouped(&rows));
    }

    #[test]
    fn responses_decode_alike_in_all_pieces(
        answers in vec(any_answer_text(), 0..5),
        damage in vec(any_damage(), 0..3),
        cuts in any_cuts(),
    ) {
        codec::response_decoder(&fuzz_input(&cuts, &damaged(answers.concat(), &damage)));
    }

    #[test]
    fn requests_decode_alike_in_all_pieces(
        lines in vec(any_request_text(), 0..8),
        damage in vec(any_damage(), 0..3),
        cuts in any_cuts(),
    ) {
        let input = fuzz_input(&cuts, &damaged(lines.concat(), &damage));
        codec::request_parser(&input);
        crate::fuzz::server::server_session(&input);
    }

    #[test]
    fn codec_never_panics_or_loops(stream in vec(any::<u8>(), 0..300), cuts in any_cuts()) {
        codec::response_decoder(&fuzz_input(&cuts, &stream));
        codec::request_parser(&fuzz_input(&cuts, &stream));
        let after_status = [b"ok\n", &stream[..]].concat();
        codec::response_decoder(&fuzz_input(&cuts, &after_status));
    }
}

pub(crate) fn encoded<T, C>(mut codec: C, item: &T) -> BytesMut
where
    T: Clone,
    C: Encoder<T, Error = CodecError>,
{
    let mut wire = BytesMut::new();
    codec.encode(item.clone(), &mut wire).unwrap();
    wire
}

fn answer(rows: &[Sample]) -> String {
    let records: String = rows.iter().map(|row| format!("{row}\n")).collect();
    format!("ok\n{records}\n")
}

/// Each point with its key, comparable also where a value is NaN.
fn as_rows(metrics: &Metrics) -> Vec<(String, i64, u64)> {
    let rows = metrics.iter().flat_map(|(key, points)| {
        points.iter().map(|point| (key.to_string(), point.timestamp, point.value.to_bits()))
    });
    rows.collect()
}

/// What [`Metrics`] must make of rows, done the plain way.
fn grouped(rows: &[Sample]) -> Vec<(String, i64, u64)> {
    let mut keys: Vec<&Key> = Vec::new();
    let mut points: BTreeMap<(usize, i64), u64> = BTreeMap::new();
    for Sample { key, point } in rows {
        let place = keys.iter().position(|known| *known == key).unwrap_or_else(|| {
            keys.push(key);
            keys.len() - 1
        });
        points.insert((place, point.timestamp), point.value.to_bits());
    }
    points.into_iter().map(|((place, at), value)| (keys[place].to_string(), at, value)).collect()
}

fn any_key() -> impl Strategy<Value = Key> {
    let character = prop_oneof![
        8 => prop::char::range('!', '~'),
        2 => any::<char>(),
    ];
    let name = vec(character, 1..24)
        .prop_map(|name| name.into_iter().collect::<String>())
        .prop_filter_map("no key", |name| Key::new(name).ok());
    let long = (any::<char>(), 250..=Key::MAX_LEN)
        .prop_filter_map("no key", |(c, len)| Key::new(c.to_string().repeat(len)).ok());
    prop_oneof![20 => name, 1 => long, 1 => Just(Key::new("k".repeat(Key::MAX_LEN)).unwrap())]
}

fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<u64>().prop_map(f64::from_bits).prop_filter("not finite", |value| value.is_finite()),
        (-10_000_000..10_000_000_i64, 0..8).prop_map(|(n, k)| n as f64 / 10_f64.powi(k)),
        (-400..400).prop_map(|k| 10_f64.powi(k)).prop_filter("not finite", |v| v.is_finite()),
        Just(-0.0),
    ]
}

fn any_timestamp() -> impl Strategy<Value = i64> {
    prop_oneof![any::<i64>(), 1_000_000_000..2_000_000_000_i64, -9..9_i64]
}

fn any_point() -> impl Strategy<Value = Point> {
    (any_timestamp(), any_value()).prop_map(|(timestamp, value)| Point { timestamp, value })
}

fn any_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        4 => (any_key(), any_point()).prop_map(|(key, point)| Request::Put(Sample { key, point })),
        2 => any_key().prop_map(|key| Request::Get(Selector::Key(key))),
        1 => Just(Request::Get(Selector::All)),
    ]
}

fn any_message() -> impl Strategy<Value = String> {
    vec(any::<char>().prop_filter("control", |c| !c.is_control()), 0..40)
        .prop_map(|message| message.into_iter().collect())
}

fn any_response() -> impl Strategy<Value = Response> {
    let point = prop_oneof![
        9 => any_point(),
        1 => any_timestamp().prop_map(|timestamp| Point { timestamp, value: f64::NAN }),
        1 => any_timestamp().prop_map(|timestamp| Point { timestamp, value: f64::NEG_INFINITY }),
    ];
    let series = vec((any_key(), vec(point, 1..8)), 0..6);
    prop_oneof![
        3 => series.prop_map(|series| Response::Ok(series.into_iter().flat_map(|(key, points)| {
            points.into_iter().map(move |point| Sample { key: key.clone(), point })
        }).collect())),
        1 => any_message().prop_map(Response::Error),
    ]
}

/// Rows of a few keys and a few seconds, so that they meet.
fn any_rows() -> impl Strategy<Value = Vec<Sample>> {
    let key = prop::sample::select(vec!["a", "a.b", "b", "ключ"]);
    vec((key, any_value(), 0..6_i64), 0..40).prop_map(|rows| {
        rows.into_iter().map(|(key, value, at)| Sample::new(key, value, at).unwrap()).collect()
    })
}

fn any_cuts() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(b'0'..=b'9', 0..5), vec(b'0'..=b'~', 0..3)]
}

/// An answer as servers in the field would send it, sound or not.
fn any_answer_text() -> impl Strategy<Value = String> {
    let blank = prop::sample::select(vec![" ", " ", " ", "  ", "\t"]);
    let value = prop_oneof![
        any_value().prop_map(|value| value.to_string()),
        any_value().prop_map(|value| format!("{value:?}")),
        prop::sample::select(vec!["nan", "inf", "10", "1e+22", "1e-05", "x", "", ".5", "5."])
            .prop_map(String::from),
    ];
    let end = prop::sample::select(vec!["\n", "\n", "\n", " \n", "\r\n", ""]);
    let key = prop::sample::select(vec!["a", "a", "a.b", "ключ", "*", "\u{a0}"]);
    let record = (key, blank.clone(), value, blank, any_timestamp(), end)
        .prop_map(|(key, b1, value, b2, at, end)| format!("{key}{b1}{value}{b2}{at}{end}"));
    let records = vec(record, 0..12).prop_map(|records| format!("ok\n{}\n", records.concat()));
    prop_oneof![
        6 => any_rows().prop_map(|rows| answer(&rows)),
        6 => records,
        2 => any_message().prop_map(|message| format!("error\n{message}\n\n")),
        1 => prop::sample::select(vec!["ok\n\n", "\n", "error\n\n", "okay\n\n", "error\na\nb\n\n"])
            .prop_map(String::from),
    ]
}

fn any_request_text() -> impl Strategy<Value = String> {
    let words = vec!["put", "get", "*", "a", "ключ", "1", "1.5", "1e5", "nan", " ", "\t", "\r", ""];
    prop_oneof![
        2 => any_request().prop_map(|request| format!("{request}\n")),
        2 => vec(prop::sample::select(words), 0..7).prop_map(|words| words.join(" ") + "\n"),
    ]
}

/// A byte at some place, put in, put over another, or taken out.
fn any_damage() -> impl Strategy<Value = (Index, u8, u8)> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"\n\r \t0-.ek*".to_vec())];
    (any::<Index>(), byte, 0..3_u8)
}

fn damaged(stream: String, damage: &[(Index, u8, u8)]) -> Vec<u8> {
    let mut stream = stream.into_bytes();
    for (place, byte, how) in damage {
        if stream.is_empty() {
            break;
        }
        let place = place.index(stream.len());
        match how {
            0 => stream.insert(place, *byte),
            1 => stream[place] = *byte,
            _ => drop(stream.remove(place)),
        }
    }
    stream
}

fn fuzz_input(cuts: &[u8], stream: &[u8]) -> Vec<u8> {
    [cuts, b"\n", stream].concat()
}
