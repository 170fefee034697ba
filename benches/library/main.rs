//! Programs on the library, for measurements that the `elect` command is too coarse for.
//!
//! ```text
//! bench-library claimant  ENDPOINT ELECTION NAME TTL    prints `claims NANOS TOKEN` every ms while it leads
//! bench-library peer      NAME GROUP DATA ELECTION      the same, as a member of a group without etcd
//! bench-library voter     NAME GROUP LISTEN DATA        the same, but stands from SIGUSR1 on; until then it only votes
//! bench-library proposer  NAME GROUP LISTEN DATA        such a voter that proposes records once it leads: how long one
//!                                                       takes, one after the other, and many that are under way at once
//! bench-library crowd     ENDPOINT ELECTION COUNT TTL   many on one `Etcd`; on SIGUSR1 each gives way in turn
//! bench-library apart     ENDPOINT ELECTION COUNT TTL   the same, with the renewals on a thread of their own
//! bench-library elections ENDPOINT PREFIX COUNT TTL     alone in many elections, from SIGUSR1 until SIGTERM
//! bench-library worker [claims]                         a command for others to run: says that it runs
//! ```

use std::{env, pin::pin, sync::Arc, thread, time::Duration};

use leader_election::{
    Candidate, Leadership,
    candidate::{Backend, Event, Events},
    clock::Timestamp,
    etcd::{Etcd, Settings},
    peers::{self, Peer},
    timing::Ttl,
};
use tokio::{
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let args: Vec<_> = env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["claimant", endpoint, election, name, ttl] => {
            let ttl = Ttl::new(Duration::from_secs(ttl.parse()?))?;
            let etcd = Etcd::start(settings(endpoint)?)?;
            claimant(etcd.candidate(election)?.ttl(ttl).named(name)?).await
        }
        ["peer", name, group, data, election] => {
            let settings = peers::Settings::new(&name.parse()?, group.parse()?, data)?;
            let peers = Peer::start(settings.with_election(election.parse()?))?;
            let candidate = peers.candidate();
            tokio::spawn(tell_of_following(candidate.subscribe()));
            claimant(candidate).await
        }
        [how @ ("voter" | "proposer"), name, group, listen, data] => {
            let mut stand = signal(SignalKind::user_defined1())?;
            let settings = peers::Settings::new(&name.parse()?, group.parse()?, data)?;
            let peers = Peer::start_on(Handle::current(), settings.listening_on(listen.parse()?))?;
            println!("votes");
            stand.recv().await;
            let mut candidate = peers.candidate();
            match how {
                "voter" => claimant(candidate).await,
                _ => Ok(propose(&peers, Arc::new(candidate.campaign().await?)).await?),
            }
        }
        [how @ ("crowd" | "apart"), endpoint, election, count, ttl] => {
            let ttl = Ttl::new(Duration::from_secs(ttl.parse()?))?;
            let etcd = match how {
                "crowd" => Etcd::start_on(Handle::current(), settings(endpoint)?),
                _ => Etcd::start(settings(endpoint)?)?,
            };
            crowd(etcd, election, count.parse()?, ttl).await
        }
        ["elections", endpoint, prefix, count, ttl] => {
            let ttl = Ttl::new(Duration::from_secs(ttl.parse()?))?;
            elections(Etcd::start_on(Handle::current(), settings(endpoint)?), prefix, count.parse()?, ttl)
                .await
        }
        ["worker"] => work(false),
        ["worker", "claims"] => work(true),
        _ => Err("this belongs to `make bench`; its arguments are in benches/library/main.rs".into()),
    }
}

fn settings(endpoint: &str) -> Result<Settings, Failure> {
    Ok(endpoint.parse()?)
}

/// Claims leadership for as long as the guard confirms it, and asks nothing but the guard.
async fn claimant<B: Backend>(mut candidate: Candidate<B>) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        let leadership = {
            let mut campaign = pin!(candidate.campaign());
            tokio::select! {
                biased;
                _ = terminate.recv() => return Ok(()),
                won = &mut campaign => won?,
            }
        };
        if claim_until_lost(&leadership, &mut terminate).await {
            // Just lost, or not confirmed in time: it is over in any case.
            let _ = leadership.resign().await;
            return Ok(());
        }
    }
}

async fn tell_of_following(mut events: Events) {
    while let Some(event) = events.next().await {
        if let Event::Following { .. } = event {
            println!("I am a follower.");
        }
    }
}

/// Claims until leadership is lost. Returns whether it was told to stop.
async fn claim_until_lost(leadership: &Leadership, terminate: &mut Signal) -> bool {
    let mut every = interval(Duration::from_millis(1));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stop = pin!(terminate.recv());
    loop {
        // Read first, so that the claim is at least as old as the guard's judgement.
        let now = Timestamp::now();
        if !leadership.holds() {
            return false;
        }
        println!("claims {} {}", now.as_nanos(), leadership.token());
        tokio::select! {
            biased;
            _ = &mut stop => return true,
            _ = every.tick() => {}
        }
    }
}

