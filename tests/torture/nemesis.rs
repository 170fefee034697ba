//! What goes wrong when: a schedule that follows from a seed alone.
//!
//! Trouble comes in bouts. A bout is one to five faults within a few seconds, which overlap as they like; then comes
//! some quiet, so that it shows how the election recovers, or none. Whom a fault hits may be a role (*the leader*),
//! which is looked up when it comes: so the same schedule hits where it hurts in a run that goes otherwise.
//!
//! What is left out, since no promise covers it: a supervisor of `elect run` and its guard, both stopped or killed at
//! one time (`docs/run.md`); whoever carries the schedule out skips a fault that would do that.

use std::{fmt, time::Duration};

/// How many there are of each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) candidates: usize,
    pub(crate) members: usize,
    pub(crate) ttl: Duration,
}

/// A candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    /// Whoever is first in the queue by then; somebody if it is not known.
    Leader,
    /// The one behind.
    Next,
    One(usize),
}

/// A member of etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Member {
    /// The leader of etcd's own by then.
    Leading,
    One(usize),
}

/// A machine in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Site {
    Of(Whom),
    Etcd(Member),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL, and started anew when it is over.
    Kill(Whom),
    /// SIGSTOP, and SIGCONT when it is over.
    Freeze(Whom),
    /// SIGTERM, and started anew once it has stopped.
    Restart(Whom),
    /// The guard of an `elect run`: SIGKILL, once.
    KillGuard(Whom),
    /// The guard of an `elect run`: SIGSTOP, and SIGCONT when it is over.
    FreezeGuard(Whom),
    /// SIGKILL to all candidates at once.
    KillAll,

    /// Nothing to it or from it.
    CutOff(Site),
    /// Nothing gets out of it.
    Mute(Site),
    /// Nothing gets to it.
    Deaf(Site),
    /// Nothing from the first to the second.
    OneWay(Site, Site),
    /// Nothing between the two.
    Apart(Site, Site),
    /// What it sends is slow and gets lost.
    Weather(Site, Weather),

    KillMember(Member),
    FreezeMember(Member),
    /// All members stand still at once.
    FreezeEtcd,
    /// Frozen for a moment, again and again: how a disk that is slow to sync looks to everybody else.
    Stutter(Member),
    /// etcd's leader hands over to another member.
    MoveLeader,

    /// A third party revokes a candidate's lease.
    Revoke(Whom),
    /// A third party deletes a candidate's key.
    Delete(Whom),
    /// History is compacted up to now.
    Compact,
}

/// How bad a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weather {
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    /// Of a hundred packets.
    pub(crate) lost: u8,
}

impl Fault {
    /// What to call it in a table.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Kill(_) => "candidate killed",
            Self::Freeze(_) => "candidate frozen",
            Self::Restart(_) => "candidate restarted",
            Self::KillGuard(_) => "guard killed",
            Self::FreezeGuard(_) => "guard frozen",
            Self::KillAll => "all candidates killed",
            Self::CutOff(_) | Self::Apart(..) => "partition, two-way",
            Self::Mute(_) | Self::Deaf(_) | Self::OneWay(..) => "partition, one-way",
            Self::Weather(..) => "delay and loss",
            Self::KillMember(_) => "member killed",
            Self::FreezeMember(_) => "member frozen",
            Self::FreezeEtcd => "all of etcd frozen",
            Self::Stutter(_) => "slow disk",
            Self::MoveLeader => "etcd's leader moved",
            Self::Revoke(_) => "lease revoked",
            Self::Delete(_) => "key deleted",
            Self::Compact => "compaction",
        }
    }

    /// Whether it is over as soon as it has happened.
    pub(crate) fn is_a_moment(self) -> bool {
        matches!(
            self,
            Self::KillGuard(_) | Self::MoveLeader | Self::Revoke(_) | Self::Delete(_) | Self::Compact
        )
    }
}

/// A fault with its time, from the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) at: Duration,
    /// Zero for what is over at once.
    pub(crate) lasts: Duration,
    pub(crate) fault: Fault,
}

