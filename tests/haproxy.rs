//! deploy/haproxy.cfg, unchanged, in Debian's haproxy: only the leader answers requests.
//!
//! Behind it are real servers for changes of leadership, and stand-ins for responses that real servers give
//! once in a thousand failovers.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::signal::Signal;
use support::{
    capture::{Captured, Line},
    clock::BootTime,
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    http::{self, Response},
    port::ReservedPort,
    process,
    server::{FOLLOWER, LEADER, SOON},
    service::{Answer, Service},
    tool,
};

const CONFIGURATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/haproxy.cfg");

const NAMES: [&str; 3] = ["server1", "server2", "server3"];

/// Time limit of the service's question to the server beside it, which may be frozen. No answer in time
/// counts as "no".
const ASK_WITHIN: Duration = Duration::from_secs(1);

/// Concurrent clients, each of which sends its next request after the last response.
const CLIENTS: usize = 4;

/// Pause between two requests of one client, so that the servers get their share of the machine.
const BETWEEN_REQUESTS: Duration = Duration::from_millis(4);

/// Responses of one leader, over all clients, after which traffic counts as settled.
const SETTLED: usize = 40;

fn haproxy() -> Option<PathBuf> {
    tool::find("haproxy")
}

#[test]
fn haproxy_takes_the_configuration_as_it_is() {
    let Some(haproxy) = haproxy() else { return };
    let checked = tool::run(process::command(&haproxy).args(["-c", "-f", CONFIGURATION]));
    let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
    assert!(checked.status.success(), "{said}");
    assert_eq!(said.trim(), "Configuration file is valid", "nothing to warn of");
}

#[test]
fn only_the_leader_answers_through_a_crash_and_a_handoff() {
    let Some(haproxy) = haproxy() else { return };
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let mut sites = Sites::start(&etcd);
    let balancer = Balancer::start(haproxy, sites.nodes());
    let clients = Clients::start(&balancer);
    clients.wait_for_answers_by("server1");

    sites.elect[0].kill();
    let second = sites.elect[1].wait_for_line(LEADER, SOON);
    clients.wait_for_answers_by("server2");

    sites.elect[1].signal(Signal::SIGTERM);
    let third = sites.elect[2].wait_for_line(LEADER, SOON);
    clients.wait_for_answers_by("server3");

    let answers = clients.stop();
    none_answered_after(&answers, &second, &["server1"]);
    none_answered_after(&answers, &third, &["server1", "server2"]);
}

#[test]
fn a_leader_that_was_frozen_answers_nothing_when_it_runs_on() {
    let Some(haproxy) = haproxy() else { return };
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let mut sites = Sites::start(&etcd);
    let balancer = Balancer::start(haproxy, sites.nodes());
    let clients = Clients::start(&balancer);
    clients.wait_for_answers_by("server1");

    sites.elect[0].freeze();
    let second = sites.elect[1].wait_for_line(LEADER, SOON);
    sites.elect[0].thaw();
    sites.elect[0].wait_for_line(FOLLOWER, SOON);
    clients.wait_for_answers_by("server2");

    none_answered_after(&clients.stop(), &second, &["server1"]);
}

#[test]
fn an_answer_with_an_older_token_than_one_before_it_becomes_503() {
    let Some(haproxy) = haproxy() else { return };
    // Health checks report all three as leading, as may happen between two checks.
    let [old, new, never] = NAMES.map(StandIn::down);
    old.leads("7");
    new.leads("9");
    let balancer = Balancer::start(haproxy, [old.node(), new.node(), never.node()]);
    balancer.wait_for_health(&[true, true, false]);
    balancer.wait_for_200_by("server2");

    let (old_refused, new_passed) = balancer.tally("server2", "server1");
    assert!(old_refused > 0 && new_passed > 0, "{old_refused} {new_passed}");

    // The term is shut out, not the server.
    old.leads("11");
    balancer.wait_for_200_by("server1");
    balancer.tally("server1", "server2");
}

