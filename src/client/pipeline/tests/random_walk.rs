//! Any sequence of events, held against the model.

use std::iter;

use proptest::{prelude::ProptestConfig, proptest, sample::Index};

use super::{
    model::{Model, ModelBatch},
    ops::{PipelineOp, ServerReply, event, settings},
    *,
};

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_request_has_the_one_outcome_that_is_its_own(
        settings in settings(),
        events in proptest::collection::vec(event(), 1..at_most(150)),
    ) {
        let mut world = PipelineWalk::new(settings);
        for event in events {
            world.happen(event);
            world.check();
        }
        world.end();
    }
}

/// A pipeline with all that is around it, and the model of it.
struct PipelineWalk {
    pipeline: Pipeline,
    model: Model,
    now: Instant,
    calls: Vec<Caller>,
    /// What the server has read on this connection and not answered.
    read: Vec<String>,
    is_connected: bool,
    driver: Arc<Task>,
    /// While the driver sleeps: when its timer will wake it.
    asleep_until: Option<Option<Instant>>,
    wakers: Vec<Waker>,
}

struct Caller {
    waiter: WaiterId,
    /// What the requests look like on the wire.
    texts: Vec<String>,
    is_batch: bool,
    task: Arc<Task>,
    /// At most how many may be unfinished for the task to be woken, if it sleeps.
    asleep_at: Option<usize>,
    has_left: bool,
}

impl PipelineWalk {
    fn new(settings: Settings) -> Self {
        Self {
            pipeline: Pipeline::new(settings.clone()),
            model: Model::new(settings),
            now: Instant::now(),
            calls: Vec::new(),
            read: Vec::new(),
            is_connected: false,
            driver: Arc::default(),
            asleep_until: None,
            wakers: Vec::new(),
        }
    }

    fn happen(&mut self, event: PipelineOp) {
        if event.is_drivers() {
            self.asleep_until = None;
        }
        match event {
            PipelineOp::Put(timeout) => self.submit(RequestKind::Put, timeout),
            PipelineOp::Get(timeout) => self.submit(RequestKind::Get, timeout),
            PipelineOp::Batch(len) => {
                let waiter = self.pipeline.open_batch();
                self.calls.push(Caller::new(waiter, true));
                self.extend(self.calls.len() - 1, len, None);
            }
            PipelineOp::Extend(at, len, timeout) => {
                if let Some(batch) = self.pick(at, |call| call.is_batch) {
                    self.extend(batch, len, timeout);
                }
            }
            PipelineOp::Abandon(at) => {
                if let Some(call) = self.pick(at, |_| true) {
                    self.cancel(call);
                }
            }
            PipelineOp::Poll(at, unfinished) => {
                if let Some(call) = self.pick(at, |_| true) {
                    self.poll(call, unfinished);
                }
            }
            PipelineOp::Take if self.is_connected => self.take(),
            PipelineOp::Reply(replies) if self.is_connected => self.answer(&replies, false),
            PipelineOp::Amid if self.is_connected => self.answer(&[], true),
            PipelineOp::Width(window) if self.is_connected => {
                self.pipeline.set_window(window);
                self.model.window = window;
            }
            PipelineOp::Pass(milliseconds) => self.now += milliseconds * MILLISECOND,
            PipelineOp::Expire => self.expire(),
            PipelineOp::Lose if self.is_connected => self.lose(ConnectionError::Closed),
            PipelineOp::Connect(window) if !self.is_connected => {
                self.pipeline.on_connected(window);
                self.model.connected(window);
                self.is_connected = true;
            }
            PipelineOp::Park if !self.can_work() => {
                self.pipeline.park(&Waker::from(Arc::clone(&self.driver)), false);
                self.asleep_until = Some(self.pipeline.next_expiry());
            }
            PipelineOp::Close => {
                let driver = self.pipeline.close();
                self.model.is_open = false;
                self.on_woken(driver);
            }
            _ => {}
        }
    }

