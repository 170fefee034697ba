//! Choosing who leads on real etcd: a transfer goes to the named candidate or nowhere, a refusal costs nothing, and
//! no key of another client is ever deleted.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{
    thread,
    time::{Duration, Instant},
};

use leader_election::{
    Leadership, Loss,
    choosing::{CandidateProfile, Priority, TransferError, Transferred},
    etcd::Etcd,
    timing::Ttl,
};
use support::{
    client::{Admin, CandidateKey},
    etcd::{Etcd as Server, EtcdVersion},
    eventually::eventually,
    on_each_etcd,
    proxy::{Mode, Proxy},
};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

/// Deadline for operations that normally take far less than a second; generous for machines under load.
const SOON: Duration = Duration::from_secs(20);

/// A TTL far above any wait in these tests: nothing here waited for a lease to expire.
const LONG: u64 = 60;

const ORDER: &str = "leader.order";
const PAUSE: &str = "leader.control:pause";

/// A candidate with a connection of its own, as in a process of its own.
struct Entrant {
    campaign: JoinHandle<Leadership>,
}

impl Entrant {
    fn enter(endpoint: &str, name: &'static str) -> Self {
        let etcd = Etcd::connect(endpoint).unwrap();
        let ttl = Ttl::new(Duration::from_secs(LONG)).unwrap();
        let mut candidate = etcd.candidate("leader").unwrap().ttl(ttl).named(name).unwrap();
        Self { campaign: tokio::spawn(async move { candidate.campaign().await.unwrap() }) }
    }

    async fn won(self) -> Leadership {
        timeout(SOON, self.campaign).await.expect("a win").unwrap()
    }

    fn waits(&self) -> bool {
        !self.campaign.is_finished()
    }
}

/// An election with a leader, in which candidates queue one after the other.
struct Election {
    server: Server,
    admin: Admin,
    leader: Leadership,
    queued: usize,
}

impl Election {
    async fn start(version: EtcdVersion) -> Self {
        let server = Server::start(version);
        let endpoint = server.endpoint();
        Self::led_through(server, &endpoint).await
    }

    async fn led_through(server: Server, endpoint: &str) -> Self {
        let leader = Entrant::enter(endpoint, "first").won().await;
        Self { admin: server.admin(), server, leader, queued: 1 }
    }

    fn join(&mut self, name: &'static str) -> (Entrant, CandidateKey) {
        self.join_through(&self.server.endpoint(), name)
    }

    fn join_through(&mut self, endpoint: &str, name: &'static str) -> (Entrant, CandidateKey) {
        let entrant = Entrant::enter(endpoint, name);
        self.queued += 1;
        (entrant, self.admin.wait_for_candidates("leader", self.queued, SOON).pop().unwrap())
    }

    /// Puts a key as etcd's own clients do.
    fn join_foreign(&mut self, value: &str) -> CandidateKey {
        let (lease, _) = self.admin.grant(LONG.cast_signed());
        self.admin.put_leased(format!("leader/{lease:x}"), value, lease);
        self.queued += 1;
        self.admin.wait_for_candidates("leader", self.queued, SOON).pop().unwrap()
    }

    /// Places an operator's order, on a lease of its own.
    fn order(&self, target: &CandidateKey) {
        let (lease, _) = self.admin.grant(30);
        let order = serde_json::json!({
            "target": { "key": target.key, "create_revision": target.create_revision },
            "shown": target.value,
            "token": self.leader.token().get(),
            "by": { "operator": "ann@desk", "at": "2026-01-01T00:00:00.000Z" },
        });
        self.admin.put_leased(ORDER, order.to_string(), lease);
    }

    fn answer(&self) -> String {
        eventually(SOON, "the order to be answered", || {
            let kv = self.admin.get(ORDER)?;
            let order: serde_json::Value = serde_json::from_slice(kv.value()).ok()?;
            Some(order.get("refused")?.as_str()?.to_owned())
        })
    }

    async fn refusal(&self, to: &str) -> String {
        let token = self.leader.token();
        let refused = match timeout(SOON, self.leader.transfer_to(to)).await.unwrap() {
            Err(TransferError::Refused { leader, why }) if leader == "first" => why,
            other => panic!("the transfer to {to} is not refused: {other:?}"),
        };
        assert!(self.leader.holds() && self.leader.token() == token, "it leads on");
        assert_eq!(self.admin.leader("leader").unwrap().create_revision.unsigned_abs(), token.get());
        // The caller has its answer before.
        eventually(SOON, "its own order to be gone", || self.admin.get(ORDER).is_none().then_some(()));
        refused
    }
}

fn token(key: &CandidateKey) -> u64 {
    key.create_revision.unsigned_abs()
}

fn cordon(name: &str) -> String {
    format!("leader.control:cordon:{name}")
}

