//! Raft: servers that agree on a leader and on a log.
//!
//! This is the peers backend's core. It is pure: no I/O, no clock, no randomness of its own. One
//! [`Node`](node::Node) takes one [`Input`](action::Input) at a [`Moment`](action::Moment) and
//! gives back itself and [`Actions`](action::Actions), which a driver carries out. So the same code
//! runs in the binary, in a simulation of whole groups (`sim`) and under a model checker (`model`).
//!
//! # The model in a few sentences
//!
//! Time is divided into terms, and a term has at most one leader, because it takes a majority's
//! votes and no member votes twice in a term. The leader appends entries to its log and copies them to
//! the others. Once a majority has an entry of the leader's own term on disk, it is committed, and
//! all before it: it is in the log of every later leader, because a voter votes only for a log that
//! is at least as new as its own. The term is the fencing token.
//!
//! "The paper" is Ongaro and Ousterhout, *In Search of an Understandable Consensus Algorithm
//! (Extended Version)*; sections and figures are its own. "Thesis" is Ongaro, *Consensus: Bridging
//! Theory and Practice*.
//!
//! # The course of an election
//!
//! ```text
//!  election timeout ─► would you vote for me? ─► a majority would ─► term + 1, own vote ── durable ──►
//!     (drawn)             (changes nothing)        (pre-vote)                                        │
//!                                                                                                    │
//!  ◄── Gained ◄── committed ◄── a majority has it ◄── first entry of the term ◄── a majority's votes ◄┘
//! ```
//!
//! A leader claims nothing before the first entry of its own term is committed: neither a fresh one
//! nor one that led before a restart.
//!
//! # How long a leader may lead
//!
//! Every message of a leader to its followers carries its time of sending, by the leader's clock, and each answer
//! echoes it. Let *s* be the newest such time that a majority (including the leader) has answered, or a later one.
//! With *E* the shortest election timeout and *m* the margin, the leader is valid until *s + E − m*; then it is not
//! even the leader any more (check-quorum, thesis §6.2). That is safe because no other member can be elected before
//! *s + E*:
//!
//! 1. Every member of that majority received the leader's message after *s*. A follower that hears a leader casts
//!    no vote for *E*, counted from the *receipt* of the message by its own clock
//!    ([`Core::heard_leader_recently`](core::Core::heard_leader_recently); thesis §4.2.3). Receiving comes after
//!    sending, so it casts no vote before *s + E*.
//! 2. The leader, itself a member, casts no vote while it is valid. When a later term makes it
//!    step down, its claim ends in the same step, before anything is sent.
//! 3. Another leader needs a majority's votes, and two majorities share a member.
//!
//! Threats to this, and the answer to each:
//!
//! * **A voter restarts**, and has forgotten which leader it heard. It counts as having heard one at its start,
//!   which is later than anything it can have heard before.
//! * **A voter moves on to a later term** by some message. It still remembers the leader that it heard. And a
//!   request for votes that it refuses for this reason does not even change its term.
//! * **A follower acknowledges, votes, and its messages overtake each other.** The acknowledgement was of an older
//!   term than the vote, and sent before it; the leader's *s* is older still.
//! * **A candidate votes for itself.** It campaigns only after its own timeout, which is no shorter than *E* since
//!   it heard the leader.
//! * **An old leader's answer comes late.** Each step checks the clock before anything else: an expired claim ends
//!   first, and [`Validity`](crate::validity::Validity) is never revived.
//! * **Clocks run at different rates.** With a leader's clock at rate *l* and a voter's at *v*,
//!   (E − m) / l ≤ E / v must hold, so v / l may be up to E / (E − m) = 10/9, as on etcd
//!   (`docs/safety.md`). A simulation with clocks further apart finds two leaders.
//! * **Leadership is transferred**: voters are asked to vote although they just heard a leader (`transfer` in
//!   RequestVote, thesis §3.10). The leader of term T has ended its claim before it sends TimeoutNow, and never
//!   claims again in T, however late or often that message arrives. The message lets its receiver campaign in T + 1
//!   and no other term, and only while it is in T. Leaders before T are over: T's leader needed a majority that had
//!   waited for them, or their TimeoutNow. Leaders after T are safe from it: in T + 1 a second majority of votes
//!   can't be had, and from T + 2 on no member heeds a request of T + 1. The next attempt of the same server is an
//!   ordinary one. A [`caretaker`] of term T sends the same message: it was elected by ordinary votes, and never
//!   claimed.
//! * **A leader is deposed** by a later term while its claim has time left. Its holder learns of that only then,
//!   and may take until the end of the claim to stop. So the server casts no vote, not even on a transfer, before
//!   the holder has let go or the claim's end has passed ([`Core::is_held`](core::Core::is_held)). The rest of the
//!   majority that proved the claim waits for *s + E* anyway.
//! * **A group of one** hears only itself. Its *s* is the time of its last heartbeat, so a process that was frozen
//!   loses its claim all the same, and begins a new term.
//!
//! # Which server leads
//!
//! A leader hands over to a named server on request, or by [`preference`] to a better one ([`transfer`]). Operators'
//! cordons and pauses are entries of the log ([`orders`]); a candidate's priority is not: it belongs to a process, so
//! each answer to the leader carries it, and a restart with another one needs no entry. No safety rests on any of it.
//!
//! # Voters
//!
//! A server votes only if all others have recorded its directory ([`VotingRights`](membership::VotingRights)), so
//! that a lost disk, and with it a vote, is not replaced by one that votes again. When an operator has a disk
//! replaced, the log names the disks that count: each answer carries the sender's disk, and a leader or candidate
//! counts it by the last entry of its own log that names disks, committed or not
//! ([`MemberDisks`](membership::MemberDisks)). See [`membership`].
//!
//! Assumptions: processes and machines fail by stopping; disks keep what they reported as durable; each member has
//! one data directory, used by one process at a time and never restored from an older copy (which is detected, and
//! not made safe: see [`membership`]); clocks go on in suspend.
//! # What has to be durable before what
//! # Durable before sent
//! | message | waits for the disk |
//! |---|---|
//! | RequestVote, VoteGranted | yes: term and vote |
//! | Appended, for new entries or a snapshot | yes: the acknowledged entries |
//! | Appended, for a heartbeat, or for entries again | no: it acknowledges only what is durable, so a slow disk deposes no leader |
//! | Append, Install, TimeoutNow | no: the leader's term was durable before it asked for votes; its own copy of an entry counts only once durable (thesis §10.2.1) |
//! | pre-votes, Rejected, Outdated | no: they promise nothing |
//!
//! Messages that wait are kept inside until the write's [`Persisted`](action::Persisted) comes back; see
//! [`action`]. A driver may batch writes and make them durable together.
//! # Bounds
//!
//! [`Limits`](message::Limits) names them all. A leader's entries that wait for its own disk count like those that
//! wait for a majority: the others may commit without it. A message of another group, or one that no server would
//! send by the protocol, is refused and counted before it can change anything
//! ([`IgnoredCounts`](message::IgnoredCounts)).
//!
//! # Not here
//!
//! Membership changes, but for a member's disk; reads of the log through the leader. A server that withdrew
//! ([`Input::Withdraw`](action::Input)), or has a hard cordon, votes and keeps the log, and never leads: if it has the
//! newest log of the remaining servers, it hands that on as a [`caretaker`].

pub(crate) mod action;
mod candidacy;
mod caretaker;
pub(crate) mod core;
mod follower;
pub(crate) mod identity;
mod leader;
pub(crate) mod log;
pub(crate) mod membership;
pub(crate) mod message;
#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod mutant;
pub(crate) mod node;
pub(crate) mod orders;
pub(crate) mod preference;
mod progress;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod sim;
pub(crate) mod timing;
pub(crate) mod transfer;
