//! Decodes responses: a status line, records or a message, a blank line.
//!
//! The decoder takes records out of the buffer as their lines become whole, so however large an
//! answer is, the buffer holds little more than one read, and each byte is looked at once for line
//! breaks and once for what it says, however the answer is cut into pieces.

use bytes::{Buf, BytesMut};

use super::{
    error::{CodecError, InvalidRecord, LineExcerpt},
    line_break,
    parse::{parse_record, same_key},
    response::{ERROR, OK},
};
use crate::metric::{InvalidKey, Point};

/// How a server that speaks TLS answers a client that does not (RFC 8446, section 5.1).
const TLS_ALERT: u8 = 21;

/// The answer to a `put` that was carried out, and to a `get` that found nothing.
const ACKNOWLEDGEMENT: &[u8; 4] = b"ok\n\n";

/// The longest line of an answer, in bytes with its line break: a key of 1,024 and two numbers,
/// seven times over.
///
/// Without it a line that never ends would be bounded only by the limit on the whole answer, and a
/// streamed answer has none.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// The longest `error` answer, in bytes. The messages seen are below 100.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// How many times the limit on an answer its records may take in memory. A record of 25 bytes, as
/// most are, whose key no other has takes 250 bytes while the index of the keys grows: so what
/// usual keys bring is within the bound whenever its text is within the limit.
const MEMORY_FACTOR: usize = 12;

/// What the records of an answer may take in memory however low its limit is, in bytes.
const MIN_MEMORY_BYTES: usize = 1024 * 1024;

/// How much room there is for the rest of an answer that has begun, in bytes: it is likely to be
/// large, or it would have come as a whole.
const READ_AHEAD_BYTES: usize = 64 * 1024;

/// Takes the records of an answer as they are decoded.
pub(crate) trait RecordSink {
    /// The points that follow are this key's.
    fn select(&mut self, key: &str) -> Result<(), InvalidKey>;

    /// A point of the key last selected.
    fn push(&mut self, point: Point);

    /// Returns how much memory the records take, in bytes, and what it will take to hold one more.
    fn memory(&self) -> usize;

    /// Drops all records.
    fn clear(&mut self);
}

/// How an answer ended.
#[derive(Debug, PartialEq)]
pub(crate) enum ResponseEnd {
    /// `ok`: whatever data there was went to the sink.
    Ok,
    /// `ok`, with a record that cannot be read.
    Malformed(InvalidRecord),
    /// `error`, with this message.
    Error(String),
    /// `ok`, with more data than may be.
    TooLarge,
}

/// Reads answers out of a buffer, however they are cut into pieces.
#[derive(Debug)]
pub(crate) struct ResponseDecoder {
    state: DecoderState,
    /// How much of the buffer has been searched for the end of what is being read.
    searched: usize,
    /// How many bytes of the current answer have left the buffer.
    taken: usize,
    /// How many bytes of all answers have left the buffer.
    decoded: u64,
    /// The most that an answer may have, in bytes.
    limit: usize,
    /// The key of the last record and a space, as a record of the same key begins.
    prefix: Vec<u8>,
}

#[derive(Debug)]
enum DecoderState {
    Status,
    Records,
    /// A record could not be read; the rest of the answer is passed over.
    Skipping(InvalidRecord),
    /// The answer is too large; the rest of it is passed over.
    Oversized,
    Message,
    /// The message is too long; the rest of it is passed over.
    LongMessage {
        beginning: String,
        at_line_start: bool,
    },
}

