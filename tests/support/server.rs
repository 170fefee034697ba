//! `elect server` processes: their lines, word for word, and the invariants of every transcript.
//!
//! Two invariants can be checked of them all:
//!
//! * always, when a [`Server`] is dropped: its lines came in an order that the design allows (no refreshing
//!   without leading, no change without a following election);
//! * by [`led_one_at_a_time`], if a test calls it: no two led at one moment.

use std::{
    ops::{Deref, DerefMut},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde::Deserialize;

use super::{
    capture::{Captured, Line, Mark, Stream, longest_stall},
    clock::BootTime,
    elect::Elect,
    eventually::eventually,
};

pub(crate) const ELECTION: &str = "New leader election happening.";
pub(crate) const LEADER: &str = "I am the leader.";
pub(crate) const FOLLOWER: &str = "I am a follower.";
pub(crate) const REFRESHING: &str = "Refreshing lease; still the leader.";
pub(crate) const CHANGE: &str = "LEADERSHIP CHANGE REQUIRED";
pub(crate) const NEW_ELECTION: &str = "new election";

/// The default election's name.
pub(crate) const ELECTION_NAME: &str = "leader";

/// Deadline for what takes far less on an idle machine: a line that is due, a process that ends.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The longest time for a leader's departure if no candidate has to wait for a lease to end. The tests that use
/// it have a TTL many times as long.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(5);

pub(crate) fn starting(name: &str) -> String {
    format!("Starting the server '{name}'")
}

pub(crate) fn connecting(endpoints: &str) -> String {
    format!("Connecting to etcd at '{endpoints}'")
}

/// Lines of every server up to its place in the queue.
pub(crate) fn beginning(name: &str, endpoints: &str) -> Vec<String> {
    vec![starting(name), connecting(endpoints), ELECTION.to_owned()]
}

/// Its log's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    Full,
    Json,
}

/// A line about a transition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) at: BootTime,
    pub(crate) text: String,
    /// The token of its term, in formats that include it.
    pub(crate) token: Option<u64>,
}

/// A running `elect server`.
#[derive(Debug)]
pub(crate) struct Server {
    captured: Captured,
    name: String,
    /// The line about its connection to etcd or its peers. It may repeat.
    reaching: String,
    form: Form,
    /// Moments at which it was frozen, or deposed by a third party.
    cut_short: Vec<BootTime>,
    /// The moment at which it was killed, or had exited.
    ended: Option<BootTime>,
}

impl Server {
    /// Starts a server with the plain log.
    pub(crate) fn start(name: &str, endpoints: &str, ttl: &str) -> Self {
        Self::start_with(name, endpoints, ttl, &[])
    }

    /// Starts a server with the plain log and more flags.
    pub(crate) fn start_with(name: &str, endpoints: &str, ttl: &str, flags: &[&str]) -> Self {
        let elect = Elect::server(name, endpoints).args(["--ttl", ttl]).args(flags);
        Self::of(elect.start(), name, connecting(endpoints), Form::Plain)
    }

    /// Starts a server with the full log. Its lines end with the text of a plain line.
    pub(crate) fn start_with_full_log(name: &str, endpoints: &str, ttl: &str) -> Self {
        let elect = Elect::new(["server", name, "--etcd", endpoints, "--ttl", ttl, "--log-format", "full"]);
        Self::of(elect.start(), name, connecting(endpoints), Form::Full)
    }

    /// Starts a server and waits until it leads.
    #[track_caller]
    pub(crate) fn start_leader(name: &str, endpoints: &str, ttl: &str) -> Self {
        let server = Self::start(name, endpoints, ttl);
        server.wait_for_line(LEADER, SOON);
        server
    }

    /// Starts a server and waits until it is in the queue and knows another leader.
    #[track_caller]
    pub(crate) fn start_follower(name: &str, endpoints: &str, ttl: &str) -> Self {
        let server = Self::start(name, endpoints, ttl);
        server.wait_for_line(FOLLOWER, SOON);
        server
    }

