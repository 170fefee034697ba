//! A network namespace for each host, and one with the bridge between them.
//!
//! ```text
//!  elect-torture-PID-c0 … c6      eth0 ──veth──┐
//!  elect-torture-PID-m0 … m2      eth0 ──veth──┤ bridge, in elect-torture-PID-hub
//! ```
//!
//! The machine's own network is not touched: nothing of the test is in its namespace. All names include this process's id;
//! all is removed when this is dropped. The next run removes a killed run's leftovers, by name and only if that
//! process is gone.
//!
//! *Reachability* is the neighbour table: each host knows each other's hardware address by a permanent entry, and
//! an unused address for hosts that it must not reach. So a blocked packet is lost silently, in one direction,
//! and neither end notices. *Delay and loss* is netem on a host's outgoing packets, if the kernel has it. If not,
//! it is a slow link (a token bucket with a queue) and packets that iptables drops at random.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use nix::sched::{CloneFlags, setns};

use super::{Addresses, BadLinks, Blocked, Host};
use crate::{nemesis::LinkQuality, support::process};

const PREFIX: &str = "elect-torture-";

/// Documentation addresses (RFC 5737), which no network has.
const NETWORK: &str = "198.51.100";

/// A hardware address without an owner.
const UNUSED_ADDRESS: &str = "02:00:c6:33:64:fe";

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

#[derive(Debug)]
pub(crate) struct Namespaces {
    hosts: Vec<Host>,
    has_netem: bool,
    blocked: Blocked,
    bad_links: BadLinks,
    /// Last field: its drop removes them.
    names: Names,
}

/// The namespaces of this process. Removes them when dropped.
#[derive(Debug)]
struct Names {
    prefix: String,
    made: Vec<String>,
}

impl Namespaces {
    pub(super) fn new(candidates: usize, members: usize) -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("they need root".into());
        }
        sweep();
        let hosts: Vec<Host> =
            (0..candidates).map(Host::Candidate).chain((0..members).map(Host::Member)).collect();
        let mut names = Names { prefix: format!("{PREFIX}{}-", std::process::id()), made: Vec::new() };
        let hub = names.add("hub")?;
        // This process reaches all of them by the hub's address.
        let mut lines = format!(
            "link set dev lo up\nlink add name br0 type bridge\nlink set dev br0 up\naddr add {NETWORK}.250/24 dev br0\n"
        );
        for host in &hosts {
            let name = names.add(&label(*host))?;
            let number = number(*host);
            lines.push_str(&format!(
                "link add name veth{number} type veth peer name eth0 address {} netns {name}\n\
                 link set dev veth{number} master br0 up\n",
                hardware(*host)
            ));
        }
        batch(&hub, &lines)?;
        for host in &hosts {
            let mut lines = "link set dev lo up\nlink set dev eth0 up\n".to_owned();
            lines.push_str(&format!("addr add {NETWORK}.{}/24 dev eth0\n", number(*host)));
            for other in hosts.iter().filter(|other| *other != host) {
                lines.push_str(&neighbour(*other, &hardware(*other)));
            }
            batch(&names.of(*host), &lines)?;
        }
        let netem = ["-n", &hub, "qdisc", "replace", "dev", "veth1", "root", "netem", "delay", "1ms"];
        let has_netem = run("tc", &netem).is_ok();
        if has_netem {
            run("tc", &["-n", &hub, "qdisc", "del", "dev", "veth1", "root"])?;
        }
        Ok(Self { hosts, has_netem, blocked: Blocked::new(), bad_links: BadLinks::new(), names })
    }

    pub(super) fn describe(&self) -> String {
        let tool = if self.has_netem { "netem" } else { "a token bucket and iptables, for want of netem" };
        format!("a network namespace for each host; delay and loss by {tool}")
    }

    pub(super) fn command(&self, host: Host, program: &OsStr) -> Command {
        let mut command = process::command("ip");
        command.args(["netns", "exec", &self.names.of(host)]).arg(program);
        command
    }

    pub(super) fn addresses(host: Host) -> Addresses {
        let address = address(host);
        let peer = format!("{address}:{PEER_PORT}");
        Addresses { client: format!("{address}:{CLIENT_PORT}"), announced_peer: peer.clone(), peer }
    }

    pub(super) fn endpoints(&self) -> String {
        let members = self.hosts.iter().filter(|host| matches!(host, Host::Member(_)));
        members.map(|host| format!("{}:{CLIENT_PORT}", address(*host))).collect::<Vec<_>>().join(",")
    }

    pub(super) fn shape(&mut self, blocked: &Blocked, bad_links: &BadLinks) {
        for host in self.hosts.clone() {
            let mut lines = String::new();
            for other in self.hosts.iter().filter(|other| **other != host) {
                let pair = (host, *other);
                match (self.blocked.contains(&pair), blocked.contains(&pair)) {
                    (false, true) => lines.push_str(&neighbour(*other, UNUSED_ADDRESS)),
                    (true, false) => lines.push_str(&neighbour(*other, &hardware(*other))),
                    _ => {}
                }
            }
            if !lines.is_empty() {
                batch(&self.names.of(host), &lines)
                    .unwrap_or_else(|why| panic!("the network can't be shaped: {why}"));
            }
            if self.bad_links.get(&host) != bad_links.get(&host) {
                self.quality(host, bad_links.get(&host).copied());
            }
        }
        (self.blocked, self.bad_links) = (blocked.clone(), bad_links.clone());
    }

    fn quality(&self, host: Host, quality: Option<LinkQuality>) {
        let name = self.names.of(host);
        let tc = |args: &[&str]| run("tc", &[&["-n", &name, "qdisc"], args].concat());
        // Nothing to remove is no error.
        let _ = tc(&["del", "dev", "eth0", "root"]);
        if !self.has_netem {
            let _ = run("ip", &["netns", "exec", &name, "iptables", "-F", "OUTPUT"]);
        }
        let Some(LinkQuality { delay, jitter, lost }) = quality else { return };
        let (delay, jitter) = (format!("{}ms", delay.as_millis()), format!("{}ms", jitter.as_millis()));
        let done = if self.has_netem {
            let lost = format!("{lost}%");
            tc(&["add", "dev", "eth0", "root", "netem", "delay", &delay, &jitter, "loss", &lost])
        } else {
            let probability = format!("{:.2}", f64::from(lost) / 100.0);
            let drop = [
                "-A",
                "OUTPUT",
                "-m",
                "statistic",
                "--mode",
                "random",
                "--probability",
                &probability,
                "-j",
                "DROP",
            ];
            // Without iptables there is only delay.
            let _ = run("ip", &[&["netns", "exec", &name, "iptables"], &drop[..]].concat());
            // So slow that one candidate's packets queue up for about that long.
            let rate = if delay == "5ms" { "256kbit" } else { "64kbit" };
            tc(&["add", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "2k", "latency", "400ms"])
        };
        done.unwrap_or_else(|why| panic!("the link's quality can't be changed: {why}"));
    }

    /// Moves the calling thread into the hub.
    pub(super) fn enter(&self) {
        let path = Path::new("/run/netns").join(format!("{}hub", self.names.prefix));
        let hub = fs::File::open(path).expect("the hub is there as long as this is");
        setns(hub, CloneFlags::CLONE_NEWNET).expect("root may change a thread's network");
    }
}

