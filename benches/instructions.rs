//! Counts the instructions of the codecs, so that a regression shows without timing.
//!
//!     cargo bench --bench instructions                 fails if a path takes more than it may
//!     cargo bench --bench instructions -- --bless      accepts the counts of now as the new ceilings
//!
//! The table is `benches/instructions.txt`: what each path takes for one put, answer or record, and
//! the compiler that it was counted with. With that compiler the counts are the same in every folder
//! and on every machine with AVX2, since valgrind shows programs one and the same processor; so 3 %
//! more is a regression. Another compiler makes other code, and with it only 25 % more is one, until
//! the table is blessed again. After a gain bless it too, or the next loss hides in the gain.
//!
//! This program runs itself under valgrind, twice for each path: with one iteration and with some
//! more. The difference is what those take; setting up, warming up and ending cancel out.
//!
//! gungraun does the like, and more. It was left because it needs a program of its very version
//! installed, keeps no limits that a command updates, and does not know which compiler a limit is for:
//! that part would be here all the same.

use std::{
    collections::HashMap,
    env,
    error::Error,
    fs,
    hint::black_box,
    process::{Command, ExitCode},
};

use bytes::BytesMut;
use metrics_client::{
    Sample,
    codec::{ClientCodec, CodecError, Request, Response, ServerCodec},
    error::InvalidKey,
};
use tokio_util::codec::{Decoder, Encoder};

use crate::values::{computed, reading};

