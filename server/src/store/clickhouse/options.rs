//! Options of a [`ClickHouseStore`](super::ClickHouseStore), and the URL that holds them.

use std::{fmt, str::FromStr, time::Duration};

/// Where a [`ClickHouseStore`](super::ClickHouseStore) keeps its points, and how.
///
/// ```
/// use metrics_server::store::ClickHouseOptions;
///
/// let url = "clickhouse://metrics:secret@ch1:8123,ch2:8123/metrics?cluster=main&quorum=2";
/// let options: ClickHouseOptions = url.parse()?;
/// assert_eq!(options.to_string(), "clickhouse://metrics@ch1:8123,ch2:8123/metrics");
/// # Ok::<(), metrics_server::store::InvalidClickHouseUrl>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ClickHouseOptions {
    /// Each `host:port`, at least one.
    pub(super) hosts: Vec<String>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: String,
    pub(super) table: String,
    pub(super) cluster: Option<String>,
    pub(super) quorum: Option<u32>,
    pub(super) compression: CompressionChoice,
    pub(super) max_rows: usize,
    pub(super) max_wait: Duration,
    pub(super) timeout: Duration,
    pub(super) max_queue_bytes: usize,
    pub(super) node: Option<u16>,
    pub(super) keep: Option<Duration>,
}

/// How blocks and answers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CompressionChoice {
    None,
    Lz4,
}

impl ClickHouseOptions {
    /// Sets how long points are kept, by their timestamps, in whole seconds. Default: as long as the table says.
    ///
    /// Older points are not shown, and the cluster removes them (`TTL`); a put that is older fails with a final
    /// error, `older than` this time. ClickHouse can do so from version 19.6 on.
    #[must_use]
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = Some(keep);
        self
    }

    /// Lowers the memory of puts that wait to this number of bytes, at least 1 MiB. Default: 64 MiB, or what the URL says.
    ///
    /// What does not fit fails with a [transient](crate::store::StoreError::is_transient) error.
    #[must_use]
    pub fn max_queue_bytes(mut self, bytes: usize) -> Self {
        self.max_queue_bytes = self.max_queue_bytes.min(bytes.max(1024 * 1024));
        self
    }
}

impl FromStr for ClickHouseOptions {
    type Err = InvalidClickHouseUrl;

    /// Parses `clickhouse://[USER[:PASSWORD]@]HOST[:PORT],../DATABASE[?OPTION=VALUE&..]`; the options are described
    /// in `docs/clickhouse.md`.
    fn from_str(url: &str) -> Result<Self, InvalidClickHouseUrl> {
        let invalid = |what: String| InvalidClickHouseUrl(what.into());
        let rest = url.strip_prefix("clickhouse://").ok_or_else(|| {
            invalid("the form is clickhouse://USER:PASSWORD@HOST:PORT,../DATABASE".into())
        })?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (userinfo, hosts) = match authority.rsplit_once('@') {
            Some((userinfo, hosts)) => (Some(userinfo), hosts),
            None => (None, authority),
        };
        let (user, password) = match userinfo.map(|info| info.split_once(':').unwrap_or((info, "")))
        {
            Some((user, password)) => (decoded(user)?, decoded(password)?),
            None => (String::new(), String::new()),
        };
        let database = if database.is_empty() { "default".into() } else { decoded(database)? };
        let mut options = Self {
            hosts: hosts.split(',').map(host).collect::<Result<_, _>>()?,
            user: Some(user).filter(|user| !user.is_empty()),
            password: Some(password).filter(|password| !password.is_empty()),
            database: name("database", &database)?,
            table: "metrics".into(),
            cluster: None,
            quorum: None,
            compression: CompressionChoice::None,
            max_rows: 10_000,
            max_wait: Duration::from_millis(50),
            timeout: Duration::from_secs(5),
            max_queue_bytes: 64 * 1024 * 1024,
            node: None,
            keep: None,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (option, value) = pair.split_once('=').unwrap_or((pair, ""));
            options.set(option, &decoded(value)?)?;
        }
        if options.quorum.is_some() && options.cluster.is_none() {
            return Err(invalid("quorum is for a cluster: set cluster=NAME too".into()));
        }
        Ok(options)
    }
}

