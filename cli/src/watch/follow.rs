//! Watching without a table: a line for each new point.

use std::collections::HashMap;

use metrics_client::{Key, Metrics, Point, Sample};

use super::{WatchArgs, poll::Poller};
use crate::{failure::Failure, output::Printer, selection::Selection};

/// Prints the newest point of each key, and then each point that is newer, until the reader of the output has gone or a
/// signal ends the program.
pub(super) async fn run(args: &WatchArgs, selection: &Selection) -> Result<(), Failure> {
    let server = &args.server;
    let client = server.connect().await?;
    let mut poller = Poller::new(client, server, selection, args.interval);
    let mut printer = Printer::new(args.output.format());
    let mut follower = Follower::default();
    let (mut has_read, mut is_away, mut left_out) = (false, false, 0);
    loop {
        match poller.read(|sample| follower.push(sample)).await {
            Ok(read) => {
                if std::mem::take(&mut is_away) {
                    eprintln!("{} answers again", server.server);
                }
                if std::mem::replace(&mut left_out, read.left_out) == 0 && left_out > 0 {
                    eprintln!("keys left out, because too many match: {left_out}");
                }
                has_read = true;
            }
            // What cannot be read at all is an error of the command.
            Err(failure) if !has_read => return Err(failure),
            Err(failure) => {
                if !std::mem::replace(&mut is_away, true) {
                    eprintln!("{failure}; trying again");
                }
            }
        }
        for sample in follower.take() {
            printer.print(&sample.key, sample.point)?;
        }
        printer.flush()?;
    }
}

/// Finds what is new in what is read again and again.
#[derive(Debug, Default)]
struct Follower {
    /// The newest point of each key that was printed.
    seen: HashMap<Key, Point>,
    /// The newest points of keys that were not.
    new_keys: HashMap<Key, Point>,
    /// Points of known keys that may be new.
    candidates: Vec<Sample>,
}

impl Follower {
    /// Takes a point that was read.
    fn push(&mut self, sample: Sample) {
        let Sample { key, point } = &sample;
        match self.seen.get(key) {
            Some(seen) if point.timestamp < seen.timestamp => {}
            Some(_) => self.candidates.push(sample),
            None => match self.new_keys.get_mut(key) {
                Some(newest) if point.timestamp < newest.timestamp => {}
                Some(newest) => *newest = *point,
                None => {
                    self.new_keys.insert(key.clone(), *point);
                }
            },
        }
    }

    /// Returns what is new since the last call, in the order of time.
    fn take(&mut self) -> Vec<Sample> {
        // Of several records of one second the last one counts.
        let known = std::mem::take(&mut self.candidates).into_iter().collect::<Metrics>();
        let is_new = |sample: &Sample| {
            self.seen.get(&sample.key).is_none_or(|seen| {
                seen.timestamp != sample.point.timestamp
                    || seen.value.to_bits() != sample.point.value.to_bits()
            })
        };
        let mut new = known.into_samples().filter(is_new).collect::<Vec<_>>();
        new.extend(self.new_keys.drain().map(|(key, point)| Sample { key, point }));
        new.sort_unstable_by(|a, b| (a.point.timestamp, &a.key).cmp(&(b.point.timestamp, &b.key)));
        for sample in &new {
            self.seen.insert(sample.key.clone(), sample.point);
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is new when this is read.
    fn read(follower: &mut Follower, records: &[(&str, f64, i64)]) -> Vec<String> {
        for (key, value, second) in records {
            follower.push(Sample::new(*key, *value, *second).unwrap());
        }
        let new = follower.take();
        new.iter()
            .map(|sample| {
                format!("{} {} {}", sample.key, sample.point.value, sample.point.timestamp)
            })
            .collect()
    }

    #[test]
    fn newest_points_come_first_and_then_newer_ones() {
        let mut follower = Follower::default();
        assert_eq!(
            read(&mut follower, &[("b", 1.0, 1), ("b", 2.0, 5), ("a", 3.0, 2)]),
            ["a 3 2", "b 2 5"]
        );
        let same = [("b", 1.0, 1), ("b", 2.0, 5), ("a", 3.0, 2)];
        assert!(read(&mut follower, &same).is_empty());
        let more = [("b", 2.0, 5), ("b", 2.5, 6), ("b", 2.6, 7), ("a", 3.0, 2), ("c", 9.0, 6)];
        assert_eq!(read(&mut follower, &more), ["b 2.5 6", "c 9 6", "b 2.6 7"]);
        // A new value of the newest second is new, an older second is not.
        assert_eq!(read(&mut follower, &[("b", 0.0, 3), ("b", 2.7, 7)]), ["b 2.7 7"]);
    }

    #[test]
    fn last_of_several_records_of_a_second_counts() {
        let mut follower = Follower::default();
        let records = [("a", 1.0, 5), ("a", 2.0, 5)];
        assert_eq!(read(&mut follower, &records), ["a 2 5"]);
        assert!(read(&mut follower, &records).is_empty());
        let nan = [("a", f64::NAN, 6)];
        assert_eq!(read(&mut follower, &nan), ["a NaN 6"]);
        assert!(read(&mut follower, &nan).is_empty());
    }
}
