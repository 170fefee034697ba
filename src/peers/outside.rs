//! The real world of a [`Driver`](super::driver::Driver): connections and a disk.

use std::sync::Arc;

use super::{
    disk::{Disk, Stranger},
    driver::{Company, Outside},
    hello::DirectoryBytes,
    store::DirectoryId,
    transport::{Greet, Network},
};
use crate::{
    clock::Timestamp,
    raft::{action::Write, identity::NodeId, message::Envelope},
};

/// Connections and a disk.
pub(super) struct World {
    pub(super) network: Arc<Network>,
    pub(super) disk: Arc<Disk>,
}

impl Outside for World {
    fn send(&self, envelope: Envelope) {
        self.network.send(envelope);
    }

    fn write(&self, write: Write) {
        self.disk.write(write);
    }

    fn company(&self) -> Company {
        let contacts = self.network.contacts(Timestamp::now());
        let apart = contacts.iter().filter(|contact| !contact.connected).map(|contact| {
            let problem = contact.problem.as_deref().unwrap_or("not reached yet");
            format!("; {}: {problem}", contact.name)
        });
        let connected = contacts.iter().filter(|contact| contact.connected).count();
        let words =
            format!("{connected} of {} others are connected{}", contacts.len(), apart.collect::<String>());
        Company { connected, words }
    }
}

/// Introduces this member, and remembers those whom it meets.
pub(super) struct Porter {
    pub(super) directory: DirectoryId,
    pub(super) disk: Arc<Disk>,
}

impl Greet for Porter {
    fn directory(&self) -> DirectoryBytes {
        *self.directory.as_bytes()
    }

    fn meet(
        &self,
        member: NodeId,
        directory: DirectoryBytes,
    ) -> impl Future<Output = Result<(), Stranger>> + Send {
        self.disk.meet(member, DirectoryId::from_bytes(directory))
    }
}
