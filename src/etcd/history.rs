//! The past terms of an election: a ring of keys, `<election>.history:<slot>`, on no lease.
//!
//! A new leader writes its own term, open, after its win, and closes what it finds open. A leader that gives
//! up closes its term in the very transaction that ends it. So a term that the next leader finds open ended in
//! another way: it is [lost](TermEnding::Lost), as that next leader saw it.
//!
//! Times are times of day: of the leader's machine, and of the next leader's for the end of a lost term. No
//! decision depends on them. Each write is guarded by the writer's key in the queue, so a deposed leader
//! changes nothing. A term that was over before it could be written, or whose user may not write it, is
//! missing; the queue and its tokens stay what they are.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    EtcdShared, LeaderKey,
    connection::EndpointConnection,
    error::EtcdError,
    keys::{self, Revision},
    queue::PATIENCE,
    rights,
    staleness::ReadKind,
    stored, term,
};
use crate::{
    choosing::{PastTerm, TermEnding, TransferReason},
    leadership::FencingToken,
    names::ElectionName,
    timing::Backoff,
};

/// The most past terms that are kept. A term a day makes it three months; a failover a minute, more than an
/// hour and a half.
pub(crate) const HISTORY_SIZE: usize = 100;

#[derive(Serialize, Deserialize)]
struct StoredTerm {
    leader: String,
    token: u64,
    from: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended: Option<EndingJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EndingJson {
    Resigned,
    Lost,
    Transferred { to: String, reason: ReasonJson },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReasonJson {
    Ordered(stored::OriginJson),
    Priority,
    LastResort,
    Program,
    Disk,
}

pub(super) fn to_json(past: &PastTerm) -> Vec<u8> {
    let reason = |reason: &TransferReason| match reason {
        TransferReason::Ordered(by) => ReasonJson::Ordered(stored::OriginJson::of(by)),
        TransferReason::Priority => ReasonJson::Priority,
        TransferReason::LastResort => ReasonJson::LastResort,
        TransferReason::Program => ReasonJson::Program,
        TransferReason::Disk => ReasonJson::Disk,
    };
    let ending = |ended: &TermEnding| match ended {
        TermEnding::Resigned => EndingJson::Resigned,
        TermEnding::Lost => EndingJson::Lost,
        TermEnding::Transferred { to, reason: why } => {
            EndingJson::Transferred { to: stored::shown(to), reason: reason(why) }
        }
    };
    stored::to_bytes(&StoredTerm {
        leader: stored::shown(&past.leader),
        token: past.token.get(),
        from: stored::time_text(past.from.unwrap_or(SystemTime::UNIX_EPOCH)),
        until: past.until.map(stored::time_text),
        ended: past.ended.as_ref().map(ending),
    })
}

/// Returns `None` for values of other programs.
pub(super) fn from_json(value: &[u8]) -> Option<PastTerm> {
    let json: StoredTerm = stored::parse(value)?;
    let ended = match json.ended {
        None => None,
        Some(EndingJson::Resigned) => Some(TermEnding::Resigned),
        Some(EndingJson::Lost) => Some(TermEnding::Lost),
        Some(EndingJson::Transferred { to, reason }) => {
            let reason = match reason {
                ReasonJson::Ordered(by) => TransferReason::Ordered(by.parsed()?),
                ReasonJson::Priority => TransferReason::Priority,
                ReasonJson::LastResort => TransferReason::LastResort,
                ReasonJson::Program => TransferReason::Program,
                ReasonJson::Disk => TransferReason::Disk,
            };
            Some(TermEnding::Transferred { to: stored::shown(&to), reason })
        }
    };
    let until = json.until.as_deref().map(stored::time);
    Some(PastTerm {
        leader: stored::shown(&json.leader),
        token: FencingToken::new(json.token),
        from: Some(stored::time(&json.from)?),
        until: until.flatten(),
        ended,
    })
}

/// A term in its slot.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HistoryEntry {
    slot: usize,
    changed: Revision,
    term: PastTerm,
}

/// The ring as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct HistoryRing {
    /// The newest first.
    entries: Vec<HistoryEntry>,
    /// Slots that hold another program's values.
    foreign: BTreeSet<usize>,
}

/// The writes that open a term.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OpeningWrites {
    /// Slots with their last change (0: there is none), and the values to put.
    slots: Vec<(usize, Revision, PastTerm)>,
    /// The slot of the new term.
    own: usize,
}

