//! Drivers in one process: their messages go through channels, their disks are in memory.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::mpsc, time::timeout};

use super::*;
use crate::{
    Candidate,
    leadership::OrderError,
    observe::QueueHead,
    peers::{Group, Missed, Peer, PeerShared, ProposeError, Settings, StoreError, Timing},
    raft::{
        action::Stored,
        core::CoreConfig,
        membership::{DirectoryId, FirstDirectories, VotingRights},
        message::Limits,
    },
};

/// Longer than anything here takes, however busy the machine is.
const SOON: Duration = Duration::from_secs(30);

/// So long that a busy machine deposes no leader.
fn unhurried() -> Timing {
    Timing::new(Duration::from_millis(100), Duration::from_millis(1500), Duration::from_millis(2500)).unwrap()
}

/// The receiver of a server's actions.
struct Double {
    me: usize,
    switch: Switch,
    disk: Disk,
    news: mpsc::UnboundedSender<Done>,
}

/// The servers that are cut off, and all inboxes.
#[derive(Clone)]
struct Switch {
    cut: Arc<Mutex<BTreeSet<usize>>>,
    inboxes: Arc<Vec<mpsc::Sender<Envelope>>>,
}

/// A disk that can be broken, and outlives its server.
#[derive(Clone)]
struct Disk(Arc<Mutex<(Stored, Health)>>);

/// The fate of writes.
#[derive(Clone, Copy)]
enum Health {
    Works,
    Broken,
    Hangs,
}

impl Disk {
    fn new() -> Self {
        Self(Arc::new(Mutex::new((Stored::nothing(), Health::Works))))
    }

    fn stored(&self) -> Stored {
        self.0.lock().unwrap().0.clone()
    }

    fn breaks(&self) {
        self.0.lock().unwrap().1 = Health::Broken;
    }

    fn hangs(&self) {
        self.0.lock().unwrap().1 = Health::Hangs;
    }
}

impl DriverIo for Double {
    fn send(&self, envelope: Envelope) {
        let cut = self.switch.cut.lock().unwrap();
        let to = envelope.to.place();
        if !cut.contains(&self.me) && !cut.contains(&to) {
            let _ = self.switch.inboxes[to].try_send(envelope);
        }
    }

    fn write(&self, write: Write) {
        let (stored, health) = &mut *self.disk.0.lock().unwrap();
        let news = match health {
            Health::Works => {
                stored.apply(&write);
                Done::Persisted(write.persisted())
            }
            Health::Broken => Done::Failed(StoreError::Full { path: "data".into(), what: "written" }),
            Health::Hangs => return,
        };
        let _ = self.news.send(news);
    }

    fn object(&self, _: NodeId, objection: Objection) {
        panic!("no disk here loses anything: {objection}");
    }

    fn set_disks(&self, _: Option<(Index, MemberDisks)>) {}

    fn waiting_for(&self) -> Option<String> {
        None
    }

    fn connectivity(&self) -> Connectivity {
        Connectivity { connected: 0, description: "none".into() }
    }
}

struct Members {
    peers: Vec<Peer>,
    disks: Vec<Disk>,
    switch: Switch,
}

fn names(count: usize) -> Group {
    let members: Vec<String> = (1..=count).map(|i| format!("s{i}=localhost:{i}")).collect();
    members.join(",").parse().unwrap()
}

impl Members {
    fn of(count: usize) -> Self {
        Self::with(count, Window::DEFAULT)
    }

    fn with(count: usize, window: Window) -> Self {
        let disks: Vec<Disk> = (0..count).map(|_| Disk::new()).collect();
        let (inboxes, messages): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(4096)).unzip();
        let switch = Switch { cut: Arc::default(), inboxes: Arc::new(inboxes) };
        let start = |(me, messages)| start(me, count, window, &disks[me], &switch, messages);
        let peers = messages.into_iter().enumerate().map(start).collect();
        Self { peers, disks, switch }
    }

    fn candidate(&self, place: usize) -> Candidate<Peer> {
        self.peers[place].candidate()
    }

    fn cut_off(&self, place: usize) {
        self.switch.cut.lock().unwrap().insert(place);
    }

    fn heal(&self) {
        self.switch.cut.lock().unwrap().clear();
    }
}

