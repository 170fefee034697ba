//! Safeguards that tests remove, each to show that its absence is noticed.

/// A way to break the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mutant {
    /// Messages that rest on a write are sent before it is durable (Figure 2, "updated on stable storage before
    /// responding").
    SkipsFsync,
    /// A voter gives a second vote in one term (Figure 2, RequestVote, rule 2).
    VotesTwice,
    /// A voter does not compare logs (§5.4.1).
    IgnoresLogs,
    /// A leader commits an entry of an older term by counting (Figure 8).
    CountsOldTerms,
    /// A server campaigns without a pre-vote (thesis §9.6).
    IgnoresPreVote,
    /// Validity counts from the answer, not from the send.
    CountsFromTheAnswer,
    /// A restarted voter votes at once, though it may have heard a leader just before.
    ForgetsStickiness,
    /// A leader that gave up comes back in the same term if the transfer did not work.
    TakesLeadershipBack,
    /// A leader whose disk hangs leads on.
    KeepsToAHangingDisk,
    /// A leader stops for the target of a transfer before that has the log.
    StopsBeforeTheTargetHasAll,
    /// Leadership moves to a server of the same priority, too.
    MovesToEquals,
    /// A term that an operator ordered is moved by priority.
    MovesOrderedTerms,
    /// A leader hands over to a server that takes no part in elections.
    HandsOverToAny,
    /// A caretaker claims the term that it was elected for.
    CaretakerClaims,
    /// A server that takes no part in elections never becomes a caretaker, whatever its log has.
    NoCaretaker,
    /// A server that lost its term votes while its holder may still act on it.
    VotesBeforeTheHolderLetGo,
    /// Only answers to the newest request count, though the round trip may be longer than the interval.
    CountsOnlyTheLastAsk,
    /// Of two servers that ask at the same time both give way, again and again.
    BothGiveWay,
    /// A server gives way to another one at each of its requests, though that one may never hear an answer.
    GivesWayEachTime,
    /// A candidate's time begins before its own vote is durable, and so does its next term.
    DoesNotWaitForItsDisk,
    /// A server votes before all others have met it.
    VotesBeforeAllHaveMet,
    /// A server with a new directory is taken for the same member.
    IgnoresDirectories,
    /// Only an entry at a proposal's own index overtakes it.
    OvertakesPlaceByPlace,
    /// Proposals that are open when a term is lost are waited for without end.
    WaitsForProposalsForEver,
    /// A server's starts are not checked.
    IgnoresRuns,
    /// A connected server is not asked for an answer before another one of its name takes its place.
    DoesNotAskTheFirst,
    /// A server's number of writes is not checked.
    IgnoresWrites,
    /// A leader ignores that a follower lacks entries that it had.
    OverlooksLosses,
    /// Answers of a member's old disk count beside its new one's.
    CountsDisksByName,
    /// The disks that an entry names count only once it is known to be committed.
    CountsDisksOnceCommitted,
    /// A new disk counts as soon as it takes the old one's place.
    AdmitsDisksAtOnce,
    /// A new disk counts before the removal of the old one is committed.
    AdmitsDisksBeforeTheCommit,
    /// A leader without a majority's answers goes on (thesis §6.2).
    IgnoresQuorum,
}