impl HistoryRing {
    fn of(election: &ElectionName, kvs: &[KeyValue]) -> Self {
        let mut ring = Self::default();
        for kv in kvs {
            let slot = keys::history_slot(election, kv.key()).filter(|slot| *slot < HISTORY_SIZE);
            match (slot, from_json(kv.value())) {
                (Some(slot), Some(term)) => {
                    ring.entries.push(HistoryEntry { slot, changed: Revision(kv.mod_revision()), term });
                }
                (Some(slot), None) => drop(ring.foreign.insert(slot)),
                (None, _) => {}
            }
        }
        ring.entries.sort_by_key(|entry| std::cmp::Reverse((entry.term.token, entry.changed)));
        ring
    }

    fn terms(&self) -> Vec<PastTerm> {
        self.entries.iter().map(|entry| entry.term.clone()).collect()
    }

    /// Returns what opens `own`: the slot after the newest term's, and the end of those that are still open.
    /// `None` if other programs have all slots.
    fn opening(&self, own: &PastTerm, now: SystemTime) -> Option<OpeningWrites> {
        let newest = self.entries.first();
        let there = self.entries.iter().find(|entry| entry.term.token == own.token);
        let next = newest.map_or(0, |newest| newest.slot + 1);
        let free = (0..HISTORY_SIZE).map(|step| (next + step) % HISTORY_SIZE);
        let slot = match there {
            // An earlier request was carried out, though its answer did not come.
            Some(there) => there.slot,
            None => free.into_iter().find(|slot| !self.foreign.contains(slot))?,
        };
        let before = self.entries.iter().find(|entry| entry.slot == slot);
        let changed = before.map_or(Revision(0), |before| before.changed);
        let open = self.entries.iter().filter(|entry| entry.term.ended.is_none() && entry.slot != slot);
        let lost = open.map(|entry| {
            let lost = PastTerm { until: Some(now), ended: Some(TermEnding::Lost), ..entry.term.clone() };
            (entry.slot, entry.changed, lost)
        });
        Some(OpeningWrites { slots: lost.chain([(slot, changed, own.clone())]).collect(), own: slot })
    }
}

/// The history as the leader found it when it opened its term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HistoryAtStart {
    key: Vec<u8>,
    own: PastTerm,
    /// The terms before its own, the newest first.
    pub(crate) past: Vec<PastTerm>,
}

impl HistoryAtStart {
    /// Returns true if an operator ordered this term: the one before was transferred to this leader by order.
    pub(crate) fn ordered(&self) -> bool {
        let ended = self.past.first().and_then(|before| before.ended.as_ref());
        let ordered = |to: &String, reason: &TransferReason| {
            *to == self.own.leader && matches!(reason, TransferReason::Ordered(_))
        };
        ended.is_some_and(
            |ended| matches!(ended, TermEnding::Transferred { to, reason } if ordered(to, reason)),
        )
    }
}

/// The history, as far as a leader has come with it.
#[derive(Debug, Clone)]
enum HistoryProgress {
    Opening,
    /// etcd denies it, or other programs have its keys.
    Unavailable,
    Opened(Arc<HistoryAtStart>),
}

/// The entry of a term under way. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct TermHistory {
    progress: watch::Receiver<HistoryProgress>,
}

/// The task's end of a [`TermHistory`].
pub(super) struct HistoryWriter {
    progress: watch::Sender<HistoryProgress>,
}

impl TermHistory {
    pub(super) fn new() -> (HistoryWriter, Self) {
        let (sender, progress) = watch::channel(HistoryProgress::Opening);
        (HistoryWriter { progress: sender }, Self { progress })
    }

    /// Returns the write that ends this term, for the transaction that does so. `None` unless the term was
    /// opened: one forbidden key would refuse the whole transaction.
    pub(crate) fn ending(&self, ending: TermEnding, at: SystemTime) -> Option<TxnOp> {
        let HistoryProgress::Opened(start) = &*self.progress.borrow() else { return None };
        let ended = PastTerm { until: Some(at), ended: Some(ending), ..start.own.clone() };
        Some(TxnOp::put(start.key.clone(), to_json(&ended), None))
    }

    /// Does the same once the opening is over, if that is soon: a term that ends at once is not to be taken
    /// for a lost one.
    pub(crate) async fn ending_soon(&self, ending: TermEnding, at: SystemTime) -> Option<TxnOp> {
        /// Several round trips. It delays a release only while the opening is under way.
        const SOON: Duration = Duration::from_millis(100);
        let _ = timeout(SOON, self.opened()).await;
        self.ending(ending, at)
    }