#[test]
fn an_answer_without_a_right_to_give_it_becomes_503() {
    let Some(haproxy) = haproxy() else { return };
    let [only, second, third] = NAMES.map(StandIn::down);
    only.leads("7");
    let balancer = Balancer::start(haproxy, [only.node(), second.node(), third.node()]);
    balancer.wait_for_200_by("server1");
    balancer.wait_for_health(&[true, false, false]);

    let (longest, too_long) = ("9".repeat(18), "9".repeat(19));
    let no_numbers = ["", "0", "-7", "+7", "7x", "x", "7 7", "7,7", "0x7", "07", "7.0", too_long.as_str()];
    let other_terms = ["6", "8", longest.as_str()];
    for token in no_numbers.into_iter().chain(other_terms) {
        only.claims(&[token]);
        assert_eq!(balancer.get().status, 503, "{token:?}");
    }
    only.claims(&[]);
    assert_eq!(balancer.get().text(), "not the leader\n");
    only.claims(&["7", "7"]);
    assert_eq!(balancer.get().status, 503, "which of the two?");
    // None of these has raised the largest token, for this term or the next.
    only.claims(&["7"]);
    assert_eq!(balancer.get().status, 200);
    second.leads("8");
    balancer.wait_for_200_by("server2");
}

#[test]
fn a_request_under_way_at_a_deposed_leader_is_cut_off() {
    let Some(haproxy) = haproxy() else { return };
    let [deposed, second, third] = NAMES.map(StandIn::down);
    deposed.leads("7");
    let balancer = Balancer::start(haproxy, [deposed.node(), second.node(), third.node()]);
    balancer.wait_for_health(&[true, false, false]);
    balancer.wait_for_200_by("server1");

    let stuck = deposed.sticks();
    let address = balancer.address();
    let client = thread::spawn(move || http::try_get(&address, "/"));
    stuck.wait_for_a_request();
    deposed.ends();
    // The service is stuck until `stuck` is dropped, so the client's response is not the service's.
    eventually(SOON, "the client to be told", || client.is_finished().then_some(()));
    let told = client.join().unwrap().expect("HAProxy answers in its place");
    // 504 would be HAProxy's own timeout for the service, half a minute later.
    assert!(matches!(told.status, 502 | 503), "{told:?}");
    drop(stuck);
}

#[test]
fn without_a_leader_clients_are_told_so_at_once() {
    let Some(haproxy) = haproxy() else { return };
    let all = NAMES.map(StandIn::down);
    all.iter().for_each(|one| one.claims(&["7"]));
    let balancer = Balancer::start(haproxy, all.each_ref().map(StandIn::node));
    balancer.wait_for_health(&[false, false, false]);
    assert_eq!(balancer.get().status, 503);
}

/// Addresses of one server: the service behind it, and the port of its `--http`.
#[derive(Debug, Clone)]
struct Node {
    service: String,
    elect_port: u16,
}

/// haproxy with the shipped configuration.
struct Balancer {
    captured: Captured,
    front: ReservedPort,
}

impl Balancer {
    #[track_caller]
    fn start(haproxy: PathBuf, nodes: [Node; 3]) -> Self {
        let front = ReservedPort::new();
        let mut command = process::command(haproxy);
        // -db: in the foreground.
        command.args(["-db", "-f", CONFIGURATION]).env("FRONT", front.address());
        for (number, node) in (1..).zip(nodes) {
            command.env(format!("SERVER{number}"), &node.service);
            command.env(format!("SERVER{number}_ELECT_PORT"), node.elect_port.to_string());
        }
        let balancer = Self { captured: Captured::start("haproxy", command), front };
        eventually(SOON, "haproxy to listen", || TcpStream::connect(balancer.address()).ok());
        balancer
    }

    fn address(&self) -> String {
        self.front.address()
    }

    fn get(&self) -> Response {
        http::get(&self.address(), "/")
    }

    #[track_caller]
    fn wait_for_200_by(&self, name: &str) -> Response {
        eventually(SOON, &format!("an answer by {name}"), || {
            Some(self.get()).filter(|answer| answer.status == 200 && answer.header("name") == Some(name))
        })
    }

    /// Waits until each server's last health change is this one. All start as up.
    #[track_caller]
    fn wait_for_health(&self, up: &[bool; 3]) {
        for (name, up) in NAMES.iter().zip(up) {
            let server = format!("Server leader/{name} is ");
            let is_up = || {
                let lines = self.captured.lines();
                let last = lines.iter().rfind(|line| line.text.starts_with(&server));
                last.is_none_or(|line| line.text.starts_with(&format!("{server}UP")))
            };
            eventually(SOON, &format!("{name} to be up: {up}"), || (is_up() == *up).then_some(()));
        }
    }

