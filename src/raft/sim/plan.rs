//! The plan of a seed: a group, its clocks and network, and its faults with their times.
//!
//! All is decided before the run, so that a failing run can be shortened by leaving faults out.

use std::{fmt, time::Duration};

use super::{
    clock::{Clock, TrueTime},
    network::{Bad, BadWay, Weather},
};
use crate::{
    choosing::Priority,
    raft::{
        identity::{Members, NodeId},
        message::Limits,
        mutant::Mutant,
        preference::MoveDelays,
        timing::Timing,
    },
};

/// The longest time with faults.
const TROUBLE: Duration = Duration::from_secs(8);

/// The plan of a seed.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) timing: Timing,
    pub(crate) limits: Limits,
    pub(crate) clocks: Vec<Clock>,
    pub(crate) weather: Weather,
    /// Links that are worse.
    pub(crate) lopsided: Option<Lopsided>,
    /// Durations of an fsync.
    pub(crate) fsync: (Duration, Duration),
    /// Factors of slow disks, by server; 1 if not listed.
    pub(crate) slow: Vec<u32>,
    /// The greatest delay of a timer: a loaded machine.
    pub(crate) late: Duration,
    /// Number of applied entries after which a server compacts its log.
    pub(crate) compact_after: usize,
    /// The interval between proposals.
    pub(crate) propose_every: Duration,
    pub(crate) faults: Vec<(TrueTime, Fault)>,
    /// The time when all faults end.
    pub(crate) heal_at: TrueTime,
    /// Priorities, by server; the usual one if not listed.
    pub(crate) priorities: Vec<Priority>,
    /// Time before leadership moves by priority.
    pub(crate) moves: MoveDelays,
    /// True if disks are lost or put back.
    pub(crate) disks: bool,
    /// The server whose disk is replaced.
    pub(crate) replaced: Option<NodeId>,
    /// True if servers have yet to meet at the start.
    pub(crate) strangers: bool,
    pub(crate) mutant: Option<Mutant>,
}

/// A network of which only a part is good: a majority, whose members all reach each other.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lopsided {
    pub(crate) ways: Vec<BadWay>,
    /// The longest within that majority.
    round_trip: Duration,
    /// True if a leader elected by means of a bad link can't stay: others lose its messages, or get them late.
    fickle: bool,
}

/// The target of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    Server(NodeId),
    /// The leader of the highest term at that moment, if any.
    Leader,
    /// Of the other servers, the one at this index.
    Other(u8),
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// The process is killed; writes that were not durable are lost, or some of them.
    Crash(Whom),
    Start(NodeId),
    /// Killed, and started again after that long.
    Bounce(Whom, Duration),
    /// Frozen for that long (SIGSTOP, suspend, a hypervisor).
    Freeze(Whom, Duration),
    /// No messages to it or from it.
    CutOff(Whom),
    /// No messages from the first to the second.
    OneWay(Whom, Whom),
    /// No messages from it, all to it; or the other way round.
    Deaf(Whom),
    Mute(Whom),
    /// Only these hear each other, and only the others.
    Split(u8),
    Mend,
    Weather(Weather),
    /// An fsync takes this many times as long.
    SlowDisk(NodeId, u32),
    /// Every message to it takes that much longer.
    Lag(Whom, Duration),
    /// Killed, and its disk lost; started on a new one after that long.
    Wipe(Whom, Duration),
    /// Killed, and started on its other disk after that long.
    OtherDisk(Whom, Duration),
    /// An operator replaces the disk that counts by the one that it runs on.
    Replace(Whom),
    /// A copy of its disk is made.
    BackUp(Whom),
    /// Killed, and its disk put back to the copy; started after that long.
    PutBack(Whom, Duration),
    /// A second machine runs the same member after that long, on the latest copy.
    Copy(Whom, Duration),
    /// Of all others, these hear only the copy, and the rest only the original.
    Sides(Whom, u8),
    /// Begins a term without a pre-vote, if it has not heard a leader for long enough.
    Campaign(Whom),
    /// An orderly end of leadership.
    Resign(Whom),
    /// The first is told to hand over to the second.
    Transfer(Whom, Whom),
    /// The leader is told to cordon it.
    Cordon(Whom, bool),
    Uncordon(Whom),
    /// The leader is told to pause, or to resume.
    Pause(bool),
    /// It takes no part in elections any more: its work's check fails.
    Withdraw(Whom),
    /// It takes part in elections again.
    Stand(Whom),
    /// The next leader is cut off after a while, and killed after another.
    Doom {
        mute: Duration,
        killed: Duration,
    },
    /// All are killed at once.
    PowerCut,
    StartAll,
}

impl Plan {
    /// The plan of `seed`.
    pub(crate) fn of(seed: u64) -> Self {
        Self::drawn(seed, false)
    }

    /// The plan of `seed`, as a run in which leaders come and go; one in sixteen is one anyway.
    pub(crate) fn of_short_reigns(seed: u64) -> Self {
        Self::drawn(seed, true)
    }

