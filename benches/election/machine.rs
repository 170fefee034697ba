//! The machine and the versions that were measured.

use std::{env, fs, path::Path, process::Command};

use crate::{
    Bench, NO_FSYNC,
    programs::{self, PROGRAMS},
};

pub(crate) fn setting(bench: &Bench) -> Vec<(&'static str, String)> {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "CPU".into());
    let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let disk =
        if env::var_os(NO_FSYNC).is_some() { "does not wait for its disk" } else { "waits for its disk" };
    let commit = output("git", &["-C", programs::ROOT, "describe", "--always", "--dirty"]);
    let elect = programs::version(programs::elect(), &["--version"], "elect ").unwrap_or_default();
    let mut setting = vec![
        ("date", output("date", &["--utc", "+%F"])),
        ("machine", format!("{cpus} × {cpu}, {memory}")),
        ("kernel", format!("Linux {}", line("/proc/sys/kernel/osrelease"))),
        ("load", format!("{} before the run", line("/proc/loadavg"))),
        ("elect", format!("{elect} at {commit}, {}", output("rustc", &["--version"]))),
        ("etcd", format!("{}, one member, {disk}", bench.etcd.admin().status().version)),
        ("etcd-client", format!("{} (Rust)", locked("etcd-client"))),
    ];
    if env::var_os(PROGRAMS).is_some() {
        setting.push(("measured", programs::elect().display().to_string()));
    }
    if bench.scale.is_quick() {
        setting.push(("QUICK", "few trials: this shows that it runs, no more".to_owned()));
    }
    setting
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn output(program: &str, args: &[&str]) -> String {
    match Command::new(program).args(args).output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// The version of a dependency, from the lock file.
fn locked(package: &str) -> String {
    let lock = fs::read_to_string(Path::new(programs::ROOT).join("Cargo.lock")).unwrap_or_default();
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name).skip(1);
    let version = lines.next().and_then(|line| line.split('"').nth(1));
    version.unwrap_or("unknown").to_owned()
}
