//! Why a command failed, and the exit status that says so.

use std::{error, fmt, io, process::ExitCode};

use metrics_client::Error;

use crate::signals;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    status: Status,
    message: String,
}

/// The exit status of a command that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// The reader of the output has gone: the command ends without a word, and without an error.
    OutputClosed = 0,
    Refused = 1,
    Usage = 2,
    Unreachable = 3,
    NotFound = 4,
    /// What a shell gives a process that SIGINT ends.
    Interrupted = 130,
    /// The same for SIGTERM.
    Terminated = 143,
}

impl Failure {
    pub(crate) fn new(status: Status, message: impl fmt::Display) -> Self {
        Self { status, message: message.to_string() }
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Status::Usage, message)
    }

    /// Returns the failure of a command that this signal ends.
    pub(crate) fn interrupted(signal: i32) -> Self {
        let is_interrupt = signal == signals::INTERRUPT;
        let status = if is_interrupt { Status::Interrupted } else { Status::Terminated };
        Self::new(status, if is_interrupt { "interrupted" } else { "terminated" })
    }

    /// Returns the failure with `context` in front of its message.
    pub(crate) fn context(self, context: impl fmt::Display) -> Self {
        Self { message: format!("{context}: {}", self.message), ..self }
    }

    /// Returns true if the message names this.
    pub(crate) fn names(&self, what: &str) -> bool {
        self.message.contains(what)
    }

    /// Prints the message to standard error, and returns the exit status.
    pub(crate) fn report(self) -> ExitCode {
        if !self.message.is_empty() && self.status != Status::OutputClosed {
            eprintln!("metrics: {}", self.message);
        }
        ExitCode::from(self.status as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Rejected { .. } | Error::InvalidResponse { .. } | Error::Batch(_) => {
                Status::Refused
            }
            Error::InvalidKey(_) | Error::NonFiniteValue(_) | Error::InvalidAddress(_) => {
                Status::Usage
            }
            _ => Status::Unreachable,
        };
        let status = match &error {
            Error::Batch(batch) if batch.first_error().1.is_retryable() => Status::Unreachable,
            _ => status,
        };
        Self::new(status, chain(&error))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let closed = error.kind() == io::ErrorKind::BrokenPipe;
        Self::new(if closed { Status::OutputClosed } else { Status::Usage }, chain(&error))
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::from(io::Error::from(error))
    }
}

impl From<csv::Error> for Failure {
    fn from(error: csv::Error) -> Self {
        Self::from(io::Error::from(error))
    }
}

/// The error with all its causes.
pub(crate) fn chain(error: &dyn error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(&format!(": {error}"));
        cause = error.source();
    }
    message
}
