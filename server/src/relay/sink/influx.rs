//! InfluxDB, over HTTP: `/write` of 1.x or `/api/v2/write` of 2.x.

use std::{io::Write, ops::Range, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request,
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT},
};
use metrics_client::client::{Address, BoxConnector};

use self::{
    answer::{Verdict, judge},
    connection::HttpConnection,
    lines::InfluxLines,
};
use super::{SendFailure, Sent, Sink};
use crate::store::PutBatch;

mod answer;
mod connection;
mod lines;
#[cfg(test)]
mod tests;

/// Writes lines, splits requests that are too large or have bad lines, and leaves the rest to be sent again.
#[derive(Debug)]
pub(in crate::relay) struct InfluxSink {
    connection: HttpConnection,
    request: RequestHead,
    timeout: Duration,
    /// A request with more lines was too large.
    max_lines: usize,
    lines: InfluxLines,
}

/// What all requests have in common.
#[derive(Clone, Debug)]
pub(in crate::relay) struct RequestHead {
    /// The path with its query.
    pub(in crate::relay) path: String,
    pub(in crate::relay) host: String,
    pub(in crate::relay) access: InfluxAccess,
    pub(in crate::relay) gzip: bool,
}

/// With what a request is authorized.
#[derive(Clone)]
pub(in crate::relay) enum InfluxAccess {
    Nothing,
    Token(String),
    User { name: String, password: String },
}

impl std::fmt::Debug for InfluxAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InfluxAccess")
    }
}

impl RequestHead {
    /// Checks that a request can be made of it.
    ///
    /// # Errors
    ///
    /// If the host or a secret has characters that a header cannot have.
    pub(in crate::relay) fn check(&self) -> Result<(), hyper::header::InvalidHeaderValue> {
        self.headers().map(drop)
    }

    /// Returns the headers of a request.
    ///
    /// # Errors
    ///
    /// If a secret or the host has characters that a header cannot have.
    fn headers(&self) -> Result<HeaderMap, hyper::header::InvalidHeaderValue> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, self.host.parse()?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        let agent = concat!("metrics-server/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        if self.gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let secret = match &self.access {
            InfluxAccess::Nothing => return Ok(headers),
            InfluxAccess::Token(token) => format!("Token {token}"),
            InfluxAccess::User { name, password } => {
                format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
            }
        };
        let mut secret: HeaderValue = secret.parse()?;
        secret.set_sensitive(true);
        headers.insert(AUTHORIZATION, secret);
        Ok(headers)
    }
}

impl InfluxSink {
    pub(in crate::relay) fn new(
        connector: BoxConnector,
        address: Address,
        request: RequestHead,
        timeout: Duration,
    ) -> Self {
        Self {
            connection: HttpConnection::new(Arc::new(connector), address),
            request,
            timeout,
            max_lines: usize::MAX,
            lines: InfluxLines::default(),
        }
    }

    /// Sends some of the lines.
    async fn post(&mut self, lines: Range<usize>) -> Verdict {
        let count = lines.len();
        let request = match self.request(self.lines.text(lines)) {
            Ok(request) => request,
            Err(message) => return Verdict::Retry(SendFailure::new(message)),
        };
        match self.connection.exchange(&request, self.timeout).await {
            Ok(answer) => judge(answer.status, &answer.headers, &answer.body, count),
            Err(message) => Verdict::Retry(SendFailure::new(message)),
        }
    }

    fn request(&self, lines: &[u8]) -> Result<Request<Full<Bytes>>, String> {
        let body = if self.request.gzip {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            let written = gzip.write_all(lines).and_then(|()| gzip.finish());
            written.map_err(|error| error.to_string())?
        } else {
            lines.to_vec()
        };
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.request.path.parse().map_err(|error| format!("{error}"))?;
        *request.headers_mut() = self.request.headers().map_err(|error| error.to_string())?;
        Ok(request)
    }
}

impl Sink for InfluxSink {
    async fn send(&mut self, puts: &PutBatch) -> Sent {
        self.lines.write(puts);
        let (total, all) = (puts.len(), self.lines.len());
        let (mut done, mut sent) = (0, Sent::default());
        // What is left, the first lines last.
        let mut left: Vec<_> = std::iter::once(0..all).collect();
        while let Some(lines) = left.pop() {
            if lines.is_empty() {
                continue;
            }
            if lines.len() > self.max_lines {
                let middle = lines.start + self.max_lines;
                left.extend([middle..lines.end, lines.start..middle]);
                continue;
            }
            let middle = lines.start + lines.len() / 2;
            match self.post(lines.clone()).await {
                Verdict::Settled { rejected, reason } => {
                    done = lines.end;
                    sent.rejected += rejected;
                    sent.rejection = sent.rejection.or(reason);
                }
                Verdict::SomeBad => left.extend([middle..lines.end, lines.start..middle]),
                Verdict::TooLarge => {
                    self.max_lines = (lines.len() / 2).max(1);
                    left.push(lines);
                }
                Verdict::Retry(failure) => {
                    sent.failure = Some(failure);
                    break;
                }
            }
        }
        sent.settled = if sent.failure.is_some() { self.lines.points_before(done) } else { total };
        sent.unrepresentable = sent.settled - done;
        sent
    }
}
