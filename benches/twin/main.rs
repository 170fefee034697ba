//! The baseline for `elect`: the least that a program on etcd-client must do to be elected.
//!
//! It connects, takes a lease, renews it every third of its TTL, calls `Campaign`, and calls `Resign` at the
//! end. It verifies no win, watches nothing, retries nothing, and believes that it leads until it is told to
//! stop, or a renewal shows that the lease is gone. Not an example to follow.
//!
//! ```text
//! bench-twin one       ENDPOINT ELECTION NAME TTL    one candidate, until SIGTERM
//! bench-twin claimant  ENDPOINT ELECTION NAME TTL    the same, and prints `claims NANOS TOKEN` every ms while it leads
//! bench-twin crowd     ENDPOINT ELECTION COUNT TTL   many on one connection; on SIGUSR1 each gives way in turn
//! bench-twin elections ENDPOINT PREFIX COUNT TTL     alone in many elections, from SIGUSR1 until SIGTERM
//! ```

use std::{env, time::Duration};

use etcd_client::{Client, Error, LeaderKey, ResignOptions};
use nix::time::{ClockId, clock_gettime};
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep},
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

// One thread: the fastest choice for so little work, so the hardest baseline.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let args: Vec<_> = env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match args[..] {
        [how @ ("one" | "claimant"), endpoint, election, name, ttl] => {
            one(endpoint, election, name, ttl.parse()?, how == "claimant").await
        }
        ["crowd", endpoint, election, count, ttl] => {
            crowd(endpoint, election, count.parse()?, ttl.parse()?).await
        }
        ["elections", endpoint, prefix, count, ttl] => {
            elections(endpoint, prefix, count.parse()?, ttl.parse()?).await
        }
        _ => Err("this belongs to `make bench`; its arguments are in benches/twin/main.rs".into()),
    }
}

async fn one(endpoint: &str, election: &str, name: &str, ttl: u64, claims: bool) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let client = Client::connect([endpoint], None).await?;
    let lease = client.lease_client().grant(ttl.cast_signed(), None).await?.id();
    let mut renewing = tokio::spawn(renew(client.clone(), lease, ttl));

    let mut candidate = client.election_client();
    let leader = tokio::select! {
        won = candidate.campaign(election, name, lease) => won?.take_leader(),
        _ = terminate.recv() => return Ok(()),
    };
    println!("I am the leader.");

    let token = leader.as_ref().map_or(0, LeaderKey::rev);
    let mut every = interval(Duration::from_millis(1));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            ended = &mut renewing => return Ok(ended??),
            _ = every.tick(), if claims => {
                println!("claims {} {token}", Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?).as_nanos());
            }
        }
    }
    resign(&client, leader).await?;
    Ok(())
}

async fn crowd(endpoint: &str, election: &str, count: usize, ttl: u64) -> Result<(), Failure> {
    let mut go = signal(SignalKind::user_defined1())?;
    let client = Client::connect([endpoint], None).await?;
    let started = watch::Sender::new(None);
    let mut candidates = JoinSet::new();
    for number in 0..count {
        let (client, election, started) = (client.clone(), election.to_owned(), started.subscribe());
        candidates.spawn(one_of_many(client, election, number, ttl, started));
    }
    go.recv().await;
    let start = Instant::now();
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
    client: Client,
    election: String,
    number: usize,
    ttl: u64,
    mut started: watch::Receiver<Option<Instant>>,
) -> Result<Duration, Failure> {
    let lease = client.lease_client().grant(ttl.cast_signed(), None).await?.id();
    let renewing = tokio::spawn(renew(client.clone(), lease, ttl));
    let leader = client.election_client().campaign(election, number.to_string(), lease).await?.take_leader();
    let won = Instant::now();
    let start = started.wait_for(Option::is_some).await?.ok_or("there is no start")?;
    resign(&client, leader).await?;
    renewing.abort();
    Ok(won.saturating_duration_since(start))
}

/// Leads alone in each of many elections. Prints when it is connected, when it leads all, and at the end the number of
/// leases renewed throughout.
async fn elections(endpoint: &str, prefix: &str, count: usize, ttl: u64) -> Result<(), Failure> {
    let (mut go, mut terminate) = (signal(SignalKind::user_defined1())?, signal(SignalKind::terminate())?);
    let client = Client::connect([endpoint], None).await?;
    // The connection is made by its first call.
    client.kv_client().get(prefix, None).await?;
    println!("ready");
    go.recv().await;
    let start = Instant::now();
    let mut standing = JoinSet::new();
    for number in 0..count {
        standing.spawn(lead_alone(client.clone(), format!("{prefix}-{number}"), ttl));
    }
    let mut led: Vec<Led> = Vec::with_capacity(count);
    while let Some(one) = standing.join_next().await {
        led.push(one??);
    }
    let tasks = Handle::current().metrics().num_alive_tasks();
    println!("led {count} {} {tasks}", start.elapsed().as_nanos());
    terminate.recv().await;
    println!("kept {}", led.iter().filter(|one| !one.renewing.is_finished()).count());
    let mut leaving: JoinSet<_> = led
        .into_iter()
        .map(|one| {
            let client = client.clone();
            async move { resign(&client, one.leader).await }
        })
        .collect();
    while let Some(left) = leaving.join_next().await {
        left??;
    }
    Ok(())
}

struct Led {
    leader: Option<LeaderKey>,
    renewing: JoinHandle<Result<(), Error>>,
}

async fn lead_alone(client: Client, election: String, ttl: u64) -> Result<Led, Error> {
    let lease = client.lease_client().grant(ttl.cast_signed(), None).await?.id();
    let renewing = tokio::spawn(renew(client.clone(), lease, ttl));
    let leader = client.election_client().campaign(election, "bench", lease).await?.take_leader();
    Ok(Led { leader, renewing })
}

/// Returns once the lease is gone, or etcd does not answer.
async fn renew(client: Client, lease: i64, ttl: u64) -> Result<(), Error> {
    let (mut requests, mut answers) = client.lease_client().keep_alive(lease).await?;
    loop {
        sleep(Duration::from_secs(ttl) / 3).await;
        requests.keep_alive().await?;
        match answers.message().await? {
            Some(answer) if answer.ttl() > 0 => {}
            _ => return Ok(()),
        }
    }
}

async fn resign(client: &Client, leader: Option<LeaderKey>) -> Result<(), Error> {
    let leader = leader.ok_or_else(|| Error::InvalidArgs("etcd named no leader's key".into()))?;
    client.election_client().resign(Some(ResignOptions::new().with_leader(leader))).await?;
    Ok(())
}
