//! What the numbers were measured on.

use std::{env, fs, process::Command};

use crate::{Bench, NO_FSYNC, programs};

pub(crate) fn description(bench: &Bench) -> String {
    let etcd = bench.etcd.admin().status().version;
    let disk = if env::var_os(NO_FSYNC).is_some() { "without fsync" } else { "waits for its disk" };
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "machine   {cpus} x {cpu}, {memory}, Linux {kernel}, load {load}\n\
         programs  leader-election {version} at {commit}, {rustc}\n\
         measured  {programs}\n\
         etcd      {etcd}, one member, {disk}; twin: etcd-client {client}\n\
         numbers   median / p95 / max; ratio of medians with its 95 % interval (bootstrap){quick}\n",
        cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "CPU".into()),
        memory = field("/proc/meminfo", "MemTotal").unwrap_or_default(),
        kernel = line("/proc/sys/kernel/osrelease"),
        load = line("/proc/loadavg"),
        version = env!("CARGO_PKG_VERSION"),
        commit = output("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
        programs = programs::elect().display(),
        rustc = output("rustc", &["--version"]),
        client = locked("etcd-client"),
        quick = if bench.scale.is_quick() {
            "\nQUICK     few trials: this shows that it runs, no more"
        } else {
            ""
        },
    )
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
    let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap_or_default();
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name).skip(1);
    let version = lines.next().and_then(|line| line.split('"').nth(1));
    version.unwrap_or("unknown").to_owned()
}
