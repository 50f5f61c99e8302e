//! What the long-running commands share: logging, and notifications to systemd.

use std::{
    env,
    io::{self, IsTerminal},
};

use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Tells systemd, if it is the one that has started this process.
pub(crate) fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// Logs to standard error: in colours only on a terminal.
pub(crate) fn start_log() {
    let wanted = env::var("RUST_LOG").unwrap_or_default();
    let default = Targets::new().with_default(tracing::Level::INFO);
    let (filter, invalid) = match wanted.parse::<Targets>() {
        Ok(filter) if !wanted.is_empty() => (filter, None),
        Ok(_) => (default, None),
        Err(error) => (default, Some(error)),
    };
    let is_coloured =
        io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(is_coloured);
    tracing_subscriber::registry().with(lines).with(filter).init();
    if let Some(error) = invalid {
        tracing::warn!(RUST_LOG = wanted, %error, "invalid RUST_LOG, logging at info");
    }
}
