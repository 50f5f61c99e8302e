//! Errors about addresses, which show no secret.

use std::borrow::Cow;

use super::unix_path;
use crate::error::InvalidAddress;

/// All forms, for texts that resemble none of them.
pub(super) const ANY_FORM: &str = "host:port, unix:/path, metrics://host:port, metrics+tls://host:port or \
                        metrics+unix:///path";

pub(super) const TLS_FORM: &str =
    "metrics+tls://host:port, such as metrics+tls://metrics.internal:8889";

/// Makes the error about an address. Neither a password nor the value of an option is shown.
pub(super) fn invalid(
    text: &str,
    reason: impl Into<Cow<'static, str>>,
    form: &'static str,
) -> InvalidAddress {
    InvalidAddress::new(&without_secrets(text), reason, form)
}

/// Leaves out the options, and what stands before an `@`.
fn without_secrets(text: &str) -> Cow<'_, str> {
    let (start, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (&text[..scheme.len() + 3], rest),
        None => ("", text),
    };
    let (rest, options) = rest.split_once('?').map_or((rest, ""), |(rest, _)| (rest, "?..."));
    // An `@` after `unix:` begins a name in the abstract namespace.
    let user = rest.rfind('@').filter(|_| !rest.starts_with(unix_path::SCHEME));
    match user {
        Some(at) => format!("{start}...{}{options}", &rest[at..]).into(),
        None if options.is_empty() => text.into(),
        None => format!("{start}{rest}{options}").into(),
    }
}
