//! When a connection that works is closed all the same: because it is old, or idle.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{self, Instant, Sleep},
};

use super::{connection::Connection, settings::ConnectionConfig, shared::Shared};

/// The retirement of the connections of one driver, one after the other.
///
/// A connection that has reached a limit sends no more requests. Once nothing is in flight it is closed, while the
/// next one is made if a request waits.
pub(super) struct Retirement<Io> {
    /// The limits of the present connection, if it has any.
    limits: Option<ConnectionLimits>,
    /// Whether it has reached one of them.
    is_retiring: bool,
    retired: Option<ClosingConnection<Io>>,
}

impl<Io> Default for Retirement<Io> {
    fn default() -> Self {
        Self { limits: None, is_retiring: false, retired: None }
    }
}

impl<Io> Retirement<Io> {
    /// Starts to watch another connection, within `limits` if it has any.
    pub(super) fn watch(&mut self, limits: Option<ConnectionLimits>) {
        self.is_retiring = false;
        self.limits = limits;
    }

    /// Returns true while the connection sends no more requests because it has reached a limit.
    pub(super) fn is_retiring(&self) -> bool {
        self.is_retiring
    }

    /// Stops sending over a connection that has reached a limit. Ready once nothing is in flight, so that it can be
    /// [retired](Self::retire).
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Poll<()> {
        let Some(limits) = &mut self.limits else {
            return Poll::Pending;
        };
        if !self.is_retiring {
            let is_idle = shared.pipeline().is_drained();
            ready!(limits.poll(cx, is_idle));
            self.is_retiring = true;
        }
        let mut pipeline = shared.pipeline();
        if pipeline.in_flight() > 0 {
            pipeline.set_window(0);
            return Poll::Pending;
        }
        if !pipeline.is_open() && pipeline.is_drained() {
            return Poll::Pending;
        }
        pipeline.set_window(1);
        Poll::Ready(())
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Retirement<Io> {
    /// Closes a connection on which nothing is in flight, while there is another or none is needed.
    pub(super) fn retire(&mut self, connection: Box<Connection<Io>>) {
        self.retired = Some(ClosingConnection::new(connection));
    }

    /// Closes the connection that has been retired.
    pub(super) fn poll_retired(&mut self, cx: &mut Context<'_>) {
        if self.retired.as_mut().is_some_and(|closing| closing.poll(cx).is_ready()) {
            self.retired = None;
        }
    }
}

/// A connection on which everything is answered, and which is shut down in limited time.
pub(super) struct ClosingConnection<Io> {
    connection: Box<Connection<Io>>,
    limit: Pin<Box<Sleep>>,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> ClosingConnection<Io> {
    pub(super) fn new(connection: Box<Connection<Io>>) -> Self {
        Self { connection, limit: Box::pin(time::sleep(CLOSE_TIME_LIMIT)) }
    }

    /// Ready when the connection is shut down, or its time is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.connection.poll_close(cx).is_pending() {
            ready!(self.limit.as_mut().poll(cx));
        }
        Poll::Ready(())
    }
}

/// How long the shutdown of a connection may take on which everything is answered.
const CLOSE_TIME_LIMIT: Duration = Duration::from_secs(1);

/// The limits of one connection's age and of the time that it is idle.
#[derive(Debug)]
pub(super) struct ConnectionLimits {
    expires_at: Option<Instant>,
    idle_timeout: Option<Duration>,
    idle_since: Option<Instant>,
    /// Runs out when one of the limits may have been reached, or before.
    timer: Pin<Box<Sleep>>,
}

impl ConnectionLimits {
    /// Returns the limits of a connection that is made now, if it has any.
    pub(super) fn new(config: &ConnectionConfig, now: Instant) -> Option<Self> {
        let lifetime =
            config.max_lifetime.map(|limit| limit.mul_f64(1.0 - JITTER * fastrand::f64()));
        let first = lifetime.into_iter().chain(config.idle_timeout).min()?;
        Some(Self {
            expires_at: lifetime.map(|lifetime| now + lifetime),
            idle_timeout: config.idle_timeout,
            idle_since: None,
            timer: Box::pin(time::sleep_until(now + first)),
        })
    }

    /// Ready when a limit has been reached. It is called each time that the connection has moved what there was to
    /// move, so the timer is set only when it has run out.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, is_idle: bool) -> Poll<()> {
        let now = Instant::now();
        self.idle_since = is_idle.then(|| self.idle_since.unwrap_or(now));
        let idle_until = self.idle_since.zip(self.idle_timeout).map(|(since, limit)| since + limit);
        loop {
            let due = self.expires_at.into_iter().chain(idle_until).min();
            if due.is_some_and(|due| due <= now) {
                return Poll::Ready(());
            }
            // Woken before it is due, it looks again.
            let Some(due) = due else {
                return Poll::Pending;
            };
            if self.timer.deadline() > due || self.timer.is_elapsed() {
                self.timer.as_mut().reset(due);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

/// The part of the lifetime that is drawn at random.
const JITTER: f64 = 0.2;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits(
        max_lifetime: impl Into<Option<Duration>>,
        idle_timeout: impl Into<Option<Duration>>,
    ) -> Option<ConnectionLimits> {
        let (max_lifetime, idle_timeout) = (max_lifetime.into(), idle_timeout.into());
        let config = ConnectionConfig { max_lifetime, idle_timeout, ..ConnectionConfig::default() };
        ConnectionLimits::new(&config, Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn lifetime_ends_within_its_last_fifth() {
        assert!(limits(None, None).is_none());
        let mut least = SECOND;
        for _ in 0..100 {
            let (start, mut limits) = (Instant::now(), limits(SECOND, None).unwrap());
            poll_fn(|cx| limits.poll(cx, false)).await;
            let age = start.elapsed();
            assert!((Duration::from_millis(800)..=Duration::from_millis(1001)).contains(&age));
            least = least.min(age);
        }
        assert!(least < Duration::from_millis(900), "{least:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn idle_timeout_counts_from_the_last_response() {
        let mut limits = limits(None, SECOND).unwrap();
        for _ in 0..10 {
            let idle = poll_fn(|cx| limits.poll(cx, true));
            assert!(time::timeout(SECOND / 2, idle).await.is_err());
            let busy = poll_fn(|cx| limits.poll(cx, false));
            assert!(time::timeout(2 * SECOND, busy).await.is_err());
        }
        let start = Instant::now();
        poll_fn(|cx| limits.poll(cx, true)).await;
        assert_eq!(start.elapsed(), SECOND);
    }
}
