//! What a pipeline should do: one list of requests, without buffers, offsets and slots.

use super::*;

#[derive(Debug)]
pub(super) struct Model {
    settings: Settings,
    /// All that were ever accepted, in their order.
    requests: Vec<ModelRequest>,
    blocks: usize,
    pub(super) window: usize,
    pub(super) is_open: bool,
    response_due_since: Option<Instant>,
    retried: u64,
    connects: u64,
}

#[derive(Debug)]
struct ModelRequest {
    call: usize,
    /// Its place in the batch.
    index: usize,
    kind: RequestKind,
    text: String,
    /// Requests that were accepted together find room together.
    block: usize,
    deadline: Instant,
    stage: Stage,
    /// Whether it was sent on an earlier connection.
    retried: bool,
    outcome: Option<Outcome>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Waiting,
    Queued,
    InFlight,
    /// Answered, or withdrawn before it was sent.
    Done,
}

/// How far a batch has come.
#[derive(Debug, PartialEq)]
pub(super) struct ModelBatch {
    pub(super) unfinished: usize,
    pub(super) acknowledged: usize,
    pub(super) first_failed: Option<usize>,
    pub(super) broken_at: Option<usize>,
    pub(super) delivery: Option<Delivery>,
    pub(super) refused: Vec<usize>,
}

