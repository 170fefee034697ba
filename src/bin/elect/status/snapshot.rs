//! What this process knows of its election at one moment. Pure: the board gathers it, the routes show it.

use std::time::{Duration, SystemTime};

use leader_election::{
    FencingToken,
    peers::{SyncTimes, TimingAdvice},
};

use crate::lease_timing::LeaseTiming;

/// What this process is in the election, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It leads: asked of the clock, not of a flag.
    Leader { token: FencingToken, remaining: Duration },
    /// In the queue, and not leading. The place counts from 1; unknown while the queue is.
    /// Among peers it has neither place nor token.
    Follower { token: Option<FencingToken>, place: Option<usize> },
    /// Not in the queue: on its way there, or held back.
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

    /// The place in the queue, from 1 for whoever leads.
    pub(crate) const fn place(self) -> Option<usize> {
        match self {
            Self::Leader { .. } => Some(1),
            Self::Follower { place, .. } => place,
            Self::Outside => None,
        }
    }
}

/// The last that the candidate told of its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastTold {
    /// It leads, if its term still holds: then this much is left.
    Leading {
        token: FencingToken,
        remaining: Option<Duration>,
    },
    /// In the queue, behind somebody.
    Behind {
        token: Option<FencingToken>,
    },
    Outside,
}

impl LastTold {
    /// The token of the key in the queue.
    pub(crate) const fn token(self) -> Option<FencingToken> {
        match self {
            Self::Leading { token, .. } => Some(token),
            Self::Behind { token } => token,
            Self::Outside => None,
        }
    }
}

/// The tokens in the queue, or for how long it has not been known.
pub(crate) type QueuedTokens = Result<Vec<FencingToken>, Duration>;

/// What somebody who was told this, and sees this queue, is.
///
/// A leader whose term holds no more has not heard of its end yet, or not of its new place: it is neither.
pub(crate) fn role(place: LastTold, queue: &QueuedTokens) -> Role {
    match (place, queue) {
        (LastTold::Leading { token, remaining: Some(remaining) }, _) => Role::Leader { token, remaining },
        (LastTold::Behind { token: None }, _) => Role::Follower { token: None, place: None },
        (LastTold::Behind { token }, Err(_)) => Role::Follower { token, place: None },
        (LastTold::Behind { token }, Ok(queue)) => {
            match queue.iter().position(|queued| Some(*queued) == token) {
                Some(before) => Role::Follower { token, place: Some(before + 1) },
                // Its key is gone, which it has not heard yet.
                None => Role::Outside,
            }
        }
        (LastTold::Leading { remaining: None, .. } | LastTold::Outside, _) => Role::Outside,
    }
}

/// Who leads, as far as it is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LeaderView {
    /// This term, of whoever's.
    Term(FencingToken),
    Vacant {
        blocked_by: Option<String>,
    },
    /// For how long not, and why.
    Unknown {
        since: Duration,
        problem: &'static str,
    },
}

/// What it takes to say who leads.
#[derive(Debug)]
pub(crate) struct SnapshotInputs<'a> {
    pub(crate) role: Role,
    pub(crate) queue: &'a QueuedTokens,
    /// A key, put by hand, at the front of the queue.
    pub(crate) blocked_by: Option<&'a str>,
    /// For how long the backend has not been heard.
    pub(crate) unheard: Duration,
    /// For how long that may be without a doubt, and which backend it is.
    pub(crate) proof: LeaseTiming,
    /// Whether the first in the queue is this process.
    pub(crate) first_is_own: bool,
}

/// The backend was not heard, in words.
pub(crate) const fn silence(proof: LeaseTiming) -> &'static str {
    match proof {
        LeaseTiming::Lease(_) => "etcd does not answer",
        LeaseTiming::Heartbeats(_) => "no leader is heard",
    }
}

/// Says who leads; what is older than a TTL, or than an election takes, is not repeated.
pub(crate) fn who_leads(evidence: &SnapshotInputs<'_>) -> LeaderView {
    if let Role::Leader { token, .. } = evidence.role {
        return LeaderView::Term(token);
    }
    if evidence.unheard > evidence.proof.stale_after() {
        return LeaderView::Unknown { since: evidence.unheard, problem: silence(evidence.proof) };
    }
    let unsure = match evidence.proof {
        LeaseTiming::Lease(_) => "the queue is being read",
        // That nobody leads can't be known to one server: the others may follow somebody.
        LeaseTiming::Heartbeats(_) => silence(evidence.proof),
    };
    let blocked_by = evidence.blocked_by.map(str::to_owned);
    match (evidence.queue, blocked_by) {
        (Err(since), _) => LeaderView::Unknown { since: *since, problem: unsure },
        (Ok(_), Some(key)) => LeaderView::Vacant { blocked_by: Some(key) },
        (Ok(queue), None) => match queue.first() {
            // First in the queue, and yet we don't lead: not yet, or not any more.
            Some(_) if evidence.first_is_own => LeaderView::Vacant { blocked_by: None },
            Some(first) => LeaderView::Term(*first),
            None => LeaderView::Vacant { blocked_by: None },
        },
    }
}

