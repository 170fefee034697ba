//! Assesses the answers of a group's servers: a leader, a vacancy, or unknown.
//!
//! A group cannot be seen at one instant. There are its members' latest answers, each of a time in the past, and
//! each with a known greatest age ([`StatusReply::from`]). The rule:
//!
//! 1. **A leader**, if a member claims to lead and its remaining validity exceeds its answer's age. A majority has
//!    confirmed that validity (`crate::raft`), so this one answer is enough. Or if another member heard it within
//!    the shortest election timeout, up to now: for that long that member votes for no other. But if the leader
//!    itself has answered since in that term, and does not claim to lead, its answer takes precedence over members
//!    that have yet to hear so.
//! 2. **A vacancy**, if a majority of the members has answered within the shortest election timeout, and by rule 1
//!    there is no leader. A valid leader was heard by a majority within that time, and two majorities share a
//!    member: so an earlier leader's term has ended, or its own answer would say otherwise. A newly elected leader
//!    that no other member knows yet is missed for a heartbeat.
//! 3. Otherwise it is **unknown**, and the servers without an answer are named.
//!
//! Of several leaders the one with the highest token counts: the others have been replaced. A token below one that
//! was reported before counts for nothing, because a group's tokens only grow. So a group that has lost its disks
//! and begins again is unknown rather than believed.
//!
//! Pure: `now` comes in.

use std::time::Duration;

use super::{Evidence, KnownLeader, status_wire::StatusReply};
use crate::{clock::Timestamp, leadership::FencingToken, names::CandidateName, raft::identity::Members};

/// The latest answer of one member.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) name: CandidateName,
    pub(crate) answer: Option<StatusReply>,
    /// The reason why there was none since.
    pub(crate) problem: Option<Problem>,
}

/// The reason why a member does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) what: String,
    /// True if it is only slow so far, and may still answer.
    pub(crate) is_slow: bool,
}

/// The result of an assessment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Assessment {
    Leader(KnownLeader),
    Vacant,
    /// The reason.
    Unknown(String),
}

impl Reply {
    pub(crate) fn of(name: CandidateName) -> Self {
        Self { name, answer: None, problem: None }
    }

    fn fresh(&self, now: Timestamp) -> Option<&StatusReply> {
        self.answer.as_ref().filter(|answer| answer.age(now) <= answer.shortest)
    }

    /// Returns true if there is nothing to wait for: an answer that counts, or a reason why there is none.
    pub(crate) fn is_settled(&self, now: Timestamp) -> bool {
        self.problem.as_ref().is_some_and(|problem| !problem.is_slow) || self.fresh(now).is_some()
    }
}

impl StatusReply {
    fn age(&self, now: Timestamp) -> Duration {
        now.since(self.from)
    }

    /// The leader by this answer, if it still counts.
    fn leader(&self, now: Timestamp) -> Option<&KnownLeader> {
        let age = self.age(now);
        self.look.leader.as_ref().filter(|known| match known.evidence {
            Evidence::OwnClaim { certain } => certain > age,
            Evidence::Heartbeat { ago } => ago.saturating_add(age) <= self.shortest,
        })
    }

    /// Returns true if its member has been in the term of this token, and did not lead then.
    fn denies(&self, token: FencingToken) -> bool {
        let claims = self.look.leader.as_ref().is_some_and(|known| {
            known.token == token
                && matches!(known.evidence, Evidence::OwnClaim { certain } if certain > Duration::ZERO)
        });
        self.look.term >= token.get() && !claims
    }
}

/// Assesses the answers at `now`, by the boot-time clock. `newest` is the highest token reported so far; there is
/// one reply of each member.
pub(crate) fn assess(now: Timestamp, newest: Option<FencingToken>, replies: &[Reply]) -> Assessment {
    let known = replies.iter().filter_map(|reply| {
        let answer = reply.answer.as_ref()?;
        Some((answer, answer.leader(now)?))
    });
    let undenied = known.filter(|(_, known)| {
        let own = replies.iter().find(|reply| reply.name == known.name).and_then(|reply| reply.fresh(now));
        matches!(known.evidence, Evidence::OwnClaim { .. }) || !own.is_some_and(|own| own.denies(known.token))
    });
    // The leader's own answer has its latest value; then the answer of the member that heard from it last.
    let best = undenied.max_by_key(|(answer, known)| {
        let itself = matches!(known.evidence, Evidence::OwnClaim { .. });
        (known.token, itself, answer.from, &answer.look.name)
    });
    if let Some((answer, known)) = best {
        return match newest {
            Some(newest) if known.token < newest => Assessment::Unknown(format!(
                "'{}' reports token {}, and {newest} was seen before; has the group lost its disks?",
                answer.look.name, known.token
            )),
            _ => Assessment::Leader(known.clone()),
        };
    }
    let fresh = replies.iter().filter(|reply| reply.fresh(now).is_some()).count();
    if Members::of(replies.len()).is_ok_and(|members| fresh >= members.majority()) {
        return Assessment::Vacant;
    }
    Assessment::Unknown(unanswered(now, replies, fresh))
}

