//! Meetings of servers, and disks that are lost, put back to an older state, or in use twice.
//!
//! A connection is made whenever two servers can hear each other: both introduce themselves, and both judge. No
//! message of Raft passes before. The transport's round trips are one moment here.

use std::time::Duration;

use super::{
    super::invariant::Violation,
    Event, Mail, World,
    machine::{Machine, Papers},
};
use crate::raft::{
    action::{Input, NewEntry, Proposal, ProposalId, Stored},
    identity::{Index, NodeId},
    membership::{
        Admission, DirectoryId, FirstDirectories, MemberRecord, Objection, Run, RunId, VotingRights,
        WriteCount, entrance,
    },
    message::{Envelope, Message},
    mutant::Mutant,
};

/// Interval of a server's calls to members with which it is not connected.
const CALL_EVERY: Duration = Duration::from_millis(40);

impl World {
    /// All have met, long ago.
    pub(super) fn acquaint_all(&mut self) {
        let records: Vec<MemberRecord> = self
            .machines
            .iter()
            .map(|machine| MemberRecord {
                mutual: true,
                ..MemberRecord::first(machine.papers.identity, machine.papers.writes)
            })
            .collect();
        for (place, machine) in self.machines.iter_mut().enumerate() {
            let others = records.iter().enumerate().filter(|(other, _)| *other != place);
            machine.papers.known =
                others.map(|(other, record)| (NodeId::new(other as u8), *record)).collect();
            machine.papers.voting_rights = VotingRights::Full;
        }
    }

    /// Counts a start, durably.
    pub(super) fn begin_run(&mut self, node: NodeId) {
        self.starts += 1;
        let papers = &mut self.machines[node.place()].papers;
        papers.wrote(1);
        let number = papers.identity.run.number + 1;
        let id = RunId::from_bytes(u128::from(self.starts).to_be_bytes());
        papers.identity.run = Run { number, id, began: papers.writes };
    }

    /// Reports whether some server has yet to be met, by servers with nothing else to send.
    pub(super) fn has_to_call(&self, node: NodeId) -> bool {
        self.plan.disks || self.machines[node.place()].papers.voting_rights == VotingRights::Waiting
    }

    /// Connects with all others that can be reached, now and again.
    pub(super) fn call(&mut self, node: NodeId, run: u32) {
        if self.machines[node.place()].run != run {
            return;
        }
        for other in self.machines() {
            if self.member(other) != self.member(node) && !self.connected(node, other) {
                self.introduce(node, other);
            }
        }
        self.schedule(self.now.plus(CALL_EVERY), Event::Call { node, run });
    }

    fn admits(&self, judge: NodeId, said: NodeId) -> bool {
        let process = self.machines[judge.place()].process.as_ref();
        let admitted = process.and_then(|it| it.admitted.get(&self.member(said)));
        admitted == Some(&self.machines[said.place()].papers.identity)
    }

    fn connected(&self, node: NodeId, other: NodeId) -> bool {
        self.admits(node, other) && self.admits(other, node)
    }

    /// The machine that a server reaches under a member's name: the one with which it is connected, or the member's own.
    pub(super) fn reached(&self, from: NodeId, member: NodeId) -> NodeId {
        let mut copies = self.machines().skip(self.group().count());
        copies.find(|it| self.member(*it) == member && self.admits(from, *it)).unwrap_or(member)
    }

    /// Returns true if each gets the other's messages, and both run.
    fn hear_each_other(&self, one: NodeId, other: NodeId) -> bool {
        let awake = |node: NodeId| {
            self.machines[node.place()].process.as_ref().is_some_and(|process| process.frozen.is_none())
        };
        let hear = self.cuts.passes(one, other) && self.cuts.passes(other, one);
        hear && awake(one) && awake(other)
    }

    /// Returns true if another server of that name is connected with the judging one, and answers a ping.
    fn another_answers(&self, judge: NodeId, said: NodeId) -> bool {
        let another = |it: &NodeId| *it != said && self.member(*it) == self.member(said);
        let answers = |it: NodeId| self.admits(judge, it) && self.hear_each_other(judge, it);
        self.machines().filter(another).any(answers)
    }

    /// Both introduce themselves, if both can hear each other.
    fn introduce(&mut self, one: NodeId, other: NodeId) {
        if !self.hear_each_other(one, other) {
            return;
        }
        let judged = [(one, other), (other, one)].map(|(judge, said)| (judge, said, self.judge(judge, said)));
        let refusals: Vec<_> =
            judged.iter().filter_map(|(judge, said, judged)| Some((*judge, *said, judged.err()?))).collect();
        for (judge, said, objection) in &refusals {
            self.refuse(*judge, *said, *objection);
        }
        if let [(_, _, Ok(mut ours)), (_, _, Ok(mut theirs))] = judged {
            // A server admitted because a log names it is no founder, and has not met the other as one.
            ours.0.mutual |= theirs.1 != Admission::Named;
            theirs.0.mutual |= ours.1 != Admission::Named;
            self.admit(one, other, ours);
            self.admit(other, one, theirs);
        }
    }

