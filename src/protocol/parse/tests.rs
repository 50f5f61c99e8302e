//! The request parser and encoder against random input and a simple reference.

use proptest::prelude::*;

use super::{super::number::PyFloat, *};

fn parse(line: &str) -> Result<Option<RequestRef<'_>>, InvalidRequest> {
    RequestRef::parse(line.as_bytes())
}

#[test]
fn blanks_around_fields_are_accepted() {
    let put = RequestRef::Put(KeyRef::new("palm.cpu").unwrap(), Point::new(23.7, 1150864247));
    for line in [
        "put palm.cpu 23.7 1150864247",
        "put palm.cpu 23.7 1150864247\r",
        "put  palm.cpu\t23.7 \t 1150864247 \t",
        "put palm.cpu 23.7 1150864247 \r",
        // FAULTS S14
        " put palm.cpu 23.7 1150864247",
        "\t  put\tpalm.cpu   23.7\t\t1150864247\t \r",
    ] {
        assert_eq!(parse(line), Ok(Some(put)), "{line:?}");
    }
    assert_eq!(parse("get  * "), Ok(Some(RequestRef::GetAll)));
    assert_eq!(parse(" \tget *"), Ok(Some(RequestRef::GetAll)));
    assert!(matches!(parse("\rget *"), Err(InvalidRequest::Command(_))));
    assert_eq!(parse("get a"), Ok(Some(RequestRef::Get(KeyRef::new("a").unwrap()))));
    assert_eq!(parse("get **"), Ok(Some(RequestRef::Get(KeyRef::new("**").unwrap()))));
}

#[test]
fn what_clients_send_is_read_the_quick_way() {
    for put in [
        "put a 0.0 0",
        "put palm.cpu 23.7 1150864247",
        "put rack000.cpu.user -10.01 -1150864247",
        "put !~ 1 999999999999999999",
    ] {
        let lines = format!("{put}\nput");
        let (key, point, len) = RequestRef::scan_put(lines.as_bytes()).unwrap();
        assert_eq!(Ok(Some(RequestRef::Put(key, point))), parse(put));
        assert_eq!(len, put.len() + 1);
    }
}

#[test]
fn an_empty_line_is_no_request() {
    for line in ["", "\r", "  ", " \t\r"] {
        assert_eq!(parse(line), Ok(None), "{line:?}");
    }
}

#[test]
fn every_kind_of_bad_request_is_refused() {
    use InvalidRequest as Fault;
    type IsFault = fn(&Fault) -> bool;
    let command: IsFault = |fault| matches!(fault, Fault::Command(_));
    let fields: IsFault = |fault| matches!(fault, Fault::Fields(_));
    let key: IsFault = |fault| matches!(fault, Fault::Key(_));
    let value: IsFault = |fault| matches!(fault, Fault::Value(_));
    let timestamp: IsFault = |fault| matches!(fault, Fault::Timestamp(_));
    for (line, kind) in [
        ("got test_key", command),
        ("PUT a 1 1", command),
        ("Get a", command),
        (" PUT a 1 1", command),
        (" put a 1 1 1", fields),
        ("a b c d e f", command),
        ("put", fields),
        ("put a", fields),
        ("put a 1", fields),
        ("put a 1 1 1", fields),
        ("get", fields),
        ("get a b", fields),
        ("put * 1 1", key),
        ("put a\u{1} 1 1", key),
        ("get a\u{a0}b", key),
        ("put a x 1", value),
        ("put a nan 1", value),
        ("put a -inf 1", value),
        ("put a 1e999 1", value),
        ("put a 1_0 1", value),
        ("put a \u{661} 1", value),
        ("put a 1 1.5", timestamp),
        ("put a 1 1e3", timestamp),
        ("put a 1 x", timestamp),
        ("put a 1 9223372036854775808", timestamp),
    ] {
        let fault = parse(line).unwrap_err();
        assert!(kind(&fault), "{line:?}: {fault:?}");
    }
    assert!(matches!(RequestRef::parse(b"get \xff"), Err(Fault::Encoding(_))));
}

#[test]
fn a_refusal_shows_the_line_and_the_remedy() {
    assert_eq!(
        parse("got test_key").unwrap_err().to_string(),
        "invalid command in \"got test_key\": expected `put` or `get`"
    );
    assert_eq!(
        parse("put a 1 1.5").unwrap_err().to_string(),
        "invalid timestamp \"1.5\": expected whole seconds since the Unix epoch"
    );
}

