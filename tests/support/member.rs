//! A member of a group that proposes records for as long as it leads, as a process that can be killed, frozen, and
//! robbed of its disk: its acknowledged commits can be compared with the other members' logs.
//!
//! It is the test's own program, started again: a test file that uses it has
//!
//! ```ignore
//! #[test]
//! #[ignore = "what the other tests run; not a test"]
//! fn member() {
//!     support::member::main();
//! }
//! ```
//!
//! It prints one line an event: see [`LoggedRecord`].

use std::{
    collections::BTreeMap,
    env,
    io::{self, Write as _},
    process,
    time::Duration,
};

use leader_election::peers::{Peer, Settings, Timing};

use super::{
    capture::{Captured, Mark},
    elect::Elect,
    eventually::eventually,
    peers::{Group, Lead},
    server::SOON,
    volume::Volume,
};

const NAME: &str = "MEMBER_NAME";
const PEERS: &str = "MEMBER_PEERS";
const DATA: &str = "MEMBER_DATA";

/// Interval between two records of one leader. All that a test writes stays well within a log's window.
const PACE: Duration = Duration::from_millis(10);

/// Large enough to fill a small disk.
const RECORD: usize = 200;

/// Runs as a member until it is killed, if the environment asks for it.
pub(crate) fn main() {
    let (Ok(name), Ok(peers), Ok(data)) = (env::var(NAME), env::var(PEERS), env::var(DATA)) else { return };
    let ms = Duration::from_millis;
    let name = name.parse().expect("a name");
    let settings = Settings::new(&name, peers.parse().expect("a group"), data).expect("a member");
    let settings = settings.with_timing(Timing::new(ms(50), ms(500), ms(1000)).expect("it can work"));
    // The harness has begun a line.
    println!();
    let runtime = tokio::runtime::Runtime::new().expect("a test can start threads");
    runtime.block_on(take_part(settings));
    process::exit(1);
}

async fn take_part(settings: Settings) {
    let peers = match Peer::start(settings) {
        Ok(peers) => peers,
        Err(error) => return say(&format!("refused: {error}")),
    };
    let mut records = peers.committed(0);
    tokio::spawn(async move {
        while let Some(record) = records.next().await {
            match record {
                Ok(record) => {
                    let name = name_of(&record.bytes);
                    say(&format!("record {} {} {name}", record.index, record.token.get()));
                }
                Err(missed) => say(&format!("missed: {missed}")),
            }
        }
    });
    let mut candidate = peers.candidate();
    loop {
        let leadership = match candidate.campaign().await {
            Ok(leadership) => leadership,
            Err(error) => return say(&format!("failed: {error}")),
        };
        let token = leadership.token().get();
        say(&format!("leads {token}"));
        for number in 0_u64.. {
            let name = format!("{token}-{number}");
            let record = format!("{name:.<RECORD$}").into_bytes();
            tokio::select! {
                biased;
                loss = leadership.lost() => {
                    say(&format!("lost {token} {loss}"));
                    break;
                }
                outcome = peers.propose(&leadership, record) => match outcome {
                    Ok(index) => say(&format!("committed {index} {token} {name}")),
                    Err(error) => say(&format!("unknown {name} {error}")),
                },
            }
            tokio::time::sleep(PACE).await;
        }
    }
}

fn name_of(record: &[u8]) -> String {
    String::from_utf8_lossy(record).trim_end_matches('.').to_owned()
}

/// Prints with one write a line, so that lines of two tasks don't mix.
fn say(what: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(format!("{what}\n").as_bytes()).and_then(|()| out.flush());
}

/// Starts that member of the group, on its volume if it has one.
pub(crate) fn start(group: &Group, place: usize, volume: Option<&Volume>) -> Captured {
    let args = ["--exact", "member", "--ignored", "--nocapture", "--test-threads=1"];
    let args = args.map(String::from).to_vec();
    let program = env::current_exe().expect("a test has a program");
    let program = program.to_str().expect("it has a plain name");
    let elect = match volume {
        Some(volume) => volume.run(program, args),
        None => Elect::of(program, args),
    };
    let data = group.data(place);
    let elect = elect.env(NAME, group.name(place)).env(PEERS, group.list()).env(DATA, data);
    elect.called(group.name(place)).start()
}

/// A record's place in the log, as printed by a member.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LoggedRecord {
    pub(crate) index: u64,
    pub(crate) token: u64,
    pub(crate) name: String,
}

/// Its proposals that were acknowledged as committed.
pub(crate) fn acknowledged(member: &Captured) -> Vec<LoggedRecord> {
    said(member, "committed")
}

/// The records it read from the log, in order.
pub(crate) fn read(member: &Captured) -> Vec<LoggedRecord> {
    said(member, "record")
}

fn said(member: &Captured, what: &str) -> Vec<LoggedRecord> {
    let lines = member.stdout().into_iter().filter_map(|line| {
        let mut words = line.strip_prefix(what)?.strip_prefix(' ')?.split(' ');
        let mut number = || words.next()?.parse().ok();
        let (index, token) = (number()?, number()?);
        Some(LoggedRecord { index, token, name: words.next()?.to_owned() })
    });
    lines.collect()
}

/// Waits until one of these leads a later term, and so many records of it are committed.
#[track_caller]
pub(crate) fn commits_after(members: &[Captured], token: u64, count: usize) -> Lead {
    eventually(SOON, &format!("{count} records of a term after {token}"), || {
        members.iter().enumerate().find_map(|(place, member)| {
            let mut terms: BTreeMap<u64, usize> = BTreeMap::new();
            for said in acknowledged(member).iter().filter(|said| said.token > token) {
                *terms.entry(said.token).or_default() += 1;
            }
            let token = terms.into_iter().find(|(_, committed)| *committed >= count)?.0;
            Some(Lead { place, token })
        })
    })
}

/// Checks everything that members of one group ever printed, killed members included: each of
/// `alive` eventually has every acknowledged record at its index, and no two ever read
/// different logs.
#[track_caller]
pub(crate) fn nothing_is_lost(killed: &[Captured], alive: &[Captured]) {
    let all = || killed.iter().chain(alive);
    let acknowledged: BTreeMap<u64, LoggedRecord> =
        all().flat_map(acknowledged).map(|said| (said.index, said)).collect();
    let last = acknowledged.keys().next_back().copied().expect("something was committed");
    for member in alive {
        member.wait_for_line_since(Mark::START, |line: &str| reaches(line, last), SOON);
        let has: BTreeMap<u64, LoggedRecord> =
            read(member).into_iter().map(|said| (said.index, said)).collect();
        for (index, said) in &acknowledged {
            assert_eq!(has.get(index), Some(said), "a committed record, as {member:?} has it");
        }
    }
    let mut log: BTreeMap<u64, LoggedRecord> = BTreeMap::new();
    for member in all() {
        let read = read(member);
        assert!(read.is_sorted_by(|one, next| one.index < next.index && one.token <= next.token));
        for said in read {
            let known = log.entry(said.index).or_insert_with(|| said.clone());
            assert_eq!(*known, said, "two members read different logs");
        }
    }
}

/// Reports whether that line shows a record at this index or a later one.
fn reaches(line: &str, index: u64) -> bool {
    let at = line.strip_prefix("record ").and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    at.is_some_and(|at| at >= index)
}