    /// The timeout of a request, and its deadline.
    fn timeout(&self, own: Option<u32>) -> (Option<CallTimeout>, Instant) {
        let own = own.map(|timeout| timeout * MILLISECOND);
        let limit = own.unwrap_or(self.pipeline.settings.request_timeout);
        (own.map(CallTimeout::new), self.now + limit)
    }

    fn submit(&mut self, kind: RequestKind, timeout: Option<u32>) {
        let key = format!("k{}", self.calls.len());
        let text = match kind {
            RequestKind::Put => format!("put {key} 0.5 7\n"),
            RequestKind::Get => format!("get {key}\n"),
        };
        let (timeout, deadline) = self.timeout(timeout);
        let encode = |bytes: &mut BytesMut| bytes.extend_from_slice(text.as_bytes());
        let submitted = self.pipeline.submit(
            Admission::ByPolicy,
            kind,
            timeout,
            Waker::noop().clone(),
            self.now,
            encode,
        );
        let submitted = submitted.map_err(|refused| refused.error);
        let texts = [text];
        match submitted {
            Ok(Submitted { waiter, driver }) => {
                assert!(self.model.is_open);
                assert!(self.model.accept(
                    self.calls.len(),
                    kind,
                    &texts,
                    self.pipeline.settings.when_full,
                    deadline
                ));
                self.calls.push(Caller { texts: texts.into(), ..Caller::new(waiter, false) });
                self.on_woken(driver);
            }
            Err(Error::Closed { delivery: Delivery::NotSent, .. }) => assert!(!self.model.is_open),
            Err(Error::QueueFull { .. }) => {
                assert!(!self.model.accept(
                    self.calls.len(),
                    kind,
                    &texts,
                    self.pipeline.settings.when_full,
                    deadline
                ));
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    fn extend(&mut self, batch: usize, len: usize, timeout: Option<u32>) {
        let (timeout, deadline) = self.timeout(timeout);
        let call = &mut self.calls[batch];
        let index = call.texts.len();
        let texts = (index..index + len).map(|at| format!("put k{batch} 0.5 {at}\n"));
        let texts = texts.collect::<Vec<_>>();
        let puts = texts.concat();
        let extended =
            self.pipeline.extend_batch(call.waiter, index, len, puts.as_bytes(), timeout, self.now);
        match extended {
            Ok(driver) => {
                assert!(self.model.is_open);
                assert!(self.model.accept(
                    batch,
                    RequestKind::Put,
                    &texts,
                    WhenFull::Wait,
                    deadline
                ));
                call.texts.extend(texts);
                self.on_woken(driver);
            }
            Err(Error::Closed { delivery: Delivery::NotSent, .. }) => assert!(!self.model.is_open),
            Err(error) => panic!("{error:?}"),
        }
    }

    fn cancel(&mut self, call: usize) {
        self.calls[call].has_left = true;
        self.model.cancel(call);
        self.pipeline.cancel(self.calls[call].waiter, self.now, &mut self.wakers);
        self.wake();
    }

    fn poll(&mut self, at: usize, unfinished: usize) {
        let call = &mut self.calls[at];
        let waker = Waker::from(Arc::clone(&call.task));
        call.asleep_at = None;
        if call.is_batch {
            let ModelBatch { unfinished: left, broken_at, .. } = self.model.batch(at);
            let is_ready = left <= unfinished || (broken_at.is_some() && unfinished > 0);
            match self.pipeline.poll_batch(call.waiter, unfinished, &waker).0 {
                Poll::Ready(progress) => {
                    assert!(is_ready);
                    check_batch(progress, &self.model, at);
                }
                Poll::Pending => {
                    assert!(!is_ready);
                    call.asleep_at = Some(unfinished);
                }
            }
            return;
        }
        if call.texts[0].starts_with("put") && self.pipeline.watermark().is_acked(call.waiter) {
            // What a put sees without the lock is never anything else than what it would find.
            assert_eq!(self.model.outcome(at), Some(&Outcome::Stored));
        }
        match self.pipeline.poll(call.waiter, &waker).0 {
            Poll::Ready(outcome) => {
                let outcome = Outcome::from(outcome);
                assert!(call.owns(&outcome), "{:?} got {outcome:?}", call.texts);
                assert_eq!(Some(&outcome), self.model.outcome(at));
                call.has_left = true;
            }
            Poll::Pending => {
                assert_eq!(self.model.outcome(at), None);
                call.asleep_at = Some(0);
            }
        }
    }

    fn take(&mut self) {
        let mut taken = BytesMut::new();
        self.pipeline.take_sendable(&mut taken, self.now, &mut self.wakers);
        let taken = String::from_utf8(taken.to_vec()).unwrap();
        assert_eq!(taken, self.model.take(self.now));
        self.read.extend(taken.lines().map(str::to_string));
    }

    /// The server answers what it has read, whatever the model thinks that is.
    fn answer(&mut self, replies: &[ServerReply], mid_response: bool) {
        let asked = self.read.drain(..replies.len().min(self.read.len())).map(Some);
        let asked = asked.chain(iter::repeat(None));
        let mut responses = Vec::new();
        let mut is_violation = false;
        for (&reply, request) in iter::zip(replies, asked) {
            let request = request.unwrap_or_default();
            let (response, outcome) = reply.to(&request);
            responses.push(response);
            // What comes after a violation is not looked at.
            is_violation |= match (self.model.due(), reply) {
                (None, _)
                | (Some(RequestKind::Put), ServerReply::Data | ServerReply::Unreadable) => true,
                (Some(kind), _) if !is_violation => {
                    let stored = kind == RequestKind::Put && outcome == Outcome::Found(None);
                    self.model.answer(if stored { Outcome::Stored } else { outcome }, self.now);
                    false
                }
                _ => false,
            };
        }
        is_violation |= mid_response && self.model.in_flight() == 0;
        let completed =
            self.pipeline.complete(responses, mid_response, 0, self.now, &mut self.wakers);
        self.wake();
        assert_eq!(completed.is_err(), is_violation, "{completed:?}");
        if let Err(fault) = completed {
            assert!(fault.is_protocol_violation());
            self.lose(fault);
        }
    }

    fn expire(&mut self) {
        if self.pipeline.is_stalled(self.now) {
            self.lose(ConnectionError::Stalled { timeout: SECOND });
        }
        self.model.expire(self.now);
        let next = self.pipeline.expire(self.now, &mut self.wakers);
        assert!(next.is_none_or(|next| next > self.now));
        assert_eq!(next, self.model.next_expiry());
        self.wake();
    }

    fn lose(&mut self, fault: ConnectionError) {
        self.model.disconnected(fault.is_protocol_violation());
        self.pipeline.on_disconnected(&Arc::new(fault), &mut self.wakers);
        self.wake();
        self.read.clear();
        self.is_connected = false;
    }

    fn end(mut self) {
        self.asleep_until = None;
        self.model.end();
        self.pipeline.close_now(None, &mut self.wakers);
        self.wake();
        self.check();
        assert!(self.pipeline.is_drained());
        for call in 0..self.calls.len() {
            if !self.calls[call].has_left {
                self.poll(call, 0);
                assert_eq!(self.calls[call].asleep_at, None);
            }
        }
    }

    /// A call that is under way.
    fn pick(&self, at: Index, wanted: fn(&Caller) -> bool) -> Option<usize> {
        let calls = self.calls.iter().enumerate();
        let calls = calls.filter(|(_, call)| !call.has_left && wanted(call));
        let calls = calls.map(|(at, _)| at).collect::<Vec<_>>();
        (!calls.is_empty()).then(|| *at.get(&calls))
    }

    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
        if self.driver.was_woken() {
            self.asleep_until = None;
        }
    }

    fn on_woken(&mut self, driver: Option<Waker>) {
        self.wakers.extend(driver);
        self.wake();
    }

    /// Whether a driver would not go to sleep now.
    fn can_work(&self) -> bool {
        let is_over = !self.pipeline.is_open() && self.pipeline.is_drained();
        is_over || (self.is_connected && self.pipeline.can_send())
    }

    /// What holds at any time.
    fn check(&mut self) {
        let Self { pipeline, model, .. } = self;
        assert_eq!(pipeline.stats(), model.stats());
        let ClientStats {
            accepted,
            acknowledged,
            rejected,
            failed,
            cancelled,
            in_flight,
            queued,
            ..
        } = pipeline.stats();
        assert_eq!(accepted, acknowledged + rejected + failed + cancelled + in_flight + queued);
        assert_eq!(pipeline.is_drained(), in_flight + queued == 0);
        assert_eq!(pipeline.response_due_since, model.response_due_since());
        assert_eq!(pipeline.next_expiry(), model.next_expiry());
        assert_eq!(pipeline.queue.in_flight(), model.in_flight());

        let waiting = pipeline.queue.queued_bytes();
        assert_eq!(waiting, model.queued_bytes());
        assert_eq!(pipeline.has_queued(), waiting > 0);
        assert_eq!(pipeline.can_send(), waiting > 0 && model.in_flight() < model.window);
        let limit = pipeline.settings.max_buffered_bytes;
        assert!(waiting <= limit || model.may_exceed_limit(), "{waiting} bytes of {limit}");
        assert!(pipeline.wait_queue.is_empty() || waiting > 0, "nothing would admit them");

        if let Some(timer) = self.asleep_until
            && self.is_connected
        {
            assert!(!self.can_work(), "the driver sleeps and has work");
            let due = self.model.next_expiry();
            let in_time = due.is_none_or(|due| timer.is_some_and(|timer| timer <= due));
            assert!(in_time, "the driver sleeps until {timer:?}, beyond {due:?}");
        }
        for (at, call) in self.calls.iter_mut().enumerate().filter(|(_, call)| !call.has_left) {
            let is_ready = |asleep_at| {
                let batch = self.model.batch(at);
                batch.unfinished <= asleep_at || (batch.broken_at.is_some() && asleep_at > 0)
            };
            if call.asleep_at.is_some_and(is_ready) {
                assert!(call.task.was_woken(), "call {at} sleeps on");
                call.asleep_at = None;
            }
        }
    }
}

impl Caller {
    fn new(waiter: WaiterId, is_batch: bool) -> Self {
        let task = Arc::default();
        Self { waiter, texts: Vec::new(), is_batch, task, asleep_at: None, has_left: false }
    }

    /// Whether this can be the outcome of its request, by what the server said.
    fn owns(&self, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Found(Some(key)) => self.texts == [format!("get {key}\n")],
            Outcome::Rejected(text) => self.texts == [format!("{text}\n")],
            _ => true,
        }
    }
}

fn check_batch(progress: &Progress, model: &Model, call: usize) {
    let Progress {
        outstanding,
        acknowledged,
        ref failure,
        interrupted,
        delivery,
        ref rejected,
        ..
    } = *progress;
    let first_failed = failure.as_ref().map(|&(index, _)| index);
    let broken_at = interrupted.map(|(index, _)| index);
    let rejected = rejected.clone();
    let state = ModelBatch {
        unfinished: outstanding,
        acknowledged,
        first_failed,
        broken_at,
        delivery,
        refused: rejected,
    };
    assert_eq!(state, model.batch(call));
    if let Some((index, error)) = failure {
        assert_eq!(Some(&Outcome::from(error)), model.outcome_at(call, *index));
        let is_retryable =
            interrupted.filter(|(at, _)| at == index).map(|(_, is_retryable)| is_retryable);
        assert!(is_retryable.is_none_or(|is_retryable| is_retryable == error.is_retryable()));
    }
}