impl Planned {
    pub(crate) fn over(&self) -> Duration {
        self.at + self.lasts
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    /// In the order of their beginnings.
    pub(crate) faults: Vec<Planned>,
}

/// Everybody gets to the queue before anything happens.
const CALM_AT_FIRST: Duration = Duration::from_secs(2);

impl Schedule {
    /// What `seed` stands for. All is over by `trouble`.
    pub(crate) fn of(seed: u64, trouble: Duration, size: Size) -> Self {
        let mut draw = Draw { rng: fastrand::Rng::with_seed(seed), size };
        let mut faults = Vec::new();
        let mut at = CALM_AT_FIRST;
        while at < trouble {
            at = draw.bout(at, &mut faults);
        }
        faults.retain(|planned: &Planned| planned.at + Duration::from_millis(200) < trouble);
        for planned in &mut faults {
            planned.lasts = planned.lasts.min(trouble.saturating_sub(planned.at));
        }
        faults.sort_by_key(|planned| planned.at);
        Self { seed, faults }
    }
}

struct Draw {
    rng: fastrand::Rng,
    size: Size,
}

impl Draw {
    /// Some faults, and the quiet after them. Returns when it is over.
    fn bout(&mut self, start: Duration, faults: &mut Vec<Planned>) -> Duration {
        let mut end = start;
        let mut add = |at: Duration, lasts: Duration, fault: Fault| {
            let lasts = if fault.is_a_moment() { Duration::ZERO } else { lasts };
            let planned = Planned { at, lasts, fault };
            end = end.max(planned.over());
            faults.push(planned);
        };
        if self.rng.bool() {
            for (after, lasts, fault) in self.scheme() {
                add(start + after, lasts, fault);
            }
        } else {
            let mut at = start;
            for _ in 0..self.rng.usize(1..=5) {
                let fault = self.fault();
                add(at, self.span(fault), fault);
                at += self.up_to(1_500);
            }
        }
        match self.rng.u8(0..6) {
            // They follow each other without a pause, or overlap.
            0..=1 => end.saturating_sub(self.up_to(1_500)).max(start + Duration::from_millis(500)),
            2..=3 => end + self.up_to(1_000),
            // Long enough for a takeover, and to see that all is well again.
            _ => end + self.size.ttl,
        }
    }

    fn fault(&mut self) -> Fault {
        match self.rng.u8(0..40) {
            0..=3 => Fault::Kill(self.whom()),
            4..=8 => Fault::Freeze(self.whom()),
            9..=10 => Fault::Restart(self.whom()),
            11 => Fault::KillGuard(Whom::Leader),
            12..=13 => Fault::FreezeGuard(Whom::Leader),
            14..=16 => Fault::CutOff(self.site()),
            17 => Fault::Mute(self.site()),
            18..=19 => Fault::Deaf(self.site()),
            20..=21 => Fault::OneWay(Site::Of(self.whom()), Site::Etcd(self.member())),
            22 => Fault::OneWay(Site::Etcd(self.member()), Site::Of(self.whom())),
            23 => Fault::Apart(Site::Of(self.whom()), Site::Etcd(self.member())),
            24 => Fault::Apart(Site::Etcd(Member::Leading), Site::Etcd(self.member())),
            25..=26 => {
                let weather = self.weather();
                Fault::Weather(self.site(), weather)
            }
            27..=28 => Fault::KillMember(self.member()),
            29..=31 => Fault::FreezeMember(self.member()),
            32 => Fault::Stutter(self.member()),
            33..=34 => Fault::MoveLeader,
            35..=36 => Fault::Revoke(self.whom()),
            37 => Fault::Delete(self.whom()),
            _ => Fault::Compact,
        }
    }

    /// How long a fault lasts: mostly shorter than a TTL or about as long, at times much longer.
    fn span(&mut self, fault: Fault) -> Duration {
        let ttl = self.size.ttl;
        match fault {
            Fault::Restart(_) => Duration::from_secs(1),
            Fault::Kill(_) | Fault::KillAll | Fault::KillMember(_) => self.up_to(1_000) + self.part_of(ttl),
            Fault::FreezeEtcd => self.around(ttl),
            _ => match self.rng.u8(0..10) {
                0..=2 => Duration::from_millis(20) + self.up_to(700),
                // Where belief ends, and where the lease does.
                3..=7 => self.around(ttl),
                _ => ttl + self.part_of(2 * ttl),
            },
        }
    }