    /// A server's record of another one: on its disk, and in memory.
    fn known(&self, of: NodeId, directory: DirectoryId, at: NodeId) -> Option<MemberRecord> {
        let machine = &self.machines[at.place()];
        let mut record = *machine.papers.of(of, directory)?;
        let raised = machine.process.as_ref().and_then(|process| process.raised.get(&(of, directory)));
        record.writes = record.writes.max(raised.copied().unwrap_or_default());
        Some(record)
    }

    /// The disks that a server has met first, its own among them.
    pub(super) fn founders(&self, node: NodeId) -> FirstDirectories {
        let papers = &self.machines[node.place()].papers;
        let mut founders = FirstDirectories::none(self.group());
        founders.met(self.member(node), papers.identity.directory);
        papers.known.iter().for_each(|(node, record)| founders.met(*node, record.identity.directory));
        founders
    }

    /// The grounds on which a server admits another one on that directory, if it does.
    fn entrance(
        &self,
        judge: NodeId,
        said: NodeId,
        directory: DirectoryId,
        claim: Index,
    ) -> Result<Admission, Objection> {
        let member = self.member(said);
        let disk = self.server(judge).and_then(|node| node.log().disk(member));
        let first = self.machines[judge.place()].papers.known.get(&member);
        entrance(disk, first.map(|record| record.identity.directory), directory, claim)
    }

    /// The entry of a server's log that names its own directory.
    fn claim(&self, node: NodeId) -> Index {
        let own = self.machines[node.place()].papers.identity.directory;
        let disk = self.server(node).and_then(|server| server.log().disk(self.member(node)));
        disk.filter(|(disk, _)| disk.directory() == own).map(|(_, at)| at).unwrap_or_default()
    }

    fn judge(&self, judge: NodeId, said: NodeId) -> Result<(MemberRecord, Admission), Objection> {
        let Papers { identity, writes, .. } = self.machines[said.place()].papers;
        let (directory, first) = (identity.directory, MemberRecord::first(identity, writes));
        let entrance = match self.entrance(judge, said, directory, self.claim(said)) {
            Err(_) if self.plan.mutant == Some(Mutant::IgnoresDirectories) => Admission::First,
            judged => judged?,
        };
        let Some(mut known) = self.known(self.member(said), directory, judge) else {
            return Ok((first, entrance));
        };
        match self.plan.mutant {
            Some(Mutant::IgnoresRuns) => known.identity.run = identity.run,
            Some(Mutant::IgnoresWrites) => known.writes = WriteCount(0),
            _ => {}
        }
        let asks = self.plan.mutant != Some(Mutant::DoesNotAskTheFirst);
        known.judge(&identity, asks && self.another_answers(judge, said))?;
        if known.identity.run == identity.run {
            known.judge_writes(writes)?;
        }
        Ok((MemberRecord { identity, writes: known.writes.max(writes), mutual: known.mutual }, entrance))
    }

    pub(super) fn refuse(&mut self, judge: NodeId, said: NodeId, objection: Objection) {
        if !self.machines[said.place()].tampered && !self.machines[judge.place()].tampered {
            let what = format!("{judge} refuses {said}, whose disk is as it was: {objection}");
            self.violation.get_or_insert(Violation { invariant: "members are known", what });
        }
        if objection.is_proof() && self.machines[said.place()].papers.voting_rights != VotingRights::Revoked {
            self.note(|| format!("{judge} refuses {said}: {objection}"));
            self.machines[said.place()].papers.voting_rights = VotingRights::Revoked;
            self.step(said, Input::VotingRights(VotingRights::Revoked));
            self.step(said, Input::Resign);
        }
    }

    fn admit(&mut self, judge: NodeId, said: NodeId, (record, entrance): (MemberRecord, Admission)) {
        let others = self.group().count() - 1;
        if said.place() > others {
            let original = self.member(said);
            self.note(|| format!("{judge} lets the copy of {original} in"));
            self.let_in = true;
            // Another start of its disk is known now: the original may be the one that is refused.
            self.machines[original.place()].tampered = true;
        }
        let said = self.member(said);
        let machine = &mut self.machines[judge.place()];
        let Some(process) = &mut machine.process else { return };
        process.admitted.insert(said, record.identity);
        let known = match entrance {
            Admission::First | Admission::Founder => &mut machine.papers.known,
            Admission::Named => &mut machine.papers.named,
        };
        if known.insert(said, record) != Some(record) {
            machine.papers.wrote(1);
        }
        if entrance == Admission::First {
            self.step(judge, Input::Met(said, record.identity.directory));
        }
        let machine = &mut self.machines[judge.place()];
        let all = machine.papers.known.values().filter(|record| record.mutual).count() == others;
        if all && machine.papers.voting_rights == VotingRights::Waiting {
            machine.papers.voting_rights = VotingRights::Full;
            self.note(|| format!("{judge} has met all"));
            self.step(judge, Input::VotingRights(VotingRights::Full));
        }
    }

