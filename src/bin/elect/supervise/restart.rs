//! The restart of a command that ended by itself, within the same term, and its pause. Pure.

use std::time::Duration;

/// Conditions for a restart after the command ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Restart {
    /// Its end is the end of `elect run` too.
    Never,
    /// Unless it exited with 0.
    OnFailure,
    Always,
}

impl Restart {
    /// Returns whether a command restarts after this end, with an exit code or by a signal.
    pub(crate) fn wants(self, exit_code: Option<i32>) -> bool {
        match self {
            Self::Never => false,
            Self::OnFailure => exit_code != Some(0),
            Self::Always => true,
        }
    }
}

/// The pauses before restarts: 100 ms, doubling to 3 s, and from 100 ms again after a long run.
#[derive(Debug)]
pub(crate) struct RestartPause {
    next: Duration,
}

impl RestartPause {
    const FIRST: Duration = Duration::from_millis(100);
    const LAST: Duration = Duration::from_secs(3);
    /// A run this long did not fail at its start.
    const LONG_RUN: Duration = Duration::from_secs(10);

    pub(crate) fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// Returns the pause after a run of this length.
    pub(crate) fn pause(&mut self, ran: Duration) -> Duration {
        if ran >= Self::LONG_RUN {
            *self = Self::new();
        }
        let pause = self.next;
        self.next = (pause * 2).min(Self::LAST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_start_anew_after_a_long_run() {
        let mut pace = RestartPause::new();
        let millis: Vec<_> = (0..7).map(|_| pace.pause(Duration::ZERO).as_millis()).collect();
        assert_eq!(millis, [100, 200, 400, 800, 1600, 3000, 3000]);
        assert_eq!(pace.pause(RestartPause::LONG_RUN).as_millis(), 100);
    }

    #[test]
    fn a_failure_is_any_end_but_exit_code_0() {
        assert!(!Restart::OnFailure.wants(Some(0)));
        for end in [Some(1), None] {
            assert!(
                Restart::OnFailure.wants(end) && Restart::Always.wants(end) && !Restart::Never.wants(end)
            );
        }
        assert!(Restart::Always.wants(Some(0)));
    }
}
