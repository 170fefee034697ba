//! The whole group, its disks, clocks and network, in one thread and one order of events.
//!
//! The servers are the production code. Each has the surroundings that a driver gives it: a clock, a disk that
//! takes its time and forgets unfinished writes, a timer, a state machine.

mod machine;
mod meeting;
mod ordering;
mod proposing;
mod trouble;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    clock::{Clock, TrueTime},
    invariant::{Invariants, Seen, Step, Violation},
    network::{BadWay, Cuts, Weather},
    plan::Plan,
};
use crate::{
    leadership::{ClusterId, Loss},
    raft::{
        action::{Actions, Effect, Input, LeadershipChange, Nomination, Now, ProposalId, Stored, Write},
        core::CoreConfig,
        identity::{Index, Members, NodeId, Position, Term},
        log::{Entry, Snapshot, TimeOfDay},
        membership::{Identity, MemberRecord, VotingRights, WriteCount},
        message::{Envelope, Message},
        node::Node,
        timing::Random,
    },
};

pub(crate) use self::machine::{StateMachine, fingerprint};
use self::{
    machine::{Machine, Papers, Process},
    proposing::{Asked, Fates},
};

pub(crate) const CLUSTER: ClusterId = ClusterId(0xE1EC7);

/// A run has some thousand events. One with so many is an endless loop.
const MOST_EVENTS: u64 = 200_000;

/// The longest time for the holder of a lost term to stop, in microseconds. Beyond the claim's end it does not
/// matter.
const HOLDER_STOPS_WITHIN: u64 = 400_000;

/// A future event.
#[derive(Debug)]
enum Event {
    Deliver(Box<Mail>),
    Call { node: NodeId, run: u32 },
    Timer { node: NodeId, run: u32 },
    Synced { node: NodeId, run: u32 },
    Fault(usize),
    Thaw { node: NodeId, run: u32 },
    Start(NodeId),
    LetGo { node: NodeId, run: u32 },
    GiveUp { node: NodeId, run: u32, term: Term },
    Silence { node: NodeId, run: u32 },
    Kill { node: NodeId, run: u32 },
    Propose,
    Heal,
}

/// A message between two machines, and its connection's data about the sender.
#[derive(Debug, Clone)]
struct Mail {
    envelope: Envelope,
    sender: NodeId,
    receiver: NodeId,
    from: Identity,
    writes: WriteCount,
    tallies: Vec<(NodeId, MemberRecord)>,
}

#[derive(Debug)]
struct Scheduled {
    at: TrueTime,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The simulation.
///
/// A machine is named as the member that runs on it. The machine of a copy of a member's disk has the first number
/// behind those of the members.
pub(crate) struct World {
    plan: Plan,
    now: TrueTime,
    rng: fastrand::Rng,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    machines: Vec<Machine>,
    /// Of all servers: each has an id.
    starts: u64,
    weather: Weather,
    bad_ways: Vec<BadWay>,
    cuts: Cuts,
    /// True if any server was ever connected with the copy of a member.
    let_in: bool,
    healed: bool,
    /// The times until the next leader is mute, and killed.
    doom: Option<(Duration, Duration)>,
    invariants: Invariants,
    violation: Option<Violation>,
    proposals: u64,
    fates: Fates,
    steps: u64,
    sent: u64,
    rejections: u64,
    /// Positions of the proposals that a leader took.
    accepted: Vec<(ProposalId, Position)>,
    transcript: Option<Vec<String>>,
    /// True if each message is a line of the transcript.
    verbose: bool,
}

/// The value that a server announces.
fn announcement(node: NodeId) -> Arc<[u8]> {
    Arc::from(node.to_string().into_bytes())
}

impl World {
    /// All servers start at about the same time, with empty disks.
    pub(crate) fn new(plan: Plan) -> Self {
        let machine = |(place, clock): (usize, &Clock)| {
            let (member, disk) = (NodeId::new(place as u8), (Stored::nothing(), Papers::blank(place as u64)));
            Machine::new(member, *clock, plan.slow(member), disk)
        };
        let members = Members::of(plan.clocks.len()).unwrap();
        let mut world = Self {
            now: TrueTime(0),
            rng: fastrand::Rng::with_seed(plan.seed ^ 0x5EED),
            queue: BinaryHeap::new(),
            scheduled: 0,
            machines: plan.clocks.iter().enumerate().map(machine).collect(),
            starts: 0,
            weather: plan.weather,
            bad_ways: plan.lopsided.iter().flat_map(|lopsided| &lopsided.ways).copied().collect(),
            cuts: Cuts::default(),
            let_in: false,
            healed: false,
            doom: None,
            invariants: Invariants::all(members.count() + 1),
            violation: None,
            proposals: 0,
            fates: Fates::default(),
            steps: 0,
            sent: 0,
            rejections: 0,
            accepted: Vec::new(),
            transcript: None,
            verbose: false,
            plan,
        };
        for place in 0..world.plan.faults.len() {
            world.schedule(world.plan.faults[place].0, Event::Fault(place));
        }
        if world.plan.propose_every < Duration::MAX {
            world.schedule(TrueTime(0).plus(world.plan.propose_every), Event::Propose);
        }
        if world.plan.heal_at > TrueTime(0) {
            world.schedule(world.plan.heal_at, Event::Heal);
        }
        if !world.plan.strangers {
            world.acquaint_all();
        }
        for node in members.all() {
            world.start(node);
        }
        world
    }