    /// The plan of `seed`, as a run in which leaders are deposed while their claims have time left.
    pub(crate) fn of_depositions(seed: u64) -> Self {
        let plan = Self::drawn(seed, false);
        let mut rng = fastrand::Rng::with_seed(!seed);
        Self { faults: depositions(&mut rng, plan.heal_at), ..plan }
    }

    /// The plan of `seed`, as a new group that loses disks; never that of the last server.
    pub(crate) fn of_lost_disks(seed: u64) -> Self {
        let plan = Self::drawn(seed, false);
        let servers = plan.clocks.len() as u8;
        let mut rng = fastrand::Rng::with_seed(!seed);
        let (disks, strangers) = (true, rng.bool());
        Self { faults: lost_disks(&mut rng, servers, plan.heal_at), disks, strangers, ..plan }
    }

    /// The plan of `seed`, as a run in which disks are put back to older copies.
    pub(crate) fn of_old_disks(seed: u64) -> Self {
        let plan = Self::drawn(seed, false);
        let mut rng = fastrand::Rng::with_seed(!seed);
        Self { faults: old_disks(&mut rng, plan.heal_at), disks: true, ..plan }
    }

    /// The plan of `seed`, as a run in which a copy of a server's disk is started beside it, with which all others
    /// are and stay connected.
    pub(crate) fn of_copied_disks(seed: u64) -> Self {
        Self::with_a_copy(seed, beside_the_original)
    }

    /// The plan of `seed`, as a run in which a copy of a server's disk is started while others do not hear the
    /// server itself.
    pub(crate) fn of_copies_apart(seed: u64) -> Self {
        Self::with_a_copy(seed, apart_from_the_original)
    }

    fn with_a_copy(seed: u64, faults: fn(&mut fastrand::Rng, NodeId, u8) -> Vec<(TrueTime, Fault)>) -> Self {
        let mut rng = fastrand::Rng::with_seed(!seed);
        let plan = (seed * 16..).map(|seed| Self::drawn(seed, false)).find(|plan| plan.clocks.len() > 1);
        let plan = Self { seed, ..plan.expect("most groups have more than one") };
        let servers = plan.clocks.len() as u8;
        let copied = NodeId::new(rng.u8(0..servers));
        let faults = faults(&mut rng, copied, servers);
        let heal_at = faults.last().map_or(plan.heal_at, |(at, _)| at.plus(Duration::from_millis(100)));
        Self { faults, heal_at, disks: true, ..plan }
    }

    /// The plan of `seed`, as a run in which the disk of one server is lost, comes back, and is replaced.
    pub(crate) fn of_replaced_disks(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(!seed);
        let plan = (seed * 16..).map(|seed| Self::drawn(seed, false)).find(|plan| plan.clocks.len() > 2);
        let plan = Self { seed, ..plan.expect("most groups have more than two") };
        let whom = NodeId::new(rng.u8(0..plan.clocks.len() as u8));
        let faults = replaced_disks(&mut rng, whom, plan.heal_at);
        Self { faults, disks: true, replaced: Some(whom), ..plan }
    }

    fn drawn(seed: u64, short_reigns: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let servers = [3, 3, 3, 3, 5, 5, 5, 2, 4, 7, 1][rng.usize(0..11)];
        let clock = |rng: &mut fastrand::Rng| Clock {
            start: rng.u64(5_000_000_000..500_000_000_000),
            per_mille: rng.u64(950..=1050),
        };
        let clocks: Vec<Clock> = (0..servers).map(|_| clock(&mut rng)).collect();
        let short_reigns = rng.u8(0..16) == 0 || short_reigns;
        let trouble = TROUBLE.as_nanos() as u64 / if short_reigns { 1 } else { rng.u64(1..5) };
        let heal_at = TrueTime(rng.u64(trouble / 2..trouble));
        let faults =
            if short_reigns { figure_8(&mut rng, heal_at) } else { faults(&mut rng, servers as u8, heal_at) };
        let limits = limits(&mut rng);
        let plan = Self {
            seed,
            timing: Timing::DEFAULT,
            limits: if short_reigns { Limits { entries: 1, ..limits } } else { limits },
            clocks,
            weather: weather(&mut rng),
            lopsided: None,
            fsync: [(100, 400), (1_000, 8_000), (2_000, 40_000)].map(range)[rng.usize(0..3)],
            late: Duration::from_millis([0, 2, 15][rng.usize(0..3)]),
            compact_after: [5, 20, 1000][rng.usize(0..3)],
            propose_every: Duration::from_millis([10, 40, 200][rng.usize(0..3)]),
            faults,
            heal_at,
            disks: false,
            replaced: None,
            strangers: false,
            mutant: None,
            slow: Vec::new(),
            priorities: Vec::new(),
            moves: MoveDelays::DEFAULT,
        };
        match rng.u8(0..8) {
            0 => plan.far_apart(&mut rng),
            1 => plan.on_slow_disks(&mut rng),
            2 => plan.with_few_candidates(&mut rng),
            3 => plan.lopsided(&mut rng),
            _ => plan,
        }
    }

