//! What `elect run` attends to wherever it waits: signals, and what happens in the election.

use std::{io, pin::pin};

use super::{
    super::signals::{PassedOn, Signals, Wish},
    reporter::Reporter,
};

pub(super) struct RunEvents {
    signals: Signals,
    passed_on: PassedOn,
    pub(super) post: Reporter,
    /// What signals have asked for so far.
    wish: Option<Wish>,
}

/// What there is to attend to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunEvent {
    /// A signal asks to stop.
    Asked(Wish),
    /// A signal is for the command.
    PassOn(i32),
    /// It is the turn of the term's hook.
    HookDue,
    /// Something has happened, and was passed on.
    Passed,
}

impl RunEvents {
    pub(super) fn new(post: Reporter) -> io::Result<Self> {
        Ok(Self { signals: Signals::listen()?, passed_on: PassedOn::listen()?, post, wish: None })
    }

    /// Waits for something, and meanwhile passes on what happens. `None` if a signal asks to stop first.
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
                    RunEvent::HookDue => self.post.leave_hook_out(),
                },
                done = &mut what => return Some(done),
            }
        }
    }

    /// The next thing to attend to.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what has not been told yet is by a later call.
    pub(super) async fn next(&mut self) -> RunEvent {
        tokio::select! {
            biased;
            wish = self.signals.next() => {
                if self.wish.replace(wish).is_none() {
                    self.post.stopping();
                }
                RunEvent::Asked(wish)
            }
            number = self.passed_on.next() => RunEvent::PassOn(number),
            hook_due = self.post.next() => if hook_due { RunEvent::HookDue } else { RunEvent::Passed },
        }
    }

    /// Whether it was told to stop.
    pub(super) fn is_told(&self) -> bool {
        self.wish.is_some()
    }

    /// Whether it was told twice.
    pub(super) fn is_told_at_once(&self) -> bool {
        self.wish == Some(Wish::StopAtOnce)
    }

    /// Waits for the hooks that are due, unless told not to.
    pub(super) async fn finish(self) {
        let Self { mut signals, post, .. } = self;
        let mut finishing = pin!(post.finish());
        loop {
            tokio::select! {
                biased;
                wish = signals.next() => if wish == Wish::StopAtOnce { return },
                () = &mut finishing => return,
            }
        }
    }
}