impl Model {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            requests: Vec::new(),
            blocks: 0,
            window: 1,
            is_open: true,
            response_due_since: None,
            retried: 0,
            connects: 0,
        }
    }

    /// Accepts a block of requests of one call, or refuses it.
    pub(super) fn accept(
        &mut self,
        call: usize,
        kind: RequestKind,
        texts: &[String],
        when_full: WhenFull,
        deadline: Instant,
    ) -> bool {
        let len = texts.iter().map(String::len).sum::<usize>();
        let waiting = self.queued_bytes();
        let has_room = !self.any(Stage::Waiting)
            && (waiting == 0 || waiting + len <= self.settings.max_buffered_bytes);
        let stage = match (has_room, when_full) {
            (true, _) => Stage::Queued,
            (false, WhenFull::Wait) => Stage::Waiting,
            (false, _) => return false,
        };
        let before = self.requests.iter().filter(|request| request.call == call).count();
        self.requests.extend(texts.iter().enumerate().map(|(at, text)| ModelRequest {
            call,
            index: before + at,
            kind,
            text: text.clone(),
            block: self.blocks,
            deadline,
            stage,
            retried: false,
            outcome: None,
        }));
        self.blocks += 1;
        true
    }

    /// The bytes that may be sent now.
    pub(super) fn take(&mut self, now: Instant) -> String {
        let mut taken = String::new();
        let mut room = self.window.saturating_sub(self.in_flight());
        for request in self.requests.iter_mut().filter(|request| request.stage == Stage::Queued) {
            if room == 0 {
                break;
            }
            request.stage = Stage::InFlight;
            taken += &request.text;
            room -= 1;
        }
        self.admit();
        if !taken.is_empty() {
            self.response_due_since = self.response_due_since.or(Some(now));
        }
        taken
    }

    /// The kind of the request whose answer is due.
    pub(super) fn due(&self) -> Option<RequestKind> {
        self.requests.iter().find(|request| request.stage == Stage::InFlight).map(|due| due.kind)
    }

    pub(super) fn answer(&mut self, outcome: Outcome, now: Instant) {
        let due = self.requests.iter_mut().find(|request| request.stage == Stage::InFlight);
        if let Some(due) = due {
            due.stage = Stage::Done;
            due.outcome.get_or_insert(outcome);
        }
        self.response_due_since = self.any(Stage::InFlight).then_some(now);
    }

    pub(super) fn cancel(&mut self, call: usize) {
        for request in self.requests.iter_mut().filter(|request| request.call == call) {
            request.withdraw(Outcome::Cancelled);
        }
        self.admit();
    }

    pub(super) fn expire(&mut self, now: Instant) {
        let late = self.requests.iter().filter(|r| r.is_open() && r.deadline <= now);
        let late = late.map(|request| request.block).collect::<Vec<_>>();
        for block in late {
            // Of a block that was sent in part, it is unknown what was carried out.
            let delivery = self.delivery(block);
            let requests = self.requests.iter_mut().filter(|request| request.block == block);
            requests.for_each(|request| request.withdraw(Outcome::Timeout(delivery)));
        }
        self.admit();
    }

    pub(super) fn connected(&mut self, window: usize) {
        self.window = window;
        self.connects += 1;
    }

    pub(super) fn disconnected(&mut self, is_violation: bool) {
        for request in self.requests.iter_mut().filter(|request| request.stage == Stage::InFlight) {
            let again = match request.kind {
                RequestKind::Put => self.settings.resend_unacknowledged,
                RequestKind::Get => true,
            };
            if request.is_open() && again && !is_violation {
                request.stage = Stage::Queued;
                request.retried = true;
                self.retried += 1;
            } else {
                request.stage = Stage::Done;
                request.outcome.get_or_insert(Outcome::Lost(Delivery::Unknown));
            }
        }
        self.response_due_since = None;
        self.window = 1;
    }

    pub(super) fn end(&mut self) {
        self.is_open = false;
        for block in 0..self.blocks {
            let delivery = self.delivery(block);
            for request in self.requests.iter_mut().filter(|request| request.block == block) {
                request.stage = Stage::Done;
                request.outcome.get_or_insert(Outcome::Closed(delivery));
            }
        }
        self.response_due_since = None;
    }

    /// The outcome of a call with one request.
    pub(super) fn outcome(&self, call: usize) -> Option<&Outcome> {
        self.requests.iter().find(|request| request.call == call)?.outcome.as_ref()
    }

    /// The outcome of a request of a batch.
    pub(super) fn outcome_at(&self, call: usize, index: usize) -> Option<&Outcome> {
        let request = self.requests.iter().find(|r| r.call == call && r.index == index)?;
        request.outcome.as_ref()
    }

    pub(super) fn batch(&self, call: usize) -> ModelBatch {
        let requests = || self.requests.iter().filter(move |request| request.call == call);
        let failed =
            || requests().filter_map(|r| Some((r.index, r.outcome.as_ref()?.of_failed_put()?)));
        let (refused, broken) =
            failed().partition::<Vec<_>, _>(|&(_, delivery)| delivery == Delivery::Rejected);
        ModelBatch {
            unfinished: requests().filter(|request| request.is_open()).count(),
            acknowledged: requests().filter(|r| r.outcome == Some(Outcome::Stored)).count(),
            first_failed: failed().map(|(index, _)| index).min(),
            broken_at: broken.into_iter().map(|(index, _)| index).min(),
            delivery: Delivery::of_all(failed().map(|(_, delivery)| delivery)),
            refused: refused.into_iter().map(|(index, _)| index).collect(),
        }
    }

    pub(super) fn stats(&self) -> ClientStats {
        let count = |wanted: fn(&ModelRequest) -> bool| {
            self.requests.iter().filter(|request| wanted(request)).count() as u64
        };
        ClientStats {
            accepted: self.requests.len() as u64,
            acknowledged: count(|r| matches!(r.outcome, Some(Outcome::Stored | Outcome::Found(_)))),
            rejected: count(|r| matches!(r.outcome, Some(Outcome::Rejected(_)))),
            failed: count(|r| {
                use Outcome::{Closed, Lost, Timeout, Unreadable};
                matches!(r.outcome, Some(Unreadable | Timeout(_) | Lost(_) | Closed(_)))
            }),
            cancelled: count(|r| r.outcome == Some(Outcome::Cancelled)),
            in_flight: count(|r| r.is_open() && r.stage == Stage::InFlight),
            queued: count(|r| r.is_open() && r.stage != Stage::InFlight),
            retried: self.retried,
            reconnects: self.connects.saturating_sub(1),
            ..ClientStats::default()
        }
    }

    /// How many bytes wait to be sent, those that found no room not among them.
    pub(super) fn queued_bytes(&self) -> usize {
        let waiting = self.requests.iter().filter(|request| request.stage == Stage::Queued);
        waiting.map(|request| request.text.len()).sum()
    }

    /// Whether more bytes may wait than the limit says: those of a single block, or bytes that
    /// have been sent before.
    pub(super) fn may_exceed_limit(&self) -> bool {
        let mut waiting = self.requests.iter().filter(|request| request.stage == Stage::Queued);
        let first = waiting.clone().next().map(|request| request.block);
        waiting.clone().any(|request| request.retried)
            || waiting.all(|request| Some(request.block) == first)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.requests.iter().filter(|request| request.stage == Stage::InFlight).count()
    }

    pub(super) fn response_due_since(&self) -> Option<Instant> {
        self.response_due_since
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let stall = self.response_due_since.map(|since| since + self.settings.stall_timeout());
        let open = self.requests.iter().filter(|request| request.is_open());
        stall.into_iter().chain(open.map(|request| request.deadline)).min()
    }

    /// Moves blocks into the queue while it has room.
    fn admit(&mut self) {
        while let Some(block) =
            self.requests.iter().find(|r| r.stage == Stage::Waiting).map(|r| r.block)
        {
            let waiting = self.queued_bytes();
            let requests = self.requests.iter_mut().filter(|request| request.block == block);
            let requests = requests.collect::<Vec<_>>();
            let len = requests.iter().map(|request| request.text.len()).sum::<usize>();
            if waiting > 0 && waiting + len > self.settings.max_buffered_bytes {
                break;
            }
            requests.into_iter().for_each(|request| request.stage = Stage::Queued);
        }
    }

    fn any(&self, stage: Stage) -> bool {
        self.requests.iter().any(|request| request.stage == stage)
    }

    fn delivery(&self, block: usize) -> Delivery {
        let attempted = self.requests.iter().any(|request| {
            let sent = request.retried || matches!(request.stage, Stage::InFlight | Stage::Done);
            request.block == block && sent
        });
        if attempted { Delivery::Unknown } else { Delivery::NotSent }
    }
}

impl ModelRequest {
    fn is_open(&self) -> bool {
        self.outcome.is_none()
    }

    /// No caller waits for it any more.
    fn withdraw(&mut self, outcome: Outcome) {
        if self.is_open() {
            self.outcome = Some(outcome);
            if self.stage != Stage::InFlight {
                self.stage = Stage::Done;
            }
        }
    }
}
