//! A leader's judgement of an order to hand over.
//!
//! It is made before anything changes: a refusal costs nothing, and the leader still leads. Once accepted, the
//! order is carried out, whatever the controls say by then.

use std::{fmt, time::Duration};

use humantime::format_duration;

use super::{
    Controls, OrderedBy,
    field::{CandidateField, MOST_PASSED, Obstacle},
};
use crate::leadership::FencingToken;

/// Time that a target has to say that it is ready. It answers within a round trip or two; one that does not
/// is frozen or cut off, and would cost a TTL without a leader.
pub(crate) const READY_WITHIN: Duration = Duration::from_secs(3);

/// An order to hand over to one candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TransferOrder<K> {
    pub(crate) target: K,
    /// The target as the caller named it, displayable.
    pub(crate) shown: String,
    /// The term that it is meant for.
    pub(crate) token: FencingToken,
}

/// A leader's answer to an order, for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OrderVerdict<K> {
    /// Hand over, and clear these: they are ours, and before the target.
    Accept {
        passed: Vec<K>,
    },
    /// Nothing stands against it but that the target has not said that it is ready. Judge again.
    AwaitReady,
    Refuse(OrderRefusal),
}

/// A leader's reason for refusing an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OrderRefusal {
    OtherTerm { ordered: FencingToken, own: FencingToken },
    Paused(OrderedBy),
    Gone { target: String },
    Cordoned { target: String, by: OrderedBy },
    Unknown { target: String },
    Between { target: String, obstacle: Obstacle },
    NotAnswering { target: String },
}

impl<K: Clone + PartialEq> TransferOrder<K> {
    /// Judges the order in the term `own`; `asked` is the time since the target was asked to be ready.
    pub(crate) fn judge(
        &self,
        own: FencingToken,
        field: &CandidateField<K>,
        controls: &Controls,
        asked: Duration,
    ) -> OrderVerdict<K> {
        match self.check(own, field, controls, asked) {
            Ok(Some(passed)) => OrderVerdict::Accept { passed },
            Ok(None) => OrderVerdict::AwaitReady,
            Err(refusal) => OrderVerdict::Refuse(refusal),
        }
    }

    fn check(
        &self,
        own: FencingToken,
        field: &CandidateField<K>,
        controls: &Controls,
        asked: Duration,
    ) -> Result<Option<Vec<K>>, OrderRefusal> {
        let target = || self.shown.clone();
        if self.token != own {
            return Err(OrderRefusal::OtherTerm { ordered: self.token, own });
        }
        if let Some(by) = &controls.paused {
            return Err(OrderRefusal::Paused(by.clone()));
        }
        let Some(contender) = field.find(&self.target) else {
            return Err(OrderRefusal::Gone { target: target() });
        };
        let Some(member) = &contender.member else {
            return Err(OrderRefusal::Unknown { target: target() });
        };
        if let Some(cordon) = contender.cordon(controls) {
            return Err(OrderRefusal::Cordoned { target: target(), by: cordon.by.clone() });
        }
        let between = |obstacle| OrderRefusal::Between { target: target(), obstacle };
        let passed = field.passed(&self.target).map_err(between)?;
        match member.ready {
            true => Ok(Some(passed)),
            false if asked < READY_WITHIN => Ok(None),
            false => Err(OrderRefusal::NotAnswering { target: target() }),
        }
    }
}

