//! The options in the query of an address.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use super::super::{
    backoff::ReconnectPolicy,
    settings::{Pipelining, ServerOrder, WhenFull},
};

/// Options of a URL, valid as they are, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::client) struct Options(Vec<Setting>);

/// What one option says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::client) enum Setting {
    MaxConnections(usize),
    ServerOrder(ServerOrder),
    ConnectTimeout(Duration),
    RequestTimeout(Duration),
    StallTimeout(Duration),
    Pipelining(Pipelining),
    MaxInFlight(usize),
    MaxBufferedBytes(usize),
    MaxResponseBytes(usize),
    WhenFull(WhenFull),
    Reconnect(ReconnectPolicy),
    MaxAttempts(u32),
    MaxLifetime(Duration),
    IdleTimeout(Duration),
    ResendUnacknowledged(bool),
    Keepalive(Duration),
    UserTimeout(Option<Duration>),
    LocalAddress(IpAddr),
    CaFile(PathBuf),
    ClientCert(PathBuf),
    ClientKey(PathBuf),
    ServerName(Box<str>),
}

/// The options that say how TLS is spoken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::client) struct TlsOptions {
    /// Unless the system's roots are trusted.
    pub(in crate::client) ca_file: Option<PathBuf>,
    pub(in crate::client) client_cert: Option<PathBuf>,
    pub(in crate::client) client_key: Option<PathBuf>,
    pub(in crate::client) server_name: Option<Box<str>>,
}

/// Every option that there is, for the error about one that does not exist.
const NAMES: &str = "max_connections, server_order, connect_timeout, request_timeout, stall_timeout, pipelining, \
                     max_in_flight, max_buffered_bytes, max_response_bytes, when_full, reconnect, max_attempts, max_lifetime, \
                     idle_timeout, resend_unacknowledged, \
                     keepalive, user_timeout, local_address, ca_file, client_cert, client_key and \
                     server_name";

impl Setting {
    fn parse(name: &str, value: &str) -> Result<Self, String> {
        let parsed = match name {
            "max_connections" | "connections" => count(value).map(Self::MaxConnections),
            "server_order" => {
                one_of(value, &[("random", ServerOrder::Random), ("listed", ServerOrder::Listed)])
                    .map(Self::ServerOrder)
            }
            "connect_timeout" => duration(value).map(Self::ConnectTimeout),
            "request_timeout" => duration(value).map(Self::RequestTimeout),
            "stall_timeout" => duration(value).map(Self::StallTimeout),
            "pipelining" => one_of(
                value,
                &[("auto", Pipelining::Auto), ("on", Pipelining::On), ("off", Pipelining::Off)],
            )
            .map(Self::Pipelining),
            "max_in_flight" => count(value).map(Self::MaxInFlight),
            "max_buffered_bytes" => bytes(value).map(Self::MaxBufferedBytes),
            "max_response_bytes" => bytes(value).map(Self::MaxResponseBytes),
            "when_full" => one_of(value, &[("wait", WhenFull::Wait), ("fail", WhenFull::Fail)])
                .map(Self::WhenFull),
            "reconnect" => reconnect(value).map(Self::Reconnect),
            "max_attempts" => number(value)
                .and_then(|number| number.try_into().ok())
                .map(Self::MaxAttempts)
                .ok_or_else(|| "is a number".into()),
            "max_lifetime" => duration(value).map(Self::MaxLifetime),
            "idle_timeout" => duration(value).map(Self::IdleTimeout),
            "resend_unacknowledged" => {
                one_of(value, &[("true", true), ("false", false)]).map(Self::ResendUnacknowledged)
            }
            "keepalive" => duration(value).map(Self::Keepalive),
            "user_timeout" if value == "system" => Ok(Self::UserTimeout(None)),
            "user_timeout" => duration(value)
                .map(|limit| Self::UserTimeout(Some(limit)))
                .map_err(|reason| format!("{reason}, or `system`")),
            "local_address" => match value.parse() {
                Ok(address) => Ok(Self::LocalAddress(address)),
                Err(_) => Err("is not an IP address, such as 192.0.2.7 or 2001:db8::7".into()),
            },
            "ca_file" => Ok(Self::CaFile(value.into())),
            "client_cert" => Ok(Self::ClientCert(value.into())),
            "client_key" => Ok(Self::ClientKey(value.into())),
            "server_name" => Ok(Self::ServerName(value.into())),
            _ => return Err(format!("the option {name:?} does not exist; there are {NAMES}")),
        };
        // Each value is about numbers, words and files: none of them is a secret.
        parsed.map_err(|reason| format!("the option {name} {reason}, not {value:?}"))
    }
}