    /// Sends many requests. Those that reach `refused` must become 503; `passes` answers the others.
    /// Returns the number of each.
    #[track_caller]
    fn tally(&self, passes: &str, refused: &str) -> (usize, usize) {
        let answers: Vec<_> = (0..SETTLED).map(|_| self.get()).collect();
        for answer in &answers {
            match answer.status {
                200 => assert_eq!(answer.header("name"), Some(passes), "not {refused}"),
                status => {
                    assert_eq!((status, answer.text()), (503, "not the term that leads\n"));
                    assert_eq!(answer.header("name"), None, "nothing of the refused answer is left");
                }
            }
        }
        let refused = answers.iter().filter(|answer| answer.status == 503).count();
        (refused, answers.len() - refused)
    }
}

/// Three real servers, each with a service that reports the token it answers under.
struct Sites {
    elect: [Captured; 3],
    services: [Service; 3],
    ports: [ReservedPort; 3],
}

impl Sites {
    /// `server1` leads.
    #[track_caller]
    fn start(etcd: &Etcd) -> Self {
        let ports = NAMES.map(|_| ReservedPort::new());
        let mut index = 0;
        let elect = NAMES.map(|name| {
            let http = ports[index].address();
            let server = Elect::server(name, &etcd.endpoint()).args(["--ttl", "3s", "--http", &http]).start();
            server.wait_for_line(if index == 0 { LEADER } else { FOLLOWER }, SOON);
            index += 1;
            server
        });
        let mut addresses = ports.iter().map(ReservedPort::address);
        let services = NAMES.map(|name| beside(name, addresses.next().unwrap()));
        Self { elect, services, ports }
    }

    fn nodes(&self) -> [Node; 3] {
        [0, 1, 2].map(|index| Node {
            service: self.services[index].address(),
            elect_port: self.ports[index].number(),
        })
    }
}

/// A service that answers even when it does not lead: HAProxy must not pass that on.
fn beside(name: &'static str, elect: String) -> Service {
    Service::start(move |_| match token_from(&elect) {
        Ok(Some(token)) => Answer::new(200, "leads").with("Name", name).with("Elect-Token", token),
        Ok(None) | Err(_) => Answer::new(200, "does not lead").with("Name", name),
    })
}

/// Asks the server beside the service for its token, with the service's time limit.
fn token_from(elect: &str) -> io::Result<Option<String>> {
    let address = elect.parse().expect("an address");
    let mut server = TcpStream::connect_timeout(&address, ASK_WITHIN)?;
    server.set_read_timeout(Some(ASK_WITHIN))?;
    write!(server, "GET /leader HTTP/1.1\r\nHost: {elect}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    server.read_to_string(&mut answer)?;
    let mut lines = answer.lines();
    let leads = lines.next().is_some_and(|status| status.starts_with("HTTP/1.1 200 "));
    let token = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("elect-token").then(|| value.trim().to_owned())
    });
    Ok(token.filter(|_| leads))
}

/// A client's response, and the moment of its request.
#[derive(Debug, Clone)]
struct Answered {
    sent: BootTime,
    name: String,
    token: u64,
}

/// Clients that send requests until they are stopped.
struct Clients {
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stopping: AtomicBool,
    /// The largest token in any response so far.
    newest: AtomicU64,
    answers: Mutex<Vec<Answered>>,
}

impl Clients {
    fn start(balancer: &Balancer) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = (0..CLIENTS)
            .map(|_| {
                let (shared, address) = (Arc::clone(&shared), balancer.address());
                thread::spawn(move || {
                    while !shared.stopping.load(SeqCst) {
                        shared.ask(&address);
                        thread::sleep(BETWEEN_REQUESTS);
                    }
                })
            })
            .collect();
        Self { threads, shared }
    }

    /// Waits until `name` has answered so many requests sent from now on.
    #[track_caller]
    fn wait_for_answers_by(&self, name: &str) {
        let now = BootTime::now();
        eventually(SOON, &format!("answers by {name}"), || {
            assert!(self.threads.iter().all(|client| !client.is_finished()), "a client has complained");
            let answers = self.shared.answers.lock().unwrap();
            let by_it = answers.iter().filter(|answer| answer.sent > now && answer.name == name).count();
            (by_it >= SETTLED).then_some(())
        });
    }

    /// Stops them, and returns all responses with 200.
    #[track_caller]
    fn stop(self) -> Vec<Answered> {
        self.shared.stopping.store(true, SeqCst);
        for client in self.threads {
            client.join().expect("no client had reason to complain");
        }
        self.shared.answers.lock().unwrap().clone()
    }
}

