//! The lines that people follow, as a function of events.
//!
//! Two sources report on one election: the candidate its own actions, the leader watch the leader. They are
//! not in step. A follower may learn that it won before it learns that the old leader is gone. [`Transcript`]
//! puts both into the one order that a reader expects.

use std::fmt;

use leader_election::FencingToken;

/// One line of the log, word for word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LogLine {
    Starting { name: String },
    Connecting { endpoints: String },
    Listening { at: String, peers: Vec<String> },
    Election,
    Leader,
    Follower,
    Refreshing,
    ChangeRequired,
    NewElection,
}

impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting { name } => write!(f, "Starting the server '{name}'"),
            Self::Connecting { endpoints } => write!(f, "Connecting to etcd at '{endpoints}'"),
            Self::Listening { at, peers } if peers.is_empty() => write!(f, "Listening on '{at}', no peers"),
            Self::Listening { at, peers } => write!(f, "Listening on '{at}', peers: {}", peers.join(", ")),
            Self::Election => f.write_str("New leader election happening."),
            Self::Leader => f.write_str("I am the leader."),
            Self::Follower => f.write_str("I am a follower."),
            Self::Refreshing => f.write_str("Refreshing lease; still the leader."),
            Self::ChangeRequired => f.write_str("LEADERSHIP CHANGE REQUIRED"),
            Self::NewElection => f.write_str("new election"),
        }
    }
}

/// An event, from either source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happened {
    /// The candidate has a lease, and joins the queue.
    Campaigning,
    /// The candidate is in the queue, behind another; it will lead with this token, if it has one yet.
    Queued {
        own: Option<FencingToken>,
    },
    Elected {
        token: FencingToken,
    },
    Renewed,
    /// This process was told to stop; if it leads, it stops leading now.
    Stopping,
    Lost,
    /// The leader watch sees this term lead.
    SeenLeader {
        token: FencingToken,
    },
    SeenVacant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LogRole {
    Starting,
    /// A leader is being elected; it may be this one.
    Electing,
    /// Another candidate leads: this term, if it was seen.
    Following(Option<FencingToken>),
    Leading,
    /// Led, and lost it; not campaigning again yet.
    Deposed,
}

/// The printed lines, as far as later ones depend on them.
#[derive(Debug)]
pub(super) struct Transcript {
    role: LogRole,
    /// True once the candidate reported that it follows or leads.
    placed: bool,
    /// The token of our place in the queue, if it has one.
    own: Option<FencingToken>,
    /// The term that the leader watch saw last.
    seen: Option<FencingToken>,
}

const CHANGE: [LogLine; 3] = [LogLine::ChangeRequired, LogLine::NewElection, LogLine::Election];

impl Transcript {
    pub(super) fn new() -> Self {
        Self { role: LogRole::Starting, placed: false, own: None, seen: None }
    }

    /// Returns the lines to print.
    pub(super) fn lines(&mut self, happened: Happened) -> Vec<LogLine> {
        match happened {
            Happened::Campaigning => self.campaigning(),
            Happened::Queued { own } => {
                (self.placed, self.own) = (true, own);
                // If the leader is not known yet, it is about to be seen.
                let another_leads = self.seen.is_some() && self.seen != own;
                if self.role == LogRole::Electing && another_leads { self.follow() } else { Vec::new() }
            }
            Happened::Elected { token } => {
                let change = matches!(self.role, LogRole::Following(_));
                (self.role, self.own, self.seen) = (LogRole::Leading, Some(token), Some(token));
                let before = if change { CHANGE.to_vec() } else { Vec::new() };
                [before, vec![LogLine::Leader]].concat()
            }
            Happened::Renewed if self.role == LogRole::Leading => vec![LogLine::Refreshing],
            Happened::Renewed => Vec::new(),
            Happened::Stopping | Happened::Lost if self.role == LogRole::Leading => {
                // The next leader may have been seen before the report of our own end.
                let next = self.seen.filter(|seen| Some(*seen) != self.own);
                (self.role, self.placed, self.own, self.seen) = (LogRole::Deposed, false, None, next);
                vec![LogLine::ChangeRequired]
            }
            Happened::Stopping | Happened::Lost => Vec::new(),
            Happened::SeenLeader { token } => self.seen_leader(token),
            Happened::SeenVacant => {
                self.seen = None;
                self.change_if_following()
            }
        }
    }

    fn campaigning(&mut self) -> Vec<LogLine> {
        let lines = match self.role {
            LogRole::Starting => vec![LogLine::Election],
            LogRole::Deposed => vec![LogLine::NewElection, LogLine::Election],
            // A new place in the queue, behind the same leader: no change.
            LogRole::Electing | LogRole::Following(_) | LogRole::Leading => return Vec::new(),
        };
        self.role = LogRole::Electing;
        lines
    }

    fn seen_leader(&mut self, token: FencingToken) -> Vec<LogLine> {
        self.seen = Some(token);
        match self.role {
            // The candidate's report is still to come, and includes the change.
            _ if self.seen == self.own => Vec::new(),
            LogRole::Following(None) => {
                self.role = LogRole::Following(Some(token));
                Vec::new()
            }
            LogRole::Following(Some(known)) if known != token => {
                let change = self.change_if_following();
                [change, self.follow()].concat()
            }
            // There was no leader, and now another candidate leads.
            LogRole::Electing if self.placed => self.follow(),
            LogRole::Starting
            | LogRole::Electing
            | LogRole::Following(_)
            | LogRole::Leading
            | LogRole::Deposed => Vec::new(),
        }
    }