impl ResponseDecoder {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            state: DecoderState::Status,
            searched: 0,
            taken: 0,
            decoded: 0,
            limit,
            prefix: Vec::new(),
        }
    }

    /// Whether the next byte would begin a new answer.
    pub(crate) fn is_between_answers(&self) -> bool {
        matches!(self.state, DecoderState::Status)
    }

    /// Whether the rest of an answer is passed over because it is too large.
    pub(crate) fn is_oversized(&self) -> bool {
        matches!(self.state, DecoderState::Oversized | DecoderState::LongMessage { .. })
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// How many bytes of all answers have been decoded.
    pub(crate) fn decoded(&self) -> u64 {
        self.decoded
    }

    /// Takes the answers that `src` begins with as long as they are `ok` without data.
    pub(crate) fn skip_acknowledgements(&mut self, src: &mut BytesMut) -> usize {
        if !self.is_between_answers() || self.limit < ACKNOWLEDGEMENT.len() {
            return 0;
        }
        let (answers, _) = src.as_chunks();
        let count = answers.iter().take_while(|&answer| answer == ACKNOWLEDGEMENT).count();
        let len = count * ACKNOWLEDGEMENT.len();
        src.advance(len);
        self.decoded += len as u64;
        count
    }

    /// Passes over an acknowledgement, if `src` begins with one and no answer has begun.
    #[inline]
    pub(crate) fn take_acknowledgement(&mut self, src: &mut BytesMut) -> bool {
        let is_next = self.is_between_answers()
            && self.limit >= ACKNOWLEDGEMENT.len()
            && src.starts_with(ACKNOWLEDGEMENT);
        if is_next {
            src.advance(ACKNOWLEDGEMENT.len());
            self.decoded += ACKNOWLEDGEMENT.len() as u64;
        }
        is_next
    }

    /// Reads on in `src`. `None` means that the answer is not over and every byte has been looked
    /// at; the records so far have gone to the sink.
    pub(crate) fn decode(
        &mut self,
        src: &mut BytesMut,
        sink: &mut impl RecordSink,
    ) -> Result<Option<ResponseEnd>, CodecError> {
        let before = src.len();
        let end = self.decode_on(src, sink);
        self.decoded += (before - src.len()) as u64;
        if let (
            Ok(None),
            DecoderState::Records | DecoderState::Skipping(_) | DecoderState::Oversized,
        ) = (&end, &self.state)
        {
            // Without this, each read would be no larger than what the last one left free.
            src.reserve(READ_AHEAD_BYTES);
        }
        end
    }

    fn decode_on(
        &mut self,
        src: &mut BytesMut,
        sink: &mut impl RecordSink,
    ) -> Result<Option<ResponseEnd>, CodecError> {
        if let DecoderState::Status = self.state
            && !self.status(src)?
        {
            return Ok(None);
        }
        let end = match self.state {
            DecoderState::Message | DecoderState::LongMessage { .. } => self.message(src),
            _ => self.records(src, sink)?,
        };
        if end.is_some() {
            self.state = DecoderState::Status;
            self.searched = 0;
            self.prefix.clear();
        }
        Ok(end)
    }

    /// Reads the status line, and says whether it was there.
    fn status(&mut self, src: &mut BytesMut) -> Result<bool, CodecError> {
        let blank = src.iter().position(|&byte| byte != b'\n').unwrap_or(src.len());
        src.advance(blank);
        for (status, state) in [(OK, DecoderState::Records), (ERROR, DecoderState::Message)] {
            if src.starts_with(status) {
                src.advance(status.len());
                self.taken = status.len();
                self.state = state;
                return Ok(true);
            }
            if status.starts_with(src) {
                return Ok(false);
            }
        }
        if src.first() == Some(&TLS_ALERT) {
            return Err(CodecError::TlsAlert);
        }
        let line = src.as_ref().split(|&byte| byte == b'\n').next().unwrap_or_default();
        Err(CodecError::Status(LineExcerpt::of(line)))
    }

    /// Reads all records whose lines are whole.
    fn records(
        &mut self,
        src: &mut BytesMut,
        sink: &mut impl RecordSink,
    ) -> Result<Option<ResponseEnd>, CodecError> {
        let (len, over) = self.whole_lines(src, sink)?;
        src.advance(len);
        self.taken += len;
        self.check_memory(sink);
        if !over {
            self.check_line(self.taken, src.len(), sink)?;
            self.searched = src.len();
            return Ok(None);
        }
        Ok(Some(match std::mem::replace(&mut self.state, DecoderState::Status) {
            DecoderState::Skipping(fault) => ResponseEnd::Malformed(fault),
            DecoderState::Oversized => ResponseEnd::TooLarge,
            _ => ResponseEnd::Ok,
        }))
    }

    /// Reads the lines of `text` that are whole, up to the end of the answer. Says how much that
    /// was, and whether the answer is over.
    fn whole_lines(
        &mut self,
        text: &[u8],
        sink: &mut impl RecordSink,
    ) -> Result<(usize, bool), CodecError> {
        let mut at = 0;
        let mut searched = self.searched;
        loop {
            let rest = &text[at..];
            // A line that came in pieces is left to the search, which goes on where it stopped.
            if searched == 0
                && let DecoderState::Records = self.state
                && let Some((point, len)) = same_key(rest, &self.prefix)
            {
                sink.push(point);
                at += len;
                continue;
            }
            let Some(end) = line_break(rest, searched) else {
                return Ok((at, false));
            };
            searched = 0;
            self.check_line(self.taken + at, end + 1, sink)?;
            at += end + 1;
            if end == 0 {
                return Ok((at, true));
            }
            self.line(&rest[..end], sink);
        }
    }

    /// Reads one record with whatever it takes.
    fn line(&mut self, line: &[u8], sink: &mut impl RecordSink) {
        if !matches!(self.state, DecoderState::Records) {
            return;
        }
        let record =
            parse_record(line).filter(|(key, _)| self.is_selected(key) || sink.select(key).is_ok());
        match record {
            Some((key, point)) => {
                self.prefix.clear();
                self.prefix.extend_from_slice(key.as_bytes());
                self.prefix.push(b' ');
                sink.push(point);
                self.check_memory(sink);
            }
            None => self.state = DecoderState::Skipping(InvalidRecord::of(line)),
        }
    }

    fn is_selected(&self, key: &str) -> bool {
        self.prefix.strip_suffix(b" ") == Some(key.as_bytes())
    }

    /// Reads the message of an error, up to the blank line.
    fn message(&mut self, src: &mut BytesMut) -> Option<ResponseEnd> {
        if let DecoderState::LongMessage { .. } = self.state {
            return self.rest_of_message(src);
        }
        let limit = self.limit.min(MAX_ERROR_BYTES);
        let mut over = None;
        while over.is_none()
            && let Some(at) = line_break(src, self.searched)
        {
            self.searched = at + 1;
            over = src[..at].last().is_none_or(|&before| before == b'\n').then_some(at);
        }
        if self.taken + over.map_or(src.len(), |at| at + 1) > limit {
            let len = limit.saturating_sub(self.taken);
            let beginning = src[..len].trim_ascii_end();
            let beginning = String::from_utf8_lossy(beginning).into_owned();
            self.state = DecoderState::LongMessage { beginning, at_line_start: true };
            return self.rest_of_message(src);
        }
        let Some(at) = over else {
            self.searched = src.len();
            return None;
        };
        let message = String::from_utf8_lossy(&src[..at.saturating_sub(1)]).into_owned();
        src.advance(at + 1);
        Some(ResponseEnd::Error(message))
    }

    /// Passes over a message whose beginning is known, up to the blank line.
    fn rest_of_message(&mut self, src: &mut BytesMut) -> Option<ResponseEnd> {
        let DecoderState::LongMessage { beginning, at_line_start } = &mut self.state else {
            return None;
        };
        while let Some(at) = line_break(src, 0) {
            let is_blank = at == 0 && *at_line_start;
            src.advance(at + 1);
            *at_line_start = true;
            if is_blank {
                return Some(ResponseEnd::Error(std::mem::take(beginning)));
            }
        }
        *at_line_start &= src.is_empty();
        src.clear();
        None
    }

    /// Lets `len` bytes of a line pass if they are within the limits; the answer had `before` bytes
    /// before it. If the whole answer is too large, its records are dropped, and it goes on.
    fn check_line(
        &mut self,
        before: usize,
        len: usize,
        sink: &mut impl RecordSink,
    ) -> Result<(), CodecError> {
        if self.limit.checked_sub(before).is_none_or(|left| len > left) {
            self.state = DecoderState::Oversized;
            sink.clear();
        }
        if len > MAX_LINE_BYTES {
            return Err(CodecError::LineTooLong { limit: MAX_LINE_BYTES });
        }
        Ok(())
    }

    /// Drops the records if they take more memory than they may.
    fn check_memory(&mut self, sink: &mut impl RecordSink) {
        if let DecoderState::Records = self.state
            && sink.memory() > self.limit.saturating_mul(MEMORY_FACTOR).max(MIN_MEMORY_BYTES)
        {
            self.state = DecoderState::Oversized;
            sink.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::*;
    use crate::{
        metric::{Key, MetricsBuilder},
        protocol::effort::LOOKED_AT,
    };

    /// Decodes `answer` from one-byte pieces, and says how many bytes were searched.
    fn searched_in_single_bytes(answer: &str) -> usize {
        let mut decoder = ResponseDecoder::new(usize::MAX);
        let mut sink = MetricsBuilder::default();
        let mut buffer = BytesMut::new();
        LOOKED_AT.set(0);
        for (at, &byte) in answer.as_bytes().iter().enumerate() {
            buffer.put_u8(byte);
            let end = decoder.decode(&mut buffer, &mut sink).unwrap();
            assert_eq!(end.is_some(), at + 1 == answer.len());
        }
        LOOKED_AT.get()
    }

    #[test]
    fn each_byte_of_an_answer_in_a_million_pieces_is_searched_once() {
        let mut records = String::from("ok\n");
        while records.len() < 1_000_000 {
            let key = "k".repeat(1 + records.len() % Key::MAX_LEN);
            records += &format!("{key} 0.5 1150864247\n");
        }
        records += "\n";
        assert_eq!(searched_in_single_bytes(&records), records.len() - "ok\n".len());

        let unreadable = format!("ok\n{}\n", "no record of any kind\n".repeat(1000));
        assert_eq!(searched_in_single_bytes(&unreadable), unreadable.len() - "ok\n".len());

        let message = format!("error\n{}\n\n", "m".repeat(MAX_ERROR_BYTES - 8));
        assert_eq!(searched_in_single_bytes(&message), message.len() - "error\n".len());
    }

    #[test]
    fn a_line_is_too_long_in_one_piece_too() {
        let answer = format!("ok\na 1 1\na 0.{} 2\n\n", "3".repeat(MAX_LINE_BYTES));
        let mut buffer = BytesMut::from(&*answer);
        let mut sink = MetricsBuilder::default();
        let end = ResponseDecoder::new(usize::MAX).decode(&mut buffer, &mut sink);
        assert!(matches!(end, Err(CodecError::LineTooLong { .. })), "{end:?}");
    }

    #[test]
    fn answers_in_one_segment_are_each_searched_once() {
        let count = 10_000;
        let mut buffer = BytesMut::from(&*"ok\na 1 1\n\n".repeat(count));
        buffer.put_slice(b"ok\nthe beginning of a record");
        let mut decoder = ResponseDecoder::new(usize::MAX);
        let mut sink = MetricsBuilder::default();
        LOOKED_AT.set(0);
        while decoder.decode(&mut buffer, &mut sink).unwrap().is_some() {}
        assert_eq!(LOOKED_AT.get(), count * "a 1 1\n\n".len() + buffer.len());
    }
}
