//! The signals that tell `elect` to stop, and those that `run` passes on.
//!
//! A SIGHUP that was ignored when the process started stays ignored, as `nohup` requires.

use std::{
    fs::{self, File},
    future::pending,
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

/// SIGTERM and SIGINT, and perhaps SIGHUP.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Hangup>,
    first: Option<Instant>,
}

impl Signals {
    /// A wrapper that forwards a signal to a process that got it already, with the rest of its group, does so
    /// at once. That is no second request.
    const ECHO: Duration = Duration::from_millis(100);

    pub(super) fn listen() -> std::io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hangup: None, first: None })
    }

    /// Listens like [`listen`](Self::listen), and for SIGHUP, which asks to stop if the terminal has closed.
    pub(super) fn listen_with_hangup() -> std::io::Result<Self> {
        Ok(Self { hangup: Hangup::listen()?, ..Self::listen()? })
    }

    /// Returns the next signal, other than an echo of the first.
    ///
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Wish {
        loop {
            let number = tokio::select! {
                _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
                _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
                () = Hangup::next(&mut self.hangup) => SignalKind::hangup().as_raw_value(),
            };
            match self.first {
                None => {
                    self.first = Some(Instant::now());
                    return Wish::Stop(number);
                }
                Some(first) if first.elapsed() < Self::ECHO => {}
                Some(_) => return Wish::StopAtOnce,
            }
        }
    }
}

/// The closing of the terminal that the process was started from.
struct Hangup {
    signal: Signal,
    /// True if there was a terminal. Without one, SIGHUP is a daemon's "reload".
    terminal: bool,
}

impl Hangup {
    fn listen() -> std::io::Result<Option<Self>> {
        if ignores_hangup() {
            return Ok(None);
        }
        let terminal = File::open("/dev/tty").is_ok();
        Ok(Some(Self { signal: signal(SignalKind::hangup())?, terminal }))
    }

    /// Waits until the terminal has closed; for ever without one.
    ///
    /// Cancel safe.
    async fn next(hangup: &mut Option<Self>) {
        let Some(Self { signal, terminal }) = hangup else { return pending().await };
        while signal.recv().await.is_some() {
            if *terminal {
                return;
            }
            tracing::info!(
                "SIGHUP: password and certificate files are read again at each login and connection"
            );
        }
        pending().await
    }
}

/// Returns whether SIGHUP was ignored when this process began. Call it before setting a handler.
fn ignores_hangup() -> bool {
    const HANGUP: u64 = 1 << 0; // The bit of signal 1.
    // Only Linux shows it; elsewhere SIGHUP is handled.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & HANGUP != 0)
}

/// A request by signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// The first request to stop.
    Stop(i32),
    StopAtOnce,
}

/// Signals that `run` forwards and does not handle itself.
#[cfg(target_os = "linux")]
pub(super) struct PassedOn {
    /// `None` if it is ignored: the command has inherited that, too.
    hangup: Option<Signal>,
    user1: Signal,
    user2: Signal,
    window: Signal,
}

#[cfg(target_os = "linux")]
impl PassedOn {
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            hangup: if ignores_hangup() { None } else { Some(signal(SignalKind::hangup())?) },
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            window: signal(SignalKind::window_change())?,
        })
    }

    /// Returns the number of the next one.
    ///
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = recv(&mut self.hangup) => SignalKind::hangup(),
            _ = self.user1.recv() => SignalKind::user_defined1(),
            _ = self.user2.recv() => SignalKind::user_defined2(),
            _ = self.window.recv() => SignalKind::window_change(),
        }
        .as_raw_value()
    }
}

#[cfg(target_os = "linux")]
async fn recv(signal: &mut Option<Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => pending().await,
    }
}
