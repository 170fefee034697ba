//! Programs used together with `elect`, in Debian's versions.
//!
//! `make test` installs them and then requires them all (`TEST_TOOLS=required`), so it skips no test
//! silently. Under a bare `cargo test`, a test whose program is missing prints so and passes.

use std::{
    env,
    path::PathBuf,
    process::{Command, Output},
};

/// Makes a missing program an error.
const REQUIRED: &str = "TEST_TOOLS";

/// The program, or `None` and a message that the test is skipped.
#[track_caller]
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let found = look_up(program);
    if found.is_none() {
        let required = env::var_os(REQUIRED).is_some_and(|value| value == "required");
        assert!(!required, "{program} is not installed; `make test-deps` does that");
        skipped(program);
    }
    found
}

/// As [`find`], for a program that `make test-deps` does not install.
pub(crate) fn find_where_present(program: &str) -> Option<PathBuf> {
    let found = look_up(program);
    if found.is_none() {
        skipped(program);
    }
    found
}

fn skipped(program: &str) {
    eprintln!("skipped: {program} is not installed");
}

fn look_up(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian's directory for haproxy, which not every PATH has.
    let dirs = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    dirs.map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Runs a program that must succeed, and returns its standard output.
#[track_caller]
pub(crate) fn succeeds(command: &mut Command) -> String {
    let output = run(command);
    let [out, err] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out
}

/// Runs a program to its end.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("failed to start {command:?}: {error}"))
}
