//! Reports on three real peers by `elect status`, `elect observe` and `--http`.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use serde_json::Value;
use support::{
    capture::Captured, elect::Elect, eventually::eventually, http, peers::Group, port::ReservedPort,
    server::SOON,
};

/// So slow that no leader is deposed on a machine under load.
const SLOW: [&str; 4] = ["--heartbeat", "200ms", "--election-timeout", "2s-4s"];

/// Three servers that also serve HTTP.
struct Watched {
    group: Group,
    http: Vec<ReservedPort>,
    servers: Vec<Captured>,
}

impl Watched {
    fn start() -> Self {
        let group = Group::of(3).with_timing(SLOW);
        let http: Vec<_> = (0..group.size()).map(|_| ReservedPort::new()).collect();
        let start = |place: usize| {
            let elect = Elect::new(group.command_line(place)).args(["--log-format", "plain", "--http"]);
            elect.arg(http[place].address()).start()
        };
        let servers = (0..group.size()).map(start).collect();
        Self { group, http, servers }
    }

    fn ask(&self, args: &[&str]) -> Captured {
        Elect::new(args).arg("--peers").arg(self.group.list()).start()
    }

    /// `elect status --json`, and its exit code.
    fn status(&self) -> (Value, Option<i32>) {
        let mut status = self.ask(&["status", "--json"]);
        let code = status.wait_exit(SOON).code();
        (serde_json::from_str(&status.stdout().join("")).unwrap(), code)
    }

    /// `/status` of one of them.
    fn report(&self, i: usize) -> Value {
        http::get(&self.http[i].address(), "/status").json()
    }

    fn place(&self, name: &Value) -> usize {
        let place = (0..self.group.size()).find(|place| *name == self.group.name(*place));
        place.unwrap_or_else(|| panic!("{name} leads"))
    }

    /// Waits until a server leads with a token of at least this; returns its place and the token.
    fn leader(&self, token: u64) -> (usize, u64) {
        eventually(SOON, "a leader", || {
            let (status, code) = self.status();
            let led_by = status["token"].as_u64().filter(|found| code == Some(0) && *found >= token)?;
            Some((self.place(&status["leader"]), led_by))
        })
    }
}

fn names(of: &Value) -> Vec<&str> {
    of.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect()
}

#[test]
fn contract_9_status_and_observe_report_leader_queue_and_a_missing_answer() {
    let mut watched = Watched::start();
    let observer = watched.ask(&["observe", "--json"]);
    let (first, token) = watched.leader(1);
    let (status, _) = watched.status();
    assert_eq!(status["candidates"][0]["name"], watched.group.name(first), "{status}");
    let all = eventually(SOON, "three who stand", || {
        let (status, _) = watched.status();
        (names(&status["candidates"]).len() == 3).then_some(status)
    });
    assert_eq!(all["candidates"][1]["token"], Value::Null, "only the leader has one: {all}");

    watched.servers[first].kill();
    let (second, next) = watched.leader(token + 1);
    assert!(second != first && next > token);
    let seen = format!("\"leader\":\"{}\",\"token\":{next}", watched.group.name(second));
    observer.wait_for_line(|line: &str| line.contains(&seen), SOON);

    watched.servers.iter_mut().for_each(|server| {
        server.kill();
    });
    observer.wait_for_line(|line: &str| line.contains("\"state\":\"unknown\""), SOON);
    let (status, code) = watched.status();
    assert_eq!((code, &status["state"]), (Some(4), &"unknown".into()), "{status}");
    assert!(status["problem"].as_str().unwrap().contains("server"), "it says why: {status}");
}

#[test]
fn every_server_shows_the_whole_group_and_is_ready_while_there_is_a_leader() {
    let mut watched = Watched::start();
    let (first, token) = watched.leader(1);
    let other = (first + 1) % 3;
    let url = |i: usize| watched.http[i].address();
    http::wait_for_status(&url(other), "/readyz", 200, SOON);
    let report = eventually(SOON, "a report with three who are connected", || {
        let report = watched.report(other);
        let servers = report["servers"].as_array().unwrap();
        (servers.iter().all(|server| server["connected"] == true) && report["token"] == token)
            .then_some(report)
    });
    assert_eq!(names(&report["servers"]), ["server1", "server2", "server3"]);
    let leading = report["servers"].as_array().unwrap().iter().position(|server| server["leader"] == true);
    assert_eq!(leading, Some(first), "{report}");
    assert_eq!(report["leader"], watched.group.name(first));
    assert_eq!((&report["server"]["role"], &report["server"]["token"]), (&"follower".into(), &Value::Null));
    assert_eq!(http::get(&url(first), "/leader").status, 200);
    assert_eq!(http::get(&url(other), "/leader").status, 503);

    // With one of three there is no leader. It reports unknown, and not ready.
    let gone = [first, (first + 2) % 3];
    for i in gone {
        watched.servers[i].kill();
    }
    let alone = watched.http[other].address();
    let response = http::wait_for_status(&alone, "/readyz", 503, SOON);
    assert!(
        ["no leader is heard\n", "neither leads nor follows\n"].contains(&response.text()),
        "{response:?}"
    );
    let report = eventually(SOON, "a report that knows of no leader", || {
        let report = watched.report(other);
        let away = report["servers"].as_array().unwrap().iter().filter(|server| server["connected"] == false);
        (report["state"] == "unknown" && away.count() == 2).then_some(report)
    });
    assert!(report["servers"].as_array().unwrap().iter().all(|server| server["leader"] == false), "{report}");
    assert_eq!(report["problem"], "no leader is heard");
}
