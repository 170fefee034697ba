//! The signals that tell `elect` to stop.

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
    pub(super) async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            match self.first {
                None => {
                    self.first = Some(Instant::now());
                    return;
                }
                Some(first) if first.elapsed() < Self::ECHO => {}
                Some(_) => return,
            }
        }
    }
}
