//! The state of this process's election at one moment. Pure: the store gathers it, the routes show it.

use std::time::{Duration, SystemTime};

use leader_election::{
    FencingToken,
    peers::{SyncTimes, TimingAdvice},
};

use crate::lease_timing::LeaseTiming;

/// This process's role in the election at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It leads, by the clock and not by a flag.
    Leader { token: FencingToken, remaining: Duration },
    /// In the queue, and not leading. The place counts from 1; unknown while the queue is. Among peers it has
    /// neither place nor token.
    Follower { token: Option<FencingToken>, place: Option<usize> },
    /// Not in the queue: about to join it, or held back.
    Outside,
}

impl Role {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Leader { .. } => "leader",
            Self::Follower { .. } => "follower",
            Self::Outside => "outside",
        }
    }

    pub(crate) const fn token(self) -> Option<FencingToken> {
        match self {
            Self::Leader { token, .. } => Some(token),
            Self::Follower { token, .. } => token,
            Self::Outside => None,
        }
    }

    /// Returns the place in the queue; the leader's is 1.
    pub(crate) const fn place(self) -> Option<usize> {
        match self {
            Self::Leader { .. } => Some(1),
            Self::Follower { place, .. } => place,
            Self::Outside => None,
        }
    }
}

/// The candidate's last report of its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastTold {
    /// It leads while its term holds: for this remaining time.
    Leading {
        token: FencingToken,
        remaining: Option<Duration>,
    },
    /// In the queue, behind another candidate.
    Behind {
        token: Option<FencingToken>,
    },
    Outside,
}

impl LastTold {
    /// Returns the token of the key in the queue.
    pub(crate) const fn token(self) -> Option<FencingToken> {
        match self {
            Self::Leading { token, .. } => Some(token),
            Self::Behind { token } => token,
            Self::Outside => None,
        }
    }
}

/// The tokens in the queue, or the time for which it has been unknown.
pub(crate) type QueuedTokens = Result<Vec<FencingToken>, Duration>;

/// Derives the role of a candidate with this last report and this queue.
///
/// A leader whose term is over does not know its loss or its new place yet: it is neither.
pub(crate) fn role(place: LastTold, queue: &QueuedTokens) -> Role {
    match (place, queue) {
        (LastTold::Leading { token, remaining: Some(remaining) }, _) => Role::Leader { token, remaining },
        (LastTold::Behind { token: None }, _) => Role::Follower { token: None, place: None },
        (LastTold::Behind { token }, Err(_)) => Role::Follower { token, place: None },
        (LastTold::Behind { token }, Ok(queue)) => {
            match queue.iter().position(|queued| Some(*queued) == token) {
                Some(before) => Role::Follower { token, place: Some(before + 1) },
                // Its key is gone, which it does not know yet.
                None => Role::Outside,
            }
        }
        (LastTold::Leading { remaining: None, .. } | LastTold::Outside, _) => Role::Outside,
    }
}

/// The leader, as far as it is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LeaderView {
    /// This term leads, whichever candidate's it is.
    Term(FencingToken),
    Vacant {
        blocked_by: Option<String>,
    },
    /// Unknown for this time, with the reason.
    Unknown {
        since: Duration,
        problem: &'static str,
    },
}

/// Inputs for the leader's view.
#[derive(Debug)]
pub(crate) struct SnapshotInputs<'a> {
    pub(crate) role: Role,
    pub(crate) queue: &'a QueuedTokens,
    /// A key put by hand at the head of the queue.
    pub(crate) blocked_by: Option<&'a str>,
    /// Time since the last contact with the backend.
    pub(crate) unheard: Duration,
    /// The backend, and the time without contact that it allows.
    pub(crate) proof: LeaseTiming,
    /// True if the first in the queue is this process.
    pub(crate) first_is_own: bool,
}

/// Describes the lost contact with the backend.
pub(crate) const fn silence(proof: LeaseTiming) -> &'static str {
    match proof {
        LeaseTiming::Lease(_) => "etcd does not answer",
        LeaseTiming::Heartbeats(_) => "no leader is heard",
    }
}

