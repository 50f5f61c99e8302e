//! The codecs: what is sent is what is received, however the bytes are cut, and within limits.

use std::collections::BTreeMap;

use bytes::BytesMut;
use metrics_client::{
    ClientCodec, CodecError, InvalidRequest, Key, Metrics, Point, Request, Response, Sample,
    Selector, ServerCodec,
};
use proptest::{collection::vec, prelude::*, sample::Index};
use tokio_util::codec::Encoder;

use crate::invariants::{self, decode, pieces};

proptest! {
    #[test]
    fn a_request_is_received_as_it_was_sent(request in any_request(), cuts in any_cuts()) {
        let wire = encoded(ClientCodec::default(), &request);
        prop_assert_eq!(&wire, &format!("{request}\n"));
        let received = decode(ServerCodec::default(), pieces(&cuts, &wire));
        prop_assert_eq!(format!("{:?}", received.items), format!("[Ok({request:?})]"));
        prop_assert!(received.error.is_none());
    }

    #[test]
    fn a_response_is_received_as_it_was_sent(response in any_response(), cuts in any_cuts()) {
        let wire = encoded(ServerCodec::default(), &response);
        let received = decode(ClientCodec::default(), pieces(&cuts, &wire));
        prop_assert_eq!(format!("{:?}", received.items), format!("{:?}", [response]));
        prop_assert!(received.error.is_none());
    }

    #[test]
    fn rows_in_any_order_are_grouped_and_sorted_and_the_last_of_a_second_wins(
        rows in any_rows(), cuts in any_cuts(),
    ) {
        let wire = answer(&rows);
        let received = decode(ClientCodec::default(), pieces(&cuts, wire.as_bytes()));
        let [Response::Ok(metrics)] = &received.items[..] else {
            panic!("{:?}", received.items);
        };
        prop_assert_eq!(as_rows(metrics), grouped(&rows));
        prop_assert_eq!(as_rows(&rows.iter().cloned().collect()), grouped(&rows));
    }

    #[test]
    fn extending_metrics_is_the_same_as_collecting_all(rows in any_rows(), split in any::<Index>()) {
        let (first, second) = rows.split_at(split.index(rows.len() + 1));
        let mut metrics: Metrics = first.iter().cloned().collect();
        metrics.extend(second.iter().cloned());
        prop_assert_eq!(as_rows(&metrics), grouped(&rows));
    }

    #[test]
    fn answers_decode_alike_in_all_pieces(
        answers in vec(any_answer_text(), 0..5), damage in vec(any_damage(), 0..3), cuts in any_cuts(),
    ) {
        invariants::response_decoder(&fuzz_input(&cuts, &damaged(answers.concat(), &damage)));
    }

    #[test]
    fn requests_decode_alike_in_all_pieces(
        lines in vec(any_request_text(), 0..8), damage in vec(any_damage(), 0..3), cuts in any_cuts(),
    ) {
        invariants::request_parser(&fuzz_input(&cuts, &damaged(lines.concat(), &damage)));
    }

    #[test]
    fn no_bytes_make_a_codec_panic_or_loop(stream in vec(any::<u8>(), 0..300), cuts in any_cuts()) {
        invariants::response_decoder(&fuzz_input(&cuts, &stream));
        invariants::request_parser(&fuzz_input(&cuts, &stream));
        let after_status = [b"ok\n", &stream[..]].concat();
        invariants::response_decoder(&fuzz_input(&cuts, &after_status));
    }
}