impl Options {
    /// Adds an option.
    pub(super) fn push(&mut self, name: &str, value: &str) -> Result<(), String> {
        if value.is_empty() {
            return Err(format!("the option {name:?} has no value"));
        }
        self.add(Setting::parse(name, value)?)
            .map_err(|()| format!("the option {name} has two values"))
    }

    /// Adds the options of another address of one list.
    pub(super) fn extend(&mut self, other: Self) -> Result<(), &'static str> {
        other.0.into_iter().try_for_each(|setting| {
            self.add(setting).map_err(
                |()| "an option has one value here and another in another address of the list",
            )
        })
    }

    fn add(&mut self, setting: Setting) -> Result<(), ()> {
        let is_same =
            |other: &Setting| std::mem::discriminant(other) == std::mem::discriminant(&setting);
        match self.0.iter().find(|other| is_same(other)) {
            Some(other) if *other == setting => {}
            Some(_) => return Err(()),
            None => self.0.push(setting),
        }
        Ok(())
    }

    pub(in crate::client) fn iter(&self) -> std::slice::Iter<'_, Setting> {
        self.0.iter()
    }

    pub(in crate::client) fn tls(&self) -> TlsOptions {
        let mut tls = TlsOptions::default();
        for setting in &self.0 {
            match setting {
                Setting::CaFile(path) => tls.ca_file = Some(path.clone()),
                Setting::ClientCert(path) => tls.client_cert = Some(path.clone()),
                Setting::ClientKey(path) => tls.client_key = Some(path.clone()),
                Setting::ServerName(name) => tls.server_name = Some(name.clone()),
                _ => {}
            }
        }
        tls
    }

    /// Returns true if options concern the connector, which is the default one then.
    pub(in crate::client) fn concern_connector(&self) -> bool {
        self.tls() != TlsOptions::default()
            || self.0.iter().any(|setting| {
                use Setting::{Keepalive, LocalAddress, UserTimeout};
                matches!(setting, Keepalive(_) | UserTimeout(_) | LocalAddress(_))
            })
    }
}

fn count(value: &str) -> Result<usize, String> {
    number(value).and_then(|number| number.try_into().ok()).ok_or_else(|| "is a number".into())
}

/// Parses digits and nothing else.
fn number(digits: &str) -> Option<u64> {
    let are_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    are_digits.then(|| digits.parse().ok()).flatten()
}

/// Parses a number of bytes, alone or with a unit.
fn bytes(value: &str) -> Result<usize, String> {
    let (digits, factor) = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)]
        .into_iter()
        .find_map(|(unit, factor)| Some((value.strip_suffix(unit)?, factor)))
        .unwrap_or((value, 1));
    number(digits)
        .and_then(|number| number.checked_mul(factor)?.try_into().ok())
        .ok_or_else(|| "is a number of bytes, such as 4096, 64KiB or 16MiB".into())
}

/// Parses a duration with its unit.
fn duration(value: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    units
        .into_iter()
        .find_map(|(unit, millis)| Some(number(value.strip_suffix(unit)?)?.saturating_mul(millis)))
        .map(Duration::from_millis)
        .ok_or_else(|| "is a number with ms, s, m, h or d, such as 500ms or 2s".into())
}

/// Parses `never`, or the ceilings of the first wait and of the longest.
fn reconnect(value: &str) -> Result<ReconnectPolicy, String> {
    if value == "never" {
        return Ok(ReconnectPolicy::never());
    }
    let backoff = value.split_once("..").and_then(|(min, max)| {
        Some(ReconnectPolicy::backoff(duration(min).ok()?, duration(max).ok()?))
    });
    backoff.ok_or_else(|| "is `never`, or the limits of the backoff, such as 50ms..10s".into())
}

fn one_of<T: Copy>(value: &str, words: &[(&str, T)]) -> Result<T, String> {
    words.iter().find(|(word, _)| *word == value).map(|&(_, meaning)| meaning).ok_or_else(|| {
        let words = words.iter().map(|(word, _)| *word).collect::<Vec<_>>();
        format!("is {}", words.join(" or "))
    })
}
