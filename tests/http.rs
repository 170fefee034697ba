//! `elect server --http`: its responses, when they stop being true, and that clients can't hold up a
//! leader.
//!
//! Moments are bounded by times that this process took itself: a response was made after its request was
//! sent, and before it was read.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::TcpStream,
    ops::{Deref, DerefMut},
    thread,
    time::Duration,
};

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};
use serde_json::Value;
use support::{
    capture::{Mark, longest_stall},
    clock::BootTime,
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    http::{Connection, Events, Response, get, request, try_get, wait_for_status},
    port::ReservedPort,
    server::{CHANGE, ELECTION_NAME, FOLLOWER, LEADER, REFRESHING, SOON, Server, led_one_at_a_time},
};

/// The server's time limit for a request's head, and for an idle connection.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// The server's limit of connections, plus its own files.
const MOST_DESCRIPTORS: usize = 256 + 64;

const SHORT: Duration = Duration::from_secs(2);

/// An `elect server --http`.
struct Served {
    server: Server,
    port: ReservedPort,
}

impl Served {
    fn start(name: &str, etcd: &str, ttl: &str) -> Self {
        let port = ReservedPort::new();
        let server = Server::start_with(name, etcd, ttl, &["--http", &port.address()]);
        Self { server, port }
    }

    /// Starts a server and waits until it reports that it leads.
    #[track_caller]
    fn start_leader(name: &str, etcd: &str, ttl: &str) -> Self {
        let served = Self::start(name, etcd, ttl);
        served.wait_for_line(LEADER, SOON);
        wait_for_status(&served.address(), "/leader", 200, SOON);
        served
    }

    /// Starts a server and waits until it reports that it follows.
    #[track_caller]
    fn start_follower(name: &str, etcd: &str, ttl: &str) -> Self {
        let served = Self::start(name, etcd, ttl);
        served.wait_for_line(FOLLOWER, SOON);
        wait_for_status(&served.address(), "/follower", 200, SOON);
        served
    }

    fn address(&self) -> String {
        self.port.address()
    }

    #[track_caller]
    fn get(&self, path: &str) -> Response {
        get(&self.address(), path)
    }

    #[track_caller]
    fn status_of(&self, path: &str) -> u16 {
        self.get(path).status
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.id())).map_or(0, Iterator::count)
    }
}

