//! State that a server keeps in every role: term, vote, log, commit index, the last time it heard a leader.
//!
//! Only here a step's changes become a write, and the messages that rest on it wait ([`Core::finish`]).

use std::collections::VecDeque;

#[cfg(test)]
use super::mutant::Mutant;
use super::{
    action::{
        Actions, Ballot, Effect, LeadershipChange, Nomination, Now, Persisted, Stored, Write, WriteNumber,
    },
    caretaker::Caretaking,
    identity::{Ballots, Index, Members, NodeId, Position, Term},
    log::{Accepted, Compacted, Log, Snapshot, Unfit},
    membership::{DirectoryId, FirstDirectories, MemberDisk, MemberDisks, VotingRights},
    message::{Envelope, IgnoreReason, IgnoredCounts, Limits, Listener, Message},
    preference::MoveDelays,
    timing::Timing,
};
use crate::{choosing::Priority, clock::Timestamp, leadership::ClusterId};

/// Configuration that stays the same for a server's whole life.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct CoreConfig {
    pub(crate) me: NodeId,
    pub(crate) members: Members,
    pub(crate) cluster: ClusterId,
    pub(crate) timing: Timing,
    pub(crate) limits: Limits,
    /// The voting rights at its start.
    pub(crate) voting_rights: VotingRights,
    /// The disk that this server runs on.
    pub(crate) directory: DirectoryId,
    /// Time before leadership moves by priority.
    pub(crate) moves: MoveDelays,
    /// The first disks of the members, as met before its start.
    pub(crate) founders: FirstDirectories,
    #[cfg(test)]
    pub(crate) mutant: Option<Mutant>,
}

impl CoreConfig {
    /// Returns true if a test has removed this safeguard.
    #[cfg(test)]
    pub(super) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

/// Actions of one step so far.
#[derive(Debug)]
pub(super) struct StepContext {
    pub(super) now: Now,
    effects: Vec<Effect>,
    /// Messages that rest on this step's changes.
    resting: Vec<Envelope>,
}

impl StepContext {
    pub(super) fn new(now: Now) -> Self {
        Self { now, effects: Vec::new(), resting: Vec::new() }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.now.boot_time
    }

    pub(super) fn tell(&mut self, change: LeadershipChange) {
        self.effects.push(Effect::Leadership(change));
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }
}

/// The state that all roles share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Core {
    pub(super) config: CoreConfig,
    ballot: Ballot,
    pub(super) log: Log,
    pub(super) commit: Index,
    applied: Index,
    /// Time when a leader was last heard; at first the server's start, which has forgotten any earlier one.
    heard: Timestamp,
    /// Until then the holder of a term that this server lost may still act on it.
    holder_until: Option<Timestamp>,
    /// Servers that this one held back for since it last heard a leader, or entered a term.
    held_back_for: Ballots,
    voting_rights: VotingRights,
    /// `None` if this server has no candidate.
    pub(super) standing: Option<Nomination>,
    caretaking: Caretaking,
    writes: PendingWrites,
    pub(super) refusals: IgnoredCounts,
}

impl Core {
    /// The state of a server that starts, `None` if no server wrote what is stored.
    pub(super) fn restored(config: CoreConfig, stored: Stored, now: Timestamp) -> Option<Self> {
        let members = config.members;
        if !stored.snapshot.is_of(members) || !stored.entries.iter().all(|entry| entry.is_of(members)) {
            return None;
        }
        let log = Log::restored(stored.snapshot, stored.entries)?;
        let known_voter = stored.ballot.vote.is_none_or(|vote| config.members.contains(vote));
        let in_range = stored.ballot.term.get() < u64::MAX / 2;
        if log.last().term > stored.ballot.term || !known_voter || !in_range {
            return None;
        }
        let heard = now;
        #[cfg(test)]
        let heard = if config.is(Mutant::ForgetsStickiness) { Timestamp::from_nanos(0) } else { heard };
        let committed = log.snapshot().at.index;
        let writes = PendingWrites::all_done(stored.ballot, log.last().index);
        let (voting_rights, caretaking) = (config.voting_rights, Caretaking::led(now, &config.timing));
        Some(Self {
            config,
            ballot: stored.ballot,
            log,
            commit: committed,
            applied: committed,
            heard,
            holder_until: None,
            held_back_for: Ballots::default(),
            voting_rights,
            standing: None,
            caretaking,
            writes,
            refusals: IgnoredCounts::default(),
        })
    }

    pub(super) fn me(&self) -> NodeId {
        self.config.me
    }

