//! Signals that stop a program: the first lets it end, the second ends it.

use std::{future::Future, io, process, thread};

use tokio::{runtime, sync::oneshot};

/// The number of SIGINT.
pub(crate) const INTERRUPT: i32 = 2;

/// The number of SIGTERM.
const TERMINATE: i32 = 15;

/// Catches SIGTERM and SIGINT (Ctrl-C) from now on. Returns the number of the first of them; at the second the
/// process exits at once, with the status that a shell gives such an end: 143 or 130.
///
/// `docker stop` and systemd send SIGTERM, which a process without a handler ignores if it is the first of
/// its container. A thread waits for the signals, so that the second one works also where the runtime of
/// the program stands still.
///
/// # Errors
///
/// If the signals cannot be caught, or there can be no thread.
pub(crate) fn stop() -> io::Result<impl Future<Output = i32>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _on = runtime.enter();
        Signals::new()?
    };
    let (sender, stopped) = oneshot::channel();
    let wait = move || {
        runtime.block_on(async {
            let first = signals.next().await;
            // Fails if the program is ending already.
            let _ = sender.send(first);
            process::exit(128 + signals.next().await);
        });
    };
    thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(async {
        match stopped.await {
            Ok(signal) => signal,
            // The thread has ended without a signal: it cannot, and there is nothing to stop for.
            Err(_) => std::future::pending().await,
        }
    })
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The number of the next one.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => TERMINATE,
            _ = self.interrupt.recv() => INTERRUPT,
        }
    }
}

#[cfg(windows)]
struct Signals {
    ctrl_c: tokio::signal::windows::CtrlC,
    ctrl_break: tokio::signal::windows::CtrlBreak,
    shutdown: tokio::signal::windows::CtrlShutdown,
}

#[cfg(windows)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_shutdown};

        let (ctrl_c, ctrl_break) = (ctrl_c()?, ctrl_break()?);
        Ok(Self { ctrl_c, ctrl_break, shutdown: ctrl_shutdown()? })
    }

    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.ctrl_c.recv() => INTERRUPT,
            _ = self.ctrl_break.recv() => INTERRUPT,
            _ = self.shutdown.recv() => TERMINATE,
        }
    }
}
