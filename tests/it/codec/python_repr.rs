//! Values print as Python's `repr` prints them, says Python, and read back to the same bits.

use std::{
    io::{Read, Write},
    process::{Child, Command, Stdio},
};

use bytes::BytesMut;
use metrics_client::{
    Key, Point, Sample,
    codec::{ClientCodec, Response},
};
use tokio_util::codec::Decoder;

/// Reads big-endian doubles in hex, and prints the `repr` of each.
const SCRIPT: &str = "
import struct, sys
data = bytes.fromhex(sys.stdin.read())
sys.stdout.write('\\n'.join(map(repr, struct.unpack(f'>{len(data) // 8}d', data))))
";

#[test]
fn values_print_as_python_and_parse_back() {
    let values = values();
    assert!(values.len() >= 1_000_000);
    let python = ask_python(&values);

    let texts = texts(&values);
    for (value, read) in values.iter().zip(read_back(&texts)) {
        assert_eq!(value.to_bits(), read.to_bits(), "{value:e}");
    }

    match python {
        Ok(python) => {
            let reprs = reprs(python);
            for ((value, text), repr) in values.iter().zip(&texts).zip(reprs.lines()) {
                assert_eq!(text, repr, "{:016x}", value.to_bits());
            }
            assert_eq!(reprs.lines().count(), texts.len());
        }
        Err(reason) => crate::skipped("comparing values with Python's repr", &reason),
    }
}

/// Bit patterns of all kinds, and the values that people measure.
fn values() -> Vec<f64> {
    let mut rng = fastrand::Rng::with_seed(1_150_864_247);
    let mut values = vec![0.0, -0.0, f64::MAX, f64::MIN, f64::MIN_POSITIVE];
    // Powers of ten, where the exponent and the number of digits change, and of two, where the
    // distance to the next value does; each with its neighbours.
    for text in
        (-324..=308).map(|k| format!("1e{k}")).chain((0..53).map(|k| (1_u64 << k).to_string()))
    {
        let bits = text.parse::<f64>().unwrap().to_bits();
        values.extend((0..5).map(|near| f64::from_bits((bits + near).saturating_sub(2))));
    }
    values.extend((0..2047_u64).map(|exponent| f64::from_bits(exponent << 52)));
    for _ in 0..100_000 {
        // Subnormals, most of them with few bits.
        let shift = rng.u32(12..64);
        values.push(f64::from_bits(rng.u64(..) >> shift));
        values.push(rng.i64(..) as f64);
        values.push(rng.i64(-1_000_000..1_000_000) as f64);
    }
    for _ in 0..300_000 {
        // `n / 10^k`, by reading it as text, so that it is the nearest value.
        let most = 10_u64.pow(rng.u32(1..18));
        let digits = rng.u64(..most);
        values.push(format!("{digits}e-{}", rng.u32(..22)).parse().unwrap());
    }
    while values.len() < 1_000_000 {
        let value = f64::from_bits(rng.u64(..));
        values.extend(Some(value).filter(|value| value.is_finite()));
    }
    for value in &mut values {
        *value = if rng.bool() { *value } else { -*value };
    }
    values
}

/// The values as this crate prints them.
fn texts(values: &[f64]) -> Vec<String> {
    let key = Key::new("k").unwrap();
    let text = |&value| {
        let record = Sample { key: key.clone(), point: Point::new(value, 7) }.to_string();
        record.strip_prefix("k ").and_then(|rest| rest.strip_suffix(" 7")).unwrap().to_owned()
    };
    values.iter().map(text).collect()
}

/// Gives Python the values, which it prints while this end goes on; or says why not.
fn ask_python(values: &[f64]) -> Result<Child, String> {
    let python = || Command::new("python3");
    match python().arg("--version").output() {
        Ok(version) if version.status.success() => {}
        Ok(version) => return Err(format!("`python3 --version` failed: {}", version.status)),
        Err(error) => return Err(format!("`python3` cannot be run: {error}")),
    }
    let mut child =
        python().args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let bits: String = values.iter().map(|value| format!("{:016x}", value.to_bits())).collect();
    // It reads all before it prints anything, so neither end waits for the other.
    child.stdin.take().unwrap().write_all(bits.as_bytes()).unwrap();
    Ok(child)
}

/// The values as Python prints them, one a line.
fn reprs(mut python: Child) -> String {
    let mut reprs = String::new();
    python.stdout.take().unwrap().read_to_string(&mut reprs).unwrap();
    assert!(python.wait().unwrap().success());
    reprs
}

/// The values that the texts are read as, in an answer where some records follow one of their key.
fn read_back(texts: &[String]) -> Vec<f64> {
    let mut answer = String::from("ok\n");
    for (place, text) in texts.iter().enumerate() {
        let key = if place % 4 == 0 { "first" } else { "others" };
        answer += &format!("{key} {text} {place}\n");
    }
    answer += "\n";
    let mut codec = ClientCodec::with_max_response_bytes(answer.len());
    let Ok(Some(Ok(Response::Ok(metrics)))) = codec.decode(&mut BytesMut::from(answer.as_bytes()))
    else {
        panic!("this is a whole answer");
    };
    let mut values = vec![f64::NAN; texts.len()];
    for point in metrics.iter().flat_map(|(_, points)| points) {
        values[usize::try_from(point.timestamp).unwrap()] = point.value;
    }
    values
}