    pub(super) fn timing(&self) -> &Timing {
        &self.config.timing
    }

    pub(super) fn members(&self) -> Members {
        self.config.members
    }

    pub(super) fn term(&self) -> Term {
        self.ballot.term
    }

    #[cfg(test)]
    pub(super) fn ballot(&self) -> Ballot {
        self.ballot
    }

    pub(super) fn admit(&self, envelope: &Envelope) -> Result<(), IgnoreReason> {
        let CoreConfig { me, members, cluster, limits, .. } = self.config;
        Listener { me, members, cluster, limits, term: self.term() }.admit(envelope)
    }

    /// Moves on to a later term, in which this server has not voted yet (§5.1).
    ///
    /// The time when it heard a leader stays: that leader may still be valid.
    pub(super) fn enter(&mut self, term: Term) {
        assert!(term > self.term(), "terms only grow");
        self.ballot = Ballot { term, vote: None };
        self.held_back_for = Ballots::default();
    }

    pub(super) fn vote_for(&mut self, node: NodeId) {
        #[cfg(test)]
        if self.config.is(Mutant::VotesTwice) {
            self.ballot.vote = None;
        }
        assert!(self.ballot.vote.is_none_or(|vote| vote == node), "one vote a term");
        self.ballot.vote = Some(node);
    }

    /// A member's first directory was met.
    pub(super) fn record_directory(&mut self, node: NodeId, directory: DirectoryId) {
        self.config.founders.met(node, directory);
    }

    /// The disks that count by the log; `None` if they are the first ones that were met.
    fn disks(&self) -> Option<&MemberDisks> {
        #[cfg(test)]
        if self.config.is(Mutant::CountsDisksOnceCommitted) {
            return self.log.disks_at(self.commit).map(|(_, disks)| disks);
        }
        self.log.disks().map(|(_, disks)| disks)
    }

    /// Returns true if that disk's answers are a member's. They count if the member votes, too.
    pub(super) fn speaks(&self, node: NodeId, directory: DirectoryId) -> bool {
        #[cfg(test)]
        if self.config.is(Mutant::CountsDisksByName) || self.config.is(Mutant::IgnoresDirectories) {
            return true;
        }
        match self.disks() {
            Some(disks) => disks.disk(node).map(MemberDisk::directory) == Some(directory),
            None => self.config.founders.of(node) == Some(directory),
        }
    }

    /// Returns true if a member's votes and entries count: its disk is not just being replaced.
    pub(super) fn counts(&self, node: NodeId) -> bool {
        #[cfg(test)]
        if self.config.is(Mutant::CountsDisksByName) {
            return true;
        }
        self.disks().is_none_or(|disks| disks.disk(node).is_some_and(MemberDisk::counts))
    }

    /// Returns true if this server may campaign: its own disk counts.
    pub(super) fn may_campaign(&self) -> bool {
        self.may_vote() && self.counts(self.me())
    }

    /// Returns true if this server votes at all, for others or for itself. A server whose disk the log names votes
    /// before it knows that its disk counts: any server that counts it has that in a newer log.
    pub(super) fn may_vote(&self) -> bool {
        #[cfg(test)]
        if self.config.is(Mutant::VotesBeforeAllHaveMet) && self.voting_rights == VotingRights::Waiting {
            return true;
        }
        match self.disks().and_then(|disks| disks.disk(self.me())) {
            Some(MemberDisk::Voting(own) | MemberDisk::Incoming(own)) => {
                self.voting_rights != VotingRights::Revoked && own == self.config.directory
            }
            Some(MemberDisk::Founding(own)) => {
                self.voting_rights == VotingRights::Full && own == self.config.directory
            }
            None => self.voting_rights == VotingRights::Full,
        }
    }

    /// This server's part in elections, unless a cordon forbids it to lead at all.
    pub(super) fn candidacy(&self) -> Option<&Nomination> {
        let barred = self.log.orders().cordon(self.me()).is_some_and(|cordon| cordon.hard);
        self.standing.as_ref().filter(|_| !barred)
    }

    /// Returns true if this server would lead if elected.
    pub(super) fn stands(&self) -> bool {
        self.candidacy().is_some() && self.may_campaign()
    }

    /// Returns true if that member leads only while no other can, with that priority of its candidate.
    pub(super) fn is_last_resort(&self, node: NodeId, priority: Priority) -> bool {
        priority.is_last_resort() || self.log.orders().cordon(node).is_some()
    }

    /// Returns true if this server stands, and leads only while no other can.
    pub(super) fn stands_as_last_resort(&self) -> bool {
        self.candidacy().is_some_and(|candidacy| self.is_last_resort(self.me(), candidacy.priority))
    }