    /// Wraps a server that was started in another way.
    pub(crate) fn of(captured: Captured, name: &str, reaching: String, form: Form) -> Self {
        Self { captured, name: name.to_owned(), reaching, form, cut_short: Vec::new(), ended: None }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// All lines on standard output, without the refreshing, which may repeat.
    pub(crate) fn story(&self) -> Vec<String> {
        self.stdout().into_iter().filter(|line| line != REFRESHING).collect()
    }

    /// As [`story`](Self::story), also without repeated attempts to connect.
    pub(crate) fn story_of_roles(&self) -> Vec<String> {
        let mut connected = false;
        let mut told = self.story();
        told.retain(|line| *line != self.reaching || !std::mem::replace(&mut connected, true));
        told
    }

    /// The texts since `mark`, without those about refreshing and connecting.
    pub(crate) fn roles_since(&self, mark: Mark) -> Vec<String> {
        let lines = self.lines_since(mark).into_iter().map(|line| line.text);
        lines.filter(|line| line != REFRESHING && *line != self.reaching).collect()
    }

    /// Waits for each of these lines, in this order; others may be in between. Returns the last.
    #[track_caller]
    pub(crate) fn wait_for_lines_since(&self, mark: Mark, lines: &[&str]) -> Line {
        let mut mark = mark;
        let mut found = None;
        for line in lines {
            let line = self.wait_for_line_since(mark, *line, SOON);
            mark = line.mark();
            found = Some(line);
        }
        found.expect("a line to wait for")
    }

    /// Waits for `count` renewals from `mark` on.
    #[track_caller]
    pub(crate) fn wait_for_refreshing_since(&self, mark: Mark, count: usize) -> Line {
        self.wait_for_lines_since(mark, &vec![REFRESHING; count])
    }

    /// The lines about transitions, of a plain log or one in JSON.
    pub(crate) fn told(&self) -> Vec<Transition> {
        self.told_since(Mark::START)
    }

    pub(crate) fn told_since(&self, mark: Mark) -> Vec<Transition> {
        let lines = self.lines_since(mark).into_iter().filter(|line| line.stream == Stream::Stdout);
        lines.filter_map(|line| self.form.told(line)).collect()
    }

    /// Reports whether its last transition is to leader.
    pub(crate) fn says_that_it_leads(&self) -> bool {
        self.roles_since(Mark::START).last().is_some_and(|role| role == LEADER)
    }

    /// The moment of its last transition to leader.
    #[track_caller]
    pub(crate) fn last_claim(&self) -> BootTime {
        let lines = self.lines();
        let claim = lines.iter().rfind(|line| line.text == LEADER || line.text == REFRESHING);
        claim.expect("it has led").at
    }

    /// Tells it to stop, and returns the moment.
    pub(crate) fn tell_to_stop(&self) -> BootTime {
        let told = BootTime::now();
        self.signal(Signal::SIGTERM);
        told
    }

    /// Tells it to stop and waits until it exits with this code.
    #[track_caller]
    pub(crate) fn stop(&mut self, code: i32) {
        self.tell_to_stop();
        self.exits(code);
    }

    /// Waits until it exits, with this code.
    #[track_caller]
    pub(crate) fn exits(&mut self, code: i32) {
        let status = self.captured.wait_exit(SOON);
        self.ended = Some(BootTime::now());
        assert_eq!(status.code(), Some(code), "exit of {}; stderr: {:?}", self.name, self.stderr());
    }

    /// Ends it by SIGKILL.
    pub(crate) fn kill(&mut self) -> BootTime {
        // The next leader may be there before this one is reaped.
        self.ended = Some(BootTime::now());
        self.captured.kill()
    }

    /// Stops it by SIGSTOP. Returns a moment at which it stood still.
    pub(crate) fn freeze(&mut self) -> BootTime {
        let frozen = self.captured.freeze();
        self.cut_short.push(frozen);
        frozen
    }

    /// Records that a third party is about to delete its key or revoke its lease. The server hears of that no sooner than the
    /// next leader does, so no order holds between the two.
    pub(crate) fn will_be_deposed(&mut self) {
        self.cut_short.push(BootTime::now());
    }

    #[track_caller]
    pub(crate) fn is_still_running(&mut self) {
        assert_eq!(self.captured.status(), None, "{} has exited; stderr: {:?}", self.name, self.stderr());
    }

    /// The intervals in which it led, by its lines.
    ///
    /// A frozen server could not print when it stopped, and one deposed by a third party was told
    /// late. Either counts as leading until then, unless it claimed leadership later.
    fn terms(&self) -> Vec<(BootTime, BootTime)> {
        let mut terms = Vec::new();
        let mut term: Option<(BootTime, BootTime)> = None;
        for line in self.told() {
            match (line.text.as_str(), &mut term) {
                (LEADER, None) => term = Some((line.at, line.at)),
                (REFRESHING, Some((_, last_claim))) => *last_claim = line.at,
                (CHANGE, Some((from, last_claim))) => {
                    let cut = self.cut_short.iter().rev().find(|at| (*from..line.at).contains(at));
                    let until = cut.map_or(line.at, |cut| (*cut).max(*last_claim));
                    terms.push((*from, until));
                    term = None;
                }
                _ => {}
            }
        }
        if let Some((from, _)) = term {
            terms.push((from, self.ended.unwrap_or_else(BootTime::now)));
        }
        terms
    }

    /// Panics if one of its lines may not follow the one before it.
    fn check_order(&self) {
        let lines: Vec<_> = self.told().into_iter().map(|line| line.text).collect();
        let mut before = None;
        let reaching = |line: &str| line == self.reaching || line.starts_with("Listening on '");
        for line in lines.iter().filter(|line| !reaching(line)) {
            let line = line.as_str();
            let allowed = match before {
                None => line == starting(&self.name),
                Some(CHANGE) => line == NEW_ELECTION,
                Some(NEW_ELECTION) => line == ELECTION,
                Some(ELECTION) => line == LEADER || line == FOLLOWER,
                Some(LEADER | REFRESHING) => line == REFRESHING || line == CHANGE,
                Some(FOLLOWER) => line == CHANGE,
                Some(_starting) => line == ELECTION,
            };
            assert!(allowed, "{}: {line:?} after {before:?}, in {lines:#?}", self.name);
            before = Some(line);
        }
    }
}

impl Form {
    /// The transition in a line, if there is one.
    fn told(self, line: Line) -> Option<Transition> {
        let Line { at, text, .. } = line;
        match self {
            Self::Plain => Some(Transition { at, text, token: None }),
            Self::Full => None,
            Self::Json => {
                let said: serde_json::Value = serde_json::from_str(&text).ok()?;
                let is_told = said["target"] == "transcript";
                let text = said["message"].as_str()?.to_owned();
                is_told.then(|| Transition { at, text, token: said["token"].as_u64() })
            }
        }
    }
}

impl Deref for Server {
    type Target = Captured;