    /// Waits until the term is opened. `None` if it never will be.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn opened(&self) -> Option<Arc<HistoryAtStart>> {
        let mut progress = self.progress.clone();
        let known = progress.wait_for(|progress| !matches!(progress, HistoryProgress::Opening)).await;
        match known.as_deref() {
            Ok(HistoryProgress::Opened(start)) => Some(Arc::clone(start)),
            Ok(HistoryProgress::Opening | HistoryProgress::Unavailable) | Err(_) => None,
        }
    }
}

impl HistoryWriter {
    /// Opens the term of this key, and closes what the history has still open. Tries until it works or is
    /// denied; the caller drops it when the term ends.
    pub(super) async fn open(
        self,
        leader_key: LeaderKey,
        election: ElectionName,
        leader: String,
        since: SystemTime,
    ) {
        let token = keys::token(leader_key.created);
        let own =
            PastTerm { leader: stored::shown(&leader), token, from: Some(since), until: None, ended: None };
        let mut backoff = Backoff::between(Duration::from_millis(100), Duration::from_secs(30));
        loop {
            match try_to_open(&leader_key, &election, &own).await {
                Ok(OpeningOutcome::Opened(start)) => {
                    self.progress.send_replace(HistoryProgress::Opened(Arc::new(start)));
                    return;
                }
                Ok(OpeningOutcome::TermOver) => break,
                Ok(OpeningOutcome::Occupied) => {
                    tracing::info!("other programs have all keys of the history, so none is kept");
                    break;
                }
                Ok(OpeningOutcome::Changed) => {}
                Err(error) if error.is_denied() => {
                    let (key, remedy) = (keys::history_prefix(&election), rights::grant_history(&election));
                    let consequence = "no history of leadership is kept";
                    leader_key.shared.denials.report(&key, consequence, &remedy);
                    break;
                }
                Err(error) => tracing::debug!(%error, "could not write the history of leadership"),
            }
            sleep(backoff.pause()).await;
        }
        self.progress.send_replace(HistoryProgress::Unavailable);
    }
}

enum OpeningOutcome {
    Opened(HistoryAtStart),
    /// The keys changed between the read and the write.
    Changed,
    /// Other programs have all keys.
    Occupied,
    TermOver,
}

async fn try_to_open(
    leader_key: &LeaderKey,
    election: &ElectionName,
    own: &PastTerm,
) -> Result<OpeningOutcome, EtcdError> {
    let shared = &leader_key.shared;
    let connection = shared.connections.connection().await?;
    let ring = read_ring(shared, &connection, election).await?;
    let Some(OpeningWrites { slots, own: slot }) = ring.opening(own, SystemTime::now()) else {
        return Ok(OpeningOutcome::Occupied);
    };
    let unchanged = slots.iter().map(|(slot, changed, _)| {
        Compare::mod_revision(keys::history_key(election, *slot), CompareOp::Equal, changed.0)
    });
    let puts = slots
        .iter()
        .map(|(slot, _, term)| TxnOp::put(keys::history_key(election, *slot), to_json(term), None));
    let write = Txn::new().when(unchanged.collect::<Vec<_>>()).and_then(puts.collect::<Vec<_>>());
    let answer = leader_key.guarded([TxnOp::txn(write)]).await?;
    if !answer.succeeded() {
        return Ok(OpeningOutcome::TermOver);
    }
    if !term::any_succeeded(&answer) {
        return Ok(OpeningOutcome::Changed);
    }
    let lost = |term: &PastTerm| {
        let closed = slots.iter().find(|(.., closed)| closed.token == term.token);
        closed.map_or_else(|| term.clone(), |(.., closed)| closed.clone())
    };
    let past = ring.entries.iter().map(|entry| &entry.term).filter(|term| term.token != own.token).map(lost);
    let (key, past) = (keys::history_key(election, slot), past.collect());
    Ok(OpeningOutcome::Opened(HistoryAtStart { key, own: own.clone(), past }))
}

async fn read_ring(
    shared: &EtcdShared,
    connection: &EndpointConnection,
    election: &ElectionName,
) -> Result<HistoryRing, EtcdError> {
    /// Keys of another program under this prefix may be more.
    const MOST: i64 = 10 * HISTORY_SIZE as i64;
    let known = shared.known();
    let mut client = connection.kv();
    let options = GetOptions::new().with_prefix().with_limit(MOST);
    let reading = client.get(keys::history_prefix(election), Some(options));
    let answer = shared.connections.call(connection, PATIENCE, reading).await?;
    shared.accept(connection, answer.header(), ReadKind::Linearizable, known)?;
    Ok(HistoryRing::of(election, answer.kvs()))
}

