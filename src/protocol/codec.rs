//! `ClientCodec` and `ServerCodec`: the protocol as `tokio-util` codecs.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::{
    decoder::{self, RecordSink, ResponseEnd},
    encode,
    error::{CodecError, InvalidRequest, InvalidResponse, NonFiniteValue},
    line_break,
    parse::RequestRef,
    request::Request,
    response::Response,
};
#[cfg(doc)]
use crate::metric::Metrics;
use crate::metric::{InvalidKey, Key, KeyRef, MetricsBuilder, Point, Sample};

/// The codec of a client: encodes [`Request`]s, decodes [`Response`]s.
///
/// An item is a response, or the reason why a response cannot be used: the stream continues after it.
/// A response that arrives in many pieces is scanned once, not once for each piece. It has at most
/// [`ClientCodec::DEFAULT_MAX_RESPONSE_BYTES`], or the limit of
/// [`with_max_response_bytes`](Self::with_max_response_bytes).
///
/// ```
/// use metrics_client::codec::{ClientCodec, Request, Response, ServerCodec};
/// use tokio_util::codec::{Decoder, Encoder};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
///
/// let mut bytes = bytes::BytesMut::new();
/// ClientCodec::default().encode(Request::put("palm.cpu", 23.7, 1150864247)?, &mut bytes)?;
/// assert_eq!(bytes, "put palm.cpu 23.7 1150864247\n");
///
/// let mut answer = bytes::BytesMut::from("ok\npalm.cpu 2.0 1150864247\n\n");
/// let Some(Ok(Response::Ok(metrics))) = ClientCodec::default().decode(&mut answer)? else {
///     panic!("this is a whole answer");
/// };
/// assert_eq!(metrics.points("palm.cpu")[0].value, 2.0);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ClientCodec {
    pub(crate) decoder: decoder::ResponseDecoder,
    records: MetricsBuilder,
    /// True if the caller sorts a long answer, in steps.
    sorts_in_steps: bool,
}

impl ClientCodec {
    /// The most that a response may have unless said otherwise: 64 MiB, some two million records.
    ///
    /// What is stored without a bound is read with
    /// [`MetricsClient::stream`](crate::MetricsClient::stream).
    pub const DEFAULT_MAX_RESPONSE_BYTES: usize = 64 * 1024 * 1024;

    /// Creates a codec with the default limit.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max_response_bytes(Self::DEFAULT_MAX_RESPONSE_BYTES)
    }

    /// Creates a codec with a maximum size of a response, in bytes, from its status line to its blank
    /// line.
    ///
    /// In memory, the records of a response take at most twelve times as much, or 1 MiB if that is more.
    /// Larger data is discarded while it arrives, and the item is [`InvalidResponse::TooLarge`]; the
    /// stream continues after it.
    #[must_use]
    pub fn with_max_response_bytes(limit: usize) -> Self {
        Self {
            decoder: decoder::ResponseDecoder::new(limit),
            records: MetricsBuilder::default(),
            sorts_in_steps: false,
        }
    }

    /// Leaves it to [`Metrics::sort_some`] to sort a long answer.
    pub(crate) fn sorting_in_steps(self) -> Self {
        Self { sorts_in_steps: true, ..self }
    }

    /// Whether the rest of a response is passed over because it is too large, and the limit.
    pub(crate) fn oversized(&self) -> Option<usize> {
        self.decoder.is_oversized().then(|| self.decoder.limit())
    }

    /// Whether a response has begun and is not over.
    pub(crate) fn is_amid_response(&self) -> bool {
        !self.decoder.is_between_answers()
    }
}

impl Default for ClientCodec {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder<Request> for ClientCodec {
    type Error = CodecError;

    #[inline]
    fn encode(&mut self, request: Request, dst: &mut BytesMut) -> Result<(), CodecError> {
        self.encode(&request, dst)
    }
}

impl Encoder<&Request> for ClientCodec {
    type Error = CodecError;