/// Derives the leader; knowledge older than a TTL, or than an election takes, is not repeated.
pub(crate) fn who_leads(evidence: &SnapshotInputs<'_>) -> LeaderView {
    if let Role::Leader { token, .. } = evidence.role {
        return LeaderView::Term(token);
    }
    if evidence.unheard > evidence.proof.stale_after() {
        return LeaderView::Unknown { since: evidence.unheard, problem: silence(evidence.proof) };
    }
    let unsure = match evidence.proof {
        LeaseTiming::Lease(_) => "the queue is being read",
        // One server can't know that there is no leader: the others may follow one.
        LeaseTiming::Heartbeats(_) => silence(evidence.proof),
    };
    let blocked_by = evidence.blocked_by.map(str::to_owned);
    match (evidence.queue, blocked_by) {
        (Err(since), _) => LeaderView::Unknown { since: *since, problem: unsure },
        (Ok(_), Some(key)) => LeaderView::Vacant { blocked_by: Some(key) },
        (Ok(queue), None) => match queue.first() {
            // First in the queue without leading: not yet, or not any more.
            Some(_) if evidence.first_is_own => LeaderView::Vacant { blocked_by: None },
            Some(first) => LeaderView::Term(*first),
            None => LeaderView::Vacant { blocked_by: None },
        },
    }
}

/// Everything that the routes show, as of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StatusSnapshot {
    /// Time of day, of this machine.
    pub(crate) at: SystemTime,
    pub(crate) role: Role,
    pub(crate) leads: LeaderView,
    /// Start of the leader's term, as announced or as seen here.
    pub(crate) leads_since: Option<SystemTime>,
    /// The leader's name, if it is known.
    pub(crate) leader: Option<String>,
    /// The address that the leader advertises, if it is known.
    pub(crate) address: Option<String>,
    /// First come first; `None` while unknown. Among peers: the leader, and this server if it waits.
    pub(crate) queue: Option<Vec<QueuedCandidate>>,
    /// All servers, sorted by name; only among peers.
    pub(crate) servers: Option<Vec<PeerRow>>,
    /// This server's measurements; only among peers.
    pub(crate) measured: Option<GroupMeasurements>,
    /// Refused messages and connections, by reason; only among peers.
    pub(crate) refused: Vec<(&'static str, u64)>,
    /// Time since the last contact with etcd, or with a leader.
    pub(crate) unheard: Duration,
    /// True if that is within the allowed time.
    pub(crate) fresh: bool,
    /// True if the health check, if there is one, passes.
    pub(crate) healthy: bool,
    /// The newest first.
    pub(crate) terms: Vec<PastTerm>,
}

/// One server's measurements of its disk, and the timing that those and the round trips need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupMeasurements {
    pub(crate) syncs: SyncTimes,
    /// `None` if the group's timing is long enough.
    pub(crate) advice: Option<TimingAdvice>,
}

/// One server of a group, as this one sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerRow {
    pub(crate) name: String,
    /// True for this server.
    pub(crate) own: bool,
    pub(crate) connected: bool,
    /// Time since its last message; `None` if there was none.
    pub(crate) heard: Option<Duration>,
    /// Its usual round trip; `None` for this server, and with too few measurements.
    pub(crate) round_trip: Option<Duration>,
    /// Reason that it is not connected, if known.
    pub(crate) problem: Option<String>,
    pub(crate) leads: bool,
}

/// One candidate in the queue; its name is `None` until it was read. Among peers only the leader has a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueuedCandidate {
    pub(crate) token: Option<FencingToken>,
    pub(crate) name: Option<String>,
    /// The address that it advertises, if it is known.
    pub(crate) address: Option<String>,
}

/// A term of the timeline, with its leader's name, if known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PastTerm {
    pub(crate) token: FencingToken,
    pub(crate) name: Option<String>,
    pub(crate) term: super::timeline::ObservedTerm,
}

impl StatusSnapshot {
    /// Returns whether it is in the queue or leads, and is in contact.
    pub(crate) fn is_ready(&self) -> bool {
        self.role != Role::Outside && self.fresh && self.healthy
    }
}

