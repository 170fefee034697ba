//! The candidates that wait, as the leader sees them: in the order of a queue, or without an order.

use std::time::Duration;

use super::{Controls, Cordon, Priority};
use crate::{clock::Timestamp, names::CandidateName};

/// A candidate that is not the observer itself: behind the leader, or, for one that waits, any other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contender<K> {
    /// Its identity: on etcd its key with the `create_revision`, among peers its name.
    pub(crate) key: K,
    /// Its name or its key, displayable, for refusals.
    pub(crate) shown: String,
    /// Start of its wait, as far as this process saw it, or of its last failure to say that it is ready.
    pub(crate) since: Timestamp,
    /// Its member record. `None`: foreign, of a release without such records, or not known.
    pub(crate) member: Option<MemberRecord>,
}

/// Data that a candidate of ours publishes, as far as the rules use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberRecord {
    pub(crate) name: CandidateName,
    pub(crate) priority: Priority,
    /// True once it has said, for the transfer at hand, that it is alive and would claim.
    pub(crate) ready: bool,
}

impl<K> Contender<K> {
    /// Returns the order that keeps it from leading, if there is one.
    pub(crate) fn cordon<'a>(&self, controls: &'a Controls) -> Option<&'a Cordon> {
        controls.cordons.get(&self.member.as_ref()?.name)
    }

    /// Returns true if it is known to lead only while no other can.
    ///
    /// Foreign and unknown ones are not: a last resort that took them for one would never give way to them.
    pub(crate) fn is_last_resort(&self, controls: &Controls) -> bool {
        let of_itself = self.member.as_ref().is_some_and(|member| member.priority.is_last_resort());
        of_itself || self.cordon(controls).is_some()
    }

    /// Returns its rank; the usual one if it is unknown.
    pub(crate) fn priority(&self) -> Priority {
        self.member.as_ref().map_or(Priority::DEFAULT, |member| member.priority)
    }

    /// Returns the moment at which it will have waited for so long.
    pub(crate) fn waited(&self, span: Duration) -> Timestamp {
        self.since + span
    }
}

/// All other candidates of an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CandidateField<K> {
    /// The first one follows. To hand over to a later one, those in between have to go.
    Queue(Vec<Contender<K>>),
    /// Any one can follow.
    Group(Vec<Contender<K>>),
}

/// Obstacle to a transfer to a candidate behind others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// A key in between is not known to be ours; as it is displayed.
    Foreign(String),
    /// So many are in between.
    TooMany(usize),
}

/// The most candidates that a transfer passes: etcd refuses a transaction of more than 128 operations, and
/// those that are its own need some.
pub(crate) const MOST_PASSED: usize = 100;

impl<K: Clone + PartialEq> CandidateField<K> {
    /// Returns the candidates, first come first.
    pub(crate) fn contenders(&self) -> &[Contender<K>] {
        match self {
            Self::Queue(all) | Self::Group(all) => all,
        }
    }

    pub(crate) fn find(&self, key: &K) -> Option<&Contender<K>> {
        self.contenders().iter().find(|one| one.key == *key)
    }

    /// Returns the keys that a transfer to `target` deletes: those before it, all of them ours.
    ///
    /// # Errors
    ///
    /// Names what stands in between. Keys are added at the end, so obstacles only become fewer.
    pub(crate) fn passed(&self, target: &K) -> Result<Vec<K>, Obstacle> {
        let Self::Queue(all) = self else { return Ok(Vec::new()) };
        let before = || all.iter().take_while(|one| one.key != *target);
        if let Some(foreign) = before().find(|one| one.member.is_none()) {
            return Err(Obstacle::Foreign(foreign.shown.clone()));
        }
        let passed: Vec<_> = before().map(|one| one.key.clone()).collect();
        if passed.len() > MOST_PASSED { Err(Obstacle::TooMany(passed.len())) } else { Ok(passed) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::choosing) fn name(number: u32) -> CandidateName {
        format!("server{number}").parse().unwrap()
    }

    /// A candidate of ours that is ready, with its key's number as its name.
    pub(in crate::choosing) fn ours(key: u32, priority: u32) -> Contender<u32> {
        let member = MemberRecord { name: name(key), priority: Priority::new(priority), ready: true };
        Contender { member: Some(member), ..foreign(key) }
    }

    pub(in crate::choosing) fn foreign(key: u32) -> Contender<u32> {
        let shown = format!("server{key} (leader/{key:x})");
        Contender { key, shown, since: Timestamp::from_nanos(0), member: None }
    }

    /// Any candidates, with keys from 0 on.
    pub(in crate::choosing) fn any_field() -> impl Strategy<Value = CandidateField<u32>> {
        let one = (prop::option::weighted(0.8, 0..4u32), any::<bool>(), 0..90u64);
        (prop::collection::vec(one, 0..6), any::<bool>()).prop_map(|(all, queue)| {
            let all = all.into_iter().zip(0..).map(|((priority, ready, since), key)| {
                let mut one = priority.map_or(foreign(key), |priority| ours(key, priority));
                one.member.iter_mut().for_each(|member| member.ready = ready);
                one.since = Timestamp::from_nanos(0) + Duration::from_secs(since);
                one
            });
            if queue { CandidateField::Queue(all.collect()) } else { CandidateField::Group(all.collect()) }
        })
    }

    #[test]
    fn a_transfer_passes_only_candidates_of_ours() {
        let field = CandidateField::Queue(vec![ours(1, 100), ours(2, 100), foreign(3), ours(4, 100)]);
        assert_eq!(field.passed(&1), Ok(vec![]));
        assert_eq!(field.passed(&3), Ok(vec![1, 2]));
        assert_eq!(field.passed(&4), Err(Obstacle::Foreign("server3 (leader/3)".into())));
        let group = CandidateField::Group(vec![foreign(3), ours(4, 100)]);
        assert_eq!(group.passed(&4), Ok(vec![]), "there is no order among peers");
    }

    #[test]
    fn a_transfer_passes_at_most_a_hundred() {
        let field = CandidateField::Queue((0..102).map(|key| ours(key, 100)).collect());
        assert_eq!(field.passed(&100).map(|passed| passed.len()), Ok(MOST_PASSED));
        assert_eq!(field.passed(&101), Err(Obstacle::TooMany(101)));
    }
}
