//! `make torture`: real candidates, on a real etcd or among themselves, with every kind of fault at once, and
//! a checker of their beliefs.
//!
//! ```text
//!  seed ─► nemesis ─► test_run (candidates, system, testbed) ─► history ─► terms ─► checker ─► violations
//!                                                                            └───► availability, timeline
//! ```
//!
//! | | |
//! |---|---|
//! | `backend` | the differences between etcd and peers, in numbers |
//! | `history` `terms` `log` `checker` `availability` `timeline` | pure: from notes to violations |
//! | `nemesis` | pure: from a seed to a schedule |
//! | `testbed` `candidates` `system` `operator` `places` `clocks` `test_run` `targets` | the real processes and their surroundings |
//! | `programs` `belief` | the candidates' notes, and their parser |
//!
//! A run is as repeatable as real processes allow: the same seed gives the same schedule, not the same run.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

#[path = "../support/mod.rs"]
mod support;

/// Module path of the codec that the generated protocol code names.
mod peers {
    pub(crate) mod wire {
        pub(crate) use tonic_prost::ProstCodec as ShortAtFirst;
    }
}

#[path = "../support/impostor.rs"]
mod impostor;

mod availability;
mod backend;
mod belief;
mod candidates;
mod checker;
mod clocks;
mod history;
mod log;
mod nemesis;
mod operator;
mod places;
mod system;
mod targets;
mod terms;
mod test_run;
mod testbed;
mod timeline;

/// Programs that the runs start as processes of their own; no tests.
mod programs;

use std::{env, fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command, time::Duration};

use tempfile::TempDir;

use self::{
    availability::Availability,
    backend::Backend,
    candidates::Paths,
    checker::{Violation, violations},
    history::History,
    terms::Terms,
    test_run::{Plan, TestRun},
};

/// A run's result.
struct RunResult {
    violations: Vec<Violation>,
    report: String,
    terms: usize,
}

/// A run's files, in a directory of its own below `target/torture`.
fn directory(on: Backend, seed: u64) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("torture");
    fs::create_dir_all(&root).unwrap();
    let dir = tempfile::Builder::new().prefix(&format!("{on}-seed-{seed}-")).tempdir_in(root).unwrap();
    dir.keep()
}

/// The peers' data directories: in memory if possible, as SIGKILL loses nothing that was written. A disk that
/// others keep busy may take seconds to sync, without a leader meanwhile: that would test the disk, not the peers.
fn beside_the_disk() -> TempDir {
    let memory = tempfile::Builder::new().prefix("elect-torture-").tempdir_in("/dev/shm");
    memory.or_else(|_| TempDir::new()).expect("there is a place for temporary files")
}

fn judge(plan: &Plan, history: &History, paths: &Paths, picture: bool) -> RunResult {
    let bounds = plan.on().bounds();
    let terms = Terms::of(history.events());
    let violations = violations(history, &terms, bounds);
    let report = Availability::of(history, &terms, bounds).to_string();
    if picture || !violations.is_empty() {
        let heading = format!("make torture ON={}, seed {}", plan.on(), plan.schedule.seed);
        fs::write(paths.dir.join("timeline.svg"), timeline::draw(history, &terms, &violations, &heading))
            .unwrap();
        let lines: Vec<String> =
            history.events().iter().map(|event| serde_json::to_string(event).unwrap()).collect();
        fs::write(paths.dir.join("history.jsonl"), lines.join("\n") + "\n").unwrap();
        let found: String = violations.iter().map(|violation| format!("{violation}\n")).collect();
        fs::write(paths.dir.join("report.txt"), format!("{found}\n{report}")).unwrap();
    }
    RunResult { violations, report, terms: terms.all().len() }
}

