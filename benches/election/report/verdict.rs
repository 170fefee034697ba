//! Results of the targets: never slower than the fastest rival, never two leaders at once, and each
//! measurement's own limits.

use super::{
    Section,
    measure::{Better, Measure},
    sample::Ratio,
    who::Who,
};

/// A target, and its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) what: String,
    pub(crate) found: String,
    pub(crate) target: String,
    pub(crate) came: Came,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    Met,
    /// Missed by the medians, but within the interval.
    Even,
    Missed,
}

impl Came {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Even => "even: the interval has 1 in it",
            Self::Missed => "**missed**",
        }
    }
}

impl Check {
    pub(crate) fn new(what: impl Into<String>, found: String, target: String, met: bool) -> Self {
        let came = if met { Came::Met } else { Came::Missed };
        Self { what: what.into(), found, target, came }
    }
}

/// All targets of a section: those of its measures, then its own.
pub(crate) fn of_section(section: &Section) -> Vec<Check> {
    let of_measures = section.measures.iter().flat_map(of_measure);
    of_measures.chain(section.checks.iter().cloned()).collect()
}

fn of_measure(measure: &Measure) -> Vec<Check> {
    let ours = Who::ALL.into_iter().filter(|who| who.is_ours());
    ours.filter_map(|who| match measure.better {
        Better::Never => never(measure, who),
        // Raft's durable writes are its own, an etcd client's are etcd's: so the section sets Raft's targets.
        _ if who == Who::Peers || !measure.judged => None,
        Better::Less | Better::More => against_rivals(measure, who),
        Better::Neither => None,
    })
    .collect()
}

fn never(measure: &Measure, who: Who) -> Option<Check> {
    let sample = measure.sample(who)?;
    let what = format!("{}: {}", who.title(), measure.what);
    Some(Check::new(what, measure.cell(who), "never".to_owned(), sample.above_zero() == 0))
}

fn against_rivals(measure: &Measure, who: Who) -> Option<Check> {
    let ours = measure.sample(who)?;
    let rivals = who.rivals().filter(|rival| measure.is_alike(*rival));
    let measured = rivals.filter_map(|rival| Some((rival, measure.sample(rival)?)));
    let by_median =
        |(_, a): &(_, &super::Sample), (_, b): &(_, &super::Sample)| a.median().total_cmp(&b.median());
    let (best, target) = match measure.better {
        Better::More => (measured.max_by(by_median)?, "at least 1"),
        _ => (measured.min_by(by_median)?, "at most 1"),
    };
    let ratio = ours.ratio_to(best.1);
    let found = format!("{ratio} of {}'s", best.0.title());
    let came = judge(ratio, measure.better);
    Some(Check { what: format!("{}: {}", who.title(), measure.what), found, target: target.to_owned(), came })
}

/// Judges the printed numbers.
fn judge(ratio: Ratio, better: Better) -> Came {
    let hundredths = |value: f64| (value * 100.0).round() / 100.0;
    let (met, allowed) = match better {
        Better::More => (hundredths(ratio.value) >= 1.0, hundredths(ratio.high) >= 1.0),
        _ => (hundredths(ratio.value) <= 1.0, hundredths(ratio.low) <= 1.0),
    };
    match (met, allowed) {
        (true, _) => Came::Met,
        (false, true) => Came::Even,
        (false, false) => Came::Missed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{number::Unit, sample::Sample};

    fn values(values: impl IntoIterator<Item = f64>) -> Sample {
        values.into_iter().collect()
    }

    fn handoff(ours: &[f64], twin: &[f64], go: &[f64]) -> Check {
        let mut measure = Measure::new("handoff", "handoff", Unit::Milliseconds, Better::Less);
        for (who, of) in [(Who::Elect, ours), (Who::Twin, twin), (Who::Go, go)] {
            measure.add(who, values(of.iter().copied()));
        }
        let [check] = of_measure(&measure).try_into().expect("one of ours was measured");
        check
    }

    #[test]
    fn ours_is_held_against_the_fastest_rival() {
        let check = handoff(&[4.0; 20], &[5.0; 20], &[3.0; 20]);
        assert_eq!(check.found, "1.33 [1.33–1.33] of Go concurrency's");
        assert_eq!(check.came, Came::Missed);
        assert_eq!(handoff(&[3.0; 20], &[5.0; 20], &[3.0; 20]).came, Came::Met);
    }

    #[test]
    fn what_the_interval_allows_for_is_even() {
        assert_eq!(handoff(&[2.0, 4.0, 6.0], &[3.0; 20], &[9.0]).came, Came::Even);
    }

    #[test]
    fn a_rate_is_good_when_it_is_larger() {
        let mut measure = Measure::new("crowd", "handoffs", Unit::PerSecond, Better::More);
        measure.add(Who::Elect, values([900.0]));
        measure.add(Who::Twin, values([800.0]));
        measure.add(Who::Go, values([1000.0]));
        assert_eq!(of_measure(&measure)[0].came, Came::Missed);
        measure.add(Who::Elect, values([1001.0]));
        assert_eq!(of_measure(&measure)[0].came, Came::Met);
    }

    #[test]
    fn a_cost_is_no_race() {
        let mut measure = Measure::new("memory", "memory", Unit::Mebibytes, Better::Less).not_judged();
        measure.add(Who::Elect, values([5.0]));
        measure.add(Who::Twin, values([4.0]));
        assert_eq!(of_measure(&measure), []);
    }

    #[test]
    fn a_rival_under_other_conditions_is_no_measure() {
        let mut measure = Measure::new("crash", "crash", Unit::Seconds, Better::Less);
        measure.add(Who::Elect, values([5.0]));
        measure.add_but(Who::EtcdctlElect, values([1.0]), Some("TTL 1 s".to_owned()));
        assert_eq!(of_measure(&measure), []);
    }

    #[test]
    fn runners_are_held_against_runners() {
        let mut measure = Measure::new("start", "start", Unit::Milliseconds, Better::Less);
        for (who, value) in [(Who::ElectRun, 20.0), (Who::Twin, 1.0), (Who::EtcdctlLock, 40.0)] {
            measure.add(who, values([value]));
        }
        let [check] = of_measure(&measure).try_into().expect("one of ours was measured");
        assert_eq!(check.found, "0.50 [0.50–0.50] of etcdctl lock's");
    }

    #[test]
    fn one_violation_of_ours_misses_the_target_whatever_the_rivals_do() {
        let mut measure = Measure::new("overlap", "two claim", Unit::Milliseconds, Better::Never);
        measure.add(Who::Elect, values([0.0, 0.0]));
        measure.add(Who::Twin, values([9.0, 9.0]));
        assert_eq!(of_measure(&measure)[0].came, Came::Met);
        measure.add(Who::Elect, values([0.0, 0.1]));
        assert_eq!(of_measure(&measure)[0].came, Came::Missed);
    }
}