impl ClickHouseOptions {
    fn set(&mut self, option: &str, value: &str) -> Result<(), InvalidClickHouseUrl> {
        match option {
            "cluster" => self.cluster = Some(name("cluster", value)?),
            "table" => self.table = name("table", value)?,
            "quorum" => self.quorum = Some(number(option, value, 2..=64)? as u32),
            "compression" => {
                self.compression = match value {
                    "none" => CompressionChoice::None,
                    "lz4" => CompressionChoice::Lz4,
                    _ => return Err(invalid_value(option, value, "none or lz4")),
                };
            }
            "rows" => self.max_rows = number(option, value, 1..=1_000_000)? as usize,
            "wait" => self.max_wait = time(option, value, 1..=10_000)?,
            "timeout" => self.timeout = time(option, value, 100..=10_000)?,
            "queue_mib" => {
                self.max_queue_bytes = number(option, value, 1..=65_536)? as usize * 1024 * 1024;
            }
            "node" => self.node = Some(number(option, value, 0..=MAX_NODE)? as u16),
            _ => {
                let message = format!(
                    "unknown option {option:?}: there are cluster, quorum, compression, rows, wait, timeout, queue_mib, \
                     table and node"
                );
                return Err(InvalidClickHouseUrl(message.into()));
            }
        }
        Ok(())
    }
}

/// The largest number of a node: see [`Clock`](super::clock::Clock).
const MAX_NODE: u64 = super::clock::MAX_NODE;

impl fmt::Display for ClickHouseOptions {
    /// Formats the URL without password and options.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("clickhouse://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        write!(f, "{}/{}", self.hosts.join(","), self.database)
    }
}

impl fmt::Debug for ClickHouseOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClickHouseOptions({self})")
    }
}

/// A URL of a ClickHouse store that cannot be used. Its `Display` does not show the password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid ClickHouse URL: {0}")]
pub struct InvalidClickHouseUrl(Box<str>);

fn host(text: &str) -> Result<String, InvalidClickHouseUrl> {
    let invalid = || InvalidClickHouseUrl(format!("invalid host {text:?}: use HOST:PORT").into());
    let has_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_name = |name: &str| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        !name.is_empty() && name.chars().all(is_part)
    };
    let (name, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((address, port)) => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| invalid())?;
            (format!("[{address}]"), port)
        }
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            if !is_name(name) {
                return Err(invalid());
            }
            (name.to_owned(), port)
        }
    };
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(format!("{name}:{DEFAULT_PORT}")),
        Some(port) if has_port(port) => Ok(format!("{name}:{port}")),
        _ => Err(invalid()),
    }
}

/// The port of ClickHouse's HTTP interface.
const DEFAULT_PORT: u16 = 8123;

/// Checks a name that becomes a part of statements.
fn name(what: &str, text: &str) -> Result<String, InvalidClickHouseUrl> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let begins_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if begins_well && text.len() <= 64 && text.chars().all(is_part) {
        return Ok(text.to_owned());
    }
    let message = format!("invalid {what} {text:?}: use letters, digits and _");
    Err(InvalidClickHouseUrl(message.into()))
}

fn invalid_value(option: &str, value: &str, form: &str) -> InvalidClickHouseUrl {
    InvalidClickHouseUrl(format!("invalid {option} {value:?}: use {form}").into())
}

fn number(
    option: &str,
    value: &str,
    range: std::ops::RangeInclusive<u64>,
) -> Result<u64, InvalidClickHouseUrl> {
    let number = value.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let form = format!("a number from {} to {}", range.start(), range.end());
        invalid_value(option, value, &form)
    })
}