fn start(
    me: usize,
    count: usize,
    window: Window,
    disk: &Disk,
    switch: &Switch,
    messages: mpsc::Receiver<Envelope>,
) -> Peer {
    let group = names(count);
    let name = group.members()[me].name.clone();
    let settings = Settings::new(&name, group, "unused").unwrap().with_timing(unhurried());
    let stored = disk.stored();
    let state = CurrentAnnouncement::of(&stored.snapshot).unwrap();
    let config = CoreConfig {
        me: settings.me(),
        members: settings.group().size(),
        cluster: settings.cluster(),
        timing: *settings.timing(),
        limits: Limits::DEFAULT,
        voting_rights: VotingRights::Full,
        directory: DirectoryId::in_tests(settings.me()),
        moves: crate::raft::preference::MoveDelays::DEFAULT,
        founders: FirstDirectories::all_of(settings.group().size()),
        mutant: None,
    };
    let node = Node::start(config, stored, &read_clocks()).unwrap();
    let published = Arc::new(Published::new(settings.clone(), node.term(), node.committed()));
    let (news, disk_news) = mpsc::unbounded_channel();
    let (orders, ordered) = mpsc::unbounded_channel();
    let (proposals, proposed) = mpsc::channel(64);
    let io = Double { me, switch: switch.clone(), disk: disk.clone(), news };
    let driver = Driver::new(settings.clone(), state, window, Arc::clone(&published), io);
    let inputs = Inputs { orders: ordered, proposals: proposed, messages, disk: disk_news };
    tokio::spawn(driver.run(node, inputs));
    let runtime = tokio::runtime::Handle::current();
    Peer { shared: Arc::new(PeerShared { settings, published, runtime, orders, proposals }) }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"))
}

/// The first candidate to win, and its index.
async fn first_leader(members: &Members) -> (usize, Leadership) {
    let (won, mut wins) = mpsc::channel(1);
    for place in 0..members.peers.len() {
        let mut candidate = members.candidate(place);
        let won = won.clone();
        tokio::spawn(async move {
            let leadership = tokio::select! {
                leadership = candidate.campaign() => leadership.unwrap(),
                () = won.closed() => return,
            };
            let _ = won.send((place, leadership)).await;
        });
    }
    soon("a leader", wins.recv()).await.unwrap()
}

#[tokio::test]
async fn contract_1_one_of_three_leads_and_the_others_know_it() {
    let members = Members::of(3);
    let (leader, leadership) = first_leader(&members).await;
    assert!(leadership.holds());
    for (place, peers) in members.peers.iter().enumerate().filter(|(place, _)| *place != leader) {
        let mut fronts = peers.shared.published.queue_heads();
        let name = members.peers[leader].settings().name().to_string();
        let known = Some(QueueHead::Candidate { token: leadership.token(), name });
        soon("the leader is known", fronts.wait_for(|front| *front == known)).await.unwrap();
        let look = peers.status();
        let known = look.leader.unwrap();
        assert_eq!(known.name, members.peers[leader].settings().name().clone(), "as seen from {place}");
        assert!(matches!(known.evidence, crate::peers::Evidence::Heartbeat { .. }));
    }
}

#[tokio::test]
async fn contract_8_a_leader_that_resigns_is_followed_at_once() {
    let members = Members::of(3);
    let (leader, leadership) = first_leader(&members).await;
    let token = leadership.token();
    let mut heir = members.candidate((leader + 1) % 3);
    let next = tokio::spawn(async move { heir.campaign().await });
    soon("to resign", leadership.resign()).await.unwrap();
    let next = soon("the next leader", next).await.unwrap().unwrap();
    assert!(next.token() > token);
}

