//! What operators and their scripts ask and order, on both backends.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::{
    capture::Captured,
    clock::BootTime,
    elect::Elect,
    election::{Election, Outcome, on_both_backends},
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    http,
    port::ReservedPort,
    server::SOON,
};

/// Starts all three servers; returns them with the leader's place.
fn three(election: &Election) -> (Vec<Captured>, usize) {
    let servers = (0..3).map(|place| election.start(place, &[])).collect();
    let leader = election.settled(3);
    (servers, leader)
}

/// The objects that a command has printed so far, one a line.
#[track_caller]
fn objects(command: &Captured) -> Vec<Value> {
    command.stdout().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

on_both_backends! {
    fn is_tells_whether_one_server_leads(election: Election) {
        let (_servers, leader) = three(&election);
        let code = |place: usize| election.run(["status", "--is", &election.name(place)]).code;
        assert_eq!(code(leader), Some(0));
        assert_eq!(code((leader + 1) % 3), Some(5));
        assert_eq!(election.run(["status", "--is", "server9"]).code, Some(5));
        // What it prints is the status, whichever is asked about.
        let asked = election.run(["status", "--json", "--is", "server9"]);
        assert_eq!(asked.json()["leader"], election.name(leader));
    }

    fn wait_ends_when_there_is_a_leader(election: Election) {
        let mut waiting = election.ask(["status", "--wait", "--json"]);
        let mut for_one = election.ask(["status", "--wait", "--json", "--is", "server9"]);
        let (_servers, leader) = three(&election);
        assert_eq!(waiting.wait_exit(SOON).code(), Some(0));
        let printed = objects(&waiting);
        assert_eq!(printed.len(), 1, "nothing is printed while it waits: {printed:?}");
        assert_eq!(printed[0]["leader"], election.name(leader));
        assert_eq!(for_one.status(), None, "another one leads");
        assert_eq!(for_one.stdout(), [""; 0]);
    }

    fn wait_for_one_server_ends_when_that_one_leads(election: Election) {
        let (mut servers, leader) = three(&election);
        let waits: Vec<_> = [1, 2]
            .map(|after| (leader + after) % 3)
            .map(|place| (place, election.ask(["status", "--wait", "--is", &election.name(place)])))
            .into();
        servers[leader].signal(Signal::SIGTERM);
        servers[leader].wait_exit(SOON);
        let next = election.settled(2);
        for (place, mut wait) in waits {
            if place == next {
                assert_eq!(wait.wait_exit(SOON).code(), Some(0));
                assert!(wait.stdout()[0].contains(&format!("leader {}", election.name(next))), "{:?}", wait.stdout());
            } else {
                assert_eq!(wait.status(), None, "another one leads: {:?}", wait.stdout());
            }
        }
    }

    fn the_leaders_address_is_told_to_clients(election: Election) {
        let ports: Vec<_> = (0..3).map(|_| ReservedPort::new()).collect();
        let address = |place: usize| format!("https://host{place}.example.com/");
        let start = |place: usize| {
            election.start(place, &["--advertise", &address(place), "--http", &ports[place].address()])
        };
        let _servers: Vec<_> = (0..3).map(start).collect();
        let leader = election.settled(3);
        let told = Value::from(address(leader));
        election.wait_for("the announcement", |status| status["address"] == told);
        let line = election.run(["status"]).stdout[0].clone();
        assert!(line.ends_with(&format!(", at {})", address(leader))), "{line}");
        let observing = election.ask(["observe", "--json"]);
        observing.wait_for_line(|line: &str| line.contains(&format!("\"address\":{told}")), SOON);
        let follower = (leader + 1) % 3;
        let report = eventually(SOON, "the address on a follower", || {
            let report = http::get(&ports[follower].address(), "/status").json();
            (report["address"] == told).then_some(report)
        });
        assert_eq!(report["server"]["address"], address(follower));
    }

    fn watch_prints_each_change_of_leader_or_candidates(election: Election) {
        let (mut servers, leader) = three(&election);
        let third = (leader + 1) % 3;
        servers[third].signal(Signal::SIGTERM);
        servers[third].wait_exit(SOON);
        election.settled(2);
        let watching = election.ask(["status", "--watch", "--json"]);
        let observing = election.ask(["observe", "--json"]);
        let last = |what: &str, is: &dyn Fn(&Value) -> bool| {
            eventually(SOON, what, || objects(&watching).last().filter(|last| is(last)).cloned())
        };
        let count = |status: &Value| status["candidates"].as_array().map_or(0, Vec::len);
        last("the first status", &|status| status["leader"] == election.name(leader) && count(status) == 2);
        observing.wait_for_line(|_: &str| true, SOON);
        servers[third] = election.start(third, &[]);
        last("a third candidate", &|status| count(status) == 3);
        // That was no change of the leader.
        assert_eq!(objects(&observing).len(), 1, "{:?}", observing.stdout());
        servers[leader].kill();
        last("another leader, or none", &|status| status["leader"] != election.name(leader) || count(status) < 3);
        let printed = objects(&watching);
        let without_time = |status: &Value| {
            let mut status = status.clone();
            status.as_object_mut().unwrap().retain(|key, _| key != "at" && key != "measured");
            status
        };
        assert!(printed.windows(2).all(|pair| without_time(&pair[0]) != without_time(&pair[1])), "{printed:#?}");
    }
}

#[test]
fn an_address_that_others_could_not_be_shown_is_refused() {
    for (address, problem) in [
        ("", "it is empty"),
        ("a b", "no white space"),
        ("a\u{202e}b", "invisible"),
        (&"x".repeat(257), "at most 256"),
    ] {
        let outcome = Outcome::of(Elect::new(["server", "a", "--advertise", address]).start());
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        let said = outcome.stderr.join(" ");
        assert!(said.contains("--advertise") && said.contains(problem), "{said}");
    }
}

on_both_backends! {
    fn leadership_is_handed_to_the_named_server_and_the_history_says_so(election: Election) {
        let (_servers, leader) = three(&election);
        let next = election.name((leader + 1) % 3);
        let token = election.status()["token"].as_u64().unwrap();
        let outcome = election.run(["transfer", &next]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let status = election.status();
        assert_eq!(status["leader"], next.as_str(), "it leads once the command ends: {status}");
        assert_eq!(outcome.stdout, [format!("{next} leads (token {})", status["token"])]);
        assert!(status["token"].as_u64().unwrap() > token);
        // The history, newest first.
        let history = election.run(["history", "--json"]);
        let terms: Vec<Value> = history.stdout.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            (&terms[0]["leader"], &terms[0]["ended"]),
            (&next.as_str().into(), &Value::Null),
            "{terms:#?}"
        );
        let before = &terms[1];
        assert_eq!(before["leader"], election.name(leader));
        assert_eq!(
            (&before["ended"], &before["to"], &before["reason"]),
            (&"transferred".into(), &next.as_str().into(), &"ordered".into())
        );
        assert!(before["by"].as_str().unwrap().contains('@'), "{before}");
        let lines = election.run(["history", "-n", "2"]).stdout;
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].ends_with(&format!("{next} (token {}) leads", status["token"])), "{lines:?}");
        assert!(lines[1].contains(&format!(": handed over to {next}, ordered by ")), "{lines:?}");
    }

    fn a_transfer_that_can_not_be_is_refused_and_the_leader_leads_on(election: Election) {
        let (mut servers, leader) = three(&election);
        let token = election.status()["token"].clone();
        let [gone, other] = [1, 2].map(|after| (leader + after) % 3);
        servers[gone].signal(Signal::SIGTERM);
        servers[gone].wait_exit(SOON);
        election.settled(2);
        let refused = |args: &[&str], why: &str| {
            let outcome = election.run(["transfer"].into_iter().chain(args.iter().copied()));
            assert_eq!(outcome.code, Some(1), "{outcome:?}");
            assert!(outcome.stderr.join(" ").contains(why), "{outcome:?}");
            assert_eq!(outcome.stdout, [""; 0]);
        };
        let why = if matches!(election, Election::OnEtcd(_)) { "is not among" } else { "refuses" };
        refused(&[&election.name(gone), "--within", "1s"], why);
        refused(&["server9"], "'server9' is not among");
        assert_eq!(election.run(["pause"]).code, Some(0));
        refused(&[&election.name(other)], "paused");
        assert_eq!(election.run(["resume"]).code, Some(0));
        assert_eq!(election.run(["cordon", &election.name(other)]).code, Some(0));
        // On etcd a cordoned candidate leaves the queue.
        let why = if matches!(election, Election::OnEtcd(_)) { "is not among" } else { "cordon" };
        refused(&[&election.name(other)], why);
        assert_eq!(election.status()["token"], token, "the same term");
    }

    fn a_cordoned_leader_hands_over_and_the_orders_show_in_status(election: Election) {
        let (_servers, leader) = three(&election);
        let name = election.name(leader);
        let outcome = election.run(["cordon", &name]);
        assert_eq!(
            (outcome.code, outcome.stdout),
            (Some(0), vec![format!("cordoned: {name} leads only while no other can")])
        );
        election.wait_for("another leader", |status| {
            status["state"] == "leader" && status["leader"] != name.as_str()
        });
        assert_eq!(election.run(["pause"]).code, Some(0));
        let status = election.status();
        assert_eq!(
            (&status["cordons"][0]["name"], &status["cordons"][0]["hard"]),
            (&name.as_str().into(), &false.into())
        );
        assert!(status["paused"]["by"].as_str().unwrap().contains('@'), "{status}");
        let lines = election.run(["status"]).stdout;
        assert!(lines.iter().any(|line| line.starts_with("  paused by ")), "{lines:?}");
        assert!(lines.iter().any(|line| line.starts_with(&format!("  cordoned: {name} by "))), "{lines:?}");
        for order in [&["resume"][..], &["uncordon", &name]] {
            assert_eq!(election.run(order.iter().copied()).code, Some(0));
        }
        let status = election.status();
        assert_eq!((status.get("paused"), status.get("cordons")), (None, None), "{status}");
        let history = election.run(["history"]).stdout;
        assert!(history.iter().any(|line| line.contains("since it was cordoned")), "{history:?}");
    }
}