/// About the size of a decision.
const RECORD: [u8; 64] = [b'x'; 64];

/// Number of records proposed one after the other.
const ALONE: usize = 200;

/// Number of records proposed concurrently, and how many at a time.
const TOGETHER: usize = 20_000;
const UNDER_WAY: usize = 512;

/// Prints `alone MICROS` for each of the former, and `together COUNT NANOS` for all of the latter.
async fn propose(peers: &Peer, leadership: Arc<Leadership>) -> Result<(), Failure> {
    for _ in 0..ALONE {
        let asked = Timestamp::now();
        peers.propose(&leadership, RECORD).await?;
        println!("alone {}", Timestamp::now().since(asked).as_micros());
    }
    let started = Timestamp::now();
    let mut under_way = JoinSet::new();
    for _ in 0..TOGETHER {
        if under_way.len() >= UNDER_WAY
            && let Some(proposed) = under_way.join_next().await
        {
            proposed??;
        }
        let (peers, leadership) = (peers.clone(), Arc::clone(&leadership));
        under_way.spawn(async move { peers.propose(&leadership, RECORD).await });
    }
    while let Some(proposed) = under_way.join_next().await {
        proposed??;
    }
    println!("together {TOGETHER} {}", Timestamp::now().since(started).as_nanos());
    Ok(())
}

async fn crowd(etcd: Etcd, election: &str, count: usize, ttl: Ttl) -> Result<(), Failure> {
    let mut go = signal(SignalKind::user_defined1())?;
    let started = watch::Sender::new(None);
    let mut candidates = JoinSet::new();
    for number in 0..count {
        let candidate = etcd.candidate(election)?.ttl(ttl).named(number.to_string())?;
        candidates.spawn(one_of_many(candidate, started.subscribe()));
    }
    go.recv().await;
    let start = Timestamp::now();
    started.send_replace(Some(start));
    let mut last = Duration::ZERO;
    while let Some(won) = candidates.join_next().await {
        last = last.max(won??);
    }
    println!("handoffs {} {}", count - 1, last.as_nanos());
    Ok(())
}

/// Queues, wins, and gives way at once, but not before the start. Returns the time from the start to its win.
async fn one_of_many(
    mut candidate: Candidate<Etcd>,
    mut started: watch::Receiver<Option<Timestamp>>,
) -> Result<Duration, Failure> {
    let leadership = candidate.campaign().await?;
    let won = Timestamp::now();
    let start = started.wait_for(Option::is_some).await?.ok_or("there is no start")?;
    leadership.resign().await?;
    Ok(won.since(start))
}

/// Interval between two checks of all validities.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Leads alone in each of many elections. Prints when it is connected, when it leads all, and at the end the number
/// of terms kept throughout, and the least validity left at any check.
async fn elections(etcd: Etcd, prefix: &str, count: usize, ttl: Ttl) -> Result<(), Failure> {
    let (mut go, mut terminate) = (signal(SignalKind::user_defined1())?, signal(SignalKind::terminate())?);
    // The connection is made by its first call.
    etcd.snapshot(prefix.parse()?).await?;
    println!("ready");
    go.recv().await;
    let start = Timestamp::now();
    let mut standing = JoinSet::new();
    for number in 0..count {
        let mut candidate = etcd.candidate(format!("{prefix}-{number}"))?.ttl(ttl).named("bench")?;
        standing.spawn(async move { candidate.campaign().await });
    }
    let mut led = Vec::with_capacity(count);
    while let Some(won) = standing.join_next().await {
        led.push(won??);
    }
    let took = Timestamp::now().since(start);
    println!("led {count} {} {}", took.as_nanos(), Handle::current().metrics().num_alive_tasks());

    let mut least_left = Duration::MAX;
    let mut look = interval(LOOK_EVERY);
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = look.tick() => {
                let left = led.iter().map(|one| one.remaining()).min();
                least_left = least_left.min(left.unwrap_or_default());
            }
        }
    }
    println!("kept {} {}", led.iter().filter(|one| one.holds()).count(), least_left.as_nanos());
    let mut leaving: JoinSet<_> = led.into_iter().map(Leadership::resign).collect();
    while let Some(left) = leaving.join_next().await {
        left??;
    }
    Ok(())
}

/// Works until it is killed.
fn work(claims: bool) -> Result<(), Failure> {
    println!("I am the leader.");
    loop {
        if claims {
            println!("claims {} 0", Timestamp::now().as_nanos());
        }
        thread::sleep(if claims { Duration::from_millis(1) } else { Duration::from_secs(1) });
    }
}
