//! What a cluster answers instead of a result.

use std::{error::Error, fmt};

use crate::store::StoreError;

/// Why ClickHouse could not be used.
#[derive(Debug)]
pub struct ClickHouseError {
    /// `host:port`.
    host: Box<str>,
    kind: ClickHouseErrorKind,
}

#[derive(Debug)]
enum ClickHouseErrorKind {
    /// It could not be reached, or the connection broke.
    Network(Box<dyn Error + Send + Sync>),
    TimedOut,
    /// An exception of ClickHouse, with its code if any.
    Exception {
        code: Option<u32>,
        message: Box<str>,
    },
    /// It cannot be used as it is configured.
    Unusable(Box<str>),
    /// An answer that is not what was asked for.
    InvalidAnswer(&'static str),
}

impl ClickHouseError {
    pub(super) fn new(host: &str, error: clickhouse::error::Error) -> Self {
        use clickhouse::error::Error as E;
        let kind = match error {
            E::BadResponse(message) => {
                let line = message.lines().next().unwrap_or_default();
                let short: String = line.chars().take(MAX_MESSAGE_CHARS).collect();
                ClickHouseErrorKind::Exception { code: code(line), message: short.into() }
            }
            E::TimedOut => ClickHouseErrorKind::TimedOut,
            E::Network(source) => ClickHouseErrorKind::Network(source),
            other => ClickHouseErrorKind::Network(other.into()),
        };
        Self { host: host.into(), kind }
    }

    pub(super) fn timed_out(host: &str) -> Self {
        Self { host: host.into(), kind: ClickHouseErrorKind::TimedOut }
    }

    pub(super) fn unusable(host: &str, message: impl Into<Box<str>>) -> Self {
        Self { host: host.into(), kind: ClickHouseErrorKind::Unusable(message.into()) }
    }

    pub(super) fn invalid_answer(host: &str, what: &'static str) -> Self {
        Self { host: host.into(), kind: ClickHouseErrorKind::InvalidAnswer(what) }
    }

    /// Returns the code of ClickHouse's exception, such as 252 for `TOO_MANY_PARTS`; `None` if there is none.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        match self.kind {
            ClickHouseErrorKind::Exception { code, .. } => code,
            _ => None,
        }
    }

    /// Returns true if every further attempt fails in the same way until the configuration is changed.
    pub(super) fn needs_configuration(&self) -> bool {
        match self.kind {
            ClickHouseErrorKind::Unusable(_) => true,
            ClickHouseErrorKind::Exception { code: Some(code), .. } => {
                CONFIGURATION_CODES.contains(&code)
            }
            _ => false,
        }
    }

    /// Returns true if a table is missing.
    pub(super) fn is_unknown_table(&self) -> bool {
        self.code() == Some(UNKNOWN_TABLE)
    }
}

/// Syntax (62), unknown database (81), unknown setting (115), cluster or macro (36, 139, 170, 701), user and password
/// (192 to 195, 516), permission (497).
const CONFIGURATION_CODES: [u32; 13] =
    [36, 62, 81, 115, 139, 170, 192, 193, 194, 195, 497, 516, 701];

const UNKNOWN_TABLE: u32 = 60;

/// How many characters of an exception are kept: it repeats the statement.
const MAX_MESSAGE_CHARS: usize = 300;

/// Parses `Code: 252, e.displayText() = ..` and `Code: 252. DB::Exception: ..`.
fn code(message: &str) -> Option<u32> {
    let rest = message.split_once("Code: ")?.1;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

impl fmt::Display for ClickHouseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClickHouse at {} ", self.host)?;
        match &self.kind {
            ClickHouseErrorKind::Network(_) => f.write_str("cannot be reached"),
            ClickHouseErrorKind::TimedOut => f.write_str("does not answer in time"),
            ClickHouseErrorKind::Exception { message, .. } => write!(f, "failed: {message}"),
            ClickHouseErrorKind::Unusable(message) => write!(f, "cannot be used: {message}"),
            ClickHouseErrorKind::InvalidAnswer(what) => write!(f, "sent an invalid answer: {what}"),
        }
    }
}

impl Error for ClickHouseError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            ClickHouseErrorKind::Network(source) => Some(&**source),
            _ => None,
        }
    }
}

impl From<ClickHouseError> for StoreError {
    /// Every failure of a cluster may pass, so that no put is answered with an error.
    fn from(error: ClickHouseError) -> Self {
        let message = match (&error.kind, error.code()) {
            (ClickHouseErrorKind::Network(_), _) => "ClickHouse cannot be reached".into(),
            (ClickHouseErrorKind::TimedOut, _) => "ClickHouse does not answer in time".into(),
            (_, Some(code)) => format!("ClickHouse failed with code {code}"),
            _ => "ClickHouse cannot be used".into(),
        };
        Self::transient(message).with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exception(message: &str) -> ClickHouseError {
        ClickHouseError::new("a:1", clickhouse::error::Error::BadResponse(message.into()))
    }

    #[test]
    fn code_is_read_from_old_and_new_exceptions() {
        let old = exception("Code: 252, e.displayText() = DB::Exception: Too many parts (300)");
        let new = exception("Code: 516. DB::Exception: default: Authentication failed");
        assert_eq!([old.code(), new.code()], [Some(252), Some(516)]);
        assert_eq!([old.needs_configuration(), new.needs_configuration()], [false, true]);
        assert_eq!(exception("502 Bad Gateway").code(), None);
        let error = StoreError::from(old);
        assert!(error.is_transient());
        assert_eq!(error.to_string(), "ClickHouse failed with code 252");
    }
}
