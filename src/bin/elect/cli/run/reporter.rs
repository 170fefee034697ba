//! Fans election events out to log, status, hooks and systemd.
//!
//! The supervisor polls [`Reporter::next`] wherever it waits, and reports its own actions through the other
//! functions.

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
    election_log: ElectionLog,
    events: Events,
    leader_watch: LeaderWatch,
    store: StatusStore,
    /// Ticks at which the store learns that the loop is alive.
    alive: Interval,
    hooks: Hooks,
    /// The hook of the term under way, from when it is due to its end.
    hook: Option<PendingTermHook>,
    systemd: Systemd,
    /// Hooks leave orphans behind, which become our children.
    child_ended: Signal,
    registry: ChildRegistry,
    /// The last state reported to `on-following`, which gets changes only.
    following: bool,
    leadership: Option<LeadershipHandle>,
    last_leader: Option<Option<FencingToken>>,
}

impl Reporter {
    pub(super) fn new(
        election_log: ElectionLog,
        events: Events,
        store: StatusStore,
        hooks: Hooks,
        registry: ChildRegistry,
    ) -> io::Result<Self> {
        Ok(Self {
            election_log,
            events,
            leader_watch: store.leader_watch(),
            store,
            alive: heartbeat(),
            hooks,
            hook: None,
            systemd: Systemd::from_environment(),
            child_ended: signal(SignalKind::child())?,
            registry,
            following: false,
            leadership: None,
            last_leader: None,
        })
    }

    /// Waits for the next event, and reports it. `true` if the term's hook is due.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a later call reports the events not reported yet.
    pub(super) async fn next(&mut self) -> bool {
        tokio::select! {
            biased;
            Some(event) = self.events.next() => self.event(event),
            head = self.leader_watch.next() => self.head(head),
            _ = self.child_ended.recv() => drop(self.registry.reap_orphans()),
            _ = self.alive.tick() => {
                self.store.tick();
                self.election_log.namesakes(&self.store.namesakes());
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

    /// Records the end of the term's hook.
    pub(super) fn hook_ended(&mut self, how: CommandExit, timed_out: bool) {
        if let Some(due) = self.hook.take() {
            due.ended(how, timed_out);
        }
    }

    /// Skips the term's hook.
    pub(super) fn leave_hook_out(&mut self) {
        self.hook = None;
    }

    fn event(&mut self, event: Event) {
        self.store.event(&event);
        self.systemd.event(&event);
        if matches!(event, Event::Following { .. }) && self.leadership.is_none() {
            self.follow();
        }
        self.election_log.event(event);
    }

    fn head(&mut self, head: QueueHead) {
        let leader = match &head {
            QueueHead::Candidate { token, .. } => Some(*token),
            _ => None,
        };
        if self.last_leader.replace(leader) != Some(leader) {
            let of_ours = self.leadership.as_ref().map(term).unwrap_or_default();
            self.hooks.call(Occasion::Change(leader), of_ours);
        }
        self.election_log.seen(head);
    }

    /// Reports that this process leads from now on.
    pub(super) fn leading(&mut self, leadership: LeadershipHandle) {
        self.following = false;
        self.store.leading(leadership.clone());
        self.hooks.call(Occasion::Leading(leadership.token()), term(&leadership));
        self.leadership = Some(leadership);
    }

    /// Reports that the command is gone, and the term over or about to be released.
    pub(super) fn stepped_down(&mut self) {
        let Some(leadership) = self.leadership.take() else { return };
        self.hook = None;
        self.hooks.over(leadership.token());
        self.following = true;
        self.hooks.call(Occasion::Following, term(&leadership));
    }

    /// Reports that the command of this term runs.
    pub(super) fn command_started(&self, pid: i32) {
        info!(pid, token = self.token(), "the command runs");
    }

    /// Reports that nothing is left of the command.
    pub(super) fn command_ended(&self, how: &str, why: &str) {
        info!(token = self.token(), how, why, "the command has ended");
    }

    /// Reports that the command is about to be restarted.
    pub(super) fn restarting(&self, pause: Duration) {
        self.store.restarted();
        info!(token = self.token(), ?pause, "the command is started again");
    }

    /// Reports whether the check passes.
    pub(super) fn healthy(&self, healthy: bool) {
        self.store.healthy(healthy);
        self.systemd.status(if healthy { "fit to lead" } else { "not fit to lead: the check fails" });
    }

    /// Reports that this process was told to stop.
    pub(super) fn stopping(&mut self) {
        self.systemd.stopping();
        self.election_log.log(Happened::Stopping);
    }

    /// Reports the remaining events, and waits for the pending hooks.
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