/// Runs a plan and judges it. Its files stay if there is a violation, or if a picture is asked for.
fn run(plan: Plan, picture: bool) -> RunResult {
    let data = beside_the_disk();
    let paths = Paths { dir: directory(plan.on(), plan.schedule.seed), data: data.path().to_owned() };
    fs::write(paths.secret(), candidates::SECRET).unwrap();
    fs::set_permissions(paths.secret(), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(paths.dir.join("schedule.txt"), plan.schedule.to_string()).unwrap();
    let history = TestRun::set(plan.clone(), &paths).play();
    let judged = judge(&plan, &history, &paths, picture);
    if judged.violations.is_empty() && !picture {
        fs::remove_dir_all(&paths.dir).unwrap();
    } else {
        let _ = Command::new("cp").arg("-r").args([data.path(), &paths.dir.join("data")]).status();
        println!("all of it is in {}", paths.dir.display());
    }
    judged
}

fn told(violations: &[Violation]) -> String {
    violations.iter().map(|violation| format!("  {violation}\n")).collect()
}

/// A number from the environment, for `make torture`.
fn number(name: &str) -> Option<f64> {
    let text = env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn is_set(name: &str) -> bool {
    env::var(name).is_ok_and(|value| !value.is_empty())
}

/// The length of one run of many: enough for dozens of faults, short enough to inspect.
const LONGEST_RUN: Duration = Duration::from_secs(150);

/// The backends to test: all, unless one is named.
fn backends() -> Vec<Backend> {
    let named = env::var("ON").unwrap_or_default();
    let wanted = |on: &Backend| named.is_empty() || on.to_string() == named;
    let backends: Vec<Backend> = Backend::ALL.into_iter().filter(wanted).collect();
    assert!(!backends.is_empty(), "ON={named} is neither etcd nor peers");
    backends
}

#[test]
#[ignore = "make torture MINUTES=m SEED=n ON=etcd|peers"]
fn torture() {
    let backends = backends();
    let minutes = number("MINUTES").unwrap_or(backends.len() as f64);
    let each = Duration::from_secs_f64(60.0 * minutes).div_f64(backends.len() as f64);
    let first = number("SEED").map_or_else(|| fastrand::u64(1..1_000_000), |seed| seed as u64);
    // Recovery and stopping take time too.
    let rest = Duration::from_secs(20);
    let runs = (each.as_secs_f64() / LONGEST_RUN.as_secs_f64()).ceil().max(1.0);
    let trouble = each.div_f64(runs).saturating_sub(rest).max(Duration::from_secs(5));
    let mut broken = Vec::new();
    for (seed, on) in (first..first + runs as u64).flat_map(|seed| backends.iter().map(move |on| (seed, *on)))
    {
        let mut plan = Plan::of(on, seed, trouble);
        plan.aloud = true;
        plan.loopback = is_set("LOOPBACK");
        println!("\n{}", plan.schedule);
        let judged = run(plan, is_set("TIMELINE"));
        println!("\n{}", judged.report);
        if !judged.violations.is_empty() {
            println!("seed {seed} on {on} breaks\n{}", told(&judged.violations));
            broken.push(format!("ON={on} SEED={seed}"));
        }
    }
    assert!(
        broken.is_empty(),
        "violations in these runs: {broken:?}; make torture {} repeats the first",
        broken[0]
    );
}

/// A short run, for every test run.
fn breaks_nothing(plan: Plan) {
    let judged = run(plan, false);
    assert!(judged.violations.is_empty(), "\n{}\n{}", told(&judged.violations), judged.report);
    assert!(judged.terms > 1, "a run without a takeover shows nothing");
}

#[test]
fn a_short_run_breaks_nothing() {
    breaks_nothing(Plan::of(Backend::Etcd, 5, Duration::from_secs(18)));
}

#[test]
fn a_short_run_among_peers_breaks_nothing() {
    breaks_nothing(Plan::of(Backend::Peers, 3, Duration::from_secs(16)));
}

#[test]
fn a_short_run_among_peers_on_loopback_breaks_nothing() {
    let mut plan = Plan::of(Backend::Peers, 2, Duration::from_secs(10));
    plan.loopback = true;
    breaks_nothing(plan);
}

#[test]
fn a_short_run_on_loopback_breaks_nothing() {
    let mut plan = Plan::of(Backend::Etcd, 11, Duration::from_secs(12));
    plan.loopback = true;
    let judged = run(plan, false);
    assert!(judged.violations.is_empty(), "\n{}\n{}", told(&judged.violations), judged.report);
}