#[test]
fn worked_exchanges_of_the_protocol() {
    for (request, line, answer, response) in [
        (put("palm.cpu", 23.7, 1150864247), "put palm.cpu 23.7 1150864247\n", "ok\n\n", ok(&[])),
        (
            get("palm.cpu"),
            "get palm.cpu\n",
            "ok\npalm.cpu 2.0 1150864247\npalm.cpu 0.5 1150864248\n\n",
            ok(&[("palm.cpu", 2.0, 1150864247), ("palm.cpu", 0.5, 1150864248)]),
        ),
        (
            get("*"),
            "get *\n",
            "ok\npalm.cpu 2.0 1150864247\npalm.cpu 0.5 1150864248\neardrum.cpu 3.0 1150864250\n\n",
            ok(&[
                ("palm.cpu", 2.0, 1150864247),
                ("palm.cpu", 0.5, 1150864248),
                ("eardrum.cpu", 3.0, 1150864250),
            ]),
        ),
        (get("no.such.key"), "get no.such.key\n", "ok\n\n", ok(&[])),
    ] {
        assert_eq!(encoded(ClientCodec::default(), &request), line);
        assert_eq!(requests(line), [Ok(request)]);
        assert_eq!(encoded(ServerCodec::default(), &response), answer);
        assert_eq!(responses(answer), [response]);
    }
}

#[test]
fn an_unknown_command_is_an_item_and_the_stream_goes_on() {
    let items = requests("got test_key\nget a\n");
    assert!(matches!(&items[..], [Err(InvalidRequest::Command(_)), Ok(_)]), "{items:?}");
    let refusal = Response::Error("wrong command".into());
    assert_eq!(encoded(ServerCodec::default(), &refusal), "error\nwrong command\n\n");
}

#[test]
fn lines_end_and_fields_part_as_the_protocol_allows() {
    let expected = [Ok(put("palm.cpu", 23.7, 1150864247)), Ok(get("palm.cpu")), Ok(get("*"))];
    for lines in [
        "put palm.cpu 23.7 1150864247\nget palm.cpu\nget *\n",
        "put palm.cpu 23.7 1150864247\r\nget palm.cpu\r\nget *\r\n",
        "put  palm.cpu\t23.7 \t 1150864247 \nget\tpalm.cpu\t\nget   *  \r\n",
        "\n\r\n  \nput palm.cpu 23.7 1150864247\n\nget palm.cpu\n\n\t\nget *\n\n",
    ] {
        assert_eq!(requests(lines), expected, "{lines:?}");
    }
}

#[test]
fn answers_seen_in_the_field_are_read() {
    let palm = ok(&[("palm.cpu", 2.0, 1), ("palm.cpu", 0.5, 2)]);
    let both = ok(&[("palm.cpu", 2.0, 1), ("palm.cpu", 0.5, 2), ("eardrum.cpu", 3.0, 1)]);
    for (what, answer, expected) in [
        ("plain", "ok\npalm.cpu 2.0 1\npalm.cpu 0.5 2\n\n", &palm),
        ("integers", "ok\npalm.cpu 2 1\npalm.cpu 0.5 2\n\n", &palm),
        ("a space after the timestamp", "ok\npalm.cpu 2.0 1 \npalm.cpu 0.5 2 \n\n", &palm),
        ("more blanks than one", "ok\npalm.cpu  2.0\t1\npalm.cpu 0.5   2\n\n", &palm),
        ("not sorted", "ok\npalm.cpu 0.5 2\npalm.cpu 2.0 1\n\n", &palm),
        ("not adjacent", "ok\npalm.cpu 2.0 1\neardrum.cpu 3.0 1\npalm.cpu 0.5 2\n\n", &both),
        ("twice for one second", "ok\npalm.cpu 9.0 1\npalm.cpu 2.0 1\npalm.cpu 0.5 2\n\n", &palm),
        (
            "twice for one second, apart",
            "ok\npalm.cpu 9.0 1\npalm.cpu 0.5 2\neardrum.cpu 3.0 1\npalm.cpu 2.0 1\n\n",
            &both,
        ),
        ("one newline more before it", "\nok\npalm.cpu 2.0 1\npalm.cpu 0.5 2\n\n", &palm),
        ("many newlines more after it", "ok\npalm.cpu 2.0 1\npalm.cpu 0.5 2\n\n\n\n\n", &palm),
    ] {
        assert_eq!(responses(answer), std::slice::from_ref(expected), "{what}");
    }
}