impl Deref for Served {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Served {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

fn start_etcd() -> Etcd {
    Etcd::start(EtcdVersion::V3_7)
}

#[test]
fn every_route_answers_by_the_role() {
    let etcd = start_etcd();
    let leader = Served::start_leader("server1", &etcd.endpoint(), "3s");
    let follower = Served::start_follower("server2", &etcd.endpoint(), "3s");
    let roles = [(&leader, "leader", [200, 503]), (&follower, "follower", [503, 200])];
    for (served, role, [leads, follows]) in roles {
        let expected = [
            ("/leader", leads),
            ("/follower", follows),
            ("/livez", 200),
            ("/readyz", 200),
            ("/status", 200),
            ("/metrics", 200),
            ("/", 200),
            ("/leader/", 404),
            ("/other", 404),
        ];
        for (path, status) in expected {
            let answer = served.get(path);
            assert_eq!(answer.status, status, "{path} of the {role}: {answer:?}");
            assert_eq!(answer.header("elect-role"), Some(role), "{path}");
            assert_eq!(answer.header("elect-name"), Some(served.name()), "{path}");
            assert_eq!(answer.header("elect-election"), Some(ELECTION_NAME), "{path}");
            assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
            let token = answer.header("elect-token").map(|token| token.parse::<u64>().unwrap());
            let queue = etcd.admin().candidates(ELECTION_NAME);
            let own = queue.iter().find(|candidate| candidate.value == served.name()).unwrap();
            let expected = (role == "leader").then_some(own.create_revision as u64);
            assert_eq!(token, expected, "{path} of the {role}");
        }
        assert_eq!(served.get("/leader?why=curious").status, leads, "a query is not part of the path");
    }
}

#[test]
fn status_says_who_leads_who_waits_and_what_this_server_is() {
    let etcd = start_etcd();
    let leader = Served::start_leader("server1", &etcd.endpoint(), "3s");
    let follower = Served::start_follower("server2", &etcd.endpoint(), "3s");
    let queue = etcd.admin().candidates(ELECTION_NAME);
    let tokens: Vec<_> = queue.iter().map(|candidate| candidate.create_revision as u64).collect();

    for (served, place) in [(&leader, 1), (&follower, 2)] {
        let status = served.get("/status").json();
        assert_eq!(status["state"], "leader");
        assert_eq!(status["leader"], "server1");
        assert_eq!(status["token"], tokens[0]);
        assert!(status["since"].is_string(), "{status}");
        assert_eq!(status["candidates"][0]["name"], "server1");
        assert_eq!(status["candidates"][1]["name"], "server2");
        assert_eq!(status["candidates"][1]["token"], tokens[1]);
        assert_eq!(status["queue_length"], 2);
        assert_eq!(status["election"], ELECTION_NAME);
        let server = &status["server"];
        assert_eq!(server["name"], served.name());
        assert_eq!(server["role"], if place == 1 { "leader" } else { "follower" });
        assert_eq!(server["queue_position"], place);
        assert_eq!(server["token"], tokens[place - 1]);
        assert_eq!(server["fresh"], true);
        assert!(server["last_contact_ms"].as_u64().unwrap() <= 3000, "{status}");
        assert_eq!(server["remaining_ms"].is_null(), place == 2, "known at the leader only");
        let own = &status["terms"][0];
        assert_eq!((&own["token"], &own["own"]), (&Value::from(tokens[0]), &Value::from(place == 1)));
        assert!(own["ended"].is_null());
    }
    let remaining = leader.get("/status").json()["server"]["remaining_ms"].as_u64().unwrap();
    assert!(remaining <= 2700, "{remaining} ms are more than a TTL of 3 s less its margin");
}

#[test]
fn a_server_without_etcd_is_alive_and_nothing_else() {
    let nothing = ReservedPort::new();
    let served = Served::start("server1", &nothing.address(), "2s");
    wait_for_status(&served.address(), "/livez", 200, SOON);
    for path in ["/leader", "/follower", "/readyz"] {
        let answer = served.get(path);
        assert_eq!(answer.status, 503, "{path}");
        assert_eq!(answer.header("elect-role"), Some("outside"));
        assert_eq!(answer.header("elect-token"), None);
    }
    let status = served.get("/status").json();
    assert_eq!(status["state"], "unknown");
    assert_eq!((&status["leader"], &status["candidates"]), (&Value::Null, &Value::Null));
    assert!(status["problem"].is_string());
    let metrics = Metrics::read(&served);
    assert_eq!(metrics.value("elect_leader"), 0.0);
    assert_eq!(metrics.value("elect_queue_position"), 0.0);
    // Told to stop before it campaigns; the drop checks the order of its lines too.
    drop(served);
}

#[test]
fn a_leader_that_was_frozen_past_its_lease_says_no_from_the_first_answer_on() {
    let etcd = start_etcd();
    let mut frozen = Served::start_leader("server1", &etcd.endpoint(), "2s");
    let next = Served::start_follower("server2", &etcd.endpoint(), "2s");
    let address = frozen.address();
    let question = format!("GET /leader HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let mut kept = Connection::open(&address).unwrap();
    kept.send(&question).unwrap();
    assert_eq!(kept.answer_to("GET").unwrap().status, 200);

    frozen.freeze();
    next.wait_for_line(LEADER, SOON);
    wait_for_status(&next.address(), "/leader", 200, SOON);
    // The kernel accepts these for it. It sees them first when it wakes up.
    kept.send(&question).unwrap();
    let mut waiting: Vec<_> = (0..20).map(|_| Connection::open(&address).unwrap()).collect();
    for connection in &mut waiting {
        connection.send(&question).unwrap();
    }
    frozen.thaw();

    for mut connection in std::iter::once(kept).chain(waiting) {
        let answer = connection.answer_to("GET").unwrap();
        assert_eq!((answer.status, answer.header("elect-token")), (503, None), "{answer:?}");
    }
    // It stays so for as long as the next leader leads; in the end it is in the queue again.
    let mut answers = 0;
    eventually(SOON, "it to follow", || {
        answers += 1;
        assert_eq!(try_get(&address, "/leader").unwrap().status, 503);
        (frozen.status_of("/follower") == 200).then_some(())
    });
    assert!(answers > 0);
    assert_eq!(next.status_of("/leader"), 200);
    led_one_at_a_time([&frozen.server, &next.server]);
}

#[test]
fn without_etcd_a_leader_says_no_by_its_deadline() {
    let mut etcd = start_etcd();
    let leader = Served::start_leader("server1", &etcd.endpoint(), "2s");
    let frozen = etcd.freeze();

    // A response was made after its request was sent. So a yes is a lower bound of the deadline.
    let mut last_yes = None;
    eventually(SOON, "it to say no", || {
        let asked = BootTime::now();
        let yes = leader.status_of("/leader") == 200;
        last_yes = if yes { Some(asked) } else { last_yes };
        (!yes).then_some(())
    });
    // None if this machine stood still for that long.
    let in_time = last_yes.is_none_or(|asked| asked < frozen + SHORT);
    assert!(in_time, "yes at {last_yes:?}, etcd frozen at {frozen}");

    // From then on every response is no, and it does not repeat what it no longer knows.
    let status = eventually(SOON, "it to say that it does not know who leads", || {
        let status = leader.get("/status").json();
        (status["state"] == "unknown" && status["server"]["fresh"] == false).then_some(status)
    });
    assert_eq!((&status["leader"], &status["token"]), (&Value::Null, &Value::Null));
    assert_eq!(status["terms"][0]["reason"], "expired");
    for path in ["/leader", "/follower", "/readyz"] {
        assert_eq!(leader.status_of(path), 503, "{path}");
    }
    assert_eq!(leader.status_of("/livez"), 200);
    etcd.thaw();
    wait_for_status(&leader.address(), "/leader", 200, SOON);
}

#[test]
fn in_a_handoff_no_two_say_yes() {
    let etcd = start_etcd();
    let mut old = Served::start_leader("server1", &etcd.endpoint(), "30s");
    let new = Served::start_follower("server2", &etcd.endpoint(), "30s");
    let address = old.address();

    let (asked, asking) = std::sync::mpsc::channel();
    let asker = thread::spawn(move || {
        let mut last_yes = None;
        loop {
            let sent = BootTime::now();
            match try_get(&address, "/leader").map(|answer| answer.status) {
                Ok(200) => last_yes = Some(sent),
                Ok(_) => {}
                Err(_) => return last_yes,
            }
            let _ = asked.send(());
        }
    });
    asking.recv_timeout(SOON).unwrap();
    old.tell_to_stop();
    let first_yes = eventually(SOON, "the next one to say yes", || {
        let yes = try_get(&new.address(), "/leader").is_ok_and(|answer| answer.status == 200);
        yes.then(BootTime::now)
    });
    old.exits(0);
    let last_yes = asker.join().unwrap().expect("it was asked while it led");
    assert!(last_yes < first_yes, "the old one at {last_yes}, the new one at {first_yes}");
}

#[test]
fn only_get_and_head_are_answered_and_no_body_is_taken() {
    let etcd = start_etcd();
    let served = Served::start_leader("server1", &etcd.endpoint(), "3s");
    let address = served.address();
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        let answer = request(&address, method, "/status").unwrap();
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
        assert_eq!(answer.header("elect-role"), Some("leader"));
        if method != "OPTIONS" {
            let answer = request(&address, method, "/leader").unwrap();
            assert_eq!(
                (answer.status, answer.header("allow")),
                (405, Some("GET, HEAD, OPTIONS")),
                "{method}"
            );
        }
    }
    for path in ["/leader", "/follower", "/status", "/metrics", "/events", "/"] {
        let head = request(&address, "HEAD", path).unwrap();
        assert_eq!(head.status, if path == "/follower" { 503 } else { 200 }, "{path}");
        assert_eq!(head.header("elect-name"), Some("server1"), "{path}");
        assert!(head.header("content-type").is_some(), "{path}");
    }
    // A response to HEAD has no body: the next response follows at once.
    let mut connection = Connection::open(&address).unwrap();
    let question = |method| format!("{method} /leader HTTP/1.1\r\nHost: {address}\r\n\r\n");
    connection.send(question("HEAD") + &question("GET")).unwrap();
    assert_eq!(connection.answer_to("HEAD").unwrap().header("content-length"), Some("7"));
    assert_eq!(connection.answer_to("GET").unwrap().text(), "leader\n");

    for body in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let mut connection = Connection::open(&address).unwrap();
        connection.send(format!("GET /leader HTTP/1.1\r\nHost: {address}\r\n{body}\r\n\r\n")).unwrap();
        assert_eq!(connection.answer_to("GET").unwrap().status, 413, "{body}");
        assert_eq!(connection.wait_closed().unwrap(), b"", "{body}");
    }
}

/// HAProxy's `option httpchk` without a method sends OPTIONS, by HTTP/1.0 and without a `Host`.
#[test]
fn the_routes_that_are_probed_answer_options_as_get() {
    let etcd = start_etcd();
    let leader = Served::start_leader("server1", &etcd.endpoint(), "3s");
    let follower = Served::start_follower("server2", &etcd.endpoint(), "3s");
    for path in ["/leader", "/follower", "/livez", "/readyz"] {
        for served in [&leader, &follower] {
            let mut connection = Connection::open(&served.address()).unwrap();
            connection.send(format!("OPTIONS {path} HTTP/1.0\r\n\r\n")).unwrap();
            let answer = connection.answer_to("OPTIONS").unwrap();
            assert_eq!(answer.status, served.status_of(path), "{path}");
            assert_eq!(answer.header("allow"), Some("GET, HEAD, OPTIONS"), "{path}");
        }
    }
}

#[test]
fn a_scraper_that_reads_only_the_older_format_gets_that() {
    let etcd = start_etcd();
    let served = Served::start_leader("server1", &etcd.endpoint(), "3s");
    let scrape = |accept: &str| {
        let mut connection = Connection::open(&served.address()).unwrap();
        let head = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n");
        connection.send(head).unwrap();
        connection.answer_to("GET").unwrap()
    };
    let text = scrape("text/plain;version=0.0.4;q=0.3");
    assert_eq!(text.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let known = ["counter", "gauge", "histogram", "summary", "untyped"];
    for line in text.text().lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (family, kind) = line.split_once(' ').unwrap();
        assert!(known.contains(&kind), "{line}");
        let has_sample =
            |line: &str| line.starts_with(&format!("{family}{{")) || line.starts_with(&format!("{family} "));
        assert!(kind != "counter" || text.text().lines().any(has_sample), "{line}");
    }
    assert!(!text.text().contains("# EOF") && !text.text().contains("# UNIT"));
    let open = scrape("application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    assert!(open.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert_eq!(open.header("vary"), Some("accept"));
}

/// DNS rebinding: a foreign page whose name resolves to 127.0.0.1 must not read anything.
#[test]
fn a_foreign_host_is_refused_on_loopback() {
    let etcd = start_etcd();
    let served = Served::start_leader("server1", &etcd.endpoint(), "3s");
    let ask = |head: String| {
        let mut connection = Connection::open(&served.address()).unwrap();
        connection.send(format!("{head}\r\n\r\n")).unwrap();
        connection.answer_to("GET").unwrap()
    };
    for path in ["/", "/leader", "/status", "/metrics", "/events"] {
        for foreign in ["evil.test", "evil.test:8080", "localhost.evil.test"] {
            let refused = ask(format!("GET {path} HTTP/1.1\r\nHost: {foreign}"));
            assert_eq!(refused.status, 421, "{path} at {foreign}");
            assert!(
                refused.text().contains("localhost") && refused.text().contains("--http"),
                "{}",
                refused.text()
            );
        }
    }
    assert_eq!(ask("GET http://evil.test/leader HTTP/1.1\r\nHost: localhost".into()).status, 421);
    for own in ["localhost", "localhost:80", "[::1]:1", &*served.address()] {
        assert_eq!(ask(format!("GET /leader HTTP/1.1\r\nHost: {own}")).status, 200, "{own}");
    }
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let etcd = start_etcd();
    let served = Served::start_leader("server1", &etcd.endpoint(), "3s");
    let heads = [
        format!("GET /leader HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n", "x".repeat(9 * 1024)),
        format!("GET /leader HTTP/1.1\r\n{}\r\n", "X-Many: 1\r\n".repeat(65)),
        format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9 * 1024)),
    ];
    for head in heads {
        let mut connection = Connection::open(&served.address()).unwrap();
        connection.send(&head).unwrap();
        let answer = connection.answer_to("GET").unwrap();
        assert_eq!(answer.status, 431, "{} bytes: {answer:?}", head.len());
        connection.wait_closed().unwrap();
    }
    let usual = "X-Usual: 1\r\n".repeat(50);
    let mut connection = Connection::open(&served.address()).unwrap();
    connection.send(format!("GET /leader HTTP/1.1\r\n{usual}\r\n")).unwrap();
    assert_eq!(connection.answer_to("GET").unwrap().status, 200);
}