    /// The plan of `seed`, with servers that are far apart; one in eight is one anyway.
    pub(crate) fn of_far_apart(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0xFA5);
        Self::of(seed).far_apart(&mut rng)
    }

    /// The plan of `seed`, on disks that are slow, and some slower; one in eight is one anyway.
    pub(crate) fn of_slow_disks(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0xD15C);
        Self::of(seed).on_slow_disks(&mut rng)
    }

    /// The plan of `seed`, with servers that take no part in elections; one in eight is one anyway.
    pub(crate) fn of_few_candidates(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x1D1E);
        Self::of(seed).with_few_candidates(&mut rng)
    }

    /// The plan of `seed`, with operators' orders beside its faults, and candidates of several priorities. One server
    /// at least may always lead.
    pub(crate) fn of_orders(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x0DE5);
        let mut plan = Self { lopsided: None, ..Self::of(seed) };
        let servers = plan.clocks.len() as u8;
        plan.faults.retain(|(_, fault)| !matches!(fault, Fault::Withdraw(_)));
        plan.faults.extend(orders(&mut rng, servers, plan.heal_at));
        plan.faults.sort_by_key(|(at, _)| *at);
        let millis = |rng: &mut fastrand::Rng| Duration::from_millis(rng.u64(0..3_000));
        plan.moves = MoveDelays { min_tenure: millis(&mut rng), standing: millis(&mut rng) };
        plan.priorities =
            (0..servers).map(|_| Priority::new([0, 50, 100, 100, 200][rng.usize(0..5)])).collect();
        plan
    }

    /// Returns true if leaders may hand over after all faults: to a preferred server.
    fn has_preferences(&self) -> bool {
        !self.priorities.is_empty() || self.faults.iter().any(|(_, fault)| matches!(fault, Fault::Cordon(..)))
    }

    /// The same faults, but in the end most servers take no part, and one that does may lack entries.
    fn with_few_candidates(mut self, rng: &mut fastrand::Rng) -> Self {
        let servers = self.clocks.len() as u8;
        // The candidates might not be in the majority that a lopsided network leaves.
        self.lopsided = None;
        let (before, until) = (self.heal_at, self.heal_at.plus(Duration::from_secs(2)));
        self.faults.extend(withdrawals(rng, servers, before, until));
        self.heal_at = until;
        self
    }

    /// Returns true if some servers take no part in the end.
    fn has_few_candidates(&self) -> bool {
        self.faults.iter().any(|(_, fault)| matches!(fault, Fault::Withdraw(_)))
    }

    /// The plan of `seed`, in a lopsided network; one in eight is one anyway.
    pub(crate) fn of_lopsided(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x10B);
        Self::of(seed).lopsided(&mut rng)
    }

    /// The same faults, but a majority's members reach each other, though some links among them are slow; any other
    /// link may be cut, lossy or much slower, in one direction or both, with a timing that suits the majority.
    fn lopsided(mut self, rng: &mut fastrand::Rng) -> Self {
        // The candidates might not be in that majority, whatever its disks.
        self.slow = Vec::new();
        self.faults.retain(|(_, fault)| !matches!(fault, Fault::Withdraw(_)));
        let servers = self.clocks.len();
        let mut order: Vec<_> = (0..servers as u8).map(NodeId::new).collect();
        rng.shuffle(&mut order);
        let core = &order[..Members::of(servers).map_or(servers, |members| members.majority())];
        let most = Duration::from_micros(rng.u64(300..25_000));
        let delay = (most / 2, most);
        let (mut ways, mut times, mut fickle) = (Vec::new(), 1, false);
        for from in &order {
            for to in order.iter().filter(|to| *to != from) {
                let inside = core.contains(from) && core.contains(to);
                let how = match rng.u8(0..8) {
                    0..=1 if inside => Bad::Slow(rng.u32(2..4)),
                    _ if inside => continue,
                    0..=2 => Bad::Cut,
                    3 => Bad::Lossy(rng.u32(100..1000)),
                    4 => Bad::Slow(rng.u32(2..20)),
                    _ => continue,
                };
                if let Bad::Slow(slower) = how
                    && inside
                {
                    times = times.max(slower);
                }
                fickle |= !inside && how != Bad::Cut;
                ways.push(BadWay { from: *from, to: *to, how });
            }
        }
        let round_trip = most * 2 * times;
        let heartbeat = Duration::from_millis(rng.u64(5..60));
        let timing = serving(rng, round_trip, heartbeat, SYNC);
        let (weather, late) = (Weather { delay, ..self.weather }, Duration::ZERO);
        let lopsided = Some(Lopsided { ways, round_trip, fickle });
        // A candidate asks all others at once. With room for fewer, those of the majority may be left out each
        // time.
        let limits = Limits { held: self.limits.held.max(servers), ..self.limits };
        Self { weather, lopsided, limits, timing, fsync: (SYNC / 4, SYNC), late, ..self }
    }

    /// The longest round trip of the links that must work.
    fn round_trip(&self) -> Duration {
        self.lopsided.as_ref().map_or(self.weather.round_trip(), |lopsided| lopsided.round_trip)
    }

    /// Returns true if a leader elected after the faults stays.
    pub(crate) fn keeps_its_leader(&self) -> bool {
        let fickle = self.lopsided.as_ref().is_some_and(|lopsided| lopsided.fickle);
        self.weather.is_reliable() && !fickle && !self.has_preferences()
    }

    /// The same faults with round trips of 10 to 300 ms, and a timing that just suits them, or more.
    fn far_apart(self, rng: &mut fastrand::Rng) -> Self {
        let round_trip = Duration::from_micros(rng.u64(10_000..300_000));
        let most = round_trip / 2;
        let delay = (most * rng.u32(60..100) / 100, most);
        // A heartbeat is as short as permitted, or as long.
        let heartbeat = match rng.u8(0..3) {
            0 => Duration::from_millis(rng.u64(5..50)),
            1 => Duration::from_millis(50),
            _ => round_trip * rng.u32(20..150) / 100,
        };
        let weather = Weather { delay, ..self.weather };
        let timing = serving(rng, round_trip, heartbeat, SYNC);
        let (lopsided, slow) = (None, Vec::new());
        Self { weather, lopsided, timing, fsync: (SYNC / 4, SYNC), slow, late: Duration::ZERO, ..self }
    }

    /// The same faults, but a sync takes up to just under a quarter of the shortest timeout; on some of the disks.
    fn on_slow_disks(self, rng: &mut fastrand::Rng) -> Self {
        let sync = Duration::from_micros(rng.u64(5_000..300_000));
        let times = rng.u32(1..20);
        let slow = (0..self.clocks.len()).map(|_| if rng.bool() { times } else { 1 }).collect();
        let heartbeat = Duration::from_millis(rng.u64(10..60));
        let (weather, late) = (Weather { delay: range((200, 900)), ..self.weather }, Duration::ZERO);
        let timing = serving(rng, weather.round_trip(), heartbeat, sync);
        Self { fsync: (sync / times / 2, sync / times), slow, weather, lopsided: None, timing, late, ..self }
    }

    /// The priority of that server's candidate.
    pub(crate) fn priority(&self, node: NodeId) -> Priority {
        self.priorities.get(node.place()).copied().unwrap_or_default()
    }

    /// The factor of that disk's duration.
    pub(crate) fn slow(&self, node: NodeId) -> u32 {
        self.slow.get(node.place()).copied().unwrap_or(1)
    }

    /// The longest sync, also on a disk that is slow for a while.
    pub(crate) fn slowest_sync(&self) -> Duration {
        self.fsync.1 * self.slow.iter().max().copied().unwrap_or(1).max(SLOWEST_DISK)
    }

    /// Time limit for a leader once faults have ended; `None` if the timing does not suit this network and these
    /// disks, so that a leader may come, but need not.
    pub(crate) fn elects_within(&self) -> Option<Duration> {
        let slow = self.slow.iter().max().copied().unwrap_or(1);
        let (sync, round_trip) = (self.fsync.1 * slow, self.round_trip() + self.late * 2);
        let shortest = self.timing.shortest() * 19 / 20; // By the fastest clock.
        let serves = shortest >= round_trip * 3 + self.timing.heartbeat() && shortest >= sync * 4;
        // A candidate with a slow or lossy link may ask for votes in vain, and more than once.
        let attempts = if self.keeps_its_leader() { 4 } else { 16 };
        // A caretaker waits, or rests; then it is elected, and only then a candidate.
        let waits = self.has_few_candidates() || self.has_preferences();
        let attempts = if waits { 2 * attempts + 6 } else { attempts };
        serves.then(|| self.timing.longest() * attempts * 21 / 20)
    }

    /// Time limit for copying that many entries from one disk to the other, if none is lost; five times that, if
    /// some are.
    pub(crate) fn copies_within(&self, entries: usize) -> Duration {
        let slow = self.slow.iter().max().copied().unwrap_or(1);
        let at_once = self.limits.entries.min(self.limits.in_flight);
        let rounds = entries.div_ceil(at_once) as u32 * if self.weather.is_reliable() { 1 } else { 5 };
        (self.fsync.1 * slow + self.round_trip()) * rounds
    }

    /// A group without spontaneous faults.
    pub(crate) fn fair(servers: usize, seed: u64) -> Self {
        Self {
            seed,
            timing: Timing::DEFAULT,
            limits: Limits::DEFAULT,
            clocks: vec![Clock::RIGHT; servers],
            weather: Weather::FAIR,
            lopsided: None,
            fsync: range((500, 1_500)),
            late: Duration::ZERO,
            compact_after: 1000,
            propose_every: Duration::MAX,
            faults: Vec::new(),
            heal_at: TrueTime(0),
            disks: false,
            replaced: None,
            strangers: false,
            mutant: None,
            slow: Vec::new(),
            priorities: Vec::new(),
            moves: MoveDelays::DEFAULT,
        }
    }
}

