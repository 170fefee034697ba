//! A run: candidates on their hosts, their system, the nemesis at work on it all, and its history.
//!
//! ```text
//!  seed ─► Schedule ─► Stage ── each fault, at its time ──► processes, network, ground
//!                        │                                        │ what they write
//!                        └── what it did ──► History ◄────────────┘
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
    aim::{self, Aim, Hit},
    arena::{Arena, Blocked, Climate, Host},
    backend::Backend,
    cast::{Candidate, Kind, Paths},
    clocks::Pace,
    ground::{self, Ground, READY},
    history::{At, Event, History, What},
    log,
    nemesis::{Fault, Planned, Schedule},
    places::{self, Store},
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

    fn pace(&self, name: &str) -> Pace {
        let off = self.on().off_rate(name).filter(|_| self.drift);
        off.and_then(Pace::off).unwrap_or(Pace::True)
    }
}

pub(crate) struct Stage {
    plan: Plan,
    // Before the testbed: they end while their hosts exist.
    candidates: Vec<Candidate>,
    ground: Box<dyn Ground>,
    store: Store,
    arena: Arc<Mutex<Arena>>,
    paths: Paths,
    going_on: BTreeMap<usize, Hit>,
    events: Vec<Event>,
    blocked: Blocked,
    climate: Climate,
}

