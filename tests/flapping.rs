//! A connection to etcd that is cut twenty times a second, an etcd that restarts again and again, a login that
//! is revoked: the log's volume stays bounded, and leadership behaves.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use support::{
    capture::{Captured, Mark},
    clock::BootTime,
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    proxy::Proxy,
    server::{CHANGE, ELECTION, FOLLOWER, LEADER, NEW_ELECTION, REFRESHING, SOON, Server, led_one_at_a_time},
};

const FORMATS: [&str; 3] = ["plain", "full", "json"];

const TTL: Duration = Duration::from_secs(2);

/// Duration of the cuts, and their interval.
const FLAPPING: Duration = Duration::from_secs(12);
const CUT_EVERY: Duration = Duration::from_millis(50);

/// Bound on repeatable lines: at once, and then so many a second. See docs/testing.md.
const AT_ONCE: f64 = 5.0;
/// A failed attempt and, if no endpoint could be reached, the next connection.
const FAILURES_A_SECOND: f64 = 2.0;

/// Lines that name the leader; none of them repeats.
const NEWS: [&str; 5] = [LEADER, FOLLOWER, CHANGE, NEW_ELECTION, ELECTION];

/// Fails if more was logged in that time than documented.
#[track_caller]
fn assert_bounded(what: &str, lines: &[String], took: Duration) {
    let is_news = |line: &&String| NEWS.iter().any(|news| line.contains(news));
    let is_renewal = |line: &&String| line.contains(REFRESHING);
    let news = lines.iter().filter(is_news).count();
    let renewals = lines.iter().filter(is_renewal).count() as f64;
    let others = lines.len() as f64 - news as f64 - renewals;
    let seconds = took.as_secs_f64();
    let most_renewals = 2.0 + seconds * 6.0 / TTL.as_secs_f64();
    assert!(renewals <= most_renewals, "{what}: {renewals} renewals in {seconds} s: {lines:#?}");
    let most_others = 2.0 * AT_ONCE + seconds * FAILURES_A_SECOND;
    assert!(others <= most_others, "{what}: {others} lines in {seconds} s: {lines:#?}");
    eprintln!("{what}: {news} of news, {renewals} renewals, {others} others in {seconds:.1} s");
}

/// All lines printed since then.
fn printed(process: &Captured, since: Mark) -> Vec<String> {
    process.lines_since(since).into_iter().map(|line| line.text).collect()
}

/// A candidate in an election of its own for each log format, a standby for each, and two observers.
struct Crowd(Vec<(String, Captured)>);

impl Crowd {
    #[track_caller]
    fn start(endpoint: &str) -> Self {
        let server = |name: &str, format: &str| {
            let flags = ["--election", format, "--ttl", "2s", "--log-format", format];
            let server = Elect::new(["server", name, "--etcd", endpoint]).args(flags);
            // Each renewal, in the full log too.
            let server = server.env("RUST_LOG", "transcript=debug").start();
            let line = if name == "first" { LEADER } else { FOLLOWER };
            server.wait_for_line(|text: &str| text.contains(line), SOON);
            (format!("{name}, {format}"), server)
        };
        let mut all: Vec<_> = FORMATS.iter().map(|format| server("first", format)).collect();
        all.extend(FORMATS.iter().map(|format| server("second", format)));
        for json in [&[][..], &["--json"]] {
            let observe = Elect::new(["observe", "--etcd", endpoint, "--election", "plain"]).args(json);
            let observer = observe.start();
            observer.wait_for_line(|text: &str| text.contains("first"), SOON);
            all.push((format!("observer, {json:?}"), observer));
        }
        Self(all)
    }

    fn marks(&self) -> Vec<Mark> {
        self.0.iter().map(|(_, process)| process.mark()).collect()
    }

    #[track_caller]
    fn assert_bounded(&self, since: &[Mark], took: Duration) {
        for ((what, process), mark) in self.0.iter().zip(since) {
            assert_bounded(what, &printed(process, *mark), took);
        }
    }

