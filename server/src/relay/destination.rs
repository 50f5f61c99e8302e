//! [`Destination`]: where a relay sends points, as a URL.

use std::{fmt, str::FromStr};

use metrics_client::client::Addresses;

/// Where a relay sends points.
///
/// | URL | destination |
/// |---|---|
/// | `metrics://host:port`, `metrics+tls://..`, `metrics+unix://..` | another server of this protocol, with the options and lists of [`Addresses`] |
///
/// `Display` and `Debug` write it without user and password.
#[derive(Clone)]
pub struct Destination {
    pub(super) kind: DestinationKind,
    text: String,
}

#[derive(Clone)]
pub(super) enum DestinationKind {
    Metrics(Addresses),
}

/// Why a URL is not that of a destination. Its text has no user or password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid destination: {reason}")]
pub struct InvalidDestination {
    reason: String,
}

impl InvalidDestination {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

impl FromStr for Destination {
    type Err = InvalidDestination;

    fn from_str(url: &str) -> Result<Self, InvalidDestination> {
        let Some((scheme, _)) = url.split_once("://") else {
            return Err(InvalidDestination::new(format!("no scheme; use one of {SCHEMES}")));
        };
        match scheme {
            "metrics" | "metrics+tls" | "metrics+unix" => {
                let addresses: Addresses =
                    url.parse().map_err(|error| InvalidDestination::new(format!("{error}")))?;
                Ok(Self { kind: DestinationKind::Metrics(addresses), text: url.to_owned() })
            }
            _ => Err(InvalidDestination::new(format!(
                "unknown scheme {scheme:?}; use one of {SCHEMES}"
            ))),
        }
    }
}

const SCHEMES: &str = "metrics, metrics+tls, metrics+unix";

impl Destination {
    /// Returns a name for its relay, of the characters that a name may have.
    pub(super) fn default_name(&self) -> String {
        let (text, _) = self.text.split_once('?').unwrap_or((&self.text, ""));
        let mut name = String::new();
        for c in text.chars() {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') {
                name.push(c);
            } else if !name.ends_with('-') {
                name.push('-');
            }
        }
        name.trim_matches(['-', '.']).chars().take(MAX_NAME_LEN).collect()
    }
}

/// The longest name of a relay, which is also that of its folder.
pub(super) const MAX_NAME_LEN: usize = 128;

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Destination").field(&self.text).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_name_has_plain_characters() {
        for (url, name) in [
            ("metrics://palm:8888", "metrics-palm-8888"),
            ("metrics://palm:8888,eardrum:8888?connections=2", "metrics-palm-8888-eardrum-8888"),
            ("metrics+tls://[::1]:8889", "metrics-tls-1-8889"),
            ("metrics+unix:///run/m.sock", "metrics-unix-run-m.sock"),
        ] {
            assert_eq!(url.parse::<Destination>().unwrap().default_name(), name);
        }
    }

    #[test]
    fn invalid_destination_says_why() {
        for (url, reason) in [
            ("palm:8888", "no scheme"),
            ("http://palm:8888", "unknown scheme \"http\""),
            ("metrics://palm", "port"),
        ] {
            let error = url.parse::<Destination>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