    /// Faults that are harmless alone, with the time from the first one and how long they last.
    fn scheme(&mut self) -> Vec<(Duration, Duration, Fault)> {
        let ttl = self.size.ttl;
        let none = Duration::ZERO;
        let leader = Site::Of(Whom::Leader);
        match self.rng.u8(0..13) {
            // The leader sleeps while etcd gets another leader, which gives every lease its time anew.
            0 => vec![
                (none, self.around(ttl), Fault::Freeze(Whom::Leader)),
                (self.part_of(ttl), none, Fault::MoveLeader),
            ],
            // etcd's leader is replaced while it sleeps, and wakes with the leases of its own past.
            1 => vec![
                (none, ttl + self.part_of(ttl), Fault::FreezeMember(Member::Leading)),
                (self.up_to(500), ttl, Fault::Freeze(Whom::Next)),
            ],
            // Renewals get out, and their answers don't get back; then nothing gets out.
            2 => vec![
                (none, self.around(ttl), Fault::Deaf(leader)),
                (self.part_of(ttl), self.around(ttl), Fault::Mute(leader)),
            ],
            // Cut off, and asleep for the moment of its deadline.
            3 => vec![
                (none, 2 * ttl, Fault::CutOff(leader)),
                (ttl * 3 / 5, self.around(ttl) / 2, Fault::Freeze(Whom::Leader)),
            ],
            // It wakes when its successor has just begun.
            4 => vec![
                (none, ttl + Duration::from_millis(300) + self.up_to(900), Fault::Freeze(Whom::Leader)),
                (self.part_of(ttl), self.around(ttl), Fault::Freeze(Whom::Next)),
            ],
            5 => vec![(none, self.part_of(ttl), Fault::KillAll)],
            6 => vec![(none, self.around(ttl), Fault::FreezeEtcd)],
            // Its place in the queue is gone when its turn comes, and was so for longer than that excuses anything.
            7 => vec![
                (none, none, Fault::Delete(Whom::Next)),
                (2 * ttl + Duration::from_millis(1_500), self.part_of(ttl), Fault::Kill(Whom::Leader)),
            ],
            // The last answer that gets through is late, as often as there is time for: whoever counts from answers
            // believes for too long.
            8..=10 => vec![
                (none, Duration::from_millis(600), Fault::Deaf(leader)),
                (Duration::from_millis(750) + self.up_to(150), 2 * ttl, Fault::CutOff(leader)),
            ],
            // Deposed, and not told.
            11 => vec![
                (none, self.around(ttl), Fault::Deaf(leader)),
                (self.up_to(300), none, Fault::Revoke(Whom::Leader)),
            ],
            // The leader's member dies, and with it etcd's leader, while it is far from the others.
            _ => vec![
                (none, self.part_of(ttl), Fault::KillMember(Member::Leading)),
                (
                    self.up_to(200),
                    ttl,
                    Fault::Apart(leader, Site::Etcd(Member::One(self.rng.usize(0..self.size.members)))),
                ),
                (self.up_to(800), self.around(ttl) / 2, Fault::Freeze(Whom::Leader)),
            ],
        }
    }

    fn whom(&mut self) -> Whom {
        match self.rng.u8(0..10) {
            0..=4 => Whom::Leader,
            5..=6 => Whom::Next,
            _ => Whom::One(self.rng.usize(0..self.size.candidates)),
        }
    }

    fn member(&mut self) -> Member {
        if self.rng.bool() { Member::Leading } else { Member::One(self.rng.usize(0..self.size.members)) }
    }

    fn site(&mut self) -> Site {
        if self.rng.u8(0..3) == 0 { Site::Etcd(self.member()) } else { Site::Of(self.whom()) }
    }

    fn weather(&mut self) -> Weather {
        let delay = Duration::from_millis([5, 40, 200][self.rng.usize(0..3)]);
        Weather { delay, jitter: delay / 2, lost: [0, 5, 25][self.rng.usize(0..3)] }
    }