#[cfg(test)]
mod tests {
    use leader_election::{peers::Timing, timing::Ttl};

    use super::*;

    const TTL: Duration = Duration::from_secs(5);
    const LEASE: LeaseTiming = LeaseTiming::Lease(Ttl::DEFAULT);
    const MOMENT: Duration = Duration::from_millis(100);

    fn token(number: u64) -> FencingToken {
        FencingToken::new(number)
    }

    fn queue(tokens: &[u64]) -> QueuedTokens {
        Ok(tokens.iter().copied().map(token).collect())
    }

    fn seen(role: Role, queue: &QueuedTokens, unheard: Duration) -> LeaderView {
        let first_is_own = queue.as_ref().is_ok_and(|queue| queue.first() == Some(&token(7)));
        who_leads(&SnapshotInputs { role, queue, blocked_by: None, unheard, proof: LEASE, first_is_own })
    }

    #[test]
    fn a_leader_whose_term_holds_no_more_is_neither_leader_nor_follower() {
        let over = LastTold::Leading { token: token(3), remaining: None };
        assert_eq!(role(over, &queue(&[3, 5])), Role::Outside);
        let holds = LastTold::Leading { token: token(3), remaining: Some(MOMENT) };
        assert_eq!(role(holds, &Err(TTL)), Role::Leader { token: token(3), remaining: MOMENT });
    }

    #[test]
    fn a_follower_is_one_whose_key_is_in_the_queue() {
        let five = Some(token(5));
        let behind = LastTold::Behind { token: five };
        assert_eq!(role(behind, &queue(&[3, 5])), Role::Follower { token: five, place: Some(2) });
        assert_eq!(role(behind, &queue(&[3, 9])), Role::Outside);
        assert_eq!(role(behind, &Err(MOMENT)), Role::Follower { token: five, place: None });
        let placeless = Role::Follower { token: None, place: None };
        assert_eq!(role(LastTold::Behind { token: None }, &queue(&[3])), placeless);
        assert_eq!(role(LastTold::Behind { token: None }, &queue(&[])), placeless);
    }

    #[test]
    fn the_first_in_the_queue_leads_except_for_this_process() {
        assert_eq!(seen(Role::Outside, &queue(&[3, 5]), MOMENT), LeaderView::Term(token(3)));
        assert_eq!(seen(Role::Outside, &queue(&[7, 9]), MOMENT), LeaderView::Vacant { blocked_by: None });
        assert_eq!(seen(Role::Outside, &queue(&[]), MOMENT), LeaderView::Vacant { blocked_by: None });
    }

    #[test]
    fn knowledge_older_than_the_ttl_is_not_repeated() {
        let said = seen(Role::Outside, &queue(&[3]), TTL + MOMENT);
        assert!(matches!(said, LeaderView::Unknown { since, .. } if since == TTL + MOMENT), "{said:?}");
        assert!(matches!(seen(Role::Outside, &Err(MOMENT), MOMENT), LeaderView::Unknown { .. }));
        // For the own term the deadline decides.
        let leads = Role::Leader { token: token(7), remaining: MOMENT };
        assert_eq!(seen(leads, &Err(TTL), 2 * TTL), LeaderView::Term(token(7)));
    }
    #[test]
    fn a_peer_without_a_leader_does_not_report_a_vacancy() {
        let proof = LeaseTiming::Heartbeats(Timing::DEFAULT);
        let follower = Role::Follower { token: None, place: None };
        let seen = |queue: &QueuedTokens, unheard| {
            who_leads(&SnapshotInputs {
                role: follower,
                queue,
                blocked_by: None,
                unheard,
                proof,
                first_is_own: false,
            })
        };
        assert_eq!(seen(&queue(&[3]), MOMENT), LeaderView::Term(token(3)));
        // For example frozen: it does not know yet that it lost contact.
        for (queue, unheard) in [(queue(&[3]), TTL), (Err(MOMENT), MOMENT)] {
            let said = seen(&queue, unheard);
            assert_eq!(said, LeaderView::Unknown { since: unheard, problem: "no leader is heard" });
        }
    }
}