#[tokio::test]
async fn contract_4_a_leader_that_is_cut_off_stops_before_another_leads() {
    let members = Members::of(3);
    let (leader, leadership) = first_leader(&members).await;
    let mut heir = members.candidate((leader + 1) % 3);
    let next = tokio::spawn(async move { heir.campaign().await });
    members.cut_off(leader);
    assert_eq!(soon("the loss", leadership.lost()).await, Loss::Expired);
    let next = soon("the next leader", next).await.unwrap().unwrap();
    assert!(next.token() > leadership.token());
    assert!(!leadership.holds());
    assert_eq!(leadership.resign().await, Err(OrderError::NotLeading));
    members.heal();
    assert!(next.holds());
}

#[tokio::test]
async fn contract_12_records_in_flight_at_the_loss_are_all_answered() {
    let members = Members::of(3);
    let (leader, leadership) = first_leader(&members).await;
    members.cut_off(leader);
    let mut outcomes = Vec::new();
    for record in 0..5u8 {
        let (answer, outcome) = oneshot::channel();
        let (token, record) = (leadership.token(), Arc::from([record]));
        let proposed = Proposed { token, record, answer: RecordReply::to(answer) };
        members.peers[leader].shared.proposals.send(proposed).await.unwrap();
        outcomes.push(outcome);
    }
    assert_eq!(soon("the loss", leadership.lost()).await, Loss::Expired);
    // It stays cut off, and so never learns their outcome.
    for outcome in outcomes {
        let told = soon("an answer", outcome).await.unwrap();
        assert!(matches!(told, Err(ProposeError::Unconfirmed(_))), "{told:?}");
    }
}

#[tokio::test]
async fn contract_6_a_server_whose_term_was_lost_campaigns_again_only_for_a_new_campaign() {
    let members = Members::of(3);
    let (leader, leadership) = first_leader(&members).await;
    let mut seen = members.peers[leader].shared.published.subscribe();
    members.cut_off(leader);
    assert_eq!(soon("the loss", leadership.lost()).await, Loss::Expired);
    soon("to stand no more", seen.wait_for(|seen| !seen.standing)).await.unwrap();
    members.heal();
    let again = soon("the next term", members.candidate(leader).campaign()).await.unwrap();
    assert!(again.token() > leadership.token());
}

#[tokio::test]
async fn contract_6_a_candidate_that_is_cut_off_says_so_and_comes_back() {
    let members = Members::of(3);
    let (leader, _leadership) = first_leader(&members).await;
    let place = (leader + 1) % 3;
    let mut candidate = members.candidate(place);
    let mut events = candidate.subscribe();
    let standing = tokio::spawn(async move { candidate.campaign().await });
    let mut until = async |wanted: fn(&Event) -> bool| {
        soon("the event", async { while !wanted(&events.next().await.unwrap()) {} }).await;
    };
    until(|event| matches!(event, Event::Following { .. })).await;
    members.cut_off(place);
    until(|event| matches!(event, Event::Retrying { .. })).await;
    members.heal();
    until(|event| matches!(event, Event::Following { .. })).await;
    standing.abort();
}

#[tokio::test]
async fn records_are_committed_everywhere_in_the_order_in_which_they_were_proposed() {
    let members = Members::of(3);
    let (leader, leadership) = first_leader(&members).await;
    let peers = &members.peers[leader];
    let mut indexes = Vec::new();
    for record in 0..300u32 {
        indexes.push(peers.propose(&leadership, record.to_be_bytes().to_vec()).await.unwrap());
    }
    assert!(indexes.is_sorted_by(|one, next| one < next));
    for peers in &members.peers {
        let mut records = peers.committed(0);
        for (record, index) in (0..300u32).zip(&indexes) {
            let read = soon("a record", records.next()).await.unwrap().unwrap();
            assert_eq!((read.index, &read.bytes[..]), (*index, &record.to_be_bytes()[..]));
            assert_eq!(read.token, leadership.token());
        }
    }
}