    /// The priority of this server's candidate, if that would lead at once if the leader gave up for it.
    pub(super) fn would_take_over(&self, now: Timestamp) -> Option<Priority> {
        let ready = self.may_campaign() && !self.disk_hangs(now);
        self.candidacy().filter(|_| ready).map(|candidacy| candidacy.priority)
    }

    /// Returns true if this server asks for votes once no leader is heard: for itself, or as a caretaker. A last
    /// resort leaves all others the time of two elections.
    pub(super) fn seeks_votes(&self, now: Timestamp) -> bool {
        let waits = self.stands_as_last_resort() && !self.caretaking.waited(now);
        self.stands() && !waits || self.is_needed_as_caretaker(now)
    }

    /// The candidate that leads, now that this server is elected; `None` for a caretaker. A last resort is one, too, if
    /// another candidate lacks only its log; once, in case that one can't lead all the same.
    pub(super) fn leads_with(&self, now: Timestamp) -> Option<Nomination> {
        let takes_care = self.stands_as_last_resort() && self.caretaking.may_help(now, self.timing());
        self.candidacy().filter(|_| !takes_care).cloned()
    }

    fn is_needed_as_caretaker(&self, now: Timestamp) -> bool {
        #[cfg(test)]
        if self.config.is(Mutant::NoCaretaker) {
            return false;
        }
        let works = self.may_campaign() && self.writes.all_durable();
        self.candidacy().is_none() && works && self.caretaking.is_due(now, self.timing())
    }

    /// A candidate has an older log than this server, which gives it no vote for that reason alone.
    pub(super) fn refused_older_log(&mut self, now: Timestamp) {
        if self.candidacy().is_none() || self.stands_as_last_resort() {
            self.caretaking.refused_older_log(now);
        }
    }

    /// A leader was heard, or this server has led until now.
    pub(super) fn led(&mut self, now: Timestamp) {
        self.caretaking = Caretaking::led(now, &self.config.timing);
    }

    /// A caretaker's term of this server is over.
    pub(super) fn rest(&mut self, now: Timestamp) {
        self.caretaking.rest(now, &self.config.timing);
    }

    /// Sets the voting rights. Once revoked, they stay so.
    pub(super) fn set_voting_rights(&mut self, voting_rights: VotingRights) {
        if self.voting_rights != VotingRights::Revoked {
            self.voting_rights = voting_rights;
        }
    }

    /// Returns true if this server may vote for that one in the current term (RequestVote of Figure 2).
    pub(super) fn can_vote_for(&self, node: NodeId, last: Position) -> bool {
        #[cfg(test)]
        if self.config.is(Mutant::VotesTwice) {
            return self.may_vote() && self.up_to_date(last);
        }
        self.may_vote() && self.ballot.vote.is_none_or(|vote| vote == node) && self.up_to_date(last)
    }

    /// Returns true if a log that ends there has all that this server may have to keep (§5.4.1).
    pub(super) fn up_to_date(&self, last: Position) -> bool {
        #[cfg(test)]
        if self.config.is(Mutant::IgnoresLogs) {
            return true;
        }
        last >= self.log.last()
    }

    /// Reports whether a leader that counts on this server may still be valid: then it casts no vote.
    pub(super) fn heard_leader_recently(&self, now: Timestamp) -> bool {
        now < self.heard + self.timing().shortest() || self.is_held(now)
    }

    /// Reports whether the holder of a term that this server lost may still act on it: then there must be no other
    /// leader, and this server casts no vote, whatever messages it gets.
    pub(super) fn is_held(&self, now: Timestamp) -> bool {
        #[cfg(test)]
        if self.config.is(Mutant::VotesBeforeTheHolderLetGo) {
            return false;
        }
        self.holder_until.is_some_and(|until| now < until)
    }

    /// This server's term is lost, and its holder learns of it only now.
    pub(super) fn hold_until(&mut self, until: Timestamp) {
        self.holder_until = Some(until);
    }

    /// The holder of the lost term has let go of it.
    pub(super) fn let_go(&mut self) {
        self.holder_until = None;
    }

    pub(super) fn note_leader(&mut self, now: Timestamp) {
        self.heard = now;
        self.held_back_for = Ballots::default();
        self.led(now);
    }

