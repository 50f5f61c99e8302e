//! Lines against the rules and the errors of influxd.

use proptest::prelude::*;

use super::*;

const NOW: i64 = 7;

fn read(line: &str) -> Result<Vec<(String, f64, i64)>, LineError> {
    let mut puts = Vec::new();
    let mut parser = LineParser::default();
    parser.read_line(line.as_bytes(), Precision::Seconds, NOW)?;
    while let Some((key, point)) = parser.next_point() {
        puts.push((key.into(), point.value, point.timestamp));
    }
    Ok(puts)
}

fn one(line: &str) -> (String, f64, i64) {
    let puts = read(line).unwrap();
    let [put] = &*puts else { panic!("{line}: {puts:?}") };
    put.clone()
}

#[test]
fn fields_become_keys() {
    let puts = read("cpu,host=palm usage=1,value=2,busy=true 1150864247").unwrap();
    let put = |key: &str, value| (key.into(), value, 1150864247);
    let expected = [
        put("cpu.usage;host=palm", 1.0),
        put("cpu;host=palm", 2.0),
        put("cpu.busy;host=palm", 1.0),
    ];
    assert_eq!(puts, expected);
    assert_eq!(one("cpu value=2"), ("cpu".into(), 2.0, NOW));
    assert_eq!(one("  cpu   value=2   5  \r"), ("cpu".into(), 2.0, 5));
    assert_eq!(read("\t \r").unwrap(), []);
    assert_eq!(read("# cpu value=2").unwrap(), []);
}

