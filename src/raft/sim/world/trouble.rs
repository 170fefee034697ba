//! Faults of a world, and their end.

use std::time::Duration;

use super::{
    super::{
        invariant::Seen,
        network::Weather,
        plan::{Fault, Plan, Whom},
    },
    Event, World,
};
use crate::raft::{action::Input, identity::NodeId};

impl World {
    /// Kills the process. Any prefix of the writes that were not durable may have reached the disk.
    pub(crate) fn crash(&mut self, node: NodeId) {
        let machine = &mut self.machines[node.place()];
        let Some(process) = machine.process.take() else { return };
        let survive = self.rng.usize(0..=process.writes.len());
        process.writes.iter().take(survive).for_each(|write| machine.stored.apply(write));
        machine.papers.wrote(survive as u64);
        machine.run += 1;
        self.note(|| format!("{node} is killed"));
        self.look(&Seen::Died { node });
    }

    pub(crate) fn freeze(&mut self, node: NodeId, span: Duration) {
        let machine = &mut self.machines[node.place()];
        let (Some(process), run) = (&mut machine.process, machine.run) else { return };
        if process.frozen.is_none() {
            process.frozen = Some(Vec::new());
            self.note(|| format!("{node} is frozen"));
            self.schedule(self.now.plus(span), Event::Thaw { node, run });
        }
    }

    pub(super) fn thaw(&mut self, node: NodeId, run: u32) {
        let machine = &mut self.machines[node.place()];
        if machine.run != run {
            return;
        }
        let postponed = machine.process.as_mut().and_then(|process| process.frozen.take());
        let Some(postponed) = postponed else { return };
        self.note(|| format!("{node} goes on"));
        for event in postponed {
            self.schedule(self.now, event);
        }
    }

    fn whom(&self, whom: Whom) -> Option<NodeId> {
        match whom {
            Whom::Server(node) => Some(node),
            Whom::Leader => self.raft_leader(),
            Whom::Other(place) => {
                let leader = self.raft_leader();
                self.members().filter(|node| Some(*node) != leader).nth(usize::from(place))
            }
        }
    }

    /// Performs a fault.
    pub(crate) fn fault(&mut self, fault: Fault) {
        self.note(|| format!("-- {fault}"));
        match fault {
            Fault::Crash(whom) => self.each(whom, Self::crash),
            Fault::Start(node) => self.start(node),
            Fault::Bounce(whom, down) => self.each(whom, |world, node| {
                world.crash(node);
                world.schedule(world.now.plus(down), Event::Start(node));
            }),
            Fault::Freeze(whom, span) => self.each(whom, |world, node| world.freeze(node, span)),
            Fault::CutOff(whom) => self.each(whom, Self::cut_off),
            Fault::Deaf(whom) => self.each(whom, |world, node| world.cut(|_, to| to == node)),
            Fault::Mute(whom) => self.each(whom, |world, node| world.cut(|from, _| from == node)),
            Fault::OneWay(one, other) => {
                if let (Some(one), Some(other)) = (self.whom(one), self.whom(other)) {
                    self.cut(|from, to| (from, to) == (one, other));
                }
            }
            Fault::Split(side) => {
                let left = |node: NodeId| side >> node.place() & 1 == 0;
                self.cut(|from, to| left(from) != left(to));
            }
            Fault::Mend => self.mend(),
            Fault::Weather(weather) => self.weather = weather,
            Fault::SlowDisk(node, times) => self.machines[node.place()].slow = times,
            Fault::Lag(whom, by) => self.each(whom, |world, node| world.machines[node.place()].lag = by),
            Fault::Wipe(whom, down) => self.each(whom, |world, node| world.wipe(node, down)),
            Fault::OtherDisk(whom, down) => self.each(whom, |world, node| world.swap(node, down)),
            Fault::Replace(whom) => self.each(whom, Self::replace),
            Fault::BackUp(whom) => self.each(whom, Self::back_up),
            Fault::PutBack(whom, down) => self.each(whom, |world, node| world.put_back(node, down)),
            Fault::Campaign(whom) => self.each(whom, |world, node| world.order(node, Input::Campaign)),
            Fault::Resign(whom) => self.each(whom, |world, node| world.resign(node)),
            Fault::Transfer(whom, to) => {
                if let (Some(whom), Some(to)) = (self.whom(whom), self.whom(to)) {
                    self.transfer(whom, to);
                }
            }
            Fault::Cordon(whom, hard) => self.each(whom, |world, node| world.cordon(node, hard)),
            Fault::Uncordon(whom) => self.each(whom, Self::uncordon),
            Fault::Pause(paused) => self.pause(paused),
            Fault::Withdraw(whom) => self.each(whom, Self::withdraw),
            Fault::Stand(whom) => self.each(whom, Self::stand),
            Fault::Doom { mute, killed } => self.doom = Some((mute, killed)),
            Fault::Copy(whom, after) => self.each(whom, |world, node| world.copy(node, after)),
            Fault::Sides(whom, side) => self.each(whom, |world, node| world.take_sides(node, side)),
            Fault::PowerCut => self.machines().for_each(|node| self.crash(node)),
            Fault::StartAll => self.machines().for_each(|node| self.start(node)),
        }
    }

