//! A run: candidates and members on their hosts, the nemesis at work on them, and the history of it all.
//!
//! ```text
//!  seed ─► Schedule ─► Stage ── each fault, at its time ──► processes, network, etcd
//!                        │                                        │ what they write
//!                        └── what it did ──► History ◄────────────┘
//! ```
//!
//! Faults overlap. So what is done to a host follows from *all* faults that go on: it is frozen while one of them
//! freezes it, and runs when the last of those is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use super::{
    arena::{Arena, Blocked, Climate, Host},
    cast::{CAST, Candidate, Kind, Member, Paths},
    checker::Bounds,
    clocks::Pace,
    hand::{Blow, Hand},
    history::{At, Event, History, What},
    nemesis::{self, Fault, Planned, Schedule, Site, Size, Whom},
    places::{self, Store},
};

pub(crate) const MEMBERS: usize = 3;

/// etcd's minimum, with its default election timeout, is 2 s.
pub(crate) const TTL: Duration = Duration::from_secs(3);

/// How often what goes on is looked at.
const TICK: Duration = Duration::from_millis(5);

/// A stutter: so long frozen, so long not.
const STUTTER: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(100));

/// For etcd's first election, on a machine under load.
const READY: Duration = Duration::from_secs(60);

/// How long all is looked at once everybody is back in the queue.
const AFTERMATH: Duration = Duration::from_millis(500);

/// How a run is to be.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) schedule: Schedule,
    pub(crate) trouble: Duration,
    pub(crate) loopback: bool,
    /// Whether the two programs on the library have clocks of other rates.
    pub(crate) drift: bool,
    /// Whether each fault is told as it comes.
    pub(crate) aloud: bool,
}

impl Plan {
    pub(crate) fn of(seed: u64, trouble: Duration) -> Self {
        let size = Size { candidates: CAST.len(), members: MEMBERS, ttl: TTL };
        let schedule = Schedule::of(seed, trouble, size);
        // Each seed has its clocks, too.
        Self { schedule, trouble, loopback: false, drift: !seed.is_multiple_of(3), aloud: false }
    }

    fn pace(&self, place: usize) -> Pace {
        let off = match CAST[place].0 {
            // A clock that is a tenth too slow believes longer: just what the margin covers.
            "l1" => 0.9,
            "l2" => 1.1,
            _ => return Pace::True,
        };
        if self.drift { Pace::off(off).unwrap_or(Pace::True) } else { Pace::True }
    }
}

/// A fault that goes on, with those whom it hits.
#[derive(Debug, Clone)]
enum Hit {
    Killed(usize),
    AllKilled,
    Frozen(usize),
    Restarting(usize),
    GuardFrozen(usize),
    Blocked(Blocked),
    Weather(Host, nemesis::Weather),
    MemberKilled(usize),
    MembersFrozen(Vec<usize>),
    Stutter(usize),
    Nothing,
}

pub(crate) struct Stage {
    plan: Plan,
    // Before the arena: they end while their hosts are there.
    candidates: Vec<Candidate>,
    members: Vec<Member>,
    hand: Hand,
    store: Store,
    arena: Arc<Mutex<Arena>>,
    paths: Paths,
    going_on: BTreeMap<usize, Hit>,
    events: Vec<Event>,
    blocked: Blocked,
    climate: Climate,
}

impl Stage {
    /// Starts everything, and waits until everybody is in the queue.
    pub(crate) fn set(plan: Plan, paths: &Paths) -> Self {
        let arena = Arena::new(CAST.len(), MEMBERS, plan.loopback);
        if plan.aloud {
            println!("{}", arena.describe());
        }
        let mut members: Vec<Member> =
            (0..MEMBERS).map(|place| Member::new(place, MEMBERS, &arena, paths)).collect();
        for member in &mut members {
            member.start(&arena);
        }
        let arena = Arc::new(Mutex::new(arena));
        let hand = Hand::of(Arc::clone(&arena), MEMBERS);
        assert!(hand.wait_for_etcd(READY), "etcd does not answer; see the logs in {}", paths.dir.display());
        let store = Store::serve(&paths.store());
        let candidates =
            (0..CAST.len()).map(|place| Candidate::new(place, TTL, paths, plan.pace(place))).collect();
        let mut stage = Self {
            plan,
            candidates,
            members,
            hand,
            store,
            arena,
            paths: paths.clone(),
            going_on: BTreeMap::new(),
            events: Vec::new(),
            blocked: Blocked::new(),
            climate: Climate::new(),
        };
        stage.start_candidates();
        let deadline = At::now().plus(READY);
        while stage.missing() > 0 && At::now() < deadline {
            thread::sleep(TICK);
        }
        stage
    }

