//! The codecs, case by case: what the protocol's page shows, what servers were seen to send, and
//! what is too long.

use bytes::BytesMut;
use metrics_client::{
    Key, Sample,
    codec::{
        ClientCodec, CodecError, InvalidRequest, InvalidResponse, Request, Response, ServerCodec,
    },
};
use tokio_util::codec::Encoder;

use crate::{
    codec::properties::encoded,
    fuzz::codec::{decode, pieces},
};

#[test]
fn examples_of_the_protocol_decode() {
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
        assert_eq!(responses(answer), [Ok(response)]);
    }
}

#[test]
fn unknown_command_is_an_item() {
    let items = requests("got test_key\nget a\n");
    assert!(matches!(&items[..], [Err(InvalidRequest::Command(_)), Ok(_)]), "{items:?}");
    let refusal = Response::Error("wrong command".into());
    assert_eq!(encoded(ServerCodec::default(), &refusal), "error\nwrong command\n\n");
}

#[test]
fn line_ends_and_separators_of_the_protocol() {
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
fn responses_seen_in_the_field_are_decoded() {
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
        assert_eq!(responses(answer), [Ok(expected.clone())], "{what}");
    }
}

#[test]
fn values_of_every_form_are_decoded() {
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
        let [Ok(Response::Ok(metrics))] = &received[..] else { panic!("{text}: {received:?}") };
        for point in metrics.points("a") {
            assert_eq!(format!("{:?}", point.value), format!("{value:?}"), "{text}");
        }
        assert_eq!(metrics.point_count(), 2, "{text}");
    }
}

#[test]
fn malformed_record_fails_its_response_only() {
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
            let [Err(InvalidResponse::Record(fault)), Ok(next)] = &received[..] else {
                panic!("{record:?}: {received:?}");
            };
            assert!(fault.to_string().contains("key value timestamp"), "{fault}");
            assert_eq!(next, &ok(&[("palm.cpu", 2.0, 1)]));
        }
    }
}

#[test]
fn error_carries_its_text_if_it_has_one() {
    for (answer, message) in [
        ("error\nwrong command\n\n", "wrong command"),
        ("error\n\n", ""),
        ("error\nfirst\nsecond\n\n", "first\nsecond"),
        ("error\n \n\n", " "),
    ] {
        let expected = [Ok(Response::Error(message.into())), Ok(Response::ok())];
        assert_eq!(responses(&format!("{answer}ok\n\n")), expected, "{answer:?}");
    }
}

#[test]
fn line_break_in_a_message_does_not_end_a_response() {
    let wire = encoded(ServerCodec::default(), &Response::Error("a\n\nok\n\nb".into()));
    assert_eq!(wire, "error\na  ok  b\n\n");
}

#[test]
fn unknown_status_ends_the_stream() {
    for status in ["fine", "okay", "ok ", "ok\r", "OK", " ok", "errors", "palm.cpu 2.0 1", "\0"] {
        for cuts in ["", "1"] {
            let stream = format!("ok\n\n{status}\n\n");
            let received =
                decode(ClientCodec::default(), pieces(cuts.as_bytes(), stream.as_bytes()));
            assert_eq!(received.items, [Ok(Response::ok())], "{status:?}");
            assert!(matches!(received.error, Some(CodecError::Status(_))), "{status:?}");
        }
    }
}

#[test]
fn stream_ending_amid_a_message_is_truncated() {
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
fn responses_decode_alike_when_split_or_joined() {
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
fn value_not_finite_is_not_encoded() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let request = Request::Put(Sample::new("palm.cpu", value, 1).unwrap());
        let mut wire = BytesMut::from("untouched");
        let fault = ClientCodec::default().encode(request.clone(), &mut wire).unwrap_err();
        assert!(matches!(fault, CodecError::NonFiniteValue(_)));
        assert_eq!(wire, "untouched");
    }
}

/// The limits, as in the code: what a line and a message of an answer may have is no setting.
const MAX_LINE_BYTES: usize = 8 * 1024;
const MAX_ERROR_BYTES: usize = 64 * 1024;

