//! Groups of `elect server --peers` processes.
//!
//! They log in JSON if a test needs tokens, in plain lines if it tests the lines themselves. The
//! invariants of every log are checked as for servers on etcd: see [`server`](super::server).

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    capture::{Captured, Line, LinePattern, Mark},
    elect::Elect,
    eventually::eventually,
    port::ReservedPort,
    server::{CHANGE, FOLLOWER, Form, LEADER, REFRESHING, SOON, Server},
};

/// So long that a leader keeps its term on a busy machine.
pub(crate) const UNHURRIED: [&str; 4] = ["--heartbeat", "100ms", "--election-timeout", "1500ms-2500ms"];

/// For tests of many elections, which may lose a term to a busy machine.
pub(crate) const BRISK: [&str; 4] = ["--heartbeat", "50ms", "--election-timeout", "500ms-1s"];

/// A group's members, with their addresses and data directories.
#[derive(Debug)]
pub(crate) struct Group {
    members: Vec<(String, String)>,
    timing: [&'static str; 4],
    data: TempDir,
    /// Reserved as long as this exists.
    _ports: Vec<ReservedPort>,
}

impl Group {
    /// `server1` and so on, on this machine.
    pub(crate) fn of(count: usize) -> Self {
        let ports: Vec<_> = (0..count).map(|_| ReservedPort::new()).collect();
        let addresses = ports.iter().map(ReservedPort::address).collect();
        Self { _ports: ports, ..Self::at(addresses) }
    }

    /// The same, at these addresses.
    pub(crate) fn at(addresses: Vec<String>) -> Self {
        let members = addresses.into_iter().enumerate();
        let members = members.map(|(place, address)| (format!("server{}", place + 1), address)).collect();
        let data = TempDir::new().expect("a temporary directory can be made");
        Self { members, timing: UNHURRIED, data, _ports: Vec::new() }
    }

    /// Adds a member at any address.
    pub(crate) fn add(&mut self, name: &str, address: &str) {
        self.members.push((name.to_owned(), address.to_owned()));
    }