impl fmt::Display for OrderRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherTerm { ordered, own } => {
                write!(
                    f,
                    "the order is for the term with token {ordered}, and this one has {own}: give it again"
                )
            }
            Self::Paused(by) => write!(f, "{} paused the election: 'elect resume' ends that", by.operator),
            Self::Gone { target } => write!(f, "'{target}' is not among the candidates that wait"),
            Self::Cordoned { target, by } => {
                write!(f, "{} cordoned '{target}': 'elect uncordon' ends that", by.operator)
            }
            Self::Unknown { target } => write!(
                f,
                "'{target}' has no member record, so it is of another client or an older release, and cannot say that it is ready"
            ),
            Self::Between { target, obstacle: Obstacle::Foreign(foreign) } => write!(
                f,
                "'{foreign}' waits before '{target}', and is of another client or an older release: its key must not be deleted"
            ),
            Self::Between { target, obstacle: Obstacle::TooMany(count) } => write!(
                f,
                "{count} candidates wait before '{target}'; a transfer passes at most {MOST_PASSED}"
            ),
            Self::NotAnswering { target } => {
                write!(f, "'{target}' did not say within {} that it is ready", format_duration(READY_WITHIN))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::choosing::{
        Cordon,
        field::tests::{any_field, foreign, name, ours},
    };

    const OWN: FencingToken = FencingToken::new(7);

    fn order(target: u32) -> TransferOrder<u32> {
        TransferOrder { target, shown: format!("server{target}"), token: OWN }
    }

    fn by() -> OrderedBy {
        OrderedBy::new("kim@ops1".into(), SystemTime::UNIX_EPOCH)
    }

    fn cordoned(number: u32) -> Controls {
        Controls { cordons: [(name(number), Cordon::new(false, by()))].into(), ..Controls::default() }
    }

    fn refusal(order: &TransferOrder<u32>, field: &CandidateField<u32>, controls: &Controls) -> String {
        match order.judge(OWN, field, controls, READY_WITHIN) {
            OrderVerdict::Refuse(refusal) => refusal.to_string(),
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn an_order_is_accepted_with_those_that_it_passes() {
        let field = CandidateField::Queue(vec![ours(1, 100), ours(2, 0), ours(3, 100), foreign(4)]);
        let verdict = order(3).judge(OWN, &field, &cordoned(1), Duration::ZERO);
        assert_eq!(verdict, OrderVerdict::Accept { passed: vec![1, 2] });
    }

    #[test]
    fn a_target_that_is_not_ready_is_waited_for_and_then_refused() {
        let mut target = ours(3, 100);
        target.member.as_mut().unwrap().ready = false;
        let field = CandidateField::Queue(vec![target]);
        let judged = |asked| order(3).judge(OWN, &field, &Controls::default(), asked);
        assert_eq!(judged(READY_WITHIN - Duration::from_millis(1)), OrderVerdict::AwaitReady);
        let why = OrderRefusal::NotAnswering { target: "server3".into() };
        assert_eq!(judged(READY_WITHIN), OrderVerdict::Refuse(why.clone()));
        assert_eq!(why.to_string(), "'server3' did not say within 3s that it is ready");
    }

    #[test]
    fn a_refusal_names_what_stands_against_the_order() {
        let field = CandidateField::Queue(vec![ours(1, 100), foreign(2), ours(3, 100)]);
        let none = Controls::default();
        let between = "'server2 (leader/2)' waits before 'server3', and is of another client or an older release: its key must not be deleted";
        assert_eq!(refusal(&order(3), &field, &none), between);
        let foreign = refusal(&order(2), &field, &none);
        assert!(foreign.starts_with("'server2' has no member record"), "{foreign}");
        assert_eq!(refusal(&order(9), &field, &none), "'server9' is not among the candidates that wait");
        let uncordon = "kim@ops1 cordoned 'server1': 'elect uncordon' ends that";
        assert_eq!(refusal(&order(1), &field, &cordoned(1)), uncordon);
        let paused = Controls { paused: Some(by()), ..Controls::default() };
        let resume = "kim@ops1 paused the election: 'elect resume' ends that";
        assert_eq!(refusal(&order(1), &field, &paused), resume);
        let old = TransferOrder { token: FencingToken::new(6), ..order(1) };
        let again = "the order is for the term with token 6, and this one has 7: give it again";
        assert_eq!(refusal(&old, &field, &none), again);
        let long = CandidateField::Queue((0..102).map(|key| ours(key, 100)).collect());
        let many = "101 candidates wait before 'server101'; a transfer passes at most 100";
        assert_eq!(refusal(&order(101), &long, &none), many);
    }

    proptest! {
        /// For all queues: what an accepted order passes is ours, and its target can and may lead.
        #[test]
        fn contract_10_an_accepted_order_deletes_only_what_is_known_to_be_ours(
            field in any_field(), target in 0..7u32, cordon in 0..9u32, paused in any::<bool>(), token in 6..9u64,
        ) {
            let controls = Controls { paused: paused.then(by), ..cordoned(cordon) };
            let order = TransferOrder { token: FencingToken::new(token), ..order(target) };
            if let OrderVerdict::Accept { passed } = order.judge(OWN, &field, &controls, Duration::ZERO) {
                prop_assert!(!paused && token == 7 && cordon != target);
                let found = field.find(&target).unwrap();
                prop_assert!(found.member.as_ref().unwrap().ready);
                for key in &passed {
                    prop_assert!(*key < target && field.find(key).unwrap().member.is_some());
                }
                if let CandidateField::Queue(all) = &field {
                    let left = all.iter().find(|one| !passed.contains(&one.key));
                    prop_assert_eq!(left.map(|one| one.key), Some(target), "it is the first then");
                }
            }
        }
    }
}
