//! One quantity, as measured of each contender.

use std::collections::BTreeMap;

use super::{number::Unit, sample::Sample, who::Who};

/// Something that was measured of several contenders in the same way.
#[derive(Debug)]
pub(crate) struct Measure {
    /// Names its plot's file.
    pub(crate) name: &'static str,
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) better: Better,
    /// Whether the README's table has it.
    pub(crate) headline: bool,
    pub(crate) plotted: bool,
    /// Whether ours may not be worse than a rival's.
    pub(crate) judged: bool,
    /// Which floors it is compared with.
    pub(crate) beside: Beside,
    /// The most that the trials could show: they were watched no longer.
    pub(crate) watched: Option<f64>,
    pub(crate) outcomes: BTreeMap<Who, Outcome>,
}

/// What is a good number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Less,
    More,
    /// None at all: each is a violation. 0 where a trial showed none.
    Never,
    /// For information.
    Neither,
}

/// Which of the run's floors a measure is a multiple of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    Nothing,
    /// One delete to its watch event, and one fdatasync.
    Floors,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    Measured {
        sample: Sample,
        /// Under what other conditions than the rest.
        but: Option<String>,
    },
    /// Why there is nothing.
    Missing(String),
}

impl Measure {
    pub(crate) fn new(name: &'static str, what: impl Into<String>, unit: Unit, better: Better) -> Self {
        Self {
            name,
            what: what.into(),
            unit,
            better,
            headline: false,
            plotted: false,
            judged: true,
            beside: Beside::Nothing,
            watched: None,
            outcomes: BTreeMap::new(),
        }
    }

    pub(crate) fn headline(mut self) -> Self {
        self.headline = true;
        self
    }

    pub(crate) fn plotted(mut self) -> Self {
        self.plotted = true;
        self
    }

    /// What it costs is shown, and limited by its section; it is no race.
    pub(crate) fn not_judged(mut self) -> Self {
        self.judged = false;
        self
    }

    pub(crate) fn beside_floors(mut self) -> Self {
        self.beside = Beside::Floors;
        self
    }

    pub(crate) fn watched_for(mut self, most: f64) -> Self {
        self.watched = Some(most);
        self
    }

    pub(crate) fn add(&mut self, who: Who, sample: Sample) {
        self.outcomes.insert(who, Outcome::Measured { sample, but: None });
    }

    /// The same, with a condition that was not that of the others.
    pub(crate) fn add_but(&mut self, who: Who, sample: Sample, but: Option<String>) {
        self.outcomes.insert(who, Outcome::Measured { sample, but });
    }

    pub(crate) fn missing(&mut self, who: Who, why: impl Into<String>) {
        self.outcomes.insert(who, Outcome::Missing(why.into()));
    }

    /// What was measured of one, if it was.
    pub(crate) fn sample(&self, who: Who) -> Option<&Sample> {
        match self.outcomes.get(&who)? {
            Outcome::Measured { sample, .. } if !sample.is_empty() => Some(sample),
            _ => None,
        }
    }

    /// Whether one was measured under the same conditions as ours.
    pub(crate) fn is_alike(&self, who: Who) -> bool {
        matches!(self.outcomes.get(&who), Some(Outcome::Measured { but: None, .. }))
    }

    /// In one cell: the median; of violations how many there were, and the worst.
    pub(crate) fn cell(&self, who: Who) -> String {
        let Some(sample) = self.sample(who) else { return "–".to_owned() };
        let mut cell = match self.better {
            Better::Never => self.violations(sample),
            _ => self.unit.of(sample.median()),
        };
        if let Some(Outcome::Measured { but: Some(but), .. }) = self.outcomes.get(&who) {
            cell.push_str(&format!(" ({but})"));
        }
        cell
    }

    /// The largest, marked where it was as large as could be seen.
    pub(crate) fn most(&self, sample: &Sample) -> String {
        match self.watched {
            Some(most) if sample.max() >= most => format!("≥ {}", self.unit.of(most)),
            _ => self.unit.of(sample.max()),
        }
    }

    fn violations(&self, sample: &Sample) -> String {
        let count = format!("{} of {}", sample.above_zero(), sample.len());
        match self.most(sample) {
            _ if sample.above_zero() == 0 => count,
            most if most.starts_with('≥') => format!("{count}, {most}"),
            most => format!("{count}, up to {most}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlap(values: impl IntoIterator<Item = f64>) -> Measure {
        let mut measure =
            Measure::new("overlap", "two claim", Unit::Milliseconds, Better::Never).watched_for(3000.0);
        measure.add(Who::Go, values.into_iter().collect());
        measure
    }

    #[test]
    fn a_cell_of_violations_counts_them() {
        assert_eq!(overlap([0.0, 0.0]).cell(Who::Go), "0 of 2");
        assert_eq!(overlap([0.0, 12.0, 480.0]).cell(Who::Go), "2 of 3, up to 480 ms");
    }

    #[test]
    fn a_violation_that_outlasted_the_watch_is_marked() {
        assert_eq!(overlap([3000.0]).cell(Who::Go), "1 of 1, ≥ 3,000 ms");
    }

    #[test]
    fn another_condition_is_in_the_cell() {
        let mut measure = Measure::new("crash", "crash", Unit::Seconds, Better::Less);
        measure.add_but(Who::EtcdctlElect, [60.0].into_iter().collect(), Some("TTL 60 s".to_owned()));
        measure.missing(Who::Go, "no Go");
        assert_eq!(measure.cell(Who::EtcdctlElect), "60.0 s (TTL 60 s)");
        assert_eq!(measure.cell(Who::Go), "–");
        assert!(!measure.is_alike(Who::EtcdctlElect));
    }
}