fn unanswered(now: Timestamp, replies: &[Reply], fresh: usize) -> String {
    let silent = replies.iter().filter(|reply| reply.fresh(now).is_none());
    let problem = |reply: &Reply| match (&reply.problem, &reply.answer) {
        (Some(problem), _) => format!("; {}: {}", reply.name, problem.what),
        (None, None) => format!("; {}: no answer yet", reply.name),
        (None, Some(answer)) => {
            let age = Duration::from_millis(answer.age(now).as_millis() as u64);
            format!("; {}: no answer for {age:?}", reply.name)
        }
    };
    let answers = if fresh == 1 { "answers" } else { "answer" };
    let problems: String = silent.map(problem).collect();
    format!("{fresh} of {} servers {answers}{problems}", replies.len())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::peers::{PeerStatus, SyncTimes};

    const SHORTEST: Duration = Duration::from_millis(250);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn now() -> Timestamp {
        Timestamp::from_nanos(1_000_000_000_000)
    }

    fn name(name: &str) -> CandidateName {
        name.parse().unwrap()
    }

    fn known(leader: &str, token: u64, evidence: Evidence) -> KnownLeader {
        let (token, since) = (FencingToken::new(token), SystemTime::UNIX_EPOCH);
        KnownLeader { value: leader.to_owned(), since, ..KnownLeader::new(name(leader), token, evidence) }
    }

    /// A member's answer of that age.
    fn reply(of: &str, term: u64, age: u64, leader: Option<KnownLeader>) -> Reply {
        let (role, contacts) = ("follower".to_owned(), Vec::new());
        let (timing, syncs) = (None, SyncTimes::default());
        let look = PeerStatus {
            term,
            role,
            standing: true,
            leader,
            links: contacts,
            timing,
            syncs,
            ..PeerStatus::new(name(of))
        };
        let answer = StatusReply { look, from: now() - ms(age), shortest: SHORTEST };
        Reply { name: name(of), answer: Some(answer), problem: None }
    }

    fn silent(of: &str) -> Reply {
        let problem = Problem { what: "gone".to_owned(), is_slow: false };
        Reply { problem: Some(problem), ..Reply::of(name(of)) }
    }

    fn itself(of: &str, token: u64, certain: u64) -> Option<KnownLeader> {
        Some(known(of, token, Evidence::OwnClaim { certain: ms(certain) }))
    }

    fn heard(leader: &str, token: u64, ago: u64) -> Option<KnownLeader> {
        Some(known(leader, token, Evidence::Heartbeat { ago: ms(ago) }))
    }

    /// The leader's name and token, or the other assessment.
    fn view(newest: Option<u64>, replies: &[Reply]) -> String {
        match assess(now(), newest.map(FencingToken::new), replies) {
            Assessment::Leader(known) => format!("{} {}", known.name, known.token),
            Assessment::Vacant => "vacant".to_owned(),
            Assessment::Unknown(why) => why,
        }
    }

    #[test]
    fn a_leader_that_is_certain_is_enough() {
        assert_eq!(view(None, &[reply("a", 5, 100, itself("a", 5, 101)), silent("b"), silent("c")]), "a 5");
        assert_eq!(
            view(None, &[reply("a", 5, 100, itself("a", 5, 100)), silent("b"), silent("c")]),
            "1 of 3 servers answers; b: gone; c: gone",
            "its certainty has aged away"
        );
    }

    #[test]
    fn a_follower_that_has_just_heard_it_is_enough() {
        assert_eq!(view(None, &[silent("a"), reply("b", 5, 50, heard("a", 5, 200)), silent("c")]), "a 5");
        assert_eq!(
            view(None, &[silent("a"), reply("b", 5, 51, heard("a", 5, 200)), silent("c")]),
            "1 of 3 servers answers; a: gone; c: gone",
        );
    }

    #[test]
    fn the_leaders_own_word_goes_before_a_followers() {
        let follower = || reply("b", 5, 0, heard("a", 5, 10));
        assert_eq!(
            view(None, &[reply("a", 5, 0, None), follower(), silent("c")]),
            "vacant",
            "it has resigned"
        );
        assert_eq!(view(None, &[reply("a", 5, 0, itself("a", 5, 0)), follower(), silent("c")]), "vacant");
        assert_eq!(
            view(None, &[reply("a", 4, 0, None), follower(), silent("c")]),
            "a 5",
            "said before it won"
        );
        assert_eq!(view(None, &[reply("a", 5, 300, None), follower(), silent("c")]), "a 5", "said long ago");
        let aged = reply("a", 5, 60, itself("a", 5, 50));
        assert_eq!(view(None, &[aged, follower(), silent("c")]), "a 5", "it has not denied it");
    }

    #[test]
    fn the_highest_token_counts() {
        let (old, new) = (reply("a", 5, 10, itself("a", 5, 100)), reply("b", 6, 10, itself("b", 6, 100)));
        assert_eq!(view(None, &[old.clone(), new.clone(), silent("c")]), "b 6");
        assert_eq!(view(Some(6), &[old.clone(), new, silent("c")]), "b 6");
        assert_eq!(
            view(Some(6), &[old, silent("b"), silent("c")]),
            "'a' reports token 5, and 6 was seen before; has the group lost its disks?"
        );
    }

    #[test]
    fn a_vacancy_takes_a_majority_that_has_just_answered() {
        let leaderless = |of, age| reply(of, 5, age, None);
        assert_eq!(view(None, &[leaderless("a", 250), leaderless("b", 0), silent("c")]), "vacant");
        assert_eq!(
            view(None, &[leaderless("a", 251), leaderless("b", 0), silent("c")]),
            "1 of 3 servers answers; a: no answer for 251ms; c: gone"
        );
        let lost_it = reply("b", 5, 0, heard("a", 5, 251));
        assert_eq!(view(Some(5), &[silent("a"), lost_it, leaderless("c", 0)]), "vacant");
        let group_of_two = [leaderless("a", 0), silent("b")];
        assert_eq!(view(None, &group_of_two), "1 of 2 servers answers; b: gone");
    }

    /// A term, the answer's age, and a leader: its place, term, and whether by itself and how long.
    type Said = Option<(u64, u64, Option<(usize, u64, (bool, u64))>)>;

    fn replies() -> impl Strategy<Value = Vec<Reply>> {
        let evidence = (any::<bool>(), 0..400_u64);
        let leader = prop::option::of((0..5_usize, 1..4_u64, evidence));
        let said = prop::option::of((1..5_u64, 0..400_u64, leader));
        prop::collection::vec(said, 5).prop_map(|said| {
            let names = ["a", "b", "c", "d", "e"];
            let reply = |(of, said): (&str, Said)| match said {
                None => silent(of),
                Some((term, age, leader)) => {
                    let leader = leader.and_then(|(who, token, (own, span))| {
                        if own { itself(of, token, span) } else { heard(names[who], token, span) }
                    });
                    reply(of, term, age, leader)
                }
            };
            names.into_iter().zip(said).map(reply).collect()
        })
    }

    proptest! {
        #[test]
        fn no_token_goes_back(replies in replies(), newest in prop::option::of(0..5_u64)) {
            if let Assessment::Leader(known) = assess(now(), newest.map(FencingToken::new), &replies) {
                prop_assert!(known.token.get() >= newest.unwrap_or(0));
            }
        }

        #[test]
        fn the_order_of_the_answers_does_not_matter(replies in replies()) {
            let reversed: Vec<Reply> = replies.iter().rev().cloned().collect();
            match (assess(now(), None, &replies), assess(now(), None, &reversed)) {
                (Assessment::Unknown(_), Assessment::Unknown(_)) => {}
                (one, other) => prop_assert_eq!(one, other),
            }
        }

        /// Time passes without answers: the assessment becomes unknown, and nothing is made up.
        #[test]
        fn with_time_everything_becomes_unknown(replies in replies(), later in 0..600_u64) {
            let before = assess(now(), None, &replies);
            let after = assess(now() + ms(later), None, &replies);
            match (&before, &after) {
                (_, Assessment::Leader(after)) => {
                    let said = replies.iter().filter_map(|reply| reply.answer.as_ref());
                    let mut leaders = said.filter_map(|answer| answer.leader(now()));
                    prop_assert!(leaders.any(|known| known == after));
                }
                (Assessment::Unknown(_), Assessment::Vacant) => prop_assert!(false, "out of nothing"),
                _ => {}
            }
            let end = assess(now() + ms(1000), None, &replies);
            prop_assert!(matches!(end, Assessment::Unknown(_)));
        }

        /// A valid leader is reported, or one after it.
        #[test]
        fn a_certain_leader_is_not_missed(mut replies in replies(), token in 1..4_u64, place in 0..5_usize) {
            let of = replies[place].name.clone();
            replies[place] = reply(of.as_str(), token, 10, itself(of.as_str(), token, 11));
            let Assessment::Leader(known) = assess(now(), None, &replies) else {
                return Err(TestCaseError::fail("missed"));
            };
            prop_assert!(known.token.get() >= token);
        }

        #[test]
        fn a_minority_never_makes_a_vacancy(mut replies in replies()) {
            for (place, of) in ["a", "c", "e"].into_iter().enumerate() {
                replies[2 * place] = silent(of);
            }
            prop_assert_ne!(assess(now(), None, &replies), Assessment::Vacant);
        }
    }
}
