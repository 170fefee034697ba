//! Answers from the past are refused (point 7 of the contract).
//!
//! A member that was cut off can go on answering for a while, and an endpoint can be
//! switched to another cluster. Every answer's header says which cluster it is from, and
//! how far that member had come. We remember the furthest, and when we ask, note what was
//! known *at that moment*: an answer that has not come as far as that is from the past.
//! Comparing with the moment of the question, not of the answer, lets answers overtake
//! each other.

use etcd_client::ResponseHeader;

use super::Revision;

/// How far the cluster had come when a question was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an answer is compared with what was known when it was asked for"]
pub(crate) struct ClusterMark {
    raft_term: u64,
    revision: i64,
}

/// How far the cluster has come, as far as its answers told us.
#[derive(Debug, Default)]
pub(crate) struct ClusterProgress {
    cluster: Option<u64>,
    raft_term: u64,
    revision: i64,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadKind {
    /// Passed through etcd's consensus, so it can't be behind in any way.
    Linearizable,
    /// Given by one member for itself: its store may lag, its Raft term must not.
    Local,
}

/// Why an answer was refused.
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
    /// To be taken right before a question is sent.
    pub(crate) fn known(&self) -> ClusterMark {
        ClusterMark { raft_term: self.raft_term, revision: self.revision }
    }

    /// Takes an answer's header, given what was known when the question was sent.
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

    /// The cluster that the first answer came from.
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
