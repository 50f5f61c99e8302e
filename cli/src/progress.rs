//! Progress on standard error, only on a terminal.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Returns a bar of `len` bytes, or a spinner that counts points if the length is unknown. Draws nothing
/// where standard error is no terminal.
pub(crate) fn bar(len: Option<u64>, what: &'static str) -> ProgressBar {
    match len {
        Some(len) => {
            let style = "{prefix} {wide_bar} {percent:>3} %  {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
            styled(ProgressBar::new(len), style, what)
        }
        None => {
            let style = "{prefix} {spinner} {human_pos} points  {per_sec}";
            styled(ProgressBar::new_spinner(), style, what)
        }
    }
}

/// Returns a bar of this many seconds.
pub(crate) fn seconds(seconds: u64, what: &'static str) -> ProgressBar {
    styled(ProgressBar::new(seconds), "{prefix} {wide_bar} {pos}/{len} s", what)
}

fn styled(bar: ProgressBar, style: &str, what: &'static str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
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
