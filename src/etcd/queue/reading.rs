//! Reads of a queue from etcd, its head first.

use std::{collections::BTreeMap, time::Duration};

use etcd_client::{GetOptions, KeyValue, SortOrder, SortTarget};

use super::{Key, Queue, QueueEntry, ROOM};
use crate::{
    etcd::{
        EtcdShared,
        connection::EndpointConnection,
        error::EtcdError,
        keys::{self, Revision},
        staleness::ReadKind,
    },
    names::ElectionName,
};

/// Timeout of a read.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// Keys in one answer, at first. If all of those belong to other elections, the next answer has twice as
/// many.
const PAGE: i64 = ROOM as i64;

/// Reads the head of the queue, linearizably and at one revision. Values may be large, and are left out.
pub(crate) async fn read(
    shared: &EtcdShared,
    connection: &EndpointConnection,
    election: &ElectionName,
) -> Result<Queue, EtcdError> {
    let mut entries = BTreeMap::new();
    let (mut at, mut from, mut limit) = (None, 0, PAGE);
    loop {
        let mut options = GetOptions::new()
            .with_prefix()
            .with_keys_only()
            .with_sort(SortTarget::Create, SortOrder::Ascend)
            .with_min_create_revision(from)
            .with_limit(limit);
        if let Some(Revision(at)) = at {
            options = options.with_revision(at);
        }
        let known = shared.known();
        let mut client = connection.kv();
        let reading = client.get(keys::prefix(election), Some(options));
        let answer = shared.connections.call(connection, PATIENCE, reading).await?;
        let read_at = shared.accept(connection, answer.header(), ReadKind::Linearizable, known)?;
        let at = *at.get_or_insert(read_at);
        let keys = answer.kvs();
        let entry = |kv: &KeyValue| Some((kv.key().to_vec(), QueueEntry::of_key(election, kv)?));
        entries.extend(keys.iter().filter_map(entry));
        let last = keys.last().map(KeyValue::create_revision).filter(|_| answer.more());
        let Some(last) = last else {
            return Ok(Queue::read_up_to(at, None, ROOM, entries));
        };
        // The answer may have ended in the middle of its last revision.
        entries.retain(|_, entry| entry.key.created.0 < last);
        if !entries.is_empty() {
            return Ok(Queue::read_up_to(at, Some(Revision(last - 1)), ROOM, entries));
        }
        (from, limit) = (last, limit.saturating_mul(2));
    }
}

/// Reads one key of the queue at this revision.
pub(crate) async fn key_at(
    shared: &EtcdShared,
    connection: &EndpointConnection,
    key: &[u8],
    at: Revision,
) -> Result<Option<Key>, EtcdError> {
    let known = shared.known();
    let mut client = connection.kv();
    let options = GetOptions::new().with_keys_only().with_revision(at.0);
    let answer = shared.connections.call(connection, PATIENCE, client.get(key, Some(options))).await?;
    shared.accept(connection, answer.header(), ReadKind::Linearizable, known)?;
    let key = |kv: &KeyValue| Key { created: Revision(kv.create_revision()), lease: None };
    Ok(answer.kvs().first().map(key))
}

/// Reads one key at a revision, with all its data.
pub(crate) async fn value_at(
    shared: &EtcdShared,
    connection: &EndpointConnection,
    key: &[u8],
    at: Revision,
) -> Result<Option<KeyValue>, EtcdError> {
    let known = shared.known();
    let mut client = connection.kv();
    let options = GetOptions::new().with_revision(at.0);
    let mut answer = shared.connections.call(connection, PATIENCE, client.get(key, Some(options))).await?;
    shared.accept(connection, answer.header(), ReadKind::Linearizable, known)?;
    Ok(answer.take_kvs().into_iter().next())
}
