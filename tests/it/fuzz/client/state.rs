//! The observable state of a client, and what must hold for it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metrics_client::{
    Error, Metrics,
    client::{ClientStats, Pipelining},
    codec::Response,
};
use tokio::time::Instant;

use super::{
    Rules, Start,
    transcript::{Answer, Asked, DecodedAnswer, Nature, Request, Wire},
};

/// How long the end of a connection may come behind an error that comes before anything else.
const GREETING: Duration = Duration::from_millis(50);

/// The state that the callers and the servers of a script share.
#[derive(Clone)]
pub(super) struct SharedState(Arc<Mutex<ScriptState>>);

pub(super) struct ScriptState {
    pub(super) rules: Rules,
    scripts: VecDeque<Vec<u8>>,
    /// Every connection that the client has begun to make.
    wires: Vec<Wire>,
    /// Every call, in the order of their first polls.
    pub(super) calls: Vec<CallRecord>,
    /// Set once a caller has begun to close the client.
    pub(super) closing: bool,
    /// Whether every server has been prompt so far.
    pub(super) all_are_prompt: bool,
    /// What did not hold. Said here, for a panic in the client's own task would not be seen.
    complaints: Vec<String>,
}

pub(super) struct CallRecord {
    pub(super) ask: Ask,
    /// Set once its caller no longer waits.
    over: bool,
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ask {
    Put,
    PutNow,
    Get,
    GetAll,
    Batch(usize),
    Stream,
    Nonsense,
}

impl SharedState {
    pub(super) fn new(rules: Rules, scripts: impl Iterator<Item = Vec<u8>>) -> Self {
        Self(Arc::new(Mutex::new(ScriptState {
            rules,
            scripts: scripts.collect(),
            wires: Vec::new(),
            calls: Vec::new(),
            closing: false,
            all_are_prompt: true,
            complaints: Vec::new(),
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ScriptState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the servers tell.
impl ScriptState {
    /// A connection is being made: its number, its cuts, and its script.
    pub(super) fn connect(&mut self) -> (usize, Vec<u8>, Vec<u8>) {
        let mut cuts = self.scripts.pop_front().unwrap_or_else(|| b"*".to_vec());
        let script = match cuts.iter().position(|&byte| byte == b' ') {
            Some(end) => cuts.split_off(end + 1),
            None => std::mem::take(&mut cuts),
        };
        cuts.pop();
        self.all_are_prompt &= script == b"*";
        self.wires.push(Wire::new(self.rules.max_response_bytes));
        (self.wires.len() - 1, cuts, script)
    }

    pub(super) fn disconnect(&mut self, id: usize) {
        self.wires[id].over = true;
        self.wires[id].over_at = Some(Instant::now());
    }

    /// The client has written; it might have written more.
    pub(super) fn wrote(&mut self, id: usize, bytes: &[u8], cut_short: bool) {
        let was_main = self.wires[id].is_main();
        let new = self.wires[id].wrote(bytes, cut_short);
        if self.wires[id].nature() != Nature::Main {
            return;
        }
        if !was_main
            && self.wires.iter().enumerate().any(|(other, wire)| other != id && wire.is_main())
        {
            self.complain(format!("connection {id} is used beside another"));
        }
        let complaints = new.filter_map(|place| self.fault(id, place)).collect::<Vec<_>>();
        self.complaints.extend(complaints);
        let wire = &self.wires[id];
        let width = self.width(id);
        if wire.is_sound && wire.begun() > wire.answers.len() + width {
            self.complain(format!("more than {width} requests are in flight on connection {id}"));
        }
    }

    /// Says whether there was anything to flush.
    pub(super) fn flushed(&mut self, id: usize) -> bool {
        let wire = &mut self.wires[id];
        let len = wire.written.len();
        std::mem::replace(&mut wire.flushed, len) < len
    }

    /// The client has read.
    pub(super) fn read(&mut self, id: usize, bytes: &[u8]) {
        self.wires[id].read(bytes);
    }

    /// What the server of a connection answers to a request, once it has got it.
    pub(super) fn answer(&self, id: usize, place: usize, how: u8) -> Option<String> {
        let wire = &self.wires[id];
        let request = wire.requests.get(place).filter(|request| request.end <= wire.flushed)?;
        Some(match (how, &request.asked) {
            (b'e', _) => format!("error\n{id}.{place}\n\n"),
            (b'm', _) => "ok\nno.record\n\n".into(),
            (_, Asked::One(tag)) if request.text.starts_with("get ") => {
                format!("ok\ng{tag} {id}.5 {place}\n\n")
            }
            (_, Asked::All) => format!("ok\na {id}.5 {place}\nb {id}.5 {place}\n\n"),
            (_, Asked::Stream(tag)) => format!("ok\ns{tag} 0.5 1\ns{tag} 0.5 2\n\n"),
            (_, Asked::One(_) | Asked::Sample(..) | Asked::Question | Asked::Nothing) => {
                "ok\n\n".into()
            }
        })
    }

    fn complain(&mut self, complaint: String) {
        self.complaints.push(complaint);
    }

    /// How many requests may be in flight on a connection.
    fn width(&self, id: usize) -> usize {
        let probed = || self.wires[id..].iter().any(Wire::has_shown_that_it_can_pipeline);
        match self.rules.pipelining {
            Pipelining::On => self.rules.max_in_flight,
            Pipelining::Auto if self.rules.start != Start::Given && probed() => {
                self.rules.max_in_flight
            }
            _ => 1,
        }
    }

    /// What is wrong with a request that has been written as a whole.
    fn fault(&self, id: usize, place: usize) -> Option<String> {
        let wire = &self.wires[id];
        let (before, request) = (&wire.requests[..place], &wire.requests[place]);
        let is_question = self.is_question(id, place);
        let before = before.iter().enumerate();
        let mut before =
            before.filter(|&(place, _)| !self.is_question(id, place)).map(|(_, other)| other);
        let text = &request.text;
        let (tag, index) = match request.asked {
            Asked::One(tag) => (tag, 0),
            Asked::Sample(tag, index) => (tag, index),
            Asked::All => return None,
            Asked::Question if is_question => return None,
            Asked::Question => return Some(format!("{text:?} comes late")),
            Asked::Stream(_) | Asked::Nothing => return Some(format!("no call asks {text:?}")),
        };
        let call = &self.calls[tag];
        if !text.starts_with(&call.ask.text(tag, index)) {
            return Some(format!("{text:?} is garbled"));
        }
        let is_later = match call.ask {
            Ask::Batch(_) => before.all(|other| match other.asked {
                Asked::Sample(other, before) => other != tag || before < index,
                _ => true,
            }),
            _ => before.all(|other| !matches!(other.asked, Asked::One(other) if other >= tag)),
        };
        let is_later = is_later || is_question;
        let mut again = (0..id).flat_map(|id| self.exchanges_of(id));
        let is_put = !matches!(call.ask, Ask::Get);
        let complaint = if !is_later {
            "is out of order"
        } else if call.over && !wire.was_blocked {
            "has been withdrawn"
        } else if !wire.is_sound && !wire.was_blocked {
            "goes to a server that answers out of turn"
        } else if !is_question
            && again.any(|(other, answer)| {
                other.asked == request.asked && (answer.is_some() || (is_put && !self.rules.retry))
            })
        {
            "is sent again"
        } else {
            return None;
        };
        Some(format!("on connection {id} {text:?} {complaint}"))
    }
}

/// What the callers tell, and ask.
impl ScriptState {
    /// A call has been polled for the first time.
    pub(super) fn call(&mut self, ask: Ask) -> usize {
        self.calls.push(CallRecord { ask, over: false });
        self.calls.len() - 1
    }

    /// Notes that the caller no longer waits for a call.
    pub(super) fn end(&mut self, tag: usize) {
        self.calls[tag].over = true;
    }

    /// The answers that a request has got from servers that kept to the protocol, and when.
    pub(super) fn answers(&self, asked: Asked) -> impl Iterator<Item = (Instant, &DecodedAnswer)> {
        self.exchanges().filter(move |(request, _)| *request == asked).map(|(_, answer)| answer)
    }

    /// Returns whether a server has seen a request, or enough of it to tell it from others.
    pub(super) fn was_seen(&self, text: &str) -> bool {
        let mains = self.wires.iter().filter(|wire| wire.nature() == Nature::Main);
        mains.into_iter().any(|wire| {
            wire.requests.iter().any(|request| request.text.starts_with(text))
                || wire.partial().starts_with(text.as_bytes())
        })
    }

    /// The connection that a stream was given, by what was read from it.
    pub(super) fn streamed(&self, tag: usize) -> Option<&DecodedAnswer> {
        let wire = self.wires.iter().find(|wire| {
            wire.requests.first().is_some_and(|request| request.asked == Asked::Stream(tag))
        })?;
        wire.answers.first().map(|answer| &answer.response)
    }

    /// Fails if anything has been seen that must not be.
    pub(super) fn is_content(&self) {
        assert!(self.complaints.is_empty(), "{:#?}", self.complaints);
    }

    /// What must hold at any time.
    pub(super) fn agrees_with(&self, stats: &ClientStats) {
        self.is_content();
        let ClientStats { acknowledged, rejected, failed, cancelled, in_flight, queued, .. } =
            *stats;
        let known = acknowledged + rejected + failed + cancelled + in_flight + queued;
        assert_eq!(stats.accepted, known, "{stats:?}");
        assert!(in_flight <= self.rules.max_in_flight as u64, "{stats:?}");
        let answered = |is_error| {
            let all = self.exchanges();
            all.filter(|(_, (_, answer))| matches!(answer, Ok(Response::Error(_))) == is_error)
                .count()
        };
        assert!(acknowledged <= answered(false) as u64, "{stats:?}");
        assert!(rejected <= answered(true) as u64, "{stats:?}");
    }

    /// Whether every connection is over.
    pub(super) fn is_quiet(&self) -> bool {
        self.wires.iter().all(|wire| wire.over)
    }

    /// The requests of a connection that are not questions, with their answers.
    fn exchanges_of(&self, id: usize) -> impl Iterator<Item = (&Request, Option<&Answer>)> {
        let all = self.wires[id].exchanges().enumerate();
        all.filter(move |&(place, _)| !self.is_question(id, place)).map(move |(place, exchange)| {
            let (request, answer) = exchange;
            (request, answer.filter(|answer| place > 0 || !self.is_about_connection(id, answer)))
        })
    }

    /// Whether the first answer on a connection speaks of the connection: an error, and its end.
    fn is_about_connection(&self, id: usize, answer: &Answer) -> bool {
        let wire = &self.wires[id];
        let has_ended = wire.over_at.is_some_and(|at| at <= answer.at + GREETING);
        self.may_be_rejected(answer) && has_ended && wire.is_sound && wire.answers.len() == 1
    }

    fn may_be_rejected(&self, answer: &Answer) -> bool {
        matches!(answer.response, Ok(Response::Error(_))) && !self.rules.may_give_up()
    }

    /// Whether a request only asks whether the server answers: up to two of them come first, the
    /// second of which may be a put that comes again in its turn. If the server closes behind the
    /// first, the second comes over the next connection.
    fn is_question(&self, id: usize, place: usize) -> bool {
        let asks = |wire: &Wire, place: usize| {
            wire.requests.get(place).is_some_and(|request| request.asked == Asked::Question)
        };
        let wire = &self.wires[id];
        match place {
            0 if asks(wire, 0) => true,
            0 => {
                let mut before = self.wires[..id].iter().rev();
                let is_put =
                    wire.requests.first().is_some_and(|first| first.text.starts_with("put"));
                let before = before.find(|wire| wire.nature() == Nature::Main);
                let has_one = |wire: &Wire| asks(wire, 0) && wire.answers.len() == 1;
                is_put && before.is_some_and(has_one)
            }
            1 => asks(wire, 0),
            _ => false,
        }
    }

    fn exchanges(&self) -> impl Iterator<Item = (Asked, (Instant, &DecodedAnswer))> {
        let ids = (0..self.wires.len()).filter(|&id| self.wires[id].nature() == Nature::Main);
        ids.flat_map(|id| self.exchanges_of(id)).filter_map(|(request, answer)| {
            // If it is the first on its connection, the client hears of it later.
            let held =
                |answer| if self.may_be_rejected(answer) { GREETING } else { Duration::ZERO };
            answer.map(|answer| (request.asked, (answer.at + held(answer), &answer.response)))
        })
    }
}

/// How a call ended.
pub(super) type CallResult = Result<Option<Metrics>, Error>;

impl Ask {
    /// What its request looks like on the wire, as far as that is known beforehand.
    pub(super) fn text(self, tag: usize, index: usize) -> String {
        match self {
            Self::Put => format!("put p{tag} {tag}.5 {tag}\n"),
            Self::PutNow => format!("put p{tag} {tag}.5 "),
            Self::Get => format!("get g{tag}\n"),
            Self::GetAll => "get *\n".into(),
            Self::Batch(_) => format!("put b{tag}.{index} {tag}.5 {index}\n"),
            Self::Stream => format!("get s{tag}\n"),
            Self::Nonsense => "\n".into(),
        }
    }
}
