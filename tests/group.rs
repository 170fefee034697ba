//! The library's peers: members of one group in one process, with real connections and disks.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    net::{Ipv4Addr, TcpListener},
    path::Path,
    time::Duration,
};

use leader_election::{
    Candidate, Leadership, Loss,
    peers::{Group, Member, Peers, Settings, Timing},
    timing::Ttl,
};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};

/// Longer than anything here takes, however busy the machine is.
const SOON: Duration = Duration::from_secs(30);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"))
}

/// Ports that were free a moment ago.
fn group(count: usize) -> Group {
    let listeners: Vec<_> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
    let members = listeners.iter().enumerate().map(|(place, listener)| {
        let port = listener.local_addr().unwrap().port();
        format!("server{}=127.0.0.1:{port}", place + 1).parse().unwrap()
    });
    Group::new(members.collect::<Vec<Member>>()).unwrap()
}

/// With timeouts so long that a busy machine does not make a leader lose.
fn settings(group: &Group, member: &Member, data: &Path) -> Settings {
    let ms = Duration::from_millis;
    let unhurried = Timing::new(ms(100), ms(1500), ms(2500)).unwrap();
    let data = data.join(member.name.as_str());
    Settings::new(&member.name, group.clone(), data).unwrap().with_timing(unhurried)
}

fn start_all(group: &Group, data: &Path) -> Vec<Peers> {
    group.members().iter().map(|member| Peers::start(settings(group, member, data)).unwrap()).collect()
}

fn candidate(peers: &Peers) -> Candidate<Peers> {
    let settings = peers.settings();
    Candidate::new(peers.clone(), settings.election().clone(), settings.name().clone(), Ttl::DEFAULT)
}

/// Whoever wins first, and its place. The others don't stand any more.
async fn first_leader(members: &[Peers]) -> (usize, Leadership) {
    let (won, mut wins) = mpsc::channel(1);
    for (place, peers) in members.iter().enumerate() {
        let mut candidate = candidate(peers);
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
async fn contract_1_one_of_three_leads_and_hands_over() {
    let (group, data) = (group(3), TempDir::new().unwrap());
    let members = start_all(&group, data.path());
    let (leader, leadership) = first_leader(&members).await;
    assert!(leadership.holds());
    let token = leadership.token();
    let mut heir = candidate(&members[(leader + 1) % 3]);
    let next = tokio::spawn(async move { heir.campaign().await });
    soon("to resign", leadership.resign()).await.unwrap();
    let next = soon("the next leader", next).await.unwrap().unwrap();
    assert!(next.token() > token);
}

#[tokio::test]
async fn committed_records_outlive_all_servers() {
    let (group, data) = (group(3), TempDir::new().unwrap());
    let members = start_all(&group, data.path());
    let (leader, leadership) = first_leader(&members).await;
    for record in 0..20u8 {
        soon("a commit", members[leader].propose(&leadership, [record])).await.unwrap();
    }
    let token = leadership.token();
    drop((leadership, members));

    let members = soon("their directories to be free", async {
        loop {
            let started =
                group.members().iter().map(|member| Peers::start(settings(&group, member, data.path())));
            if let Ok(members) = started.collect::<Result<Vec<_>, _>>() {
                return members;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let (_, leadership) = first_leader(&members).await;
    assert!(leadership.token() > token);
    for peers in &members {
        let mut records = peers.committed(0);
        for record in 0..20u8 {
            let read = soon("a record", records.next()).await.unwrap().unwrap();
            assert_eq!((&read.bytes[..], read.token), (&[record][..], token));
        }
    }
}

#[tokio::test]
async fn contract_4_a_leader_whose_peers_are_gone_loses_in_time() {
    let (group, data) = (group(3), TempDir::new().unwrap());
    let mut members = start_all(&group, data.path());
    let (leader, leadership) = first_leader(&members).await;
    let kept = members.swap_remove(leader);
    drop(members);
    assert_eq!(soon("the loss", leadership.lost()).await, Loss::Expired);
    assert!(!leadership.holds());
    assert_eq!(kept.look().leader, None);
    soon("to notice", async {
        while kept.look().contacts.iter().any(|contact| contact.connected) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