    /// The time until which this server holds its own candidacy back for that one's.
    ///
    /// Once for each other server, as a courtesy. Each time would let a server that can't win, because it hears no
    /// answer, keep all others from trying.
    pub(super) fn hold_back(&mut self, now: Timestamp, other: NodeId) -> Option<Timestamp> {
        let first = !self.held_back_for.contains(other);
        #[cfg(test)]
        let first = first || self.config.is(Mutant::GivesWayEachTime);
        self.held_back_for.add(other);
        first.then(|| now + self.timing().grace())
    }

    pub(super) fn heard(&self) -> Timestamp {
        self.heard
    }

    /// Draws the time to wait for a leader from now on.
    pub(super) fn election_deadline(&self, now: &Now) -> Timestamp {
        now.boot_time + self.timing().election_timeout(now.draw)
    }

    fn envelope(&self, to: NodeId, message: Message) -> Envelope {
        let CoreConfig { me: from, cluster, directory, .. } = self.config;
        Envelope { cluster, from, to, directory, term: self.term(), message }
    }

    /// Sends a message that needs no pending write.
    pub(super) fn send(&self, context: &mut StepContext, to: NodeId, message: Message) {
        context.effects.push(Effect::Send(self.envelope(to, message)));
    }

    /// Sends once all writes requested so far are durable.
    pub(super) fn send_when_durable(&self, context: &mut StepContext, to: NodeId, message: Message) {
        context.resting.push(self.envelope(to, message));
    }

    /// Takes a leader's entries; the caller answers mismatches.
    pub(super) fn accept(
        &mut self,
        previous: Position,
        entries: &[super::log::Entry],
    ) -> Result<Accepted, Unfit> {
        let accepted = self.log.accept(previous, entries, self.commit)?;
        if let Some(kept) = accepted.cut {
            self.writes.forget_after(kept);
        }
        Ok(accepted)
    }

    /// Restarts from a leader's snapshot, if it reaches further than the commit index here.
    pub(super) fn install(&mut self, context: &mut StepContext, snapshot: Snapshot) {
        if snapshot.at.index <= self.commit {
            return;
        }
        if let Some(kept) = self.log.install(snapshot.clone()) {
            self.writes.forget_after(kept);
        }
        self.commit = snapshot.at.index;
        self.applied = snapshot.at.index;
        context.push(Effect::Restore(snapshot));
    }

    /// Replaces entries by a snapshot of their applied state.
    pub(super) fn compact(&mut self, Compacted { at, data }: Compacted) {
        let known = self.log.term_at(at.index) == Some(at.term);
        if known && data.len() <= self.config.limits.snapshot && at.index <= self.applied {
            let _ = self.log.compact(at.index, data);
        }
    }

    /// Commits all up to `index`, as far as it is in this log, and applies it (§5.3).
    pub(super) fn commit_to(&mut self, context: &mut StepContext, index: Index) {
        self.commit = self.commit.max(index.min(self.log.last().index));
        if self.commit > self.applied {
            let new = self.log.slice(self.applied.next(), self.commit, usize::MAX, usize::MAX);
            context.push(Effect::Apply(new.to_vec()));
            self.applied = self.commit;
        }
    }

    /// The end of the durable log.
    pub(super) fn durable(&self) -> Index {
        self.writes.durable
    }

    /// The write of this step, or of the last one that changed anything.
    pub(super) fn coming_write(&self) -> WriteNumber {
        self.writes.asked.next()
    }

    /// Returns true if the last term and vote are durable.
    ///
    /// A disk that has not kept one ballot will not keep the next one sooner: a new attempt would only raise the
    /// term, and end whatever the group has reached meanwhile.
    pub(super) fn may_begin_a_term(&self) -> bool {
        self.counts_from_the_ballot() || self.is_durable(self.writes.balloted)
    }

    #[cfg(test)]
    pub(super) fn counts_from_the_ballot(&self) -> bool {
        self.config.is(Mutant::DoesNotWaitForItsDisk)
    }

    #[cfg(not(test))]
    pub(super) fn counts_from_the_ballot(&self) -> bool {
        false
    }

    /// Returns true if a write has been pending for two of the longest timeouts.
    ///
    /// One is what an election on slow disks may have to wait for.
    pub(super) fn disk_hangs(&self, now: Timestamp) -> bool {
        #[cfg(test)]
        if self.config.is(Mutant::KeepsToAHangingDisk) {
            return false;
        }
        let oldest = self.writes.under_way.front();
        oldest.is_some_and(|(_, write)| now >= write.asked + self.timing().longest() * 2)
    }