#[tokio::test]
async fn contract_5_a_term_that_is_over_proposes_nothing() {
    let members = Members::of(1);
    let (_, first) = first_leader(&members).await;
    let peers = members.peers[0].clone();
    let too_large = vec![0; Limits::DEFAULT.record + 1];
    let limit = Limits::DEFAULT.record;
    assert_eq!(peers.propose(&first, too_large).await, Err(ProposeError::TooLarge { limit }));
    let (answer, outcome) = oneshot::channel();
    let stale =
        Proposed { token: first.token(), record: Arc::from(*b"late"), answer: RecordReply::to(answer) };
    first.resign().await.unwrap();
    let second = soon("the next term", members.candidate(0).campaign()).await.unwrap();
    // On its way since the first term.
    peers.shared.proposals.send(stale).await.unwrap();
    assert_eq!(outcome.await.unwrap(), Err(ProposeError::NotLeading));
    peers.propose(&second, *b"in time").await.unwrap();
}

#[tokio::test]
async fn two_candidates_of_one_server_take_turns() {
    let members = Members::of(1);
    let (_, first) = first_leader(&members).await;
    let mut second = members.candidate(0);
    let next = tokio::spawn(async move { second.campaign().await });
    tokio::task::yield_now().await;
    let token = first.token();
    first.resign().await.unwrap();
    let next = soon("the second", next).await.unwrap().unwrap();
    assert!(next.token() > token);
}

#[tokio::test]
async fn a_leader_proclaims_another_value() {
    let members = Members::of(3);
    let (leader, leadership) = first_leader(&members).await;
    soon("to proclaim", leadership.proclaim("elsewhere:80")).await.unwrap();
    let other = &members.peers[(leader + 1) % 3];
    let mut seen = other.shared.published.subscribe();
    let told = |seen: &PublishedState| {
        seen.leader.as_ref().is_some_and(|leader| &leader.value[..] == b"elsewhere:80")
    };
    soon("the value", seen.wait_for(told)).await.unwrap();
}

#[tokio::test]
async fn a_reader_that_is_too_late_is_told_what_it_missed() {
    let members = Members::with(1, Window { entries: 10, bytes: 1 << 20 });
    let (_, leadership) = first_leader(&members).await;
    let peers = &members.peers[0];
    for record in 0..100u8 {
        peers.propose(&leadership, [record]).await.unwrap();
    }
    let mut records = peers.committed(0);
    let Err(Missed { through }) = soon("a first word", records.next()).await.unwrap() else {
        panic!("the first records are long gone")
    };
    let next = soon("a record", records.next()).await.unwrap().unwrap();
    assert_eq!(next.index, through + 1);
    let kept = 101 - through;
    assert!((10..=20).contains(&kept), "{kept} entries are kept");
    assert_eq!(members.disks[0].stored().entries.len() as u64, kept, "on the disk too");
}

#[tokio::test]
async fn a_restarted_server_knows_what_was_committed_once_a_leader_is_there() {
    let disk = Disk::new();
    let (inbox, messages) = mpsc::channel(16);
    let switch = Switch { cut: Arc::default(), inboxes: Arc::new(vec![inbox]) };
    let first = start(0, 1, Window::DEFAULT, &disk, &switch, messages);
    let leadership = soon("a leader", first.candidate().campaign()).await.unwrap();
    first.propose(&leadership, *b"kept").await.unwrap();
    let token = leadership.token();
    drop((leadership, first));

    let (_inbox, messages) = mpsc::channel(16);
    let second = start(0, 1, Window::DEFAULT, &disk, &switch, messages);
    let mut records = second.committed(0);
    assert!(timeout(Duration::ZERO, records.next()).await.is_err(), "nothing is committed for certain yet");
    let leadership = soon("a leader", second.candidate().campaign()).await.unwrap();
    assert!(leadership.token() > token);
    let record = soon("the record", records.next()).await.unwrap().unwrap();
    assert_eq!((&record.bytes[..], record.token), (&b"kept"[..], token));
}