/// The largest factor of a disk that is slow for a while.
const SLOWEST_DISK: u32 = 50;

/// The longest sync of a good disk.
const SYNC: Duration = Duration::from_millis(5);

/// A timing that suits this round trip and these disks: just, or by up to twice as much.
fn serving(rng: &mut fastrand::Rng, round_trip: Duration, heartbeat: Duration, sync: Duration) -> Timing {
    let least = (round_trip * 3 + heartbeat).max(heartbeat * 3).max(sync * 4) * 107 / 100;
    let shortest = least * rng.u32(100..200) / 100;
    let longest = shortest * rng.u32(121..200) / 100;
    Timing::new(heartbeat, shortest, longest).expect("a heartbeat that fits in")
}

fn range((least, most): (u64, u64)) -> (Duration, Duration) {
    (Duration::from_micros(least), Duration::from_micros(most))
}

/// Small ones more often than not, so that bounds are reached within seconds.
fn limits(rng: &mut fastrand::Rng) -> Limits {
    let entries = [1, 2, 256][rng.usize(0..3)];
    let in_flight = [2, 8, 2048][rng.usize(0..3)];
    let held = [4, 256][rng.usize(0..2)];
    Limits { entries, in_flight, held, waiting: 64, ..Limits::DEFAULT }
}

