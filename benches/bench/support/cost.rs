//! The cost of work: wall time, and CPU time of the process.

use std::time::{Duration, Instant};

/// What some work took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    /// User and system time of all threads of this process; `None` where it was not measured.
    pub(crate) cpu: Option<Duration>,
}

/// Measures from its start to its stop.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    start: Instant,
    cpu: Option<Duration>,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now(), cpu: cpu_time() }
    }

    pub(crate) fn stop(self) -> Cost {
        let wall = self.start.elapsed();
        let cpu = cpu_time().zip(self.cpu).map(|(now, then)| now.saturating_sub(then));
        Cost { wall, cpu }
    }
}

impl From<Duration> for Cost {
    fn from(wall: Duration) -> Self {
        Self { wall, cpu: None }
    }
}

/// Returns the processor time that this process has used (`getrusage(2)`).
#[cfg(target_os = "linux")]
fn cpu_time() -> Option<Duration> {
    use nix::sys::{
        resource::{UsageWho, getrusage},
        time::TimeVal,
    };

    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let duration = |time: TimeVal| {
        Duration::from_secs(time.tv_sec() as u64) + Duration::from_micros(time.tv_usec() as u64)
    };
    Some(duration(usage.user_time()) + duration(usage.system_time()))
}

#[cfg(not(target_os = "linux"))]
fn cpu_time() -> Option<Duration> {
    None
}
