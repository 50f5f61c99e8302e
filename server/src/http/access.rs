//! Who may use the HTTP listener: a token, and what browsers are kept from.

use std::{fmt, net::IpAddr};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use subtle::ConstantTimeEq;

use super::error::ApiError;

/// Who may use an HTTP listener.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Access {
    /// Everybody on this machine. The listener has to be on a loopback address.
    Loopback,
    /// Requests with the token.
    Token(Token),
    /// Everybody who can reach the listener.
    Everybody,
}

/// A secret that every request has to carry: as `Authorization: Bearer`, as `Token`, or as the password of
/// `Basic` with any user name.
///
/// `Debug` does not show it.
#[derive(Clone)]
pub struct Token(Box<[u8]>);

impl Token {
    /// Creates a token from its text, without the white space around it.
    ///
    /// # Errors
    ///
    /// [`InvalidToken`] if it is shorter than 8 bytes, or has characters that a header cannot have.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidToken> {
        let text = text.as_ref().trim();
        let is_valid = text.len() >= 8 && text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_valid { Ok(Self(text.as_bytes().into())) } else { Err(InvalidToken) }
    }

    /// Compares in a time that does not depend on where the texts differ.
    fn matches(&self, other: &[u8]) -> bool {
        self.0.ct_eq(other).into()
    }

    /// Returns true if the request carries the token.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let credentials = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some((scheme, credentials)) = credentials.and_then(|text| text.split_once(' ')) else {
            return false;
        };
        let credentials = credentials.trim();
        if scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token") {
            return self.matches(credentials.as_bytes());
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return false;
        }
        let Ok(pair) = STANDARD.decode(credentials) else { return false };
        let colon = pair.iter().position(|&byte| byte == b':');
        colon.is_some_and(|colon| self.matches(&pair[colon + 1..]))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A text is not a [`Token`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid token: at least 8 printable ASCII characters without spaces are needed")]
pub struct InvalidToken;

/// Rejects requests without the token, and those that a page of another site makes a browser send.
pub(super) async fn check(State(access): State<Access>, request: Request, next: Next) -> Response {
    let denied = match &access {
        Access::Token(token) if !is_public(request.uri()) && !token.is_in(request.headers()) => {
            Some(unauthorized())
        }
        // A name that a foreign site has made to resolve to this machine.
        Access::Loopback if !is_local_host(request.headers()) => Some(ApiError::new(
            StatusCode::FORBIDDEN,
            "unknown host: use localhost or an address, or set a token",
        )),
        _ if !is_safe(request.method()) && is_cross_site(request.headers()) => {
            Some(ApiError::new(StatusCode::FORBIDDEN, "a page of another site may not write"))
        }
        _ => None,
    };
    match denied {
        Some(error) => error.into_response(),
        None => next.run(request).await,
    }
}

fn unauthorized() -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "a token is required")
        .header(header::WWW_AUTHENTICATE, "Basic realm=\"metrics\", charset=\"UTF-8\"")
}

/// Returns true for what probes ask, who have no token.
fn is_public(uri: &Uri) -> bool {
    matches!(uri.path(), "/healthz" | "/readyz")
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Returns true if the host is an address or `localhost`.
fn is_local_host(headers: &HeaderMap) -> bool {
    // HTTP/1.0 needs none, and no browser sends it.
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
        if is_port { name } else { host }
    });
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let name = name.to_ascii_lowercase();
    address.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

/// Returns true if a browser says that a page of another site has caused the request. Other programs send
/// none of these headers.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if matches!(text("sec-fetch-site"), Some("cross-site" | "same-site")) {
        return true;
    }
    let Some(origin) = text("origin") else { return false };
    let origin_host = origin.split_once("://").map(|(_, host)| host);
    origin_host.is_none() || origin_host != text("host")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|&(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn token_is_accepted_in_three_forms() {
        let token = Token::new(" s3cret-token\n").unwrap();
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        let carries = |credentials: &str| token.is_in(&headers(&[("authorization", credentials)]));
        for credentials in [
            "Bearer s3cret-token",
            "Token s3cret-token",
            "bearer  s3cret-token",
            &basic("x:s3cret-token"),
        ] {
            assert!(carries(credentials), "{credentials}");
        }
        for credentials in [
            "s3cret-token",
            "Bearer s3cret-toke",
            "Bearer s3cret-token2",
            "Digest s3cret-token",
            "Basic s3cret-token",
            &basic("s3cret-token"),
            &basic("s3cret-token:x"),
            "",
        ] {
            assert!(!carries(credentials), "{credentials}");
        }
        assert!(!token.is_in(&HeaderMap::new()));
        assert_eq!(format!("{token:?}"), "Token(..)");
        for text in ["", "short", "with a space in it", "naïve-token"] {
            assert_eq!(Token::new(text).err(), Some(InvalidToken), "{text}");
        }
    }

    #[test]
    fn only_local_hosts_are_accepted_without_a_token() {
        for host in [
            "localhost",
            "LOCALHOST:80",
            "a.localhost:1",
            "127.0.0.1:8080",
            "[::1]:80",
            "[::1]",
            "10.0.0.1",
        ] {
            assert!(is_local_host(&headers(&[("host", host)])), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:80", "127.0.0.1.evil.example", ""] {
            assert!(!is_local_host(&headers(&[("host", host)])), "{host}");
        }
        assert!(is_local_host(&HeaderMap::new()));
    }

    #[test]
    fn writes_of_other_sites_are_recognized() {
        let host = ("host", "localhost:8080");
        let is_cross = |pairs: &[_]| is_cross_site(&headers(&[&[host], pairs].concat()));
        assert!(!is_cross(&[]));
        assert!(!is_cross(&[
            ("origin", "http://localhost:8080"),
            ("sec-fetch-site", "same-origin")
        ]));
        assert!(!is_cross(&[("sec-fetch-site", "none")]));
        assert!(is_cross(&[("origin", "http://evil.example")]));
        assert!(is_cross(&[("origin", "http://localhost:8081")]));
        assert!(is_cross(&[("origin", "null")]));
        assert!(is_cross(&[("sec-fetch-site", "cross-site")]));
    }
}
