//! The project's published numbers, measured on one real etcd in one run, beside those of other implementations.
//!
//! `make bench` writes docs/benchmarks.md and its plots; `make bench WHAT="handoff idle"` measures some of it, and
//! `BENCH_QUICK=1` does few trials, as a check that everything runs: those write into the target directory. `BENCH_NO_FSYNC=1`
//! keeps etcd from waiting for its disk, as it does in production. `BENCH_PROGRAMS=DIR` measures the `elect`,
//! `bench-twin` and `bench-library` in that directory.
//!
//! Comparisons are made within the run: contenders take turns, so that other load on the machine
//! affects all alike.

// The harness of the integration tests: real servers, real processes, a network that fails.
#[path = "../../tests/support/mod.rs"]
mod support;

mod claims;
mod contender;
mod crash;
mod crowd;
mod elections;
mod family;
mod far;
mod field;
mod floor;
mod freeze;
mod handoff;
mod http;
mod idle;
mod lifeline;
mod machine;
mod members;
mod outage;
mod output;
mod programs;
mod raft;
mod recovery;
mod report;
mod run;
mod size;
mod standby;
mod start;
mod trials;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use self::{
    report::{Floors, Report, Section, measure::Outcome, verdict::Came, who::Who},
    support::etcd::{Etcd, EtcdVersion},
    trials::Scale,
};

/// The state shared by all measurements.
pub(crate) struct Bench {
    pub(crate) etcd: Etcd,
    pub(crate) scale: Scale,
    present: Vec<(Who, Result<String, String>)>,
}

impl Bench {
    /// Contenders that can be measured here.
    pub(crate) fn contenders(&self) -> Vec<Who> {
        self.present.iter().filter(|(_, what)| what.is_ok()).map(|(who, _)| *who).collect()
    }
}

type Measurement = (&'static str, fn(&Bench, &mut Floors) -> Section);

/// Takes twenty minutes: measured only if named.
const LONG: &str = "recovery";

const MEASUREMENTS: [Measurement; 16] = [
    ("handoff", handoff::measure),
    ("crash", crash::measure),
    ("lifeline", lifeline::measure),
    ("freeze", freeze::measure),
    ("start", start::measure),
    ("idle", idle::measure),
    ("crowd", crowd::measure),
    ("elections", elections::measure),
    ("standby", standby::measure),
    ("raft", raft::measure),
    ("far", far::measure),
    ("run", run::measure),
    ("outage", outage::measure),
    (LONG, recovery::measure),
    ("http", http::measure),
    ("size", size::measure),
];

fn main() -> ExitCode {
    // This program is also the command of `elect run` in the measurements.
    support::worker::main();
    // Cargo adds `--bench`.
    let wanted: Vec<_> = env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let known = |name: &String| MEASUREMENTS.iter().any(|(known, _)| name == known);
    if let Some(unknown) = wanted.iter().find(|name| !known(name)) {
        let names = MEASUREMENTS.map(|(name, _)| name).join(", ");
        eprintln!("there is no measurement '{unknown}'; there are {names}");
        return ExitCode::from(2);
    }

    programs::build();
    let bench = Bench { etcd: etcd().start(), scale: Scale::from_env(), present: contender::present() };
    let mut report = Report { contenders: bench.present.clone(), ..Report::default() };
    report.setting = machine::setting(&bench);
    for (name, value) in &report.setting {
        println!("{name:<10} {value}");
    }
    println!();
    floor::measure(&bench, &mut report.floors, bench.scale.of(50, 3));
    for (name, measure) in MEASUREMENTS {
        if (wanted.is_empty() && name != LONG) || wanted.iter().any(|wanted| wanted == name) {
            match catch_unwind(AssertUnwindSafe(|| measure(&bench, &mut report.floors))) {
                Ok(section) => {
                    let section = with_the_absent(section, &bench);
                    output::show(&section, &report);
                    report.sections.push(section);
                }
                Err(_) => {
                    println!("{name}: could not be measured, see above\n");
                    report.failed.push(name.to_owned());
                }
            }
        }
    }
    // Measurements of other programs, or of a part, or in haste, must not become the documentation.
    let changed = [NO_FSYNC, programs::PROGRAMS].iter().any(|name| env::var_os(name).is_some());
    let is_documentation = wanted.is_empty() && !bench.scale.is_quick() && !changed;
    if let Err(error) = output::write(&report, is_documentation) {
        eprintln!("failed to write the report: {error}");
        return ExitCode::FAILURE;
    }
    summary(&report)
}

/// Lists the missing contenders in each measure.
fn with_the_absent(mut section: Section, bench: &Bench) -> Section {
    let absent = bench.present.iter().filter_map(|(who, what)| Some((*who, what.as_ref().err()?)));
    for (who, why) in absent {
        for measure in &mut section.measures {
            let alike = measure.outcomes.keys().any(|other| other.kind() == who.kind());
            if alike {
                measure.outcomes.entry(who).or_insert_with(|| Outcome::Missing(why.clone()));
            }
        }
    }
    section
}

/// A missed target is a result; a missing measurement is a failure.
fn summary(report: &Report) -> ExitCode {
    for check in report.checks().iter().filter(|check| check.came == Came::Missed) {
        println!("MISSED: {}: {}; {}", check.what, check.target, check.found);
    }
    let failures = report.failures();
    if failures.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("FAILED TO MEASURE: {}", failures.join("; "));
    ExitCode::FAILURE
}

/// Set for an etcd that does not wait for its disk.
pub(crate) const NO_FSYNC: &str = "BENCH_NO_FSYNC";

/// The etcd for all measurements.
pub(crate) fn etcd() -> support::etcd::EtcdBuilder {
    let etcd = Etcd::builder(EtcdVersion::V3_7);
    if env::var_os(NO_FSYNC).is_some() { etcd } else { etcd.fsync() }
}
