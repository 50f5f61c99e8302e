//! `host:port`.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use crate::error::InvalidAddress;

/// `host:port`. The host is a name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::client) struct HostPort {
    /// Without brackets.
    host: Box<str>,
    port: u16,
}

impl HostPort {
    pub(super) const FORM: &'static str = "host:port, such as metrics.internal:8888, 127.0.0.1:8888 or \
                                           [::1]:8888";

    /// Takes an IPv6 address with or without brackets.
    pub(super) fn new(host: &str, port: u16) -> Result<Self, InvalidAddress> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let checked = if is_ipv6(bare) { Ok(bare) } else { check_host(host).map(|()| host) };
        match checked {
            Ok(host) if port > 0 => Ok(Self { host: host.into(), port }),
            Ok(_) => Err(InvalidAddress::new(&format!("{host}:0"), BAD_PORT, Self::FORM)),
            Err(reason) => Err(InvalidAddress::new(host, reason, Self::FORM)),
        }
    }

    pub(in crate::client) fn host(&self) -> &str {
        &self.host
    }

    pub(in crate::client) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn parse(address: &str) -> Result<Self, &'static str> {
        if address.contains(char::is_whitespace) {
            return Err("it contains white space");
        }
        let (host, port) = match address.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or("the closing bracket is missing")?;
                if !is_ipv6(host) {
                    return Err("the text in brackets is not an IPv6 address");
                }
                (host, rest.strip_prefix(':').unwrap_or_default())
            }
            None => {
                let (host, port) = address.rsplit_once(':').ok_or("the port is missing")?;
                check_host(host)?;
                (host, port)
            }
        };
        if port.is_empty() {
            return Err("the port is missing");
        }
        match port.parse() {
            // `u16::from_str` takes a sign too.
            Ok(port) if port != 0 && !address.contains('+') => Ok(Self { host: host.into(), port }),
            _ => Err(BAD_PORT),
        }
    }
}

impl FromStr for HostPort {
    type Err = InvalidAddress;

    fn from_str(address: &str) -> Result<Self, InvalidAddress> {
        Self::parse(address).map_err(|reason| InvalidAddress::new(address, reason, Self::FORM))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

const BAD_PORT: &str = "the port is not a number from 1 to 65535";

/// Returns true for an IPv6 address. Behind a `%` is the network interface (RFC 4007, section 11).
fn is_ipv6(host: &str) -> bool {
    host.split_once('%').map_or(host, |(ip, _)| ip).parse::<Ipv6Addr>().is_ok()
}

/// Rejects hosts that neither the domain name system nor a hosts file can contain.
fn check_host(host: &str) -> Result<(), &'static str> {
    /// No host contains one of these: "forbidden domain code points" of the URL standard, and `,` and `+`.
    const FORBIDDEN: &[char] =
        &['#', '/', '<', '>', '?', '@', '[', '\\', ']', '^', '|', '%', ',', '+'];
    /// RFC 1035, section 2.3.4: 255 bytes with the lengths of the first label and of the root.
    const MAX_NAME_BYTES: usize = 253;
    const MAX_LABEL_BYTES: usize = 63;

    if host.is_empty() {
        return Err("the host is missing");
    }
    if host.contains(':') {
        return Err("the host contains a colon; an IPv6 address is written in brackets");
    }
    if host.contains(|c: char| c.is_control() || FORBIDDEN.contains(&c)) {
        return Err("the host contains a character that no host name has");
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| (1..=MAX_LABEL_BYTES).contains(&label.len());
    if name.len() > MAX_NAME_BYTES || !name.split('.').all(is_label) {
        return Err("a host name has at most 253 bytes, and 1 to 63 between two dots");
    }
    if host.bytes().all(|byte| byte == b'.' || byte.is_ascii_digit()) && !is_ipv4(host) {
        return Err("the host is not an IPv4 address: each of four numbers is at most 255");
    }
    Ok(())
}

/// Returns true if the system takes these digits and dots for an IPv4 address. By `man 3 inet_aton` there may be
/// fewer than four numbers, of which the last one then stands for several bytes.
fn is_ipv4(host: &str) -> bool {
    let numbers = host.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>();
    match numbers.as_deref() {
        Ok([first @ .., last]) if first.len() < 4 => {
            let most = u32::MAX >> (8 * first.len());
            first.iter().all(|&number| number <= 255) && *last <= most
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // FAULTS C9
    #[test]
    fn host_and_port_are_parsed() {
        let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        for (host, port) in [
            ("metrics.internal", 8888),
            ("metrics.internal.", 8888),
            ("metrics_1", 1),
            ("xn--mnchen-3ya.example", 65535),
            ("метрики.example", 8888),
            ("127.0.0.1", 8888),
            ("127.1", 8888),
            ("2130706433", 8888),
            (&long, 8888),
        ] {
            let parsed = HostPort::from_str(&format!("{host}:{port}")).unwrap();
            assert_eq!((parsed.host(), parsed.port()), (host, port));
        }
        for host in ["::1", "2001:db8::1", "::ffff:127.0.0.1", "fe80::1%eth0", "fe80::1%2"] {
            let parsed = HostPort::from_str(&format!("[{host}]:8888")).unwrap();
            assert_eq!((parsed.host(), parsed.port()), (host, 8888));
        }
    }

    // FAULTS C9
    #[test]
    fn invalid_host_port_has_a_reason_and_the_form() {
        let label = format!("{}:8888", "a".repeat(64));
        let name = format!("{}a:8888", "a.".repeat(127));
        for (address, reason) in [
            ("", "the port is missing"),
            ("127.0.0.1", "the port is missing"),
            ("metrics.internal", "the port is missing"),
            ("metrics.internal:", "the port is missing"),
            ("[::1]", "the port is missing"),
            ("[::1]8888", "the port is missing"),
            ("127.0.0.1:99999", "the port is not a number"),
            ("127.0.0.1:0", "the port is not a number"),
            ("127.0.0.1:-1", "the port is not a number"),
            ("127.0.0.1:+80", "the port is not a number"),
            ("127.0.0.1:http", "the port is not a number"),
            ("127.0.0.1:8888/", "the port is not a number"),
            ("127.0.0.1:8888 ", "white space"),
            (" 127.0.0.1:8888", "white space"),
            ("127.0.0.1 :8888", "white space"),
            ("127.0.0.1:8888\n", "white space"),
            ("127.0.0.1:\u{a0}8888", "white space"),
            (":8888", "the host is missing"),
            ("::1", "written in brackets"),
            ("::1:8888", "written in brackets"),
            ("[::1:8888", "closing bracket"),
            ("[localhost]:8888", "not an IPv6 address"),
            ("user@metrics.internal:8888", "no host name has"),
            ("metrics\0:8888", "no host name has"),
            ("metrics/internal:8888", "no host name has"),
            ("127.0.0.256:8888", "not an IPv4 address"),
            ("1.2.3.4.5:8888", "not an IPv4 address"),
            ("4294967296:8888", "not an IPv4 address"),
            ("metrics..internal:8888", "between two dots"),
            (".:8888", "between two dots"),
            (&label, "between two dots"),
            (&name, "between two dots"),
        ] {
            let error = HostPort::from_str(address).expect_err(address).to_string();
            assert!(error.contains(reason), "{error}");
            assert!(error.contains("an address is host:port, such as "), "{error}");
        }
    }
}
