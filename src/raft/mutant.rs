//! Safeguards that tests take out, each to show that its absence is noticed.

/// A way to break the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mutant {
    /// What rests on a write is said before the write is durable (Figure 2, "updated on stable
    /// storage before responding").
    SkipsFsync,
    /// A voter gives a second vote in one term (Figure 2, RequestVote, rule 2).
    VotesTwice,
    /// A voter does not compare logs (§5.4.1).
    IgnoresLogs,
    /// A leader commits an entry of an older term by counting (Figure 8).
    CountsOldTerms,
    /// A server stands without asking first (thesis §9.6).
    IgnoresPreVote,
    /// Validity counts from the answer, not from the send.
    CountsFromTheAnswer,
    /// A restarted voter votes at once, though it may have heard a leader just before.
    ForgetsStickiness,
    /// A leader that gave up comes back in the same term if the transfer did not work.
    TakesLeadershipBack,
    /// A leader whose disk hangs leads on.
    KeepsToAHangingDisk,
    /// A leader hands over to a server that does not stand.
    HandsOverToAny,
    /// A caretaker claims the term that it was elected for.
    CaretakerClaims,
    /// A server that does not stand leaves it at that, whatever its log has.
    NoCaretaker,
    /// A server that lost its term votes while its holder may still act on it.
    VotesBeforeTheHolderLetGo,
    /// Only answers to the newest ask count, though the round trip may be longer than the interval.
    CountsOnlyTheLastAsk,
    /// Of two servers that ask at one time both give way, and so again and again.
    BothGiveWay,
    /// A server gives way to another one each time that it asks, though it may never hear an answer.
    GivesWayEachTime,
    /// A candidate's time begins before its own vote is durable, and so does its next term.
    DoesNotWaitForItsDisk,
    /// A server votes that one of the others has never met.
    VotesBeforeAllHaveMet,
    /// A server whose directory is another one than before is taken for the same member.
    IgnoresDirectories,
    /// A proposal is overtaken only by an entry in its own place.
    OvertakesPlaceByPlace,
    /// What is open when a term is lost is waited for without end.
    WaitsForProposalsForEver,
    /// A server is not known by its starts.
    IgnoresRuns,
    /// A server that is connected is not asked whether it is there before another one of its name takes its place.
    DoesNotAskTheFirst,
    /// A server is not known by its number of writes.
    IgnoresWrites,
    /// A leader does not heed that a follower lacks what it had.
    OverlooksLosses,
    /// What a member's old disk says counts beside its new one's.
    CountsDisksByName,
    /// What the log says of whose disks count holds once that is known to be committed.
    CountsDisksOnceCommitted,
    /// A new disk counts as soon as it takes the old one's place.
    AdmitsDisksAtOnce,
    /// A new disk counts before it is committed that the old one does not.
    AdmitsDisksBeforeTheCommit,
    /// A leader without a majority's answers goes on (thesis §6.2).
    IgnoresQuorum,
}
