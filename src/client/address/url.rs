//! Parses addresses and URLs.

use std::{borrow::Cow, str::FromStr};

use super::{
    Address, Addresses,
    errors::{ANY_FORM, TLS_FORM, invalid},
    host_port::HostPort,
    options::TlsOptions,
    unix_path::{self, UnixPath},
};
use crate::error::InvalidAddress;

const TCP: &str = "metrics://";
pub(super) const TLS: &str = "metrics+tls://";
const UNIX: &str = "metrics+unix://";

const TCP_FORM: &str =
    "metrics://host:port, such as metrics://metrics.internal:8888?max_connections=8";
const UNIX_FORM: &str = "metrics+unix:// and the absolute path of a Unix socket, such as \
                         metrics+unix:///run/metrics.sock";

/// Returns true for text that is meant for this crate, whatever is wrong with it.
fn is_ours(text: &str) -> bool {
    text.starts_with("metrics:")
        || text.starts_with("metrics+")
        || text.starts_with(unix_path::SCHEME)
}

impl FromStr for Addresses {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        parse(text)
    }
}

impl Addresses {
    /// Takes text of an unknown form for an address that a connector of the caller's own may understand.
    pub(super) fn parse_or_custom(text: &str) -> Result<Self, InvalidAddress> {
        match parse(text) {
            Err(error) if !is_ours(text) => Ok(Address::unparsed(text, error).into()),
            parsed => parsed,
        }
    }
}

/// Parses addresses with a comma between them.
fn parse(text: &str) -> Result<Addresses, InvalidAddress> {
    let mut all: Option<Addresses> = None;
    let mut rest = text;
    loop {
        // A comma within a URL is its own, unless another URL begins behind it.
        let end = rest.match_indices(',').map(|(at, _)| at).find(|&at| is_ours(&rest[at + 1..]));
        let part = parse_part(&rest[..end.unwrap_or(rest.len())])?;
        match &mut all {
            None => all = Some(part),
            Some(all) => all.append(part).map_err(|reason| invalid(text, reason, ANY_FORM))?,
        }
        match (end, all) {
            (Some(at), found) => (rest, all) = (&rest[at + 1..], found),
            (None, Some(all)) => return Ok(all),
            (None, None) => unreachable!("a part has been parsed"),
        }
    }
}

/// Parses one URL, or addresses that have no scheme or `unix:`.
fn parse_part(text: &str) -> Result<Addresses, InvalidAddress> {
    let scheme = [(TCP, TCP_FORM), (TLS, TLS_FORM), (UNIX, UNIX_FORM)]
        .into_iter()
        .find_map(|(scheme, form)| Some((scheme, form, text.strip_prefix(scheme)?)));
    if let Some((scheme, form, rest)) = scheme {
        return parse_url(scheme, rest).map_err(|reason| invalid(text, reason, form));
    }
    let mut servers = Addresses::none();
    for part in text.split(',') {
        if part.is_empty() && text.contains(',') {
            return Err(invalid(text, "an address of the list is empty", HostPort::FORM));
        }
        servers.push(parse_one(part)?);
    }
    Ok(servers)
}

/// Parses what follows the scheme of a URL.
fn parse_url(scheme: &str, rest: &str) -> Result<Addresses, Cow<'static, str>> {
    let (rest, query) =
        rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    if rest.contains('#') || query.is_some_and(|query| query.contains('#')) {
        return Err("it has a fragment (#...), which means nothing here".into());
    }
    let mut servers = Addresses::none();
    if scheme == UNIX {
        if !rest.starts_with('/') && !rest.starts_with('@') {
            return Err("the path is not absolute: a third slash begins it".into());
        }
        servers.push(parse_unix(&percent_decode(rest)?)?);
    } else {
        if scheme == TLS && !cfg!(feature = "tls") {
            return Err("this program was built without the feature `tls` of metrics-client".into());
        }
        // A lone slash behind the hosts is what URLs have before their query.
        let hosts = rest.strip_suffix('/').unwrap_or(rest);
        for host in hosts.split(',') {
            servers.push(parse_host(host, scheme == TLS)?);
        }
    }
    for option in query.into_iter().flat_map(|query| query.split('&')) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        servers.options.push(name, &percent_decode(value)?)?;
    }
    let has_tls_options = servers.options.tls() != TlsOptions::default();
    if has_tls_options && scheme != TLS {
        return Err(
            "ca_file, client_cert, client_key and server_name are for metrics+tls://".into()
        );
    }
    Ok(servers)
}

