//! The transcript of one connection.

use bytes::BytesMut;
use metrics_client::codec::{ClientCodec, CodecError, InvalidResponse, Response};
use tokio::time::Instant;
use tokio_util::codec::Decoder;

/// An answer as the codec has it.
pub(super) type DecodedAnswer = Result<Response, InvalidResponse>;

/// One connection of the client.
pub(super) struct Wire {
    /// What the client has written, and how much of that it has flushed.
    pub(super) written: Vec<u8>,
    pub(super) flushed: usize,
    /// The whole requests in that.
    pub(super) requests: Vec<Request>,
    /// The whole answers in what the client has read.
    pub(super) answers: Vec<Answer>,
    /// Whether the server has answered what it was asked and nothing else.
    pub(super) is_sound: bool,
    /// Whether the client ever had to keep back what it wanted to write.
    pub(super) was_blocked: bool,
    /// Whether the client has let go of it, and when.
    pub(super) over: bool,
    pub(super) over_at: Option<Instant>,
    max_response_bytes: usize,
    /// The decoder, once something has been read.
    codec: Option<ClientCodec>,
    unread: BytesMut,
    read: Vec<u8>,
}

pub(super) struct Request {
    pub(super) asked: Asked,
    pub(super) text: String,
    /// Where it ends in what was written.
    pub(super) end: usize,
}

/// Which call a request is of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Asked {
    One(usize),
    Sample(usize, usize),
    All,
    Stream(usize),
    /// Of none: the client asks whether the server answers at all.
    Question,
    /// Of none.
    Nothing,
}

pub(super) struct Answer {
    pub(super) at: Instant,
    pub(super) response: DecodedAnswer,
    is_sound: bool,
}

/// What the client uses a connection for, as far as can be told by what it has written.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Nature {
    Unknown,
    Main,
    Probe,
    Stream,
}

impl Wire {
    pub(super) fn new(max_response_bytes: usize) -> Self {
        Self {
            written: Vec::new(),
            flushed: 0,
            requests: Vec::new(),
            answers: Vec::new(),
            is_sound: true,
            was_blocked: false,
            over: false,
            over_at: None,
            max_response_bytes,
            codec: None,
            unread: BytesMut::new(),
            read: Vec::new(),
        }
    }

    pub(super) fn nature(&self) -> Nature {
        match &self.written[..] {
            [b'g', b'e', b't', b' ', b'p', ..] => Nature::Probe,
            [b'g', b'e', b't', b' ', b's', ..] => Nature::Stream,
            [] | [b'g'] | [b'g', b'e'] | [b'g', b'e', b't'] | [b'g', b'e', b't', b' '] => {
                Nature::Unknown
            }
            _ => Nature::Main,
        }
    }

    /// Whether the client uses it for its requests now.
    pub(super) fn is_main(&self) -> bool {
        self.nature() == Nature::Main && !self.over
    }

    /// Returns the places of the requests that are whole now.
    pub(super) fn wrote(&mut self, bytes: &[u8], cut_short: bool) -> std::ops::Range<usize> {
        let before = self.requests.len();
        self.written.extend_from_slice(bytes);
        while let Some(len) = self.partial().iter().position(|&byte| byte == b'\n') {
            let text = String::from_utf8_lossy(&self.partial()[..=len]).into_owned();
            let end = self.partial_start() + len + 1;
            self.requests.push(Request { asked: asked(&text), text, end });
        }
        self.was_blocked |= cut_short;
        before..self.requests.len()
    }

    /// The beginning of a request that is not whole.
    pub(super) fn partial(&self) -> &[u8] {
        &self.written[self.partial_start()..]
    }

    /// How many requests have been begun.
    pub(super) fn begun(&self) -> usize {
        self.requests.len() + usize::from(!self.partial().is_empty())
    }

    pub(super) fn read(&mut self, bytes: &[u8]) {
        self.read.extend_from_slice(bytes);
        let limit = match self.nature() {
            Nature::Main | Nature::Unknown => self.max_response_bytes,
            Nature::Probe | Nature::Stream => ClientCodec::DEFAULT_MAX_RESPONSE_BYTES,
        };
        let mut codec = self.codec.take().unwrap_or(ClientCodec::with_max_response_bytes(limit));
        self.unread.extend_from_slice(bytes);
        loop {
            match codec.decode(&mut self.unread) {
                Ok(Some(response)) => self.answered(response),
                Ok(None) => break,
                Err(_) => {
                    self.is_sound = false;
                    break;
                }
            }
        }
        let amid = matches!(codec.decode_eof(&mut self.unread), Err(CodecError::Truncated));
        self.is_sound &= !amid || self.answers.len() < self.requests.len();
        self.codec = Some(codec);
    }

    /// Every request, with its answer if the server has kept to the protocol.
    pub(super) fn exchanges(&self) -> impl Iterator<Item = (&Request, Option<&Answer>)> {
        self.requests.iter().enumerate().map(|(place, request)| {
            (request, self.answers.get(place).filter(|answer| answer.is_sound))
        })
    }

    pub(super) fn has_shown_that_it_can_pipeline(&self) -> bool {
        self.nature() == Nature::Probe && self.read == b"ok\n\nok\n\nok\n\n"
    }

    fn answered(&mut self, response: DecodedAnswer) {
        self.is_sound &= match (self.requests.get(self.answers.len()), &response) {
            (None, _) => false,
            (_, Ok(Response::Error(_))) => true,
            (Some(request), Ok(Response::Ok(metrics))) => {
                metrics.is_empty() || request.text.starts_with("get ")
            }
            (Some(request), _) => request.text.starts_with("get "),
        };
        self.answers.push(Answer { at: Instant::now(), response, is_sound: self.is_sound });
    }

    fn partial_start(&self) -> usize {
        self.requests.last().map_or(0, |request| request.end)
    }
}

fn asked(text: &str) -> Asked {
    let key = text.trim_end_matches('\n').split(' ').nth(1).unwrap_or_default();
    let number = |text: &str| text.parse().ok();
    let mut letters = key.chars();
    let letter = letters.next();
    let rest = letters.as_str();
    match letter {
        Some('*') => Some(Asked::All),
        Some('p' | 'g') => number(rest).map(Asked::One),
        Some('h') if rest.starts_with("angup-probe.") => Some(Asked::Question),
        Some('s') => number(rest).map(Asked::Stream),
        Some('b') => rest
            .split_once('.')
            .and_then(|(tag, index)| Some(Asked::Sample(number(tag)?, number(index)?))),
        _ => None,
    }
    .unwrap_or(Asked::Nothing)
}
