//! Measurements of the others and of this server's disk, and the timing that they need. Pure.

use std::{collections::VecDeque, fmt, time::Duration};

use super::{PeerLink, Timing};
use crate::{clock::Timestamp, names::CandidateName};

/// Number of measurements kept. The median follows a change after half as many.
const KEPT: usize = 8;

/// With fewer there is no result: one measurement on a busy machine would decide.
const TELLING: usize = 4;

/// A slow disk is reported at most this often.
const SLOW_EVERY: Duration = Duration::from_secs(60);

/// The last few durations of the same operation.
#[derive(Debug, Default)]
pub(crate) struct Recent(VecDeque<Duration>);

impl Recent {
    pub(crate) fn add(&mut self, took: Duration) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(took);
    }

    /// The median, the lower one of two. `None` with too few measurements.
    ///
    /// A single delay, by a frozen process for example, does not change it.
    pub(crate) fn usual(&self) -> Option<Duration> {
        let mut sorted: Vec<_> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        (sorted.len() >= TELLING).then(|| sorted[(sorted.len() - 1) / 2])
    }
}

/// Upper ends of the ranges in which syncs are counted, in microseconds: from a fast disk's to times too long for
/// any timing here.
const BOUNDS: [u64; 14] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// Times of durable writes since this server's start (boot-time clock).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SyncTimes {
    /// The last one.
    pub last: Duration,
    /// The longest one.
    pub worst: Duration,
    /// The median of the last few. `None` with too few measurements.
    pub usual: Option<Duration>,
    /// The sum.
    pub total: Duration,
    /// Numbers of syncs by duration: up to each of [`bounds`](Self::bounds) and longer than the bound before; then
    /// those longer than all bounds.
    pub counts: [u64; BOUNDS.len() + 1],
}

impl SyncTimes {
    /// The ranges in which syncs are counted.
    pub fn bounds() -> impl Iterator<Item = Duration> {
        BOUNDS.into_iter().map(Duration::from_micros)
    }

    /// Returns their number.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Measures a disk, and reports when it is slow.
#[derive(Debug, Default)]
pub(crate) struct DiskMeter {
    times: SyncTimes,
    recent: Recent,
    /// Time of the last report.
    told: Option<Timestamp>,
    /// The longest slow sync that was not reported.
    slow: Option<TimingAdvice>,
}

impl DiskMeter {
    pub(crate) fn times(&self) -> SyncTimes {
        self.times.clone()
    }

    /// Counts a sync that ended at `now`. Returns a report if it was slow, and there was none lately.
    pub(crate) fn synced(&mut self, now: Timestamp, took: Duration, timing: &Timing) -> Option<TimingAdvice> {
        self.recent.add(took);
        let times = &mut self.times;
        (times.last, times.worst) = (took, times.worst.max(took));
        times.usual = self.recent.usual();
        times.total = times.total.saturating_add(took);
        times.counts[SyncTimes::bounds().position(|bound| took <= bound).unwrap_or(BOUNDS.len())] += 1;
        let advice = TimingAdvice::for_sync(timing, took)?;
        let worst = self.slow.take().into_iter().chain([advice]).max_by_key(|advice| advice.takes);
        if self.told.is_some_and(|told| now.since(told) < SLOW_EVERY) {
            self.slow = worst;
            return None;
        }
        self.told = Some(now);
        worst
    }
}

/// A timing that suits the measurements, if the group's own does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimingAdvice {
    measured: Quantity,
    takes: Duration,
    timing: Timing,
    needed: Timing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Quantity {
    RoundTrip { peer: CandidateName },
    Sync,
}

impl TimingAdvice {
    pub(crate) fn for_round_trip(timing: &Timing, peer: &CandidateName, takes: Duration) -> Option<Self> {
        let needed = timing.for_round_trip(takes)?;
        Some(Self { measured: Quantity::RoundTrip { peer: peer.clone() }, takes, timing: *timing, needed })
    }

    pub(crate) fn for_sync(timing: &Timing, takes: Duration) -> Option<Self> {
        let needed = timing.for_sync(takes)?;
        Some(Self { measured: Quantity::Sync, takes, timing: *timing, needed })
    }

    /// The longest election timeout that the usual measurements need; `None` if the timing suits them.
    pub(crate) fn for_usual(timing: &Timing, contacts: &[PeerLink], syncs: &SyncTimes) -> Option<Self> {
        let round_trips = contacts.iter().filter_map(|contact| Some((&contact.name, contact.round_trip?)));
        let for_round_trips =
            round_trips.filter_map(|(peer, takes)| Self::for_round_trip(timing, peer, takes));
        let for_disk = syncs.usual.and_then(|takes| Self::for_sync(timing, takes));
        for_round_trips.chain(for_disk).max_by_key(|advice| advice.needed.shortest())
    }

