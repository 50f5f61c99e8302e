//! The path of a Unix socket.

use std::path::Path;

use crate::error::InvalidAddress;

/// The path of a Unix socket, or `@` and a name in Linux's abstract namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::client) struct UnixPath(Box<str>);

/// Stands before the path.
pub(super) const SCHEME: &str = "unix:";

impl UnixPath {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) const FORM: &str = "unix: and the path of a Unix socket, at most 107 bytes long, such as unix:/run/metrics.sock";
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(super) const FORM: &str = "unix: and the path of a Unix socket, at most 103 bytes long, such as unix:/run/metrics.sock";

    pub(super) fn new(path: &Path) -> Result<Self, InvalidAddress> {
        let text = path.to_string_lossy();
        let checked =
            if path.to_str().is_some() { Self::parse(&text) } else { Err("it is not UTF-8") };
        checked.map_err(|reason| InvalidAddress::new(&text, reason, Self::FORM))
    }

    /// Rejects what cannot be the path of a socket, or a name in Linux's abstract namespace.
    #[cfg(unix)]
    pub(super) fn parse(path: &str) -> Result<Self, &'static str> {
        use std::os::unix::net::SocketAddr;

        if path.is_empty() {
            return Err("the path is empty");
        }
        #[cfg(target_os = "linux")]
        if let Some(name) = path.strip_prefix(['@', '\0']) {
            use std::os::linux::net::SocketAddrExt;
            return match SocketAddr::from_abstract_name(name) {
                Ok(_) => Ok(Self(format!("@{name}").into())),
                Err(_) => Err("the path is too long"),
            };
        }
        // The bounds are those of `sun_path` in `man 7 unix`, with its zero byte.
        match SocketAddr::from_pathname(path) {
            Ok(_) => Ok(Self(path.into())),
            Err(_) if path.contains('\0') => Err("the path contains a zero byte"),
            Err(_) => Err("the path is too long"),
        }
    }

    #[cfg(not(unix))]
    pub(super) fn parse(_: &str) -> Result<Self, &'static str> {
        Err("this system has no Unix sockets")
    }

    pub(in crate::client) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    // FAULTS C9
    #[test]
    fn unix_path_is_not_empty_and_fits() {
        for good in ["/run/metrics.sock", "metrics.sock", "./@name", "@name", "@"] {
            assert_eq!(UnixPath::parse(good).unwrap().as_str(), good);
        }
        for (path, reason) in [
            ("", "the path is empty"),
            (&*"/".repeat(200), "the path is too long"),
            (&*format!("@{}", "n".repeat(200)), "the path is too long"),
            ("/run/metrics\0.sock", "the path contains a zero byte"),
        ] {
            assert_eq!(UnixPath::parse(path), Err(reason));
            let error = UnixPath::new(path.as_ref()).unwrap_err().to_string();
            let form = "; an address is unix: and the path of a Unix socket, ";
            assert!(error.contains(&format!("{reason}{form}")), "{error}");
        }
    }
}
