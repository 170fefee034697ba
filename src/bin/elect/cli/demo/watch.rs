//! The leader, the servers that are down, and the duration of a failover, from the servers' output. Pure.

use std::time::{Duration, Instant};

use crate::cli::transcript::LogLine;

pub(super) const SERVERS: usize = 3;

/// One of the three servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DemoServer(usize);

impl DemoServer {
    pub(super) const ALL: [Self; SERVERS] = [Self(0), Self(1), Self(2)];

    pub(super) fn place(self) -> usize {
        self.0
    }
}

impl std::fmt::Display for DemoServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "server{}", self.0 + 1)
    }
}

/// From a leader's SIGKILL until the next one's `I am the leader.` was read (monotonic clock).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failover {
    pub(super) killed: DemoServer,
    pub(super) next: DemoServer,
    pub(super) took: Duration,
}

/// Outcome of a kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KillOutcome {
    Took(Failover),
    /// The killed server had stopped leading by itself just before. So this is no failover, and was not
    /// measured.
    Void {
        killed: DemoServer,
        next: DemoServer,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServerState {
    Away,
    /// It runs, and has not printed its role yet.
    Starting,
    /// It has printed that it leads or follows.
    Placed,
}

/// A killed leader whose successor is not known yet.
#[derive(Debug, Clone, Copy)]
struct Awaited {
    killed: DemoServer,
    at: Instant,
    had_stopped: bool,
}

#[derive(Debug)]
pub(super) struct DemoWatch {
    states: [ServerState; SERVERS],
    leader: Option<DemoServer>,
    awaited: Option<Awaited>,
    /// Number of servers that must run for one to lead.
    needed: usize,
}

impl DemoWatch {
    /// Creates the watch with all servers down. `needed` of them must run for one to lead.
    pub(super) fn new(needed: usize) -> Self {
        Self { states: [ServerState::Away; SERVERS], leader: None, awaited: None, needed }
    }

    pub(super) fn leader(&self) -> Option<DemoServer> {
        self.leader
    }

    /// Returns the time of the kill whose successor is awaited.
    pub(super) fn awaited_since(&self) -> Option<Instant> {
        self.awaited.map(|awaited| awaited.at)
    }

    pub(super) fn is_away(&self, server: DemoServer) -> bool {
        self.states[server.place()] == ServerState::Away
    }

    /// Returns whether enough servers run for one to lead.
    pub(super) fn can_lead(&self) -> bool {
        self.states.iter().filter(|state| **state != ServerState::Away).count() >= self.needed
    }

    /// Returns whether one leads, and each that runs has printed its role.
    pub(super) fn all_placed(&self) -> bool {
        self.leader.is_some() && !self.states.contains(&ServerState::Starting)
    }

    pub(super) fn started(&mut self, server: DemoServer) {
        self.states[server.place()] = ServerState::Starting;
    }

    /// Records a SIGKILL at this moment.
    pub(super) fn killed(&mut self, server: DemoServer, at: Instant) {
        self.gone(server);
        // With too few of them a person decides how long it takes.
        self.awaited = self.can_lead().then_some(Awaited { killed: server, at, had_stopped: false });
    }

    /// Records the end of a server.
    pub(super) fn gone(&mut self, server: DemoServer) {
        self.states[server.place()] = ServerState::Away;
        self.leader = self.leader.filter(|leader| *leader != server);
        // The others may have to find the new leader.
        for state in &mut self.states {
            if *state == ServerState::Placed && self.leader.is_none() {
                *state = ServerState::Starting;
            }
        }
    }

    /// Records a printed line, and the time it was read.
    pub(super) fn printed(&mut self, server: DemoServer, text: &str, at: Instant) -> Option<KillOutcome> {
        let is = |line: LogLine| text == line.to_string();
        if self.is_away(server) {
            // Its last lines may arrive after its death.
            if let Some(awaited) = &mut self.awaited {
                awaited.had_stopped |= awaited.killed == server && is(LogLine::ChangeRequired);
            }
            return None;
        }
        if is(LogLine::ChangeRequired) {
            self.states[server.place()] = ServerState::Starting;
            self.leader = self.leader.filter(|leader| *leader != server);
        } else if is(LogLine::Follower) {
            self.states[server.place()] = ServerState::Placed;
        } else if is(LogLine::Leader) {
            self.states[server.place()] = ServerState::Placed;
            self.leader = Some(server);
            let Awaited { killed, at: since, had_stopped } = self.awaited.take()?;
            let took = at.saturating_duration_since(since);
            return Some(match had_stopped {
                true => KillOutcome::Void { killed, next: server },
                false => KillOutcome::Took(Failover { killed, next: server, took }),
            });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: &str = "I am the leader.";
    const FOLLOWER: &str = "I am a follower.";
    const CHANGE: &str = "LEADERSHIP CHANGE REQUIRED";
    const MS: Duration = Duration::from_millis(1);
    const ONE: DemoServer = DemoServer::ALL[0];
    const TWO: DemoServer = DemoServer::ALL[1];
    const THREE: DemoServer = DemoServer::ALL[2];

    /// The first leads, the others follow.
    fn settled(now: Instant) -> DemoWatch {
        let mut watch = DemoWatch::new(2);
        for server in DemoServer::ALL {
            watch.started(server);
        }
        for (server, line) in [(TWO, FOLLOWER), (ONE, LEADER), (THREE, FOLLOWER)] {
            assert!(!watch.all_placed());
            assert_eq!(watch.printed(server, line, now), None);
        }
        assert!(watch.all_placed());
        watch
    }

    #[test]
    fn a_failover_is_from_the_kill_to_the_line_of_the_next_leader() {
        let now = Instant::now();
        let mut watch = settled(now);
        watch.killed(ONE, now + 100 * MS);
        assert_eq!((watch.leader(), watch.all_placed()), (None, false));
        assert_eq!(watch.printed(THREE, CHANGE, now + 300 * MS), None);
        assert_eq!(watch.printed(TWO, CHANGE, now + 350 * MS), None);
        let took = Failover { killed: ONE, next: THREE, took: 301 * MS };
        assert_eq!(watch.printed(THREE, LEADER, now + 401 * MS), Some(KillOutcome::Took(took)));
        assert!(!watch.all_placed());
        assert_eq!(watch.printed(TWO, FOLLOWER, now + 402 * MS), None);
        assert!(watch.all_placed());
        watch.started(ONE);
        assert!(!watch.all_placed());
    }

    #[test]
    fn the_dead_leader_is_not_the_next_one() {
        let now = Instant::now();
        let mut watch = settled(now);
        watch.killed(ONE, now);
        // The line was still in the pipe.
        assert_eq!(watch.printed(ONE, LEADER, now + MS), None);
        assert_eq!(watch.leader(), None);
        assert_eq!(watch.awaited_since(), Some(now));
    }

    #[test]
    fn who_had_stopped_leading_before_it_was_killed_gives_no_measurement() {
        let now = Instant::now();
        let mut watch = settled(now);
        watch.killed(ONE, now);
        watch.printed(ONE, CHANGE, now + MS);
        let void = KillOutcome::Void { killed: ONE, next: TWO };
        assert_eq!(watch.printed(TWO, LEADER, now + 2 * MS), Some(void));
    }

    #[test]
    fn without_a_majority_nothing_is_measured() {
        let now = Instant::now();
        let mut watch = settled(now);
        watch.killed(ONE, now);
        assert!(watch.can_lead());
        watch.printed(TWO, LEADER, now + MS);
        watch.killed(TWO, now + 2 * MS);
        assert!(!watch.can_lead());
        assert_eq!(watch.awaited_since(), None);
        watch.started(ONE);
        assert_eq!(watch.printed(THREE, LEADER, now + 3 * MS), None);
    }

    #[test]
    fn a_leader_that_hands_over_is_followed_in_either_order_of_their_lines() {
        let now = Instant::now();
        let mut watch = settled(now);
        watch.printed(TWO, CHANGE, now);
        assert_eq!(watch.leader(), Some(ONE));
        watch.printed(TWO, LEADER, now);
        watch.printed(ONE, CHANGE, now);
        assert_eq!(watch.leader(), Some(TWO));
    }
}