#[test]
fn on_etcd_a_server_that_never_leads_does_not_stand() {
    let election = Election::on_etcd();
    let mut never = election.start(0, &["--never"]);
    never.wait_for_line(|line: &str| line.starts_with("Connecting"), SOON);
    let _server = election.start(1, &["--priority", "150", "--min-tenure", "1m"]);
    let status = election.wait_for("the one that leads", |status| status["leader"] == "server2");
    assert_eq!(status["candidates"].as_array().unwrap().len(), 1, "the other one does not stand: {status}");
    assert_eq!(never.status(), None, "it goes on");
}

#[test]
fn orders_without_a_leader_are_not_given() {
    let election = Election::among_peers();
    for order in [&["transfer", "server1"][..], &["cordon", "server1"], &["pause"]] {
        let outcome = election.run(order.iter().copied());
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.join(" ").contains("no leader"), "{outcome:?}");
    }
    assert_eq!(election.run(["history"]).code, Some(4));
}

#[test]
fn flags_before_a_verb_of_peers_are_not_ignored() {
    let outcome = Outcome::of(Elect::new(["peers", "--peers", "a=h:1", "replace", "a"]).start());
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.join(" ").contains("replace"), "{outcome:?}");
}

#[test]
fn a_wait_is_over_at_its_time_and_its_code_tells_the_state() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let election = Election::OnEtcd(etcd);
    let wait = |more: &[&str]| {
        let before = BootTime::now();
        let outcome =
            election.run(["status", "--wait", "--within", "1s"].into_iter().chain(more.iter().copied()));
        assert!(BootTime::now() - before >= Duration::from_secs(1), "{outcome:?}");
        assert_eq!(outcome.stdout.len(), 1, "the last status is printed: {outcome:?}");
        outcome.code
    };
    assert_eq!(wait(&[]), Some(3));
    assert_eq!(wait(&["--is", "server1"]), Some(3));
    let _server = election.start(0, &[]);
    election.settled(1);
    assert_eq!(wait(&["--is", "server2"]), Some(5));
    let group = Election::among_peers();
    let outcome = group.run(["status", "--wait", "--within", "1s"]);
    assert_eq!(outcome.code, Some(4), "{outcome:?}");
}

#[test]
fn a_wait_that_etcd_refuses_ends_at_once() {
    let etcd = Etcd::builder(EtcdVersion::V3_7).auth(Duration::from_secs(60)).start();
    let refused = Elect::new(["status", "--wait", "--etcd", &etcd.endpoint()]);
    let outcome = Outcome::of(refused.start());
    assert_eq!(outcome.code, Some(4), "{outcome:?}");
    assert!(outcome.stdout[0].contains("authentication is on"), "{outcome:?}");
}

#[test]
fn flags_that_mean_nothing_together_are_refused() {
    for flags in [
        &["--within", "1s"][..],
        &["--watch", "--is", "a"],
        &["--watch", "--wait"],
        &["--wait", "--within", "soon"],
    ] {
        let outcome = Outcome::of(Elect::new(["status"].iter().chain(flags)).start());
        assert_eq!(outcome.code, Some(2), "{flags:?}: {outcome:?}");
    }
}