impl Names {
    fn add(&mut self, label: &str) -> Result<String, String> {
        let name = format!("{}{label}", self.prefix);
        run("ip", &["netns", "add", &name])?;
        self.made.push(name.clone());
        Ok(name)
    }

    fn of(&self, host: Host) -> String {
        format!("{}{}", self.prefix, label(host))
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        for name in &self.made {
            let _ = run("ip", &["netns", "del", name]);
        }
    }
}

/// Removes the leftovers of killed runs.
fn sweep() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(owner) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()) else { continue };
        if owner.parse::<u32>().is_ok() && !Path::new("/proc").join(owner).exists() {
            let _ = run("ip", &["netns", "del", &name]);
        }
    }
}

fn label(host: Host) -> String {
    match host {
        Host::Candidate(place) => format!("c{place}"),
        Host::Member(place) => format!("m{place}"),
    }
}

fn number(host: Host) -> usize {
    match host {
        Host::Candidate(place) => 1 + place,
        Host::Member(place) => 101 + place,
    }
}

fn address(host: Host) -> String {
    format!("{NETWORK}.{}", number(host))
}

fn hardware(host: Host) -> String {
    format!("02:00:c6:33:64:{:02x}", number(host))
}

fn neighbour(of: Host, hardware: &str) -> String {
    format!("neigh replace {} lladdr {hardware} dev eth0 nud permanent\n", address(of))
}

/// Runs lines of `ip` in a namespace.
fn batch(namespace: &str, lines: &str) -> Result<(), String> {
    let mut command = process::command("ip");
    command.args(["-n", namespace, "-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
    let fed = child.stdin.take().map(|mut input| input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    match (fed, output.status.success()) {
        (Some(Ok(())), true) => Ok(()),
        _ => Err(format!("ip in {namespace}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let mut command = process::command(program);
    command.args(args).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr)))
}
