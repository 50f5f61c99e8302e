//! What must hold for a whole session of the server, whatever its peer sends; one of the checks
//! that the fuzz targets run, as `codec.rs` has them.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use metrics_client::{
    Key, Point, Sample, Selector,
    codec::{ClientCodec, CodecError, Request, Response, ServerCodec},
};
use metrics_server::{Limits, MemoryStore, Store, serve_connection, store::Snapshot};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime, time,
};

use super::codec::{decode, pieces, sizes, split_input};
use super::yield_once;

/// The shortest line that a server can be limited to: `get k`.
const LEAST: usize = 6;

/// A session ends, has answered each request once and as a plain model does, and has stored what
/// the model stored, however the bytes are cut in either direction; a peer that goes away leaves
/// the store as it was after one of its requests.
pub(crate) fn server_session(input: &[u8]) {
    let (cuts, stream) = split_input(input);
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without sockets needs nothing").block_on(async {
        for (max_line_bytes, max_unsent_bytes) in
            [(ServerCodec::DEFAULT_MAX_LINE_BYTES, 128 * 1024), (LEAST.max(stream.len() / 2), 16)]
        {
            let limits =
                Limits::default().max_line_bytes(max_line_bytes).max_unsent_bytes(max_unsent_bytes);
            let model = Model::of(stream, max_line_bytes);
            model.is_sound(stream, max_line_bytes);
            for (cuts, end) in [(&b""[..], End::Close), (cuts, End::Close), (b"1", End::Silence)] {
                let (answers, stored) =
                    session(PiecewisePeer::new(cuts, stream, end), limits).await;
                assert_eq!(text(&answers), text(&model.answers));
                assert_eq!(stored, model.store.rows().collect::<Vec<_>>());
            }
            let half = model.answers.len() / 2;
            for end in [End::TakeNoMoreThan(half), End::FailAfter(half)] {
                let (answers, stored) =
                    session(PiecewisePeer::new(cuts, stream, end), limits).await;
                assert!(model.answers.starts_with(&answers), "{}", text(&answers));
                assert!(model.was_once(&answers, &stored), "{stored:?}");
            }
        }
    });
}

/// A point with its key; the value as its bits, in which -0.0 is not 0.0.
type Row = (Key, i64, u64);

/// Serves `peer` to the end: the answers that it got, and what is then stored.
async fn session(mut peer: PiecewisePeer<'_>, limits: Limits) -> (Vec<u8>, Vec<Row>) {
    let store = Arc::new(MemoryStore::new());
    let serving = serve_connection(&mut peer, Arc::clone(&store), limits);
    // Longer than all the times together that a session gives its peer.
    let end = time::timeout(Duration::from_secs(60 * 60), serving).await;
    end.expect("a session must end, whatever its peer does");
    let mut snapshot = store.get(&Selector::All).await.expect("memory does not fail");
    let mut stored = Vec::new();
    while let Some(block) = snapshot.next_block().await.expect("memory does not fail") {
        let rows = block.points.iter();
        stored.extend(rows.map(|row| (block.key.clone(), row.timestamp, row.value.to_bits())));
    }
    (peer.answers, stored)
}

/// The peer of a session. It sends and reads in pieces of the sizes that the cuts give; a piece
/// without a byte is a moment in which nothing happens.
struct PiecewisePeer<'a> {
    pieces: Box<dyn Iterator<Item = &'a [u8]> + Send + 'a>,
    /// What is left of the piece that is being sent.
    piece: &'a [u8],
    takes: Box<dyn Iterator<Item = usize> + Send + 'a>,
    /// Written and not flushed, so the peer has not got it.
    unflushed: Vec<u8>,
    answers: Vec<u8>,
    end: End,
}

/// What a peer does in the end.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It closes its side once it has sent everything.
    Close,
    /// It sends everything, and then neither sends nor closes.
    Silence,
    /// It reads this number of bytes of answers, and no more.
    TakeNoMoreThan(usize),
    /// The connection breaks after this number of bytes of answers.
    FailAfter(usize),
}

impl<'a> PiecewisePeer<'a> {
    fn new(cuts: &'a [u8], stream: &'a [u8], end: End) -> Self {
        Self {
            pieces: Box::new(pieces(cuts, stream)),
            piece: b"",
            takes: Box::new(sizes(cuts)),
            unflushed: Vec::new(),
            answers: Vec::new(),
            end,
        }
    }
}