    /// Entries that are not committed, or not durable here, and their bytes of payload.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let last = self.log.last().index;
        let uncommitted = bytes(self.log.slice(self.commit.next(), last, usize::MAX, usize::MAX));
        let written = self.writes.under_way.iter().map(|(_, write)| write.bytes).sum();
        (last.after(self.commit.min(self.durable())), uncommitted.max(written))
    }

    pub(super) fn is_durable(&self, write: WriteNumber) -> bool {
        self.writes.done >= write
    }

    pub(super) fn persisted(&mut self, context: &mut StepContext, Persisted(number): Persisted) {
        self.writes.done(number);
        let released = self.writes.held.partition_point(|(rests_on, _)| *rests_on <= number);
        context
            .effects
            .extend(self.writes.held.drain(..released).map(|(_, envelope)| Effect::Send(envelope)));
    }

    /// Ends a step: its changes become a write, and the messages that rest on it wait.
    pub(super) fn finish(&mut self, context: StepContext) -> Actions {
        let StepContext { now, mut effects, resting } = context;
        self.holder_until.take_if(|until| *until <= now.boot_time);
        let change = self.log.take_change();
        let write = (change.is_some() || self.ballot != self.writes.ballot).then(|| {
            let tail = change.as_ref().and_then(|change| change.tail.as_ref());
            let bytes = tail.map_or(0, |(_, entries)| bytes(entries));
            let number = self
                .writes
                .ask(self.ballot, UnderWay { asked: now.boot_time, end: self.log.last().index, bytes });
            Write::new(self.ballot, change, number)
        });
        let resting = resting.into_iter();
        if self.writes.all_durable() || self.talks_early() {
            effects.extend(resting.map(Effect::Send));
        } else {
            resting.for_each(|envelope| self.writes.hold(envelope, self.config.limits.held));
        }
        Actions { effects, write }
    }

    #[cfg(test)]
    pub(super) fn forget_writes(&mut self) {
        assert!(self.writes.all_durable(), "all that was written is durable");
        self.writes.asked = WriteNumber::default();
        self.writes.done = WriteNumber::default();
        self.writes.balloted = WriteNumber::default();
    }

    #[cfg(test)]
    fn talks_early(&self) -> bool {
        self.config.is(Mutant::SkipsFsync)
    }

    #[cfg(not(test))]
    fn talks_early(&self) -> bool {
        false
    }
}

/// Requested writes, and the messages that wait for them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PendingWrites {
    asked: WriteNumber,
    done: WriteNumber,
    /// Term and vote as of the last requested write.
    ballot: Ballot,
    /// The write that last changed them.
    balloted: WriteNumber,
    /// Up to here the log in memory is on the disk.
    durable: Index,
    under_way: VecDeque<(WriteNumber, UnderWay)>,
    held: VecDeque<(WriteNumber, Envelope)>,
}

/// A write that is not durable yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct UnderWay {
    asked: Timestamp,
    /// The end of the log in it, as far as it is still part of the log.
    end: Index,
    /// Bytes of payload.
    bytes: usize,
}

impl PendingWrites {
    fn all_done(ballot: Ballot, durable: Index) -> Self {
        let (asked, done) = (WriteNumber::default(), WriteNumber::default());
        let balloted = asked;
        Self { asked, done, ballot, balloted, durable, under_way: VecDeque::new(), held: VecDeque::new() }
    }

    fn ask(&mut self, ballot: Ballot, write: UnderWay) -> WriteNumber {
        self.asked = self.asked.next();
        if std::mem::replace(&mut self.ballot, ballot) != ballot {
            self.balloted = self.asked;
        }
        self.under_way.push_back((self.asked, write));
        self.asked
    }

    fn done(&mut self, number: WriteNumber) {
        assert!(self.done < number && number <= self.asked, "writes become durable once, in order");
        self.done = number;
        let finished = self.under_way.partition_point(|(write, _)| *write <= number);
        for (_, write) in self.under_way.drain(..finished) {
            self.durable = self.durable.max(write.end);
        }
    }

    fn all_durable(&self) -> bool {
        self.done == self.asked
    }

    /// The log was cut: entries behind that, written or being written, are not part of it any more.
    fn forget_after(&mut self, kept: Index) {
        self.durable = self.durable.min(kept);
        self.under_way.iter_mut().for_each(|(_, write)| write.end = kept.min(write.end));
    }

    /// Drops the oldest when full: the protocol tolerates lost messages.
    fn hold(&mut self, envelope: Envelope, limit: usize) {
        if self.held.len() >= limit {
            self.held.pop_front();
        }
        self.held.push_back((self.asked, envelope));
    }
}

fn bytes(entries: &[super::log::Entry]) -> usize {
    entries.iter().map(|entry| entry.payload.bytes()).sum()
}

impl WriteNumber {
    fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
