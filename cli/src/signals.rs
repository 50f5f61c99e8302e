//! Shutdown signals: the first stops the program gracefully, the second at once.

use std::{future::Future, io, process, thread};

use tokio::{runtime, sync::oneshot};

/// The number of SIGINT.
pub(crate) const INTERRUPT: i32 = 2;

/// The number of SIGTERM.
const TERMINATE: i32 = 15;

/// Handles SIGTERM and SIGINT (Ctrl-C) from now on. The future returns the number of the first signal; at the second
/// the process exits with the status that shells use, 143 or 130.
///
/// `docker stop` and systemd send SIGTERM, which the first process of a container ignores without a handler. A
/// thread waits for the signals, so that the second one works even if the program's runtime is blocked.
///
/// # Errors
///
/// If the signal handlers or the thread cannot be created.
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
            // Fails if the program has ended already.
            let _ = sender.send(first);
            process::exit(128 + signals.next().await);
        });
    };
    thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(async {
        match stopped.await {
            Ok(signal) => signal,
            // The thread never ends without a signal, and without a signal nothing is to stop.
            Err(_) => std::future::pending().await,
        }
    })
}

/// Tells when the program was stopped and continues, as with Ctrl-Z and `fg`.
#[cfg(unix)]
pub(crate) struct Continued(tokio::signal::unix::Signal);

#[cfg(unix)]
impl Continued {
    /// Listens from now on.
    ///
    /// # Errors
    ///
    /// If the signal handler cannot be created.
    pub(crate) fn new() -> io::Result<Self> {
        let number = rustix::process::Signal::CONT.as_raw();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::from_raw(number)).map(Self)
    }

    /// Waits until the program continues.
    pub(crate) async fn next(&mut self) {
        self.0.recv().await;
    }
}

/// Never tells: here a program is not stopped.
#[cfg(windows)]
pub(crate) struct Continued(());

#[cfg(windows)]
impl Continued {
    #[allow(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(()))
    }

    pub(crate) async fn next(&mut self) {
        std::future::pending().await
    }
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

    /// Waits for the next signal, and returns its number.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => TERMINATE,
            _ = self.interrupt.recv() => INTERRUPT,
        }
    }
}

/// The signals to read the configuration again: SIGHUP.
pub(crate) struct Reloads {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

impl Reloads {
    /// Handles SIGHUP from now on, which would end the program otherwise.
    ///
    /// # Errors
    ///
    /// If the signal handler cannot be created.
    pub(crate) fn new() -> io::Result<Self> {
        #[cfg(unix)]
        return {
            use tokio::signal::unix::{SignalKind, signal};

            Ok(Self { signal: signal(SignalKind::hangup())? })
        };
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) {
        #[cfg(unix)]
        if self.signal.recv().await.is_some() {
            return;
        }
        std::future::pending::<()>().await;
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

#[cfg(all(test, unix))]
mod tests {
    use std::{
        env,
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };

    use super::*;

    /// Set in the process that [`second_signal_ends_a_blocked_program`] starts.
    const CHILD: &str = "METRICS_TEST_SIGNALS_CHILD";

    /// Not a test but a program that blocks its only thread at the first signal.
    #[test]
    #[ignore = "a process that another test starts"]
    fn child_program() {
        if env::var_os(CHILD).is_none() {
            return;
        }
        let stop = stop().unwrap();
        println!("\nhandles signals");
        runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            stop.await;
            println!("\nis blocked");
            loop {
                thread::park();
            }
        });
    }

    #[test]
    fn second_signal_ends_a_blocked_program() {
        for (second, status) in [("-TERM", 143), ("-INT", 130)] {
            let mut child = Command::new(env::current_exe().unwrap())
                .args(["signals::tests::child_program", "--exact", "--nocapture", "--ignored"])
                .env(CHILD, "1")
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let pid = child.id().to_string();
            let kill = |signal| {
                let kill = Command::new("kill").args([signal, &*pid]).status();
                assert!(kill.unwrap().success());
            };
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut wait_for = |text| lines.find(|line| line.as_ref().unwrap() == text).unwrap();
            wait_for("handles signals").unwrap();
            kill("-TERM");
            wait_for("is blocked").unwrap();
            kill(second);
            assert_eq!(child.wait().unwrap().code(), Some(status));
        }
    }
}
