//! `--check`: a command that decides whether this server is fit to lead.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{
    children::ChildRegistry,
    environment::Variables,
    shell::{self, ShellOutcome},
};

/// The check's command and times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) command: String,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    /// Number of failures in a row that make it unhealthy.
    pub(crate) failures: u32,
}

/// The result of the last checks. Unhealthy until the first success; always healthy without a check.
#[derive(Debug)]
pub(crate) struct Health {
    healthy: watch::Receiver<bool>,
    /// Without a check, the sender.
    _always: Option<watch::Sender<bool>>,
    _checking: Option<AbortOnDropHandle<()>>,
}

impl Health {
    /// Starts checking, if there is a check.
    pub(crate) fn start(check: Option<Check>, variables: Variables, registry: ChildRegistry) -> Self {
        let Some(check) = check else {
            let (always, healthy) = watch::channel(true);
            return Self { healthy, _always: Some(always), _checking: None };
        };
        let (sender, healthy) = watch::channel(false);
        let checking = tokio::spawn(check.run_checks(sender, variables, registry));
        Self { healthy, _always: None, _checking: Some(AbortOnDropHandle::new(checking)) }
    }

    pub(crate) fn is_healthy(&self) -> bool {
        *self.healthy.borrow()
    }

    /// Waits until the health is as wanted.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only waits.
    pub(crate) async fn becomes(&mut self, wanted: bool) {
        // The sender lives as long as `self`.
        let _ = self.healthy.wait_for(|healthy| *healthy == wanted).await;
    }
}

impl Check {
    async fn run_checks(self, sender: watch::Sender<bool>, variables: Variables, registry: ChildRegistry) {
        let mut due = interval(self.interval);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut streak = Streak { failures: 0, healthy: false };
        loop {
            due.tick().await;
            let outcome = shell::run(&self.command, &variables, self.timeout, &registry).await;
            let passed = matches!(&outcome, ShellOutcome::Ended(status) if status.success());
            let before = streak.healthy;
            let now = streak.after(passed, self.failures);
            if now != before {
                match now {
                    true => info!("the check passes: fit to lead"),
                    false => warn!(?outcome, failures = streak.failures, "the check fails: not fit to lead"),
                }
                sender.send_replace(now);
            }
        }
    }
}

/// Counts failures: one success makes healthy, several failures in a row make unhealthy.
#[derive(Debug)]
struct Streak {
    failures: u32,
    healthy: bool,
}

impl Streak {
    fn after(&mut self, passed: bool, most_failures: u32) -> bool {
        self.failures = if passed { 0 } else { self.failures.saturating_add(1) };
        self.healthy = passed || (self.healthy && self.failures < most_failures);
        self.healthy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healthy_from_the_first_success_until_so_many_failures_in_a_row() {
        let mut streak = Streak { failures: 0, healthy: false };
        let sender: Vec<_> = [false, true, false, false, true, false, false, false, false, true]
            .map(|passed| streak.after(passed, 3))
            .into();
        assert_eq!(sender, [false, true, true, true, true, true, true, false, false, true]);
    }
}
