//! `--on-leading`, `--on-following`, `--on-change`: short commands that are told of what happens.
//!
//! They run one at a time, in the order of what happened, in a task of their own: nothing waits for them, least
//! of all a step-down. One for `leading` that still runs, or has not begun, when its term is over is killed,
//! or left out.

use std::{sync::Arc, time::Duration};

use leader_election::FencingToken;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tracing::{info, warn};

use super::{
    children::Kin,
    environment::Variables,
    shell::{self, Outcome},
};

/// How many may wait for their turn. A leader that changes more often than hooks take leaves some out.
const WAITING: usize = 32;

/// Which commands, and how long each may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commands {
    pub(crate) on_leading: Option<String>,
    pub(crate) on_following: Option<String>,
    pub(crate) on_change: Option<String>,
    pub(crate) timeout: Duration,
}

/// What a hook is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// This process leads, in this term.
    Leading(FencingToken),
    /// This process has stopped leading, or waits behind another.
    Following,
    /// Another term is at the front of the queue, or none is.
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

/// The hooks that run and that wait.
#[derive(Debug)]
pub(crate) struct Hooks {
    commands: Arc<Commands>,
    /// What is true of all events.
    variables: Variables,
    due: mpsc::Sender<Due>,
    /// All terms up to this token are over.
    over: watch::Sender<Option<FencingToken>>,
    running: JoinHandle<()>,
}

#[derive(Debug)]
struct Due {
    occasion: Occasion,
    command: String,
    variables: Variables,
}

impl Hooks {
    pub(crate) fn start(commands: Commands, variables: Variables, kin: Kin) -> Self {
        let (due, queue) = mpsc::channel(WAITING);
        let (over, ends) = watch::channel(None);
        let commands = Arc::new(commands);
        let runner = Runner { commands: Arc::clone(&commands), ends, kin };
        Self { commands, variables, due, over, running: tokio::spawn(runner.run_all(queue)) }
    }

    /// Has the hook for this run, if there is one. Returns at once.
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
        if self.due.try_send(Due { occasion, command, variables }).is_err() {
            warn!(hook = occasion.name(), waiting = WAITING, "left out a hook: too many wait");
        }
    }

    /// The term is over: its hook must not go on.
    pub(crate) fn over(&self, term: FencingToken) {
        self.over.send_replace(Some(term));
    }

    /// Waits for those that are still due, each for its time at most, and for all of them no longer than that.
    pub(crate) async fn finish(self) {
        let Self { commands, due, mut running, .. } = self;
        drop(due);
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
    kin: Kin,
}

impl Runner {
    async fn run_all(self, mut queue: mpsc::Receiver<Due>) {
        while let Some(due) = queue.recv().await {
            let hook = due.occasion.name();
            let mut ends = self.ends.clone();
            let outcome = tokio::select! {
                biased;
                () = term_is_over(&mut ends, due.occasion) => {
                    info!(hook, "its term is over: the hook is killed, or left out");
                    continue;
                }
                outcome = shell::run(&due.command, &due.variables, self.commands.timeout, &self.kin) => outcome,
            };
            match outcome {
                Outcome::Ended(status) if status.success() => {}
                Outcome::Ended(status) => warn!(hook, %status, "a hook failed"),
                Outcome::TimedOut => {
                    warn!(hook, timeout = ?self.commands.timeout, "a hook took too long and was killed");
                }
                Outcome::NotStarted(error) => warn!(hook, %error, "a hook could not be started"),
            }
        }
    }
}

/// Waits until the term that a hook is about is over; for ever, if it is about none.
async fn term_is_over(ends: &mut watch::Receiver<Option<FencingToken>>, occasion: Occasion) {
    if let Occasion::Leading(term) = occasion
        && ends.wait_for(|over| over.is_some_and(|over| over >= term)).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
