//! A run: candidates on their hosts, their system, the nemesis at work on it all, and its history.
//!
//! ```text
//!  seed ─► Schedule ─► TestRun ── each fault, at its time ──► processes, network, system
//!                         │                                        │ notes
//!                         └── faults ──► History ◄─────────────────┘
//! ```
//!
//! Faults overlap. So a host's treatment follows from *all* active faults: it is frozen while one of them
//! freezes it, and runs when the last of those is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use super::{
    backend::Backend,
    candidates::{CandidateKind, CandidateProcess, Paths},
    clocks::ClockRate,
    history::{At, Event, EventKind, History},
    log,
    nemesis::{Fault, Planned, Schedule},
    places::{self, Store},
    system::{self, READY, System},
    targets::{self, Affected, Targets},
    testbed::{BadLinks, Blocked, Host, Testbed},
};

/// Interval between two steps.
const TICK: Duration = Duration::from_millis(5);

/// A stutter's times: frozen, and not.
const STUTTER: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(100));

/// Time of observation after all candidates are back.
const AFTERMATH: Duration = Duration::from_millis(500);

/// A run's settings.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) schedule: Schedule,
    pub(crate) trouble: Duration,
    pub(crate) loopback: bool,
    /// Gives the two programs on the library clocks with other rates.
    pub(crate) drift: bool,
    /// Prints each fault as it happens.
    pub(crate) aloud: bool,
}

impl Plan {
    pub(crate) fn of(on: Backend, seed: u64, trouble: Duration) -> Self {
        let schedule = Schedule::of(seed, trouble, on);
        // The clocks follow from the seed, too.
        Self { schedule, trouble, loopback: false, drift: !seed.is_multiple_of(3), aloud: false }
    }

    pub(crate) fn on(&self) -> Backend {
        self.schedule.on
    }

    fn pace(&self, name: &str) -> ClockRate {
        let off = self.on().off_rate(name).filter(|_| self.drift);
        off.and_then(ClockRate::off).unwrap_or(ClockRate::True)
    }
}

pub(crate) struct TestRun {
    plan: Plan,
    // Before the testbed: they end while their hosts exist.
    candidates: Vec<CandidateProcess>,
    system: Box<dyn System>,
    store: Store,
    testbed: Arc<Mutex<Testbed>>,
    paths: Paths,
    going_on: BTreeMap<usize, Affected>,
    events: Vec<Event>,
    blocked: Blocked,
    bad_links: BadLinks,
}

impl TestRun {
    /// Starts all processes, and waits until all candidates are present.
    pub(crate) fn set(plan: Plan, paths: &Paths) -> Self {
        let on = plan.on();
        let testbed = Testbed::new(on.candidates().len(), on.members(), plan.loopback);
        if plan.aloud {
            println!("{}", testbed.describe());
        }
        let testbed = Arc::new(Mutex::new(testbed));
        let system = system::start(on, &testbed, paths);
        let store = Store::serve(&paths.store());
        let candidates = on.candidates().iter().enumerate();
        let candidates = candidates
            .map(|(place, (name, _))| CandidateProcess::new(on, place, paths, plan.pace(name)))
            .collect();
        let mut test_run = Self {
            plan,
            candidates,
            system,
            store,
            testbed,
            paths: paths.clone(),
            going_on: BTreeMap::new(),
            events: Vec::new(),
            blocked: Blocked::new(),
            bad_links: BadLinks::new(),
        };
        test_run.start_candidates();
        let deadline = At::now().plus(READY);
        while test_run.missing() > 0 && At::now() < deadline {
            thread::sleep(TICK);
        }
        test_run
    }