    fn arena(&self) -> MutexGuard<'_, Arena> {
        self.arena.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_candidates(&mut self) {
        let down = self.down();
        let arena = Arc::clone(&self.arena);
        let arena = arena.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, candidate) in self.candidates.iter_mut().enumerate() {
            if !down.contains(&place) {
                candidate.start(&arena);
            }
        }
    }

    /// How many of those that run were not seen in the queue.
    fn missing(&self) -> usize {
        let queue = self.hand.sight().queue;
        let stands = |candidate: &&Candidate| candidate.stands();
        let absent = |candidate: &&Candidate| !queue.iter().any(|queued| queued.name == candidate.name);
        self.candidates.iter().filter(stands).filter(absent).count()
    }

    /// Carries the schedule out, waits for everybody to recover, stops everything, and tells what happened.
    pub(crate) fn play(mut self) -> History {
        let start = At::now();
        let faults = self.plan.schedule.faults.clone();
        let mut next = 0;
        while start.plus(self.plan.trouble) > At::now() {
            let now = At::now().since(start);
            let over: Vec<usize> =
                self.going_on.keys().copied().filter(|fault| faults[*fault].over() <= now).collect();
            for fault in over {
                self.end(fault);
            }
            while let Some(planned) = faults.get(next).filter(|planned| planned.at <= now) {
                self.begin(next, *planned);
                next += 1;
            }
            self.tick();
            thread::sleep(TICK);
        }
        let left: Vec<usize> = self.going_on.keys().copied().collect();
        for fault in left {
            self.end(fault);
        }
        self.settle();
        self.finish()
    }

    fn note(&mut self, what: What) {
        self.events.push(Event { at: At::now(), what });
    }

    fn begin(&mut self, number: usize, planned: Planned) {
        let hit = self.resolve(planned.fault);
        let (kind, text) = (planned.fault.kind().to_owned(), self.told(planned.fault, &hit));
        if self.plan.aloud {
            println!("{:8.3} s  {text}", planned.at.as_secs_f64());
        }
        self.note(What::Began { fault: number, kind, text });
        self.happen(planned.fault, &hit);
        if planned.fault.is_a_moment() || matches!(hit, Hit::Nothing) {
            self.note(What::Over { fault: number });
        } else {
            self.going_on.insert(number, hit);
        }
        self.shape();
    }

    fn end(&mut self, number: usize) {
        // Before it is undone: what follows from here on is recovery.
        let hit = self.going_on.remove(&number);
        self.shape();
        match hit {
            Some(Hit::GuardFrozen(place)) => self.candidates[place].thaw_guard(),
            Some(Hit::Killed(_) | Hit::AllKilled) => self.start_candidates(),
            _ => {}
        }
        self.note(What::Over { fault: number });
    }

    /// Who is hit, by name.
    fn told(&self, fault: Fault, hit: &Hit) -> String {
        let name = |place: &usize| self.candidates[*place].name.as_str();
        match hit {
            Hit::Killed(place) | Hit::Frozen(place) | Hit::Restarting(place) | Hit::GuardFrozen(place) => {
                format!("{fault} ({})", name(place))
            }
            Hit::MemberKilled(member) | Hit::Stutter(member) => format!("{fault} (m{member})"),
            Hit::MembersFrozen(members) => format!("{fault} ({members:?})"),
            Hit::Weather(host, _) => format!("{fault} ({host:?})"),
            Hit::Blocked(_) => {
                let hosts: Vec<_> = self.sites(fault).map(|site| self.host_name(self.host(site))).collect();
                format!("{fault} ({})", hosts.join(", "))
            }
            Hit::AllKilled => fault.to_string(),
            Hit::Nothing => match self.whom(fault) {
                Some(place) => format!("{fault} ({})", name(&place)),
                None => fault.to_string(),
            },
        }
    }

    fn sites(&self, fault: Fault) -> impl Iterator<Item = Site> {
        let (one, other) = match fault {
            Fault::CutOff(site) | Fault::Mute(site) | Fault::Deaf(site) => (Some(site), None),
            Fault::OneWay(from, to) | Fault::Apart(from, to) => (Some(from), Some(to)),
            _ => (None, None),
        };
        one.into_iter().chain(other)
    }

    fn host_name(&self, host: Host) -> String {
        match host {
            Host::Candidate(place) => self.candidates[place].name.clone(),
            Host::Member(place) => format!("m{place}"),
        }
    }

    fn whom(&self, fault: Fault) -> Option<usize> {
        match fault {
            Fault::KillGuard(whom) | Fault::Revoke(whom) | Fault::Delete(whom) => Some(self.place(whom)),
            _ => None,
        }
    }

    /// The candidate that this is by now.
    fn place(&self, whom: Whom) -> usize {
        let at = |index: usize| {
            let queue = self.hand.sight().queue;
            let name = queue.get(index).map(|queued| queued.name.clone());
            self.candidates.iter().position(|candidate| Some(&candidate.name) == name.as_ref())
        };
        match whom {
            Whom::Leader => at(0).unwrap_or(0),
            Whom::Next => at(1).unwrap_or(1),
            Whom::One(place) => place,
        }
    }

    fn member(&self, member: nemesis::Member) -> usize {
        match member {
            nemesis::Member::Leading => self.hand.sight().leading_member.unwrap_or(0),
            nemesis::Member::One(place) => place,
        }
    }

    fn host(&self, site: Site) -> Host {
        match site {
            Site::Of(whom) => Host::Candidate(self.place(whom)),
            Site::Etcd(member) => Host::Member(self.member(member)),
        }
    }

    fn resolve(&self, fault: Fault) -> Hit {
        let others = |host: Host| self.hosts().into_iter().filter(move |other| *other != host);
        match fault {
            Fault::Kill(whom) => match self.place(whom) {
                // Nobody is there to end what it leaves.
                place if self.guard_is_hit(place) => Hit::Nothing,
                place => Hit::Killed(place),
            },
            Fault::Freeze(whom) => match self.place(whom) {
                place if self.guard_is_hit(place) => Hit::Nothing,
                place => Hit::Frozen(place),
            },
            Fault::Restart(whom) => Hit::Restarting(self.place(whom)),
            Fault::FreezeGuard(whom) => match self.place(whom) {
                place if self.candidates[place].may_lose_one() => Hit::GuardFrozen(place),
                _ => Hit::Nothing,
            },
            Fault::KillAll if self.going_on.values().any(|hit| matches!(hit, Hit::GuardFrozen(_))) => {
                Hit::Nothing
            }
            Fault::KillAll => Hit::AllKilled,
            Fault::CutOff(site) => {
                let host = self.host(site);
                Hit::Blocked(others(host).flat_map(|other| [(host, other), (other, host)]).collect())
            }
            Fault::Mute(site) => {
                let host = self.host(site);
                Hit::Blocked(others(host).map(|other| (host, other)).collect())
            }
            Fault::Deaf(site) => {
                let host = self.host(site);
                Hit::Blocked(others(host).map(|other| (other, host)).collect())
            }
            Fault::OneWay(from, to) => Hit::Blocked([(self.host(from), self.host(to))].into()),
            Fault::Apart(one, other) => {
                let (one, other) = (self.host(one), self.host(other));
                Hit::Blocked([(one, other), (other, one)].into())
            }
            Fault::Weather(site, weather) => Hit::Weather(self.host(site), weather),
            Fault::KillMember(member) => Hit::MemberKilled(self.member(member)),
            Fault::FreezeMember(member) => Hit::MembersFrozen(vec![self.member(member)]),
            Fault::FreezeEtcd => Hit::MembersFrozen((0..MEMBERS).collect()),
            Fault::Stutter(member) => Hit::Stutter(self.member(member)),
            Fault::KillGuard(_)
            | Fault::MoveLeader
            | Fault::Revoke(_)
            | Fault::Delete(_)
            | Fault::Compact => Hit::Nothing,
        }
    }

    fn guard_is_hit(&self, place: usize) -> bool {
        self.going_on.values().any(|hit| matches!(hit, Hit::GuardFrozen(other) if *other == place))
    }

    fn hosts(&self) -> Vec<Host> {
        (0..CAST.len()).map(Host::Candidate).chain((0..MEMBERS).map(Host::Member)).collect()
    }

    /// Does what is done once.
    fn happen(&mut self, fault: Fault, hit: &Hit) {
        match (fault, hit) {
            (_, Hit::Killed(place)) => self.candidates[*place].kill(),
            (_, Hit::AllKilled) => self.candidates.iter_mut().for_each(Candidate::kill),
            (_, Hit::Restarting(place)) => self.candidates[*place].tell(),
            (_, Hit::GuardFrozen(place)) => self.candidates[*place].freeze_guard(),
            (_, Hit::MemberKilled(member)) => self.members[*member].kill(),
            (Fault::KillGuard(whom), _) => {
                let place = self.place(whom);
                if self.candidates[place].may_lose_one() {
                    self.candidates[place].kill_guard();
                }
            }
            (Fault::Revoke(whom), _) => {
                self.hand.depose(&self.candidates[self.place(whom)].name, Blow::Revoke)
            }
            (Fault::Delete(whom), _) => {
                self.hand.depose(&self.candidates[self.place(whom)].name, Blow::Delete)
            }
            (Fault::MoveLeader, _) => self.hand.move_leader(),
            (Fault::Compact, _) => self.hand.compact(),
            _ => {}
        }
    }

    /// The candidates that are to be dead.
    fn down(&self) -> BTreeSet<usize> {
        let hit = self.going_on.values();
        hit.flat_map(|hit| match hit {
            Hit::Killed(place) => vec![*place],
            Hit::AllKilled => (0..CAST.len()).collect(),
            _ => Vec::new(),
        })
        .collect()
    }

    /// Makes hosts and network as all faults together want them.
    fn shape(&mut self) {
        let frozen: BTreeSet<usize> = self.picked(|hit| match hit {
            Hit::Frozen(place) => vec![*place],
            _ => Vec::new(),
        });
        for (place, candidate) in self.candidates.iter_mut().enumerate() {
            if frozen.contains(&place) { candidate.freeze() } else { candidate.thaw() }
        }
        let down: BTreeSet<usize> = self.picked(|hit| match hit {
            Hit::MemberKilled(member) => vec![*member],
            _ => Vec::new(),
        });
        let still: BTreeSet<usize> = self.picked(|hit| match hit {
            Hit::MembersFrozen(members) => members.clone(),
            _ => Vec::new(),
        });
        let stutters: BTreeSet<usize> = self.picked(|hit| match hit {
            Hit::Stutter(member) => vec![*member],
            _ => Vec::new(),
        });
        let arena = Arc::clone(&self.arena);
        let mut arena = arena.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, member) in self.members.iter_mut().enumerate() {
            if !down.contains(&place) {
                member.start(&arena);
            }
            if !stutters.contains(&place) || still.contains(&place) {
                member.set_frozen(still.contains(&place));
            }
        }
        let mut blocked = Blocked::new();
        let mut climate = Climate::new();
        for hit in self.going_on.values() {
            match hit {
                Hit::Blocked(pairs) => blocked.extend(pairs),
                Hit::Weather(host, weather) => drop(climate.insert(*host, *weather)),
                _ => {}
            }
        }
        if blocked != self.blocked || climate != self.climate {
            arena.shape(&blocked, &climate);
            (self.blocked, self.climate) = (blocked, climate);
        }
    }

    fn picked(&self, pick: impl Fn(&Hit) -> Vec<usize>) -> BTreeSet<usize> {
        self.going_on.values().flat_map(pick).collect()
    }

    /// What happens between faults: stutters, exits, those that stopped and start anew.
    fn tick(&mut self) {
        let (still, moving) = STUTTER;
        let phase = At::now().0 % (still + moving).as_nanos() as u64;
        let frozen = Duration::from_nanos(phase) < still;
        let all_still = self.picked(|hit| match hit {
            Hit::MembersFrozen(members) => members.clone(),
            _ => Vec::new(),
        });
        for hit in self.going_on.values() {
            if let Hit::Stutter(member) = hit
                && !all_still.contains(member)
            {
                self.members[*member].set_frozen(frozen);
            }
        }
        for candidate in &mut self.candidates {
            candidate.reaped();
        }
        if self.candidates.iter().any(|candidate| !candidate.runs()) {
            self.start_candidates();
        }
    }

    /// All faults are over: waits until there is a leader and everybody is in the queue, or until the bound.
    fn settle(&mut self) {
        self.note(What::Healed);
        let healed = At::now();
        let bound = Bounds::on_etcd(TTL).takeover;
        let enough = healed.plus(bound).plus(AFTERMATH);
        let looks = self.hand.sight().looks;
        let mut well = None;
        while At::now() < enough {
            self.tick();
            // What was seen before the end of trouble says nothing.
            let all_there = self.missing() == 0
                && self.candidates.iter().all(Candidate::stands)
                && self.hand.sight().looks > looks + 1;
            well = if all_there { well.or(Some(At::now())) } else { None };
            if well.is_some_and(|since| At::now().since(since) >= bound.min(TTL + AFTERMATH)) {
                break;
            }
            thread::sleep(TICK);
        }
        self.hand.note_queue();
        self.note(What::Closed);
        self.hand.note_writes();
    }

    /// Tells everybody to stop, last one first, and collects what they wrote.
    fn finish(mut self) -> History {
        for candidate in &mut self.candidates {
            candidate.tell();
        }
        let deadline = At::now().plus(Bounds::on_etcd(TTL).stop).plus(AFTERMATH);
        while At::now() < deadline {
            let running = self
                .candidates
                .iter_mut()
                .filter_map(|candidate| (!candidate.reaped()).then_some(()))
                .count();
            if running == 0 {
                break;
            }
            thread::sleep(TICK);
        }
        let mut events = std::mem::take(&mut self.events);
        for candidate in &mut self.candidates {
            events.extend(candidate.events());
            candidate.kill();
        }
        events.extend(self.hand.events());
        events.extend(self.store.events());
        events.extend(places::read_file(&self.paths.file()));
        // The diaries' end tells commands that are left that it is over.
        for (name, kind) in CAST {
            if kind == Kind::Run {
                let diary = self.paths.diary(name);
                let _ = std::fs::rename(&diary, diary.with_extension("commands"));
            }
        }
        drop(self.arena());
        History::of(events)
    }
}