impl Stage {
    /// Starts all processes, and waits until all candidates are present.
    pub(crate) fn set(plan: Plan, paths: &Paths) -> Self {
        let on = plan.on();
        let arena = Arena::new(on.cast().len(), on.members(), plan.loopback);
        if plan.aloud {
            println!("{}", arena.describe());
        }
        let arena = Arc::new(Mutex::new(arena));
        let ground = ground::start(on, &arena, paths);
        let store = Store::serve(&paths.store());
        let cast = on.cast().iter().enumerate();
        let candidates =
            cast.map(|(place, (name, _))| Candidate::new(on, place, paths, plan.pace(name))).collect();
        let mut stage = Self {
            plan,
            candidates,
            ground,
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

    /// Number of running candidates that are not present.
    fn missing(&self) -> usize {
        let there = self.ground.sight().there;
        let stands = |candidate: &&Candidate| candidate.stands();
        let absent = |candidate: &&Candidate| !there.contains(&candidate.name);
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

    fn note(&mut self, what: What) {
        self.events.push(Event { at: At::now(), what });
    }

    fn begin(&mut self, number: usize, planned: Planned) {
        let sight = self.ground.sight();
        let aim = Aim { on: self.plan.on(), candidates: &self.candidates, sight: &sight };
        let hit = aim.resolve(planned.fault);
        let (kind, text) = (planned.fault.kind().to_owned(), aim.told(planned.fault, &hit));
        let whom = aim::whom(planned.fault).map(|whom| aim.place(whom));
        if self.plan.aloud {
            println!("{:8.3} s  {text}", planned.at.as_secs_f64());
        }
        self.note(What::Began { fault: number, kind, text });
        self.happen(planned.fault, &hit, whom);
        if planned.fault.is_a_moment() || matches!(hit, Hit::Nothing) {
            self.note(What::Over { fault: number });
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
            Some(Hit::GuardFrozen(place) | Hit::PairFrozen(place)) => self.candidates[place].thaw_guard(),
            Some(Hit::Killed(_) | Hit::PairKilled(_)) => self.start_candidates(),
            _ => {}
        }
        self.note(What::Over { fault: number });
    }

    /// Applies a momentary fault.
    fn happen(&mut self, fault: Fault, hit: &Hit, whom: Option<usize>) {
        match (fault, hit, whom) {
            (_, Hit::Killed(places), _) => places.iter().for_each(|place| self.candidates[*place].kill()),
            (_, Hit::Restarting(place), _) => self.candidates[*place].tell(),
            (_, Hit::PairKilled(place), _) => self.candidates[*place].kill_with_guard(),
            (_, Hit::GuardFrozen(place) | Hit::PairFrozen(place), _) => {
                self.candidates[*place].freeze_guard()
            }
            (_, Hit::GuardKilled(place), _) => self.candidates[*place].kill_guard(),
            (_, Hit::Nothing, whom) => {
                let name = whom.map_or("", |place| &self.candidates[place].name);
                self.ground.strike(fault, name);
            }
            _ => {}
        }
    }

    /// The candidates that must be dead.
    fn down(&self) -> BTreeSet<usize> {
        self.picked(|hit| match hit {
            Hit::Killed(places) => places.clone(),
            Hit::PairKilled(place) => vec![*place],
            _ => Vec::new(),
        })
    }

    /// Applies all active faults together to hosts and network.
    fn shape(&mut self) {
        self.freeze();
        let down = self.picked(|hit| match hit {
            Hit::MemberKilled(member) => vec![*member],
            _ => Vec::new(),
        });
        let arena = Arc::clone(&self.arena);
        let mut arena = arena.lock().unwrap_or_else(PoisonError::into_inner);
        self.ground.set_down(&down, &arena);
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

    /// Freezes the candidates that must be frozen at this moment, and no others.
    fn freeze(&mut self) {
        let (still, moving) = STUTTER;
        let phase = At::now().0 % (still + moving).as_nanos() as u64;
        let stutters = Duration::from_nanos(phase) < still;
        let frozen: BTreeSet<Host> = self.picked(|hit| match hit {
            Hit::Frozen(hosts) => hosts.clone(),
            Hit::PairFrozen(place) => vec![Host::Candidate(*place)],
            Hit::Stutter(host) if stutters => vec![*host],
            _ => Vec::new(),
        });
        for (place, candidate) in self.candidates.iter_mut().enumerate() {
            if frozen.contains(&Host::Candidate(place)) { candidate.freeze() } else { candidate.thaw() }
        }
        let members = frozen.into_iter().filter_map(|host| match host {
            Host::Member(member) => Some(member),
            Host::Candidate(_) => None,
        });
        self.ground.set_frozen(&members.collect());
    }

    fn picked<T: Ord>(&self, pick: impl Fn(&Hit) -> Vec<T>) -> BTreeSet<T> {
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
        self.note(What::Healed);
        let healed = At::now();
        let bound = self.plan.on().bounds().takeover;
        let enough = healed.plus(bound).plus(AFTERMATH);
        let looks = self.ground.sight().looks;
        let mut well = None;
        while At::now() < enough {
            self.tick();
            // Observations from before the end of the faults are out of date.
            let all_there = self.missing() == 0
                && self.candidates.iter().all(Candidate::stands)
                && self.ground.sight().looks > looks + 1;
            well = if all_there { well.or(Some(At::now())) } else { None };
            if well
                .is_some_and(|since| At::now().since(since) >= bound.min(self.plan.on().span() + AFTERMATH))
            {
                break;
            }
            thread::sleep(TICK);
        }
        self.ground.note_who_is_there();
        self.note(What::Closed);
        self.ground.note_writes();
    }

    /// Tells all candidates to stop, last one first, and collects their notes.
    fn finish(mut self) -> History {
        for candidate in &mut self.candidates {
            candidate.tell();
        }
        let deadline = At::now().plus(self.plan.on().bounds().stop).plus(AFTERMATH);
        while At::now() < deadline {
            let running = self.candidates.iter_mut().map(Candidate::reaped).filter(|gone| !gone).count();
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
        events.extend(self.ground.events());
        events.extend(self.store.events());
        events.extend(places::read_file(&self.paths.file()));
        events.extend(log::writes(&events));
        // Without the diaries, surviving commands end.
        for (name, kind) in self.plan.on().cast() {
            if *kind == Kind::Run {
                let diary = self.paths.diary(name);
                let _ = std::fs::rename(&diary, diary.with_extension("commands"));
            }
        }
        History::of(events)
    }
}