fn weather(rng: &mut fastrand::Rng) -> Weather {
    let delay = [(200, 900), (1_000, 10_000), (1_000, 60_000)].map(range)[rng.usize(0..3)];
    let lost = [0, 10, 150][rng.usize(0..3)];
    let doubled = [0, 50][rng.usize(0..2)];
    let held_up = [0, 20][rng.usize(0..2)];
    Weather { delay, lost, doubled, held_up }
}

fn faults(rng: &mut fastrand::Rng, servers: u8, until: TrueTime) -> Vec<(TrueTime, Fault)> {
    let pace = [60, 250, 800][rng.usize(0..3)];
    let mut faults = Vec::new();
    let mut at = TrueTime(0).plus(Duration::from_millis(400));
    while at < until {
        if rng.u8(0..6) == 0 {
            at = scheme(rng, at, &mut faults);
        } else {
            faults.push((at, fault(rng, servers)));
        }
        at = at.plus(Duration::from_micros(rng.u64(1..2 * pace * 1000)));
    }
    faults.retain(|(at, _)| *at < until);
    faults
}

fn fault(rng: &mut fastrand::Rng, servers: u8) -> Fault {
    let server = |rng: &mut fastrand::Rng| NodeId::new(rng.u8(0..servers));
    let whom = |rng: &mut fastrand::Rng| match rng.bool() {
        true => Whom::Leader,
        false => Whom::Server(NodeId::new(rng.u8(0..servers))),
    };
    let a_while = |rng: &mut fastrand::Rng| Duration::from_millis(rng.u64(1..600));
    match rng.u8(0..24) {
        0 => Fault::Crash(whom(rng)),
        1..=3 => Fault::Start(server(rng)),
        4..=6 => Fault::Bounce(whom(rng), Duration::from_millis(rng.u64(0..100))),
        7..=8 => Fault::Freeze(whom(rng), a_while(rng)),
        9..=10 => Fault::CutOff(whom(rng)),
        11..=12 => Fault::OneWay(whom(rng), Whom::Server(server(rng))),
        13 => Fault::Deaf(whom(rng)),
        14 => Fault::Mute(whom(rng)),
        15 => Fault::Split(rng.u8(..)),
        16..=19 => Fault::Mend,
        20 => Fault::Weather(weather(rng)),
        21 => Fault::SlowDisk(server(rng), [1, 10, SLOWEST_DISK][rng.usize(0..3)]),
        22 => Fault::Lag(whom(rng), a_while(rng) / 3),
        _ => Fault::Resign(whom(rng)),
    }
}

/// Operators' orders, at any time. One server is never barred.
fn orders(rng: &mut fastrand::Rng, servers: u8, until: TrueTime) -> Vec<(TrueTime, Fault)> {
    let spared = rng.u8(0..servers);
    let server = |rng: &mut fastrand::Rng| Whom::Server(NodeId::new(rng.u8(0..servers)));
    let mut orders = Vec::new();
    let mut at = TrueTime(0).plus(Duration::from_millis(300));
    while at < until {
        let whom = rng.u8(0..servers);
        let order = match rng.u8(0..12) {
            0..=4 => Fault::Transfer(Whom::Leader, Whom::Other(rng.u8(0..servers))),
            5 => Fault::Transfer(server(rng), server(rng)),
            6 => Fault::Cordon(Whom::Leader, false),
            7..=8 => Fault::Cordon(Whom::Server(NodeId::new(whom)), whom != spared && rng.bool()),
            9..=10 => Fault::Uncordon(server(rng)),
            _ => Fault::Pause(rng.bool()),
        };
        orders.push((at, order));
        at = at.plus(Duration::from_millis(rng.u64(0..400)));
    }
    orders
}