    /// Keeps a transcript; with each message, if `verbose`.
    pub(crate) fn record(mut self, verbose: bool) -> Self {
        self.transcript = Some(Vec::new());
        self.verbose = verbose;
        self
    }

    pub(crate) fn transcript(&self) -> &[String] {
        self.transcript.as_deref().unwrap_or_default()
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(transcript) = &mut self.transcript {
            transcript.push(format!("{:8.1} ms  {}", self.now.millis(), line()));
        }
    }

    /// Steps that all servers took.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Positions of the proposals that a leader took.
    pub(crate) fn accepted(&self) -> &[(ProposalId, Position)] {
        &self.accepted
    }

    pub(crate) fn change_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    /// The number of messages sent, lost ones too.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// The number of rejections among them.
    pub(crate) fn rejections(&self) -> u64 {
        self.rejections
    }

    pub(crate) fn heals_at(&self) -> TrueTime {
        self.plan.heal_at
    }

    /// See [`Plan::slowest_sync`].
    pub(crate) fn slowest_sync(&self) -> Duration {
        self.plan.slowest_sync()
    }

    pub(crate) fn now(&self) -> TrueTime {
        self.now
    }

    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = NodeId> + use<> {
        self.group().all()
    }

    fn group(&self) -> Members {
        Members::of(self.plan.clocks.len()).unwrap()
    }

    /// The members' machines, and that of the copy, if there is one.
    pub(crate) fn machines(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.machines.len() as u8).map(NodeId::new)
    }

    /// The member that a server on that machine is, or claims to be.
    fn member(&self, machine: NodeId) -> NodeId {
        self.machines[machine.place()].member
    }

    /// The server there, if its process lives.
    pub(crate) fn server(&self, node: NodeId) -> Option<&Node> {
        self.machines[node.place()].process.as_ref()?.node.as_ref()
    }

    /// The contents of that disk.
    pub(crate) fn stored(&self, node: NodeId) -> &Stored {
        &self.machines[node.place()].stored
    }

    pub(crate) fn applied(&self, node: NodeId) -> Option<StateMachine> {
        self.machines[node.place()].process.as_ref().map(|process| process.state)
    }

    /// The valid leader at this true instant.
    pub(crate) fn valid_leader(&self) -> Option<NodeId> {
        self.invariants.valid_leader(self.now)
    }

    /// The leader of the highest term, whether or not it may claim yet.
    pub(crate) fn raft_leader(&self) -> Option<NodeId> {
        let leads = |node: &NodeId| self.server(*node).is_some_and(|it| matches!(it, Node::Leader(_)));
        self.machines().filter(leads).max_by_key(|node| self.server(*node).map(Node::term))
    }

    fn is_caretaker(&self, node: NodeId) -> bool {
        self.server(node).is_some_and(|server| server.role() == "caretaker")
    }