    fn deref(&self) -> &Captured {
        &self.captured
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut Captured {
        &mut self.captured
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.check_order();
        }
    }
}

/// Starts servers one after the other, so that they queue in this order and the first one leads.
#[track_caller]
pub(crate) fn start_in_turn<const N: usize>(names: [&str; N], endpoints: &str, ttl: &str) -> [Server; N] {
    let mut leads = true;
    names.map(|name| match std::mem::replace(&mut leads, false) {
        true => Server::start_leader(name, endpoints, ttl),
        false => Server::start_follower(name, endpoints, ttl),
    })
}

/// Asserts that no two of these led at one moment, by their lines and stamps.
#[track_caller]
pub(crate) fn led_one_at_a_time<'a>(servers: impl IntoIterator<Item = &'a Server>) {
    let servers = servers.into_iter();
    let mut terms: Vec<_> =
        servers.flat_map(|server| server.terms().into_iter().map(|term| (term, server.name()))).collect();
    terms.sort_unstable();
    for pair in terms.windows(2) {
        let [((_, until), before), ((from, _), after)] = pair else { continue };
        // A server that was not scheduled was as good as frozen.
        let stall = longest_stall(*from, *until);
        assert!(*until <= *from + stall, "{before} led until {until}, and {after} from {from}; {stall:?}");
    }
}

/// The output of `elect status --json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Status {
    pub(crate) state: String,
    pub(crate) leader: Option<String>,
    pub(crate) token: Option<u64>,
    pub(crate) candidates: Vec<QueuedCandidate>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct QueuedCandidate {
    pub(crate) name: String,
    pub(crate) token: u64,
}

impl Status {
    /// Asks etcd at `endpoints` with the real command.
    #[track_caller]
    pub(crate) fn read(endpoints: &str) -> Self {
        let mut elect = Elect::new(["status", "--json", "--etcd", endpoints]).start();
        elect.wait_exit(SOON);
        let said = elect.stdout();
        let parsed = said.first().and_then(|line| serde_json::from_str(line).ok());
        parsed.unwrap_or_else(|| panic!("elect status said {said:?}; {:?}", elect.stderr()))
    }

    /// Names in the queue's order.
    pub(crate) fn queue(&self) -> Vec<&str> {
        self.candidates.iter().map(|queued| queued.name.as_str()).collect()
    }

    /// Waits until exactly these are in the queue, in this order.
    #[track_caller]
    pub(crate) fn wait_for_queue(endpoints: &str, names: &[&str]) -> Self {
        eventually(SOON, &format!("the queue {names:?}"), || {
            Some(Self::read(endpoints)).filter(|status| status.queue() == names)
        })
    }

    /// Waits until exactly these are in the queue, in any order, and the leader among them has announced itself.
    ///
    /// After an outage a queue has keys of former candidates for a while.
    #[track_caller]
    pub(crate) fn wait_for_agreement(endpoints: &str, servers: &[&Server]) -> Self {
        let mut names: Vec<_> = servers.iter().map(|server| server.name()).collect();
        names.sort_unstable();
        eventually(SOON, &format!("a queue of {names:?}, and a leader that knows"), || {
            let status = Self::read(endpoints);
            let mut queue = status.queue();
            queue.sort_unstable();
            let leader = servers.iter().find(|server| Some(server.name()) == status.leader.as_deref());
            (queue == names && leader.is_some_and(|leader| leader.says_that_it_leads())).then_some(status)
        })
    }
}

/// The token of the term in which `name` leads.
#[track_caller]
pub(crate) fn token_of(endpoints: &str, name: &str) -> u64 {
    let status = Status::read(endpoints);
    assert_eq!(status.leader.as_deref(), Some(name), "{status:?}");
    status.token.expect("a leader has a token")
}