    #[inline]
    fn encode(&mut self, request: &Request, dst: &mut BytesMut) -> Result<(), CodecError> {
        match request {
            Request::Put(Sample { key, point }) => {
                NonFiniteValue::ensure_finite(key, point.value)?;
                encode::encode_put(dst, key.as_str(), *point);
            }
            Request::Get(selector) => encode::encode_get(dst, selector),
        }
        Ok(())
    }
}

impl Decoder for ClientCodec {
    type Item = Result<Response, InvalidResponse>;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Self::Item>, CodecError> {
        if self.decoder.take_acknowledgement(src) {
            return Ok(Some(Ok(Response::ok())));
        }
        let end = self.decoder.decode(src, &mut self.records)?;
        Ok(end.map(|end| {
            let records = std::mem::take(&mut self.records);
            match end {
                ResponseEnd::Ok if self.sorts_in_steps => {
                    Ok(Response::Ok(records.finish_in_steps()))
                }
                ResponseEnd::Ok => Ok(Response::Ok(records.finish())),
                ResponseEnd::Malformed(record) => Err(record.into()),
                ResponseEnd::Error(message) => Ok(Response::Error(message)),
                ResponseEnd::TooLarge => {
                    Err(InvalidResponse::TooLarge { limit: self.decoder.limit() })
                }
            }
        }))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Self::Item>, CodecError> {
        match self.decode(src)? {
            None if self.is_amid_response() || !src.is_empty() => Err(CodecError::Truncated),
            response => Ok(response),
        }
    }
}

impl RecordSink for MetricsBuilder {
    fn select(&mut self, key: &str) -> Result<(), InvalidKey> {
        MetricsBuilder::select(self, key)
    }

    #[inline]
    fn push(&mut self, point: Point) {
        MetricsBuilder::push(self, point);
    }

    fn memory(&self) -> usize {
        MetricsBuilder::memory(self)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Decodes one answer to a `get`, sample by sample, in bounded memory.
#[derive(Debug)]
pub(crate) struct SampleDecoder {
    decoder: decoder::ResponseDecoder,
    records: Samples,
    /// What comes behind the samples that have been decoded. An error too, so that it does not
    /// depend on how the answer is cut into pieces how many samples come before it.
    end: Option<Result<ResponseEnd, CodecError>>,
}

/// What a [`SampleDecoder`] yields: samples, then how the answer ended.
#[derive(Debug)]
pub(crate) enum StreamItem {
    Sample(Sample),
    End(ResponseEnd),
}

#[derive(Debug, Default)]
struct Samples {
    key: Option<Key>,
    decoded: VecDeque<Sample>,
}

impl SampleDecoder {
    pub(crate) fn new() -> Self {
        Self {
            decoder: decoder::ResponseDecoder::new(usize::MAX),
            records: Samples::default(),
            end: None,
        }
    }
}

impl Decoder for SampleDecoder {
    type Item = StreamItem;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<StreamItem>, CodecError> {
        if self.records.decoded.is_empty() && self.end.is_none() {
            self.end = self.decoder.decode(src, &mut self.records).transpose();
        }
        match self.records.decoded.pop_front() {
            Some(sample) => Ok(Some(StreamItem::Sample(sample))),
            None => Ok(self.end.take().transpose()?.map(StreamItem::End)),
        }
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<StreamItem>, CodecError> {
        // The stream may only end behind the answer, where it is not read any more.
        self.decode(src)?.map(Some).ok_or(CodecError::Truncated)
    }
}

impl RecordSink for Samples {
    fn select(&mut self, key: &str) -> Result<(), InvalidKey> {
        self.key = Some(Key::new(key)?);
        Ok(())
    }

    fn push(&mut self, point: Point) {
        self.decoded.extend(self.key.clone().map(|key| Sample { key, point }));
    }

    /// A stream has no limit: what is decoded at once is bounded by what is read at once.
    fn memory(&self) -> usize {
        0
    }

    fn clear(&mut self) {
        self.decoded.clear();
    }
}

/// The codec of a server: decodes [`Request`]s, encodes [`Response`]s.
///
/// An item is a request, or the reason why a line is not a request: the stream continues after it, and
/// the protocol requires the answer `wrong command`. Empty lines are skipped. A line has at most
/// [`ServerCodec::DEFAULT_MAX_LINE_BYTES`], or the limit of
/// [`with_max_line_bytes`](Self::with_max_line_bytes).
///
/// ```
/// use metrics_client::codec::{Request, Response, ServerCodec};
/// use tokio_util::codec::{Decoder, Encoder};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
///
/// let mut codec = ServerCodec::default();
/// let mut bytes = bytes::BytesMut::from("get palm.cpu\r\ngot palm.cpu\n");
/// assert_eq!(codec.decode(&mut bytes)?, Some(Ok(Request::get("palm.cpu")?)));
/// assert!(matches!(codec.decode(&mut bytes)?, Some(Err(_))));
///
/// codec.encode(Response::Error("wrong command".into()), &mut bytes)?;
/// assert_eq!(bytes, "error\nwrong command\n\n");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ServerCodec {
    /// How much of the buffer has been searched for a line break.
    searched: usize,
    limit: usize,
}

impl ServerCodec {
    /// The most that a line may have unless said otherwise: 4 KiB. The longest `put` has 1,075
    /// bytes; the rest is for peers that write more blanks or digits than they need.
    pub const DEFAULT_MAX_LINE_BYTES: usize = 4 * 1024;

    /// Creates a codec with the default limit.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max_line_bytes(Self::DEFAULT_MAX_LINE_BYTES)
    }

    /// Creates a codec with a maximum length of a line, in bytes, including its line break.
    #[must_use]
    pub fn with_max_line_bytes(limit: usize) -> Self {
        Self { searched: 0, limit }
    }

    /// Returns the `put` at the beginning of `src` and its length, if it has the most common form.
    /// The caller advances past it, or else asks for the [`next_line`](Self::next_line).
    #[inline]
    #[must_use]
    pub fn next_put<'a>(&self, src: &'a [u8]) -> Option<(KeyRef<'a>, Point, usize)> {
        // A line that came in pieces is left to the search, which goes on where it stopped.
        if self.searched > 0 {
            return None;
        }
        RequestRef::scan_put(src).filter(|&(_, _, len)| len <= self.limit)
    }