impl AsyncRead for PiecewisePeer<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.piece.is_empty() {
            self.piece = match (self.pieces.next(), self.end) {
                (Some(b""), _) => return yield_once(cx),
                (Some(piece), _) => piece,
                (None, End::Silence) => return Poll::Pending,
                (None, _) => return Poll::Ready(Ok(())),
            };
        }
        let (now, later) = self.piece.split_at(self.piece.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.piece = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PiecewisePeer<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = self.answers.len() + self.unflushed.len();
        let room = match self.end {
            End::Close | End::Silence => usize::MAX,
            End::TakeNoMoreThan(most) if taken == most => return Poll::Pending,
            End::FailAfter(most) if taken == most => {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            End::TakeNoMoreThan(most) | End::FailAfter(most) => most - taken,
        };
        let size = match self.takes.next() {
            Some(0) => return yield_once(cx),
            size => size.map_or(0, |size| size.min(bytes.len()).min(room)),
        };
        self.unflushed.extend_from_slice(&bytes[..size]);
        Poll::Ready(Ok(size))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { unflushed, answers, .. } = &mut *self;
        answers.append(unflushed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// What a session must answer and store, found in the plain way.
#[derive(Default)]
struct Model {
    store: PlainStore,
    answers: Vec<u8>,
    responses: Vec<Response>,
    /// Every put, with how many bytes of answers there were before it was answered.
    puts: Vec<(usize, Sample)>,
}

impl Model {
    fn of(stream: &[u8], max_line_bytes: usize) -> Self {
        let mut model = Self::default();
        let lines =
            decode(ServerCodec::with_max_line_bytes(max_line_bytes), std::iter::once(stream));
        if matches!(lines.items.first(), Some(Err(_))) && is_foreign(stream) {
            model.answer(Err(()));
            return model;
        }
        for request in lines.items {
            let result = match request {
                Ok(Request::Put(sample)) => {
                    model.store.put(&sample);
                    model.puts.push((model.answers.len(), sample));
                    Ok(Vec::new())
                }
                Ok(Request::Get(Selector::All)) => Ok(model.store.samples().collect()),
                Ok(Request::Get(Selector::Key(key))) => {
                    Ok(model.store.samples().filter(|sample| sample.key == key).collect())
                }
                Ok(request) => unreachable!("no such request: {request}"),
                Err(_) => Err(()),
            };
            model.answer(result);
        }
        if let Some(CodecError::LineTooLong { .. }) = lines.error {
            model.answer(Err(()));
        }
        model
    }

    fn answer(&mut self, result: Result<Vec<Sample>, ()>) {
        let (text, response) = match result {
            Ok(samples) => {
                let records: String = samples.iter().map(|sample| format!("{sample}\n")).collect();
                (format!("ok\n{records}\n"), Response::Ok(samples.into_iter().collect()))
            }
            Err(()) => ("error\nwrong command\n\n".into(), Response::Error("wrong command".into())),
        };
        self.answers.extend_from_slice(text.as_bytes());
        self.responses.push(response);
    }

    /// Sees that the answers are whole and mean what they should, one for each line.
    fn is_sound(&self, stream: &[u8], max_line_bytes: usize) {
        let received = decode(ClientCodec::default(), std::iter::once(&*self.answers));
        let received_ok: Vec<_> = received.items.into_iter().collect::<Result<_, _>>().unwrap();
        assert_eq!(format!("{received_ok:?}"), format!("{:?}", self.responses));
        assert!(received.error.is_none(), "{:?}", received.error);
        // The first line of another protocol is the last that is answered.
        let is_over = matches!(self.responses[..], [Response::Error(_)]) && is_foreign(stream);
        let count = count_requests(stream, max_line_bytes);
        assert_eq!(self.responses.len(), if is_over { count.min(1) } else { count });
    }

    /// Whether the store held `stored` after one of the requests, and not before the last that was
    /// answered in `answers`.
    fn was_once(&self, answers: &[u8], stored: &[Row]) -> bool {
        let mut store = PlainStore::default();
        let mut puts = self.puts.iter().peekable();
        while let Some((_, sample)) = puts.next_if(|(before, _)| *before < answers.len()) {
            store.put(sample);
        }
        loop {
            if store.points.len() == stored.len() && store.rows().eq(stored.iter().cloned()) {
                return true;
            }
            let Some((_, sample)) = puts.next() else { return false };
            store.put(sample);
        }
    }
}

/// Whether the first line, if it is not a request, begins HTTP or TLS.
fn is_foreign(stream: &[u8]) -> bool {
    let is_blank = |byte: &u8| b" \t\r\x0c".contains(byte);
    let mut lines = stream.split(|&byte| byte == b'\n');
    let Some(line) = lines.find(|line| {
        !line.strip_suffix(b"\r").unwrap_or(line).iter().all(|byte| b" \t".contains(byte))
    }) else {
        return false;
    };
    let last = line.split(is_blank).rfind(|field| !field.is_empty());
    line.starts_with(b"\x16\x03") || last.is_some_and(|field| field.starts_with(b"HTTP/"))
}

/// How many answers are due.
fn count_requests(stream: &[u8], max_line_bytes: usize) -> usize {
    let mut count = 0;
    for line in stream.split_inclusive(|&byte| byte == b'\n') {
        if line.len() > max_line_bytes {
            return count + 1;
        }
        let Some(line) = line.strip_suffix(b"\n") else { break };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        count += usize::from(!line.iter().all(|byte| b" \t".contains(byte)));
    }
    count
}

/// Every put on a key and second replaces the value; keys stand in the order of their first put.
#[derive(Default)]
struct PlainStore {
    keys: Vec<Key>,
    points: BTreeMap<(usize, i64), f64>,
}

impl PlainStore {
    fn put(&mut self, Sample { key, point }: &Sample) {
        let place = self.keys.iter().position(|known| known == key).unwrap_or_else(|| {
            self.keys.push(key.clone());
            self.keys.len() - 1
        });
        self.points.insert((place, point.timestamp), point.value);
    }

    fn samples(&self) -> impl Iterator<Item = Sample> {
        self.points.iter().map(|(&(place, timestamp), &value)| Sample {
            key: self.keys[place].clone(),
            point: Point { timestamp, value },
        })
    }

    fn rows(&self) -> impl Iterator<Item = Row> {
        self.samples().map(|Sample { key, point }| (key, point.timestamp, point.value.to_bits()))
    }
}

/// Answers to compare, legible where they differ.
fn text(answers: &[u8]) -> String {
    answers.escape_ascii().to_string()
}
