//! What must hold for the codec on any bytes.
//!
//! The property tests feed these checks with what looks like the protocol, the fuzz targets of
//! `fuzz/` include this folder and feed them with everything else, and `corpus.rs` replays what the
//! fuzzer found worth keeping.

use std::{fmt::Debug, mem::discriminant};

use bytes::BytesMut;
use metrics_client::codec::{
    ClientCodec, CodecError, InvalidResponse, Request, Response, ServerCodec,
};
use tokio_util::codec::{Decoder, Encoder};

/// A stream of answers decodes alike in all pieces, is limited to the byte, and what it says can be
/// said again.
pub(crate) fn response_decoder(input: &[u8]) {
    let (cuts, stream) = split_input(input);
    for limit in [ClientCodec::DEFAULT_MAX_RESPONSE_BYTES, stream.len() / 2] {
        decodes_alike(|| ClientCodec::with_max_response_bytes(limit), cuts, stream);
    }
    first_answer_is_limited_to_the_byte(cuts, stream);
    for response in decode(ClientCodec::default(), pieces(cuts, stream)).items {
        response_can_be_said_again(&response);
    }
}

/// A stream of requests decodes alike in all pieces, is limited to the byte, and what it asks can
/// be asked again.
pub(crate) fn request_parser(input: &[u8]) {
    let (cuts, stream) = split_input(input);
    for limit in [ServerCodec::DEFAULT_MAX_LINE_BYTES, stream.len() / 2] {
        decodes_alike(|| ServerCodec::with_max_line_bytes(limit), cuts, stream);
    }
    first_line_is_limited_to_the_byte(cuts, stream);
    for item in decode(ServerCodec::default(), pieces(cuts, stream)).items {
        match item {
            Ok(request) => request_can_be_asked_again(&request),
            Err(fault) => is_one_harmless_line(&fault.to_string()),
        }
    }
}

/// Splits a fuzzer's input: its first line tells the cuts, the rest is the stream.
pub(crate) fn split_input(input: &[u8]) -> (&[u8], &[u8]) {
    let end = input.iter().position(|&byte| byte == b'\n').unwrap_or(input.len());
    (&input[..end], input.get(end + 1..).unwrap_or_default())
}

/// Cuts a stream into pieces that have, in turn, as many bytes as `cuts` says: `102` means one,
/// none, two, one, none, two, and so on. Without cuts it stays whole.
pub(crate) fn pieces<'a>(cuts: &'a [u8], stream: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut sizes = sizes(cuts);
    let mut rest = stream;
    std::iter::from_fn(move || {
        let size = sizes.next()?.min(rest.len());
        let (piece, after) = rest.split_at_checked(size).filter(|_| !rest.is_empty())?;
        rest = after;
        Some(piece)
    })
}

/// How many bytes each piece has, without end.
pub(crate) fn sizes(cuts: &[u8]) -> impl Iterator<Item = usize> {
    let mut sizes = cuts.iter().map(|cut| usize::from(cut.wrapping_sub(b'0'))).cycle();
    let whole = cuts.iter().all(|&cut| cut == b'0');
    std::iter::from_fn(move || if whole { Some(usize::MAX) } else { sizes.next() })
}

/// Everything that a decoder made of a stream: its items, and the error that it ended with.
pub(crate) struct Decoded<T> {
    pub(crate) items: Vec<T>,
    pub(crate) error: Option<CodecError>,
}

/// Decodes a stream as `Framed` would, which stops at the first error, and checks each call.
pub(crate) fn decode<'a, D>(
    mut codec: D,
    mut pieces: impl Iterator<Item = &'a [u8]>,
) -> Decoded<D::Item>
where
    D: Decoder<Error = CodecError>,
{
    let mut buffer = BytesMut::new();
    let mut items = Vec::new();
    let mut all = |buffer: &mut BytesMut, eof: bool| {
        loop {
            let before = buffer.len();
            let item = if eof { codec.decode_eof(buffer) } else { codec.decode(buffer) }?;
            let Some(item) = item else { return Ok(()) };
            assert!(buffer.len() < before, "an item came out of nothing");
            items.push(item);
        }
    };
    let result = pieces
        .try_for_each(|piece| {
            buffer.extend_from_slice(piece);
            all(&mut buffer, false)
        })
        .and_then(|()| all(&mut buffer, true));
    Decoded { items, error: result.err() }
}