#[path = "bench/support/values.rs"]
mod values;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args: Vec<_> = env::args().skip(1).collect();
    if let [flag, name, iterations] = &args[..]
        && flag == ITERATE
    {
        let path = PATHS.iter().find(|path| path.name == name).ok_or("there is no such path")?;
        path.iterate(iterations.parse()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let compiler = compiler()?;
    if args.iter().any(|arg| arg == "--bless") {
        return bless(&compiler);
    }
    check(&compiler)
}

/// Counts each path, and holds the counts against the table.
fn check(compiler: &str) -> Result<ExitCode, Box<dyn Error>> {
    let table = fs::read_to_string(TABLE)?;
    let (counted_with, rows) = table.split_once('\n').ok_or("the table is empty")?;
    let known: HashMap<_, f64> = rows
        .lines()
        .map(|row| {
            let (count, name) = row.trim_start().split_once(' ').ok_or("a row is cut short")?;
            Ok((name, count.parse()?))
        })
        .collect::<Result<_, Box<dyn Error>>>()?;
    let allowance = if counted_with == compiler {
        ALLOWANCE
    } else {
        println!("ATTENTION: the table was made with {counted_with}, and this is {compiler}.");
        println!("Only coarse regressions are found until it is blessed again: {BLESS}");
        FOREIGN_ALLOWANCE
    };
    let mut regressions = Vec::new();
    println!("{:>12} {:>12} {:>8}  path", "instructions", "in the table", "change");
    for path in PATHS {
        let count = path.count()?;
        let known = known
            .get(path.name)
            .ok_or_else(|| format!("`{}` is not in the table; to add it: {BLESS}", path.name))?;
        let change = 100.0 * (count / known - 1.0);
        println!("{count:>12.1} {known:>12.1} {change:>+7.1}%  {}", path.name);
        let ceiling = known * allowance;
        if count > ceiling {
            regressions.push(format!(
                "`{}` takes {count:.1} instructions, and the ceiling is {ceiling:.1}",
                path.name
            ));
        }
    }
    if regressions.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for regression in regressions {
        eprintln!("REGRESSION: {regression}");
    }
    eprintln!("Find the cause with `valgrind --tool=callgrind`, or, if it is worth it: {BLESS}");
    Ok(ExitCode::FAILURE)
}

/// Counts each path, and rewrites the table.
fn bless(compiler: &str) -> Result<ExitCode, Box<dyn Error>> {
    let mut table = format!("{compiler}\n");
    for path in PATHS {
        table += &format!("{:>9.1} {}\n", path.count()?, path.name);
    }
    fs::write(TABLE, &table)?;
    print!("{table}");
    Ok(ExitCode::SUCCESS)
}

/// What decides which code is made of this crate, besides `Cargo.lock`.
fn compiler() -> Result<String, Box<dyn Error>> {
    let rustc = env::var_os("RUSTC").unwrap_or("rustc".into());
    let version = Command::new(rustc).arg("--version").output()?.stdout;
    let version = String::from_utf8(version)?;
    Ok(format!("{}, {} {}", version.trim_end(), env::consts::ARCH, env::consts::OS))
}

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");

const BLESS: &str = "cargo bench --bench instructions -- --bless";

/// A count of up to this multiple of the one in the table is not a regression.
const ALLOWANCE: f64 = 1.03;

/// The same for code that another compiler made.
const FOREIGN_ALLOWANCE: f64 = 1.25;

/// Something that a codec does.
struct Path {
    name: &'static str,
    /// Sets it up, and says what one iteration is: this, [`SAMPLES`] times.
    work: fn(Value) -> Result<Work, Box<dyn Error>>,
    value: Value,
}

/// The values of its samples, by their number.
type Value = fn(u64) -> f64;

type Work = Box<dyn FnMut() -> Result<(), Box<dyn Error>>>;

impl Path {
    /// How many instructions it takes, once.
    fn count(&self) -> Result<f64, Box<dyn Error>> {
        let more = self.instructions(1 + ITERATIONS)? - self.instructions(1)?;
        Ok(more as f64 / (ITERATIONS * SAMPLES) as f64)
    }

    /// Counts the instructions of a process that runs `iterations` iterations.
    fn instructions(&self, iterations: u64) -> Result<u64, Box<dyn Error>> {
        let output = Command::new("valgrind")
            .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/stdout"])
            .arg(env::current_exe()?)
            .args([ITERATE, self.name, &iterations.to_string()])
            .output()
            .map_err(|error| format!("valgrind, a package of every Linux, cannot run: {error}"))?;
        let report = String::from_utf8_lossy(&output.stdout);
        let summary = report.lines().find_map(|line| line.strip_prefix("summary:"));
        match summary {
            Some(count) if output.status.success() => Ok(count.trim().parse()?),
            _ => Err(String::from_utf8_lossy(&output.stderr).into()),
        }
    }

    fn iterate(&self, iterations: u64) -> Result<(), Box<dyn Error>> {
        let mut work = (self.work)(self.value)?;
        (0..iterations).try_for_each(|_| work())
    }
}

/// Asks this program to do what is counted: the flag, a path's name, and how often.
const ITERATE: &str = "--iterate";

const ITERATIONS: u64 = 4;

const PATHS: &[Path] = &[
    Path { name: "encode a put", work: encode_puts, value: reading },
    Path { name: "encode a put, 17 digits", work: encode_puts, value: computed },
    Path { name: "decode an acknowledgement", work: decode_acknowledgements, value: reading },
    Path { name: "decode a record", work: decode_answer, value: reading },
    Path { name: "decode a record, 17 digits", work: decode_answer, value: computed },
    Path { name: "decode a put", work: decode_puts, value: reading },
    Path { name: "decode a put, 17 digits", work: decode_puts, value: computed },
    Path { name: "encode a record", work: encode_answer, value: reading },
    Path { name: "encode a record, 17 digits", work: encode_answer, value: computed },
];

/// How many puts, acknowledgements or records an iteration has.
const SAMPLES: u64 = 10_000;

fn encode_puts(value: Value) -> Result<Work, Box<dyn Error>> {
    let puts: Vec<_> = samples(value)?.into_iter().map(Request::Put).collect();
    Ok(encode(ClientCodec::default, puts))
}

fn encode_answer(value: Value) -> Result<Work, Box<dyn Error>> {
    Ok(encode(ServerCodec::default, vec![answer(value)?]))
}

fn decode_acknowledgements(_: Value) -> Result<Work, Box<dyn Error>> {
    let acknowledgements = (0..SAMPLES).map(|_| Response::ok());
    Ok(decode(ClientCodec::default, encoded(ServerCodec::default(), acknowledgements)?))
}

fn decode_answer(value: Value) -> Result<Work, Box<dyn Error>> {
    Ok(decode(ClientCodec::default, encoded(ServerCodec::default(), [answer(value)?])?))
}

fn decode_puts(value: Value) -> Result<Work, Box<dyn Error>> {
    let puts = samples(value)?.into_iter().map(Request::Put);
    Ok(decode(ServerCodec::default, encoded(ClientCodec::default(), puts)?))
}

fn encode<I: Clone + 'static, C: Encoder<I, Error = CodecError> + 'static>(
    codec: fn() -> C,
    items: Vec<I>,
) -> Work {
    let mut buffer = BytesMut::new();
    consume(items, move |items| {
        buffer.clear();
        let mut codec = codec();
        items.into_iter().try_for_each(|item| codec.encode(item, &mut buffer))?;
        black_box(&buffer);
        Ok(())
    })
}

fn decode<C: Decoder<Error = CodecError> + 'static>(codec: fn() -> C, bytes: BytesMut) -> Work {
    consume(bytes, move |mut bytes| {
        let mut codec = codec();
        while let Some(item) = codec.decode(&mut bytes)? {
            black_box(item);
        }
        if bytes.is_empty() { Ok(()) } else { Err("the bytes are cut short".into()) }
    })
}

fn encoded<I, C: Encoder<I, Error = CodecError>>(
    mut codec: C,
    items: impl IntoIterator<Item = I>,
) -> Result<BytesMut, CodecError> {
    let mut bytes = BytesMut::new();
    items.into_iter().try_for_each(|item| codec.encode(item, &mut bytes))?;
    Ok(bytes)
}

/// Work that uses up what it works on: there is a copy for each iteration, made beforehand whether
/// it will be used or not, so that copying does not count.
fn consume<T: Clone + 'static>(
    input: T,
    mut work: impl FnMut(T) -> Result<(), Box<dyn Error>> + 'static,
) -> Work {
    let mut copies = vec![input; 1 + ITERATIONS as usize];
    Box::new(move || work(copies.pop().ok_or("there are no more copies")?))
}

fn answer(value: Value) -> Result<Response, InvalidKey> {
    Ok(Response::Ok(samples(value)?.into_iter().collect()))
}

/// Returns [`SAMPLES`] samples: 1,000 seconds of each key.
fn samples(value: Value) -> Result<Vec<Sample>, InvalidKey> {
    let sample = |number| {
        let key = format!("rack{:03}.cpu.user", number / 1_000);
        Sample::new(key, value(number), 1_150_864_247 + (number % 1_000) as i64)
    };
    (0..SAMPLES).map(sample).collect()
}
