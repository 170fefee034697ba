//! The library's peers: members of one group in one process, with real connections and disks.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    net::{Ipv4Addr, TcpListener},
    path::Path,
    time::Duration,
};

use leader_election::{
    CampaignError, Candidate, Leadership, Loss,
    peers::{Group, Member, Peer, Settings, Timing},
};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};

/// Longer than any step takes, even on a busy machine.
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

/// Timeouts so long that a leader keeps its term on a busy machine.
fn settings(group: &Group, member: &Member, data: &Path) -> Settings {
    let ms = Duration::from_millis;
    let unhurried = Timing::new(ms(100), ms(1500), ms(2500)).unwrap();
    let data = data.join(member.name.as_str());
    Settings::new(&member.name, group.clone(), data).unwrap().with_timing(unhurried)
}

fn start_all(group: &Group, data: &Path) -> Vec<Peer> {
    group.members().iter().map(|member| Peer::start(settings(group, member, data)).unwrap()).collect()
}

fn candidate(peers: &Peer) -> Candidate<Peer> {
    peers.candidate()
}

/// The first winner and its place. The other campaigns are dropped.
async fn first_leader(members: &[Peer]) -> (usize, Leadership) {
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
                group.members().iter().map(|member| Peer::start(settings(&group, member, data.path())));
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
    assert_eq!(kept.status().leader, None);
    soon("to notice", async {
        while kept.status().links.iter().any(|contact| contact.connected) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Starts a member once its directory is free.
async fn start(group: &Group, place: usize, data: &Path) -> Peer {
    soon("its directory to be free", async {
        loop {
            match Peer::start(settings(group, &group.members()[place], data)) {
                Ok(peers) => return peers,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await
}

/// Asserts that no member wins, in time enough for several elections.
async fn have_no_leader(members: &[&Peer]) {
    let stands = members.iter().map(|peers| {
        let mut candidate = candidate(peers);
        tokio::spawn(async move { candidate.campaign().await.map(drop) })
    });
    let stands: Vec<_> = stands.collect();
    tokio::time::sleep(Duration::from_secs(8)).await;
    for stand in stands {
        assert!(!stand.is_finished(), "no member may win");
        stand.abort();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test]
async fn contract_11_a_new_group_begins_once_all_its_members_have_met() {
    let (group, data) = (group(3), TempDir::new().unwrap());
    let (one, three) = (start(&group, 0, data.path()).await, start(&group, 2, data.path()).await);
    have_no_leader(&[&one, &three]).await;
    let two = start(&group, 1, data.path()).await;
    let (_, leadership) = first_leader(&[one, two, three]).await;
    assert!(leadership.holds());
}

/// Two of three members that have met lose their disks. Their replacements vote for no candidate: the remaining member may
/// have voted for a leader that they have forgotten.
#[tokio::test]
async fn contract_5_no_token_is_given_twice_by_servers_that_lost_their_disks() {
    let (group, data) = (group(3), TempDir::new().unwrap());
    let members = start_all(&group, data.path());
    let (_, leadership) = first_leader(&members).await;
    let token = leadership.token();
    drop((leadership, members));
    let elsewhere = TempDir::new().unwrap();
    let (two, three) = (start(&group, 1, elsewhere.path()).await, start(&group, 2, elsewhere.path()).await);
    have_no_leader(&[&two, &three]).await;
    drop((two, three));
    // With their own disks they form a group again.
    let mut again = Vec::new();
    for place in 0..3 {
        again.push(start(&group, place, data.path()).await);
    }
    let (_, leadership) = first_leader(&again).await;
    assert!(leadership.token() > token);
}

/// Waits until a server is told that it must not vote any more; returns the reason.
async fn is_refused(peers: &Peer) -> String {
    let refused = async {
        loop {
            let mut candidate = candidate(peers);
            let outcome = timeout(Duration::from_millis(200), candidate.campaign()).await;
            if let Ok(Err(CampaignError::Failed(why))) = outcome {
                return why;
            }
        }
    };
    soon("it to be refused", refused).await
}

#[tokio::test]
async fn contract_11_a_copy_of_a_directory_is_refused_in_use_and_later() {
    let (group, data) = (group(3), TempDir::new().unwrap());
    let mut members = start_all(&group, data.path());
    let (leader, leadership) = first_leader(&members).await;
    // It calls the others, so a copy of it that listens elsewhere reaches them too.
    let name = group.members()[0].name.as_str();
    let (twice, old) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for to in [&twice, &old] {
        copy(&data.path().join(name), &to.path().join(name));
    }
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let elsewhere = format!("127.0.0.1:{port}").parse().unwrap();
    let twin = settings(&group, &group.members()[0], twice.path()).listening_on(elsewhere);
    let twin = Peer::start(twin).unwrap();
    let why = is_refused(&twin).await;
    assert!(why.contains("is a copy"), "{why}");
    assert!(leader == 0 || leadership.holds(), "the group leads on");
    drop((twin, leadership));

    // The member itself was not disturbed, and is started a few times. Then the copy replaces it.
    for _ in 0..2 {
        drop(members.remove(0));
        members.insert(0, start(&group, 0, data.path()).await);
        drop(first_leader(&members).await);
    }
    drop(members.remove(0));
    let restored = start(&group, 0, old.path()).await;
    let why = is_refused(&restored).await;
    assert!(why.contains("is an older copy"), "{why}");
    drop(restored);
    // It is not started again.
    let again = soon("its directory to be free", async {
        loop {
            match Peer::start(settings(&group, &group.members()[0], old.path())) {
                Err(refused) if !refused.to_string().contains("in use") => return refused.to_string(),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await;
    assert!(again.contains("must not be used any more") && again.contains("is an older copy"), "{again}");
    assert!(first_leader(&members).await.1.holds(), "the others go on");
}
