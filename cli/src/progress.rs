//! Progress on standard error, only on a terminal.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Returns a bar of `len` bytes, or a spinner that counts points if the length is unknown. Draws nothing
/// where standard error is no terminal.
pub(crate) fn bar(len: Option<u64>, what: &'static str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, style) = match len {
        Some(len) => (
            ProgressBar::new(len),
            "{prefix} {bar:40} {percent:>3} %  {bytes}/{total_bytes}  {bytes_per_sec}  {msg}  {eta} left",
        ),
        None => {
            (ProgressBar::new_spinner(), "{prefix} {spinner} {human_pos} points  {per_sec}  {msg}")
        }
    };
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.with_prefix(what)
}

/// Returns a bar of keys, whose number is set later.
pub(crate) fn keys(what: &'static str) -> ProgressBar {
    let bar = bar(Some(0), what);
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} keys") {
        bar.set_style(style);
    }
    bar
}
