//! `--on-leading`, `--on-following`, `--on-change`: short commands that run at events.
//!
//! They run one at a time, in the order of the events, in a task of their own: nothing waits for them, least
//! of all a step-down.
//!
//! A hook for `leading` is part of its term, and must not outlive it. So the guard starts and ends it, like
//! the command: when it is due, [`Hooks::of_term`] hands it to the supervisor, which has it started if the
//! term still holds. A hook that still runs when its term is over is killed, and one that has not begun is
//! skipped.

use std::{sync::Arc, time::Duration};

use leader_election::FencingToken;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tracing::{info, warn};

use super::{
    children::ChildRegistry,
    environment::Variables,
    leader_address::AddressLookup,
    protocol::CommandExit,
    shell::{self, ShellOutcome},
};

/// Hooks that wait for their turn. If the leader changes faster than hooks run, some are skipped.
const WAITING: usize = 32;

/// The commands, and their time limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commands {
    pub(crate) on_leading: Option<String>,
    pub(crate) on_following: Option<String>,
    pub(crate) on_change: Option<String>,
    pub(crate) timeout: Duration,
}

/// The event of a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// This process leads, in this term.
    Leading(FencingToken),
    /// This process has stopped leading, or waits behind another.
    Following,
    /// Another term is at the head of the queue, or none is.
    Change(Option<FencingToken>),
}

impl Occasion {
    fn name(self) -> &'static str {
        match self {
            Self::Leading(_) => "leading",
            Self::Following => "following",
            Self::Change(_) => "change",
        }
    }
}

/// The running and waiting hooks.
#[derive(Debug)]
pub(crate) struct Hooks {
    commands: Arc<Commands>,
    /// Variables that are the same for all events.
    variables: Variables,
    due: mpsc::Sender<PendingHook>,
    of_term: mpsc::Receiver<PendingTermHook>,
    /// All terms up to this token are over.
    over: watch::Sender<Option<FencingToken>>,
    running: JoinHandle<()>,
}

/// A due hook for the guard to run. Dropping it skips it.
#[derive(Debug)]
pub(crate) struct PendingTermHook {
    pub(crate) term: FencingToken,
    ended: oneshot::Sender<(CommandExit, bool)>,
}

impl PendingTermHook {
    /// Reports that it has ended, by itself or at its time limit.
    pub(crate) fn ended(self, how: CommandExit, timed_out: bool) {
        // No task waits any more on the way out.
        let _ = self.ended.send((how, timed_out));
    }
}

#[derive(Debug)]
struct PendingHook {
    occasion: Occasion,
    command: String,
    variables: Variables,
}

impl Hooks {
    pub(crate) fn start(
        commands: Commands,
        variables: Variables,
        addresses: AddressLookup,
        registry: ChildRegistry,
    ) -> Self {
        let (due, queue) = mpsc::channel(WAITING);
        let (for_guard, of_term) = mpsc::channel(1);
        let (over, ends) = watch::channel(None);
        let commands = Arc::new(commands);
        let runner = Runner { commands: Arc::clone(&commands), ends, for_guard, addresses, registry };
        Self { commands, variables, due, of_term, over, running: tokio::spawn(runner.run_all(queue)) }
    }

    /// Queues the hook for this event, if there is one. Returns at once.
    pub(crate) fn call(&self, occasion: Occasion, more: Variables) {
        let command = match occasion {
            Occasion::Leading(_) => &self.commands.on_leading,
            Occasion::Following => &self.commands.on_following,
            Occasion::Change(_) => &self.commands.on_change,
        };
        let Some(command) = command.clone() else { return };
        let mut variables = self.variables.clone();
        variables.extend(more);
        variables.push(("ELECT_EVENT", occasion.name().into()));
        if let Occasion::Change(Some(leader)) = occasion {
            variables.push(("ELECT_LEADER_TOKEN", leader.to_string().into()));
        }
        if self.due.try_send(PendingHook { occasion, command, variables }).is_err() {
            warn!(hook = occasion.name(), waiting = WAITING, "skipped a hook: too many are waiting");
        }
    }

    /// Returns the next hook that is part of a term, once it is due.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a later call returns it.
    pub(crate) async fn of_term(&mut self) -> PendingTermHook {
        match self.of_term.recv().await {
            Some(due) => due,
            None => std::future::pending().await,
        }
    }

    /// Records that the term is over, and its hook with it: the next one is due.
    pub(crate) fn over(&self, term: FencingToken) {
        self.over.send_replace(Some(term));
    }

    /// Waits for the pending hooks, each for its time limit at most, and for all together no longer than
    /// that.
    pub(crate) async fn finish(self) {
        let Self { commands, due, of_term, mut running, .. } = self;
        // No term is left for one to run in.
        drop((due, of_term));
        if timeout(commands.timeout, &mut running).await.is_err() {
            warn!("hooks were cut off at the end");
            running.abort();
            let _ = running.await;
        }
    }
}

struct Runner {
    commands: Arc<Commands>,
    ends: watch::Receiver<Option<FencingToken>>,
    for_guard: mpsc::Sender<PendingTermHook>,
    addresses: AddressLookup,
    registry: ChildRegistry,
}

impl Runner {
    async fn run_all(self, mut queue: mpsc::Receiver<PendingHook>) {
        while let Some(mut due) = queue.recv().await {
            let hook = due.occasion.name();
            if let Occasion::Leading(term) = due.occasion {
                self.run_in_term(term).await;
                continue;
            }
            if let Occasion::Change(Some(leader)) = due.occasion
                && let Some(address) = self.addresses.of(leader).await
            {
                due.variables.push(("ELECT_LEADER_ADDRESS", address.into()));
            }
            match shell::run(&due.command, &due.variables, self.commands.timeout, &self.registry).await {
                ShellOutcome::Ended(status) if status.success() => {}
                ShellOutcome::Ended(status) => warn!(hook, %status, "a hook failed"),
                ShellOutcome::TimedOut => {
                    warn!(hook, timeout = ?self.commands.timeout, "a hook took too long and was killed");
                }
                ShellOutcome::NotStarted(error) => warn!(hook, %error, "a hook could not be started"),
            }
        }
    }

    /// Has the guard run the hook of this term, and waits for its end, or for that of the term.
    async fn run_in_term(&self, term: FencingToken) {
        let hook = Occasion::Leading(term).name();
        let (ended, end) = oneshot::channel();
        let ran = async {
            // An error: it was skipped.
            self.for_guard.send(PendingTermHook { term, ended }).await.ok()?;
            end.await.ok()
        };
        let mut ends = self.ends.clone();
        let ran = tokio::select! {
            biased;
            _ = ends.wait_for(|over| over.is_some_and(|over| over >= term)) => None,
            ran = ran => ran,
        };
        match ran {
            None => info!(hook, "its term is over: the hook is killed, or skipped"),
            Some((_, true)) => {
                warn!(hook, timeout = ?self.commands.timeout, "a hook took too long and was killed");
            }
            Some((CommandExit::Exited(0), false)) => {}
            Some((CommandExit::NotStarted(error), false)) => {
                warn!(hook, error, "a hook could not be started")
            }
            Some((how, false)) => warn!(hook, status = %how, "a hook failed"),
        }
    }
}
