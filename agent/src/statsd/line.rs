//! Parses lines of StatsD, with the extensions of DogStatsD: `NAME:VALUE|TYPE|@RATE|#TAG:VALUE,TAG|TTIME`.

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Line<'a> {
    Metric(Metric<'a>),
    /// An event or a service check.
    Skipped,
    Empty,
}

/// Values of a name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Metric<'a> {
    pub(super) name: &'a str,
    pub(super) kind: MetricKind,
    /// Separated by colons, except those of a set. All are finite numbers, except those of a set.
    values: &'a str,
    /// Of all events the part that was sent.
    pub(super) rate: f64,
    /// As in the line: with commas between them.
    pub(super) tags: &'a str,
    /// Seconds since the Unix epoch.
    pub(super) timestamp: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum MetricKind {
    Counter,
    Gauge,
    /// Also histograms and distributions.
    Timer,
    Set,
}

/// Why a line is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidLine {
    #[error("not UTF-8")]
    Encoding,
    #[error("missing name")]
    Name,
    #[error("missing type")]
    MissingKind,
    #[error("unknown type")]
    Kind,
    #[error("value is not a finite number")]
    Value,
    #[error("sampling rate is not above 0 and at most 1")]
    Rate,
    #[error("timestamp is not a number of seconds")]
    Timestamp,
}

impl<'a> Line<'a> {
    /// Parses a line without its line break.
    pub(super) fn parse(line: &'a [u8]) -> Result<Self, InvalidLine> {
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(Self::Empty);
        }
        if line.starts_with(b"_e{") || line.starts_with(b"_sc|") {
            return Ok(Self::Skipped);
        }
        let line = std::str::from_utf8(line).map_err(|_| InvalidLine::Encoding)?;
        let (name, rest) = line.split_once(':').ok_or(InvalidLine::Name)?;
        if name.is_empty() {
            return Err(InvalidLine::Name);
        }
        let mut fields = rest.split('|');
        let values = fields.next().unwrap_or_default();
        let kind = match fields.next().ok_or(InvalidLine::MissingKind)? {
            "c" => MetricKind::Counter,
            "g" => MetricKind::Gauge,
            "ms" | "h" | "d" => MetricKind::Timer,
            "s" => MetricKind::Set,
            _ => return Err(InvalidLine::Kind),
        };
        let mut metric = Metric { name, kind, values, rate: 1.0, tags: "", timestamp: None };
        for field in fields {
            // Fields that others have added, such as the container, are ignored.
            match field.split_at_checked(1) {
                Some(("@", rate)) => metric.rate = parse_rate(rate)?,
                Some(("#", tags)) => metric.tags = tags,
                Some(("T", time)) => {
                    metric.timestamp = Some(time.parse().map_err(|_| InvalidLine::Timestamp)?);
                }
                _ => {}
            }
        }
        if kind == MetricKind::Set {
            if values.is_empty() {
                return Err(InvalidLine::Value);
            }
        } else if !values.split(':').all(|value| parse_value(value).is_some()) {
            return Err(InvalidLine::Value);
        }
        Ok(Self::Metric(metric))
    }
}

impl<'a> Metric<'a> {
    /// Returns the numbers, and for each if it has a sign: a gauge is then changed by it.
    pub(super) fn numbers(&self) -> impl Iterator<Item = (f64, bool)> + use<'a> {
        let signed = |text: &str| text.starts_with(['+', '-']);
        self.values.split(':').filter_map(move |text| Some((parse_value(text)?, signed(text))))
    }

    /// Returns the member of a set.
    pub(super) fn member(&self) -> &'a str {
        self.values
    }
}

fn parse_value(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|value| value.is_finite())
}

fn parse_rate(text: &str) -> Result<f64, InvalidLine> {
    let rate = text.parse::<f64>().ok().filter(|&rate| rate > 0.0 && rate <= 1.0);
    rate.ok_or(InvalidLine::Rate)
}

