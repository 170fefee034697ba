//! The real world of a [`Driver`](super::driver::Driver): connections and a disk.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{
    Timing, TimingAdvice,
    disk::{Disk, UnknownDirectory},
    driver::{Connectivity, DriverIo, DriverOrder},
    group::Group,
    ledger::{Ledger, Meeting},
    operate::OperatorOrder,
    transport::{IdentityCheck, Network},
};
use crate::{
    clock::Timestamp,
    raft::{
        action::Write,
        identity::{Index, NodeId},
        membership::{MemberDisks, Objection, VotingRights},
        message::Envelope,
    },
};

/// Connections and a disk.
pub(super) struct RealIo {
    pub(super) network: Arc<Network>,
    pub(super) disk: Arc<Disk>,
    pub(super) group: Group,
    pub(super) timing: Timing,
}

impl DriverIo for RealIo {
    fn send(&self, envelope: Envelope) {
        self.network.send(envelope);
    }

    fn write(&self, write: Write) {
        self.disk.write(write);
    }

    fn object(&self, member: NodeId, objection: Objection) {
        self.network.object(member, objection);
    }

    fn set_disks(&self, disks: Option<(Index, MemberDisks)>) {
        self.disk.ledger().set_disks(disks);
        self.network.part_from_the_replaced();
    }

    fn waiting_for(&self) -> Option<String> {
        waiting_for(&self.group, self.disk.ledger())
    }

    fn connectivity(&self) -> Connectivity {
        let contacts = self.network.contacts(Timestamp::now());
        let apart = contacts.iter().filter(|contact| !contact.connected).map(|contact| {
            let problem = contact.problem.as_deref().unwrap_or("not reached yet");
            format!("; {}: {problem}", contact.name)
        });
        let connected = contacts.iter().filter(|contact| contact.connected).count();
        let advice = TimingAdvice::for_usual(&self.timing, &contacts, &self.disk.syncs().times());
        let advice = advice.map(|advice| format!("; {advice}")).unwrap_or_default();
        let (others, apart) = (contacts.len(), apart.collect::<String>());
        let description = format!("{connected} of {others} others are connected{apart}{advice}");
        Connectivity { connected, description }
    }
}

/// The reason why this server does not vote yet, if it does not.
pub(super) fn waiting_for(group: &Group, ledger: &Ledger) -> Option<String> {
    if ledger.voting_rights() != VotingRights::Waiting || ledger.is_named() {
        return None;
    }
    let names: Vec<_> = ledger.unmet().iter().map(|node| group.member(*node).name.to_string()).collect();
    Some(format!("a new group begins once all its members have met; waiting for {}", names.join(", ")))
}

/// Introduces this member, and records the members that it meets.
pub(super) struct PeerIdentity {
    pub(super) ledger: Arc<Ledger>,
    pub(super) disk: Arc<Disk>,
    /// Weak, so that it does not keep the driver alive: this server's users do.
    pub(super) orders: mpsc::WeakUnboundedSender<DriverOrder>,
}

impl IdentityCheck for PeerIdentity {
    fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    fn meet(
        &self,
        member: NodeId,
        meeting: Meeting,
    ) -> impl Future<Output = Result<(), UnknownDirectory>> + Send {
        self.disk.meet(member, meeting)
    }

    fn confirmed(&self, member: NodeId) -> impl Future<Output = Result<(), UnknownDirectory>> + Send {
        self.disk.confirmed(member)
    }

    fn operate(&self, order: OperatorOrder) {
        // The driver's end also ends these messages.
        if let Some(orders) = self.orders.upgrade() {
            let _ = orders.send(DriverOrder::Operate(order));
        }
    }

    fn revoked(&self, why: String) {
        self.disk.revoked(why);
    }
}