    fn up_to(&mut self, millis: u64) -> Duration {
        Duration::from_millis(self.rng.u64(0..millis))
    }

    fn part_of(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.rng.f64())
    }

    /// From two thirds of it to a half more.
    fn around(&mut self, span: Duration) -> Duration {
        span.mul_f64(0.66 + 0.84 * self.rng.f64())
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader => f.write_str("the leader"),
            Self::Next => f.write_str("the next in the queue"),
            Self::One(place) => write!(f, "candidate {place}"),
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leading => f.write_str("etcd's leader"),
            Self::One(place) => write!(f, "member {place}"),
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(whom) => whom.fmt(f),
            Self::Etcd(member) => member.fmt(f),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(whom) => write!(f, "{whom} is killed"),
            Self::Freeze(whom) => write!(f, "{whom} is frozen"),
            Self::Restart(whom) => write!(f, "{whom} is told to stop"),
            Self::KillGuard(whom) => write!(f, "the guard of {whom} is killed"),
            Self::FreezeGuard(whom) => write!(f, "the guard of {whom} is frozen"),
            Self::KillAll => f.write_str("all candidates are killed"),
            Self::CutOff(site) => write!(f, "{site} is cut off"),
            Self::Mute(site) => write!(f, "nothing gets out of {site}"),
            Self::Deaf(site) => write!(f, "nothing gets to {site}"),
            Self::OneWay(from, to) => write!(f, "nothing gets from {from} to {to}"),
            Self::Apart(one, other) => write!(f, "nothing gets through between {one} and {other}"),
            Self::Weather(site, Weather { delay, jitter, lost }) => {
                write!(f, "what {site} sends takes {delay:?} ± {jitter:?} longer, {lost} % of it is lost")
            }
            Self::KillMember(member) => write!(f, "{member} is killed"),
            Self::FreezeMember(member) => write!(f, "{member} is frozen"),
            Self::FreezeEtcd => f.write_str("all of etcd is frozen"),
            Self::Stutter(member) => write!(f, "{member} stutters"),
            Self::MoveLeader => f.write_str("etcd's leader hands over"),
            Self::Revoke(whom) => write!(f, "the lease of {whom} is revoked by somebody else"),
            Self::Delete(whom) => write!(f, "the key of {whom} is deleted by somebody else"),
            Self::Compact => f.write_str("history is compacted"),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        for Planned { at, lasts, fault } in &self.faults {
            write!(f, "{:8.3} s  {fault}", at.as_secs_f64())?;
            if lasts.is_zero() { writeln!(f) } else { writeln!(f, ", for {:.3} s", lasts.as_secs_f64()) }?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SIZE: Size = Size { candidates: 7, members: 3, ttl: Duration::from_secs(3) };
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_same_seed_is_the_same_schedule() {
        assert_eq!(Schedule::of(7, MINUTE, SIZE), Schedule::of(7, MINUTE, SIZE));
        assert_ne!(Schedule::of(7, MINUTE, SIZE), Schedule::of(8, MINUTE, SIZE));
    }

    #[test]
    fn all_is_over_in_time_and_nothing_comes_before_the_start() {
        for seed in 0..200 {
            let schedule = Schedule::of(seed, MINUTE, SIZE);
            assert!(!schedule.faults.is_empty());
            for planned in &schedule.faults {
                assert!(planned.at >= CALM_AT_FIRST && planned.over() <= MINUTE, "{planned:?}");
            }
        }
    }

    /// A nemesis that never does something finds nothing by it.
    #[test]
    fn every_kind_of_fault_happens_and_some_at_once() {
        let (mut kinds, mut at_once) = (BTreeSet::new(), 0);
        for seed in 0..100 {
            let faults = Schedule::of(seed, MINUTE, SIZE).faults;
            kinds.extend(faults.iter().map(|planned| planned.fault.kind()));
            let overlapping = |one: &Planned| {
                faults.iter().filter(|other| other.at <= one.at && one.at < other.over()).count()
            };
            at_once = at_once.max(faults.iter().map(overlapping).max().unwrap_or_default());
        }
        assert_eq!(kinds.len(), 17, "{kinds:?}");
        assert!(at_once >= 4, "{at_once}");
    }
}