fn parse_one(text: &str) -> Result<Address, InvalidAddress> {
    if let Some(path) = text.strip_prefix(unix_path::SCHEME)
        && !path.starts_with("//")
    {
        return parse_unix(path).map_err(|reason| invalid(text, reason, UnixPath::FORM));
    }
    let reason = match text.split_once("://") {
        Some(("metrics+tcp" | "tcp", _)) => "the scheme for TCP is metrics://",
        Some(("metricss" | "tls", _)) => "the scheme for TLS is metrics+tls://",
        Some(("http" | "https", _)) => "the server does not speak HTTP; the scheme is metrics://",
        Some(("unix", _)) => "a path is written unix:/path or metrics+unix:///path",
        Some(_) => "the scheme is unknown",
        None if text.starts_with('/') => "a path is written unix:/path",
        None if text.contains('?') => "only a URL has options: metrics:// begins it",
        None => {
            return parse_host(text, false).map_err(|reason| invalid(text, reason, HostPort::FORM));
        }
    };
    Err(invalid(text, reason, ANY_FORM))
}

fn parse_host(text: &str, is_tls: bool) -> Result<Address, Cow<'static, str>> {
    if text.contains('@') {
        return Err("it has a user name or a password, and the protocol has neither".into());
    }
    if text.contains('/') {
        return Err("it has a path, and there is only a host and a port".into());
    }
    Ok(HostPort::parse(text).map(|target| Address::of_tcp(target, is_tls))?)
}

fn parse_unix(path: &str) -> Result<Address, Cow<'static, str>> {
    Ok(UnixPath::parse(path).map(Address::of_unix)?)
}

/// Returns the shortest form of a path's address. In a list, `unix:` ends at a comma.
pub(super) fn unix(path: &str) -> String {
    if !path.contains(',') || !path.starts_with(['/', '@']) {
        return format!("{}{path}", unix_path::SCHEME);
    }
    let encode = |c| match c {
        '%' | ',' | '?' | '#' => format!("%{:02X}", u32::from(c)),
        _ => String::from(c),
    };
    path.chars().fold(UNIX.to_owned(), |url, c| url + &encode(c))
}

