//! Shutdown signals: the first stops the program gracefully, the second at once.

use std::{future::Future, io, process, thread};

use tokio::{runtime, sync::oneshot};

/// Handles SIGTERM and SIGINT (Ctrl-C) from now on. The future completes at the first signal; at the second the
/// process exits with the status that shells use, 143 or 130.
///
/// `docker stop` and systemd send SIGTERM, which the first process of a container ignores without a handler. A
/// thread waits for the signals, so that the second one works even if the program's runtime is blocked.
///
/// # Errors
///
/// If the signal handlers or the thread cannot be created.
pub(crate) fn stop() -> io::Result<impl Future<Output = ()>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _on = runtime.enter();
        Signals::new()?
    };
    let (sender, stopped) = oneshot::channel();
    let wait = move || {
        runtime.block_on(async {
            signals.next().await;
            // Fails if the program has ended already.
            let _ = sender.send(());
            process::exit(128 + signals.next().await);
        });
    };
    thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(async {
        let _ = stopped.await;
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

    /// Waits for the next signal and returns its number.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => 15,
            _ = self.interrupt.recv() => 2,
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
            _ = self.ctrl_c.recv() => 2,
            _ = self.ctrl_break.recv() => 2,
            _ = self.shutdown.recv() => 15,
        }
    }
}
