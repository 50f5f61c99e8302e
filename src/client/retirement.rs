//! When a connection that works is closed all the same: because it is old, or idle.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{self, Instant, Sleep};

use super::settings::ConnectionConfig;

/// The limits of one connection's age and of the time that it is idle.
#[derive(Debug)]
pub(super) struct Retirement {
    expires_at: Option<Instant>,
    idle_timeout: Option<Duration>,
    idle_since: Option<Instant>,
    /// Runs out when one of the limits may have been reached, or before.
    timer: Pin<Box<Sleep>>,
}

impl Retirement {
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
    ) -> Option<Retirement> {
        let (max_lifetime, idle_timeout) = (max_lifetime.into(), idle_timeout.into());
        let config = ConnectionConfig { max_lifetime, idle_timeout, ..ConnectionConfig::default() };
        Retirement::new(&config, Instant::now())
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