    /// Returns the index of the next line break in `src`, which keeps the line: the caller parses
    /// the line with [`RequestRef::parse`] and advances past the line break. What has been searched
    /// once is not searched again.
    ///
    /// # Errors
    ///
    /// [`CodecError::LineTooLong`] if the line is longer than it may be.
    pub fn next_line(&mut self, src: &mut BytesMut) -> Result<Option<usize>, CodecError> {
        let found = line_break(src, self.searched);
        let len = found.map_or(src.len(), |at| at + 1);
        if len > self.limit {
            return Err(CodecError::LineTooLong { limit: self.limit });
        }
        self.searched = if found.is_some() { 0 } else { len };
        Ok(found)
    }
}

impl Default for ServerCodec {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder for ServerCodec {
    type Item = Result<Request, InvalidRequest>;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Self::Item>, CodecError> {
        if let Some((key, point, len)) = self.next_put(src) {
            let request = Request::from(RequestRef::Put(key, point));
            src.advance(len);
            return Ok(Some(Ok(request)));
        }
        while let Some(end) = self.next_line(src)? {
            let request = RequestRef::parse(&src[..end]).map(|request| request.map(Request::from));
            src.advance(end + 1);
            if let Some(request) = request.transpose() {
                return Ok(Some(request));
            }
        }
        Ok(None)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Self::Item>, CodecError> {
        match self.decode(src)? {
            None if !src.is_empty() => Err(CodecError::Truncated),
            request => Ok(request),
        }
    }
}

impl Encoder<Response> for ServerCodec {
    type Error = CodecError;

    fn encode(&mut self, response: Response, dst: &mut BytesMut) -> Result<(), CodecError> {
        self.encode(&response, dst)
    }
}

impl Encoder<&Response> for ServerCodec {
    type Error = CodecError;

    fn encode(&mut self, response: &Response, dst: &mut BytesMut) -> Result<(), CodecError> {
        response.encode(dst);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an answer in these pieces comes to, as text: samples, and then its end or an error.
    fn streamed<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
        let mut decoder = SampleDecoder::new();
        let mut buffer = BytesMut::new();
        let mut items = Vec::new();
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut buffer) {
                    Ok(None) => break,
                    Ok(Some(item)) => items.push(format!("{item:?}")),
                    Err(error) => {
                        items.push(format!("{error:?}"));
                        return items;
                    }
                }
            }
        }
        items
    }

    #[test]
    fn an_error_comes_behind_the_samples_before_it_in_all_pieces() {
        let too_long = "x".repeat(10_000);
        for end in ["\n", "no record\nc 1 1\n\n", &*too_long] {
            let answer = format!("ok\na 1 1\na 2 2\nb 3 3\n{end}");
            let whole = streamed([answer.as_bytes()].into_iter());
            assert_eq!(whole.len(), 4, "{whole:?}");
            for size in [1, 5, 100] {
                assert_eq!(streamed(answer.as_bytes().chunks(size)), whole);
            }
        }
    }
}
