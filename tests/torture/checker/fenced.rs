//! A place that compares tokens accepts no write of an older term after one of a newer term (contract, point 5); and etcd
//! accepts no write of a term from the revision on at which its key was deleted, even if no other term has begun.
//!
//! There is no exception: not for third parties, frozen writers, or late packets. Writes that the unguarded file
//! accepted out of order are counted, to show the benefit of fencing.

use std::collections::BTreeMap;

use super::{Case, Invariant};
use crate::history::{Event, EventKind, History, Token, WriteTarget};

pub(super) struct Fenced;

/// A write of an older term after one of a newer.
pub(crate) struct Stale {
    pub(crate) place: WriteTarget,
    pub(crate) order: u64,
    pub(crate) token: Token,
    pub(crate) newest: Token,
}

/// All stale writes that took effect anywhere, in each place's own order.
pub(crate) fn stale(history: &History) -> Vec<Stale> {
    let mut writes: BTreeMap<(WriteTarget, u64), Token> = BTreeMap::new();
    for Event { what, .. } in history.events() {
        if let EventKind::Wrote { place, order, token } = what {
            writes.insert((*place, *order), *token);
        }
    }
    let mut newest: BTreeMap<WriteTarget, Token> = BTreeMap::new();
    let mut found = Vec::new();
    for ((place, order), token) in writes {
        let newest = newest.entry(place).or_insert(token);
        if token < *newest {
            found.push(Stale { place, order, token, newest: *newest });
        }
        *newest = token.max(*newest);
    }
    found
}

impl Invariant for Fenced {
    fn name(&self) -> &'static str {
        "fenced"
    }

    fn broken_by(&self, case: &Case<'_>) -> Vec<String> {
        let found = stale(case.history).into_iter().filter(|stale| stale.place.guarded());
        let found = found.map(|Stale { place, order, token, newest }| {
            format!("{place} took a write of term {token} (its {order}th) after one of term {newest}")
        });
        found.chain(posthumous(case.history)).collect()
    }
}

/// Writes that etcd accepted from terms whose key was gone.
fn posthumous(history: &History) -> impl Iterator<Item = String> {
    let gone = history.events().iter().filter_map(|event| match event.what {
        EventKind::Gone { token, order } => Some((token, order)),
        _ => None,
    });
    let gone: BTreeMap<Token, u64> = gone.collect();
    history.events().iter().filter_map(move |event| match event.what {
        EventKind::Wrote { place: WriteTarget::Etcd, order, token } => {
            let gone = gone.get(&token).filter(|gone| order > **gone)?;
            Some(format!(
                "etcd took a write of term {token} at revision {order}, and its key was gone at {gone}"
            ))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::sample::*, *};

    #[test]
    fn finds_an_old_write_after_a_new_one_by_the_places_own_order() {
        // Stamped the other way round: the writer's clock does not matter.
        let events = vec![wrote(9, WriteTarget::Etcd, 1, 8), wrote(1, WriteTarget::Etcd, 2, 7)];
        assert_eq!(broken(&Fenced, events).len(), 1);
    }

    #[test]
    fn lets_a_term_write_again_and_each_place_have_its_own_order() {
        let events = vec![
            wrote(1, WriteTarget::Etcd, 1, 7),
            wrote(2, WriteTarget::Etcd, 2, 7),
            wrote(3, WriteTarget::Etcd, 3, 8),
            wrote(4, WriteTarget::Store, 1, 7),
        ];
        assert_eq!(broken(&Fenced, events), [""; 0]);
    }

    #[test]
    fn finds_a_write_of_a_term_whose_key_is_gone() {
        let gone = |order| gone(1, 7, order);
        assert_eq!(broken(&Fenced, vec![gone(20), wrote(1, WriteTarget::Etcd, 21, 7)]).len(), 1);
        assert_eq!(broken(&Fenced, vec![gone(20), wrote(9, WriteTarget::Etcd, 19, 7)]), [""; 0]);
        // Revisions are etcd's; the store has its own order.
        assert_eq!(broken(&Fenced, vec![gone(20), wrote(9, WriteTarget::Store, 21, 7)]), [""; 0]);
    }

    #[test]
    fn only_counts_what_the_unguarded_file_took() {
        let events = vec![wrote(1, WriteTarget::File, 1, 8), wrote(2, WriteTarget::File, 2, 7)];
        assert_eq!(stale(&History::of(events.clone())).len(), 1);
        assert_eq!(broken(&Fenced, events), [""; 0]);
    }
}
