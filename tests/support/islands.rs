//! Hosts of their own on this machine: network namespaces, joined by a bridge, that can be cut off from each
//! other in one direction or in both.
//!
//! Each namespace belongs to a process that does nothing else. So it has no name, and nothing of it is left
//! once that process is gone, however the test ended.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    thread,
};

use super::{
    elect::Elect,
    eventually::eventually,
    process::{self, Process},
    server::SOON,
};

/// Hosts that reach each other.
#[derive(Debug)]
pub(crate) struct Islands {
    hosts: Vec<Process>,
    _bridge: Process,
}

/// What is needed to make them, beside root's rights.
const TOOLS: [&str; 4] = ["ip", "nft", "nsenter", "unshare"];

impl Islands {
    /// So many, or `None`, said aloud, where this machine does not allow it.
    pub(crate) fn try_new(count: usize) -> Option<Self> {
        if let Some(missing) = TOOLS.iter().find(|tool| !runs(tool)) {
            return skipped(&format!("there is no {missing}"));
        }
        let allowed =
            Command::new("unshare").args(["--net", "nft", "add", "table", "inet", "probe"]).output();
        let allowed = allowed.expect("unshare runs");
        if !allowed.status.success() {
            return skipped(String::from_utf8_lossy(&allowed.stderr).trim());
        }
        let bridge = namespace("bridge");
        inside(&bridge, "ip", "link add hub type bridge");
        inside(&bridge, "ip", "link set hub up");
        let hosts = (0..count).map(|place| {
            let host = namespace(&format!("host {place}"));
            let port = format!("port{place}");
            inside(&bridge, "ip", &format!("link add {port} type veth peer name net netns {}", host.id()));
            inside(&bridge, "ip", &format!("link set {port} master hub up"));
            inside(&host, "ip", &format!("address add {}/24 dev net", ip(place)));
            inside(&host, "ip", "link set net up");
            inside(&host, "ip", "link set lo up");
            inside(&host, "nft", "add table inet cut");
            inside(&host, "nft", "add chain inet cut from { type filter hook input priority 0 ; }");
            host
        });
        Some(Self { hosts: hosts.collect(), _bridge: bridge })
    }

    /// Where a server on that host listens.
    pub(crate) fn address(place: usize) -> String {
        format!("{}:10000", ip(place))
    }

    /// `elect ARGS…` on that host.
    pub(crate) fn elect(&self, place: usize, args: Vec<String>) -> Elect {
        let namespace = format!("--net=/proc/{}/ns/net", self.hosts[place].id());
        let before = [namespace, "--".into(), env!("CARGO_BIN_EXE_elect").into()];
        Elect::of("nsenter", before.into_iter().chain(args))
    }

    /// Nothing that `from` sends reaches `to` any more. What it already had sent has.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        inside(&self.hosts[to], "nft", &format!("add rule inet cut from ip saddr {} drop", ip(from)));
    }

    /// Nothing passes between `place` and any other host.
    pub(crate) fn cut_off(&self, place: usize) {
        for other in (0..self.hosts.len()).filter(|other| *other != place) {
            self.cut(place, other);
            self.cut(other, place);
        }
    }

    /// All reach each other again.
    pub(crate) fn heal(&self) {
        for host in &self.hosts {
            inside(host, "nft", "flush chain inet cut from");
        }
    }
}

fn ip(place: usize) -> String {
    format!("10.0.0.{}", place + 1)
}

fn runs(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok()
}

/// Past the test harness, which shows nothing of a test that passes.
fn skipped<T>(why: &str) -> Option<T> {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "{name}: SKIPPED, as no hosts can be made here: {why}");
    None
}

fn namespace(name: &str) -> Process {
    let mut command = process::command("unshare");
    command.args(["--net", "sleep", "infinity"]);
    let holder = Process::start(name, command);
    // Until then it is still in ours.
    let ours = std::fs::read_link("/proc/self/ns/net").expect("Linux has had namespaces for long");
    eventually(SOON, "a namespace", || {
        let theirs = std::fs::read_link(format!("/proc/{}/ns/net", holder.id())).ok()?;
        (theirs != ours).then_some(())
    });
    holder
}

#[track_caller]
fn inside(host: &Process, program: &str, args: &str) {
    let namespace = format!("--net=/proc/{}/ns/net", host.id());
    let done = Command::new("nsenter").args([&namespace, "--", program]).args(args.split(' ')).output();
    let done = done.expect("nsenter runs");
    assert!(done.status.success(), "{program} {args}: {}", String::from_utf8_lossy(&done.stderr));
}
