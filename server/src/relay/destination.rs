//! [`Destination`]: where a relay sends points, as a URL.

use std::{fmt, str::FromStr};

use metrics_client::client::Addresses;

use super::{influx_url::InfluxUrl, invalid_destination::InvalidDestination};

/// Where a relay sends points.
///
/// | URL | destination |
/// |---|---|
/// | `metrics://host:port`, `metrics+tls://..`, `metrics+unix://..` | another server of this protocol, with the options and lists of [`Addresses`] |
/// | `influx+http://host:8086/DATABASE`, `influx+https://..` | InfluxDB 1.x, with `rp=POLICY` if wanted |
/// | `influx+http://host:8086/?org=ORG&bucket=BUCKET` | InfluxDB 2.x |
///
/// Before the host of InfluxDB there may be `user:password@`, percent-encoded. Its other options are `gzip=off`,
/// `request_timeout=30s`, and with https `ca_file=PATH` of a PEM file.
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
    Influx(Box<InfluxUrl>),
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
            "influx+http" | "influx+https" => {
                let url = InfluxUrl::parse(url)?;
                let text = url.to_string();
                Ok(Self { kind: DestinationKind::Influx(Box::new(url)), text })
            }
            _ => Err(InvalidDestination::new(format!(
                "unknown scheme {scheme:?}; use one of {SCHEMES}"
            ))),
        }
    }
}

const SCHEMES: &str = "metrics, metrics+tls, metrics+unix, influx+http, influx+https";

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
            ("influx+http://u:p@influx:8086/m%20n?rp=x", "influx-http-influx-8086-m-20n"),
            ("influx+https://influx/?org=o&bucket=b/c", "influx-https-influx-8086-o-b-2Fc"),
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
