//! The share of time with a leader, and the time from each kind of fault to the next leader.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{
    checker::{Bounds, Overlap, ordered_overlaps, stale},
    history::{At, Event, EventKind, History, WriteTarget},
    terms::Terms,
};

/// A fault counts as the cause of a leadership's end if it was active then, or had ended no longer before than this.
const SHORTLY: Duration = Duration::from_secs(1);

/// Vacancies within the guard's polling interval are handoffs, and are counted all the same.
#[derive(Debug, Clone, Default)]
struct Vacancies(Vec<Duration>);

impl Vacancies {
    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(place).copied().unwrap_or_default()
    }

    fn total(&self) -> Duration {
        self.0.iter().sum()
    }
}

pub(crate) struct Availability {
    bounds: Bounds,
    led: Duration,
    all: Vacancies,
    by_kind: BTreeMap<String, Vacancies>,
    terms: usize,
    overlaps: Vec<Overlap>,
    writes: BTreeMap<WriteTarget, usize>,
    refused: usize,
    stale_in_file: usize,
}

/// A fault's interval.
struct FaultSpan {
    kind: String,
    from: At,
    to: At,
}

impl Availability {
    pub(crate) fn of(history: &History, terms: &Terms, bounds: Bounds) -> Self {
        let from = terms.all().first().map_or(history.end(), |term| term.from);
        let end = history.end();
        let bands = bands(history);
        let vacancies = terms.vacancies(from, end);
        let mut by_kind: BTreeMap<String, Vacancies> = BTreeMap::new();
        for (began, ended) in &vacancies {
            let mut kinds: Vec<&str> = bands
                .iter()
                .filter(|band| band.from <= *began && *began <= band.to.plus(SHORTLY))
                .map(|band| band.kind.as_str())
                .collect();
            kinds.sort_unstable();
            kinds.dedup();
            let kinds = if kinds.is_empty() { vec!["(none)"] } else { kinds };
            for kind in kinds {
                by_kind.entry(kind.to_owned()).or_default().0.push(ended.since(*began));
            }
        }
        let all = Vacancies(vacancies.into_iter().map(|(began, ended)| ended.since(began)).collect());
        let mut writes = BTreeMap::new();
        let mut refused = 0;
        for Event { what, .. } in history.events() {
            match what {
                EventKind::Wrote { place, .. } => *writes.entry(*place).or_default() += 1,
                EventKind::Refused { .. } => refused += 1,
                _ => {}
            }
        }
        Self {
            bounds,
            led: end.since(from).saturating_sub(all.total()),
            all,
            by_kind,
            terms: terms.all().len(),
            overlaps: ordered_overlaps(terms, bounds),
            writes,
            refused,
            stale_in_file: stale(history).iter().filter(|stale| stale.place == WriteTarget::File).count(),
        }
    }
}

fn bands(history: &History) -> Vec<FaultSpan> {
    let mut bands: BTreeMap<usize, FaultSpan> = BTreeMap::new();
    for Event { at, what } in history.events() {
        match what {
            EventKind::Began { fault, kind, .. } => {
                bands.insert(*fault, FaultSpan { kind: kind.clone(), from: *at, to: *at });
            }
            EventKind::Over { fault } => {
                if let Some(band) = bands.get_mut(fault) {
                    band.to = *at;
                }
            }
            _ => {}
        }
    }
    bands.into_values().collect()
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |span: Duration| format!("{:.2} s", span.as_secs_f64());
        let whole = self.led + self.all.total();
        let percent = 100.0 * self.led.as_secs_f64() / whole.as_secs_f64().max(0.001);
        writeln!(
            f,
            "{} terms; led {} of {} ({percent:.1} %)",
            self.terms,
            seconds(self.led),
            seconds(whole)
        )?;
        writeln!(
            f,
            "\n{:24} {:>5} {:>10} {:>9} {:>9} {:>9}",
            "vacancies after", "n", "vacant", "p50", "p99", "max"
        )?;
        let mut row = |kind: &str, vacancies: &Vacancies| {
            let spans = [
                vacancies.total(),
                vacancies.percentile(50),
                vacancies.percentile(99),
                vacancies.percentile(100),
            ];
            let [total, p50, p99, max] = spans.map(seconds);
            writeln!(f, "{kind:24} {:>5} {total:>10} {p50:>9} {p99:>9} {max:>9}", vacancies.0.len())
        };
        for (kind, vacancies) in &self.by_kind {
            row(kind, vacancies)?;
        }
        row("all (each once)", &self.all)?;
        writeln!(f, "bound of a takeover once all faults are over: {}", seconds(self.bounds.takeover))?;
        writeln!(
            f,
            "A vacancy counts for every fault that went on when it began, or was over a second before at most."
        )?;
        let longest = self.overlaps.iter().map(Overlap::lasted).max().unwrap_or_default();
        writeln!(
            f,
            "\ndeposed by a third party or by etcd, and led for a while beside the next: {}, longest {longest:?} (allowed: {:?})",
            self.overlaps.len(),
            self.bounds.deposed,
        )?;
        for (place, count) in &self.writes {
            writeln!(f, "{place}: {count} writes")?;
        }
        writeln!(f, "{}: refused {} stale ones", WriteTarget::Store, self.refused)?;
        writeln!(
            f,
            "{}: took {} writes of an older term after one of a newer",
            WriteTarget::File,
            self.stale_in_file
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::checker::sample::{began, bounds, closed, over, proved},
        *,
    };

    #[test]
    fn counts_time_led_and_vacant_and_names_the_fault() {
        let history = History::of(vec![
            proved(1_000, "a", 1, 3_000),
            began(2_900, 0, "frozen"),
            over(3_500, 0),
            proved(4_000, "b", 2, 9_000),
            proved(9_100, "c", 3, 20_000),
            closed(11_000),
        ]);
        let report = Availability::of(&history, &Terms::of(history.events()), bounds());
        assert_eq!(report.led, Duration::from_millis(8_900));
        assert_eq!(report.all.0, [Duration::from_secs(1), Duration::from_millis(100)]);
        assert_eq!(report.by_kind["frozen"].0, [Duration::from_secs(1)]);
        assert_eq!(report.by_kind["(none)"].0, [Duration::from_millis(100)]);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let spans = Vacancies((1..=100).map(Duration::from_millis).collect());
        assert_eq!(spans.percentile(50), Duration::from_millis(50));
        assert_eq!(spans.percentile(99), Duration::from_millis(99));
        assert_eq!(spans.percentile(100), Duration::from_millis(100));
        assert_eq!(Vacancies::default().percentile(99), Duration::ZERO);
    }
}