    /// Waits until each election has a leader again that has renewed.
    #[track_caller]
    fn settles(&self, etcd: &Etcd) {
        let marks = self.marks();
        eventually(SOON, "a leader that renews, in each election", || {
            let renews = |format: &str| {
                let of_format = |what: &str| what.ends_with(format) && !what.starts_with("observer");
                let mut those = self.0.iter().zip(&marks).filter(|((what, _), _)| of_format(what));
                those.any(|((_, process), mark)| {
                    printed(process, *mark).iter().any(|line| line.contains(REFRESHING))
                })
            };
            FORMATS.iter().all(|format| renews(format)).then_some(())
        });
        for format in FORMATS {
            eventually(SOON, "two in each queue", || {
                (etcd.admin().candidates(format).len() == 2).then_some(())
            });
        }
    }

    fn stop(mut self) {
        for (_, process) in &self.0 {
            process.signal(Signal::SIGTERM);
        }
        for (_, process) in &mut self.0 {
            process.wait_exit(SOON);
        }
    }
}

#[test]
fn a_connection_cut_twenty_times_a_second_fills_no_log() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let proxy = Proxy::start(&etcd.endpoint());
    let crowd = Crowd::start(&proxy.endpoint());
    let (began, marks) = (BootTime::now(), crowd.marks());
    while began.elapsed() < FLAPPING {
        proxy.cut();
        thread::sleep(CUT_EVERY);
    }
    crowd.assert_bounded(&marks, began.elapsed());
    crowd.settles(&etcd);
    crowd.stop();
}

#[test]
fn a_connection_that_is_cut_again_and_again_makes_no_second_leader() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let proxy = Proxy::start(&etcd.endpoint());
    let first = Server::start_leader("first", &proxy.endpoint(), "2s");
    let second = Server::start_follower("second", &proxy.endpoint(), "2s");
    let third = Server::start_follower("third", &etcd.endpoint(), "2s");
    let flaps = Arc::new(AtomicBool::new(true));
    thread::scope(|scope| {
        scope.spawn(|| {
            while flaps.load(SeqCst) {
                proxy.cut();
                thread::sleep(CUT_EVERY);
            }
        });
        thread::sleep(4 * TTL);
        flaps.store(false, SeqCst);
    });
    let marks = [&first, &second, &third].map(|server| (server, server.mark()));
    eventually(SOON, "one of them to renew", || {
        marks
            .iter()
            .any(|(server, mark)| server.lines_since(*mark).iter().any(|line| line.text == REFRESHING))
            .then_some(())
    });
    led_one_at_a_time([&first, &second, &third]);
}

#[test]
fn an_etcd_that_restarts_again_and_again_fills_no_log() {
    let mut etcd = Etcd::start(EtcdVersion::V3_7);
    let crowd = Crowd::start(&etcd.endpoint());
    let (began, marks) = (BootTime::now(), crowd.marks());
    for _ in 0..4 {
        etcd.restart();
    }
    crowd.assert_bounded(&marks, began.elapsed());
    crowd.settles(&etcd);
    crowd.stop();
}

/// A wrong password is not retried, so there is no loop and no log to fill.
#[test]
fn a_password_that_is_changed_under_candidates_ends_them_with_few_lines() {
    const PASSWORD: &str = "first-password";
    let mut etcd = Etcd::builder(EtcdVersion::V3_7).auth(Duration::from_secs(2)).start();
    etcd.admin().add_user("alice", PASSWORD, "leader");
    let start = |name: &str| {
        let flags = ["--ttl", "2s", "--user", "alice", "--log-format", "full"];
        let server = Elect::new(["server", name, "--etcd", &etcd.endpoint()]).args(flags);
        server.env("ELECT_PASSWORD", PASSWORD).start()
    };
    let mut leader = start("first");
    leader.wait_for_line(|line: &str| line.contains(LEADER), SOON);
    let mut follower = start("second");
    follower.wait_for_line(|line: &str| line.contains(FOLLOWER), SOON);

    let (began, marks) = (BootTime::now(), [leader.mark(), follower.mark()]);
    etcd.admin().change_password("alice", "another-password");
    // Forces them to log in again.
    etcd.restart();
    for server in [&mut leader, &mut follower] {
        assert_eq!(server.wait_exit(SOON).code(), Some(1));
        let said = server.stderr().join("\n");
        assert!(said.contains("ELECT_PASSWORD"), "{said}");
    }
    for (server, mark) in [(&leader, marks[0]), (&follower, marks[1])] {
        assert_bounded("after a change of the password", &printed(server, mark), began.elapsed());
    }
}