impl Shared {
    /// Sends one request and checks its response against all that preceded the request.
    fn ask(&self, address: &str) {
        let newest = self.newest.load(SeqCst);
        let sent = BootTime::now();
        // HAProxy may close on a client while it ends a leader's sessions.
        let Ok(answer) = http::try_get(address, "/") else { return };
        if answer.status != 200 {
            assert!(matches!(answer.status, 502..=504), "{answer:?}");
            return;
        }
        assert_eq!(answer.text(), "leads", "a non-leader's answer got through: {answer:?}");
        let token = answer.header("elect-token").and_then(|token| token.parse().ok()).expect("a token");
        assert!(token >= newest, "token {token} after {newest}: {answer:?}");
        self.newest.fetch_max(token, SeqCst);
        let name = answer.header("name").expect("a name").to_owned();
        self.answers.lock().unwrap().push(Answered { sent, name, token });
    }
}

/// Asserts that none of these answered a request sent after this call.
#[track_caller]
fn none_answered_after(answers: &[Answered], leads: &Line, deposed: &[&str]) {
    let late = answers.iter().find(|answer| answer.sent > leads.at && deposed.contains(&&*answer.name));
    assert!(late.is_none(), "{late:?}, when there was a new leader since {}", leads.at);
    let tokens = answers.iter().filter(|answer| answer.sent > leads.at).map(|answer| answer.token);
    let older = answers.iter().filter(|answer| deposed.contains(&&*answer.name)).map(|answer| answer.token);
    assert!(tokens.min() > older.max(), "its token is larger");
}

/// A server and the service behind it, with scripted responses.
struct StandIn {
    /// The response of `/leader`: the token, or 503.
    leads: Arc<Mutex<Option<String>>>,
    /// The service's tokens: one `Elect-Token` for each.
    tokens: Arc<Mutex<Vec<String>>>,
    stick: Arc<Mutex<Option<Stick>>>,
    elect: Service,
    service: Service,
}

type Stick = (mpsc::Sender<()>, Arc<Mutex<mpsc::Receiver<()>>>);

/// Blocks the service's responses while it is kept.
struct Stuck {
    arrived: mpsc::Receiver<()>,
    _release: mpsc::Sender<()>,
}

impl Stuck {
    #[track_caller]
    fn wait_for_a_request(&self) {
        self.arrived.recv_timeout(SOON).expect("a request");
    }
}

impl StandIn {
    /// `/leader` returns 503 until told otherwise.
    fn down(name: &'static str) -> Self {
        let leads = Arc::new(Mutex::new(None::<String>));
        let tokens = Arc::new(Mutex::new(Vec::<String>::new()));
        let stick = Arc::new(Mutex::new(None::<Stick>));
        let elect = {
            let leads = Arc::clone(&leads);
            Service::start(move |path| match leads.lock().unwrap().clone() {
                Some(token) if path == "/leader" => Answer::new(200, "").with("Elect-Token", token),
                _ => Answer::new(503, ""),
            })
        };
        let service = {
            let (tokens, stick) = (Arc::clone(&tokens), Arc::clone(&stick));
            Service::start(move |_| {
                let stick = stick.lock().unwrap().clone();
                if let Some((arrived, released)) = stick {
                    // Either end may be gone: the test is over.
                    let _ = arrived.send(());
                    let _ = released.lock().unwrap().recv();
                }
                let answer = Answer::new(200, "leads").with("Name", name);
                let tokens = tokens.lock().unwrap();
                tokens.iter().fold(answer, |answer, token| answer.with("Elect-Token", token))
            })
        };
        Self { leads, tokens, stick, elect, service }
    }

    fn node(&self) -> Node {
        Node { service: self.service.address(), elect_port: self.elect.port() }
    }

    /// The server leads with this token, and the service reports it.
    fn leads(&self, token: &str) {
        *self.leads.lock().unwrap() = Some(token.to_owned());
        self.claims(&[token]);
    }

    /// The server stops leading. The service's token stays.
    fn ends(&self) {
        *self.leads.lock().unwrap() = None;
    }

    /// Sets the service's tokens, independent of its server.
    fn claims(&self, tokens: &[&str]) {
        *self.tokens.lock().unwrap() = tokens.iter().map(|&token| token.to_owned()).collect();
    }

    fn sticks(&self) -> Stuck {
        let (arrived, arrivals) = mpsc::channel();
        let (release, released) = mpsc::channel();
        *self.stick.lock().unwrap() = Some((arrived, Arc::new(Mutex::new(released))));
        Stuck { arrived: arrivals, _release: release }
    }
}