#[test]
fn limits_are_exact_to_the_byte() {
    let record = |len| format!("ok\na 1 {}1\n\n", "0".repeat(len - "a 1 1\n".len()));
    let message = |len| format!("error\n{}\n\n", "m".repeat(len - "error\n\n\n".len()));
    let many = |len: usize| format!("ok\n{}a {}1 1\n\n", "a 1 1\n".repeat(9), "0".repeat(len - 64));
    let default = ClientCodec::DEFAULT_MAX_RESPONSE_BYTES;
    let too_large = |limit| Ok(Err(limit));
    let cut = |len| Ok(Ok(Response::Error("m".repeat(len))));
    for (limit, fits, exceeds, expected) in [
        (default, record(MAX_LINE_BYTES), record(MAX_LINE_BYTES + 1), Err(())),
        (default, message(MAX_ERROR_BYTES), message(MAX_ERROR_BYTES + 1), cut(MAX_ERROR_BYTES - 7)),
        (100, message(100), message(101), cut(93)),
        (100, record(96), record(97), too_large(100)),
        (100, many(100), many(101), too_large(100)),
        (4, "ok\n\n".into(), "ok\na 1 1\n\n".into(), too_large(4)),
        (3, String::new(), "ok\n\n".into(), too_large(3)),
        (2, String::new(), "ok\n\n".into(), too_large(2)),
        (5, String::new(), "error\n\n".into(), cut(0)),
    ] {
        for cuts in ["", "1", "7", "~"] {
            let decode = |stream: &str| {
                let codec = ClientCodec::with_max_response_bytes(limit);
                decode(codec, pieces(cuts.as_bytes(), stream.as_bytes()))
            };
            let received = decode(&fits);
            assert!(received.error.is_none(), "{limit}: {:?}", received.error);
            // What comes behind is read as ever.
            let received = decode(&(exceeds.clone() + "error\n\n"));
            match &expected {
                Ok(expected) => {
                    assert!(received.error.is_none(), "{:?}", received.error);
                    let [first, next] = &received.items[..] else { panic!("{limit}: two answers") };
                    let first = first.clone().map_err(|error| match error {
                        InvalidResponse::TooLarge { limit, .. } => limit,
                        error => panic!("{error:?}"),
                    });
                    assert!(first == *expected);
                    assert_eq!(next, &Ok(Response::Error(String::new())));
                }
                Err(()) => assert!(received.error.as_ref().is_some_and(is_line)),
            }
        }
    }
}

#[test]
fn line_limit_holds_before_the_line_ends() {
    let default = ClientCodec::DEFAULT_MAX_RESPONSE_BYTES;
    for (limit, begin) in
        [(default, "ok\n"), (default, "ok\na 1 1\n"), (default, "ok\nno record\n"), (100, "ok\n")]
    {
        for cuts in ["", "1", "7", "~"] {
            let error = |len| {
                let stream = format!("{begin}{}", "m".repeat(len));
                let codec = ClientCodec::with_max_response_bytes(limit);
                decode(codec, pieces(cuts.as_bytes(), stream.as_bytes())).error.unwrap()
            };
            let (fits, exceeds) = (error(MAX_LINE_BYTES), error(MAX_LINE_BYTES + 1));
            assert!(matches!(fits, CodecError::Truncated), "{begin:?}: {fits:?}");
            assert!(is_line(&exceeds), "{begin:?}: {exceeds:?}");
        }
    }
}

#[test]
fn request_line_limit_is_exact_to_the_byte() {
    let line = |len| format!("get {}\n", "k".repeat(len - "get \n".len()));
    for cuts in ["", "1", "7", "~"] {
        let decode = |stream: &str| {
            let codec = ServerCodec::with_max_line_bytes(100);
            decode(codec, pieces(cuts.as_bytes(), stream.as_bytes()))
        };
        let fits = decode(&(line(100) + &line(100)));
        assert_eq!((fits.items.len(), fits.error.is_none()), (2, true));
        for exceeds in [line(101), line(102).replace('\n', ""), " ".repeat(101), "\0".repeat(101)] {
            let received = decode(&(line(100) + &exceeds));
            assert_eq!(received.items.len(), 1);
            assert!(matches!(received.error, Some(CodecError::LineTooLong { limit: 100, .. })));
        }
        let unfinished = decode(line(101).trim_end());
        assert!(matches!(unfinished.error, Some(CodecError::Truncated)), "{:?}", unfinished.error);
    }
}

#[test]
fn longest_put_fits_the_default_line() {
    let key = "k".repeat(Key::MAX_LEN);
    let wire = encoded(ClientCodec::default(), &put(&key, -f64::MIN_POSITIVE, i64::MIN));
    assert_eq!(wire.len(), 1075);
    assert_eq!(requests(std::str::from_utf8(&wire).unwrap()).len(), 1);
}

fn is_line(error: &CodecError) -> bool {
    matches!(error, CodecError::LineTooLong { .. })
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

fn requests(stream: &str) -> Vec<Result<Request, InvalidRequest>> {
    let received = decode(ServerCodec::default(), std::iter::once(stream.as_bytes()));
    assert!(received.error.is_none(), "{stream:?}: {:?}", received.error);
    received.items
}

fn responses(stream: &str) -> Vec<Result<Response, InvalidResponse>> {
    let received = decode(ClientCodec::default(), std::iter::once(stream.as_bytes()));
    assert!(received.error.is_none(), "{stream:?}: {:?}", received.error);
    received.items
}