const CONTROL: &str = r#"{"by":{"operator":"ann@desk","at":"2026-01-01T00:00:00.000Z"},"hard":false}"#;

on_each_etcd! {
    async fn a_transfer_past_three_is_one_handoff_and_the_three_queue_again(version: EtcdVersion) {
        let mut election = Election::start(version).await;
        let between = ["second", "third", "fourth"].map(|name| election.join(name));
        let (target, key) = election.join("target");
        let (after, _) = election.join("after");
        let began = Instant::now();
        let transferred = timeout(SOON, election.leader.transfer_to("target")).await.unwrap();
        let took = began.elapsed();
        let Transferred { to, token: next, .. } = transferred.unwrap();
        assert_eq!((&*to, next.get()), ("target", token(&key)));
        assert!(!election.leader.holds());
        assert_eq!(timeout(SOON, election.leader.lost()).await, Ok(Loss::Transferred));
        let leadership = target.won().await;
        assert_eq!(leadership.token().get(), token(&key), "the very key that waited");
        let queue = election.admin.wait_for_candidates("leader", 5, SOON);
        println!("handed over after {took:?}, all queued again after {:?}", began.elapsed());
        let names: Vec<_> = queue.iter().map(|key| &*key.value).collect();
        assert_eq!(names[..2], ["target", "after"], "those behind keep their place");
        for (entrant, before) in &between {
            assert!(entrant.waits(), "the deletion of its key is no win");
            let again = queue.iter().find(|key| key.value == before.value).unwrap();
            assert!(again.lease != before.lease && again.create_revision > key.create_revision);
        }
        assert!(after.waits() && leadership.holds());
        assert!(election.admin.get(ORDER).is_none());
    }

    async fn a_transfer_that_can_not_be_is_refused_and_the_leader_leads_on(version: EtcdVersion) {
        let mut election = Election::start(version).await;
        let (_second, second_key) = election.join("second");
        let foreign = election.join_foreign("visitor");
        let (_target, key) = election.join("target");
        let admin = election.admin.clone();

        assert_eq!(election.leader.transfer_to("other").await, Err(TransferError::Absent("other".to_owned())));
        let why = election.refusal("target").await;
        assert!(why.contains(&foreign.key), "names the one in between: {why}");
        assert!(election.refusal(&foreign.key).await.contains("no member record"));
        admin.put(PAUSE, CONTROL);
        eventually(SOON, "a pause to be seen", || {
            let why = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(election.leader.transfer_to("target"))
            });
            why.unwrap_err().to_string().contains("paused").then_some(())
        });
        election.order(&second_key);
        assert!(election.answer().contains("paused"));
        admin.delete(ORDER);
        admin.delete(PAUSE);
        admin.put(cordon("second"), CONTROL);
        eventually(SOON, "it to leave the queue", || {
            (!admin.candidates("leader").iter().any(|key| key.value == "second")).then_some(())
        });
        assert_eq!(election.leader.transfer_to("second").await, Err(TransferError::Absent("second".to_owned())));

        // Nothing of the visitor's was deleted, and it wins truly.
        assert!(election.leader.holds());
        election.leader.resign().await.unwrap();
        let first = admin.leader("leader").unwrap();
        assert_eq!((first.key, first.create_revision), (foreign.key.clone(), foreign.create_revision));
        admin.revoke(foreign.lease);
        eventually(SOON, "the next to lead", || {
            admin.leader("leader").filter(|leader| leader.create_revision == key.create_revision)
        });
    }

    async fn two_of_one_name_are_told_apart_by_their_keys(version: EtcdVersion) {
        let mut election = Election::start(version).await;
        let (_one, one_key) = election.join("twin");
        let (two, two_key) = election.join("twin");
        let keys = vec![one_key.key, two_key.key.clone()];
        let name = "twin".to_owned();
        assert_eq!(election.leader.transfer_to("twin").await, Err(TransferError::Ambiguous { name, keys }));
        election.leader.transfer_to(&*two_key.key).await.unwrap();
        assert_eq!(two.won().await.token().get(), token(&two_key));
    }

    async fn a_target_that_is_cut_off_is_refused_and_nothing_is_lost(version: EtcdVersion) {
        let mut election = Election::start(version).await;
        let proxy = Proxy::start(&election.server.endpoint());
        let (_frozen, _) = election.join_through(&proxy.endpoint(), "frozen");
        let (target, key) = election.join("target");
        proxy.set(Mode::Silence);
        assert!(election.refusal("frozen").await.contains("did not say"));
        // The next order is not held up by it.
        election.leader.transfer_to("target").await.unwrap();
        assert_eq!(target.won().await.token().get(), token(&key));
    }

    async fn an_order_stops_the_work_before_leadership_passes_on(version: EtcdVersion) {
        let mut election = Election::start(version).await;
        let (second, _) = election.join("second");
        let (target, key) = election.join("target");
        election.order(&key);
        assert_eq!(timeout(SOON, election.leader.lost()).await, Ok(Loss::Transferred));
        assert!(!election.leader.holds());
        // The work is being stopped meanwhile.
        sleep(Duration::from_millis(300)).await;
        assert_eq!(election.admin.leader("leader").unwrap().value, "first");
        assert!(target.waits() && second.waits());
        drop(election.leader);
        // Kept: dropped, it would be the second's turn.
        let leadership = target.won().await;
        assert_eq!(leadership.token().get(), token(&key));
        assert!(election.admin.get(ORDER).is_none() && second.waits());
    }

    async fn a_target_that_goes_after_the_acceptance_makes_the_order_void(version: EtcdVersion) {
        let mut election = Election::start(version).await;
        let (second, second_key) = election.join("second");
        let (_target, key) = election.join("target");
        election.order(&key);
        assert_eq!(timeout(SOON, election.leader.lost()).await, Ok(Loss::Transferred));
        election.admin.revoke(key.lease);
        drop(election.leader);
        assert_eq!(second.won().await.token().get(), token(&second_key), "it kept its place");
        assert!(election.admin.get(ORDER).is_none());
    }

    async fn a_handoff_without_an_answer_goes_to_no_other_than_the_target(version: EtcdVersion) {
        for (mode, loses) in [(Mode::SilenceReplies, "the answer"), (Mode::SilenceRequests, "the request")] {
            let server = Server::start(version);
            let proxy = Proxy::start(&server.endpoint());
            let mut election = Election::led_through(server, &proxy.endpoint()).await;
            let (second, _) = election.join("second");
            let (target, key) = election.join("target");
            election.order(&key);
            assert_eq!(timeout(SOON, election.leader.lost()).await, Ok(Loss::Transferred));
            proxy.set(mode);
            drop(election.leader);
            thread::sleep(Duration::from_millis(500));
            // What was withheld is lost, and the leader hears of it.
            proxy.cut();
            proxy.set(Mode::Pass);
            let leadership = target.won().await;
            assert_eq!(leadership.token().get(), token(&key), "{loses} was lost");
            assert!(second.waits());
        }
    }

    async fn a_cordoned_leader_hands_over_but_never_to_another_last_resort(version: EtcdVersion) {
        let mut election = Election::start(version).await;
        let admin = election.admin.clone();
        // A candidate that is cordoned waits outside while one is there that is not.
        admin.put(cordon("second"), CONTROL);
        let second = Entrant::enter(&election.server.endpoint(), "second");
        sleep(Duration::from_millis(500)).await;
        eventually(SOON, "it to be out", || (admin.candidates("leader").len() == 1).then_some(()));
        // Both are last resorts now: it may queue, and gets nothing.
        admin.put(cordon("first"), CONTROL);
        admin.wait_for_candidates("leader", 2, SOON);
        sleep(Duration::from_millis(500)).await;
        assert!(election.leader.holds() && second.waits());
        let third = Entrant::enter(&election.server.endpoint(), "third");
        assert_eq!(timeout(SOON, election.leader.lost()).await, Ok(Loss::Transferred));
        election.queued = 0;
        drop(election.leader);
        let leadership = third.won().await;
        assert!(second.waits());
        eventually(SOON, "it to be out again", || (admin.candidates("leader").len() == 1).then_some(()));
        assert!(leadership.holds());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_to_a_higher_priority_once_and_never_to_an_equal_one() {
    /// A candidate of a higher priority has to wait for so long.
    const STEADY: Duration = Duration::from_secs(30);
    let server = Server::start(EtcdVersion::V3_7);
    let enter = |name: &'static str, priority: u32| {
        let etcd = Etcd::connect(&server.endpoint()).unwrap();
        let mut profile = CandidateProfile::default();
        profile.priority = Priority::new(priority);
        let candidate = etcd.candidate("leader").unwrap().profile(profile).min_tenure(Duration::ZERO);
        let mut candidate = candidate.named(name).unwrap();
        Entrant { campaign: tokio::spawn(async move { candidate.campaign().await.unwrap() }) }
    };
    let leader = enter("first", 100).won().await;
    let admin = server.admin();
    let equal = enter("equal", 100);
    admin.wait_for_candidates("leader", 2, SOON);
    let higher = enter("higher", 101);
    admin.wait_for_candidates("leader", 3, SOON);
    let began = Instant::now();
    assert_eq!(timeout(STEADY + SOON, leader.lost()).await, Ok(Loss::Transferred));
    assert!(began.elapsed() > STEADY - Duration::from_secs(1), "not before it proved steady");
    drop(leader);
    let leadership = higher.won().await;
    assert!(equal.waits() && leadership.holds());
}
