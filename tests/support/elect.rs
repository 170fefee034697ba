//! The real `elect`, as built for this test run.

use std::{env, ffi::OsStr, path::PathBuf, process::Command};

use super::{capture::Captured, process};

/// The file of `elect`. Cargo tells integration tests; beside a benchmark it lies in the profile's directory.
pub(crate) fn program() -> PathBuf {
    match option_env!("CARGO_BIN_EXE_elect") {
        Some(path) => path.into(),
        None => {
            let this = env::current_exe().expect("Linux tells a program its path");
            this.ancestors().nth(2).expect("it is in PROFILE/deps").join("elect")
        }
    }
}

/// A command line of `elect`, which can be started repeatedly.
#[derive(Debug)]
#[must_use = "a command line starts nothing by itself"]
pub(crate) struct Elect {
    name: String,
    command: Command,
}

impl Elect {
    /// `elect ARGS…`. The environment configures nothing; a test adds variables.
    pub(crate) fn new<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Self {
        Self::of(program(), args)
    }

    /// The same, with another build of the binary.
    pub(crate) fn of<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = A>) -> Self {
        let mut command = process::command(program);
        unconfigured(&mut command).args(args);
        Self { name: "elect".to_owned(), command }
    }

    /// `elect server NAME --etcd ENDPOINTS --log-format plain`.
    pub(crate) fn server(name: &str, endpoints: &str) -> Self {
        let mut elect = Self::new(["server", name, "--etcd", endpoints, "--log-format", "plain"]);
        elect.name = format!("elect server {name}");
        elect
    }

    /// Sets its name in a test's reports.
    pub(crate) fn called(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    pub(crate) fn current_dir(mut self, dir: impl AsRef<std::path::Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Starts it, with both outputs captured.
    pub(crate) fn start(self) -> Captured {
        Captured::start(&self.name, self.command)
    }
}

/// Removes variables from its environment that would configure it.
pub(crate) fn unconfigured(command: &mut Command) -> &mut Command {
    for (key, _) in env::vars_os() {
        let configures =
            key.as_encoded_bytes().starts_with(b"ELECT_") || key == "RUST_LOG" || key == "NO_COLOR";
        if configures {
            command.env_remove(key);
        }
    }
    command
}
