//! An answer split and parsed with the standard library alone.

use std::collections::HashMap;

/// A timestamp and a value.
pub(crate) type ParsedPoint = (i64, f64);

/// Reads a whole `ok` answer. Returns `None` for anything else.
pub(crate) fn split_and_parse(answer: &[u8]) -> Option<HashMap<String, Vec<ParsedPoint>>> {
    let records = std::str::from_utf8(answer).ok()?.strip_prefix("ok\n")?.strip_suffix('\n')?;
    let mut series: HashMap<String, Vec<ParsedPoint>> = HashMap::new();
    for record in records.lines() {
        let mut fields = record.split(' ');
        let key = fields.next()?;
        let value = fields.next()?.parse().ok()?;
        let timestamp = fields.next()?.parse().ok()?;
        match series.get_mut(key) {
            Some(rows) => rows.push((timestamp, value)),
            None => {
                series.insert(key.to_owned(), vec![(timestamp, value)]);
            }
        }
    }
    for rows in series.values_mut() {
        if !rows.is_sorted_by_key(|row| row.0) {
            rows.sort_by_key(|row| row.0);
        }
    }
    Some(series)
}