/// Leaders come and go before any of their entries is committed, as in Figure 8.
fn figure_8(rng: &mut fastrand::Rng, until: TrueTime) -> Vec<(TrueTime, Fault)> {
    let mut faults = Vec::new();
    let mut at = TrueTime(0);
    while at < until {
        // At once, so that only it has its first entry; or after a message or two.
        let mute = Duration::from_micros(if rng.bool() { 0 } else { rng.u64(0..30_000) });
        let killed = mute + Duration::from_millis(rng.u64(5..50));
        faults.push((at, Fault::Doom { mute, killed }));
        at = at.plus(Duration::from_millis(rng.u64(400..700)));
        faults.push((at, Fault::Mend));
        at = at.plus(Duration::from_millis(rng.u64(0..400)));
        faults.push((at, Fault::StartAll));
    }
    faults.retain(|(at, _)| *at < until);
    faults
}

/// One server misses entries, and most others take no part any more.
fn withdrawals(
    rng: &mut fastrand::Rng,
    servers: u8,
    from: TrueTime,
    until: TrueTime,
) -> Vec<(TrueTime, Fault)> {
    let fit = rng.u8(0..servers);
    let mut faults = Vec::new();
    let mut at = from;
    let mut then = |after: u64, fault| {
        at = at.plus(Duration::from_millis(after));
        faults.push((at, fault));
    };
    then(0, Fault::Mend);
    then(0, Fault::StartAll);
    then(0, Fault::Stand(Whom::Server(NodeId::new(fit))));
    then(rng.u64(0..600), Fault::CutOff(Whom::Server(NodeId::new(fit))));
    for other in (0..servers).filter(|other| *other != fit) {
        let other = Whom::Server(NodeId::new(other));
        match rng.u8(0..5) {
            0 => then(rng.u64(0..300), Fault::Resign(Whom::Leader)),
            _ => then(rng.u64(0..300), Fault::Withdraw(other)),
        }
        if rng.u8(0..5) == 0 {
            then(rng.u64(0..100), Fault::Stand(other));
        }
    }
    faults.retain(|(at, _)| *at < until);
    faults
}

/// Some are away, some lose their disks, and the others go on.
fn lost_disks(rng: &mut fastrand::Rng, servers: u8, until: TrueTime) -> Vec<(TrueTime, Fault)> {
    let mut faults = Vec::new();
    let mut at = TrueTime(0);
    let server = |rng: &mut fastrand::Rng| Whom::Server(NodeId::new(rng.u8(0..servers)));
    while at < until {
        let down = Duration::from_millis(rng.u64(0..400));
        let lost = NodeId::new(rng.u8(0..servers.saturating_sub(1).max(1)));
        faults.push(match rng.u8(0..8) {
            0..=1 if servers > 1 => (at, Fault::Wipe(Whom::Server(lost), down)),
            2..=3 => (at, Fault::Crash(server(rng))),
            4 => (at, Fault::CutOff(server(rng))),
            5 => (at, Fault::Bounce(server(rng), down)),
            6 => (at, Fault::Mend),
            _ => (at, Fault::StartAll),
        });
        at = at.plus(Duration::from_millis(rng.u64(0..500)));
    }
    faults
}

/// One server has several disks, and others are away now and then.
fn replaced_disks(rng: &mut fastrand::Rng, whom: NodeId, until: TrueTime) -> Vec<(TrueTime, Fault)> {
    let mut faults = Vec::new();
    let mut at = TrueTime(0).plus(Duration::from_millis(400));
    let whom = Whom::Server(whom);
    while at < until {
        let down = Duration::from_millis(rng.u64(0..200));
        let other = if rng.bool() { Whom::Leader } else { Whom::Other(rng.u8(0..4)) };
        if rng.u8(0..6) == 0 {
            // The old disk comes back once it is replaced, while the leader that knows it is away.
            faults.push((at, Fault::Replace(whom)));
            at = at.plus(Duration::from_millis(rng.u64(0..300)));
            faults.push((at, Fault::CutOff(Whom::Leader)));
            faults.push((at, Fault::OtherDisk(whom, Duration::ZERO)));
            at = at.plus(Duration::from_millis(rng.u64(0..1_500)));
            faults.push((at, Fault::Mend));
            continue;
        }
        faults.push(match rng.u8(0..16) {
            0..=1 => (at, Fault::OtherDisk(whom, down)),
            2 => (at, Fault::Wipe(whom, down)),
            3..=7 => (at, Fault::Replace(whom)),
            8..=9 => (at, Fault::Bounce(other, down)),
            10..=11 => (at, Fault::CutOff(other)),
            12 => (at, Fault::OneWay(other, whom)),
            13..=14 => (at, Fault::Mend),
            _ => (at, Fault::StartAll),
        });
        at = at.plus(Duration::from_millis(rng.u64(0..400)));
    }
    faults.retain(|(at, _)| *at < until);
    faults
}