/// Whatever the quick way takes, the general way takes too, and for the same.
#[track_caller]
fn check_quick_way(lines: &[u8]) {
    if let Some((key, point, len)) = RequestRef::scan_put(lines) {
        let (line, rest) = lines[..len].split_at(len - 1);
        assert_eq!((rest, memchr::memchr(b'\n', line)), (&b"\n"[..], None));
        assert_eq!(RequestRef::parse(line), Ok(Some(RequestRef::Put(key, point))));
    }
}

/// Of what a `put` consists, and of what else might be taken for it.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        "put ",
        "put",
        "get ",
        " ",
        "  ",
        "\t",
        "\r",
        "\n",
        "a",
        "*",
        "palm.cpu",
        "eight888",
        "a\u{a0}",
        "ключ",
        "\u{1}",
        "\u{7f}",
        "0",
        "-0.0",
        "23.7",
        "-1.5",
        "1e3",
        "1e999",
        "nan",
        "+1",
        ".5",
        "5.",
        "9007199254740993",
        "12345678",
        "123456789012345678",
        "9223372036854775808",
        "1_0",
        "-",
    ];
    prop_oneof![
        8 => prop::sample::select(pieces.map(|piece| piece.as_bytes().to_vec()).to_vec()),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ]
}

proptest! {
    #[test]
    fn the_quick_way_reads_any_bytes_as_the_general_way_does(
        lines in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        check_quick_way(&[b"put ", &*lines].concat());
    }

    #[test]
    fn the_quick_way_reads_what_looks_like_a_put_as_the_general_way_does(
        pieces in prop::collection::vec(piece(), 0..12),
    ) {
        check_quick_way(&[b"put ", &*pieces.concat()].concat());
    }

    #[test]
    fn the_quick_way_reads_a_changed_put_as_the_general_way_does(
        key in "[!-~]{1,20}",
        value in prop_oneof![any::<f64>(), (-100_000i64..100_000).prop_map(|v| v as f64 / 100.0)],
        timestamp in prop_oneof![any::<i64>(), 0..2_000_000_000i64],
        at in any::<prop::sample::Index>(),
        piece in piece(),
        removed in 0..3usize,
    ) {
        let mut put = format!("put {key} {} {timestamp}\n", PyFloat(value)).into_bytes();
        check_quick_way(&put);
        let at = at.index(put.len());
        put.splice(at..(at + removed).min(put.len()), piece);
        check_quick_way(&put);
    }

    // FAULTS S14
    #[test]
    fn blanks_do_not_change_what_a_line_asks(
        fields in prop::collection::vec(
            prop_oneof![
                Just("put".to_owned()),
                Just("get".to_owned()),
                Just("*".to_owned()),
                "[!-~]{1,5}",
                "-?[0-9]{1,3}(\\.[0-9])?",
            ],
            1..6,
        ),
        blanks in prop::collection::vec("[ \t]{1,3}", 8),
        before in "[ \t]{0,3}",
        after in "[ \t]{0,3}\r?",
    ) {
        let line = fields.join(" ");
        let mut loose = before;
        for (field, blank) in fields.iter().zip(&blanks) {
            loose += field;
            loose += blank;
        }
        loose += &after;
        match (parse(&line), parse(&loose)) {
            (Ok(strict), Ok(loose)) => prop_assert_eq!(strict, loose),
            (Err(_), Err(_)) => {}
            (strict, loose) => prop_assert!(false, "{strict:?} is not {loose:?}"),
        }
    }

    #[test]
    fn a_key_ends_where_its_first_other_byte_is(text in prop::collection::vec(
        prop_oneof![9 => 0x20..=0x7fu8, 1 => any::<u8>()], 0..40,
    )) {
        let first = text.iter().position(|byte| !byte.is_ascii_graphic());
        prop_assert_eq!(graphic_len(&text), first.unwrap_or(text.len()));
    }
}

#[test]
fn every_byte_ends_a_key_or_does_not_wherever_it_stands() {
    for byte in 0..=u8::MAX {
        for at in 0..17 {
            for after in [0, b' ', b'a', 0x7f, 0x80, 0xff] {
                let mut text = [b'a'; 20];
                text[at] = byte;
                text[at + 1..].fill(after);
                let first = text.iter().position(|byte| !byte.is_ascii_graphic());
                assert_eq!(graphic_len(&text), first.unwrap_or(text.len()), "{text:?}");
            }
        }
    }
}

#[test]
fn the_quick_way_takes_no_key_that_is_none() {
    for len in [Key::MAX_LEN, Key::MAX_LEN + 1] {
        check_quick_way(format!("put {} 1 1\n", "k".repeat(len)).as_bytes());
    }
    check_quick_way(b"put * 1 1\n");
    check_quick_way(b"put  1 1\n");
}
