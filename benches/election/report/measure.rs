//! One quantity, measured of each contender.

use std::collections::BTreeMap;

use super::{number::Unit, sample::Sample, who::Who};

/// A quantity measured of several contenders in the same way.
#[derive(Debug)]
pub(crate) struct Measure {
    /// The name of its plot's file.
    pub(crate) name: &'static str,
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) better: Better,
    /// Whether it is in the README's table.
    pub(crate) headline: bool,
    pub(crate) plotted: bool,
    /// Whether our result must not be worse than a rival's.
    pub(crate) judged: bool,
    /// The floors it is compared with.
    pub(crate) beside: Beside,
    /// The upper limit of the observation.
    pub(crate) watched: Option<f64>,
    pub(crate) outcomes: BTreeMap<Who, Outcome>,
}

/// The better direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Less,
    More,
    /// Any occurrence is a violation; 0 for a trial without one.
    Never,
    /// For information.
    Neither,
}

/// The floors of the run that a measure is a multiple of.
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
        /// Conditions that differ from the others'.
        but: Option<String>,
    },
    /// The reason why it is missing.
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

    /// Shows a cost that is limited by its section, and not compared with rivals.
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

    /// The same, with conditions that differ from the others'.
    pub(crate) fn add_but(&mut self, who: Who, sample: Sample, but: Option<String>) {
        self.outcomes.insert(who, Outcome::Measured { sample, but });
    }

    pub(crate) fn missing(&mut self, who: Who, why: impl Into<String>) {
        self.outcomes.insert(who, Outcome::Missing(why.into()));
    }

    /// A contender's sample, if it was measured.
    pub(crate) fn sample(&self, who: Who) -> Option<&Sample> {
        match self.outcomes.get(&who)? {
            Outcome::Measured { sample, .. } if !sample.is_empty() => Some(sample),
            _ => None,
        }
    }

    /// Reports whether a contender was measured under the same conditions as ours.
    pub(crate) fn is_alike(&self, who: Who) -> bool {
        matches!(self.outcomes.get(&who), Some(Outcome::Measured { but: None, .. }))
    }

    /// A table cell: the median; for violations their number and the worst.
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

    /// The largest value, marked if it is the upper limit of the observation.
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