/// Reads the terms, the newest first; the present one is among them once its leader has written it.
pub(crate) async fn read_history(
    shared: &EtcdShared,
    connection: &EndpointConnection,
    election: &ElectionName,
) -> Result<Vec<PastTerm>, EtcdError> {
    Ok(read_ring(shared, connection, election).await?.terms())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::etcd::stored::tests::by;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second)
    }

    fn past(token: u64, ended: Option<TermEnding>) -> PastTerm {
        let until = ended.is_some().then(|| at(token + 1));
        PastTerm {
            leader: format!("server{token}"),
            token: FencingToken::new(token),
            from: Some(at(token)),
            until,
            ended,
        }
    }

    fn transferred(to: &str) -> TermEnding {
        TermEnding::Transferred { to: to.into(), reason: TransferReason::Ordered(by()) }
    }

    fn ring(entries: &[(usize, PastTerm)], foreign: &[usize]) -> HistoryRing {
        let entry = |(slot, term): &(usize, PastTerm)| HistoryEntry {
            slot: *slot,
            changed: Revision(1000 + i64::try_from(*slot).unwrap()),
            term: term.clone(),
        };
        HistoryRing {
            entries: entries.iter().rev().map(entry).collect(),
            foreign: foreign.iter().copied().collect(),
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let program = TermEnding::Transferred { to: "b".into(), reason: TransferReason::Program };
        let endings =
            [None, Some(TermEnding::Lost), Some(TermEnding::Resigned), Some(transferred("b")), Some(program)];
        for ended in endings {
            let term = past(7, ended);
            assert_eq!(from_json(&to_json(&term)), Some(term));
        }
    }

    #[test]
    fn an_announcement_is_no_past_term_and_a_past_term_is_no_announcement() {
        let announced = br#"{"leader":"n","token":7,"since":"2026-01-01T00:00:00.000Z"}"#;
        assert_eq!(from_json(announced), None);
        assert_eq!(super::super::announcement::Announcement::from_json(&to_json(&past(7, None))), None);
    }

    #[test]
    fn a_new_term_takes_the_next_slot_and_closes_the_one_that_is_open() {
        let ring = ring(&[(98, past(5, Some(TermEnding::Resigned))), (99, past(6, None))], &[0]);
        let writes = ring.opening(&past(9, None), at(50)).unwrap();
        let lost = PastTerm { until: Some(at(50)), ended: Some(TermEnding::Lost), ..past(6, None) };
        let expected = vec![(99, Revision(1099), lost), (1, Revision(0), past(9, None))];
        assert_eq!(writes, OpeningWrites { slots: expected, own: 1 });
    }

    #[test]
    fn a_term_that_was_written_already_keeps_its_slot() {
        let ring = ring(&[(3, past(5, Some(TermEnding::Lost))), (4, past(9, None))], &[]);
        let writes = ring.opening(&past(9, None), at(50)).unwrap();
        assert_eq!(writes, OpeningWrites { slots: vec![(4, Revision(1004), past(9, None))], own: 4 });
    }

    #[test]
    fn the_oldest_term_gives_way() {
        let all: Vec<_> =
            (0..HISTORY_SIZE).map(|slot| (slot, past(slot as u64 + 1, Some(TermEnding::Resigned)))).collect();
        let writes = ring(&all, &[]).opening(&past(500, None), at(500)).unwrap();
        assert_eq!(writes.slots, [(0, Revision(1000), past(500, None))]);
    }

    #[test]
    fn values_of_other_programs_are_never_replaced() {
        let foreign: Vec<_> = (0..HISTORY_SIZE).collect();
        assert_eq!(ring(&[], &foreign).opening(&past(9, None), at(50)), None);
        let writes = ring(&[], &foreign[..99]).opening(&past(9, None), at(50)).unwrap();
        assert_eq!(writes.own, 99);
    }

    #[test]
    fn a_term_is_ordered_if_the_one_before_was_transferred_to_it_by_order() {
        let start = |ended| {
            let past = vec![past(5, Some(ended)), past(4, Some(transferred("server9")))];
            HistoryAtStart { key: Vec::new(), own: self::past(9, None), past }.ordered()
        };
        assert!(start(transferred("server9")));
        assert!(!start(transferred("server8")) && !start(TermEnding::Resigned));
        let reason = TransferReason::Priority;
        assert!(!start(TermEnding::Transferred { to: "server9".into(), reason }));
    }

    proptest! {
        #[test]
        fn foreign_values_are_left_alone(value in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(from_json(&value), None);
        }
    }
}
