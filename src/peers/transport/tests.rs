//! Whole networks over real sockets, several in one process, on one thread as in the binary.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

use super::{IdentityCheck, Network, StatusSource, TransportError};
use crate::{
    clock::Timestamp,
    leadership::FencingToken,
    peers::{
        Evidence, Group, KnownLeader, PeerLink, PeerStatus, Settings,
        disk::UnknownDirectory,
        handshake,
        ledger::{Ledger, Meeting, MemberRecords},
        operate::OperatorOrder,
    },
    raft::{
        identity::{Index, NodeId, Position, Term},
        log::Snapshot,
        membership::{Admission, Identity, Run, RunId, VotingRights, WriteCount},
        message::{Envelope, Message},
    },
};

mod pairs;
mod partition;
mod proxy;
mod refusals;
mod strangers;
mod tls;
mod watchers;

/// Time limit of tests. What they wait for comes within milliseconds; this is for busy machines.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `so` returns true.
pub(in crate::peers) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < give_up, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Records directories as the disk does.
struct Book {
    ledger: Arc<Ledger>,
    revoked: Arc<Mutex<Vec<String>>>,
}

impl IdentityCheck for Arc<Book> {
    fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    async fn meet(&self, node: NodeId, meeting: Meeting) -> Result<(), UnknownDirectory> {
        if let Some((record, entrance)) = self.ledger.judge(node, &meeting)? {
            self.ledger.record(node, record, entrance);
        }
        Ok(())
    }

    async fn confirmed(&self, node: NodeId) -> Result<(), UnknownDirectory> {
        let confirmed = self.ledger.confirmed(node).into_iter();
        confirmed.for_each(|record| self.ledger.record(node, record, Admission::Founder));
        Ok(())
    }

    fn operate(&self, _: OperatorOrder) {}

    fn revoked(&self, why: String) {
        self.revoked.lock().unwrap().push(why);
    }
}

/// Sockets for servers that have yet to start, and the list of their names and addresses.
pub(in crate::peers) struct Street {
    names: Vec<&'static str>,
    listeners: Vec<std::net::TcpListener>,
}

impl Street {
    pub(in crate::peers) fn of(names: &[&'static str]) -> Self {
        let free = |_: &&str| std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        Self { names: names.to_vec(), listeners: names.iter().map(free).collect() }
    }

    pub(in crate::peers) fn address(&self, name: &str) -> SocketAddr {
        let place = self.names.iter().position(|other| *other == name).unwrap();
        self.listeners[place].local_addr().unwrap()
    }

    fn listener(&self, name: &str) -> std::net::TcpListener {
        let place = self.names.iter().position(|other| *other == name).unwrap();
        self.listeners[place].try_clone().unwrap()
    }

    pub(in crate::peers) fn group(&self) -> Group {
        let listed = self.names.iter().map(|name| format!("{name}={}", self.address(name)));
        listed.collect::<Vec<_>>().join(",").parse().unwrap()
    }

    pub(in crate::peers) fn settings(&self, name: &str) -> Settings {
        Settings::new(&name.parse().unwrap(), self.group(), "unused").unwrap()
    }

    pub(in crate::peers) fn start(&self, name: &str) -> Server {
        self.start_as(self.settings(name))
    }

    pub(in crate::peers) fn start_as(&self, settings: Settings) -> Server {
        let name = settings.name().clone();
        Server::start(settings, self.listener(name.as_str()), directory(name.as_str()))
    }
}

/// A directory id for a server of this name.
fn directory(name: &str) -> [u8; 16] {
    let mut directory = [0; 16];
    directory[..name.len()].copy_from_slice(name.as_bytes());
    directory
}

/// A network without a driver: the test sends and receives in its place.
pub(in crate::peers) struct Server {
    network: Network,
    settings: Settings,
    inbox: mpsc::Receiver<Envelope>,
    look: Arc<Mutex<PeerStatus>>,
    changed: watch::Sender<()>,
    ledger: Arc<Ledger>,
    /// Other members' statements that this server must not vote any more.
    revoked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(settings: Settings, listener: std::net::TcpListener, directory: [u8; 16]) -> Self {
        Self::with_inbox(settings, listener, directory, 1024)
    }

