//! Makes a failing run shorter: leaves out everything that the violation does not need.

use std::fmt;

use super::{clock::Clock, invariant::Violation, network::Weather, plan::Plan, run};

/// Runs spent on it: enough for the few dozen faults of a plan, and over within a second or two.
const MOST_RUNS: usize = 300;

/// The part of a plan that is kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    /// The faults, by their index in the plan; `None` for all.
    faults: Option<Vec<usize>>,
    /// Nuisances that are left out.
    without: Vec<Nuisance>,
}

/// Disturbances of a run besides its faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nuisance {
    Weather,
    Lateness,
    Drift,
    Proposals,
}

impl Nuisance {
    const ALL: [(Self, &str); 4] = [
        (Self::Weather, "weather"),
        (Self::Lateness, "lateness"),
        (Self::Drift, "drift"),
        (Self::Proposals, "proposals"),
    ];
}

impl Kept {
    /// As printed by [`Display`](fmt::Display), out of `KEEP` and `WITHOUT`.
    pub(crate) fn from_environment() -> Self {
        let list = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let faults =
            list("KEEP").map(|text| text.split(',').filter_map(|place| place.parse().ok()).collect());
        let named = list("WITHOUT").unwrap_or_default();
        let without = Nuisance::ALL.iter().filter(|(_, name)| named.split(',').any(|it| it == *name));
        Self { faults, without: without.map(|(nuisance, _)| *nuisance).collect() }
    }

    /// The plan, reduced to the part that is kept.
    pub(crate) fn of(&self, mut plan: Plan) -> Plan {
        if let Some(faults) = &self.faults {
            plan.faults = faults.iter().filter_map(|place| plan.faults.get(*place).copied()).collect();
        }
        for nuisance in &self.without {
            match nuisance {
                Nuisance::Weather => plan.weather = Weather::FAIR,
                Nuisance::Lateness => plan.late = std::time::Duration::ZERO,
                Nuisance::Drift => plan.clocks.fill(Clock::RIGHT),
                Nuisance::Proposals => plan.propose_every = std::time::Duration::MAX,
            }
        }
        plan
    }

    fn faults_of(&self, plan: &Plan) -> Vec<usize> {
        self.faults.clone().unwrap_or_else(|| (0..plan.faults.len()).collect())
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let comma = |words: Vec<String>| words.join(",");
        if let Some(faults) = &self.faults {
            // A list without a place keeps none.
            let places = comma(faults.iter().map(usize::to_string).collect());
            write!(f, "KEEP={}", if places.is_empty() { "none" } else { &places })?;
        }
        let left_out = Nuisance::ALL.iter().filter(|(nuisance, _)| self.without.contains(nuisance));
        let names: Vec<String> = left_out.map(|(_, name)| (*name).to_owned()).collect();
        if names.is_empty() { Ok(()) } else { write!(f, " WITHOUT={}", comma(names)) }
    }
}

/// The smallest part found that breaks the same invariant, and the plan with only that.
pub(crate) fn shortened(plan: &Plan, violation: &Violation) -> (Kept, Plan) {
    let mut runs = 0;
    let mut breaks = |kept: &Kept| {
        runs += 1;
        let same = |found: &Violation| found.invariant == violation.invariant;
        runs <= MOST_RUNS && run(kept.of(plan.clone())).violation().is_some_and(same)
    };
    let mut kept = Kept::default();
    for (nuisance, _) in Nuisance::ALL {
        let mut less = kept.clone();
        less.without.push(nuisance);
        if breaks(&less) {
            kept = less;
        }
    }
    // Halves first, then quarters, down to single faults.
    let mut size = kept.faults_of(plan).len();
    while size > 0 {
        let mut start = 0;
        while start < kept.faults_of(plan).len() {
            let mut faults = kept.faults_of(plan);
            faults.drain(start..faults.len().min(start + size));
            let less = Kept { faults: Some(faults), ..kept.clone() };
            if breaks(&less) {
                kept = less;
            } else {
                start += size;
            }
        }
        size /= 2;
    }
    let shorter = kept.of(plan.clone());
    (kept, shorter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::mutant::Mutant;

    #[test]
    fn a_failing_run_is_shortened_and_still_fails() {
        let broken = |seed| Plan { mutant: Some(Mutant::IgnoresLogs), ..Plan::of(seed) };
        let failing = |seed: &u64| run(broken(*seed)).violation().is_some();
        let plan = (0..100).filter(failing).map(broken).find(|plan| plan.faults.len() > 5).unwrap();
        let violation = run(plan.clone()).violation().cloned().unwrap();

        let (kept, shorter) = shortened(&plan, &violation);

        assert!(shorter.faults.len() < plan.faults.len(), "{kept}");
        let again = run(shorter.clone()).violation().cloned().unwrap();
        assert_eq!(again.invariant, violation.invariant);
        let report = super::super::report(&plan, &violation);
        assert!(report.contains(&format!("make replay SEED={} {kept}", plan.seed)), "{report}");
        assert!(report.contains("VIOLATION"), "{report}");
    }
}
