//! The one place through which all passes that others want to know: the log, HTTP, hooks, systemd.
//!
//! The supervisor polls [`Reporter::next`] wherever it waits, and calls the other functions for what it does itself.

use std::{io, time::Duration};

use leader_election::{
    FencingToken,
    candidate::{Event, Events},
    leadership::LeadershipHandle,
    observe::{LeaderWatch, QueueHead},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Interval,
};
use tracing::info;

use super::super::{election_log::ElectionLog, heartbeat, transcript::Happened};
use crate::{
    status::StatusStore,
    supervise::{
        children::ChildRegistry,
        environment,
        hooks::{Hooks, Occasion, PendingTermHook},
        protocol::CommandExit,
        systemd::Systemd,
    },
};

pub(super) struct Reporter {
    journal: ElectionLog,
    events: Events,
    fronts: LeaderWatch,
    board: StatusStore,
    /// When the board is told that the loop is alive.
    alive: Interval,
    hooks: Hooks,
    /// The hook of the term under way, from its turn to its end.
    hook: Option<PendingTermHook>,
    systemd: Systemd,
    /// Hooks leave orphans behind, which are ours.
    child_ended: Signal,
    kin: ChildRegistry,
    /// What `on-following` was last told, if anything: it is told of changes.
    following: bool,
    leadership: Option<LeadershipHandle>,
    last_front: Option<Option<FencingToken>>,
}

impl Reporter {
    pub(super) fn new(
        journal: ElectionLog,
        events: Events,
        board: StatusStore,
        hooks: Hooks,
        kin: ChildRegistry,
    ) -> io::Result<Self> {
        Ok(Self {
            journal,
            events,
            fronts: board.leader_watch(),
            board,
            alive: heartbeat(),
            hooks,
            hook: None,
            systemd: Systemd::from_environment(),
            child_ended: signal(SignalKind::child())?,
            kin,
            following: false,
            leadership: None,
            last_front: None,
        })
    }

    /// Waits for the next thing that happens, and passes it on. `true`: it is the turn of the term's hook.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what has not been passed on yet is by a later call.
    pub(super) async fn next(&mut self) -> bool {
        tokio::select! {
            biased;
            Some(event) = self.events.next() => self.event(event),
            front = self.fronts.next() => self.front(front),
            _ = self.child_ended.recv() => drop(self.kin.reap_strays()),
            _ = self.alive.tick() => {
                self.board.tick();
                self.journal.namesakes(&self.board.namesakes());
            }
            () = self.systemd.feed() => {}
            due = self.hooks.of_term() => {
                let of_ours = self.leadership.as_ref().is_some_and(|leadership| leadership.token() == due.term);
                self.hook = of_ours.then_some(due);
                return of_ours;
            }
        }
        false
    }

    /// The hook of the term has ended.
    pub(super) fn hook_ended(&mut self, how: CommandExit, timed_out: bool) {
        if let Some(due) = self.hook.take() {
            due.ended(how, timed_out);
        }
    }

    /// The hook of the term does not run.
    pub(super) fn leave_hook_out(&mut self) {
        self.hook = None;
    }

    fn event(&mut self, event: Event) {
        self.board.event(&event);
        self.systemd.event(&event);
        if matches!(event, Event::Following { .. }) && self.leadership.is_none() {
            self.follow();
        }
        self.journal.event(event);
    }

    fn front(&mut self, front: QueueHead) {
        let leader = match &front {
            QueueHead::Candidate { token, .. } => Some(*token),
            _ => None,
        };
        if self.last_front.replace(leader) != Some(leader) {
            let of_ours = self.leadership.as_ref().map(term).unwrap_or_default();
            self.hooks.call(Occasion::Change(leader), of_ours);
        }
        self.journal.seen(front);
    }

    /// This process leads from now on.
    pub(super) fn leading(&mut self, leadership: LeadershipHandle) {
        self.following = false;
        self.board.leading(leadership.clone());
        self.hooks.call(Occasion::Leading(leadership.token()), term(&leadership));
        self.leadership = Some(leadership);
    }

    /// The command is gone, and the term is over, or about to be given up.
    pub(super) fn stepped_down(&mut self) {
        let Some(leadership) = self.leadership.take() else { return };
        self.hook = None;
        self.hooks.over(leadership.token());
        self.following = true;
        self.hooks.call(Occasion::Following, term(&leadership));
    }

    /// The command of this term runs.
    pub(super) fn command_started(&self, pid: i32) {
        info!(pid, token = self.token(), "the command runs");
    }

    /// Nothing is left of it.
    pub(super) fn command_ended(&self, how: &str, why: &str) {
        info!(token = self.token(), how, why, "the command has ended");
    }

    /// It is about to be started again.
    pub(super) fn restarting(&self, pause: Duration) {
        self.board.restarted();
        info!(token = self.token(), ?pause, "the command is started again");
    }

    /// Whether the check passes.
    pub(super) fn healthy(&self, healthy: bool) {
        self.board.healthy(healthy);
        self.systemd.status(if healthy { "fit to lead" } else { "not fit to lead: the check fails" });
    }

    /// Told to stop.
    pub(super) fn stopping(&mut self) {
        self.systemd.stopping();
        self.journal.happened(Happened::Stopping);
    }

    /// Passes on what is left, and waits for the hooks that are due.
    pub(super) async fn finish(mut self) {
        while let Some(event) = self.events.try_next() {
            self.event(event);
        }
        self.hooks.finish().await;
    }

    fn follow(&mut self) {
        if !std::mem::replace(&mut self.following, true) {
            self.hooks.call(Occasion::Following, Vec::new());
        }
    }

    fn token(&self) -> Option<u64> {
        self.leadership.as_ref().map(|leadership| leadership.token().get())
    }
}

fn term(leadership: &LeadershipHandle) -> environment::Variables {
    environment::of_term(leadership.token(), leadership.cluster())
}
