//! A benchmark run's results, and the documents made of them.
//!
//! Nothing here measures: no process, no clock, no file. So the same results always give the same documents,
//! byte for byte, and `tests/bench_report.rs` tests them without an etcd. (It includes this directory by its
//! path, which is why there is a `mod.rs`.)

#![allow(
    dead_code,
    unused_imports,
    reason = "the benchmark and the test each use their own part, and the benchmark drops the functions with #[test]"
)]

pub(crate) mod document;
pub(crate) mod measure;
pub(crate) mod number;
pub(crate) mod plot;
pub(crate) mod sample;
pub(crate) mod table;
pub(crate) mod verdict;
pub(crate) mod who;

use self::{measure::Measure, sample::Sample, verdict::Check, who::Who};

/// All results of one run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// The setting, as name and value: machine, kernel, versions.
    pub(crate) setting: Vec<(&'static str, String)>,
    /// Contenders, with program and version, or the reason why one is missing.
    pub(crate) contenders: Vec<(Who, Result<String, String>)>,
    pub(crate) floors: Floors,
    pub(crate) sections: Vec<Section>,
    /// Failed measurements.
    pub(crate) failed: Vec<String>,
}

/// Lower bounds for any election, in milliseconds, measured in the same run.
#[derive(Debug, Default)]
pub(crate) struct Floors {
    /// From a client's delete to another client's watch event.
    pub(crate) event: Sample,
    /// A small durable write on etcd's disk.
    pub(crate) fdatasync: Sample,
}

/// One subject.
#[derive(Debug)]
pub(crate) struct Section {
    /// Its name on the command line of `make bench`.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// Start and end of the measured time, and the conditions.
    pub(crate) how: String,
    pub(crate) measures: Vec<Measure>,
    pub(crate) checks: Vec<Check>,
    pub(crate) notes: Vec<String>,
    /// Failed measurements of this section.
    pub(crate) failed: Vec<String>,
}

impl Section {
    pub(crate) fn new(name: &'static str, title: &'static str, how: impl Into<String>) -> Self {
        Self {
            name,
            title,
            how: how.into(),
            measures: Vec::new(),
            checks: Vec::new(),
            notes: Vec::new(),
            failed: Vec::new(),
        }
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// A number that may not be larger than `limit`.
    pub(crate) fn at_most(&mut self, what: &str, unit: &str, value: f64, limit: f64, detail: &str) {
        if value.is_nan() {
            // Nothing was measured, which is no missed target.
            self.failed.push(what.to_owned());
            return;
        }
        let found = [&format!("{} {unit}", number::short(value)), detail];
        let found = found.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
        let wanted = format!("at most {} {unit}", number::limit(limit));
        self.checks.push(Check::new(what, found, wanted, value <= limit));
    }

    /// A number that may not be smaller than `limit`.
    pub(crate) fn at_least(&mut self, what: &str, unit: &str, value: f64, limit: f64) {
        let found = format!("{} {unit}", number::short(value));
        let wanted = format!("at least {} {unit}", number::limit(limit));
        self.checks.push(Check::new(what, found, wanted, value >= limit));
    }

    /// Number of good trials; all of them should be.
    pub(crate) fn all(&mut self, what: &str, good: usize, of: usize, detail: &str) {
        let found = [&format!("{good} of {of}"), detail];
        let found = found.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
        self.checks.push(Check::new(what, found, "all".to_owned(), good == of && of > 0));
    }
}

impl Report {
    /// Every target of the run, with its result.
    pub(crate) fn checks(&self) -> Vec<Check> {
        self.sections.iter().flat_map(verdict::of_section).collect()
    }

    pub(crate) fn measures(&self) -> impl Iterator<Item = &Measure> {
        self.sections.iter().flat_map(|section| &section.measures)
    }

    /// All failed measurements.
    pub(crate) fn failures(&self) -> Vec<&str> {
        let of_sections = self.sections.iter().flat_map(|section| &section.failed);
        self.failed.iter().chain(of_sections).map(String::as_str).collect()
    }
}