/// A server's disk is copied, and put back while others are away.
fn old_disks(rng: &mut fastrand::Rng, until: TrueTime) -> Vec<(TrueTime, Fault)> {
    let mut faults = Vec::new();
    let mut at = TrueTime(0).plus(Duration::from_millis(400));
    while at < until {
        let whom = if rng.bool() { Whom::Leader } else { Whom::Other(rng.u8(0..2)) };
        let down = Duration::from_millis(rng.u64(0..400));
        faults.push(match rng.u8(0..7) {
            0..=1 => (at, Fault::BackUp(whom)),
            2 => (at, Fault::PutBack(whom, down)),
            3..=4 => (at, Fault::Bounce(whom, down)),
            5 => (at, Fault::CutOff(whom)),
            _ => (at, Fault::Mend),
        });
        at = at.plus(Duration::from_millis(rng.u64(0..500)));
    }
    faults
}

/// A disk is copied, and some time later a second machine runs on the copy. No connection of the original breaks
/// from then on, despite other faults.
fn beside_the_original(rng: &mut fastrand::Rng, copied: NodeId, servers: u8) -> Vec<(TrueTime, Fault)> {
    let mut at = TrueTime(0);
    let mut faults = Vec::new();
    let mut then = |after: u64, fault| {
        at = at.plus(Duration::from_millis(after));
        faults.push((at, fault));
    };
    let whom = Whom::Server(copied);
    if rng.bool() {
        then(rng.u64(50..1_500), Fault::BackUp(whom));
    }
    then(rng.u64(50..1_500), Fault::Copy(whom, Duration::from_millis(rng.u64(0..300))));
    let others: Vec<_> =
        (0..servers).map(NodeId::new).filter(|node| *node != copied).map(Whom::Server).collect();
    let other = |rng: &mut fastrand::Rng| others[rng.usize(0..others.len())];
    for _ in 0..rng.u8(4..24) {
        let fault = match rng.u8(0..10) {
            0..=1 => Fault::Freeze(other(rng), Duration::from_millis(rng.u64(1..600))),
            2..=5 => Fault::Campaign(other(rng)),
            6 => Fault::Resign(Whom::Leader),
            7 => Fault::OneWay(other(rng), other(rng)),
            8 => Fault::Mend,
            _ => Fault::Weather(weather(rng)),
        };
        then(rng.u64(0..400), fault);
    }
    faults
}

/// A disk is copied, and some time later a second machine runs on the copy. Some of the others hear only the one,
/// the rest only the other, for a while.
fn apart_from_the_original(rng: &mut fastrand::Rng, copied: NodeId, servers: u8) -> Vec<(TrueTime, Fault)> {
    let mut at = TrueTime(0);
    let mut faults = Vec::new();
    let mut then = |after: u64, fault| {
        at = at.plus(Duration::from_millis(after));
        faults.push((at, fault));
    };
    let (whom, copy) = (Whom::Server(copied), Whom::Server(NodeId::new(servers)));
    if rng.bool() {
        then(rng.u64(50..1_500), Fault::BackUp(whom));
    }
    let after = Duration::from_millis(rng.u64(0..300));
    then(rng.u64(50..1_500), Fault::Copy(whom, after));
    then(0, Fault::Sides(whom, rng.u8(..)));
    for _ in 0..rng.u8(4..24) {
        let anybody = match rng.u8(0..4) {
            0 => copy,
            1 => Whom::Leader,
            _ => Whom::Server(NodeId::new(rng.u8(0..servers))),
        };
        let fault = match rng.u8(0..16) {
            0..=1 => Fault::Freeze(anybody, Duration::from_millis(rng.u64(1..600))),
            2..=6 => Fault::Campaign(anybody),
            7 => Fault::Resign(anybody),
            8..=9 => Fault::CutOff(anybody),
            10..=12 => Fault::Bounce(anybody, Duration::from_millis(rng.u64(0..100))),
            13..=14 => Fault::Sides(whom, rng.u8(..)),
            _ => Fault::Mend,
        };
        then(rng.u64(0..400), fault);
    }
    faults
}

/// One follower does not hear the leader, and begins a later term; the leader learns of it while others, on which
/// it counts, still keep to it.
fn depositions(rng: &mut fastrand::Rng, until: TrueTime) -> Vec<(TrueTime, Fault)> {
    let mut faults = Vec::new();
    let mut at = TrueTime(0).plus(Duration::from_millis(400));
    while at < until {
        faults.push((at, Fault::OneWay(Whom::Leader, Whom::Other(0))));
        at = at.plus(Duration::from_millis(rng.u64(250..600)));
        faults.push((at, Fault::Campaign(Whom::Other(0))));
        at = at.plus(Duration::from_millis(rng.u64(20..200)));
        faults.push((at, Fault::Mend));
        // By now the leader may be deposed, and one of these may be the leader.
        for place in [0, 1] {
            at = at.plus(Duration::from_millis(rng.u64(0..80)));
            faults.push((at, Fault::Campaign(Whom::Other(place))));
        }
        at = at.plus(Duration::from_millis(rng.u64(0..600)));
    }
    faults.retain(|(at, _)| *at < until);
    faults
}