    /// The timing that all members should have.
    pub const fn needed(&self) -> &Timing {
        &self.needed
    }
}

impl fmt::Display for TimingAdvice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (takes, now, then) = (Milliseconds(self.takes), range(&self.timing), range(&self.needed));
        match &self.measured {
            Quantity::RoundTrip { peer } => {
                let most = Milliseconds(self.timing.longest_round_trip());
                write!(
                    f,
                    "the round trip to {peer} takes {takes}, and --election-timeout {now} is made for up to {most}: \
                     set --election-timeout {then} on all members"
                )
            }
            Quantity::Sync => {
                let most = Milliseconds(self.timing.longest_sync());
                write!(
                    f,
                    "a sync of the data directory takes {takes}, and --election-timeout {now} is made for less than \
                     {most}: use a faster disk, or set --election-timeout {then} on all members"
                )
            }
        }
    }
}

/// In the format of `--election-timeout`.
fn range(timing: &Timing) -> String {
    let written = |span: Duration| match (span.as_secs(), span.subsec_millis()) {
        (seconds, 0) => format!("{seconds}s"),
        _ => format!("{}ms", span.as_millis()),
    };
    format!("{}-{}", written(timing.shortest()), written(timing.longest()))
}

/// In tenths of milliseconds: nothing here is more exact.
struct Milliseconds(Duration);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = u64::try_from(self.0.as_micros() / 100).unwrap_or(u64::MAX / 100);
        write!(f, "{:?}", Duration::from_micros(tenths * 100))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn one_that_was_held_up_changes_nothing_and_a_lasting_change_shows_soon() {
        let mut recent = Recent::default();
        for took in [20, 21, 9000] {
            recent.add(ms(took));
            assert_eq!(recent.usual(), None, "too few");
        }
        recent.add(ms(22));
        assert_eq!(recent.usual(), Some(ms(21)));
        for _ in 0..4 {
            recent.add(ms(100));
        }
        assert_eq!(recent.usual(), Some(ms(100)));
    }

    #[test]
    fn advice_names_the_flag_what_was_measured_and_what_to_set() {
        let peer = "server2".parse().unwrap();
        assert_eq!(TimingAdvice::for_round_trip(&Timing::DEFAULT, &peer, ms(66)), None);
        let advice = TimingAdvice::for_round_trip(&Timing::DEFAULT, &peer, ms(100)).unwrap();
        assert_eq!(
            advice.to_string(),
            "the round trip to server2 takes 100ms, and --election-timeout 250ms-500ms is made for up to 66.6ms: \
             set --election-timeout 450ms-900ms on all members"
        );
        assert_eq!(TimingAdvice::for_sync(&Timing::DEFAULT, ms(62)), None);
        let advice = TimingAdvice::for_sync(&Timing::DEFAULT, ms(240)).unwrap();
        assert_eq!(
            advice.to_string(),
            "a sync of the data directory takes 240ms, and --election-timeout 250ms-500ms is made for less than \
             62.5ms: use a faster disk, or set --election-timeout 1200ms-2400ms on all members"
        );
    }

    #[test]
    fn of_several_the_longest_timeout_is_advised() {
        let contact = |name: &str, millis: Option<u64>| PeerLink {
            name: name.parse().unwrap(),
            connected: true,
            disk: None,
            refused: None,
            heard: None,
            round_trip: millis.map(ms),
            problem: None,
        };
        let advised = |contacts: &[PeerLink], usual: Option<u64>| {
            let syncs = SyncTimes { usual: usual.map(ms), ..SyncTimes::default() };
            let advice = TimingAdvice::for_usual(&Timing::DEFAULT, contacts, &syncs);
            advice.map(|advice| (advice.measured, advice.needed.shortest()))
        };
        let to = |name: &str| Quantity::RoundTrip { peer: name.parse().unwrap() };
        assert_eq!(advised(&[contact("b", Some(1)), contact("c", None)], Some(1)), None);
        let far = [contact("b", Some(100)), contact("c", Some(200))];
        assert_eq!(advised(&far, None), Some((to("c"), ms(800))));
        assert_eq!(advised(&far, Some(161)), Some((Quantity::Sync, ms(850))));
        assert_eq!(advised(&far, Some(150)), Some((to("c"), ms(800))));
    }

    #[test]
    fn syncs_are_counted_by_how_long_they_took() {
        let mut meter = DiskMeter::default();
        for took in [Duration::from_micros(250), ms(30), ms(11_000), ms(2)] {
            let _ = meter.synced(at(1), took, &Timing::DEFAULT);
        }
        let times = meter.times();
        assert_eq!((times.last, times.worst, times.usual), (ms(2), ms(11_000), Some(ms(2))));
        assert_eq!((times.total, times.count()), (Duration::from_micros(11_032_250), 4));
        assert_eq!(times.counts, [1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn a_slow_disk_is_told_of_once_a_minute_with_the_worst_since() {
        let mut meter = DiskMeter::default();
        let mut told = |second, took| {
            meter.synced(at(second), ms(took), &Timing::DEFAULT).map(|advice| advice.takes.as_millis())
        };
        let told: Vec<_> =
            [(1, 62), (2, 63), (3, 240), (30, 100), (61, 90), (62, 20), (63, 70), (200, 10), (201, 64)]
                .map(|(second, took)| told(second, took))
                .into();
        assert_eq!(told, [None, Some(63), None, None, None, None, Some(240), None, Some(64)]);
    }
}