    fn start_candidates(&mut self) {
        let down = self.down();
        let testbed = Arc::clone(&self.testbed);
        let testbed = testbed.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, candidate) in self.candidates.iter_mut().enumerate() {
            if !down.contains(&place) {
                candidate.start(&testbed);
            }
        }
    }

    /// Number of running candidates that are not present.
    fn missing(&self) -> usize {
        let there = self.system.sight().there;
        let stands = |candidate: &&CandidateProcess| candidate.stands();
        let absent = |candidate: &&CandidateProcess| !there.contains(&candidate.name);
        self.candidates.iter().filter(stands).filter(absent).count()
    }

    /// Carries out the schedule, waits until all candidates recover, stops everything, and returns the history.
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

    fn note(&mut self, what: EventKind) {
        self.events.push(Event { at: At::now(), what });
    }

    fn begin(&mut self, number: usize, planned: Planned) {
        let sight = self.system.sight();
        let targets = Targets { on: self.plan.on(), candidates: &self.candidates, sight: &sight };
        let hit = targets.resolve(planned.fault);
        let (kind, text) = (planned.fault.kind().to_owned(), targets.told(planned.fault, &hit));
        let whom = targets::whom(planned.fault).map(|whom| targets.place(whom));
        if self.plan.aloud {
            println!("{:8.3} s  {text}", planned.at.as_secs_f64());
        }
        self.note(EventKind::Began { fault: number, kind, text });
        self.happen(planned.fault, &hit, whom);
        if planned.fault.is_a_moment() || matches!(hit, Affected::Nothing) {
            self.note(EventKind::Over { fault: number });
        } else {
            self.going_on.insert(number, hit);
        }
        self.shape();
    }

    fn end(&mut self, number: usize) {
        // Before it is undone: everything later is recovery.
        let hit = self.going_on.remove(&number);
        self.shape();
        match hit {
            Some(Affected::GuardFrozen(place) | Affected::PairFrozen(place)) => {
                self.candidates[place].thaw_guard()
            }
            Some(Affected::Killed(_) | Affected::PairKilled(_)) => self.start_candidates(),
            _ => {}
        }
        self.note(EventKind::Over { fault: number });
    }

    /// Applies a momentary fault.
    fn happen(&mut self, fault: Fault, hit: &Affected, whom: Option<usize>) {
        match (fault, hit, whom) {
            (_, Affected::Killed(places), _) => {
                places.iter().for_each(|place| self.candidates[*place].kill())
            }
            (_, Affected::Restarting(place), _) => self.candidates[*place].tell(),
            (_, Affected::PairKilled(place), _) => self.candidates[*place].kill_with_guard(),
            (_, Affected::GuardFrozen(place) | Affected::PairFrozen(place), _) => {
                self.candidates[*place].freeze_guard()
            }
            (_, Affected::GuardKilled(place), _) => self.candidates[*place].kill_guard(),
            (_, Affected::Nothing, whom) => {
                let name = whom.map_or("", |place| &self.candidates[place].name);
                self.system.strike(fault, name);
            }
            _ => {}
        }
    }

    /// The candidates that must be dead.
    fn down(&self) -> BTreeSet<usize> {
        self.picked(|hit| match hit {
            Affected::Killed(places) => places.clone(),
            Affected::PairKilled(place) => vec![*place],
            _ => Vec::new(),
        })
    }

    /// Applies all active faults together to hosts and network.
    fn shape(&mut self) {
        self.freeze();
        let down = self.picked(|hit| match hit {
            Affected::MemberKilled(member) => vec![*member],
            _ => Vec::new(),
        });
        let testbed = Arc::clone(&self.testbed);
        let mut testbed = testbed.lock().unwrap_or_else(PoisonError::into_inner);
        self.system.set_down(&down, &testbed);
        let mut blocked = Blocked::new();
        let mut bad_links = BadLinks::new();
        for hit in self.going_on.values() {
            match hit {
                Affected::Blocked(pairs) => blocked.extend(pairs),
                Affected::BadLink(host, quality) => drop(bad_links.insert(*host, *quality)),
                _ => {}
            }
        }
        if blocked != self.blocked || bad_links != self.bad_links {
            testbed.shape(&blocked, &bad_links);
            (self.blocked, self.bad_links) = (blocked, bad_links);
        }
    }

    /// Freezes the candidates that must be frozen at this moment, and no others.
    fn freeze(&mut self) {
        let (still, moving) = STUTTER;
        let phase = At::now().0 % (still + moving).as_nanos() as u64;
        let stutters = Duration::from_nanos(phase) < still;
        let frozen: BTreeSet<Host> = self.picked(|hit| match hit {
            Affected::Frozen(hosts) => hosts.clone(),
            Affected::PairFrozen(place) => vec![Host::Candidate(*place)],
            Affected::Stutter(host) if stutters => vec![*host],
            _ => Vec::new(),
        });
        for (place, candidate) in self.candidates.iter_mut().enumerate() {
            if frozen.contains(&Host::Candidate(place)) { candidate.freeze() } else { candidate.thaw() }
        }
        let members = frozen.into_iter().filter_map(|host| match host {
            Host::Member(member) => Some(member),
            Host::Candidate(_) => None,
        });
        self.system.set_frozen(&members.collect());
    }

    fn picked<T: Ord>(&self, pick: impl Fn(&Affected) -> Vec<T>) -> BTreeSet<T> {
        self.going_on.values().flat_map(pick).collect()
    }

    /// Handles what happens between faults: stutters, exits, restarts.
    fn tick(&mut self) {
        self.freeze();
        for candidate in &mut self.candidates {
            candidate.reaped();
        }
        if self.candidates.iter().any(|candidate| !candidate.runs()) {
            self.start_candidates();
        }
    }

    /// After all faults: waits until there is a leader and all candidates are present, or until the bound.
    fn settle(&mut self) {
        self.note(EventKind::Healed);
        let healed = At::now();
        let bound = self.plan.on().bounds().takeover;
        let enough = healed.plus(bound).plus(AFTERMATH);
        let looks = self.system.sight().looks;
        let mut well = None;
        while At::now() < enough {
            self.tick();
            // Observations from before the end of the faults are out of date.
            let all_there = self.missing() == 0
                && self.candidates.iter().all(CandidateProcess::stands)
                && self.system.sight().looks > looks + 1;
            well = if all_there { well.or(Some(At::now())) } else { None };
            if well
                .is_some_and(|since| At::now().since(since) >= bound.min(self.plan.on().span() + AFTERMATH))
            {
                break;
            }
            thread::sleep(TICK);
        }
        self.system.note_who_is_there();
        self.note(EventKind::Closed);
        self.system.note_writes();
    }

    /// Tells all candidates to stop, last one first, and collects their notes.
    fn finish(mut self) -> History {
        for candidate in &mut self.candidates {
            candidate.tell();
        }
        let deadline = At::now().plus(self.plan.on().bounds().stop).plus(AFTERMATH);
        while At::now() < deadline {
            let running =
                self.candidates.iter_mut().map(CandidateProcess::reaped).filter(|gone| !gone).count();
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
        events.extend(self.system.events());
        events.extend(self.store.events());
        events.extend(places::read_file(&self.paths.file()));
        events.extend(log::writes(&events));
        // Without the diaries, surviving commands end.
        for (name, kind) in self.plan.on().candidates() {
            if *kind == CandidateKind::Run {
                let diary = self.paths.diary(name);
                let _ = std::fs::rename(&diary, diary.with_extension("commands"));
            }
        }
        History::of(events)
    }
}
