//! The task that keeps a client connected.
//!
//! A connection has one driver. It dials, and dials again, lets the connection move bytes while there
//! is one, and tells the pipeline the time. What any of this means for a request, the pipeline
//! decides.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::time::{self, Instant, Sleep};

use super::{
    backoff::Backoff,
    connection::{Connection, IoProgress},
    connector::Connector,
    dialer::{BoxFuture, Connected, Dialer},
    driver_log::{DriverLog, ErrorChain},
    hangup::{self, ConnectionLoss, Dialed},
    probe,
    probe_backoff::ProbeBackoff,
    retirement::{ClosingConnection, ConnectionLimits, Retirement},
    settings::{ConnectionConfig, Pipelining},
    shared::{Shared, wake_all},
    state::ConnectionState,
    timer::Timer,
};
use crate::error::{ConnectionError, Delivery, Error};

pub(super) struct Driver<C: Connector> {
    shared: Arc<Shared>,
    config: ConnectionConfig,
    dialer: Arc<Dialer<C>>,
    state: DriverState<C::Io>,
    /// The index of the server that the connection leads to, or the last one did.
    server: usize,
    /// How many servers in a row have been connected to and have not answered.
    bad_servers: usize,
    /// How many connections in a row to this server have ended with requests unanswered.
    unanswered_losses: u32,
    backoff: Backoff,
    retirement: Retirement<C::Io>,
    timer: Timer,
    probe_backoff: ProbeBackoff,
    /// Whether it is being polled, and so has panicked if it is dropped.
    is_polled: bool,
    /// How many requests may be in flight on this connection, apart from the search.
    window: usize,
    search: hangup::Search,
    /// Tasks to be woken once the pipeline's lock is released.
    wakers: Vec<Waker>,
    log: DriverLog,
}

/// The state of the driver's connection.
enum DriverState<Io> {
    /// There is no connection, and no request waits.
    Idle,
    Dialing(BoxFuture<Result<Dialed<Io>, ConnectionError>>),
    /// Waits before the next attempt to connect.
    Backoff(Pin<Box<Sleep>>),
    Connected(Box<Connection<Io>>),
    /// All requests are answered.
    Closing(ClosingConnection<Io>),
    Closed,
}

/// How long the look at the connection may take before something is judged late. It takes a turn or two of
/// the runtime, unless a connector claims that there is input which never comes.
const LOOK_TIME_LIMIT: Duration = Duration::from_secs(1);

impl<C: Connector> Driver<C> {
    /// Creates a driver, with the connection if there is one already.
    pub(super) fn new(
        shared: Arc<Shared>,
        config: ConnectionConfig,
        dialer: Arc<Dialer<C>>,
        connected: Option<Connected<C::Io>>,
    ) -> Self {
        let mut driver = Self {
            shared,
            dialer,
            state: DriverState::Idle,
            server: 0,
            bad_servers: 0,
            unanswered_losses: 0,
            backoff: Backoff::new(config.reconnect),
            config,
            retirement: Retirement::default(),
            timer: Timer::new(),
            probe_backoff: ProbeBackoff::default(),
            is_polled: false,
            window: 1,
            search: hangup::Search::default(),
            wakers: Vec::new(),
            log: DriverLog::new(),
        };
        if let Some(Connected { io, server }) = connected {
            driver.on_connected(Dialed { io, server, has_answered: false, has_proof: false });
        }
        driver
    }

    fn poll_state(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.state {
            DriverState::Idle => {
                if self.shared.pipeline().is_drained() {
                    return self.poll_disconnected(cx);
                }
                self.dial();
            }
            DriverState::Dialing(dialling) => match dialling.as_mut().poll(cx) {
                Poll::Ready(Ok(dialed)) => self.on_connected(dialed),
                Poll::Ready(Err(fault)) => self.on_connect_failed(fault),
                Poll::Pending => return self.poll_disconnected(cx),
            },
            DriverState::Backoff(wait) => match wait.as_mut().poll(cx) {
                Poll::Ready(()) => self.dial(),
                Poll::Pending => return self.poll_disconnected(cx),
            },
            DriverState::Connected(_) => return self.poll_connected(cx),
            DriverState::Closing(connection) => {
                ready!(connection.poll(cx));
                self.on_closed(None);
            }
            DriverState::Closed => return Poll::Pending,
        }
        Poll::Ready(())
    }

    fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let DriverState::Connected(connection) = &mut self.state else {
            return Poll::Ready(());
        };
        if let Poll::Ready(can_pipeline) = connection.poll_probe(cx) {
            let address = self.dialer.address(self.server).as_str();
            tracing::debug!(address, can_pipeline, "probed the server for pipelining");
            if can_pipeline {
                self.window = self.config.max_in_flight;
                if !self.search.is_on() && !self.retirement.is_retiring() {
                    self.shared.pipeline().set_window(self.window);
                }
            }
        }
        let moved = connection.poll(cx, &self.dialer.connector, &self.shared, &mut self.wakers);
        if connection.has_responded() {
            self.backoff.reset();
            self.bad_servers = 0;
        }
        match moved {
            IoProgress::Idle => {}
            IoProgress::Yielded => return Poll::Pending,
            IoProgress::Closed(fault) => {
                self.on_disconnected(fault);
                return Poll::Ready(());
            }
        }
        if self.retirement.poll_due(cx, &self.shared).is_ready() {
            self.retire();
            return Poll::Ready(());
        }
        let DriverState::Connected(connection) = &mut self.state else {
            return Poll::Ready(());
        };
        let mut pipeline = self.shared.pipeline();
        if self.search.is_on() && !self.retirement.is_retiring() {
            let oldest = pipeline.oldest().map(|(request, _)| request);
            let window = self.search.window(self.window, oldest, pipeline.finished());
            pipeline.set_window(window);
            pipeline.set_wanted_puts(self.search.wanted_puts(), &mut self.wakers);
        }
        if !pipeline.is_open() && pipeline.is_drained() {
            drop(pipeline);
            if let DriverState::Connected(connection) =
                std::mem::replace(&mut self.state, DriverState::Closed)
            {
                self.state = DriverState::Closing(ClosingConnection::new(connection));
            }
            return Poll::Ready(());
        }
        let (dialer, server) = (&self.dialer, self.server);
        let probing = pipeline.has_queued()
            && connection.start_probe(|| Box::pin(probe(Arc::clone(dialer), server)));
        pipeline.park(cx.waker(), connection.probe_on_queueing());
        if connection.holds_much() {
            pipeline.trim_later(Instant::now());
        }
        // A request that came before the driver was parked woke no task.
        let sendable = pipeline.can_send() && connection.has_room();
        if probing || sendable || self.timer.set_if_earlier(pipeline.next_expiry()) {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Replaces the connection, on which nothing is in flight; or closes it, if no request waits.
    fn retire(&mut self) {
        if let DriverState::Connected(connection) =
            std::mem::replace(&mut self.state, DriverState::Idle)
        {
            self.retirement.retire(connection);
        }
        tracing::debug!(address = self.dialer.address(self.server).as_str(), "connection retired");
        if self.shared.pipeline().is_drained() {
            self.shared.set_state(ConnectionState::Disconnected);
        } else {
            self.dial();
        }
    }

    /// Ready when the client is closed, a request needs a connection, or the timer must
    /// be set. Otherwise the next request, or the drop of the last handle, wakes the driver.
    fn poll_disconnected(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut pipeline = self.shared.pipeline();
        if !pipeline.is_open() && pipeline.is_drained() {
            drop(pipeline);
            self.on_closed(None);
            return Poll::Ready(());
        }
        pipeline.park(cx.waker(), false);
        let idle = matches!(self.state, DriverState::Idle) && !pipeline.is_drained();
        if idle || self.timer.set_if_earlier(pipeline.next_expiry()) {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Tells the pipeline the time whenever it wants to be told. The timer may be late, because the process
    /// or its runtime stood still: before anything is judged to be late, all that has come is read.
    fn poll_timer(&mut self, cx: &mut Context<'_>) {
        loop {
            let has_run_out = self.timer.poll(cx).is_ready();
            if !has_run_out && !self.timer.is_held {
                return;
            }
            let now = Instant::now();
            let is_late = self.shared.pipeline().next_expiry().is_some_and(|at| at <= now);
            if is_late && let DriverState::Connected(connection) = &mut self.state {
                let connector = &self.dialer.connector;
                match connection.poll_before_judging(cx, connector, &self.shared, &mut self.wakers)
                {
                    IoProgress::Yielded if !self.timer.is_held => {
                        self.timer.hold(now + LOOK_TIME_LIMIT);
                        continue;
                    }
                    IoProgress::Yielded if !has_run_out => return,
                    IoProgress::Yielded => connection.end_look(),
                    IoProgress::Idle => {}
                    IoProgress::Closed(fault) => self.on_disconnected(fault),
                }
            }
            if self.shared.pipeline().is_stalled(now) {
                if self.shared.pipeline().in_flight() > 1 {
                    self.probe_backoff.on_stalled(now);
                }
                if let DriverState::Connected(connection) = &self.state {
                    self.dialer.connector.abort(connection.io());
                }
                self.leave_server();
                let after = self.config.settings.stall_timeout();
                self.on_disconnected(ConnectionError::Stalled { timeout: after });
            }
            let is_quiet = self.shared.pipeline().trim(now);
            let next = self.shared.pipeline().expire(now, &mut self.wakers);
            wake_all(&mut self.wakers);
            if is_quiet {
                self.wakers = Vec::new();
                if let DriverState::Connected(connection) = &mut self.state {
                    connection.trim();
                }
            }
            match next {
                Some(at) => self.timer.set(at),
                None => {
                    self.timer.stop();
                    return;
                }
            }
        }
    }

    fn dial(&mut self) {
        self.shared.set_state(ConnectionState::Connecting);
        let (dialer, shared) = (Arc::clone(&self.dialer), Arc::clone(&self.shared));
        let mut pipeline = self.shared.pipeline();
        let check = self.search.next_check(pipeline.oldest(), || pipeline.has_witness());
        pipeline.set_wanted_puts(self.search.wanted_puts(), &mut self.wakers);
        drop(pipeline);
        wake_all(&mut self.wakers);
        let limits = hangup::CheckLimits {
            time: self.config.settings.stall_timeout(),
            bytes: self.config.max_response_bytes,
        };
        self.state = DriverState::Dialing(Box::pin(hangup::dial(dialer, shared, check, limits)));
    }

    fn on_connected(&mut self, dialed: Dialed<C::Io>) {
        if dialed.server != self.server {
            self.server = dialed.server;
            self.unanswered_losses = 0;
            // Another server may be able to do what the last one was not.
            self.probe_backoff = ProbeBackoff::default();
        }
        let (window, may_probe) = match self.config.pipelining {
            Pipelining::On => (self.config.max_in_flight, false),
            Pipelining::Off => (1, false),
            Pipelining::Auto => (1, self.config.max_in_flight > 1),
        };
        let limits = ConnectionLimits::new(&self.config, Instant::now());
        self.retirement.watch(limits.filter(|_| self.backoff.is_enabled()));
        let probe_after = may_probe.then(|| self.probe_backoff.probe_at());
        self.window = window;
        let mut pipeline = self.shared.pipeline();
        self.search.connected(pipeline.finished());
        pipeline.on_connected(if self.search.is_on() { 1 } else { window });
        drop(pipeline);
        self.shared.set_state(ConnectionState::Connected);
        let limit = self.config.max_response_bytes;
        self.state = DriverState::Connected(Box::new(Connection::new(
            dialed,
            limit,
            probe_after,
            self.backoff.is_enabled(),
        )));
        self.log.connected(self.dialer.address(self.server).as_str());
    }

    fn on_connect_failed(&mut self, fault: ConnectionError) {
        let fault = Arc::new(fault);
        self.log.on_connect_failed(ErrorChain(&fault));
        self.search.on_connect_failed();
        self.shared.pipeline().on_connect_failed(Arc::clone(&fault));
        self.back_off(&fault);
    }

    fn on_disconnected(&mut self, fault: ConnectionError) {
        let too_large = match fault {
            ConnectionError::ResponseTooLarge { limit } => Some(Error::ResponseTooLarge { limit }),
            _ => None,
        };
        let fault = Arc::new(fault);
        let mut retried = 0;
        let unanswered = self.shared.pipeline().in_flight() > 0;
        let mut is_explained = too_large.is_some();
        if let Some(error) = too_large {
            self.shared.pipeline().fail_due(error, &mut self.wakers);
        }
        if self.backoff.is_enabled() {
            is_explained |= self.search_for_cause(&fault);
            retried = self.shared.pipeline().on_disconnected(&fault, &mut self.wakers);
            wake_all(&mut self.wakers);
        }
        let address = self.dialer.address(self.server).as_str();
        if fault.is_protocol_violation() {
            self.log.violated(address, ErrorChain(&fault), retried);
        } else {
            self.log.disconnected(address, ErrorChain(&fault), retried);
        }
        let (has_responded, is_probing) = match &self.state {
            DriverState::Connected(connection) => {
                (connection.has_responded(), connection.is_probing())
            }
            _ => (false, false),
        };
        if is_probing {
            self.probe_backoff.on_closed_early(Instant::now());
        }
        let wanted = !self.shared.pipeline().is_drained();
        let is_good = is_explained || (has_responded && !fault.is_protocol_violation());
        self.judge_server(is_good, unanswered);
        if wanted && self.backoff.is_enabled() && (is_good || self.has_untried_server()) {
            // A server that closes after each response must not cost a wait for each of them.
            self.dial();
        } else if wanted
            || !self.backoff.is_enabled()
            || fault.is_protocol_violation()
            || matches!(*fault, ConnectionError::Rejected { .. })
        {
            self.back_off(&fault);
        } else {
            // No request needs a connection, so this is not a failure: servers close idle ones.
            self.state = DriverState::Idle;
            self.shared.set_state(ConnectionState::Disconnected);
        }
    }

    /// Goes to the next server after a connection that has shown nothing good, or after the second in a row that has
    /// ended with requests unanswered.
    fn judge_server(&mut self, is_good: bool, unanswered: bool) {
        if !is_good {
            self.bad_servers += 1;
            self.leave_server();
        } else if !unanswered {
            self.unanswered_losses = 0;
        } else {
            self.unanswered_losses += 1;
            if self.unanswered_losses > 1 {
                self.leave_server();
            }
        }
    }

    fn leave_server(&mut self) {
        self.unanswered_losses = 0;
        self.dialer.leave(self.server);
    }

    /// Returns true as long as another server of the list may be better, and then there is no wait.
    fn has_untried_server(&self) -> bool {
        self.bad_servers < self.dialer.count()
    }

    /// Fails the request that ended the connection, if it is known to have done so: says whether.
    fn search_for_cause(&mut self, fault: &ConnectionError) -> bool {
        let DriverState::Connected(connection) = &self.state else {
            return false;
        };
        let mut pipeline = self.shared.pipeline();
        let loss = ConnectionLoss {
            due: pipeline.due_next(),
            last: pipeline.sent_last(),
            was_alone: pipeline.in_flight() == 1,
            had_proof: connection.has_proof(),
        };
        let is_found = self.search.lost(fault, loss);
        pipeline.set_wanted_puts(self.search.wanted_puts(), &mut self.wakers);
        if !is_found {
            drop(pipeline);
            wake_all(&mut self.wakers);
            return false;
        }
        let fault = Arc::new(ConnectionError::ClosedOnRequest);
        let error = Error::Connection { source: Arc::clone(&fault), delivery: Delivery::Unknown };
        pipeline.fail_due(error, &mut self.wakers);
        drop(pipeline);
        wake_all(&mut self.wakers);
        self.log.request_failed(self.dialer.address(self.server).as_str(), &fault);
        // The server has answered others.
        self.backoff.reset();
        true
    }

    fn back_off(&mut self, fault: &Arc<ConnectionError>) {
        self.bad_servers = 0;
        match self.backoff.next(Instant::now()) {
            Some(at) => {
                self.state = DriverState::Backoff(Box::pin(time::sleep_until(at)));
                self.shared.set_state(ConnectionState::Disconnected);
            }
            None => self.on_closed(Some(fault)),
        }
    }

    fn on_closed(&mut self, fault: Option<&Arc<ConnectionError>>) {
        self.state = DriverState::Closed;
        self.shared.pipeline().close_now(fault, &mut self.wakers);
        wake_all(&mut self.wakers);
        self.shared.set_state(ConnectionState::Closed);
        tracing::debug!(address = self.dialer.address(self.server).as_str(), "closed");
    }
}

impl<C: Connector> Future for Driver<C> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = self.get_mut();
        driver.is_polled = true;
        if let DriverState::Connected(connection) = &mut driver.state {
            connection.renew_budget();
        }
        let polled = loop {
            driver.poll_timer(cx);
            driver.retirement.poll_retired(cx);
            if let DriverState::Closed = driver.state {
                break Poll::Ready(());
            }
            if driver.poll_state(cx).is_pending() {
                break Poll::Pending;
            }
        };
        driver.is_polled = false;
        polled
    }
}

/// Ends all calls, also when the driver panics or its runtime is dropped.
impl<C: Connector> Drop for Driver<C> {
    fn drop(&mut self) {
        if !matches!(self.state, DriverState::Closed) {
            if !self.is_polled {
                self.shared.pipeline().orphan();
            }
            self.on_closed(None);
        }
    }
}

async fn probe<C: Connector>(dialer: Arc<Dialer<C>>, server: usize) -> bool {
    match dialer.dial_server(server).await {
        Ok(io) => probe::can_pipeline(io).await,
        Err(_) => false,
    }
}