/// Returns tags with their values, sorted, the last of each name. A tag without a value is `true`.
pub(super) fn parse_tags(tags: &str) -> Vec<(&str, &str)> {
    let tags = tags.split(',').filter(|tag| !tag.is_empty());
    let mut tags = tags.map(|tag| tag.split_once(':').unwrap_or((tag, "true"))).collect::<Vec<_>>();
    tags.retain(|(name, _)| !name.is_empty());
    // A stable sort keeps those of one name in order.
    tags.reverse();
    tags.sort_by_key(|(name, _)| *name);
    tags.dedup_by_key(|(name, _)| *name);
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(line: &str) -> Metric<'_> {
        match Line::parse(line.as_bytes()) {
            Ok(Line::Metric(metric)) => metric,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn each_type_is_parsed() {
        for (line, kind, values) in [
            ("web.requests:1|c", MetricKind::Counter, &[(1.0, false)][..]),
            ("web.requests:-2|c\r", MetricKind::Counter, &[(-2.0, true)]),
            ("web.open:+4.5|g", MetricKind::Gauge, &[(4.5, true)]),
            ("web.time:320|ms", MetricKind::Timer, &[(320.0, false)]),
            ("web.size:1e3|h", MetricKind::Timer, &[(1000.0, false)]),
            ("web.size:1:2.5:3|d", MetricKind::Timer, &[(1.0, false), (2.5, false), (3.0, false)]),
        ] {
            let metric = metric(line);
            assert_eq!((metric.kind, metric.rate, metric.tags), (kind, 1.0, ""), "{line}");
            assert_eq!(metric.numbers().collect::<Vec<_>>(), values, "{line}");
        }
        let set = metric("users:2001:db8::1|s");
        assert_eq!((set.kind, set.member()), (MetricKind::Set, "2001:db8::1"));
    }

    #[test]
    fn fields_of_dogstatsd_come_in_any_order() {
        let metric =
            metric("a.b:1|c|@0.25|#env:prod,urgent,url:http://x|c:ci-1|T1150864247|e:x|card:low");
        assert_eq!(metric.rate, 0.25);
        assert_eq!(metric.timestamp, Some(1_150_864_247));
        let tags = [("env", "prod"), ("urgent", "true"), ("url", "http://x")];
        assert_eq!(parse_tags(metric.tags), tags);
    }

    #[test]
    fn last_tag_of_a_name_counts() {
        assert_eq!(parse_tags("b:1,a:1,b:2,,:3,c"), [("a", "1"), ("b", "2"), ("c", "true")]);
    }

    #[test]
    fn events_and_service_checks_are_skipped() {
        for line in ["_e{5,4}:title|text|#a:b", "_sc|name|0|m:x"] {
            assert_eq!(Line::parse(line.as_bytes()), Ok(Line::Skipped), "{line}");
        }
        for line in ["", " \r", "\t"] {
            assert_eq!(Line::parse(line.as_bytes()), Ok(Line::Empty));
        }
    }

    #[test]
    fn invalid_line_has_a_reason() {
        for (line, reason) in [
            (&b"a"[..], InvalidLine::Name),
            (b":1|c", InvalidLine::Name),
            (b"a:1", InvalidLine::MissingKind),
            (b"a:1|x", InvalidLine::Kind),
            (b"a:1|c:2|g", InvalidLine::Kind),
            (b"a:|c", InvalidLine::Value),
            (b"a:one|c", InvalidLine::Value),
            (b"a:nan|g", InvalidLine::Value),
            (b"a:1e999|g", InvalidLine::Value),
            (b"a:1::2|d", InvalidLine::Value),
            (b"a:|s", InvalidLine::Value),
            (b"a:1|c|@0", InvalidLine::Rate),
            (b"a:1|c|@1.5", InvalidLine::Rate),
            (b"a:1|c|@nan", InvalidLine::Rate),
            (b"a:1|c|Tnow", InvalidLine::Timestamp),
            (b"a\xff:1|c", InvalidLine::Encoding),
        ] {
            assert_eq!(Line::parse(line), Err(reason), "{}", String::from_utf8_lossy(line));
        }
    }
}