#[test]
fn a_client_that_says_nothing_or_too_little_is_cut_off() {
    let etcd = start_etcd();
    let served = Served::start_leader("server1", &etcd.endpoint(), "3s");
    let address = served.address();
    let question = format!("GET /leader HTTP/1.1\r\nHost: {address}\r\n\r\n");

    let mut silent = Connection::open(&address).unwrap();
    let mut half = Connection::open(&address).unwrap();
    half.send("GET /leader HTTP/1.1\r\nHo").unwrap();
    let mut idle = Connection::open(&address).unwrap();
    idle.send(&question).unwrap();
    assert_eq!(idle.answer_to("GET").unwrap().status, 200);
    // Each byte arrives in good time, the whole request never does.
    let began = BootTime::now();
    let mut dribbling = Connection::open(&address).unwrap();
    dribbling.send("GET /leader HTTP/1.1\r\nX-Slow: ").unwrap();
    eventually(SOON + HEAD_WITHIN, "the dribbling client to be cut off", || {
        dribbling.send("x").is_err().then_some(())
    });
    assert!(began.elapsed() >= HEAD_WITHIN, "it was given its time");

    for connection in [&mut silent, &mut half, &mut idle] {
        assert_eq!(connection.wait_closed().unwrap(), b"");
    }
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let etcd = start_etcd();
    let served = Served::start_leader("server1", &etcd.endpoint(), "3s");
    let address = served.address();
    // Far more of the page than the kernel buffers for a client.
    const PAGES: usize = 2000;
    let mut greedy = Connection::open(&address).unwrap();
    let asked = greedy.send(format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n").repeat(PAGES));

    let page = greedy.answer_to("GET").unwrap().body.len();
    let with_it = served.descriptors();
    eventually(SOON, "its connection to be closed", || (served.descriptors() < with_it).then_some(()));
    let received = greedy.wait_closed().map_or(0, |received| received.len());
    assert!(received < PAGES * page / 2, "{received} bytes of {PAGES} pages; asked: {asked:?}");
    assert_eq!(served.status_of("/leader"), 200);
}

#[test]
fn stuck_clients_delay_neither_a_renewal_nor_an_answer() {
    allow_many_descriptors();
    let etcd = start_etcd();
    let served = Served::start_leader("server1", &etcd.endpoint(), "3s");
    let address = served.address();
    // The client reads the head of the response, and nothing after it.
    let deaf = Events::open(&address, "/events");
    let stuck: Vec<_> = (0..1000)
        .map(|number| {
            let mut connection = Connection::open(&address).unwrap();
            if number % 2 == 0 {
                // A closed connection may refuse.
                let _ = connection.send("GET /leader HTTP/1.1\r\nHost");
            }
            connection
        })
        .collect();

    let mut mark = served.mark();
    for _ in 0..5 {
        let (asked, answer) = (BootTime::now(), served.get("/leader"));
        let answered = BootTime::now();
        assert_eq!((answer.status, answer.text()), (200, "leader\n"));
        let stall = longest_stall(asked, answered);
        assert!(answered - asked < HEAD_WITHIN + stall, "asked at {asked}, answered at {answered}");
        mark = served.wait_for_line_since(mark, REFRESHING, SOON).mark();
        let descriptors = served.descriptors();
        assert!(descriptors < MOST_DESCRIPTORS, "{descriptors} open");
    }
    assert!(!served.story().iter().any(|line| line == CHANGE), "{:?}", served.story());
    drop((stuck, deaf));
}

#[test]
fn there_are_only_so_many_listeners() {
    let etcd = start_etcd();
    let served = Served::start_leader("server1", &etcd.endpoint(), "3s");
    let mut listeners: Vec<_> = (0..64).map(|_| Events::open(&served.address(), "/events")).collect();
    assert!(listeners.iter().all(|events| events.response.status == 200));
    let refused = served.get("/events");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    assert_eq!(served.status_of("/leader"), 200);

    // All listeners are told, and a connection becomes free when a client leaves.
    for events in &mut listeners {
        assert_eq!(events.next_json().unwrap()["leader"], "server1");
    }
    listeners.pop();
    eventually(SOON, "a free place", || {
        let events = Events::try_open(&served.address(), "/events").ok()?;
        (events.response.status == 200).then_some(())
    });
}

#[test]
fn events_tell_of_a_new_leader_within_a_second() {
    let etcd = start_etcd();
    let mut server1 = Served::start_leader("server1", &etcd.endpoint(), "2s");
    let server2 = Served::start_follower("server2", &etcd.endpoint(), "2s");
    let server3 = Served::start_follower("server3", &etcd.endpoint(), "2s");
    let mut events = Events::open(&server3.address(), "/events");
    assert_eq!(events.response.status, 200);
    assert_eq!(events.response.header("content-type"), Some("text/event-stream"));
    let (before, _) = events.wait_for("the queue by name", SOON, |status| {
        status["leader"] == "server1" && status["candidates"][1]["name"] == "server2"
    });
    assert_eq!(before["server"]["queue_position"], 3);

    server1.kill();
    let (after, told) = events.wait_for("the next one", SOON, |status| status["leader"] == "server2");
    let leads = server2.wait_for_line(LEADER, SOON).at;
    let stall = longest_stall(leads, told);
    assert!(told < leads + Duration::from_secs(1) + stall, "leads at {leads}, told at {told}");
    assert!(after["token"].as_u64() > before["token"].as_u64());
    let [new, old] = [&after["terms"][0], &after["terms"][1]];
    assert_eq!((&new["name"], &old["name"]), (&"server2".into(), &"server1".into()));
    assert_eq!(new["ended"], Value::Null);
    assert!(old["ended"].is_string());
    assert_eq!(old["reason"], Value::Null, "only the one that led knows why");
}

#[test]
fn events_are_a_sign_of_life_and_show_the_lease_run_down_and_renewed() {
    let etcd = start_etcd();
    let served = Served::start_leader("server1", &etcd.endpoint(), "6s");
    let mut events = Events::open(&served.address(), "/events");
    let first = events.next().unwrap();
    assert!(first.iter().any(|line| line.starts_with("event: status")), "{first:?}");
    let mut left = Vec::new();
    // Renewals come every 2 s, keep-alive comments every second.
    let renewed = |left: &[u64]| left.windows(2).filter(|pair| pair[1] > pair[0]).count();
    let ran_down = |left: &[u64]| left.windows(2).filter(|pair| pair[1] < pair[0]).count();
    while renewed(&left) < 2 || ran_down(&left) < 2 {
        assert!(left.len() < 60, "{left:?}");
        let status = events.next_json().unwrap();
        assert_eq!(status["server"]["lease_ms"], 5400);
        left.push(status["server"]["remaining_ms"].as_u64().expect("it leads"));
    }
}

#[test]
fn a_stream_of_events_says_when_to_come_back() {
    let etcd = start_etcd();
    let served = Served::start_leader("server1", &etcd.endpoint(), "3s");
    let mut stream = TcpStream::connect(served.address()).unwrap();
    let mut said = String::new();
    {
        use std::io::{BufRead, BufReader, Write};
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut lines = BufReader::new(stream).lines();
        while !said.contains("data:") {
            said += &lines.next().unwrap().unwrap();
            said.push('\n');
        }
    }
    assert!(said.contains("\nretry: 1000\n"), "{said}");
}

#[test]
fn idle_pages_cost_etcd_nothing_and_the_names_are_read_once() {
    let etcd = start_etcd();
    let leader = Served::start_leader("server1", &etcd.endpoint(), "2s");
    let follower = Served::start_follower("server2", &etcd.endpoint(), "2s");
    eventually(SOON, "the leader to have announced itself", || etcd.admin().get(ELECTION_NAME));

    let since = |before: &BTreeMap<String, u64>| {
        let mut now = etcd.messages_received();
        now.retain(|method, count| *count > before.get(method).copied().unwrap_or(0));
        now.into_keys().collect::<BTreeSet<_>>()
    };
    let renewals_only = BTreeSet::from(["LeaseKeepAlive".to_owned()]);
    let mark = leader.mark();
    let before = etcd.messages_received();
    for _ in 0..3 {
        for path in ["/leader", "/follower", "/livez", "/readyz", "/metrics", "/"] {
            leader.get(path);
            follower.get(path);
        }
        leader.wait_for_refreshing_since(mark, 3);
    }
    assert_eq!(since(&before), renewals_only);

    // The first scrape registers the names; later ones know them.
    for served in [&leader, &follower] {
        let status = served.get("/status").json();
        assert_eq!(status["candidates"][1]["name"], "server2");
    }
    let after_a_look = etcd.messages_received();
    assert!(since(&before).contains("Range"), "{after_a_look:?}");
    let mark = leader.mark();
    let mut events = [&leader, &follower].map(|served| Events::open(&served.address(), "/events"));
    for events in &mut events {
        assert_eq!(events.next_json().unwrap()["candidates"][0]["name"], "server1");
    }
    leader.wait_for_refreshing_since(mark, 3);
    assert_eq!(since(&after_a_look), renewals_only);
}

#[test]
fn metrics_move_with_what_happens() {
    let etcd = start_etcd();
    let mut leader = Served::start_leader("server1", &etcd.endpoint(), "2s");
    let follower = Served::start_follower("server2", &etcd.endpoint(), "2s");
    let answer = leader.get("/metrics");
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(answer.header("content-type"), Some(kind));
    assert!(answer.text().ends_with("\n# EOF\n"));
    let labels = format!(
        "elect_info{{name=\"server1\",election=\"leader\",version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(Metrics::read(&leader).value(&labels), 1.0);

    leader.wait_for_refreshing_since(Mark::START, 3);
    let led = Metrics::read(&leader);
    assert_eq!(led.value("elect_leader"), 1.0);
    assert_eq!(led.value("elect_queue_position"), 1.0);
    let token = leader.get("/leader").header("elect-token").unwrap().parse::<f64>().unwrap();
    assert_eq!(led.value("elect_token"), token);
    assert!(led.value("elect_last_contact_seconds") < 2.0);
    assert!(led.value("elect_renewals_total") >= 3.0);
    for name in ["elect_renewal_latency_seconds", "elect_renewal_margin_seconds"] {
        led.assert_histogram(name);
        assert_eq!(led.value(&format!("{name}_count")), led.value("elect_renewals_total"));
    }
    let margin = led.value("elect_renewal_margin_seconds_sum") / led.value("elect_renewals_total");
    assert!(margin > 0.0 && margin <= 1.8, "of 2 s, 1.8 are proved: {margin}");
    let waits = Metrics::read(&follower);
    assert_eq!((waits.value("elect_leader"), waits.value("elect_token")), (0.0, 0.0));
    assert_eq!(waits.value("elect_queue_position"), 2.0);
    assert_eq!(waits.value("elect_renewals_total"), 0.0, "a place in the queue is no term");

    let lost =
        |metrics: &Metrics, reason| metrics.value(&format!("elect_terms_lost_total{{reason=\"{reason}\"}}"));
    assert_eq!(lost(&led, "key_deleted"), 0.0, "it is there before it happens");
    leader.will_be_deposed();
    let key = etcd.admin().leader(ELECTION_NAME).unwrap().key;
    assert!(etcd.admin().delete(key));
    eventually(SOON, "the loss to be counted, with its reason", || {
        (lost(&Metrics::read(&leader), "key_deleted") == 1.0).then_some(())
    });
    eventually(SOON, "the other to count as the leader", || {
        (Metrics::read(&follower).value("elect_leader") == 1.0).then_some(())
    });
    let terms = leader.get("/status").json()["terms"].clone();
    let own = terms.as_array().unwrap().iter().find(|term| term["own"] == true).unwrap().clone();
    assert_eq!(own["reason"], "key_deleted", "{terms}");
}

#[test]
fn the_page_is_one_file_that_nothing_may_be_added_to() {
    let etcd = start_etcd();
    let served = Served::start_leader("server1", &etcd.endpoint(), "3s");
    let page = served.get("/");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let policy = page.header("content-security-policy").unwrap();
    for part in ["default-src 'none'", "script-src 'sha256-", "style-src 'sha256-", "connect-src 'self'"] {
        assert!(policy.contains(part), "{part} in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    for id in ["leader", "token", "since", "queue", "lease", "stale", "timeline", "role"] {
        assert_eq!(page.text().matches(&format!("id=\"{id}\"")).count(), 1, "{id}");
    }
}

#[test]
fn a_key_put_by_hand_is_named_as_what_keeps_candidates_from_leading() {
    let etcd = start_etcd();
    etcd.admin().put("leader/by-hand", "me");
    let served = Served::start("server1", &etcd.endpoint(), "2s");
    wait_for_status(&served.address(), "/follower", 200, SOON);
    let status = served.get("/status").json();
    assert_eq!((&status["state"], &status["leader"]), (&"vacant".into(), &Value::Null));
    assert_eq!(status["blocked_by"], "leader/by-hand");
    assert_eq!(served.status_of("/readyz"), 200);
    assert_eq!(served.status_of("/leader"), 503);
    etcd.admin().delete("leader/by-hand");
    wait_for_status(&served.address(), "/leader", 200, SOON);
}

#[test]
fn an_address_that_is_taken_ends_the_server_before_it_stands() {
    let etcd = start_etcd();
    let served = Served::start_leader("server1", &etcd.endpoint(), "3s");
    let mut second = Elect::server("server2", &etcd.endpoint()).args(["--http", &served.address()]).start();
    assert_eq!(second.wait_exit(SOON).code(), Some(1));
    let said = second.stderr().join("\n");
    assert!(said.contains(&format!("--http {}", served.address())), "{said}");
    assert!(said.contains("another process listens there"), "{said}");
    assert_eq!(second.stdout(), [""; 0], "it had not begun");
    assert_eq!(etcd.admin().candidates(ELECTION_NAME).len(), 1);

    let mut wrong = Elect::server("server2", &etcd.endpoint()).args(["--http", "everywhere"]).start();
    assert_eq!(wrong.wait_exit(SOON).code(), Some(2));
    assert!(wrong.stderr().join("\n").contains("--http"), "{:?}", wrong.stderr());
}

#[test]
fn a_port_alone_is_for_this_machine_wherever_it_is_said() {
    let etcd = start_etcd();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("elect.toml");
    fs::write(&file, "http = 0\n").unwrap();
    let full = || Elect::new(["server", "server1", "--etcd", &etcd.endpoint()]);
    let said_by = [
        full().args(["--http", "0"]),
        full().env("ELECT_HTTP", ":0"),
        full().args(["--config", file.to_str().unwrap()]),
    ];
    for elect in said_by {
        let elect = elect.start();
        let line = elect.wait_for_line(|line: &str| line.contains("serving http://127.0.0.1:"), SOON);
        let (_, address) = line.text.split_once("http://").unwrap();
        wait_for_status(address.trim_end_matches('/'), "/livez", 200, SOON);
        elect.signal(Signal::SIGTERM);
    }
}

/// One scrape: each sample, by its name with labels as written.
struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads a scrape. Each sample must belong to a family with a type and a help text.
    #[track_caller]
    fn read(served: &Served) -> Self {
        let answer = served.get("/metrics");
        let (mut samples, mut families) = (BTreeMap::new(), BTreeMap::new());
        let mut helped = BTreeSet::new();
        for line in answer.text().lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["#", "TYPE", family, kind] => assert_eq!(families.insert(family.to_owned(), kind), None),
                ["#", "HELP", family, ..] => assert!(helped.insert(family.to_owned())),
                ["#", "UNIT", family, unit] => assert!(family.ends_with(unit), "{line}"),
                ["#", "EOF"] => {}
                _ => {
                    let (sample, value) = line.rsplit_once(' ').unwrap();
                    assert_eq!(samples.insert(sample.to_owned(), value.parse().unwrap()), None, "{line}");
                }
            }
        }
        for sample in samples.keys() {
            let name = sample.split('{').next().unwrap();
            let suffixes = ["", "_total", "_info", "_sum", "_count", "_bucket"];
            let family = suffixes
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix).filter(|family| families.contains_key(*family)));
            assert!(family.is_some_and(|family| helped.contains(family)), "{sample} has no family");
        }
        Self(samples)
    }

    #[track_caller]
    fn value(&self, sample: &str) -> f64 {
        *self.0.get(sample).unwrap_or_else(|| panic!("no sample {sample} in {:#?}", self.0))
    }

    /// Each bucket includes the ones before it, and the last one everything.
    #[track_caller]
    fn assert_histogram(&self, name: &str) {
        let start = format!("{name}_bucket{{le=\"");
        let buckets = self.0.iter().filter_map(|(sample, count)| {
            let bound = sample.strip_prefix(&start)?.strip_suffix("\"}")?;
            Some((bound.replace("+Inf", "inf").parse::<f64>().unwrap(), *count))
        });
        let mut buckets: Vec<_> = buckets.collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        assert!(buckets.len() > 5, "{buckets:?}");
        assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{buckets:?}");
        let (last, all) = *buckets.last().unwrap();
        assert_eq!((last, all), (f64::INFINITY, self.value(&format!("{name}_count"))));
    }
}

/// This test needs more descriptors than the usual limit of 1,024 a process.
fn allow_many_descriptors() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most.min(8192), most).unwrap();
}
