//! Promises of the `leader_election` crate to a Tokio program, on real etcd: the guard and its end, the
//! loop around it, guarded writes, observers.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{
    cell::Cell,
    error::Error as _,
    future::pending,
    io,
    ops::ControlFlow,
    pin::pin,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use leader_election::{
    CampaignError, Candidate, FencingToken, Leadership, LeadershipHandle, LeadershipStatus, Loss,
    candidate::{Backend, Event, Stopped},
    clock::Timestamp,
    etcd::{Etcd, TransactionError},
    leadership::{OrderError, ReleaseError, Released, Ticket},
    lifeline::Lifeline,
    observe::{Observer, State},
    peers::Peer,
    timing::Ttl,
};
use support::{
    client::Admin,
    etcd::{Etcd as Server, EtcdVersion},
    eventually::eventually,
    metrics::Watches,
    on_each_etcd,
    proxy::{Mode, Proxy},
};
use tokio::{
    join, select,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Deadline for operations that normally take far less than a second; generous for machines under load.
const SOON: Duration = Duration::from_secs(20);

/// A TTL far above any wait in these tests: what happens within it did not wait for a lease to expire.
const LONG: u64 = 60;

const MEBIBYTE: usize = 1 << 20;

fn connected(endpoint: &str) -> Etcd {
    Etcd::connect(endpoint).unwrap()
}

fn ttl(seconds: u64) -> Ttl {
    Ttl::new(Duration::from_secs(seconds)).unwrap()
}

fn candidate(etcd: &Etcd, name: &str, ttl_seconds: u64) -> Candidate<Etcd> {
    etcd.candidate("leader").unwrap().ttl(ttl(ttl_seconds)).named(name).unwrap()
}

fn observer(etcd: &Etcd) -> Observer {
    etcd.observe("leader".parse().unwrap())
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.unwrap_or_else(|_| panic!("waited {SOON:?} for {what}"))
}

async fn won(candidate: &mut Candidate<Etcd>) -> Leadership {
    soon("a win", candidate.campaign()).await.unwrap()
}

async fn soon_leads(status: &LeadershipStatus) -> LeadershipHandle {
    soon("the status", async {
        loop {
            if let Some(leadership) = status.leadership() {
                return leadership;
            }
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// A log that a test reads.
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Every future that a program may want to spawn can be spawned.
#[allow(dead_code, reason = "it is only compiled")]
fn every_future_can_be_spawned(etcd: Etcd, mut candidate: Candidate<Etcd>, peers: Peer) {
    fn spawned<T: Send + 'static>(_: impl Future<Output = T> + Send + 'static) {}
    fn bound<'a, T: Send>(_: impl Future<Output = T> + Send + 'a) {}
    bound(candidate.campaign());
    bound(candidate.lead(|_| async { ControlFlow::Break(()) }));
    spawned(async move {
        let state = Arc::new(String::new());
        let stopped = candidate.lead_until(pending(), |leadership| {
            let state = Arc::clone(&state);
            async move { drop((state, leadership.lost().await)) }
        });
        stopped.await
    });
    spawned({
        let (etcd, ticket) = (etcd.clone(), None::<Ticket>);
        async move {
            etcd.snapshot("leader".parse().unwrap()).await.unwrap();
            let _ = etcd.release(ticket.unwrap(), SOON).await.unwrap();
            etcd.drained().await;
            etcd.observe("leader".parse().unwrap()).next().await;
            etcd.watch_leader(&"leader".parse().unwrap()).next().await
        }
    });
    spawned({
        let peers = peers.clone();
        async move {
            let leadership = peers.candidate().campaign().await.unwrap();
            peers.propose(&leadership, *b"record").await.unwrap();
            peers.committed(0).next().await;
            peers.snapshot("leader".parse().unwrap()).await.unwrap();
            peers.drained().await;
        }
    });
    spawned(async move {
        let mut candidate = etcd.candidate("leader").unwrap().named("server1").unwrap();
        let mut events = candidate.subscribe();
        let leadership = candidate.campaign().await.unwrap();
        etcd.transaction(&leadership, Txn::new()).await.unwrap();
        leadership.proclaim("value").await.unwrap();
        leadership.run(pending::<()>()).await.unwrap_err();
        leadership.resign().await.unwrap();
        events.next().await
    });
}

/// Waits until this many candidates are in the queue, without blocking the test's other futures.
async fn queued(admin: &Admin, count: usize) {
    soon("the queue to fill", async {
        while admin.candidates("leader").len() < count {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Campaigns until the queue is this long, runs `meanwhile`, then waits for the win.
async fn wins_after<T>(
    candidate: &mut Candidate<Etcd>,
    admin: &Admin,
    place: usize,
    meanwhile: impl Future<Output = T>,
) -> (Leadership, T) {
    let mut campaign = pin!(candidate.campaign());
    select! {
        won = &mut campaign => panic!("won out of turn: {won:?}"),
        () = queued(admin, place) => {}
    }
    let (won, done) = soon("a win", async { join!(campaign, meanwhile) }).await;
    (won.unwrap(), done)
}

fn leaders_key(admin: &Admin) -> String {
    admin.leader("leader").unwrap().key
}

/// Number of transactions that this server has received.
fn transactions(server: &Server) -> u64 {
    server.messages_received().get("Txn").copied().unwrap_or_default()
}

/// A third party deletes the leader's key, and the next candidate leads; the old leader is not told.
///
/// Its connection is silent towards it. Its own messages still arrive.
async fn depose_in_silence(proxy: &Proxy, admin: &Admin, next: &mut Candidate<Etcd>) -> Leadership {
    proxy.set(Mode::SilenceReplies);
    assert!(admin.delete(leaders_key(admin)));
    won(next).await
}

/// A minimal fenced resource: it refuses a token below the highest it has seen.
#[derive(Default)]
struct Resource {
    highest: Option<FencingToken>,
    written: Vec<&'static str>,
}

#[derive(Debug, PartialEq)]
struct Stale;

impl Resource {
    fn write(&mut self, token: FencingToken, value: &'static str) -> Result<(), Stale> {
        if self.highest.is_some_and(|highest| token < highest) {
            return Err(Stale);
        }
        self.highest = Some(token);
        self.written.push(value);
        Ok(())
    }
}

/// Work in progress; calls back when it is dropped.
struct Work<F: Fn()>(F);

impl<F: Fn()> Drop for Work<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

on_each_etcd! {
    async fn contract_5_each_term_has_a_larger_token_which_is_its_keys_create_revision(version: EtcdVersion) {
        let server = Server::start(version);
        let admin = server.admin();
        let etcd = connected(&server.endpoint());
        let mut candidate = candidate(&etcd, "server1", LONG);
        let mut last = FencingToken::new(0);
        for _ in 0..3 {
            let leadership = won(&mut candidate).await;
            let leader = admin.leader("leader").unwrap();
            assert_eq!(leadership.token().get(), leader.create_revision.unsigned_abs());
            assert_eq!((&*leader.value, leader.key), ("server1", format!("leader/{:x}", leader.lease)));
            assert!(leadership.token() > last);
            assert_eq!(leadership.cluster().get(), admin.status().cluster_id);
            assert_eq!((leadership.name().as_str(), leadership.election().as_str()), ("server1", "leader"));
            last = leadership.token();
            leadership.resign().await.unwrap();
            // Confirmed, so the key is gone.
            assert_eq!(admin.candidates("leader"), [], "the next one may lead");
            // Later, without a caller waiting for it.
            eventually(SOON, "the lease to be given back", || admin.leases().is_empty().then_some(()));
        }
    }

    async fn contract_2_a_leadership_holds_and_its_deadline_moves_on(version: EtcdVersion) {
        let server = Server::start(version);
        let etcd = connected(&server.endpoint());
        let asked = Timestamp::now();
        let leadership = won(&mut candidate(&etcd, "server1", 2)).await;
        let believed = ttl(2).as_duration() - ttl(2).margin();
        let first = leadership.deadline().unwrap();
        assert!(first >= asked + believed && first <= Timestamp::now() + believed);
        // Long after the first deadline it still leads, thanks to renewals.
        let later = first + ttl(2).as_duration();
        eventually(SOON, "renewals", || {
            assert!(leadership.holds() && leadership.remaining() <= believed);
            leadership.deadline().filter(|deadline| *deadline >= later)
        });
        assert_eq!(leadership.token().get(), server.admin().leader("leader").unwrap().create_revision as u64);
    }

    async fn contract_4_a_deleted_key_is_a_loss_at_once_and_lost_is_cancel_safe(version: EtcdVersion) {
        let server = Server::start(version);
        let admin = server.admin();
        let etcd = connected(&server.endpoint());
        let leadership = won(&mut candidate(&etcd, "server1", LONG)).await;
        for _ in 0..50 {
            assert!(timeout(Duration::from_millis(1), leadership.lost()).await.is_err());
        }
        admin.delete(leaders_key(&admin));
        assert_eq!(soon("the loss", leadership.lost()).await, Loss::KeyDeleted);
        assert!(!leadership.holds());
        assert_eq!((leadership.deadline(), leadership.remaining()), (None, Duration::ZERO));
        // Repeated calls, by any caller, return the same.
        for _ in 0..3 {
            let again = timeout(Duration::ZERO, leadership.lost()).await;
            assert_eq!(again, Ok(Loss::KeyDeleted));
        }
        assert_eq!(leadership.run(pending::<()>()).await, Err(Loss::KeyDeleted));
        assert_eq!(leadership.proclaim("still here").await, Err(OrderError::NotLeading));
        assert_eq!(etcd.transaction(&leadership, Txn::new()).await.unwrap_err(), TransactionError::NotLeading);
        assert_eq!(leadership.resign().await, Err(OrderError::NotLeading));
    }

    async fn contract_8_a_lost_leadership_keeps_its_lease_until_the_holder_has_let_go(version: EtcdVersion) {
        let server = Server::start(version);
        let admin = server.admin();
        let etcd = connected(&server.endpoint());
        let leadership = won(&mut candidate(&etcd, "server1", LONG)).await;
        let leader = admin.leader("leader").unwrap();
        admin.delete(leader.key);
        assert_eq!(soon("the loss", leadership.lost()).await, Loss::KeyDeleted);
        // The work is being stopped meanwhile. Giving the lease back once took a few milliseconds.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(admin.leases(), [leader.lease]);
        drop(leadership);
        soon("the lease to be given back", etcd.drained()).await;
        assert_eq!(admin.leases(), [0; 0]);
    }

    async fn contract_4_a_revoked_lease_is_a_loss_at_once(version: EtcdVersion) {
        let server = Server::start(version);
        let admin = server.admin();
        let etcd = connected(&server.endpoint());
        let leadership = won(&mut candidate(&etcd, "server1", LONG)).await;
        admin.revoke(admin.leader("leader").unwrap().lease);
        let loss = soon("the loss", leadership.lost()).await;
        assert!(matches!(loss, Loss::KeyDeleted | Loss::Revoked), "{loss}");
        assert!(!leadership.holds());
    }

    async fn contract_4_in_silence_it_ends_by_its_deadline_before_the_next_leads(version: EtcdVersion) {
        let server = Server::start(version);
        let proxy = Proxy::start(&server.endpoint());
        let (behind, direct) = (connected(&proxy.endpoint()), connected(&server.endpoint()));
        let leadership = won(&mut candidate(&behind, "old", 3)).await;
        let mut next = candidate(&direct, "new", 3);
        let winning = tokio::spawn(async move {
            let leadership = next.campaign().await.unwrap();
            (leadership, Timestamp::now())
        });
        queued(&server.admin(), 2).await;
        proxy.set(Mode::Silence);
        let mut deadline = leadership.deadline();
        let loss = loop {
            select! {
                biased;
                loss = leadership.lost() => break loss,
                () = sleep(Duration::from_millis(10)) => deadline = leadership.deadline().or(deadline),
            }
        };
        let late = Timestamp::now().since(deadline.unwrap());
        assert_eq!(loss, Loss::Expired);
        assert!(late < Duration::from_secs(1), "late by {late:?}");
        let (next, won_at) = soon("the next to win", winning).await.unwrap();
        assert!(won_at > deadline.unwrap(), "both led");
        assert!(next.token() > leadership.token());
        assert!(!leadership.holds());
    }

    async fn contract_4_a_guard_dropped_after_its_deadline_has_expired_and_not_resigned(version: EtcdVersion) {
        let server = Server::start(version);
        let proxy = Proxy::start(&server.endpoint());
        let mut candidate = candidate(&connected(&proxy.endpoint()), "server1", 2);
        let mut events = candidate.subscribe();
        let leadership = won(&mut candidate).await;
        proxy.set(Mode::Silence);
        // No caller is quicker than one that polls all the time.
        tokio::task::block_in_place(|| while leadership.holds() {});
        drop(leadership);
        let told = soon("the loss to be told", async {
            loop {
                if let Event::Lost { loss, .. } = events.next().await.unwrap() {
                    break loss;
                }
            }
        })
        .await;
        assert_eq!(told, Loss::Expired);
    }

    async fn dropping_campaign_leaves_the_queue(version: EtcdVersion) {
        let server = Server::start(version);
        let admin = server.admin();
        let (first, second) = (connected(&server.endpoint()), connected(&server.endpoint()));
        let leader = won(&mut candidate(&first, "first", LONG)).await;
        let mut waiting = candidate(&second, "second", LONG);
        for _ in 0..3 {
            select! {
                won = waiting.campaign() => panic!("won beside the leader: {won:?}"),
                () = queued(&admin, 2) => {}
            }
            soon("the lease to be given back", second.drained()).await;
            assert_eq!((admin.candidates("leader").len(), admin.leases().len()), (1, 1));
        }
        // Dropped before its first poll, and very soon after.
        drop(waiting.campaign());
        let _ = timeout(Duration::ZERO, waiting.campaign()).await;
        let _ = timeout(Duration::from_millis(2), waiting.campaign()).await;
        soon("the lease to be given back", second.drained()).await;
        assert_eq!((admin.candidates("leader").len(), admin.leases().len()), (1, 1));

        // A later call queues again.
        let (leadership, _) = wins_after(&mut waiting, &admin, 2, leader.resign()).await;
        assert_eq!(admin.leader("leader").unwrap().create_revision.unsigned_abs(), leadership.token().get());
    }

    async fn dropping_a_leadership_releases_it_long_before_its_lease_ends(version: EtcdVersion) {
        let server = Server::start(version);
        let admin = server.admin();
        let etcd = connected(&server.endpoint());
        let first = won(&mut candidate(&etcd, "first", LONG)).await;
        let first_token = first.token();
        let mut second = candidate(&etcd, "second", LONG);
        let (second, ()) = wins_after(&mut second, &admin, 2, async { drop(first) }).await;
        assert!(second.token() > first_token);
        drop(second);
        soon("all to be given back", etcd.drained()).await;
        assert_eq!((admin.candidates("leader"), admin.leases()), (vec![], vec![]));
        // With nothing pending it returns at once.
        timeout(Duration::from_millis(1), etcd.drained()).await.unwrap();
    }

    async fn contract_8_resign_is_confirmed_when_the_next_one_may_lead(version: EtcdVersion) {
        let server = Server::start(version);
        let admin = server.admin();
        let etcd = connected(&server.endpoint());
        let first = won(&mut candidate(&etcd, "first", LONG)).await;
        let mut second = candidate(&etcd, "second", LONG);
        let resigned = async {
            first.resign().await.unwrap();
            admin.leader("leader").unwrap().value
        };
        let (_second, leader) = wins_after(&mut second, &admin, 2, resigned).await;
        assert_eq!(leader, "second");
    }

    async fn contract_8_resign_says_when_it_could_not_be_confirmed(version: EtcdVersion) {
        let server = Server::start(version);
        let proxy = Proxy::start(&server.endpoint());
        let etcd = connected(&proxy.endpoint());
        let leadership = won(&mut candidate(&etcd, "server1", 3)).await;
        proxy.set(Mode::Silence);
        let asked = Timestamp::now();
        let resigned = soon("an answer", leadership.resign()).await;
        assert!(matches!(resigned, Err(OrderError::Unconfirmed(_))), "{resigned:?}");
        let took = Timestamp::now().since(asked);
        assert!(took < Duration::from_secs(6), "who resigns is on the way out: {took:?}");
    }

    async fn contract_12_a_ticket_gives_up_its_own_term_and_nothing_else(version: EtcdVersion) {
        let server = Server::start(version);
        let admin = server.admin();
        let etcd = connected(&server.endpoint());
        let leadership = won(&mut candidate(&etcd, "server1", LONG)).await;
        let mut waiting = candidate(&etcd, "server2", LONG);
        let mut campaign = pin!(waiting.campaign());
        select! {
            won = &mut campaign => panic!("won out of turn: {won:?}"),
            () = queued(&admin, 2) => {}
        }
        let others = admin.candidates("leader")[1].clone();
        let ticket = leadership.ticket().cloned().unwrap();
        let forged = |field: &str, value: serde_json::Value| -> Ticket {
            let mut ticket = serde_json::to_value(&ticket).unwrap();
            ticket[field] = value;
            serde_json::from_value(ticket).unwrap()
        };
        // The ticket's reader is a process of its own with its own connection to etcd.
        let reader = connected(&server.endpoint());
        let released = async |ticket| soon("an answer", reader.release(ticket, SOON)).await;
        let untouched = || {
            assert_eq!((admin.candidates("leader").len(), admin.leases().len()), (2, 2));
            assert!(leadership.holds());
        };

        // From an earlier term: the key has been created anew since.
        let created = i64::try_from(leadership.token().get()).unwrap();
        assert_eq!(released(forged("created", (created - 1).into())).await, Ok(Released::NothingHeld));
        // From another candidate's lease.
        assert_eq!(released(forged("lease", others.lease.into())).await, Err(ReleaseError::Malformed));
        assert_eq!(released(forged("created", 0.into())).await, Err(ReleaseError::Malformed));
        assert_eq!(released(forged("lease", 0.into())).await, Err(ReleaseError::Malformed));
        // From another cluster with the same keys, restored from this one's snapshot.
        let cluster = leadership.cluster().get() + 1;
        let foreign = released(forged("cluster", cluster.into())).await;
        assert!(matches!(foreign, Err(ReleaseError::OtherCluster { .. })), "{foreign:?}");
        // From another election, in which this lease holds nothing.
        let key = format!("other/{}", leaders_key(&admin).rsplit_once('/').unwrap().1);
        assert_eq!(released(forged("key", key.as_bytes().into())).await, Ok(Released::NothingHeld));
        // What a release revokes is revoked before this returns.
        soon("the reader to be done", reader.drained()).await;
        untouched();

        // The valid one, twice.
        assert_eq!(released(ticket.clone()).await, Ok(Released::GivenUp));
        assert_eq!(soon("the loss", leadership.lost()).await, Loss::KeyDeleted);
        drop(leadership);
        let _next = soon("the next win", campaign).await.unwrap();
        assert_eq!(released(ticket).await, Ok(Released::NothingHeld));
        soon("the reader to be done", reader.drained()).await;
        assert_eq!(admin.leases().len(), 1);
    }

    async fn contract_12_a_key_that_was_moved_to_another_lease_is_not_the_tickets(version: EtcdVersion) {
        let server = Server::start(version);
        let admin = server.admin();
        let etcd = connected(&server.endpoint());
        let leadership = won(&mut candidate(&etcd, "server1", LONG)).await;
        let ticket = leadership.ticket().cloned().unwrap();
        let (other, _) = admin.grant(i64::try_from(LONG).unwrap());
        admin.put_leased(leaders_key(&admin), "moved", other);
        let reader = connected(&server.endpoint());
        let released = soon("an answer", reader.release(ticket, SOON)).await;
        assert_eq!(released, Ok(Released::NothingHeld));
        soon("the reader to be done", reader.drained()).await;
        assert_eq!(admin.leader("leader").unwrap().lease, other);
        assert!(admin.leases().contains(&other));
    }

    async fn a_spawned_loop_has_work_with_state_and_a_handle_that_is_kept_holds_nothing_open(version: EtcdVersion) {
        let server = Server::start(version);
        let etcd = connected(&server.endpoint());
        let mut candidate = candidate(&etcd, "server1", LONG);
        let status = candidate.status();
        assert!(status.leadership().is_none());
        let kept = Arc::new(Mutex::new(None));
        let (stop, stopped) = oneshot::channel();
        let leading = tokio::spawn({
            let kept = Arc::clone(&kept);
            let shutdown = async { stopped.await.unwrap() };
            async move {
                let work = |leadership: LeadershipHandle| {
                    let kept = Arc::clone(&kept);
                    async move {
                        *kept.lock().unwrap() = Some(leadership);
                        pending().await
                    }
                };
                candidate.lead_until(shutdown, work).await
            }
        });
        let leadership: LeadershipHandle = soon("the work to begin", async {
            loop {
                if let Some(leadership) = kept.lock().unwrap().clone() {
                    return leadership;
                }
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        assert_eq!(soon_leads(&status).await.token(), leadership.token());
        leadership.proclaim("10.0.0.1:8080").await.unwrap();

        stop.send(()).unwrap();
        assert_eq!(soon("the end", leading).await.unwrap(), Ok(Stopped::Released));
        assert_eq!(server.admin().candidates("leader"), [], "the next one may lead");
        assert!(!leadership.holds());
        assert!(status.leadership().is_none());
        assert_eq!(leadership.proclaim("too late").await, Err(OrderError::NotLeading));
        soon("the loss", leadership.lost()).await;
    }

    async fn a_guard_that_is_dropped_beside_its_handles_gives_the_place_up(version: EtcdVersion) {
        let server = Server::start(version);
        let (first, second) = (connected(&server.endpoint()), connected(&server.endpoint()));
        let leadership = won(&mut candidate(&first, "first", LONG)).await;
        let handle = leadership.handle();
        drop(leadership);
        let next = won(&mut candidate(&second, "second", LONG)).await;
        assert!(!handle.holds());
        assert!(next.token() > handle.token());
    }

    async fn a_transaction_is_not_run_in_another_cluster(version: EtcdVersion) {
        let (server, other) = (Server::start(version), Server::start(version));
        for _ in 0..3 {
            server.admin().put("noise", "");
        }
        let leadership = won(&mut candidate(&connected(&server.endpoint()), "server1", LONG)).await;
        let elsewhere = connected(&other.endpoint());
        // The same key with the same revision.
        while other.admin().put("noise", "") < i64::try_from(leadership.token().get()).unwrap() - 1 {}
        let key = server.admin().leader("leader").unwrap().key;
        assert_eq!(other.admin().put(key, "server1"), i64::try_from(leadership.token().get()).unwrap());
        let write = Txn::new().and_then([TxnOp::put("resource", "1", None)]);
        let refused = elsewhere.transaction(&leadership, write).await;
        assert!(matches!(refused, Err(TransactionError::Refused(_))), "{refused:?}");
        assert!(other.admin().get("resource").is_none());
    }

    async fn a_reader_of_events_that_is_too_slow_is_told_how_many_it_missed(version: EtcdVersion) {
        let server = Server::start(version);
        let etcd = connected(&server.endpoint());
        let mut candidate = candidate(&etcd, "server1", LONG);
        let mut events = candidate.subscribe();
        // Each term is reported in two events or more.
        for _ in 0..40 {
            won(&mut candidate).await.resign().await.unwrap();
        }
        let Some(Event::Missed { count }) = events.try_next() else { panic!("none is missed") };
        assert!(count > 0);
        let mut kept = 0;
        while events.try_next().is_some() {
            kept += 1;
        }
        assert_eq!(kept, 64);
        drop(candidate);
        soon("the tasks to end", etcd.drained()).await;
        assert!(soon("the end of the events", events.next()).await.is_none());
    }

    async fn what_is_logged_for_a_candidate_names_it(version: EtcdVersion) {
        let server = Server::start(version);
        let proxy = Proxy::start(&server.endpoint());
        let log = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&log);
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(move || Buffer(Arc::clone(&to)))
            .finish();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        thread::spawn(move || {
            let _for_this_thread = tracing::subscriber::set_default(subscriber);
            runtime.block_on(async {
                let etcd = Etcd::start_on(tokio::runtime::Handle::current(), proxy.endpoint().parse().unwrap());
                let leadership = won(&mut candidate(&etcd, "server1", 3)).await;
                let said = |what: &str, within: &str| {
                    let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
                    log.lines().any(|line| line.contains(what) && line.contains(within))
                };
                let candidate = "candidate{election=leader candidate=server1";
                assert!(said("connected to etcd", &format!("{candidate}}}:")));
                proxy.set(Mode::Refuse);
                let in_term = format!("{candidate} token={}}}:", leadership.token());
                soon("a failed renewal", async {
                    while !said("renewal failed", &in_term) {
                        sleep(Duration::from_millis(5)).await;
                    }
                })
                .await;
            });
        })
        .join()
        .unwrap();
    }

    async fn contract_12_what_was_not_released_in_time_is_released_once_etcd_answers(version: EtcdVersion) {
        let mut server = Server::start(version);
        let etcd = connected(&server.endpoint());
        let leadership = won(&mut candidate(&etcd, "server1", LONG)).await;
        server.kill();
        let resigned = soon("the end of the release's time", leadership.resign()).await;
        assert!(matches!(resigned, Err(OrderError::Unconfirmed(_))), "{resigned:?}");
        server.restart();
        // Without the release the lease would last for its whole TTL again.
        eventually(SOON, "the place to be given back", || server.admin().candidates("leader").is_empty().then_some(()));
        assert_eq!(server.admin().leases(), [0; 0]);
    }

    async fn what_a_leader_proclaims_is_seen_by_observers(version: EtcdVersion) {
        let server = Server::start(version);
        let etcd = connected(&server.endpoint());
        let mut observer = observer(&etcd);
        let leadership = won(&mut candidate(&etcd, "server1", LONG)).await;
        let mut seen = async |wanted: &str| {
            soon("the leader to be seen", async {
                loop {
                    match observer.next().await.unwrap().state {
                        State::Leader(leader) if leader.name == wanted => return leader,
                        _ => {}
                    }
                }
            })
            .await
        };
        let first = seen("server1").await;
        assert_eq!(first.token, leadership.token());
        leadership.proclaim("10.0.0.1:8080").await.unwrap();
        let proclaimed = seen("10.0.0.1:8080").await;
        // Another value in the same term.
        assert_eq!((proclaimed.token, proclaimed.since), (first.token, first.since));
        leadership.proclaim(*b"\xff\x00").await.unwrap();
        seen("\u{fffd}\u{fffd}").await;
        assert_eq!(server.admin().get(leaders_key(&server.admin())).unwrap().value(), b"\xff\x00");
        assert!(leadership.holds());
        assert!(timeout(Duration::from_millis(1), leadership.lost()).await.is_err());
    }

    async fn contract_5_a_transaction_runs_while_leading_with_conditions_of_its_own(version: EtcdVersion) {
        let server = Server::start(version);
        let etcd = connected(&server.endpoint());
        let leadership = won(&mut candidate(&etcd, "server1", LONG)).await;
        let put = |value: &str| TxnOp::put("resource", value, None);
        let answer = etcd.transaction(&leadership, Txn::new().and_then([put("1")])).await.unwrap();
        assert!(answer.succeeded());
        let is = |value: &str| Compare::value("resource", CompareOp::Equal, value);
        let answer = etcd.transaction(&leadership, Txn::new().when([is("1")]).and_then([put("2")])).await.unwrap();
        assert!(answer.succeeded());
        let otherwise =
            Txn::new().when([is("1")]).and_then([put("3")]).or_else([TxnOp::get("resource", None)]);
        let answer = etcd.transaction(&leadership, otherwise).await.unwrap();
        assert!(!answer.succeeded(), "its own condition does not hold, which is no loss");
        assert_eq!(answer.op_responses().len(), 1);
        assert_eq!(server.admin().get("resource").unwrap().value(), b"2");
        assert!(leadership.holds());
    }

    async fn contract_5_etcd_itself_refuses_the_transaction_of_a_deposed_leader(version: EtcdVersion) {
        let server = Server::start(version);
        let admin = server.admin();
        let proxy = Proxy::start(&server.endpoint());
        let (behind, direct) = (connected(&proxy.endpoint()), connected(&server.endpoint()));
        let deposed = won(&mut candidate(&behind, "deposed", LONG)).await;
        let next = depose_in_silence(&proxy, &admin, &mut candidate(&direct, "next", LONG)).await;

        assert!(deposed.holds(), "it can't know yet: this is what fencing is for");
        let before = transactions(&server);
        let writing = behind.transaction(&deposed, Txn::new().and_then([TxnOp::put("resource", "stale", None)]));
        let answering = async {
            // Neither the response nor the news may reach the deposed leader before etcd has the transaction.
            soon("the transaction to arrive", async {
                while transactions(&server) == before {
                    sleep(Duration::from_millis(5)).await;
                }
            })
            .await;
            proxy.set(Mode::Pass);
        };
        let (written, ()) = join!(writing, answering);
        assert_eq!(written.unwrap_err(), TransactionError::NotLeading);
        assert!(admin.get("resource").is_none());
        assert_eq!(soon("the loss", deposed.lost()).await, Loss::KeyDeleted);

        direct.transaction(&next, Txn::new().and_then([TxnOp::put("resource", "current", None)])).await.unwrap();
        assert_eq!(admin.get("resource").unwrap().value(), b"current");
    }

    async fn contract_5_a_resource_refuses_the_older_token_of_one_that_still_believes(version: EtcdVersion) {
        let server = Server::start(version);
        let proxy = Proxy::start(&server.endpoint());
        let (behind, direct) = (connected(&proxy.endpoint()), connected(&server.endpoint()));
        let mut resource = Resource::default();
        let old = won(&mut candidate(&behind, "old", LONG)).await;
        assert_eq!(resource.write(old.token(), "by the old leader"), Ok(()));

        let new = depose_in_silence(&proxy, &server.admin(), &mut candidate(&direct, "new", LONG)).await;
        assert_eq!(resource.write(new.token(), "by the new leader"), Ok(()));
        assert!(old.holds() && new.holds(), "two believe; the resource knows better");
        assert_eq!(resource.write(old.token(), "too late"), Err(Stale));
        assert_eq!(resource.write(new.token(), "by the new leader again"), Ok(()));
        assert_eq!(resource.written, ["by the old leader", "by the new leader", "by the new leader again"]);

        proxy.set(Mode::Pass);
        assert_eq!(soon("the loss", old.lost()).await, Loss::KeyDeleted);
    }

    async fn a_transaction_whose_answer_is_lost_is_unconfirmed_not_refused(version: EtcdVersion) {
        let server = Server::start(version);
        let proxy = Proxy::start(&server.endpoint());
        let etcd = connected(&proxy.endpoint());
        let leadership = won(&mut candidate(&etcd, "server1", 8)).await;
        proxy.set(Mode::SilenceReplies);
        let write = etcd.transaction(&leadership, Txn::new().and_then([TxnOp::put("resource", "1", None)]));
        let written = soon("an answer", write).await;
        assert!(matches!(written, Err(TransactionError::Unconfirmed(_))), "{written:?}");
        assert_eq!(server.admin().get("resource").unwrap().value(), b"1");
    }

    async fn what_etcd_refuses_to_write_costs_neither_leadership_nor_the_connection(version: EtcdVersion) {
        let server = Server::start(version);
        let proxy = Proxy::start(&server.endpoint());
        let etcd = connected(&proxy.endpoint());
        let leadership = won(&mut candidate(&etcd, "server1", LONG)).await;
        let admin = server.admin();
        // Also a candidate that waits on the same connection.
        let mut waiting = candidate(&etcd, "server2", LONG);
        let mut waiting_events = waiting.subscribe();
        let mut campaign = pin!(waiting.campaign());
        select! {
            won = &mut campaign => panic!("won beside the leader: {won:?}"),
            () = queued(&admin, 2) => {}
        }
        let before = admin.candidates("leader");

        let put = |value: Vec<u8>| TxnOp::put("resource", value, None);
        let twice = Txn::new().and_then([put(b"1".to_vec()), put(b"2".to_vec())]);
        let too_large = Txn::new().and_then([put(vec![b'x'; 2 * MEBIBYTE])]);
        let too_many = Txn::new()
            .and_then((0..200).map(|i| TxnOp::put(format!("key{i}"), "", None)).collect::<Vec<_>>());
        for transaction in [twice, too_large, too_many] {
            let refused = etcd.transaction(&leadership, transaction).await;
            assert!(matches!(refused, Err(TransactionError::Refused(_))), "{refused:?}");
        }
        assert!(leadership.proclaim(vec![b'x'; 2 * MEBIBYTE]).await.is_err());

        let fine = Txn::new().and_then([put(b"3".to_vec())]);
        select! {
            won = &mut campaign => panic!("won beside the leader: {won:?}"),
            written = etcd.transaction(&leadership, fine) => drop(written.unwrap()),
        }
        assert!(leadership.holds());
        assert_eq!(proxy.connections(), 1);
        assert_eq!(admin.candidates("leader"), before);
        while let Some(event) = waiting_events.try_next() {
            assert!(!matches!(event, Event::Retrying { .. }), "{event:?}");
        }
    }

    fn a_blocking_task_in_the_users_runtime_does_not_starve_the_renewal(version: EtcdVersion) {
        let server = Server::start(version);
        let etcd = connected(&server.endpoint());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let leadership = won(&mut candidate(&etcd, "server1", 2)).await;
            // The mistake under test: it blocks the only thread of this runtime.
            tokio::spawn(async { thread::sleep(3 * ttl(2).as_duration()) }).await.unwrap();
            assert!(leadership.holds());
            assert!(timeout(Duration::from_millis(1), leadership.lost()).await.is_err());
            let leader = server.admin().leader("leader").unwrap();
            assert_eq!(leader.create_revision.unsigned_abs(), leadership.token().get());
        });
    }

    async fn lead_drops_the_work_on_each_loss_and_calls_it_again_with_a_larger_token(version: EtcdVersion) {
        #[derive(Debug, PartialEq)]
        enum Told {
            Began(FencingToken),
            Dropped,
        }
        let server = Server::start(version);
        let admin = server.admin();
        let etcd = connected(&server.endpoint());
        let mut candidate = candidate(&etcd, "server1", LONG);
        let (tell, mut told) = mpsc::unbounded_channel();
        let mut terms = 0;
        let working = candidate.lead(|leadership| {
            terms += 1;
            let (term, tell) = (terms, &tell);
            async move {
                let _work = Work(|| tell.send(Told::Dropped).unwrap());
                tell.send(Told::Began(leadership.token())).unwrap();
                match term {
                    // Resigns by itself, then campaigns again.
                    3 => ControlFlow::Continue(()),
                    4 => ControlFlow::Break("done"),
                    _ => pending().await,
                }
            }
        });
        let disturbing = async {
            let mut tokens = Vec::new();
            for term in 1..=4 {
                match told.recv().await.unwrap() {
                    Told::Began(token) => tokens.push(token),
                    Told::Dropped => panic!("dropped before it began"),
                }
                if term <= 2 {
                    assert!(told.try_recv().is_err(), "dropped while it leads");
                    admin.delete(leaders_key(&admin));
                }
                assert_eq!(told.recv().await, Some(Told::Dropped), "never two at once");
            }
            tokens
        };
        let (result, tokens) = soon("four terms", async { join!(working, disturbing) }).await;
        assert_eq!(result, Ok("done"));
        assert!(tokens.is_sorted_by(|earlier, later| earlier < later), "{tokens:?}");
        soon("the last to be given back", etcd.drained()).await;
        assert_eq!(admin.leases(), [0; 0]);
    }

    async fn contract_8_lead_until_stops_the_work_before_it_releases(version: EtcdVersion) {
        let server = Server::start(version);
        let admin = server.admin();
        let etcd = connected(&server.endpoint());
        let in_queue_at_drop = Cell::new(None);
        let (began, beginning) = oneshot::channel();
        let began = Cell::new(Some(began));
        let mut candidate = candidate(&etcd, "server1", LONG);
        let shutdown = async { beginning.await.unwrap() };
        let stopped = candidate.lead_until(shutdown, async |_| {
            let _work = Work(|| in_queue_at_drop.set(Some(admin.candidates("leader").len())));
            if let Some(began) = began.take() {
                began.send(()).unwrap();
            }
            pending().await
        });
        assert_eq!(soon("the end", stopped).await, Ok(Stopped::Released));
        assert_eq!(in_queue_at_drop.get(), Some(1));
        assert_eq!(admin.candidates("leader"), [], "the next one may lead");
        soon("the lease to be given back", etcd.drained()).await;
        assert_eq!(admin.leases(), [0; 0]);
    }

    async fn lead_until_says_when_there_was_nothing_to_release(version: EtcdVersion) {
        let server = Server::start(version);
        let admin = server.admin();
        let (first, second) = (connected(&server.endpoint()), connected(&server.endpoint()));
        let _leader = won(&mut candidate(&first, "first", LONG)).await;
        let mut waiting = candidate(&second, "second", LONG);
        let stopped = waiting.lead_until(queued(&admin, 2), async |_| panic!("it never leads"));
        assert_eq!(soon("the end", stopped).await, Ok(Stopped::NotLeading));
        soon("the place in the queue to be given back", second.drained()).await;
        assert_eq!((admin.candidates("leader").len(), admin.leases().len()), (1, 1));
    }

    async fn elections_in_one_process_are_independent(version: EtcdVersion) {
        let server = Server::start(version);
        let admin = server.admin();
        let etcd = connected(&server.endpoint());
        let one = won(&mut candidate(&etcd, "server1", LONG)).await;
        let mut elsewhere =
            etcd.candidate("elsewhere").unwrap().ttl(ttl(2)).named("server1").unwrap();
        let other = won(&mut elsewhere).await;
        assert!(other.token() > one.token());

        admin.delete(leaders_key(&admin));
        assert_eq!(soon("the loss", one.lost()).await, Loss::KeyDeleted);
        let deadline = other.deadline().unwrap();
        eventually(SOON, "the other to renew", || other.deadline().filter(|now| *now > deadline));
        assert!(other.holds());
        assert_eq!(admin.leader("elsewhere").unwrap().create_revision.unsigned_abs(), other.token().get());
        // The first election can be contended for again beside it.
        let again = won(&mut candidate(&etcd, "server1", LONG)).await;
        assert!(again.token() > other.token() && other.holds());
    }

    async fn the_elections_of_a_process_share_one_stream_of_watches(version: EtcdVersion) {
        const ELECTIONS: usize = 300;
        let server = Server::start(version);
        let etcd = connected(&server.endpoint());
        let mut campaigns = JoinSet::new();
        for index in 0..ELECTIONS {
            let election = format!("election{index}");
            let mut candidate = etcd.candidate(election).unwrap().ttl(ttl(LONG)).named("a").unwrap();
            campaigns.spawn(async move { candidate.campaign().await.unwrap() });
        }
        let mut led = soon("all to win", campaigns.join_all()).await;
        // Each has its queue, its order, and its standing orders.
        let all = Watches { streams: 1, watches: 3 * ELECTIONS as u64 };
        eventually(SOON, "all watches", || (server.watches() == all).then_some(()));

        // Each hears of its own key and of no other.
        let deposed = led.pop().unwrap();
        assert_eq!(server.admin().delete_prefix(format!("{}/", deposed.election())), 1);
        assert_eq!(soon("the loss", deposed.lost()).await, Loss::KeyDeleted);
        assert!(led.iter().all(|one| one.holds()));

        // Keys that no candidate needs any more are removed from the stream, and at last the stream is closed.
        drop((deposed, led.split_off(ELECTIONS / 2)));
        let half = Watches { streams: 1, watches: 3 * ELECTIONS as u64 / 2 };
        eventually(SOON, "half of the watches to end", || (server.watches() == half).then_some(()));
        drop(led);
        let none = Watches { streams: 0, watches: 0 };
        eventually(SOON, "the stream to end", || (server.watches() == none).then_some(()));
    }

    async fn contract_10_candidates_are_served_in_order_and_one_wakes_at_a_time(version: EtcdVersion) {
        let server = Server::start(version);
        let admin = server.admin();
        let etcd = connected(&server.endpoint());
        let mut leadership = won(&mut candidate(&etcd, "leader", LONG)).await;
        let (tell, mut winners) = mpsc::unbounded_channel();
        for place in 0..5 {
            let mut candidate = candidate(&etcd, &format!("waiting{place}"), LONG);
            let mut events = candidate.subscribe();
            let tell = tell.clone();
            tokio::spawn(async move {
                let won = candidate.campaign().await.unwrap();
                tell.send((place, won)).unwrap();
            });
            // Each has found its predecessor before the next one comes.
            soon("it to follow", async {
                while !matches!(events.next().await.unwrap(), Event::Following { .. }) {}
            })
            .await;
        }
        assert_eq!(admin.candidates("leader").len(), 6);
        for expected in 0..5 {
            let before = transactions(&server);
            leadership.resign().await.unwrap();
            let (place, next) = soon("the next", winners.recv()).await.unwrap();
            assert_eq!(place, expected);
            // A win is verified by one read, or by two if the events came in parts. The others read nothing.
            assert!(transactions(&server) - before <= 2);
            leadership = next;
        }
    }

    async fn what_happens_to_a_candidate_is_told_in_order(version: EtcdVersion) {
        let server = Server::start(version);
        let etcd = connected(&server.endpoint());
        let first = won(&mut candidate(&etcd, "first", LONG)).await;
        let mut second = candidate(&etcd, "second", 2);
        let mut events = second.subscribe();
        let (leadership, _) = wins_after(&mut second, &server.admin(), 2, first.resign()).await;
        let own = leadership.token();
        let mut next = async || soon("an event", events.next()).await.unwrap();
        assert!(matches!(next().await, Event::Campaigning));
        // Renewals of a waiting candidate are not counted.
        assert!(matches!(next().await, Event::Following { token } if token == Some(own)));
        assert!(matches!(next().await, Event::Elected { token, .. } if token == own));
        let Event::Renewed { token, until, .. } = next().await else { panic!("not renewed") };
        assert!(token == own && leadership.deadline().unwrap() >= until);
        leadership.resign().await.unwrap();
        let lost = loop {
            match next().await {
                Event::Renewed { token, .. } => assert_eq!(token, own),
                other => break other,
            }
        };
        assert!(matches!(lost, Event::Lost { token, loss: Loss::Resigned } if token == own), "{lost:?}");
    }

    async fn contract_9_an_observer_sees_every_term_in_order_however_slowly_it_reads(version: EtcdVersion) {
        // More than twice as many observations as the buffer for a reader holds.
        const TERMS: usize = 100;
        let server = Server::start(version);
        let (leading, observing) = (connected(&server.endpoint()), connected(&server.endpoint()));
        let mut observer = observer(&observing);
        let vacant = State::Vacant { blocked_by: None };
        assert_eq!(soon("an observation", observer.next()).await.unwrap().state, vacant);
        let mut candidate = candidate(&leading, "server1", LONG);
        let mut tokens = Vec::new();
        for _ in 0..TERMS {
            let leadership = won(&mut candidate).await;
            tokens.push(leadership.token());
            leadership.resign().await.unwrap();
        }

        let mut seen = Vec::new();
        let mut last_at = None;
        while seen.len() < TERMS {
            let observation = soon("an observation", observer.next()).await.unwrap();
            assert!(last_at.is_none_or(|last_at| observation.at >= last_at));
            last_at = Some(observation.at);
            match observation.state {
                State::Leader(leader) => seen.push(leader.token),
                state => assert_eq!(state, vacant),
            }
        }
        assert_eq!(seen, tokens);
    }

    async fn a_ttl_below_etcds_minimum_is_an_error_that_says_what_is_granted(version: EtcdVersion) {
        let server = Server::start(version);
        let etcd = connected(&server.endpoint());
        let refused = soon("an answer", candidate(&etcd, "server1", 1).campaign()).await.unwrap_err();
        assert_eq!(refused, CampaignError::TtlTooShort { asked: ttl(1), granted: ttl(2) });
        soon("the lease to be given back", etcd.drained()).await;
        assert_eq!(server.admin().leases(), [0; 0]);
    }

    async fn a_campaign_begun_before_etcd_is_there_is_won_when_it_comes(version: EtcdVersion) {
        let mut server = Server::start(version);
        server.kill();
        let etcd = connected(&server.endpoint());
        let mut candidate = candidate(&etcd, "server1", LONG);
        let mut events = candidate.subscribe();
        let campaign = candidate.campaign();
        let starting = async {
            while !matches!(events.next().await.unwrap(), Event::Retrying { unreachable: true, .. }) {}
            server.restart();
        };
        let (won, ()) = soon("a win", async { join!(campaign, starting) }).await;
        assert!(won.unwrap().holds());
    }
}

/// A function that takes `&Leadership` cannot be called without one; the guard can cross threads.
#[test]
fn a_leadership_can_be_shared_between_threads() {
    fn shareable<T: Send + Sync>() {}
    shareable::<Leadership>();
    shareable::<Etcd>();
    shareable::<Candidate<Etcd>>();
    shareable::<Observer>();
}

#[test]
fn the_errors_of_the_system_are_sources_and_other_texts_are_complete() {
    let refused = CampaignError::Refused("permission denied".to_owned());
    assert!(refused.source().is_none() && refused.to_string().contains("permission denied"));
    let missing = Lifeline::open("/nonexistent/lifeline").unwrap_err();
    let source = missing.source().and_then(|source| source.downcast_ref::<io::Error>());
    assert_eq!(source.map(io::Error::kind), Some(io::ErrorKind::NotFound));
}
