//! Answers from the past are refused (point 7 of the contract).
//!
//! A member that was cut off can still answer for a while, and an endpoint can be switched to another
//! cluster. The header of every answer has its cluster and that member's progress. We remember the furthest
//! progress, and note it *when a request is sent*: an answer behind that mark is from the past. The
//! comparison with the time of the request, not of the answer, lets answers overtake each other.

use etcd_client::ResponseHeader;

use super::Revision;

/// The cluster's known progress when a request was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an answer is compared with what was known when it was asked for"]
pub(crate) struct ClusterMark {
    raft_term: u64,
    revision: i64,
}

/// The cluster's progress, as far as its answers showed it.
#[derive(Debug, Default)]
pub(crate) struct ClusterProgress {
    cluster: Option<u64>,
    raft_term: u64,
    revision: i64,
}

/// The numbers to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadKind {
    /// Went through etcd's consensus, so it can't be behind.
    Linearizable,
    /// Answered by one member alone: its store may lag, its Raft term must not.
    Local,
}

/// Reason that an answer was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FromThePast {
    #[error("the answer does not say which cluster it is from")]
    NoHeader,
    #[error("the answer is from cluster {got:x}, not {expected:x}: do all endpoints belong to one cluster?")]
    OtherCluster { expected: u64, got: u64 },
    #[error(
        "the answer is from raft term {got}, and term {known} was seen before: a member that was cut off, or etcd was set up anew"
    )]
    OlderTerm { known: u64, got: u64 },
    #[error(
        "the answer is from revision {got}, and {known} was seen before: was etcd restored or set up anew? \
         tokens would go back; restart this process once the resources that check them know"
    )]
    LowerRevision { known: i64, got: i64 },
}

impl ClusterProgress {
    /// Returns the mark to take right before a request is sent.
    pub(crate) fn known(&self) -> ClusterMark {
        ClusterMark { raft_term: self.raft_term, revision: self.revision }
    }

    /// Checks an answer's header against the mark of its request.
    pub(crate) fn accept(
        &mut self,
        header: Option<&ResponseHeader>,
        kind: ReadKind,
        known: ClusterMark,
    ) -> Result<Revision, FromThePast> {
        let header = header.ok_or(FromThePast::NoHeader)?;
        self.take(header.cluster_id(), header.raft_term(), header.revision(), kind, known)
    }

    fn take(
        &mut self,
        cluster: u64,
        raft_term: u64,
        revision: i64,
        kind: ReadKind,
        known: ClusterMark,
    ) -> Result<Revision, FromThePast> {
        let expected = self.cluster.unwrap_or(cluster);
        if cluster != expected {
            return Err(FromThePast::OtherCluster { expected, got: cluster });
        }
        if raft_term < known.raft_term {
            return Err(FromThePast::OlderTerm { known: known.raft_term, got: raft_term });
        }
        if kind == ReadKind::Linearizable && revision < known.revision {
            return Err(FromThePast::LowerRevision { known: known.revision, got: revision });
        }
        self.cluster = Some(cluster);
        self.raft_term = self.raft_term.max(raft_term);
        self.revision = self.revision.max(revision);
        Ok(Revision(revision))
    }

    /// Returns the cluster of the first answer.
    pub(crate) fn cluster(&self) -> Option<u64> {
        self.cluster
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_7_refuses_another_cluster_an_older_term_a_lower_revision() {
        let mut progress = ClusterProgress::default();
        let known = progress.known();
        assert_eq!(progress.take(1, 5, 100, ReadKind::Linearizable, known), Ok(Revision(100)));

        let known = progress.known();
        let refused = |progress: &mut ClusterProgress, cluster, term, revision| {
            progress.take(cluster, term, revision, ReadKind::Linearizable, known).unwrap_err()
        };
        assert!(matches!(refused(&mut progress, 2, 5, 100), FromThePast::OtherCluster { .. }));
        assert!(matches!(refused(&mut progress, 1, 4, 100), FromThePast::OlderTerm { .. }));
        assert!(matches!(refused(&mut progress, 1, 5, 99), FromThePast::LowerRevision { .. }));
        assert_eq!(progress.known(), known, "a refused answer teaches nothing");
    }

    #[test]
    fn contract_7_answers_may_overtake_each_other() {
        let mut progress = ClusterProgress::default();
        let both_asked = progress.known();
        assert!(progress.take(1, 6, 200, ReadKind::Linearizable, both_asked).is_ok());
        assert!(progress.take(1, 5, 100, ReadKind::Linearizable, both_asked).is_ok());
        assert_eq!(progress.known(), ClusterMark { raft_term: 6, revision: 200 });
    }

    #[test]
    fn a_lagging_store_may_answer_for_itself() {
        let mut progress = ClusterProgress { cluster: Some(1), raft_term: 5, revision: 100 };
        let known = progress.known();
        assert_eq!(progress.take(1, 5, 90, ReadKind::Local, known), Ok(Revision(90)));
        assert_eq!(progress.known(), known);
    }
}