#[test]
fn values_are_read_in_every_form_seen() {
    for (text, value) in [
        ("10", 10.0),
        ("10.0", 10.0),
        ("1e+22", 1e22),
        ("1E22", 1e22),
        ("1e-05", 1e-5),
        ("-0.0", -0.0),
        ("nan", f64::NAN),
        ("inf", f64::INFINITY),
        ("-inf", f64::NEG_INFINITY),
        ("9007199254740993", 9_007_199_254_740_992.0),
        ("0.9007199254740993", 0.900_719_925_474_099_3),
        ("123456789012345678901234567890", 1.234_567_890_123_456_8e29),
    ] {
        // The second record of a key is read another way than the first.
        let received = responses(&format!("ok\na {text} 1\na {text} 2\n\n"));
        let [Response::Ok(metrics)] = &received[..] else { panic!("{text}: {received:?}") };
        for point in metrics.points("a") {
            assert_eq!(format!("{:?}", point.value), format!("{value:?}"), "{text}");
        }
        assert_eq!(metrics.point_count(), 2, "{text}");
    }
}

#[test]
fn a_record_that_cannot_be_read_fails_its_answer_alone() {
    for record in [
        "palm.cpu",
        "palm.cpu 2.0",
        "palm.cpu 2.0 1 1",
        "palm.cpu x 1",
        "palm.cpu 2.0 1.5",
        "palm.cpu 2.0 9223372036854775808",
        "palm.cpu 1_0 1",
        "* 2.0 1",
        "palm\u{a0}cpu 2.0 1",
        "palm\u{1}cpu 2.0 1",
        " ",
    ] {
        for before in ["", "palm.cpu 1.0 1\n"] {
            let stream = format!("ok\n{before}{record}\npalm.cpu 3.0 3\n\nok\npalm.cpu 2.0 1\n\n");
            let received = responses(&stream);
            let [Response::Malformed(fault), next] = &received[..] else {
                panic!("{record:?}: {received:?}");
            };
            assert!(fault.to_string().contains("key value timestamp"), "{fault}");
            assert_eq!(next, &ok(&[("palm.cpu", 2.0, 1)]));
        }
    }
}

#[test]
fn an_error_carries_its_text_if_it_has_one() {
    for (answer, message) in [
        ("error\nwrong command\n\n", "wrong command"),
        ("error\n\n", ""),
        ("error\nfirst\nsecond\n\n", "first\nsecond"),
        ("error\n \n\n", " "),
    ] {
        let expected = [Response::Error(message.into()), Response::ok()];
        assert_eq!(responses(&format!("{answer}ok\n\n")), expected, "{answer:?}");
    }
}

#[test]
fn a_line_break_in_a_message_cannot_end_the_answer() {
    let wire = encoded(ServerCodec::default(), &Response::Error("a\n\nok\n\nb".into()));
    assert_eq!(wire, "error\na  ok  b\n\n");
}

#[test]
fn an_unknown_status_ends_the_stream_and_what_came_before_it_stands() {
    for status in ["fine", "okay", "ok ", "ok\r", "OK", " ok", "errors", "palm.cpu 2.0 1", "\0"] {
        for cuts in ["", "1"] {
            let stream = format!("ok\n\n{status}\n\n");
            let received =
                decode(ClientCodec::default(), pieces(cuts.as_bytes(), stream.as_bytes()));
            assert_eq!(received.items, [Response::ok()], "{status:?}");
            assert!(matches!(received.error, Some(CodecError::Status(_))), "{status:?}");
        }
    }
}

#[test]
fn a_stream_that_ends_amid_a_message_is_truncated() {
    let stream = "ok\npalm.cpu 2.0 1\n\nerror\nwrong command\n\n";
    let first = stream.find("error").unwrap();
    for len in 0..=stream.len() {
        let received = decode(ClientCodec::default(), std::iter::once(&stream.as_bytes()[..len]));
        let truncated = matches!(received.error, Some(CodecError::Truncated));
        assert_eq!(truncated, ![0, first, stream.len()].contains(&len), "{len}");
        assert_eq!(truncated, received.error.is_some(), "{len}");
    }
    let stream = "get a\n";
    for len in 0..=stream.len() {
        let received = decode(ServerCodec::default(), std::iter::once(&stream.as_bytes()[..len]));
        let truncated = matches!(received.error, Some(CodecError::Truncated));
        assert_eq!(truncated, ![0, stream.len()].contains(&len), "{len}");
    }
}