/// Some faults that are harmless alone, one after the other; returns the time of the last.
fn scheme(rng: &mut fastrand::Rng, start: TrueTime, faults: &mut Vec<(TrueTime, Fault)>) -> TrueTime {
    let mut at = start;
    let mut then = |after: Duration, fault| {
        at = at.plus(after);
        faults.push((at, fault));
    };
    let up_to = |rng: &mut fastrand::Rng, millis: u64| Duration::from_micros(rng.u64(0..millis * 1000));
    let none = Duration::ZERO;
    match rng.u8(0..5) {
        // One follower waits for a vote; the other, on which the leader counts, forgets that it did.
        0 => {
            then(none, Fault::OneWay(Whom::Leader, Whom::Other(0)));
            then(Duration::from_millis(250) + up_to(rng, 250), Fault::CutOff(Whom::Leader));
            then(none, Fault::Bounce(Whom::Other(1), up_to(rng, 20)));
        }
        // The leader's answers are old when they arrive.
        1 => {
            let lag = Duration::from_millis(80) + up_to(rng, 140);
            then(none, Fault::Lag(Whom::Leader, lag));
            then(Duration::from_millis(200) + up_to(rng, 200), Fault::Mute(Whom::Leader));
        }
        // The same, for a frozen leader.
        2 => {
            then(none, Fault::Freeze(Whom::Leader, Duration::from_millis(120) + up_to(rng, 120)));
            then(none, Fault::Mute(Whom::Leader));
        }
        3 => {
            then(none, Fault::PowerCut);
            then(up_to(rng, 50), Fault::StartAll);
        }
        // The TimeoutNow is late, and its sender is back.
        _ => {
            then(none, Fault::Lag(Whom::Other(0), up_to(rng, 300)));
            then(up_to(rng, 100), Fault::Resign(Whom::Leader));
        }
    }
    at
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(node) => node.fmt(f),
            Self::Leader => f.write_str("the leader"),
            Self::Other(place) => write!(f, "follower {}", place + 1),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash(whom) => write!(f, "{whom} is killed"),
            Self::Start(node) => write!(f, "{node} is started"),
            Self::Bounce(whom, down) => write!(f, "{whom} is killed, and started after {down:?}"),
            Self::Freeze(whom, span) => write!(f, "{whom} is frozen for {span:?}"),
            Self::CutOff(whom) => write!(f, "{whom} is cut off"),
            Self::OneWay(from, to) => write!(f, "nothing gets from {from} to {to}"),
            Self::Deaf(whom) => write!(f, "nothing gets to {whom}"),
            Self::Mute(whom) => write!(f, "nothing gets out of {whom}"),
            Self::Split(side) => write!(f, "the network is split, {side:08b}"),
            Self::Mend => f.write_str("the network is mended"),
            Self::Weather(weather) => write!(f, "the network changes: {weather:?}"),
            Self::SlowDisk(node, times) => write!(f, "the disk of {node} takes {times} times as long"),
            Self::Lag(whom, by) => write!(f, "all that is sent to {whom} takes {by:?} longer"),
            Self::Wipe(whom, down) => write!(f, "{whom} loses its disk, and is started after {down:?}"),
            Self::OtherDisk(whom, down) => {
                write!(f, "{whom} comes back on another disk of its own, after {down:?}")
            }
            Self::Replace(whom) => write!(f, "the disk of {whom} is to be replaced by the one that it has"),
            Self::BackUp(whom) => write!(f, "the disk of {whom} is copied"),
            Self::PutBack(whom, down) => {
                write!(f, "the disk of {whom} is put back to the copy; it is started after {down:?}")
            }
            Self::Copy(whom, after) => {
                write!(f, "{whom} runs on a copy of its disk, too, after {after:?}")
            }
            Self::Sides(whom, side) => write!(f, "some hear only the copy of {whom}, {side:08b}"),
            Self::Campaign(whom) => write!(f, "{whom} begins a term"),
            Self::Resign(whom) => write!(f, "{whom} is told to resign"),
            Self::Transfer(whom, to) => write!(f, "{whom} is told to hand over to {to}"),
            Self::Cordon(whom, hard) => {
                write!(f, "{whom} is to be cordoned{}", if *hard { ", hard" } else { "" })
            }
            Self::Uncordon(whom) => write!(f, "{whom} is to be uncordoned"),
            Self::Pause(true) => f.write_str("leadership is to be paused"),
            Self::Pause(false) => f.write_str("leadership is to be resumed"),
            Self::Withdraw(whom) => write!(f, "{whom} does not stand any more"),
            Self::Stand(whom) => write!(f, "{whom} stands again"),
            Self::Doom { mute, killed } => {
                write!(f, "the next to be elected is mute after {mute:?}, and killed after {killed:?}")
            }
            Self::PowerCut => f.write_str("all are killed"),
            Self::StartAll => f.write_str("all that are down are started"),
        }
    }
}