fn decodes_alike<D>(codec: impl Fn() -> D, cuts: &[u8], stream: &[u8])
where
    D: Decoder<Error = CodecError>,
    D::Item: Debug,
{
    let whole = decode(codec(), std::iter::once(stream));
    for cuts in [cuts, b"1"] {
        let cut = decode(codec(), pieces(cuts, stream));
        // As text, in which NaN equals itself and -0.0 is not 0.0.
        assert_eq!(format!("{:?}", cut.items), format!("{:?}", whole.items));
        assert_eq!(
            cut.error.as_ref().map(discriminant),
            whole.error.as_ref().map(discriminant),
            "{:?} is not {:?}",
            cut.error,
            whole.error,
        );
    }
}

fn first_answer_is_limited_to_the_byte(cuts: &[u8], stream: &[u8]) {
    let blank = stream.iter().take_while(|&&byte| byte == b'\n').count();
    let mut rest = BytesMut::from(stream);
    let Ok(Some(answer)) = ClientCodec::default().decode(&mut rest) else { return };
    let len = stream.len() - rest.len() - blank;
    let stream = &stream[..blank + len];
    let enough = decode(ClientCodec::with_max_response_bytes(len), pieces(cuts, stream));
    assert_eq!(format!("{:?}", enough.items), format!("{:?}", [answer]));
    let short = decode(ClientCodec::with_max_response_bytes(len - 1), pieces(cuts, stream));
    assert!(short.error.is_none(), "{:?}", short.error);
    match &short.items[..] {
        [Err(InvalidResponse::TooLarge { limit, .. })] => assert_eq!(*limit, len - 1),
        // Of a message there is the beginning.
        [Ok(Response::Error(message))] => assert!(message.len() <= 3 * len),
        items => panic!("{items:?}"),
    }
}

fn first_line_is_limited_to_the_byte(cuts: &[u8], stream: &[u8]) {
    let Some(end) = stream.iter().position(|&byte| byte == b'\n') else { return };
    let line = &stream[..=end];
    let enough = decode(ServerCodec::with_max_line_bytes(line.len()), pieces(cuts, line));
    assert!(enough.error.is_none(), "{:?}", enough.error);
    let short = decode(ServerCodec::with_max_line_bytes(end), pieces(cuts, line));
    assert!(short.items.is_empty());
    assert!(
        matches!(short.error, Some(CodecError::LineTooLong { limit, .. }) if limit == end),
        "{:?}",
        short.error,
    );
}

fn response_can_be_said_again(response: &Result<Response, InvalidResponse>) {
    let mut bytes = BytesMut::new();
    match response {
        Err(error) => is_one_harmless_line(&error.to_string()),
        // What a server's message holds in the way of control characters is not said again.
        Ok(Response::Error(message)) if message.contains(char::is_control) => {}
        Ok(sent) => {
            ServerCodec::default().encode(sent, &mut bytes).unwrap();
            let again = decode(ClientCodec::default(), std::iter::once(&*bytes));
            assert_eq!(format!("{:?}", again.items), format!("{:?}", [response]));
            assert!(again.error.is_none(), "{:?}", again.error);
        }
    }
}

fn request_can_be_asked_again(request: &Request) {
    let mut bytes = BytesMut::new();
    ClientCodec::default().encode(request.clone(), &mut bytes).unwrap();
    assert_eq!(bytes, format!("{request}\n"));
    let again = decode(ServerCodec::default(), std::iter::once(&*bytes));
    assert_eq!(format!("{:?}", again.items), format!("[Ok({request:?})]"));
    assert!(again.error.is_none(), "{:?}", again.error);
}

fn is_one_harmless_line(text: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(text.chars().count() < 1000, "{text:?}");
}
