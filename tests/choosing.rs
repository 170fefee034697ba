//! Choosing who leads on etcd: candidates' records, operators' orders, and the history, on real etcd with and
//! without roles.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::time::{Duration, SystemTime};

use etcd_client::{Permission, PutOptions, Txn, TxnOp};
use leader_election::{
    Candidate, Leadership, Loss,
    choosing::{CandidateProfile, OrderedBy, PastTerm, Priority, TermEnding, TransferError, TransferReason},
    etcd::{Credentials, Etcd, EtcdOperateError, EtcdOperator, Settings},
    timing::Ttl,
};
use support::{
    client::Admin,
    elect::Elect,
    etcd::{Etcd as Server, EtcdVersion},
    eventually::eventually,
    on_each_etcd,
};
use tokio::time::{sleep, timeout};

/// Longer than anything here takes, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A TTL far above any wait in these tests: what happens within it did not wait for a lease to expire.
const LONG: Duration = Duration::from_secs(60);

const PASSWORD: &str = "password";

fn by() -> OrderedBy {
    OrderedBy::new("ann@desk".to_owned(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000))
}

fn connected(server: &Server) -> Etcd {
    Etcd::connect(&server.endpoint()).unwrap()
}

fn user(server: &Server, name: &str) -> Etcd {
    let settings: Settings = server.endpoint().parse().unwrap();
    Etcd::start(settings.with_credentials(Credentials::new(name, PASSWORD))).unwrap()
}

fn operator(etcd: &Etcd) -> EtcdOperator {
    etcd.operator("leader".parse().unwrap())
}

fn profile() -> CandidateProfile {
    let mut profile = CandidateProfile::default();
    profile.priority = Priority::new(120);
    profile.address = Some("https://a:8443".to_owned());
    profile.zone = Some("north".to_owned());
    profile
}

fn candidate(etcd: &Etcd, name: &str) -> Candidate<Etcd> {
    let builder = etcd.candidate("leader").unwrap().ttl(Ttl::new(LONG).unwrap()).profile(profile());
    builder.named(name).unwrap()
}

async fn won(candidate: &mut Candidate<Etcd>) -> Leadership {
    timeout(SOON, candidate.campaign()).await.unwrap().unwrap()
}