    fn with_inbox(
        settings: Settings,
        listener: std::net::TcpListener,
        directory: [u8; 16],
        room: usize,
    ) -> Self {
        Self::on(settings, listener, handshake::first_run(directory), room)
    }

    fn on(settings: Settings, listener: std::net::TcpListener, identity: Identity, room: usize) -> Self {
        let (received, inbox) = mpsc::channel(room);
        let look = Arc::new(Mutex::new(no_leader(&settings)));
        let (changed, changes) = watch::channel(());
        let looks = StatusSource {
            look: {
                let look = Arc::clone(&look);
                Arc::new(move || look.lock().unwrap().clone())
            },
            terms: Arc::new(Vec::new),
            changed: changes,
        };
        let others = settings.group().size().others(settings.me());
        let (records, writes) = (MemberRecords::default(), WriteCount(9));
        let ledger = Arc::new(Ledger::new(identity, writes, records, VotingRights::Waiting, others));
        let revoked = Arc::default();
        let book = Arc::new(Book { ledger: Arc::clone(&ledger), revoked: Arc::clone(&revoked) });
        let network = Network::start(&Handle::current(), &settings, listener, book, received, looks).unwrap();
        Self { network, settings, inbox, look, changed, ledger, revoked }
    }

    fn node(&self, name: &str) -> NodeId {
        self.settings.group().node(&name.parse().unwrap()).unwrap()
    }

    fn envelope(&self, to: &str, term: u64, message: Message) -> Envelope {
        let (cluster, from, to) = (self.settings.cluster(), self.settings.me(), self.node(to));
        let directory = self.ledger.identity().directory;
        Envelope { cluster, from, to, directory, term: Term::new(term), message }
    }

    /// Sends a small message.
    fn say(&self, to: &str, term: u64) {
        self.network.send(self.envelope(to, term, Message::Outdated));
    }

    /// Sends a message of the largest size.
    fn say_much(&self, to: &str, term: u64) {
        let at = Position { term: Term::new(1), index: Index::new(1) };
        let snapshot = Snapshot {
            at,
            data: vec![7; 1 << 20].into(),
            disks: None,
            record: crate::raft::orders::ElectionRecord::default(),
        };
        let install = Message::Install { snapshot, sent: Timestamp::from_nanos(1) };
        self.network.send(self.envelope(to, term, install));
    }

    /// The term and the sender of the next message.
    async fn hear(&mut self) -> (NodeId, u64) {
        let heard = tokio::time::timeout(PATIENCE, self.inbox.recv()).await;
        let envelope = heard.expect("something was said").unwrap();
        assert_eq!(envelope.to, self.settings.me());
        assert_eq!(envelope.cluster, self.settings.cluster());
        (envelope.from, envelope.term.get())
    }

    pub(in crate::peers) fn contact(&self, name: &str) -> PeerLink {
        let contacts = self.network.contacts(Timestamp::now());
        contacts.into_iter().find(|contact| contact.name.as_str() == name).unwrap()
    }

    fn problem(&self, name: &str) -> String {
        self.contact(name).problem.unwrap_or_default()
    }

    async fn connected(&self, name: &str) {
        until(&format!("connected with {name}"), || self.contact(name).connected).await;
    }

    fn count(&self, error: TransportError) -> u64 {
        self.network.count(error)
    }

    /// Publishes another status from now on.
    pub(in crate::peers) fn show(&self, change: impl FnOnce(&mut PeerStatus)) {
        change(&mut self.look.lock().unwrap());
        self.changed.send_replace(());
    }
}

fn no_leader(settings: &Settings) -> PeerStatus {
    PeerStatus {
        term: 1,
        standing: true,
        timing: Some(*settings.timing()),
        ..PeerStatus::new(settings.name().clone())
    }
}

/// A leader by its own claim.
pub(in crate::peers) fn leads(name: &str, token: u64, certain: Duration) -> KnownLeader {
    KnownLeader::new(name.parse().unwrap(), FencingToken::new(token), Evidence::OwnClaim { certain })
}