#[test]
fn values_are_read_in_every_form() {
    for (text, value) in [
        ("1", 1.0),
        ("-1.5e3", -1500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("3i", 3.0),
        ("-3i", -3.0),
        ("18446744073709551615u", 18446744073709551615.0),
        ("t", 1.0),
        ("False", 0.0),
    ] {
        assert_eq!(one(&format!("cpu value={text}")).1, value, "{text}");
    }
}

#[test]
fn strings_are_omitted_and_counted() {
    let mut parser = LineParser::default();
    let line = br#"cpu s="x, \"y=\" \\",n=9007199254740993i,e="" 3"#;
    parser.read_line(line, Precision::Seconds, NOW).unwrap();
    assert_eq!(parser.next_point().map(|(key, _)| key), Some("cpu.n"));
    assert_eq!(parser.next_point(), None);
    assert_eq!(parser.omitted, OmittedFields { strings: 2, rounded: 1 });
    let line = br#"cpu s="x",m=1,n=x"#;
    assert!(parser.read_line(line, Precision::Seconds, NOW).is_err());
    assert_eq!(parser.next_point(), None);
    assert_eq!(parser.omitted.strings, 2, "a bad line counts nothing");
}

#[test]
fn labels_are_sorted_and_escaped() {
    assert_eq!(one("cpu,b=1,a=2 value=1").0, "cpu;a=2;b=1");
    let key = one(r"a\ b\,c,x\=y=1\ 2,h=~%; f\ g=1").0;
    let labels = [("x=y", "1 2"), ("h", "~%;")];
    assert_eq!(key, Key::with_labels("a b,c.f g", labels).unwrap());
    assert_eq!(one("* value=1").0, "%2A");
    assert_eq!(one("* n=1").0, "*.n");
    // A backslash escapes a separator behind it, also behind another backslash; elsewhere it is a character.
    let key = one(r#"a\\,b,c\\ d=\e f\"g=1"#).0;
    assert_eq!(key, Key::with_labels(r#"a\,b.f"g"#, [(r"c\ d", r"\e")]).unwrap());
    // A value may begin with an equals sign.
    assert_eq!(one("a,b==c value=1").0, "a;b==c");
    assert_eq!(one("ключ,β=γ value=1").0, "ключ;β=γ");
}

#[test]
fn errors_are_those_of_influxd() {
    for (line, error) in [
        (",a=b value=1", LineError::MissingMeasurement),
        ("cpu", LineError::MissingFields),
        ("cpu ", LineError::InvalidField),
        ("cpu,host=a", LineError::MissingFields),
        ("cpu,=a value=1", LineError::MissingTagKey),
        ("cpu,a value=1", LineError::MissingTagValue),
        ("cpu,a= value=1", LineError::MissingTagValue),
        ("cpu,a=b=c value=1", LineError::InvalidTag),
        ("cpu,a=1,a=2 value=1", LineError::DuplicateTags),
        ("cpu =1", LineError::MissingFieldKey),
        ("cpu value=", LineError::MissingFieldValue),
        ("bad line here x", LineError::InvalidField),
        ("cpu value=1,", LineError::InvalidField),
        ("cpu value=inf", LineError::InvalidBoolean),
        ("cpu value=+1", LineError::InvalidBoolean),
        ("cpu value=-infinity", LineError::InvalidNumber),
        ("cpu value=nan", LineError::InvalidNumber),
        ("cpu value=1e400", LineError::InvalidFloat),
        ("cpu value=1.1.1", LineError::InvalidNumber),
        ("cpu value=9223372036854775808i", LineError::InvalidNumber),
        ("cpu value=tru", LineError::InvalidBoolean),
        ("cpu value=\"x", LineError::UnbalancedQuotes),
        ("cpu value=\"x\"y", LineError::InvalidField),
        ("cpu value=1é", LineError::InvalidNumber),
        ("cpu value=1é,", LineError::InvalidNumber),
        ("cpu value=1 x", LineError::BadTimestamp),
        ("cpu value=1 1.5", LineError::BadTimestamp),
        ("cpu value=1 +1", LineError::BadTimestamp),
        ("cpu value=1 1\t", LineError::BadTimestamp),
        ("cpu value=1 1 2", LineError::TextBehindTimestamp),
    ] {
        assert_eq!(read(line), Err(error), "{line}");
    }
    let long = "x".repeat(1025);
    for line in [
        format!("{long} value=1"),
        format!("a {long}=1"),
        format!("a,b={long} value=1"),
        format!("a,c=1,b={long} value=1"),
    ] {
        assert_eq!(read(&line), Err(LineError::KeyTooLong));
    }
    assert_eq!(one(&format!("a {}=1", &long[..1022])).0.len(), 1024);
    let line = format!("a s=\"{}\",value=1", "x".repeat(MAX_LINE_BYTES));
    assert_eq!(read(&line), Err(LineError::LineTooLong));
}

#[test]
fn timestamps_are_rounded_down_to_seconds() {
    for (precision, timestamp, second) in [
        ("ns", "1150864247999999999", Some(1150864247)),
        ("n", "-1", Some(-1)),
        ("n", "-150864247999999999", Some(-150864248)),
        ("n", "9223372036854775807", Some(9223372036)),
        ("n", "9223372036854775808", None),
        ("n", "9999999999000000000", None),
        ("n", "1150864247-00000000", None),
        ("n", "115086424x000000000", None),
        ("n", "1150864247+99999999", None),
        ("u", "1999999", Some(1)),
        ("ms", "1999", Some(1)),
        ("m", "2", Some(120)),
        ("h", "-2", Some(-7200)),
        ("h", "9223372036854775807", None),
    ] {
        let precision = Precision::parse(precision).unwrap();
        let line = format!("cpu value=1 {timestamp}");
        let mut parser = LineParser::default();
        let _ = parser.read_line(line.as_bytes(), precision, NOW);
        let read = parser.next_point().map(|(_, point)| point.timestamp);
        assert_eq!(read, second, "{line}");
    }
    assert_eq!(Precision::parse("parsec"), None);
}

#[test]
fn line_breaks_in_strings_end_no_line() {
    let split = |body: &'static str| {
        lines(body.as_bytes()).map(|line| str::from_utf8(line).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(split("a b=1\n\nc d=2\n"), ["a b=1", "", "c d=2"]);
    assert_eq!(split("a b=\"x\ny\",c=1\nd e=2"), ["a b=\"x\ny\",c=1", "d e=2"]);
    assert_eq!(split("a\\ b=\"x\nd e=2"), ["a\\ b=\"x", "d e=2"]);
    assert_eq!(split("# a b=\"x\nd e=2"), ["# a b=\"x", "d e=2"]);
    assert_eq!(split("a b=\"x\nd e=2"), ["a b=\"x", "d e=2"]);
    assert_eq!(split("a b=x\"y\nd e=2"), ["a b=x\"y", "d e=2"]);
    assert_eq!(split("a b\\=\"x\nd\" e=2"), ["a b\\=\"x", "d\" e=2"]);
    assert_eq!(split("a\\\n b=\"x\ny\""), ["a\\", " b=\"x", "y\""]);
    // Each line is looked at once: otherwise this would take hours.
    assert_eq!(lines(&b"\"\\\n".repeat(1 << 17)).count(), 1 << 17);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_an_error(body in "[ab,= \\n\"\\\\#1it;%é]{0,60}") {
        fuzz(body.as_bytes());
    }

    #[test]
    fn labels_are_written_as_a_key_writes_them(
        name in "[a-c,= ;%~*é]{1,5}",
        tags in prop::collection::btree_map("[a-c,= ;!^é]{1,4}", "[a-c,= ;~%é]{1,4}", 0..4),
    ) {
        let escape = |text: &str| text.replace(',', "\\,").replace(' ', "\\ ").replace('=', "\\=");
        let measurement = name.replace(',', "\\,").replace(' ', "\\ ");
        prop_assume!(!measurement.starts_with([' ', '#']));
        let mut line = measurement;
        for (tag, value) in tags.iter().rev() {
            line += &format!(",{}={}", escape(tag), escape(value));
        }
        line += " value=1";
        let (key, ..) = one(&line);
        let key = Key::new(key).unwrap();
        prop_assert_eq!(key.labels().into_parts(), (name, tags.into_iter().collect()));
    }
}