    fn follow(&mut self) -> Vec<LogLine> {
        let seen = self.seen.filter(|seen| Some(*seen) != self.own);
        self.role = LogRole::Following(seen);
        vec![LogLine::Follower]
    }

    fn change_if_following(&mut self) -> Vec<LogLine> {
        if !matches!(self.role, LogRole::Following(_)) {
            return Vec::new();
        }
        self.role = LogRole::Electing;
        CHANGE.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u64) -> FencingToken {
        FencingToken::new(number)
    }

    fn told(all: &[Happened]) -> Vec<String> {
        let mut transcript = Transcript::new();
        all.iter().flat_map(|happened| transcript.lines(*happened)).map(|line| line.to_string()).collect()
    }

    const CHANGE_LINES: [&str; 3] =
        ["LEADERSHIP CHANGE REQUIRED", "new election", "New leader election happening."];

    #[test]
    fn first_server_leads_and_refreshes() {
        let lines = told(&[Happened::Campaigning, Happened::Elected { token: token(1) }, Happened::Renewed]);
        assert_eq!(
            lines,
            ["New leader election happening.", "I am the leader.", "Refreshing lease; still the leader."]
        );
    }

    #[test]
    fn follower_logs_a_change_and_its_win_in_either_order_of_sources() {
        let follow = [
            Happened::Campaigning,
            Happened::Queued { own: Some(token(2)) },
            Happened::SeenLeader { token: token(1) },
        ];
        let won = Happened::Elected { token: token(2) };
        let seen = Happened::SeenLeader { token: token(2) };
        for rest in [[won, seen], [seen, won]] {
            let lines = told(&[&follow[..], &rest].concat());
            assert_eq!(lines[..2], ["New leader election happening.", "I am a follower."]);
            assert_eq!(lines[2..5], CHANGE_LINES);
            assert_eq!(lines[5..], ["I am the leader."]);
        }
    }

    #[test]
    fn a_place_at_the_head_without_a_win_is_no_leadership() {
        let lines = told(&[
            Happened::Campaigning,
            Happened::Queued { own: Some(token(2)) },
            Happened::SeenLeader { token: token(1) },
            Happened::SeenLeader { token: token(2) },
            Happened::Campaigning,
            Happened::Queued { own: Some(token(5)) },
            Happened::SeenLeader { token: token(3) },
        ]);
        assert_eq!(lines[..2], ["New leader election happening.", "I am a follower."]);
        assert_eq!(lines[2..5], CHANGE_LINES);
        assert_eq!(lines[5..], ["I am a follower."]);
    }

    #[test]
    fn follower_logs_a_change_to_another_candidate() {
        let lines = told(&[
            Happened::Campaigning,
            Happened::SeenLeader { token: token(1) },
            Happened::Queued { own: Some(token(3)) },
            Happened::SeenLeader { token: token(2) },
        ]);
        assert_eq!(lines[..2], ["New leader election happening.", "I am a follower."]);
        assert_eq!(lines[2..5], CHANGE_LINES);
        assert_eq!(lines[5..], ["I am a follower."]);
    }

    #[test]
    fn a_follower_without_a_token_of_its_own_says_the_same() {
        let behind = Happened::Queued { own: None };
        let seen = |number| Happened::SeenLeader { token: token(number) };
        for follow in [[behind, seen(1)], [seen(1), behind]] {
            let lines = told(&[&[Happened::Campaigning], &follow[..], &[Happened::SeenVacant]].concat());
            assert_eq!(lines[..2], ["New leader election happening.", "I am a follower."]);
            assert_eq!(lines[2..], CHANGE_LINES);
        }
        let wins = [Happened::Elected { token: token(2) }, seen(2)];
        let lines =
            told(&[&[Happened::Campaigning, behind, seen(1), Happened::SeenVacant], &wins[..]].concat());
        assert_eq!(lines[5..], ["I am the leader."]);
    }

    #[test]
    fn a_vacancy_is_a_change_and_is_logged_once() {
        let lines = told(&[
            Happened::Campaigning,
            Happened::Queued { own: Some(token(3)) },
            Happened::SeenLeader { token: token(1) },
            Happened::SeenVacant,
            Happened::SeenVacant,
            Happened::SeenLeader { token: token(2) },
        ]);
        assert_eq!(lines[2..5], CHANGE_LINES);
        assert_eq!(lines[5..], ["I am a follower."]);
    }

    #[test]
    fn a_leader_that_loses_logs_it_at_once_and_campaigns_again() {
        let lines = told(&[
            Happened::Campaigning,
            Happened::Elected { token: token(1) },
            Happened::Lost,
            Happened::Renewed,
            Happened::SeenLeader { token: token(2) },
            Happened::Campaigning,
            Happened::Queued { own: Some(token(3)) },
        ]);
        assert_eq!(lines[2..5], CHANGE_LINES);
        assert_eq!(lines[5..], ["I am a follower."]);
    }

    #[test]
    fn contract_8_a_leader_that_is_told_to_stop_logs_it_once() {
        let lead = [Happened::Campaigning, Happened::Elected { token: token(1) }];
        let lines = told(&[&lead[..], &[Happened::Stopping, Happened::Renewed, Happened::Lost]].concat());
        assert_eq!(lines[2..], ["LEADERSHIP CHANGE REQUIRED"]);
    }

    #[test]
    fn a_new_place_behind_the_same_leader_is_no_change() {
        let lines = told(&[
            Happened::Campaigning,
            Happened::Queued { own: Some(token(2)) },
            Happened::SeenLeader { token: token(1) },
            Happened::Campaigning,
            Happened::Queued { own: Some(token(5)) },
            Happened::SeenLeader { token: token(1) },
        ]);
        assert_eq!(lines.len(), 2);
    }
}