    pub(crate) fn with_timing(mut self, timing: [&'static str; 4]) -> Self {
        self.timing = timing;
        self
    }

    pub(crate) fn size(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn name(&self, place: usize) -> &str {
        &self.members[place].0
    }

    pub(crate) fn address(&self, place: usize) -> &str {
        &self.members[place].1
    }

    /// The list in the form of `--peers`.
    pub(crate) fn list(&self) -> String {
        let members: Vec<_> =
            self.members.iter().map(|(name, address)| format!("{name}={address}")).collect();
        members.join(",")
    }

    /// The directory of that member, which need not exist yet.
    pub(crate) fn data(&self, place: usize) -> PathBuf {
        self.data.path().join(self.name(place))
    }

    pub(crate) fn database(&self, place: usize) -> PathBuf {
        self.data(place).join("elect.db")
    }

    /// The line that names its address.
    pub(crate) fn listening(&self, place: usize) -> String {
        let others: Vec<_> =
            (0..self.size()).filter(|other| *other != place).map(|other| self.name(other)).collect();
        let peers =
            if others.is_empty() { "no peers".into() } else { format!("peers: {}", others.join(", ")) };
        format!("Listening on '{}', {peers}", self.address(place))
    }

    /// Arguments of `elect` for that server, except for the log's format.
    pub(crate) fn command_line(&self, place: usize) -> Vec<String> {
        self.command_line_with(place, &self.list(), &self.data(place))
    }

    /// The same, with another list or directory.
    pub(crate) fn command_line_with(&self, place: usize, list: &str, data: &Path) -> Vec<String> {
        let data = data.to_str().expect("temporary directories have plain names");
        let line = ["server", self.name(place), "--peers", list, "--data", data];
        line.iter().chain(&self.timing).map(ToString::to_string).collect()
    }

    /// Starts that server.
    pub(crate) fn start(&self, place: usize) -> Server {
        self.start_as(place, Elect::new(self.command_line(place)))
    }

    /// Starts that server with this command line.
    pub(crate) fn start_as(&self, place: usize, elect: Elect) -> Server {
        self.start_in_form(place, elect, Form::Json)
    }

    /// Starts that server with the plain log.
    pub(crate) fn start_plain(&self, place: usize) -> Server {
        self.start_in_form(place, Elect::new(self.command_line(place)), Form::Plain)
    }

    /// Starts all of them.
    pub(crate) fn start_all(&self) -> Vec<Server> {
        (0..self.size()).map(|place| self.start(place)).collect()
    }

    fn start_in_form(&self, place: usize, elect: Elect, form: Form) -> Server {
        let written = match form {
            Form::Plain => "plain",
            Form::Full => "full",
            Form::Json => "json",
        };
        let elect = elect.called(self.name(place)).args(["--log-format", written]);
        Server::of(elect.start(), self.name(place), self.listening(place), form)
    }
}

/// A leader: its place among the given servers, and its term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lead {
    pub(crate) place: usize,
    pub(crate) token: u64,
}

/// Waits until one of these reports that it leads a later term, and that line is the newest of its
/// kind.
#[track_caller]
pub(crate) fn leads_after<'a>(servers: impl IntoIterator<Item = &'a Server> + Clone, token: u64) -> Lead {
    eventually(SOON, &format!("a leader with a token after {token}"), || {
        let claims = servers.clone().into_iter().enumerate().flat_map(|(place, server)| {
            let claims = server.told().into_iter().filter(|told| told.text == LEADER);
            claims.filter_map(move |told| Some(Lead { place, token: told.token? }))
        });
        claims.filter(|claim| claim.token > token).max_by_key(|claim| claim.token)
    })
}

/// Waits until one of these leads and all the others follow. They must be started at the same time.
#[track_caller]
pub(crate) fn settled(servers: &[Server]) -> Lead {
    let lead = leads_after(servers, 0);
    for (_, server) in servers.iter().enumerate().filter(|(place, _)| *place != lead.place) {
        server.wait_for_line(told(FOLLOWER), SOON);
    }
    lead
}

/// A transition's line, in either format.
pub(crate) fn told(text: &str) -> impl LinePattern + use<> {
    let (plain, json) = (text.to_owned(), format!("\"message\":\"{text}\""));
    move |line: &str| line == plain || line.contains(&json)
}

/// A line with all of these in it.
pub(crate) fn with_parts(parts: &[&str]) -> impl LinePattern + use<> {
    let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
    move |line: &str| parts.iter().all(|part| line.contains(part.as_str()))
}

/// Waits until it has renewed its leadership so many times, a second apart.
#[track_caller]
pub(crate) fn leads_on(server: &Server, mark: Mark, times: usize) {
    let mut mark = mark;
    for _ in 0..times {
        mark = server.wait_for_line_since(mark, told(REFRESHING), SOON).mark();
    }
}

/// Reports whether it has logged since `mark` the end of a leadership, its own or another's.
pub(crate) fn saw_a_change(server: &Server, mark: Mark) -> bool {
    server.told_since(mark).iter().any(|told| told.text == CHANGE)
}

/// That server's messages at warning or above, or about its peers: the field `problem` of its JSON log.
pub(crate) fn problems(captured: &Captured) -> Vec<String> {
    let problem = |line: Line| {
        let said: Value = serde_json::from_str(&line.text).ok()?;
        said["problem"].as_str().map(str::to_owned)
    };
    captured.lines().into_iter().filter_map(problem).collect()
}

/// All tokens with which these have led, with their names, in the order of the claims.
///
/// # Panics
///
/// Unless they grow.
#[track_caller]
pub(crate) fn growing_tokens<'a>(servers: impl IntoIterator<Item = &'a Server>) -> Vec<u64> {
    let claims = servers.into_iter().flat_map(|server| {
        let claims = server.told().into_iter().filter(|told| told.text == LEADER);
        claims.map(|told| (told.at, told.token.expect("the log is in JSON"), server.name().to_owned()))
    });
    let mut claims: Vec<_> = claims.collect();
    claims.sort();
    let grow = claims.is_sorted_by(|(_, one, _), (_, next, _)| one < next);
    assert!(grow, "tokens as they were claimed: {claims:#?}");
    claims.into_iter().map(|(_, token, _)| token).collect()
}