    fn each(&mut self, whom: Whom, hit: impl FnOnce(&mut Self, NodeId)) {
        if let Some(node) = self.whom(whom).filter(|node| node.place() < self.machines.len()) {
            hit(self, node);
        }
    }

    /// Cuts each link for which `this` holds.
    pub(crate) fn cut(&mut self, this: impl Fn(NodeId, NodeId) -> bool) {
        for from in self.machines() {
            for to in self.machines().filter(|to| *to != from && this(from, *to)) {
                self.cuts.cut(from, to);
            }
        }
        self.look_for_isolation();
    }

    pub(crate) fn cut_off(&mut self, node: NodeId) {
        self.note(|| format!("{node} is cut off"));
        self.cut(|from, to| from == node || to == node);
    }

    /// Mends all cut links.
    pub(crate) fn mend(&mut self) {
        self.cuts.mend();
        self.machines.iter_mut().for_each(|machine| machine.lag = Duration::ZERO);
        self.note(|| "the network is whole".to_owned());
        self.look_for_isolation();
    }

    pub(crate) fn mend_all_of(&mut self, node: NodeId) {
        self.cuts.mend_all_of(node);
        self.note(|| format!("{node} is connected again"));
        self.look_for_isolation();
    }

    fn look_for_isolation(&mut self) {
        for node in self.members() {
            let mut others = self.machines().filter(|other| self.member(*other) != node);
            let deaf = others.all(|other| !self.cuts.passes(other, node));
            self.look(&Seen::Hearing { node, anybody: !deaf || self.group().count() == 1 });
        }
    }

    /// Tells the server to give leadership up; a frozen one can't hear it.
    pub(crate) fn resign(&mut self, node: NodeId) {
        self.note(|| format!("{node} is told to resign"));
        self.order(node, Input::Resign);
    }

    /// Tells the server to take no part in elections any more, nor after a restart.
    pub(crate) fn withdraw(&mut self, node: NodeId) {
        self.machines[node.place()].stands = false;
        self.order(node, Input::Withdraw);
    }

    fn stand(&mut self, node: NodeId) {
        self.machines[node.place()].stands = true;
        let candidacy = self.candidacy(node);
        self.order(node, Input::Stand(candidacy));
    }

    pub(super) fn order(&mut self, node: NodeId, order: Input) {
        let process = self.machines[node.place()].process.as_ref();
        if process.is_some_and(|process| process.frozen.is_none()) {
            self.step(node, order);
        }
    }

    /// An operator repeats the replacement by the disk that a server runs on, until it counts.
    pub(crate) fn see_through(&mut self, member: NodeId, within: Duration) {
        const ASK_EVERY: Duration = Duration::from_millis(500);
        let mut met = false;
        for _ in 0..within.as_millis() / ASK_EVERY.as_millis() {
            met = self.run_until(ASK_EVERY, |world| world.is_admitted(member));
            if met {
                break;
            }
            self.note(|| format!("-- the disk of {member} is to be replaced by the one that it has"));
            self.replace(member);
        }
        self.look(&Seen::Expected { met, what: "the new disk admitted", within });
    }

    /// All are killed; all but that one are started, and must elect.
    pub(crate) fn elect_without(&mut self, away: NodeId, within: Duration) {
        self.members().for_each(|node| self.crash(node));
        self.members().filter(|node| *node != away).for_each(|node| self.start(node));
        let met = self.run_until(within, |world| world.valid_leader().is_some());
        self.look(&Seen::Expected { met, what: "a leader without one of the servers", within });
        self.start(away);
        self.settle(within);
    }

    /// From now on the network is good, and so are the disks.
    pub(crate) fn clear_up(&mut self) {
        self.weather = Weather::FAIR;
        self.bad_ways.clear();
        self.plan.fsync = Plan::fair(1, 0).fsync;
        self.machines.iter_mut().for_each(|machine| machine.slow = 1);
    }

    /// Ends all faults: stopped servers are started, cut links are mended. The network and the disks are then as
    /// the plan has them, which may be far from good.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
        self.doom = None;
        self.mend();
        self.weather = self.plan.weather;
        for node in self.machines() {
            self.machines[node.place()].slow = self.plan.slow(self.member(node));
            self.start(node);
            let run = self.machines[node.place()].run;
            self.thaw(node, run);
        }
    }
}