#[test]
fn answers_split_at_any_byte_and_answers_in_one_segment_are_the_same() {
    let stream = "ok\n\nok\npalm.cpu 2.0 1\npalm.cpu 0.5 2\n\n\nerror\nwrong command\n\n\
                  ok\nno record\n\nok\nключ 3.0 1\n\nerror\n\n";
    let whole = responses(stream);
    assert_eq!(whole.len(), 6);
    for at in 0..=stream.len() {
        let (head, tail) = stream.as_bytes().split_at(at);
        let received = decode(ClientCodec::default(), [head, tail].into_iter());
        assert_eq!(received.items, whole, "{at}");
        assert!(received.error.is_none(), "{at}: {:?}", received.error);
    }
}

#[test]
fn a_value_that_is_not_finite_is_not_encoded() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let request = Request::Put(Sample::new("palm.cpu", value, 1).unwrap());
        let mut wire = BytesMut::from("untouched");
        let fault = ClientCodec::default().encode(&request, &mut wire).unwrap_err();
        assert!(matches!(fault, CodecError::NotFinite(_)));
        assert_eq!(wire, "untouched");
    }
}

/// The limits, as in the code: what a line and a message of an answer may have is no setting.
const MAX_LINE_BYTES: usize = 8 * 1024;
const MAX_ERROR_BYTES: usize = 64 * 1024;

#[test]
fn limits_hold_to_the_byte_in_all_pieces() {
    let record = |len| format!("ok\na 1 {}1\n\n", "0".repeat(len - "a 1 1\n".len()));
    let message = |len| format!("error\n{}\n\n", "m".repeat(len - "error\n\n\n".len()));
    let many = |len: usize| format!("ok\n{}a {}1 1\n\n", "a 1 1\n".repeat(9), "0".repeat(len - 64));
    let default = ClientCodec::DEFAULT_MAX_RESPONSE_BYTES;
    for (limit, fits, exceeds, is_expected) in [
        (default, record(MAX_LINE_BYTES), record(MAX_LINE_BYTES + 1), is_line as fn(&_) -> _),
        (default, message(MAX_ERROR_BYTES), message(MAX_ERROR_BYTES + 1), is_response),
        (100, message(100), message(101), is_response),
        (100, record(96), record(97), is_response),
        (100, many(100), many(101), is_response),
        (4, "ok\n\n".into(), "ok\na 1 1\n\n".into(), is_response),
        (3, String::new(), "ok\n\n".into(), is_response),
        (2, String::new(), "ok\n".into(), is_response),
        (5, String::new(), "error\n".into(), is_response),
    ] {
        for cuts in ["", "1", "7", "~"] {
            let decode = |stream: &str| {
                let codec = ClientCodec::max_response_bytes(limit);
                decode(codec, pieces(cuts.as_bytes(), stream.as_bytes()))
            };
            let received = decode(&fits);
            assert!(received.error.is_none(), "{limit}: {:?}", received.error);
            let received = decode(&exceeds);
            assert!(received.error.as_ref().is_some_and(is_expected), "{:?}", received.error);
            assert!(received.items.is_empty());
        }
    }
}

#[test]
fn limits_hold_before_a_line_or_an_answer_ends() {
    let default = ClientCodec::DEFAULT_MAX_RESPONSE_BYTES;
    for (limit, begin, room, is_expected) in [
        (100, "ok\n", 97, is_response as fn(&_) -> _),
        (100, "ok\na 1 1\n", 91, is_response),
        (100, "error\n", 94, is_response),
        (100, "error\nm\n", 92, is_response),
        (default, "error\n", MAX_ERROR_BYTES - 6, is_response),
        (default, "ok\n", MAX_LINE_BYTES, is_line),
        (default, "ok\na 1 1\n", MAX_LINE_BYTES, is_line),
        (default, "ok\nno record\n", MAX_LINE_BYTES, is_line),
    ] {
        for cuts in ["", "1", "7", "~"] {
            let error = |len| {
                let stream = format!("{begin}{}", "m".repeat(len));
                let codec = ClientCodec::max_response_bytes(limit);
                decode(codec, pieces(cuts.as_bytes(), stream.as_bytes())).error.unwrap()
            };
            assert!(matches!(error(room), CodecError::Truncated), "{begin:?}: {:?}", error(room));
            assert!(is_expected(&error(room + 1)), "{begin:?}: {:?}", error(room + 1));
        }
    }
}

