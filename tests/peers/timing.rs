//! Round trips and disks too slow for the timing: reported, with the flag to change. Fast enough ones: no report.

use std::time::Duration;

use serde_json::Value;

use crate::support::{
    capture::{Captured, Mark},
    delay::SlowLink,
    elect::Elect,
    eventually::eventually,
    http,
    peers::{Group, with_parts},
    port::ReservedPort,
    server::SOON,
    slow_disk::slow_disk,
};

const ROUND_TRIP: Duration = Duration::from_millis(200);

/// Long enough for the disk of a busy machine.
const SUITS: [&str; 4] = ["--heartbeat", "200ms", "--election-timeout", "2s-4s"];
const TOO_SHORT: [&str; 4] = ["--heartbeat", "50ms", "--election-timeout", "250ms-500ms"];

/// The advice that names the flag, whatever the reason.
const ADVICE: &str = "set --election-timeout ";

/// Three servers with long round trips.
struct FarApart {
    group: Group,
    http: ReservedPort,
    servers: Vec<Captured>,
    _ways: Vec<(ReservedPort, SlowLink)>,
}

impl FarApart {
    fn start(timing: [&'static str; 4]) -> Self {
        let ways: Vec<_> = (0..3)
            .map(|_| {
                let port = ReservedPort::new();
                let link = SlowLink::to(&port.address(), ROUND_TRIP);
                (port, link)
            })
            .collect();
        let addresses = ways.iter().map(|(_, link)| link.address()).collect();
        let group = Group::at(addresses).with_timing(timing);
        let http = ReservedPort::new();
        let start = |place: usize| {
            let elect = Elect::new(group.command_line(place)).arg("--listen").arg(ways[place].0.address());
            let elect = if place == 0 { elect.arg("--http").arg(http.address()) } else { elect };
            elect.called(group.name(place)).start()
        };
        let servers = (0..3).map(start).collect();
        Self { group, http, servers, _ways: ways }
    }

    /// `/status` of the first server, once it knows the round trips to the others.
    fn measured(&self) -> Value {
        eventually(SOON, "round trips", || {
            let status = http::try_get(&self.http.address(), "/status").ok()?.json();
            let known = |server: &Value| server["round_trip_ms"].is_number();
            (status["servers"].as_array()?.iter().filter(|server| known(server)).count() == 2)
                .then_some(status)
        })
    }

    fn metric(&self, name: &str) -> f64 {
        let response = http::get(&self.http.address(), "/metrics");
        let line = response.text().lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        line.unwrap_or_else(|| panic!("{name} is not in {}", response.text())).parse().unwrap()
    }

    fn advice(&self) -> Vec<String> {
        let lines = self.servers.iter().flat_map(Captured::lines).map(|line| line.text);
        lines.filter(|line| line.contains(ADVICE)).collect()
    }
}

#[test]
fn contract_12_round_trips_that_the_timing_cannot_serve_are_named_with_the_flag_to_set() {
    let (far, served) = (FarApart::start(TOO_SHORT), FarApart::start(SUITS));
    for server in &far.servers {
        let said = "--election-timeout 250ms-500ms is made for up to 66.6ms: set --election-timeout ";
        server.wait_for_line(with_parts(&["WARN", "the round trip to server", " takes 2", said]), SOON);
    }
    let status = far.measured();
    let trip = |server: &Value| server["round_trip_ms"].as_f64().unwrap();
    let servers = status["servers"].as_array().unwrap();
    assert!(servers[1..].iter().all(|server| trip(server) >= 200.0), "{status}");
    let advice = status["server"]["timing_advice"].as_str().unwrap();
    assert!(advice.contains(ADVICE) && advice.contains("the round trip to server"), "{status}");
    assert!(far.metric("elect_election_timeout_advised_seconds") >= 0.8);
    assert!(far.metric("elect_peer_round_trip_seconds{peer=\"server3\"}") >= 0.2);
    let mut asked = Elect::new(["status", "--peers"]).arg(far.group.list()).start();
    asked.wait_exit(SOON);
    assert!(asked.stdout().iter().any(|line| line.contains(ADVICE)), "{:?}", asked.stdout());
    let mut asked = Elect::new(["status", "--json", "--peers"]).arg(far.group.list()).start();
    asked.wait_exit(SOON);
    let status: Value = serde_json::from_str(&asked.stdout().join("")).unwrap();
    let measured = &status["measured"][0];
    assert_eq!(measured["server"], "server1", "{status}");
    assert!(measured["round_trips_ms"]["server2"].as_f64().unwrap() >= 200.0, "{status}");
    assert!(measured["timing_advice"].as_str().unwrap().contains(ADVICE), "{status}");

    // Round trips within the timing need no report.
    let status = served.measured();
    assert_eq!(status["server"].get("timing_advice"), None, "{status}");
    assert_eq!(served.metric("elect_election_timeout_advised_seconds"), 0.0);
    assert_eq!(served.advice(), Vec::<String>::new());
    // No line repeats; doubts about a missing leader name the flag too.
    let warned = |server: &Captured| {
        let lines = server.lines_since(Mark::START).into_iter().map(|line| line.text);
        lines.filter(|line| line.contains("WARN the round trip")).count()
    };
    assert!(far.servers.iter().all(|server| warned(server) == 1), "{:#?}", far.advice());
}

#[test]
fn contract_12_a_disk_that_is_too_slow_for_the_timing_is_named() {
    let group = Group::of(1).with_timing(TOO_SHORT);
    let http = ReservedPort::new();
    let by = slow_disk(Duration::from_millis(100));
    let elect = Elect::new(group.command_line(0)).arg("--http").arg(http.address());
    let elect = by.into_iter().fold(elect, |elect, (key, value)| elect.env(key, value));
    let server = elect.called("server1").start();
    let data = format!("data={}", group.data(0).display());
    let said = "--election-timeout 250ms-500ms is made for less than 62.5ms: use a faster disk, or set --election-timeout ";
    server.wait_for_line(with_parts(&["WARN", "a sync of the data directory takes 1", said, &data]), SOON);
    server.wait_for_line(with_parts(&["I am the leader."]), SOON);
    let status = http::get(&http.address(), "/status").json();
    assert!(status["server"]["sync_ms"]["worst"].as_f64().unwrap() >= 100.0, "{status}");
    let metrics = http::get(&http.address(), "/metrics");
    let quick =
        metrics.text().lines().find(|line| line.starts_with("elect_disk_sync_seconds_bucket{le=\"0.1\"}"));
    assert!(quick.is_some_and(|line| line.ends_with(" 0")), "{}", metrics.text());
    let warnings = server.lines().into_iter().filter(|line| line.text.contains("WARN a sync")).count();
    assert_eq!(warnings, 1, "once a minute: {:#?}", server.stdout());
}