    /// A message carries its sender's number of writes, and a heartbeat also the others'.
    pub(super) fn mail(&self, sender: NodeId, receiver: NodeId, envelope: Envelope) -> Mail {
        let papers = &self.machines[sender.place()].papers;
        let heartbeat = matches!(&envelope.message, Message::Append { entries, .. } if entries.is_empty());
        let known = |(node, record): (&NodeId, &MemberRecord)| {
            Some((*node, self.known(*node, record.identity.directory, sender)?))
        };
        let records = papers.known.iter().chain(&papers.named);
        let tallies = if heartbeat { records.filter_map(known).collect() } else { Vec::new() };
        Mail { from: papers.identity, writes: papers.writes, tallies, envelope, sender, receiver }
    }

    /// Returns true if the receiver is connected with the sender, or can be. If all disks are good, that only shows
    /// that none is refused.
    pub(super) fn takes(&mut self, mail: &Mail) -> bool {
        let (from, to) = (mail.envelope.from, mail.receiver);
        let admits = |world: &Self| {
            let process = world.machines[to.place()].process.as_ref();
            // A connection with a replaced disk ends with the step that replaces it.
            let (directory, claim) = (mail.from.directory, world.claim(mail.sender));
            let welcome = || world.entrance(to, mail.sender, directory, claim).is_ok();
            process.is_some_and(|process| process.admitted.get(&from) == Some(&mail.from))
                && (welcome() || world.plan.mutant == Some(Mutant::CountsDisksByName))
        };
        if !admits(self) && self.machines[mail.sender.place()].papers.identity == mail.from {
            self.introduce(mail.sender, to);
        }
        if !admits(self) {
            // If all disks are good, late messages of a process that has ended do no harm; the run has to show
            // that.
            return !self.plan.disks;
        }
        let tallies = mail.tallies.iter().map(|(node, record)| (*node, record.identity, record.writes));
        for (node, identity, writes) in std::iter::once((from, mail.from, mail.writes)).chain(tallies) {
            let known = self.known(node, identity.directory, to);
            if known.is_some_and(|known| known.identity == identity && known.writes < writes)
                && let Some(process) = &mut self.machines[to.place()].process
            {
                process.raised.insert((node, identity.directory), writes);
            }
        }
        true
    }

    /// New numbers of others' writes go to the disk with a write of its own.
    pub(super) fn wrote(&mut self, node: NodeId, writes: u64) {
        let machine = &mut self.machines[node.place()];
        machine.papers.wrote(writes);
        let raised = machine.process.as_mut().map(|process| std::mem::take(&mut process.raised));
        for ((node, directory), writes) in raised.into_iter().flatten() {
            if let Some(record) = machine.papers.of_mut(node, directory) {
                record.writes = record.writes.max(writes);
            }
        }
    }

    /// The disk is lost; the server comes back on a new one.
    pub(super) fn wipe(&mut self, node: NodeId, down: Duration) {
        self.crash(node);
        self.starts += 1;
        let machine = &mut self.machines[node.place()];
        (machine.stored, machine.papers) = (Stored::nothing(), Papers::blank(1000 + self.starts));
        (machine.tampered, machine.backup) = (true, None);
        machine.known_better_by.clear();
        self.schedule(self.now.plus(down), Event::Start(node));
    }

    /// The server is killed, and comes back on another disk of its own: its former one, or a new one.
    pub(super) fn swap(&mut self, node: NodeId, down: Duration) {
        self.crash(node);
        self.starts += 1;
        let machine = &mut self.machines[node.place()];
        let new = || (Stored::nothing(), Papers::blank(1000 + self.starts));
        let (stored, papers) = machine.spare.take().unwrap_or_else(new);
        let before = std::mem::replace(&mut machine.stored, stored);
        machine.spare = Some((before, std::mem::replace(&mut machine.papers, papers)));
        machine.tampered = true;
        self.schedule(self.now.plus(down), Event::Start(node));
    }

    /// An operator replaces the disk that counts by the one that a server runs on.
    pub(super) fn replace(&mut self, member: NodeId) {
        let directory = self.machines[member.place()].papers.identity.directory;
        if let Some(leader) = self.raft_leader() {
            self.proposals += 1;
            let (id, content) = (ProposalId(self.proposals), NewEntry::Replacement { member, directory });
            self.order(leader, Input::Propose(vec![Proposal { id, content }]));
        }
    }