    fn schedule(&mut self, at: TrueTime, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse(Scheduled { at, number: self.scheduled, event }));
    }

    /// Performs the next event, unless that is after `until`. Returns true if it did.
    pub(crate) fn advance(&mut self, until: TrueTime) -> bool {
        if self.violation.is_some() {
            return false;
        }
        match self.queue.peek() {
            Some(Reverse(next)) if next.at <= until => {}
            _ => {
                self.now = self.now.max(until);
                return false;
            }
        }
        if self.scheduled > MOST_EVENTS {
            let what = format!("{MOST_EVENTS} events, and still more to come");
            self.violation = Some(Violation { invariant: "an end", what });
            return false;
        }
        if let Some(Reverse(Scheduled { at, event, .. })) = self.queue.pop() {
            self.now = self.now.max(at);
            self.happen(event);
        }
        true
    }

    /// Performs the events of that time.
    pub(crate) fn run_for(&mut self, span: Duration) {
        let until = self.now.plus(span);
        while self.advance(until) {}
    }

    /// Performs events until `done`, for at most that long. Returns true if `done` became true.
    pub(crate) fn run_until(&mut self, span: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let until = self.now.plus(span);
        loop {
            if done(self) {
                return true;
            }
            if !self.advance(until) {
                return done(self);
            }
        }
    }

    fn happen(&mut self, event: Event) {
        let whose = match &event {
            Event::Deliver(mail) => Some(mail.receiver),
            Event::Call { node, .. }
            | Event::Timer { node, .. }
            | Event::Synced { node, .. }
            | Event::LetGo { node, .. }
            | Event::GiveUp { node, .. } => Some(*node),
            _ => None,
        };
        let frozen = whose.and_then(|node| self.machines[node.place()].process.as_mut()?.frozen.as_mut());
        if let Some(postponed) = frozen {
            postponed.push(event);
            return;
        }
        match event {
            Event::Deliver(mail) => self.deliver(*mail),
            Event::Call { node, run } => self.call(node, run),
            Event::Timer { node, run } => self.timer(node, run),
            Event::Synced { node, run } => self.synced(node, run),
            Event::Fault(place) => self.fault(self.plan.faults[place].1),
            Event::Thaw { node, run } => self.thaw(node, run),
            Event::Start(node) => self.start(node),
            Event::LetGo { node, run } => self.let_go(node, run),
            Event::GiveUp { node, run, term } => self.give_up(node, run, term),
            Event::Silence { node, run } if self.is_doomed(node, run) => self.cut(|from, _| from == node),
            Event::Kill { node, run } if self.is_doomed(node, run) => self.crash(node),
            Event::Silence { .. } | Event::Kill { .. } => {}
            Event::Propose => self.propose_somewhere(),
            Event::Heal => self.heal(),
        }
    }

    fn deliver(&mut self, mail: Mail) {
        let Mail { sender, receiver, .. } = mail;
        let arrives = self.cuts.passes(sender, receiver) && self.machines[receiver.place()].process.is_some();
        if arrives && self.takes(&mail) {
            let envelope = mail.envelope;
            if self.verbose {
                self.note(|| envelope.to_string());
            }
            self.step(receiver, Input::Receive(envelope));
        }
    }

    fn timer(&mut self, node: NodeId, run: u32) {
        if self.machines[node.place()].run != run {
            return;
        }
        let Some(process) = &mut self.machines[node.place()].process else { return };
        if process.timer > self.now {
            return; // It was set again.
        }
        process.timer = TrueTime(u64::MAX);
        self.step(node, Input::Tick);
    }

    fn synced(&mut self, node: NodeId, run: u32) {
        let machine = &mut self.machines[node.place()];
        let (Some(process), true) = (&mut machine.process, machine.run == run) else { return };
        let done: Vec<Write> = process.writes.drain(..process.syncing).collect();
        process.syncing = 0;
        done.iter().for_each(|write| machine.stored.apply(write));
        self.wrote(node, done.len() as u64);
        let last = done.into_iter().next_back().expect("an fsync is of something");
        self.sync(node);
        self.step(node, Input::Persisted(last.persisted()));
    }

    /// Begins an fsync of all waiting writes.
    fn sync(&mut self, node: NodeId) {
        let (least, most) = self.plan.fsync;
        let machine = &mut self.machines[node.place()];
        let Some(process) = &mut machine.process else { return };
        if process.syncing > 0 || process.writes.is_empty() {
            return;
        }
        process.syncing = process.writes.len();
        let takes = Duration::from_nanos(self.rng.u64(least.as_nanos() as u64..=most.as_nanos() as u64));
        let (done, run) = (self.now.plus(takes * machine.slow), machine.run);
        machine.synced_at = done;
        self.schedule(done, Event::Synced { node, run });
    }

    fn clocks(&mut self, node: NodeId) -> Now {
        let now = self.machines[node.place()].clock.shows(self.now);
        let today = TimeOfDay(1_700_000_000_000 + self.now.0 / 1_000_000);
        Now { boot_time: now, today, draw: Random(self.rng.u64(..)) }
    }

    /// One step of one server, with its driver's actions.
    pub(crate) fn step(&mut self, node: NodeId, input: Input) {
        let now = self.clocks(node);
        let Some(process) = &mut self.machines[node.place()].process else { return };
        let before = process.node.take().expect("a node between steps");
        let step = Step::before(node, &before);
        let (after, actions) = before.step(now, input);
        self.steps += 1;
        self.look(&Seen::Stepped(&step, &after, &actions));
        self.tell(node, &step, &after);
        self.strike(node, &step, &after);
        if let Some(process) = &mut self.machines[node.place()].process {
            process.node = Some(after);
        }
        self.carry_out(node, actions);
        self.set_timer(node);
    }

    fn tell(&mut self, node: NodeId, step: &Step, after: &Node) {
        if self.transcript.is_some() && (step.role != after.role() || step.term != after.term()) {
            self.note(|| format!("{node} is a {} in term {}", after.role(), after.term()));
        }
    }

    fn strike(&mut self, node: NodeId, step: &Step, after: &Node) {
        if let Some((mute, killed)) = self.doom.take_if(|_| step.elects(after)) {
            let run = self.machines[node.place()].run;
            self.schedule(self.now.plus(mute), Event::Silence { node, run });
            self.schedule(self.now.plus(killed), Event::Kill { node, run });
        }
    }

    fn is_doomed(&self, node: NodeId, run: u32) -> bool {
        self.machines[node.place()].run == run && !self.healed
    }

    fn look(&mut self, seen: &Seen<'_>) {
        if self.violation.is_none() {
            self.violation = self.invariants.look(seen).err();
            if let Some(violation) = self.violation.clone() {
                self.note(|| format!("VIOLATION of {violation}"));
            }
        }
    }

    fn carry_out(&mut self, node: NodeId, actions: Actions) {
        for effect in actions.effects {
            match effect {
                Effect::Send(envelope) => self.send(node, envelope),
                Effect::Apply(entries) => self.apply(node, &entries),
                Effect::Restore(snapshot) => self.restore(node, &snapshot),
                Effect::Leadership(change) => self.hear(node, change),
                Effect::Objection { member, objection } => {
                    self.refuse(node, self.reached(node, member), objection);
                }
                Effect::Accepted { proposal, at } => {
                    self.accepted.push((proposal, at));
                    self.asked(node, |asked| asked.accepted(proposal, at));
                }
                Effect::TransferRefused { why, .. } => self.note(|| format!("{node} leads on: {why}")),
                Effect::TransferBegun { .. } => self.note(|| format!("{node} hands over")),
                Effect::Declined { proposal, why } => {
                    self.asked(node, |asked| asked.declined(proposal, why));
                }
            }
        }
        if let Some(write) = actions.write {
            if let Some(process) = &mut self.machines[node.place()].process {
                process.writes.push_back(write);
            }
            self.sync(node);
        }
        self.compact(node);
    }

    fn send(&mut self, sender: NodeId, envelope: Envelope) {
        self.sent += 1;
        self.rejections += u64::from(matches!(envelope.message, Message::Rejected { .. }));
        let receiver = self.reached(sender, envelope.to);
        let lag = self.machines[receiver.place()].lag;
        let bad = self.bad_ways.iter().find(|way| (way.from, way.to) == (sender, receiver));
        let bad = bad.map(|way| way.how);
        let mail = self.mail(sender, receiver, envelope);
        for delay in self.weather.deliveries(&mut self.rng) {
            let delay = bad.map_or(Some(delay), |bad| bad.delivery(delay, &mut self.rng));
            let Some(delay) = delay else { continue };
            self.schedule(self.now.plus(delay + lag), Event::Deliver(Box::new(mail.clone())));
        }
    }

    fn asked(&mut self, node: NodeId, then: impl Fn(&mut Asked)) {
        self.machines[node.place()].process.iter_mut().for_each(|process| then(&mut process.asked));
    }

    fn apply(&mut self, node: NodeId, entries: &[Entry]) {
        for entry in entries {
            let Some(process) = &mut self.machines[node.place()].process else { return };
            let before = process.state.at;
            process.state.apply(entry);
            let state = process.state;
            self.look(&Seen::Applied { node, before, state });
            self.decided(node, entry);
        }
    }

    fn restore(&mut self, node: NodeId, snapshot: &Snapshot) {
        let Some(process) = &mut self.machines[node.place()].process else { return };
        process.state = StateMachine::restored(snapshot);
        process.asked.restored(snapshot.at);
        let state = process.state;
        self.note(|| format!("{node} begins anew from a snapshot up to {}", snapshot.at));
        self.look(&Seen::Restored { node, state });
    }

    fn hear(&mut self, node: NodeId, change: LeadershipChange) {
        let clock = self.machines[node.place()].clock;
        self.note(|| match change {
            LeadershipChange::Gained { token, until } => {
                format!("{node} LEADS with token {token}, until {:.1} ms", clock.when(until).millis())
            }
            LeadershipChange::Extended { .. } => String::new(),
            LeadershipChange::Lost { token, loss } => format!("{node} lost token {token}: {loss}"),
        });
        if let Some(transcript) = &mut self.transcript {
            transcript.retain(|line| !line.ends_with("ms  "));
        }
        self.look(&Seen::Leadership { node, change, at: self.now, clock });
        self.follow(node, change);
        if let LeadershipChange::Lost { token, loss } = change
            && matches!(loss, Loss::Superseded | Loss::Transferred)
        {
            // A generator of its own, so that runs in which no leader is deposed stay the same.
            let takes = fastrand::Rng::with_seed(self.plan.seed ^ token.get()).u64(0..HOLDER_STOPS_WITHIN);
            let run = self.machines[node.place()].run;
            self.schedule(self.now.plus(Duration::from_micros(takes)), Event::LetGo { node, run });
        }
    }

    fn let_go(&mut self, node: NodeId, run: u32) {
        if self.machines[node.place()].run == run {
            self.look(&Seen::LetGo { node });
            self.step(node, Input::LetGo);
        }
    }

    fn compact(&mut self, node: NodeId) {
        let Some(process) = &self.machines[node.place()].process else { return };
        let (Some(server), state) = (&process.node, process.state) else { return };
        if state.at.index.after(server.log().snapshot().at.index) >= self.plan.compact_after {
            self.note(|| format!("{node} compacts its log up to {}", state.at));
            self.step(node, Input::Compact(state.compacted()));
        }
    }

    fn set_timer(&mut self, node: NodeId) {
        let late = self.rng.u64(0..=self.plan.late.as_nanos() as u64);
        let machine = &mut self.machines[node.place()];
        let (Some(process), run) = (&mut machine.process, machine.run) else { return };
        let Some(server) = &process.node else { return };
        let wanted = machine.clock.when(server.deadline());
        if wanted < process.timer {
            let at = wanted.max(self.now).plus(Duration::from_nanos(late));
            process.timer = at;
            self.schedule(at, Event::Timer { node, run });
        }
    }

    pub(crate) fn start(&mut self, node: NodeId) {
        let now = self.clocks(node);
        if self.machines[node.place()].process.is_none() {
            self.begin_run(node);
        }
        let members = self.group();
        let voting_rights = match self.machines[node.place()].papers.voting_rights {
            VotingRights::Waiting if members.count() == 1 => VotingRights::Full,
            voting_rights => voting_rights,
        };
        let Plan { timing, limits, mutant, moves, .. } = self.plan;
        let directory = self.machines[node.place()].papers.identity.directory;
        let founders = self.founders(node);
        let config = CoreConfig {
            me: self.member(node),
            members,
            cluster: CLUSTER,
            timing,
            limits,
            voting_rights,
            directory,
            moves,
            founders,
            mutant,
        };
        let machine = &mut self.machines[node.place()];
        if machine.process.is_some() {
            return;
        }
        let stored = machine.stored.clone();
        let state = StateMachine::restored(&stored.snapshot);
        let server = Node::start(config, stored, &now).expect("a disk that servers of this group wrote");
        machine.run += 1;
        machine.process = Some(Process {
            node: Some(server),
            timer: TrueTime(u64::MAX),
            writes: VecDeque::new(),
            syncing: 0,
            frozen: None,
            state,
            asked: Asked::of(mutant),
            admitted: BTreeMap::new(),
            raised: BTreeMap::new(),
        });
        if self.has_to_call(node) {
            let run = self.machines[node.place()].run;
            self.schedule(self.now, Event::Call { node, run });
        }
        if self.now > TrueTime(0) {
            self.note(|| format!("{node} is started"));
        }
        self.look(&Seen::Restored { node, state });
        if self.machines[node.place()].stands {
            let candidacy = self.candidacy(node);
            self.step(node, Input::Stand(candidacy));
        }
    }

    /// The part in elections of that server.
    pub(super) fn candidacy(&self, node: NodeId) -> Nomination {
        let priority = self.plan.priority(self.member(node));
        Nomination { value: announcement(node), address: None, priority }
    }

    fn propose_somewhere(&mut self) {
        if self.healed {
            return; // Or no server would ever have caught up.
        }
        let anybody = NodeId::new(self.rng.u8(0..self.group().count() as u8));
        let node = if self.rng.u8(0..4) == 0 { anybody } else { self.raft_leader().unwrap_or(anybody) };
        self.propose(node, 1);
        self.schedule(self.now.plus(self.plan.propose_every), Event::Propose);
    }

    /// After the faults, on the plan's own network and disks: a leader within the bound that follows from them, if
    /// the timing suits them. If no messages are lost, it stays.
    pub(crate) fn elect(&mut self) {
        let Some(within) = self.plan.elects_within() else { return };
        let backlog = self.backlog();
        // An fsync that began on a slow disk keeps its duration. Until it ends, there may be no majority of votes,
        // and a leader hands over.
        let under_way = self.machines.iter().map(|machine| machine.synced_at.0).max().unwrap_or_default();
        let within = within + Duration::from_nanos(under_way.saturating_sub(self.now.0));
        let met =
            self.run_until(within, |world| world.raft_leader().is_some_and(|it| !world.is_caretaker(it)));
        self.look(&Seen::Expected { met, what: "a leader", within });
        // It may claim once the others have its whole log. A server that came out of the faults may have missed too
        // much of it to stay.
        let reliable = self.plan.keeps_its_leader();
        if reliable {
            self.run_for(Duration::from_nanos(under_way.saturating_sub(self.now.0)));
            self.run_for(self.plan.timing.longest() * 2);
        }
        let within = within + self.plan.copies_within(backlog);
        let met = self.run_until(within, |world| world.valid_leader().is_some());
        self.look(&Seen::Expected { met, what: "a leader that may say so", within });
        if met && reliable {
            let within = self.plan.timing.longest() * 2;
            let leader = self.leading();
            self.run_for(within);
            let met = self.leading() == leader;
            self.look(&Seen::Expected { met, what: "the same leader all the time", within });
        }
    }

    /// The number of entries of the longest log that are committed nowhere.
    fn backlog(&self) -> usize {
        let servers = || self.members().filter_map(|node| self.server(node));
        let last = servers().map(|server| server.log().last().index).max().unwrap_or_default();
        let least = servers().map(Node::committed).min().unwrap_or_default();
        last.after(least)
    }

    /// The valid leader, and its term.
    pub(crate) fn leading(&self) -> Option<(NodeId, Term)> {
        self.valid_leader().and_then(|leader| Some((leader, self.server(leader)?.term())))
    }

    /// After all faults, on a good network: a leader, and all servers caught up with it.
    pub(crate) fn settle(&mut self, within: Duration) {
        let met = self.run_until(within, |world| world.valid_leader().is_some() && world.caught_up());
        self.look(&Seen::Expected { met, what: "a leader that all have caught up with", within });
        self.expect_all_answers();
        for node in self.members() {
            if let Some(server) = self.server(node).cloned() {
                self.look(&Seen::Ended { node, server: &server });
            }
        }
    }

    /// Returns true if all have applied the same, and have no entry that is not committed.
    pub(crate) fn caught_up(&self) -> bool {
        let leader =
            self.raft_leader().and_then(|leader| self.server(leader)).map(|it| it.log().last().index);
        self.members().all(|node| {
            self.applied(node).map(|state| state.at.index) == leader && leader > Some(Index::ZERO)
        })
    }
}