#[tokio::test]
async fn a_server_whose_disk_fails_gives_up_and_says_why() {
    let members = Members::of(3);
    let (leader, leadership) = first_leader(&members).await;
    let mut heir = members.candidate((leader + 1) % 3);
    let next = tokio::spawn(async move { heir.campaign().await });
    members.disks[leader].breaks();
    let peers = &members.peers[leader];
    // The other two commit it all the same, or it is lost: the leader can't know.
    let _ = timeout(Duration::from_secs(1), peers.propose(&leadership, *b"last")).await;
    assert_eq!(soon("the loss", leadership.lost()).await, Loss::ShutDown);
    drop(leadership);
    let refused = soon("an answer", members.candidate(leader).campaign()).await;
    let Err(CampaignError::Failed(why)) = refused else { panic!("it has no disk") };
    assert!(why.contains("no space is left"), "{why}");
    assert!(soon("the next leader", next).await.unwrap().unwrap().holds());
}

#[tokio::test]
async fn contract_12_a_leader_whose_disk_hangs_is_followed_by_one_whose_disk_does_not() {
    let members = Members::of(3);
    let (leader, leadership) = first_leader(&members).await;
    let mut heir = members.candidate((leader + 1) % 3);
    let next = tokio::spawn(async move { heir.campaign().await });
    members.disks[leader].hangs();
    let committed = members.peers[leader].propose(&leadership, *b"on the others' disks");
    assert!(soon("a majority", committed).await.is_ok());
    assert_eq!(soon("the loss", leadership.lost()).await, Loss::Transferred);
    drop(leadership);
    assert!(soon("the next leader", next).await.unwrap().unwrap().holds());
}

/// The only candidate lacks entries that the other servers have.
#[tokio::test]
async fn contract_12_a_candidate_with_an_older_log_leads_once_a_caretaker_has_helped_it() {
    let members = Members::of(3);
    members.cut_off(2);
    let leadership = soon("a leader", members.candidate(0).campaign()).await.unwrap();
    let token = leadership.token();
    soon("a majority", members.peers[0].propose(&leadership, *b"missed")).await.unwrap();
    drop(leadership);
    soon("the end of the term", members.peers[0].drained()).await;
    members.heal();
    let leadership = soon("a leader", members.candidate(2).campaign()).await.unwrap();
    assert!(leadership.token() > token);
    let record = soon("the record", members.peers[2].committed(0).next()).await.unwrap().unwrap();
    assert_eq!((&record.bytes[..], record.token), (&b"missed"[..], token));
}

/// Its vote would never be durable. A server that relied on it would begin term after term.
#[tokio::test]
async fn contract_12_a_server_whose_disk_has_failed_does_not_say_that_it_would_vote() {
    let members = Members::of(2);
    members.disks[1].breaks();
    let mut candidate = members.candidate(0);
    let campaign = tokio::spawn(async move { candidate.campaign().await });
    let mut seen = members.peers[0].shared.published.subscribe();
    let asks_again = |seen: &PublishedState| seen.term == Term::new(1) && seen.role == "pre-candidate";
    soon("the end of its first term", seen.wait_for(asks_again)).await.unwrap();
    tokio::time::sleep(unhurried().heartbeat() * 10).await;
    assert_eq!(seen.borrow().term, Term::new(1));
    campaign.abort();
}

