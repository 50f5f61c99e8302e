//! Which complaints are due: one for each reason and interval, however many samples are dropped.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::stats::Reason;

const INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<[Option<Instant>; Reason::COUNT]>);

impl Complaints {
    /// Whether this reason is to be complained of now, which then it is taken to be.
    pub(super) fn is_due(&self, reason: Reason) -> bool {
        let now = Instant::now();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = &mut last[reason as usize];
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= INTERVAL);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use tokio::time;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_reason_is_complained_of_once_in_an_interval() {
        let complaints = Complaints::default();
        assert!(complaints.is_due(Reason::QueueFull));
        assert!(!complaints.is_due(Reason::QueueFull));
        assert!(complaints.is_due(Reason::InvalidKey));
        time::advance(INTERVAL - Duration::from_millis(1)).await;
        assert!(!complaints.is_due(Reason::QueueFull));
        time::advance(Duration::from_millis(1)).await;
        assert!(complaints.is_due(Reason::QueueFull));
        assert!(!complaints.is_due(Reason::QueueFull));
    }
}