/// Waits for a history that looks so.
async fn history_with(operator: &EtcdOperator, is_there: impl Fn(&[PastTerm]) -> bool) -> Vec<PastTerm> {
    timeout(SOON, async {
        loop {
            let history = operator.history(20).await.unwrap();
            if is_there(&history) {
                return history;
            }
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap()
}

/// Adds a user whose role may do this: keys to write, prefixes to write, prefixes to read.
fn add_user(admin: &Admin, name: &'static str, keys: &[&str], prefixes: &[&str], read: &[&str]) {
    let key = |key: &&str| Permission::read_write(*key);
    let prefix = |prefix: &&str| Permission::read_write(*prefix).with_prefix();
    let readable = |prefix: &&str| Permission::read(*prefix).with_prefix();
    let all: Vec<_> =
        keys.iter().map(key).chain(prefixes.iter().map(prefix)).chain(read.iter().map(readable)).collect();
    let mut client = admin.client();
    support::runtime::wait_for(async move {
        client.user_add(name, PASSWORD, None).await.unwrap();
        client.role_add(name).await.unwrap();
        for permission in all {
            client.role_grant_permission(name, permission).await.unwrap();
        }
        client.user_grant_role(name, name).await.unwrap();
    });
}

on_each_etcd! {
    async fn a_candidates_record_is_there_with_its_key_and_goes_with_it(version: EtcdVersion) {
        let server = Server::start(version);
        let (admin, etcd) = (server.admin(), connected(&server));
        let mut first = candidate(&etcd, "server1");
        let leadership = won(&mut first).await;
        let snapshot = etcd.snapshot("leader".parse().unwrap()).await.unwrap();
        assert_eq!(snapshot.candidates[0].profile, Some(profile()));
        let key = admin.leader("leader").unwrap();
        let record = format!("leader.member:{:x}", key.lease);
        let kv = admin.get(&*record).unwrap();
        assert_eq!((kv.lease(), kv.create_revision()), (key.lease, key.create_revision));

        // A key of another client has no record.
        let (lease, _) = admin.grant(60);
        admin.put_leased(format!("leader/{lease:x}"), "go client", lease);
        let snapshot = etcd.snapshot("leader".parse().unwrap()).await.unwrap();
        assert_eq!(snapshot.candidates[1].profile, None);

        leadership.resign().await.unwrap();
        timeout(SOON, etcd.drained()).await.unwrap();
        assert!(admin.get(record).is_none());
    }

    async fn a_value_of_another_program_at_a_records_key_stays_and_the_candidate_leads(version: EtcdVersion) {
        let server = Server::start(version);
        let (admin, etcd) = (server.admin(), connected(&server));
        // Leases are random: so all keys that a history could have, and those of standing orders.
        let foreign = |key: String| {
            admin.put(key.clone(), "another program's");
            key
        };
        let mut keys: Vec<_> = (0..100).map(|slot| foreign(format!("leader.history:{slot}"))).collect();
        keys.extend(["order", "control:pause", "control:cordon:server1"].map(|key| foreign(format!("leader.{key}"))));
        let mut first = candidate(&etcd, "server1");
        let leadership = won(&mut first).await;
        let operator = self::operator(&etcd);
        for refused in [operator.pause(by()).await, operator.cordon("server1", false, by()).await, operator.resume(by()).await] {
            assert!(matches!(refused, Err(EtcdOperateError::ForeignKey { .. })), "{refused:?}");
        }
        assert_eq!(operator.controls().await.unwrap(), leader_election::choosing::Controls::default());
        assert_eq!(operator.history(20).await.unwrap(), []);
        let (lease, _) = admin.grant(60);
        admin.put_leased(format!("leader/{lease:x}"), "server2", lease);
        let order = operator.transfer("server2", SOON, by()).await.unwrap_err();
        assert!(order.to_string().contains("the key 'leader.order' is another program's"), "{order}");
        leadership.resign().await.unwrap();
        for key in keys {
            assert_eq!(admin.get(&*key).unwrap().value(), b"another program's", "{key}");
        }
    }

    async fn standing_orders_hold_until_they_are_taken_back(version: EtcdVersion) {
        let server = Server::start(version);
        let etcd = connected(&server);
        let operator = self::operator(&etcd);
        operator.pause(by()).await.unwrap();
        operator.cordon("server 1", true, by()).await.unwrap();
        operator.cordon("server2", false, by()).await.unwrap();
        operator.cordon("server2", true, by()).await.unwrap();
        let controls = operator.controls().await.unwrap();
        assert_eq!(controls.paused, Some(by()));
        assert_eq!(controls.cordons.values().map(|cordon| (cordon.hard, &cordon.by)).collect::<Vec<_>>(), [(true, &by()); 2]);
        for _ in 0..2 {
            operator.resume(by()).await.unwrap();
            operator.uncordon("server 1", by()).await.unwrap();
        }
        let controls = operator.controls().await.unwrap();
        assert_eq!((controls.paused, controls.cordons.len()), (None, 1));
        assert!(matches!(operator.cordon("a\nb", false, by()).await, Err(EtcdOperateError::Name(_))));
    }

    async fn the_history_tells_a_planned_end_from_a_loss(version: EtcdVersion) {
        let server = Server::start(version);
        let (admin, etcd) = (server.admin(), connected(&server));
        let operator = self::operator(&etcd);
        let mut first = candidate(&etcd, "server1");
        let leadership = won(&mut first).await;
        let resigned = leadership.token();
        let open = history_with(&operator, |terms| terms.len() == 1).await;
        assert_eq!((&*open[0].leader, open[0].token, &open[0].ended), ("server1", resigned, &None));
        leadership.resign().await.unwrap();
        let closed = operator.history(20).await.unwrap();
        assert_eq!(closed[0].ended, Some(TermEnding::Resigned));
        assert!(closed[0].until >= closed[0].from);

        let leadership = won(&mut first).await;
        history_with(&operator, |terms| terms.len() == 2).await;
        assert!(admin.delete(admin.leader("leader").unwrap().key));
        let mut second = candidate(&etcd, "server2");
        let next = won(&mut second).await;
        let terms = history_with(&operator, |terms| terms.len() == 3).await;
        assert_eq!(terms.iter().map(|term| &*term.leader).collect::<Vec<_>>(), ["server2", "server1", "server1"]);
        assert_eq!(terms.iter().map(|term| term.ended.clone()).collect::<Vec<_>>(), [None, Some(TermEnding::Lost), Some(TermEnding::Resigned)]);
        assert_eq!((terms[0].token, terms[1].token, terms[2].token), (next.token(), leadership.token(), resigned));
        assert_eq!(operator.history(1).await.unwrap(), terms[..1]);
        assert_eq!(admin.get("leader.history:0").unwrap().lease(), 0);
    }

    async fn an_order_waits_for_the_leaders_answer_and_is_withdrawn(version: EtcdVersion) {
        let server = Server::start(version);
        let (admin, etcd) = (server.admin(), connected(&server));
        let operator = self::operator(&etcd);
        assert!(matches!(operator.transfer("server2", SOON, by()).await, Err(TransferError::NoLeader(_))));
        // Candidates that know nothing of orders.
        let key = |value: &str| {
            let (lease, _) = admin.grant(60);
            let key = format!("leader/{lease:x}");
            (key.clone(), admin.put_leased(key, value, lease))
        };
        let (leader, _) = key("server1");
        let (_, target) = key("server2");
        let twins = [key("server3").0, key("server3").0];
        let absent = operator.transfer("server9", SOON, by()).await;
        assert_eq!(absent, Err(TransferError::Absent("server9".into())));
        let ambiguous = operator.transfer("server3", SOON, by()).await;
        assert_eq!(ambiguous, Err(TransferError::Ambiguous { name: "server3".into(), keys: twins.to_vec() }));
        let leads = operator.transfer("server1", SOON, by()).await;
        assert!(matches!(leads, Err(TransferError::Refused { .. })), "{leads:?}");

        let silent = operator.transfer("server2", Duration::from_secs(2), by()).await;
        assert!(matches!(silent, Err(TransferError::Unconfirmed(_))), "{silent:?}");
        assert!(admin.get("leader.order").is_none(), "withdrawn");

        let answered = {
            let operator = operator.clone();
            tokio::spawn(async move { operator.transfer("server2", SOON, by()).await })
        };
        let order = loop {
            if let Some(order) = admin.get("leader.order") {
                break order;
            }
            sleep(Duration::from_millis(10)).await;
        };
        let second = operator.transfer("server2", SOON, by()).await.unwrap_err();
        let under_way = "'server1' leads, and refuses: an order of ann@desk, to hand over to 'server2', is under way";
        assert_eq!(second.to_string(), under_way);
        assert!(order.lease() > 0);
        let text = String::from_utf8(order.value().to_vec()).unwrap();
        let refused = format!("{},\"refused\":\"it rains\"}}", text.strip_suffix('}').unwrap());
        let mut client = admin.client();
        client.put("leader.order", refused, Some(PutOptions::new().with_ignore_lease())).await.unwrap();
        let refused = TransferError::Refused { leader: "server1".into(), why: "it rains".into() };
        assert_eq!(answered.await.unwrap(), Err(refused));
        assert!(admin.get("leader.order").is_none(), "withdrawn");

        let carried_out = {
            let operator = operator.clone();
            tokio::spawn(async move { operator.transfer("server2", SOON, by()).await })
        };
        while admin.get("leader.order").is_none() {
            sleep(Duration::from_millis(10)).await;
        }
        let handoff = [TxnOp::delete(leader, None), TxnOp::delete("leader.order", None)];
        client.txn(Txn::new().and_then(handoff)).await.unwrap();
        let transferred = carried_out.await.unwrap().unwrap();
        assert_eq!((&*transferred.to, transferred.token.get()), ("server2", target.unsigned_abs()));
    }

    fn a_user_without_the_records_key_leads_and_warns_once(version: EtcdVersion) {
        let server = Server::builder(version).auth(Duration::from_secs(60)).start();
        let admin = server.admin();
        add_user(&admin, "old", &["leader"], &["leader/"], &[]);
        let elect = Elect::server("server1", &server.endpoint()).args(["--user", "old"]).args(["--ttl", "2s"]);
        let mut elect = elect.env("ELECT_PASSWORD", PASSWORD).start();
        let key = eventually(SOON, "a leader", || admin.leader("leader")).key;
        // Another attempt, another term.
        assert!(admin.delete(&*key));
        eventually(SOON, "the next term", || admin.leader("leader").filter(|next| next.key != key));
        elect.kill();
        let said = elect.stderr().join("\n");
        let count = |text: &str| said.lines().filter(|line| line.contains(text)).count();
        assert_eq!(count("etcd denies 'leader.member:'"), 1, "{said}");
        assert!(said.contains("etcdctl role grant-permission ROLE readwrite leader.member: --prefix=true"), "{said}");
    }

    async fn roles_let_candidates_and_operators_do_their_part_and_no_more(version: EtcdVersion) {
        let server = Server::builder(version).auth(Duration::from_secs(60)).start();
        let admin = server.admin();
        let prefixes = ["leader/", "leader.member:", "leader.history:"];
        add_user(&admin, "candidate", &["leader", "leader.order"], &prefixes, &["leader.control:"]);
        let reads = ["leader/", "leader.history:"];
        add_user(&admin, "operator", &["leader.order"], &["leader.control:"], &reads);
        add_user(&admin, "reader", &[], &[], &["leader"]);
            let (standing, operating, reading) =
                (user(&server, "candidate"), user(&server, "operator"), user(&server, "reader"));
            let mut first = candidate(&standing, "server1");
            let leadership = won(&mut first).await;
            let operator = self::operator(&operating);
            history_with(&operator, |terms| terms.len() == 1).await;
            operator.pause(by()).await.unwrap();
            operator.cordon("server9", false, by()).await.unwrap();
            let mut second = candidate(&standing, "server2");
            let waiting = tokio::spawn(async move { second.campaign().await });
            while admin.candidates("leader").len() < 2 {
                sleep(Duration::from_millis(10)).await;
            }
            // The order is placed, and answered or not: its lease and its key are within the operator's rights.
            let order = operator.transfer("server2", Duration::from_secs(2), by()).await;
            assert!(!matches!(order, Err(TransferError::Forbidden(_))), "{order:?}");
            assert!(admin.get("leader.order").is_none());

            let reader = self::operator(&reading);
            assert_eq!(reader.controls().await.unwrap(), operator.controls().await.unwrap());
            let command = "etcdctl role grant-permission ROLE readwrite leader.order";
            let denied = reader.transfer("server2", Duration::from_secs(2), by()).await.unwrap_err();
            assert!(denied.to_string().contains(command), "{denied}");
            let denied = reader.pause(by()).await.unwrap_err();
            assert!(denied.to_string().contains("ROLE readwrite leader.control: --prefix=true"), "{denied}");
            // A candidate reads standing orders, and gives none.
            let denied = self::operator(&standing).resume(by()).await.unwrap_err();
            assert!(matches!(denied, EtcdOperateError::Forbidden(_)), "{denied:?}");
            waiting.abort();
            leadership.resign().await.unwrap();
            let history = operator.history(20).await.unwrap();
            assert_eq!(history.last().unwrap().ended, Some(TermEnding::Resigned), "{history:?}");
    }

    /// One forbidden key refuses a whole transaction, and a leader learns of it when its work has stopped.
    async fn an_operators_order_goes_to_its_target_even_if_the_leader_may_not_write_orders(version: EtcdVersion) {
        for order in [&["leader", "leader.order"][..], &["leader"][..]] {
            let server = Server::builder(version).auth(Duration::from_secs(60)).start();
            let admin = server.admin();
            let prefixes = ["leader/", "leader.member:", "leader.history:"];
            let reads = ["leader.control:", "leader.order"];
            add_user(&admin, "leads", order, &prefixes, &reads);
            add_user(&admin, "waits", &["leader", "leader.order"], &prefixes, &["leader.control:"]);
            add_user(&admin, "operator", &["leader.order"], &["leader.control:"], &["leader/", "leader.history:"]);
            let (leads, waits, operating) =
                (user(&server, "leads"), user(&server, "waits"), user(&server, "operator"));
            let operator = self::operator(&operating);
            let mut first = candidate(&leads, "server1");
            let leadership = won(&mut first).await;
            history_with(&operator, |terms| terms.len() == 1).await;
            let mut waiting = Vec::new();
            for (queued, name) in [(2, "server2"), (3, "server3")] {
                let mut candidate = candidate(&waits, name);
                waiting.push(tokio::spawn(async move { candidate.campaign().await.unwrap() }));
                while admin.candidates("leader").len() < queued {
                    sleep(Duration::from_millis(10)).await;
                }
            }
            let holder = tokio::spawn(async move {
                let loss = leadership.lost().await;
                (loss, leadership.token())
            });
            let transferred = operator.transfer("server3", SOON, by()).await.unwrap();
            let (loss, before) = timeout(SOON, holder).await.unwrap().unwrap();
            assert_eq!((&*transferred.to, loss), ("server3", Loss::Transferred));
            let leads = timeout(SOON, waiting.pop().unwrap()).await.unwrap().unwrap();
            assert_eq!(leads.token(), transferred.token);
            assert!(leads.token() > before && !waiting[0].is_finished(), "exactly one handoff");
            if order.len() == 2 {
                let terms = history_with(&operator, |terms| terms.len() == 2).await;
                let reason = TransferReason::Ordered(by());
                assert_eq!(terms[1].ended, Some(TermEnding::Transferred { to: "server3".into(), reason }));
            }
            waiting[0].abort();
        }
    }
}
