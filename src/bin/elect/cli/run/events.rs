//! Events that `elect run` handles wherever it waits: signals, and those of the election.

use std::{io, pin::pin};

use super::{
    super::signals::{PassedOn, Signals, Wish},
    reporter::Reporter,
};

pub(super) struct RunEvents {
    signals: Signals,
    passed_on: PassedOn,
    pub(super) reporter: Reporter,
    /// The latest request by signal.
    wish: Option<Wish>,
}

/// An event to handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunEvent {
    /// A signal asks to stop.
    Asked(Wish),
    /// A signal is for the command.
    PassOn(i32),
    /// The term's hook is due.
    HookDue,
    /// An election event, already reported.
    Passed,
}

impl RunEvents {
    pub(super) fn new(reporter: Reporter) -> io::Result<Self> {
        Ok(Self { signals: Signals::listen()?, passed_on: PassedOn::listen()?, reporter, wish: None })
    }

    /// Waits for `what`, and reports events meanwhile. `None` if a signal asks to stop first.
    ///
    /// # Cancel safety
    ///
    /// As cancel safe as `what` is.
    pub(super) async fn meanwhile<T>(&mut self, what: impl Future<Output = T>) -> Option<T> {
        let mut what = pin!(what);
        loop {
            tokio::select! {
                biased;
                notice = self.next() => match notice {
                    RunEvent::Asked(_) => return None,
                    // There is no command to pass it on to.
                    RunEvent::PassOn(_) | RunEvent::Passed => {}
                    RunEvent::HookDue => self.reporter.leave_hook_out(),
                },
                done = &mut what => return Some(done),
            }
        }
    }

    /// Returns the next event to handle.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a later call returns the events not returned yet.
    pub(super) async fn next(&mut self) -> RunEvent {
        tokio::select! {
            biased;
            wish = self.signals.next() => {
                if self.wish.replace(wish).is_none() {
                    self.reporter.stopping();
                }
                RunEvent::Asked(wish)
            }
            number = self.passed_on.next() => RunEvent::PassOn(number),
            hook_due = self.reporter.next() => if hook_due { RunEvent::HookDue } else { RunEvent::Passed },
        }
    }

    /// Returns whether a signal asked to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.wish.is_some()
    }

    /// Returns whether a second signal asked to stop.
    pub(super) fn is_stopping_at_once(&self) -> bool {
        self.wish == Some(Wish::StopAtOnce)
    }

    /// Waits for the pending hooks, unless told not to.
    pub(super) async fn finish(self) {
        let Self { mut signals, reporter, .. } = self;
        let mut finishing = pin!(reporter.finish());
        loop {
            tokio::select! {
                biased;
                wish = signals.next() => if wish == Wish::StopAtOnce { return },
                () = &mut finishing => return,
            }
        }
    }
}