/// The successor may campaign as soon as it gets TimeoutNow. It gets it once the holder has stopped, which only its
/// letting go shows: here in a quarter of the proved time.
#[tokio::test]
async fn contract_8_after_a_disk_failure_the_next_leader_waits_for_the_holder() {
    let members = Members::of(3);
    let (leader, leadership) = first_leader(&members).await;
    let mut heir = members.candidate((leader + 1) % 3);
    let next = tokio::spawn(async move { (heir.campaign().await, Timestamp::now()) });
    let proved = leadership.deadline().unwrap();
    members.disks[leader].breaks();
    let _ = timeout(Duration::from_millis(1), members.peers[leader].propose(&leadership, *b"last")).await;
    assert_eq!(soon("the loss", leadership.lost()).await, Loss::ShutDown);
    tokio::time::sleep(proved.since(Timestamp::now()) / 4).await;
    let let_go = Timestamp::now();
    drop(leadership);
    let (next, won) = soon("the next leader", next).await.unwrap();
    assert!(next.unwrap().holds());
    assert!(won >= let_go.min(proved), "the next one led while the holder was at work");
}

/// As above, for a holder that never lets go: the end of the proved time is enough.
#[tokio::test]
async fn contract_8_a_holder_that_does_not_let_go_has_its_proved_time_and_no_more() {
    let members = Members::of(3);
    let (leader, leadership) = first_leader(&members).await;
    let mut heir = members.candidate((leader + 1) % 3);
    let next = tokio::spawn(async move { (heir.campaign().await, Timestamp::now()) });
    let proved = leadership.deadline().unwrap();
    members.disks[leader].breaks();
    let _ = timeout(Duration::from_millis(1), members.peers[leader].propose(&leadership, *b"last")).await;
    assert_eq!(soon("the loss", leadership.lost()).await, Loss::ShutDown);
    let (next, won) = soon("the next leader", next).await.unwrap();
    assert!(next.unwrap().holds());
    assert!(won >= proved, "the next one led {:?} too early", proved.since(won));
    drop(leadership);
}

#[tokio::test]
async fn a_server_stops_when_it_has_no_users() {
    let mut members = Members::of(1);
    let (_, leadership) = first_leader(&members).await;
    let published = Arc::downgrade(&members.peers[0].shared.published);
    members.peers.clear();
    assert!(leadership.holds(), "its holder uses it");
    drop(leadership);
    soon("its end", async {
        while published.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn no_server_campaigns_for_a_call_that_was_cancelled() {
    let members = Members::of(1);
    let mut candidate = members.candidate(0);
    assert!(timeout(Duration::from_millis(1), candidate.campaign()).await.is_err());
    let drained = members.peers[0].drained();
    soon("to leave", drained).await;
    assert!(!members.peers[0].status().standing);
}

#[tokio::test]
async fn a_leaders_program_hands_over_to_a_named_member() {
    let members = Members::of(3);
    let (leader, leadership) = first_leader(&members).await;
    let target = (leader + 1) % 3;
    let name = members.peers[target].settings().name().to_string();
    assert_eq!(leadership.transfer_to("s9").await, Err(TransferError::Absent("s9".to_owned())));
    let refused = soon("a refusal", leadership.transfer_to(name.clone())).await;
    assert!(matches!(refused, Err(TransferError::Refused { .. })) && leadership.holds(), "{refused:?}");

    let mut next = members.candidate(target);
    let next = tokio::spawn(async move { next.campaign().await });
    let transferred = soon("the transfer", async {
        loop {
            match leadership.transfer_to(name.clone()).await {
                // Its candidate is not known yet.
                Err(TransferError::Refused { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                outcome => return outcome,
            }
        }
    });
    // While the guard is still there: the holder has said that it stopped.
    let token = transferred.await.unwrap().token;
    let next = soon("the next leader", next).await.unwrap().unwrap();
    assert_eq!((next.token(), token.get()), (token, leadership.token().get() + 1));
    assert_eq!(soon("the loss", leadership.lost()).await, Loss::Transferred);
}
