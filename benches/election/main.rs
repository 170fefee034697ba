//! The numbers that this project promises, measured on one real etcd in one run.
//!
//! `make bench`, or `cargo bench --bench election -- handoff idle` for some of them. `BENCH_QUICK=1` does
//! few trials, to see that everything runs; its numbers mean little. `BENCH_NO_FSYNC=1` keeps etcd from waiting
//! for its disk, as in production it does. `BENCH_PROGRAMS=DIR` measures the `elect`, `bench-twin` and `bench-library` in that directory.
//!
//! What is compared is compared within the run: a trial of ours, then one of the *twin* (`benches/twin`, a
//! bare program on etcd-client), and so on, so that whatever else the machine does falls on both alike.

// The harness of the integration tests: real servers, real processes, a network that fails.
#[path = "../../tests/support/mod.rs"]
mod support;

mod claims;
mod crowd;
mod failover;
mod frozen;
mod handoff;
mod http;
mod idle;
mod machine;
mod outage;
mod programs;
mod report;
mod run;
mod sample;
mod size;
mod start;
mod trials;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use self::{
    report::Report,
    support::etcd::{Etcd, EtcdVersion},
    trials::Scale,
};

/// What every measurement works with.
pub(crate) struct Bench {
    pub(crate) etcd: Etcd,
    pub(crate) scale: Scale,
}

type Measurement = (&'static str, fn(&Bench, &mut Report));

const MEASUREMENTS: [Measurement; 10] = [
    ("size", size::measure),
    ("start", start::measure),
    ("handoff", handoff::measure),
    ("crowd", crowd::measure),
    ("idle", idle::measure),
    ("failover", failover::measure),
    ("frozen", frozen::measure),
    ("outage", outage::measure),
    ("run", run::measure),
    ("http", http::measure),
];

fn main() -> ExitCode {
    // This program is also the command that `elect run` runs in its measurements.
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
    let bench = Bench { etcd: etcd().start(), scale: Scale::from_env() };
    println!("{}", machine::description(&bench));
    let mut report = Report::new();
    for (name, measure) in MEASUREMENTS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            let measured = catch_unwind(AssertUnwindSafe(|| measure(&bench, &mut report)));
            if measured.is_err() {
                report.failed(name);
            }
        }
    }
    report.summary()
}

/// Set for an etcd that does not wait for its disk.
pub(crate) const NO_FSYNC: &str = "BENCH_NO_FSYNC";

/// The etcd that all is measured on.
pub(crate) fn etcd() -> support::etcd::EtcdBuilder {
    let etcd = Etcd::builder(EtcdVersion::V3_7);
    if env::var_os(NO_FSYNC).is_some() { etcd } else { etcd.fsync() }
}
