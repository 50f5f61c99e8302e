//! The URL of an InfluxDB, and the sink that it stands for.

use std::{fmt, fs, path::PathBuf, time::Duration};

use form_urlencoded::Serializer;
use hyper::http::Uri;
use metrics_client::client::{Address, BoxConnector, Connector, DefaultConnector};
use percent_encoding::percent_decode_str;

use super::{
    invalid_destination::InvalidDestination,
    sink::{InfluxAccess, InfluxSink, RequestHead, chain},
};

/// What the URL of an InfluxDB says. `Display` writes it without user and password.
#[derive(Clone, Debug)]
pub(super) struct InfluxUrl {
    is_tls: bool,
    host: String,
    port: u16,
    target: InfluxTarget,
    pub(super) access: InfluxAccess,
    gzip: bool,
    timeout: Duration,
    ca_file: Option<PathBuf>,
}

#[derive(Clone, Debug)]
enum InfluxTarget {
    /// 1.x.
    Database { name: String, policy: Option<String> },
    /// 2.x.
    Bucket { org: String, name: String },
}

const DEFAULT_PORT: u16 = 8086;

/// influxd itself ends a write after 10 seconds.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

impl InfluxUrl {
    pub(super) fn parse(url: &str) -> Result<Self, InvalidDestination> {
        let invalid = InvalidDestination::new;
        // The error must not show the password.
        let uri: Uri = url
            .strip_prefix("influx+")
            .and_then(|url| url.parse().ok())
            .ok_or_else(|| invalid("an InfluxDB is influx+http://host:8086/DATABASE"))?;
        let is_tls = uri.scheme_str() == Some("https");
        let (authority, host) = match (uri.authority(), uri.host()) {
            (Some(authority), Some(host)) if !host.is_empty() => (authority.as_str(), host),
            _ => return Err(invalid("the host is missing")),
        };
        let access = match authority.rsplit_once('@') {
            None => InfluxAccess::Nothing,
            Some((user, _)) => {
                let (name, password) = user.split_once(':').unwrap_or((user, ""));
                InfluxAccess::User { name: decoded(name)?, password: decoded(password)? }
            }
        };
        let database = decoded(uri.path().trim_start_matches('/'))?;
        let (mut policy, mut org, mut bucket, mut ca_file) = (None, None, None, None);
        let (mut gzip, mut timeout) = (true, DEFAULT_TIMEOUT);
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or("").as_bytes()) {
            let value = value.into_owned();
            match (&*name, &*value) {
                ("rp", _) => policy = Some(value),
                ("org", _) => org = Some(value),
                ("bucket", _) => bucket = Some(value),
                ("gzip", "on" | "off") => gzip = value == "on",
                ("request_timeout", _) => {
                    let seconds = value.strip_suffix('s').and_then(|seconds| seconds.parse().ok());
                    let seconds = seconds.filter(|&seconds: &u32| seconds > 0);
                    let message = "request_timeout is a number of seconds, such as 30s";
                    let seconds = seconds.ok_or_else(|| invalid(message))?;
                    timeout = Duration::from_secs(seconds.into());
                }
                ("ca_file", _) if is_tls => ca_file = Some(PathBuf::from(value)),
                ("ca_file", _) => return Err(invalid("ca_file is for influx+https")),
                _ => {
                    let message = format!(
                        "unknown option {name}={value}; InfluxDB has rp, org, bucket, gzip=on|off, request_timeout and ca_file"
                    );
                    return Err(invalid(&message));
                }
            }
        }
        let target = match (database.is_empty(), org, bucket) {
            (false, None, None) => InfluxTarget::Database { name: database, policy },
            (true, Some(org), Some(name)) if policy.is_none() => InfluxTarget::Bucket { org, name },
            _ => {
                return Err(invalid(
                    "name a database, influx+http://host:8086/DATABASE, or org and bucket, influx+http://host:8086/?org=ORG&bucket=BUCKET",
                ));
            }
        };
        let port = uri.port_u16().unwrap_or(DEFAULT_PORT);
        Ok(Self { is_tls, host: host.to_owned(), port, target, access, gzip, timeout, ca_file })
    }

    /// Returns the path of a write.
    fn path(&self) -> String {
        let mut query = Serializer::new(String::new());
        let path = match &self.target {
            InfluxTarget::Database { name, policy } => {
                query.append_pair("db", name);
                if let Some(policy) = policy {
                    query.append_pair("rp", policy);
                }
                "/write"
            }
            InfluxTarget::Bucket { org, name } => {
                query.append_pair("org", org).append_pair("bucket", name);
                "/api/v2/write"
            }
        };
        query.append_pair("precision", "s");
        format!("{path}?{}", query.finish())
    }

    /// Returns a sink that writes there.
    ///
    /// # Errors
    ///
    /// If the address or the file of certificates cannot be used.
    pub(super) fn sink(self) -> Result<InfluxSink, Box<dyn std::error::Error + Send + Sync>> {
        let scheme = if self.is_tls { "metrics+tls" } else { "metrics" };
        let address: Address = format!("{scheme}://{}:{}", self.host, self.port).parse()?;
        let connector = self.connector()?;
        connector.check_address(&address)?;
        let host = format!("{}:{}", self.host, self.port);
        let path = self.path();
        let request = RequestHead { path, host, access: self.access, gzip: self.gzip };
        request.check()?;
        Ok(InfluxSink::new(connector, address, request, self.timeout))
    }

    fn connector(&self) -> Result<BoxConnector, Box<dyn std::error::Error + Send + Sync>> {
        let Some(path) = &self.ca_file else { return Ok(DefaultConnector::new().boxed()) };
        let pem = fs::read(path)
            .map_err(|error| format!("cannot read ca_file {}: {error}", path.display()))?;
        #[cfg(feature = "tls")]
        {
            let connector = metrics_client::tls::TlsConnector::with_root_certificates(pem);
            Ok(connector
                .map_err(|error| format!("ca_file {}: {}", path.display(), chain(&error)))?
                .boxed())
        }
        #[cfg(not(feature = "tls"))]
        {
            let _ = (pem, chain);
            Err("influx+https needs the feature `tls`".into())
        }
    }
}

