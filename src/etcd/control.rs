//! Operators' standing orders: `<election>.control:pause` and `<election>.control:cordon:<name>`.
//!
//! They are on no lease: they hold until an operator takes them back, whatever becomes of candidates and
//! operators meanwhile.

use etcd_client::GetOptions;
use serde::{Deserialize, Serialize};

use super::{
    EtcdShared,
    connection::EndpointConnection,
    error::EtcdError,
    keys::{self, ControlKey, Revision},
    queue::PATIENCE,
    staleness::ReadKind,
    stored,
};
use crate::{
    choosing::{Controls, Cordon, OrderedBy},
    names::ElectionName,
};

/// The value of a standing order. Only a cordon can be hard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredControl {
    pub(crate) hard: bool,
    pub(crate) by: OrderedBy,
}

#[derive(Serialize, Deserialize)]
struct ControlJson {
    by: stored::OriginJson,
    hard: bool,
}

impl StoredControl {
    pub(crate) fn to_json(&self) -> Vec<u8> {
        stored::to_bytes(&ControlJson { by: stored::OriginJson::of(&self.by), hard: self.hard })
    }

    /// Returns `None` for values of other programs.
    pub(crate) fn from_json(value: &[u8]) -> Option<Self> {
        let json: ControlJson = stored::parse(value)?;
        Some(Self { hard: json.hard, by: json.by.parsed()? })
    }
}

/// Applies a change of one key, whose value is `None` once it is deleted. Foreign keys and values give no
/// order.
pub(crate) fn apply_control(
    controls: &mut Controls,
    election: &ElectionName,
    key: &[u8],
    value: Option<&[u8]>,
) {
    let stored = value.and_then(StoredControl::from_json);
    match (keys::control(election, key), stored) {
        (Some(ControlKey::Pause), stored) => controls.paused = stored.map(|stored| stored.by),
        (Some(ControlKey::Cordon(name)), Some(StoredControl { hard, by })) => {
            controls.cordons.insert(name, Cordon::new(hard, by));
        }
        (Some(ControlKey::Cordon(name)), None) => drop(controls.cordons.remove(&name)),
        (None, _) => {}
    }
}

/// The most standing orders that are read.
const MOST: i64 = 1000;

/// Reads the standing orders, with the revision that they were read at.
pub(crate) async fn read_controls(
    shared: &EtcdShared,
    connection: &EndpointConnection,
    election: &ElectionName,
) -> Result<(Controls, Revision), EtcdError> {
    let known = shared.known();
    let mut client = connection.kv();
    let options = GetOptions::new().with_prefix().with_limit(MOST);
    let reading = client.get(keys::control_prefix(election), Some(options));
    let answer = shared.connections.call(connection, PATIENCE, reading).await?;
    let at = shared.accept(connection, answer.header(), ReadKind::Linearizable, known)?;
    let mut controls = Controls::default();
    for kv in answer.kvs() {
        apply_control(&mut controls, election, kv.key(), Some(kv.value()));
    }
    Ok((controls, at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{etcd::stored::tests::by, names::CandidateName};

    #[test]
    fn reads_what_it_writes() {
        let control = StoredControl { hard: true, by: by() };
        assert_eq!(StoredControl::from_json(&control.to_json()), Some(control));
    }

    #[test]
    fn standing_orders_follow_their_keys() {
        let election: ElectionName = "leader".parse().unwrap();
        let name: CandidateName = "server1".parse().unwrap();
        let hard = StoredControl { hard: true, by: by() }.to_json();
        let mut controls = Controls::default();
        let cordon = keys::cordon_key(&election, &name);
        apply_control(&mut controls, &election, &cordon, Some(&hard));
        apply_control(&mut controls, &election, &keys::pause_key(&election), Some(&hard));
        apply_control(&mut controls, &election, b"leader.control:other", Some(&hard));
        apply_control(&mut controls, &election, b"other.control:pause", None);
        assert_eq!(controls.paused, Some(by()));
        assert_eq!(controls.cordons, [(name, Cordon::new(true, by()))].into());

        apply_control(&mut controls, &election, &cordon, Some(b"another program's"));
        apply_control(&mut controls, &election, &keys::pause_key(&election), None);
        assert_eq!(controls, Controls::default());
    }

    proptest! {
        #[test]
        fn foreign_values_are_left_alone(value in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(StoredControl::from_json(&value), None);
        }
    }
}
