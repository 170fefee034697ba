//! Three peers as processes, on this machine or under worse conditions.

use std::time::Duration;

use crate::{
    contender::SOON,
    programs,
    support::{
        capture::{Captured, Line, Mark},
        delay::SlowLink,
        elect::unconfigured,
        eventually::eventually,
        peers::Group,
        port::ReservedPort,
        process,
        slow_disk::slow_disk,
    },
};

/// The members' conditions and timing.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Conditions {
    /// Round trip between two of them, beside that of this machine.
    pub(crate) round_trip: Duration,
    /// Additional time of a sync.
    pub(crate) sync: Duration,
    /// The shortest election timeout; the longest is twice that. `None` is the default timing.
    pub(crate) shortest: Option<Duration>,
}

impl Conditions {
    /// This machine, with the default timing.
    pub(crate) const HERE: Self = Self { round_trip: Duration::ZERO, sync: Duration::ZERO, shortest: None };

    /// The longest election timeout.
    pub(crate) fn longest(&self) -> Duration {
        self.shortest.map_or(Duration::from_millis(500), |shortest| shortest * 2)
    }
}

/// The processes of a group's members.
pub(crate) struct Members {
    pub(crate) servers: Vec<Captured>,
    group: Group,
    conditions: Conditions,
    /// Each member's address, and the link to it; none without a delay.
    ways: Vec<(ReservedPort, SlowLink)>,
}

impl Members {
    pub(crate) fn start(conditions: Conditions) -> Self {
        let way = |_| {
            let port = ReservedPort::new();
            let link = SlowLink::to(&port.address(), conditions.round_trip);
            (port, link)
        };
        let ways: Vec<_> = (0..3).filter(|_| conditions.round_trip > Duration::ZERO).map(way).collect();
        let group = match ways.is_empty() {
            true => Group::of(3),
            false => Group::at(ways.iter().map(|(_, link)| link.address()).collect()),
        };
        let mut members = Self { servers: Vec::new(), group, conditions, ways };
        members.servers = (0..3).map(|place| members.server(place)).collect();
        members
    }

    pub(crate) fn restart(&mut self, place: usize) {
        self.servers[place] = self.server(place);
    }

    fn server(&self, place: usize) -> Captured {
        let mut command = process::command(programs::elect());
        let (name, list) = (self.group.name(place), self.group.list());
        let args = ["server", name, "--peers", &list, "--log-format", "full", "--data"];
        unconfigured(&mut command).args(args).arg(self.group.data(place));
        if let Some((port, _)) = self.ways.get(place) {
            command.args(["--listen", &port.address()]);
        }
        if let Some(shortest) = self.conditions.shortest {
            let range = format!("{}ms-{}ms", shortest.as_millis(), self.conditions.longest().as_millis());
            command.args(["--election-timeout", &range]);
        }
        if self.conditions.sync > Duration::ZERO {
            command.envs(slow_disk(self.conditions.sync));
        }
        Captured::start(name, command)
    }
}

fn says_leader(line: &str) -> bool {
    line.contains("I am the leader.")
}

/// `token=7`, in a line of the full log.
pub(crate) fn token(line: &Line) -> u64 {
    let token = line.text.split("token=").nth(1).expect("a win is told with its token");
    let digits: String = token.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a token is a number")
}

/// Waits until one of them leads.
pub(crate) fn first(members: &Members) -> (usize, Line) {
    eventually(SOON, "one of three to lead", || {
        (0..3).find_map(|place| {
            let line = members.servers[place].lines().into_iter().find(|line| says_leader(&line.text))?;
            Some((place, line))
        })
    })
}

/// Waits until one of them other than `but` leads after the marks.
pub(crate) fn next_leader(members: &Members, but: usize, since: &[Mark]) -> (usize, Line) {
    eventually(SOON, "another one to lead", || {
        (0..3).filter(|place| *place != but).find_map(|place| {
            let lines = members.servers[place].lines_since(since[place]);
            Some((place, lines.into_iter().find(|line| says_leader(&line.text))?))
        })
    })
}

pub(crate) fn marks(members: &Members) -> Vec<Mark> {
    members.servers.iter().map(Captured::mark).collect()
}
