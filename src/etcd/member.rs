//! The records of an election's candidates: `<election>.member:<lease>`.
//!
//! A candidate's record is put in the transaction that puts its key in the queue, and is on the same lease. So
//! a key whose record is there is one of ours: its candidate takes no deletion of it for a win. A key without
//! one is foreign, and is never deleted.
//!
//! A record changes only for a transfer: [`StoredMember::ready`].

use std::collections::BTreeMap;

use etcd_client::GetOptions;
use serde::{Deserialize, Serialize};

use super::{
    EtcdShared,
    connection::EndpointConnection,
    error::EtcdError,
    keys::{self, LeaseId, Revision},
    queue::PATIENCE,
    staleness::ReadKind,
    stored,
};
use crate::{
    choosing::{CandidateProfile, Priority, field::MemberRecord},
    names::{CandidateName, ElectionName},
};

/// The record of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredMember {
    pub(crate) name: CandidateName,
    /// True if it does not lead, even if no other can.
    pub(crate) never: bool,
    pub(crate) profile: CandidateProfile,
    /// Its answer to an order, that it is alive and would claim: the `create_revision` of the order's key, so
    /// that no answer counts for another order.
    pub(crate) ready: Option<Revision>,
}

#[derive(Serialize, Deserialize)]
struct MemberJson {
    name: String,
    priority: u32,
    #[serde(default, skip_serializing_if = "is_false")]
    never: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ready: Option<i64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl StoredMember {
    pub(crate) fn new(name: CandidateName, never: bool, profile: CandidateProfile) -> Self {
        Self { name, never, profile, ready: None }
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        let CandidateProfile { priority, address, zone, version } = &self.profile;
        let shown = |text: &Option<String>| text.as_deref().map(stored::shown);
        stored::to_bytes(&MemberJson {
            name: self.name.to_string(),
            priority: priority.get(),
            never: self.never,
            address: shown(address),
            version: shown(version),
            zone: shown(zone),
            ready: self.ready.map(|revision| revision.0),
        })
    }

    /// Returns `None` for values of other programs.
    pub(crate) fn from_json(value: &[u8]) -> Option<Self> {
        let json: MemberJson = stored::parse(value)?;
        let shown = |text: Option<String>| text.as_deref().map(stored::shown);
        let profile = CandidateProfile {
            priority: Priority::new(json.priority),
            address: shown(json.address),
            zone: shown(json.zone),
            version: shown(json.version),
        };
        Some(Self {
            name: json.name.parse().ok()?,
            never: json.never,
            profile,
            ready: json.ready.map(Revision),
        })
    }

    /// Returns the data that the rules use. It is ready if it has answered this very order.
    pub(crate) fn record(&self, order: Option<Revision>) -> MemberRecord {
        let ready = order.is_some() && self.ready == order;
        MemberRecord { name: self.name.clone(), priority: self.profile.priority, ready }
    }
}

/// The records of the candidates, by their lease, with the revision of each record's last change.
pub(crate) type StoredMembers = BTreeMap<LeaseId, (StoredMember, Revision)>;

/// The most records that are read: as many as there are keys in a queue that is listed.
const MOST: i64 = super::queue::ROOM as i64;

/// Reads the records of an election's candidates. Those of other forms are left out.
pub(crate) async fn read_members(
    shared: &EtcdShared,
    connection: &EndpointConnection,
    election: &ElectionName,
) -> Result<StoredMembers, EtcdError> {
    let known = shared.known();
    let mut client = connection.kv();
    let options = GetOptions::new().with_prefix().with_limit(MOST);
    let reading = client.get(keys::member_prefix(election), Some(options));
    let answer = shared.connections.call(connection, PATIENCE, reading).await?;
    shared.accept(connection, answer.header(), ReadKind::Linearizable, known)?;
    let member = |kv: &etcd_client::KeyValue| {
        let lease = keys::member_lease(election, kv.key()).filter(|lease| lease.0 == kv.lease())?;
        Some((lease, (StoredMember::from_json(kv.value())?, Revision(kv.mod_revision()))))
    };
    Ok(answer.kvs().iter().filter_map(member).collect())
}

/// Reads the record of one candidate.
pub(crate) async fn read_member(
    shared: &EtcdShared,
    connection: &EndpointConnection,
    election: &ElectionName,
    lease: LeaseId,
) -> Result<Option<StoredMember>, EtcdError> {
    let known = shared.known();
    let mut client = connection.kv();
    let reading = client.get(keys::member_key(election, lease), None);
    let answer = shared.connections.call(connection, PATIENCE, reading).await?;
    shared.accept(connection, answer.header(), ReadKind::Linearizable, known)?;
    let kv = answer.kvs().first().filter(|kv| kv.lease() == lease.0);
    Ok(kv.and_then(|kv| StoredMember::from_json(kv.value())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member() -> StoredMember {
        let profile = CandidateProfile {
            priority: Priority::new(200),
            address: Some("https://a:8443".into()),
            zone: Some("north".into()),
            version: Some("1.2.3".into()),
        };
        StoredMember {
            ready: Some(Revision(12)),
            ..StoredMember::new("server 1".parse().unwrap(), true, profile)
        }
    }

    #[test]
    fn reads_what_it_writes() {
        assert_eq!(StoredMember::from_json(&member().to_json()), Some(member()));
        let least = StoredMember::new("n".parse().unwrap(), false, CandidateProfile::default());
        assert_eq!(least.to_json(), br#"{"name":"n","priority":100}"#);
        assert_eq!(StoredMember::from_json(&least.to_json()), Some(least));
    }

    #[test]
    fn an_answer_counts_only_for_its_own_order() {
        let ready = |order| member().record(order).ready;
        assert!(ready(Some(Revision(12))));
        assert!(!ready(Some(Revision(13))) && !ready(None));
        let silent = StoredMember { ready: None, ..member() };
        assert!(!silent.record(None).ready);
    }

    #[test]
    fn a_record_of_a_newer_release_is_read_as_far_as_it_is_known() {
        let newer = br#"{"name":"n","priority":7,"colour":"blue"}"#;
        assert_eq!(StoredMember::from_json(newer).unwrap().profile.priority, Priority::new(7));
    }

    #[test]
    fn texts_of_a_record_are_displayable_and_bounded() {
        let forged = br#"{"name":"n","priority":7,"address":"a\u001b[2J","zone":"z"}"#;
        assert_eq!(StoredMember::from_json(forged).unwrap().profile.address.as_deref(), Some("a\u{fffd}[2J"));
        let named = br#"{"name":"a\u001b[2J","priority":7}"#;
        assert_eq!(StoredMember::from_json(named), None, "no candidate has such a name");
        let mut long = member();
        long.profile.zone = Some("z".repeat(100_000));
        assert!(long.to_json().len() < 2000);
    }

    #[test]
    fn values_of_other_forms_are_no_records() {
        for other in ["", "{}", "server1", r#"{"leader":"n","token":7,"since":"2026-01-01T00:00:00Z"}"#] {
            assert_eq!(StoredMember::from_json(other.as_bytes()), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn foreign_values_are_left_alone(value in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(StoredMember::from_json(&value), None);
        }
    }
}