/// All that the routes show, as of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StatusSnapshot {
    /// Time of day, of this machine.
    pub(crate) at: SystemTime,
    pub(crate) role: Role,
    pub(crate) leads: LeaderView,
    /// Since when the leader leads, by its own word or as seen here.
    pub(crate) leads_since: Option<SystemTime>,
    /// The leader's name, where it is known.
    pub(crate) leader: Option<String>,
    /// First come first; `None` while it is not known. Among peers: the leader, and this server if it waits.
    pub(crate) queue: Option<Vec<QueuedCandidate>>,
    /// Among peers: all of them, sorted by name.
    pub(crate) servers: Option<Vec<PeerRow>>,
    /// Among peers: what this one measures.
    pub(crate) measured: Option<GroupMeasurements>,
    /// Among peers: how often what was not listened to, by reason.
    pub(crate) refused: Vec<(&'static str, u64)>,
    /// For how long etcd, or a leader, has not been heard.
    pub(crate) unheard: Duration,
    /// Whether that is no longer than it may be.
    pub(crate) fresh: bool,
    /// Whether the health probe, if there is one, lets it stand.
    pub(crate) healthy: bool,
    /// The newest first.
    pub(crate) terms: Vec<PastTerm>,
}

/// What one server of a group measures of its disk, and what that and the round trips ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupMeasurements {
    pub(crate) syncs: SyncTimes,
    /// `None` where the group's timing serves.
    pub(crate) advice: Option<TimingAdvice>,
}

/// One server of a group, as this one sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerRow {
    pub(crate) name: String,
    /// Whether it is this one.
    pub(crate) own: bool,
    pub(crate) connected: bool,
    /// How long ago it was heard; `None` if never.
    pub(crate) heard: Option<Duration>,
    /// How long its answers usually take; `None` of this one, and as long as too few are known.
    pub(crate) round_trip: Option<Duration>,
    /// Why it is not connected, if that is known.
    pub(crate) problem: Option<String>,
    pub(crate) leads: bool,
}

/// One candidate in the queue; its name is `None` as long as nobody had asked for it. Among peers only the
/// leader has a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueuedCandidate {
    pub(crate) token: Option<FencingToken>,
    pub(crate) name: Option<String>,
}

/// A term of the timeline, with the name of whose it was, where that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PastTerm {
    pub(crate) token: FencingToken,
    pub(crate) name: Option<String>,
    pub(crate) term: super::timeline::ObservedTerm,
}

impl StatusSnapshot {
    /// In the queue or leading, and in contact.
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
    fn the_first_in_the_queue_leads_but_for_oneself() {
        assert_eq!(seen(Role::Outside, &queue(&[3, 5]), MOMENT), LeaderView::Term(token(3)));
        assert_eq!(seen(Role::Outside, &queue(&[7, 9]), MOMENT), LeaderView::Vacant { blocked_by: None });
        assert_eq!(seen(Role::Outside, &queue(&[]), MOMENT), LeaderView::Vacant { blocked_by: None });
    }

    #[test]
    fn what_is_older_than_the_ttl_is_not_repeated() {
        let said = seen(Role::Outside, &queue(&[3]), TTL + MOMENT);
        assert!(matches!(said, LeaderView::Unknown { since, .. } if since == TTL + MOMENT), "{said:?}");
        assert!(matches!(seen(Role::Outside, &Err(MOMENT), MOMENT), LeaderView::Unknown { .. }));
        // Of oneself, the deadline decides.
        let leads = Role::Leader { token: token(7), remaining: MOMENT };
        assert_eq!(seen(leads, &Err(TTL), 2 * TTL), LeaderView::Term(token(7)));
    }
    #[test]
    fn a_peer_that_hears_no_leader_does_not_say_that_nobody_leads() {
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
        // Frozen, say: nobody has told it yet that it has heard nothing.
        for (queue, unheard) in [(queue(&[3]), TTL), (Err(MOMENT), MOMENT)] {
            let said = seen(&queue, unheard);
            assert_eq!(said, LeaderView::Unknown { since: unheard, problem: "no leader is heard" });
        }
    }
}