    /// Returns true if the disk that a server runs on counts, as its leader knows for certain.
    pub(crate) fn is_admitted(&self, member: NodeId) -> bool {
        let directory = self.machines[member.place()].papers.identity.directory;
        self.raft_leader().and_then(|leader| self.server(leader)).is_some_and(|leader| {
            match leader.log().disk(member) {
                Some((disk, at)) => {
                    disk.counts() && disk.directory() == directory && at <= leader.committed()
                }
                None => self.founders(leader.leader().unwrap_or(member)).of(member) == Some(directory),
            }
        })
    }

    pub(super) fn back_up(&mut self, node: NodeId) {
        let machine = &mut self.machines[node.place()];
        machine.backup = Some((machine.stored.clone(), machine.papers.clone()));
    }

    /// The disk is put back to the copy.
    pub(super) fn put_back(&mut self, node: NodeId, down: Duration) {
        let Some((stored, papers)) = self.machines[node.place()].backup.clone() else { return };
        self.crash(node);
        let knows_better = |other: &NodeId| {
            let known = self.machines[other.place()].papers.known.get(&node);
            known.is_some_and(|known| known.writes > papers.writes)
        };
        let better: Vec<NodeId> =
            self.members().filter(|other| *other != node && knows_better(other)).collect();
        let machine = &mut self.machines[node.place()];
        (machine.stored, machine.papers) = (stored, papers);
        machine.tampered = true;
        machine.known_better_by = better;
        self.schedule(self.now.plus(down), Event::Start(node));
    }

    /// The disk forgets the end of its log, and its numbers do not show it: it has had as many writes since.
    pub(crate) fn forget_the_end(&mut self, node: NodeId, entries: usize) {
        self.crash(node);
        let machine = &mut self.machines[node.place()];
        let kept = machine.stored.entries.len().saturating_sub(entries);
        machine.stored.entries.truncate(kept);
        machine.tampered = true;
    }

    /// Makes a machine of a copy of the disk: of the latest copy, or of the disk as it is. The server there runs
    /// beside the original.
    pub(super) fn copy(&mut self, original: NodeId, after: Duration) {
        let (copy, machine) = (self.group().count(), &self.machines[original.place()]);
        if self.machines.len() > copy || original.place() >= copy {
            return; // One at a time.
        }
        let now = || (machine.stored.clone(), machine.papers.clone());
        let disk = machine.backup.clone().unwrap_or_else(now);
        let Machine { member, clock, slow, stands, .. } = *machine;
        self.machines.push(Machine { tampered: true, stands, ..Machine::new(member, clock, slow, disk) });
        self.schedule(self.now.plus(after), Event::Start(NodeId::new(copy as u8)));
    }

    /// Of all others, some hear only the original, and the rest only the copy.
    pub(super) fn take_sides(&mut self, original: NodeId, side: u8) {
        let copy = NodeId::new(self.group().count() as u8);
        let hears_copy = |node: NodeId| side >> node.place() & 1 == 1;
        let apart = |one, other| one == if hears_copy(other) { original } else { copy };
        let is_other = |node| node != original && node != copy;
        self.cut(|from, to| is_other(to) && apart(from, to) || is_other(from) && apart(to, from));
    }

    /// Returns true if any server has admitted the copy.
    pub(crate) fn has_let_a_copy_in(&self) -> bool {
        self.let_in
    }

    /// Of a copy and its original, at most one votes in the end: each of the others has met both.
    pub(crate) fn find_the_copy(&mut self) {
        let (votes, others) = (|world: &Self, it| !world.is_revoked(it), self.group().count() - 1);
        for copy in self.machines().skip(self.group().count()) {
            let original = self.member(copy);
            if others > 0 && votes(self, copy) && votes(self, original) {
                let what =
                    format!("{original} and its copy are connected with the same servers, and both vote");
                self.violation.get_or_insert(Violation { invariant: "a copy in use is noticed", what });
            }
        }
    }

    /// Reports whether it casts no vote any more.
    pub(crate) fn is_revoked(&self, node: NodeId) -> bool {
        self.machines[node.place()].papers.voting_rights == VotingRights::Revoked
    }

    /// A server whose disk went back must not vote any more in the end, if another server knows better.
    pub(crate) fn find_the_forgetful(&mut self) {
        for node in self.members() {
            let machine = &self.machines[node.place()];
            let knows = |other: &&NodeId| !self.machines[other.place()].tampered;
            let witness = machine.known_better_by.iter().find(knows);
            if let (Some(witness), true) = (witness, machine.papers.voting_rights != VotingRights::Revoked) {
                let what = format!("{node} runs on an older copy of its disk, as {witness} knows, and votes");
                self.violation
                    .get_or_insert(Violation { invariant: "a disk that went back is noticed", what });
            }
        }
    }
}