#[test]
fn the_limit_that_is_crossed_first_is_the_one_reported() {
    let records = "a 1 1\n".repeat(20);
    let long = "x".repeat(2 * MAX_LINE_BYTES);
    for cuts in ["", "1", "7", "~"] {
        let error = |limit| {
            let stream = format!("ok\n{records}{long}\n{records}\n");
            let codec = ClientCodec::max_response_bytes(limit);
            decode(codec, pieces(cuts.as_bytes(), stream.as_bytes())).error.unwrap()
        };
        assert!(is_response(&error(100)));
        assert!(is_response(&error(MAX_LINE_BYTES)));
        assert!(is_line(&error(MAX_LINE_BYTES + 1000)));
    }
}

#[test]
fn a_line_of_a_request_is_limited_to_the_byte_in_all_pieces() {
    let line = |len| format!("get {}\n", "k".repeat(len - "get \n".len()));
    for cuts in ["", "1", "7", "~"] {
        let decode = |stream: &str| {
            let codec = ServerCodec::max_line_bytes(100);
            decode(codec, pieces(cuts.as_bytes(), stream.as_bytes()))
        };
        let fits = decode(&(line(100) + &line(100)));
        assert_eq!((fits.items.len(), fits.error.is_none()), (2, true));
        for exceeds in [line(101), line(102).replace('\n', ""), " ".repeat(101), "\0".repeat(101)] {
            let received = decode(&(line(100) + &exceeds));
            assert_eq!(received.items.len(), 1);
            assert!(matches!(received.error, Some(CodecError::LineTooLong { limit: 100 })));
        }
        let unfinished = decode(line(101).trim_end());
        assert!(matches!(unfinished.error, Some(CodecError::Truncated)), "{:?}", unfinished.error);
    }
}

#[test]
fn the_longest_put_fits_the_default_line() {
    let key = "k".repeat(Key::MAX_LEN);
    let wire = encoded(ClientCodec::default(), &put(&key, -f64::MIN_POSITIVE, i64::MIN));
    assert_eq!(wire.len(), 1075);
    assert_eq!(requests(std::str::from_utf8(&wire).unwrap()).len(), 1);
}

fn is_line(error: &CodecError) -> bool {
    matches!(error, CodecError::LineTooLong { .. })
}

fn is_response(error: &CodecError) -> bool {
    matches!(error, CodecError::ResponseTooLong { .. })
}

fn put(key: &str, value: f64, timestamp: i64) -> Request {
    Request::put(key, value, timestamp).unwrap()
}

fn get(selector: &str) -> Request {
    Request::get(selector).unwrap()
}

fn ok(rows: &[(&str, f64, i64)]) -> Response {
    let samples = rows.iter().map(|&(key, value, at)| Sample::new(key, value, at).unwrap());
    Response::Ok(samples.collect())
}

fn encoded<T, C: Encoder<T, Error = CodecError>>(mut codec: C, item: T) -> BytesMut {
    let mut wire = BytesMut::new();
    codec.encode(item, &mut wire).unwrap();
    wire
}

fn requests(stream: &str) -> Vec<Result<Request, InvalidRequest>> {
    let received = decode(ServerCodec::default(), std::iter::once(stream.as_bytes()));
    assert!(received.error.is_none(), "{stream:?}: {:?}", received.error);
    received.items
}

fn responses(stream: &str) -> Vec<Response> {
    let received = decode(ClientCodec::default(), std::iter::once(stream.as_bytes()));
    assert!(received.error.is_none(), "{stream:?}: {:?}", received.error);
    received.items
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