fn decoded(text: &str) -> Result<String, InvalidDestination> {
    let text = percent_decode_str(text).decode_utf8();
    Ok(text.map_err(|_| InvalidDestination::new("a part of the URL is not UTF-8"))?.into_owned())
}

impl fmt::Display for InfluxUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.is_tls { "s" } else { "" };
        write!(f, "influx+http{s}://{}:{}/", self.host, self.port)?;
        match &self.target {
            InfluxTarget::Database { name, .. } => f.write_str(&percent_encoded(name)),
            InfluxTarget::Bucket { org, name } => {
                write!(f, "{}/{}", percent_encoded(org), percent_encoded(name))
            }
        }
    }
}

fn percent_encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_database_or_a_bucket() {
        for (url, path, shown) in [
            ("influx+http://palm:8086/m", "/write?db=m&precision=s", "influx+http://palm:8086/m"),
            (
                "influx+http://u:p%40ss@[::1]:1/m%20n?rp=a+b&gzip=off",
                "/write?db=m+n&rp=a+b&precision=s",
                "influx+http://[::1]:1/m%20n",
            ),
            (
                "influx+https://palm/?org=o&bucket=b",
                "/api/v2/write?org=o&bucket=b&precision=s",
                "influx+https://palm:8086/o/b",
            ),
        ] {
            let parsed = InfluxUrl::parse(url).unwrap();
            assert_eq!((parsed.path().as_str(), parsed.to_string().as_str()), (path, shown));
        }
        let parsed = InfluxUrl::parse("influx+http://u:p%40s:s@palm/m?request_timeout=5s").unwrap();
        let InfluxAccess::User { name, password } = &parsed.access else { panic!() };
        assert_eq!((name.as_str(), password.as_str()), ("u", "p@s:s"));
        assert_eq!(parsed.timeout, Duration::from_secs(5));
    }

    #[test]
    fn invalid_url_says_why_without_the_password() {
        for (url, reason) in [
            ("influx+http://u:secret@palm:8086", "name a database"),
            ("influx+http://u:secret@palm/m?org=o", "name a database"),
            ("influx+http://u:secret@palm/?org=o&bucket=b&rp=x", "name a database"),
            ("influx+http://u:secret@palm/m?retention=x", "unknown option retention=x"),
            ("influx+http://u:secret@palm/m?gzip=1", "unknown option gzip=1"),
            ("influx+http://u:secret@palm/m?request_timeout=0s", "number of seconds"),
            ("influx+http://u:secret@palm/m?ca_file=x", "is for influx+https"),
            ("influx+http://u:secret@/m", "influx+http"),
            ("influx+http://u:secret@palm/%ff", "not UTF-8"),
        ] {
            let error = InfluxUrl::parse(url).unwrap_err().to_string();
            assert!(error.contains(reason) && !error.contains("secret"), "{url}: {error}");
        }
    }
}