/// Parses `50ms` or `10s`; `range` is in milliseconds.
fn time(
    option: &str,
    value: &str,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Duration, InvalidClickHouseUrl> {
    let millis = match (value.strip_suffix("ms"), value.strip_suffix('s')) {
        (Some(millis), _) => millis.parse().ok(),
        (None, Some(seconds)) => {
            seconds.parse::<u64>().ok().and_then(|seconds| seconds.checked_mul(1000))
        }
        (None, None) => None,
    };
    let millis = millis.filter(|millis| range.contains(millis));
    let time = millis.map(Duration::from_millis);
    time.ok_or_else(|| {
        let form = format!("a time from {}ms to {}ms, such as 50ms", range.start(), range.end());
        invalid_value(option, value, &form)
    })
}

/// Decodes `%40`.
fn decoded(text: &str) -> Result<String, InvalidClickHouseUrl> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(|| InvalidClickHouseUrl("a % that encodes nothing".into()))?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| InvalidClickHouseUrl("a % that encodes no text".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<ClickHouseOptions, String> {
        url.parse().map_err(|error: InvalidClickHouseUrl| error.to_string())
    }

    #[test]
    fn url_has_hosts_user_database_and_options() {
        let options = parse(
            "clickhouse://m:p%40s%3Aword@a:1,[::1]:2,c/db?cluster=main&quorum=2&compression=lz4&rows=5&wait=1s&\
             timeout=250ms&queue_mib=3&table=t&node=7",
        )
        .unwrap();
        assert_eq!(options.hosts, ["a:1", "[::1]:2", "c:8123"]);
        assert_eq!(options.user.as_deref(), Some("m"));
        assert_eq!(options.password.as_deref(), Some("p@s:word"));
        assert_eq!((&*options.database, &*options.table), ("db", "t"));
        assert_eq!((options.cluster.as_deref(), options.quorum), (Some("main"), Some(2)));
        assert_eq!((options.max_rows, options.max_wait), (5, Duration::from_secs(1)));
        assert_eq!((options.timeout, options.node), (Duration::from_millis(250), Some(7)));
        assert_eq!(options.max_queue_bytes, 3 << 20);
        assert_eq!(options.compression, CompressionChoice::Lz4);
        for shown in [options.to_string(), format!("{options:?}")] {
            assert!(!shown.contains("word"), "{shown}");
        }
        let plain = parse("clickhouse://localhost").unwrap();
        assert_eq!((&*plain.hosts[0], &*plain.database), ("localhost:8123", "default"));
        assert_eq!((plain.user, plain.max_rows, plain.quorum), (None, 10_000, None));
    }

    #[test]
    fn invalid_url_says_what_is_wrong_with_it() {
        for (url, expected) in [
            ("http://a", "the form is"),
            ("clickhouse://", "invalid host"),
            ("clickhouse://a:0/d", "invalid host"),
            ("clickhouse://a:x/d", "invalid host"),
            ("clickhouse://a,/d", "invalid host"),
            ("clickhouse://a b/d", "invalid host"),
            ("clickhouse://[::1/d", "invalid host"),
            ("clickhouse://a/d'b", "invalid database"),
            ("clickhouse://a/d/e", "invalid database"),
            ("clickhouse://a/d?quorm=2", "unknown option \"quorm\""),
            ("clickhouse://a/d?quorum=1&cluster=c", "invalid quorum"),
            ("clickhouse://a/d?quorum=2", "quorum is for a cluster"),
            ("clickhouse://a/d?compression=gzip", "use none or lz4"),
            ("clickhouse://a/d?wait=50", "such as 50ms"),
            ("clickhouse://a/d?timeout=11s", "such as 50ms"),
            ("clickhouse://a/d?node=512", "a number from 0 to 511"),
            ("clickhouse://u:%zz@a/d", "encodes nothing"),
            ("clickhouse://u:secret@a/d?x=1", "unknown option"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("secret"));
        }
    }
}
