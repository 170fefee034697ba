//! The signals that tell `elect` to stop, and those that `run` passes on.

use std::time::Duration;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    first: Option<Instant>,
}

impl Signals {
    /// A wrapper that passes a signal on to a process that got it already, with the rest of its
    /// group, does so at once. That is no second wish.
    const ECHO: Duration = Duration::from_millis(100);

    pub(super) fn listen() -> std::io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, first: None })
    }

    /// The next signal, other than an echo of the first.
    ///
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Wish {
        loop {
            let number = tokio::select! {
                _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
                _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
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

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// This was the first.
    Stop(i32),
    StopAtOnce,
}

/// The signals that `run` passes on, and that mean nothing to itself.
#[cfg(target_os = "linux")]
pub(super) struct PassedOn {
    hangup: Signal,
    user1: Signal,
    user2: Signal,
    window: Signal,
}

#[cfg(target_os = "linux")]
impl PassedOn {
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            window: signal(SignalKind::window_change())?,
        })
    }

    /// The number of the next one.
    ///
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.hangup.recv() => SignalKind::hangup(),
            _ = self.user1.recv() => SignalKind::user_defined1(),
            _ = self.user2.recv() => SignalKind::user_defined2(),
            _ = self.window.recv() => SignalKind::window_change(),
        }
        .as_raw_value()
    }
}