/// Replaces `%` and two hexadecimal digits by the byte that they stand for.
fn percent_decode(text: &str) -> Result<Cow<'_, str>, &'static str> {
    if !text.contains('%') {
        return Ok(text.into());
    }
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or("a % is not followed by two hexadecimal digits")?);
        bytes.extend(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).map(Into::into).map_err(|_| "what % stands for is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(text).expect_err(text).to_string()
    }

    #[test]
    fn addresses_are_parsed_and_written_in_their_shortest_form() {
        for (text, shortest) in [
            ("a:1", "a:1"),
            ("metrics://a:1", "a:1"),
            ("metrics://a:1/", "a:1"),
            ("metrics://[::1]:8888/?max_connections=2", "[::1]:8888"),
            ("a:1,b:2", "a:1,b:2"),
            ("metrics://a:1,b:2,a:1?max_connections=8&max_connections=8", "a:1,b:2"),
            (
                "metrics://a:1?resend_unacknowledged=false,metrics://b:2?resend_unacknowledged=false",
                "a:1,b:2",
            ),
            #[cfg(unix)]
            ("unix:/run/m.sock", "unix:/run/m.sock"),
            #[cfg(unix)]
            ("unix:m.sock,b:2", "unix:m.sock,b:2"),
            #[cfg(unix)]
            ("metrics+unix:///run/a%20b%2Cc?max_connections=2", "metrics+unix:///run/a b%2Cc"),
            #[cfg(target_os = "linux")]
            ("metrics+unix://@name", "unix:@name"),
            #[cfg(feature = "tls")]
            ("metrics+tls://a:1,b:2?server_name=c", "metrics+tls://a:1,metrics+tls://b:2"),
        ] {
            let parsed = parse(text).expect(text).to_string();
            assert_eq!(parsed, shortest, "{text}");
        }
    }

    // FAULTS C9
    #[test]
    fn address_error_names_the_form_and_the_remedy() {
        for (text, reason) in [
            ("", "the port is missing; an address is host:port, such as"),
            ("tcp://a:1", "the scheme for TCP is metrics://"),
            ("http://a:1", "does not speak HTTP; the scheme is metrics://"),
            (
                "redis://a:1",
                "the scheme is unknown; an address is host:port, unix:/path, metrics://",
            ),
            ("unix:///m.sock", "a path is written unix:/path or metrics+unix:///path"),
            ("/run/m.sock", "a path is written unix:/path"),
            ("a:1?resend_unacknowledged=true", "only a URL has options: metrics:// begins it"),
            ("metrics://a", "the port is missing; an address is metrics://host:port"),
            ("metrics://", "the port is missing"),
            ("metrics://::1:8888", "written in brackets"),
            ("metrics://a:1/path", "it has a path"),
            ("metrics://a:1#x", "it has a fragment"),
            ("metrics://a:1,,b:2", "the port is missing"),
            ("a:1,", "an address of the list is empty"),
            ("a:1,b", "invalid address \"b\": the port is missing"),
            (
                "metrics://a:1?resend_unacknowledged=true,metrics://b:2?resend_unacknowledged=false",
                "another in another address",
            ),
            ("metrics+unix://run/m.sock", "a third slash begins it"),
            ("metrics://a:1?ca_file=/x", "are for metrics+tls://"),
            ("metrics://a:1?x=%2", "not followed by two hexadecimal digits"),
            ("metrics://a:1?x=%ff", "not UTF-8"),
            #[cfg(not(feature = "tls"))]
            ("metrics+tls://a:1", "built without the feature `tls`"),
        ] {
            let error = error(text);
            assert!(error.contains(reason), "{error}");
            assert!(error.contains("; an address is "), "{error}");
        }
    }

    #[test]
    fn option_error_names_the_option_and_what_it_takes() {
        for (option, reason) in [
            (
                "conections=8",
                "the option \"conections\" does not exist; there are max_connections, ",
            ),
            ("max_connections=many", "the option max_connections is a number, not \"many\""),
            ("max_connections", "the option \"max_connections\" has no value"),
            ("max_connections=1&max_connections=2", "the option max_connections has two values"),
            ("request_timeout=2", "with ms, s, m, h or d, such as 500ms or 2s, not \"2\""),
            ("request_timeout=-2s", "with ms, s, m, h or d"),
            ("max_response_bytes=1MB", "such as 4096, 64KiB or 16MiB, not \"1MB\""),
            ("max_response_bytes=99999999999GiB", "is a number of bytes"),
            ("pipelining=yes", "the option pipelining is auto or on or off, not \"yes\""),
            ("reconnect=50ms", "is `never`, or the limits of the backoff, such as 50ms..10s"),
            ("user_timeout=0", "or `system`, not \"0\""),
            ("local_address=eth0", "is not an IP address"),
            ("", "the option \"\" has no value"),
        ] {
            let error = error(&format!("metrics://a:1?{option}"));
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn address_error_shows_no_password() {
        for text in [
            "metrics://user:secret@a:1",
            "metrics://user:secret@a:1,b",
            "user:secret@a:1",
            "redis://:secret@a:1/0",
            "metrics://a:1?password=secret",
            "metrics://a?password=secret",
            "a:1?password=secret",
        ] {
            let error = error(text);
            assert!(!error.contains("secret"), "{error}");
        }
        let error = error("metrics://user:secret@a:1?resend_unacknowledged=x");
        assert!(error.contains("\"metrics://...@a:1?...\": it has a user name"), "{error}");
    }
}
