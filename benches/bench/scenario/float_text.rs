//! Printing and parsing values: this crate against other crates, and against std.
//!
//! What a crate gains here is what it could gain in the codec at most.

use std::{
    fmt::Write,
    hint::black_box,
    rc::Rc,
    time::{Duration, Instant},
};

use super::{Candidate, Comparison, Comparisons};
use crate::support::values;

// The bench's own copy of the module: it is no part of the crate's API.
#[allow(dead_code, unreachable_pub, unused_imports, reason = "only values are measured here")]
#[path = "../../../src/protocol/number.rs"]
mod number;

/// Printing and parsing values, short ones and long ones.
pub(super) fn comparisons() -> Comparisons {
    Ok(vec![
        print("print f64", values::reading),
        print("print f64, 17 digits", values::computed),
        parse("parse f64", values::reading),
        parse("parse f64, 17 digits", values::computed),
    ])
}

/// More values than a branch predictor can learn.
const VALUES: u64 = 10_000;

fn print(name: &str, value: fn(u64) -> f64) -> Comparison {
    let values: Rc<[f64]> = (0..VALUES).map(value).collect();
    // The text is looked at, or the compiler would leave half of the printing out.
    let ours = each("this crate", &values, |&value| {
        let mut text = [0; number::MAX_VALUE_LEN];
        let len = number::write_value(&mut text, value);
        black_box(&text);
        len
    });
    let zmij = each("zmij", &values, |&value| black_box(zmij::Buffer::new().format(value)).len());
    let ryu = each("ryu", &values, |&value| black_box(ryu::Buffer::new().format(value)).len());
    let mut text = String::new();
    let std = each("std", &values, move |value| {
        text.clear();
        write!(text, "{value}").expect("a string takes everything");
        black_box(&text).len()
    });
    Comparison { name: name.into(), elements: VALUES, candidates: vec![ours, zmij, ryu, std] }
}

fn parse(name: &str, value: fn(u64) -> f64) -> Comparison {
    let texts: Rc<[String]> = (0..VALUES).map(|number| value(number).to_string()).collect();
    // This crate's way is fast-float2.
    let ours = each("this crate", &texts, |text| number::parse_value(text.as_bytes()));
    let std = each("std", &texts, |text| text.parse::<f64>());
    Comparison { name: name.into(), elements: VALUES, candidates: vec![ours, std] }
}

/// One who does `work` with each of `items`.
fn each<T: 'static, R>(
    name: &'static str,
    items: &Rc<[T]>,
    mut work: impl FnMut(&T) -> R + 'static,
) -> Candidate {
    let items = Rc::clone(items);
    Candidate::new(name, move |iterations| -> Duration {
        let start = Instant::now();
        for _ in 0..iterations {
            for item in &*items {
                black_box(work(black_box(item)));
            }
        }
        start.elapsed()
    })
}
