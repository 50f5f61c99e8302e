//! What an address looks like. Each form has a parser here, and a connector that uses it.

use std::{net::Ipv6Addr, str::FromStr};

use crate::error::InvalidAddress;

/// `host:port`. The host is a name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TcpAddress {
    /// Without brackets.
    host: Box<str>,
    port: u16,
}

impl TcpAddress {
    const FORM: &'static str = "host:port, such as metrics.internal:8888, 127.0.0.1:8888 or \
                                [::1]:8888";

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    fn parse(address: &str) -> Result<Self, &'static str> {
        if address.contains(char::is_whitespace) {
            return Err("it contains white space");
        }
        if address.contains("://") {
            return Err("it is a URL");
        }
        let (host, port) = match address.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or("the closing bracket is missing")?;
                // Behind a `%` is the network interface (RFC 4007, section 11).
                let ip = host.split_once('%').map_or(host, |(ip, _)| ip);
                if ip.parse::<Ipv6Addr>().is_err() {
                    return Err("what is in brackets is not an IPv6 address");
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
            _ => Err("the port is not a number from 1 to 65535"),
        }
    }
}

impl FromStr for TcpAddress {
    type Err = InvalidAddress;

    fn from_str(address: &str) -> Result<Self, InvalidAddress> {
        Self::parse(address).map_err(|reason| InvalidAddress::new(address, reason, Self::FORM))
    }
}

/// Refuses hosts that neither the domain name system nor a table of hosts can know.
fn check_host(host: &str) -> Result<(), &'static str> {
    /// What no host contains: "forbidden domain code points" of the URL standard, and `,` and `+`.
    const FORBIDDEN: &[char] =
        &['#', '/', '<', '>', '?', '@', '[', '\\', ']', '^', '|', '%', ',', '+'];
    /// RFC 1035, section 2.3.4: 255 bytes with the lengths of the first label and of the root.
    const MAX_NAME_BYTES: usize = 253;
    const MAX_LABEL_BYTES: usize = 63;

    if host.is_empty() {
        return Err("the host is missing");
    }
    if host.contains(':') {
        return Err("its host contains a colon; an IPv6 address is written in brackets");
    }
    if host.contains(|c: char| c.is_control() || FORBIDDEN.contains(&c)) {
        return Err("its host contains a character that no host name has");
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| (1..=MAX_LABEL_BYTES).contains(&label.len());
    if name.len() > MAX_NAME_BYTES || !name.split('.').all(is_label) {
        return Err("a host name has at most 253 bytes, and 1 to 63 between two dots");
    }
    if host.bytes().all(|byte| byte == b'.' || byte.is_ascii_digit()) && !is_ipv4(host) {
        return Err("its host is not an IPv4 address: each of four numbers is at most 255");
    }
    Ok(())
}

/// Whether the system takes digits and dots for an IPv4 address. As `man 3 inet_aton` has it, there may be
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

/// Refuses what cannot be the path of a Unix socket, or a name in Linux's abstract namespace.
#[cfg(unix)]
pub(super) fn check_unix(address: &str) -> Result<(), InvalidAddress> {
    use std::os::unix::net::SocketAddr;

    /// `sun_path` of `man 7 unix`, with its zero byte.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const FORM: &str =
        "the path of a Unix socket, at most 107 bytes long, such as /run/metrics.sock";
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const FORM: &str =
        "the path of a Unix socket, at most 103 bytes long, such as /run/metrics.sock";

    let invalid = |reason: &'static str| Err(InvalidAddress::new(address, reason, FORM));
    if address.is_empty() {
        return invalid("it is empty");
    }
    #[cfg(target_os = "linux")]
    if let Some(name) = address.strip_prefix(['@', '\0']) {
        use std::os::linux::net::SocketAddrExt;
        return match SocketAddr::from_abstract_name(name) {
            Ok(_) => Ok(()),
            Err(_) => invalid("it is too long"),
        };
    }
    match SocketAddr::from_pathname(address) {
        Ok(_) => Ok(()),
        Err(_) if address.contains('\0') => invalid("it contains a zero byte"),
        Err(_) => invalid("it is too long"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // FAULTS C9
    #[test]
    fn an_address_has_a_host_and_a_port() {
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
            let parsed = TcpAddress::from_str(&format!("{host}:{port}")).unwrap();
            assert_eq!((parsed.host(), parsed.port()), (host, port));
        }
        for host in ["::1", "2001:db8::1", "::ffff:127.0.0.1", "fe80::1%eth0", "fe80::1%2"] {
            let parsed = TcpAddress::from_str(&format!("[{host}]:8888")).unwrap();
            assert_eq!((parsed.host(), parsed.port()), (host, 8888));
        }
    }

    // FAULTS C9
    #[test]
    fn every_other_address_is_refused_with_a_reason_and_the_form() {
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
            ("tcp://127.0.0.1:8888", "it is a URL"),
            ("http://metrics.internal", "it is a URL"),
            ("127.0.0.1:8888 ", "white space"),
            (" 127.0.0.1:8888", "white space"),
            ("127.0.0.1 :8888", "white space"),
            ("127.0.0.1:8888\n", "white space"),
            ("127.0.0.1:\u{a0}8888", "white space"),
            (":8888", "the host is missing"),
            ("::1", "written in brackets"),
            ("::1:8888", "written in brackets"),
            ("a:1,b:2", "written in brackets"),
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
            let error = TcpAddress::from_str(address).expect_err(address).to_string();
            assert!(error.contains(reason), "{error}");
            assert!(error.contains("an address is host:port, such as "), "{error}");
        }
    }

    // FAULTS C9
    #[test]
    #[cfg(unix)]
    fn a_unix_address_is_a_path_that_fits() {
        for good in ["/run/metrics.sock", "metrics.sock", "./@name", "@name", "@"] {
            check_unix(good).unwrap();
        }
        for (address, reason) in [
            ("", "it is empty"),
            (&*"/".repeat(200), "it is too long"),
            (&*format!("@{}", "n".repeat(200)), "it is too long"),
            ("/run/metrics\0.sock", "it contains a zero byte"),
        ] {
            let error = check_unix(address).expect_err(address).to_string();
            assert!(error.contains(reason), "{error}");
            assert!(error.contains("an address is the path of a Unix socket"), "{error}");
        }
    }
}
