//! Two hundred elections in one process, over one connection, with a change of leadership in one of them every
//! second: memory, tasks and file descriptors stay level, and no renewal is late.
//!
//! The test runs the library on its own runtime, so that its tasks can be counted. Only one test here runs by
//! default, so nothing else shares the process.
//!
//! `make soak MINUTES=10` runs it longer.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{collections::VecDeque, env, fs, time::Duration};

use leader_election::{
    Candidate, ElectionName, Leadership, Loss,
    candidate::{Event, Events},
    etcd::{Etcd, Settings},
    timing::Ttl,
};
use support::{etcd::EtcdVersion, proxy::Proxy};
use tokio::{
    runtime::Handle,
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

const ELECTIONS: usize = 200;

/// Long compared with the stalls of a machine that is busy with other tests.
const TTL: Duration = Duration::from_secs(12);

/// Interval between changes; in each, one election changes its leader, and changes it back.
const CHANGE_EVERY: Duration = Duration::from_secs(1);

/// For operations that take milliseconds on an idle machine.
const AT_MOST: Duration = Duration::from_secs(60);

/// Share of the time for caches, pools and the allocator to fill.
const WARM_UP: f64 = 0.4;

/// Growth allowed after that, however long it takes. A leak of 10 KiB a change, which is less than one
/// candidate, would add more in the ten minutes.
const MORE_KIB: i64 = 3072;

/// Tasks and timers of the two changes that may be in progress at one sample and not at the other. A leak of
/// one a change is more than this in the short run already.
const MORE_TASKS: i64 = 8;
const MORE_DESCRIPTORS: i64 = 8;

#[tokio::test(flavor = "current_thread")]
async fn half_a_minute() {
    soak(Duration::from_secs(25)).await;
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "takes the MINUTES that `make soak` is given"]
async fn minutes() {
    let minutes: f64 = env::var("MINUTES").unwrap_or("10".into()).parse().unwrap();
    soak(Duration::from_secs_f64(minutes * 60.0)).await;
}

async fn soak(length: Duration) {
    let server = support::etcd::Etcd::start(EtcdVersion::V3_7);
    // The proxy only counts connections.
    let proxy = Proxy::start(&server.endpoint());
    let settings = Settings::new([proxy.endpoint().parse().unwrap()]).unwrap();
    let etcd = Etcd::start_on(Handle::current(), settings);

    let mut seats = all_lead(&etcd).await;
    let (began, mut samples) = (Instant::now(), Vec::new());
    let (mut changes, mut slowest) = (0, Duration::ZERO);
    let mut ticks = interval(CHANGE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while began.elapsed() < length {
        ticks.tick().await;
        let seat = seats.pop_front().expect("there are many");
        let changing = Instant::now();
        let changed = timeout(AT_MOST, seat.change_and_change_back(&etcd)).await;
        seats.push_back(changed.expect("each of four steps takes milliseconds"));
        (changes, slowest) = (changes + 1, slowest.max(changing.elapsed()));
        seats.iter_mut().for_each(Seat::follow);
        samples.push(Sample::now());
    }

    let lasted = began.elapsed();
    let held = seats.iter().filter(|seat| seat.leadership.holds()).count();
    let renewals: usize = seats.iter().map(|seat| seat.renewals).sum();
    let least_left = seats.iter().map(|seat| seat.least_left).min().expect("there are many");
    eprintln!(
        "{ELECTIONS} elections, {lasted:.0?}: {changes} times there and back, at most {slowest:.0?}; \
         {renewals} renewals, the latest with {least_left:.1?} of its time left"
    );
    show(&samples);
    assert_eq!(held, ELECTIONS, "some do not lead any more");
    // Each election is renewed three times in a TTL; a change begins a new lease, which is renewed a third later.
    let due = (lasted.as_secs_f64() / (TTL.as_secs_f64() / 3.0)).floor() * ELECTIONS as f64;
    assert!(renewals as f64 >= 0.9 * due - (ELECTIONS + changes) as f64, "{renewals} renewals of {due}");
    assert!(least_left > Duration::ZERO, "a renewal came too late to count");
    assert_eq!(proxy.connections(), 1, "it has connected anew");
    assert_flat(&samples);

    for seat in seats {
        seat.leadership.resign().await.unwrap();
    }
    timeout(AT_MOST, etcd.drained()).await.expect("all leases are given back");
    assert_eq!(server.admin().leases(), [0; 0]);
}

/// One election, and this process's candidate that leads in it.
struct Seat {
    candidate: Candidate<Etcd>,
    leadership: Leadership,
    events: Events,
    renewals: usize,
    /// The least validity left when a renewal was acknowledged.
    least_left: Duration,
}

async fn all_lead(etcd: &Etcd) -> VecDeque<Seat> {
    let mut winning = JoinSet::new();
    for number in 0..ELECTIONS {
        let mut candidate = candidate(etcd, format!("soak/{number}").parse().unwrap(), "usual");
        let events = candidate.subscribe();
        winning.spawn(async move {
            let leadership = candidate.campaign().await.unwrap();
            Seat { candidate, leadership, events, renewals: 0, least_left: TTL }
        });
    }
    timeout(AT_MOST, winning.join_all()).await.expect("all win").into()
}

fn candidate(etcd: &Etcd, election: ElectionName, name: &str) -> Candidate<Etcd> {
    etcd.candidate(election).unwrap().ttl(Ttl::new(TTL).unwrap()).named(name).unwrap()
}

/// A campaign behind the present leader.
async fn queue(mut candidate: Candidate<Etcd>) -> JoinHandle<(Candidate<Etcd>, Leadership)> {
    let mut events = candidate.subscribe();
    let campaign = tokio::spawn(async move {
        let leadership = candidate.campaign().await.unwrap();
        (candidate, leadership)
    });
    while !matches!(events.next().await, Some(Event::Following { .. })) {}
    campaign
}

impl Seat {
    /// Another candidate queues, leads after this one, and leaves again.
    async fn change_and_change_back(mut self, etcd: &Etcd) -> Self {
        let tokens = [self.leadership.token()];
        let other = candidate(etcd, self.leadership.election().clone(), "other");
        let other = queue(other).await;
        self.leadership.resign().await.unwrap();
        let (other_candidate, other) = other.await.unwrap();
        let back = queue(self.candidate).await;
        let tokens = [tokens[0], other.token()];
        other.resign().await.unwrap();
        drop(other_candidate);
        (self.candidate, self.leadership) = back.await.unwrap();
        assert!(tokens[0] < tokens[1] && tokens[1] < self.leadership.token());
        self
    }

    fn follow(&mut self) {
        loop {
            match self.events.try_next() {
                Some(Event::Renewed { left, .. }) => {
                    self.renewals += 1;
                    self.least_left = self.least_left.min(left);
                }
                Some(Event::Retrying { problem, .. }) => panic!("an attempt failed: {problem}"),
                Some(Event::Missed { count }) => panic!("{count} events were missed"),
                Some(Event::Lost { loss, .. }) => assert_eq!(loss, Loss::Resigned),
                Some(_) => {}
                None => return,
            }
        }
    }
}

/// Resources of this process.
#[derive(Clone, Copy, Debug)]
struct Sample {
    resident_kib: i64,
    tasks: i64,
    descriptors: i64,
}

impl Sample {
    fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let resident_kib = resident.trim().trim_end_matches(" kB").parse().unwrap();
        let tasks = Handle::current().metrics().num_alive_tasks() as i64;
        let descriptors = fs::read_dir("/proc/self/fd").unwrap().count() as i64;
        Self { resident_kib, tasks, descriptors }
    }
}

/// Prints eleven samples, from the first to the last.
fn show(samples: &[Sample]) {
    for tenth in 0..=10 {
        let Sample { resident_kib, tasks, descriptors } = samples[(samples.len() - 1) * tenth / 10];
        eprintln!("{:3} %: {resident_kib} KiB, {tasks} tasks, {descriptors} descriptors", 10 * tenth);
    }
}

/// Compares the end with the end of the warm-up, by the medians of some samples around each, so that a change
/// in progress is not taken for growth.
fn assert_flat(samples: &[Sample]) {
    let warm = &samples[(samples.len() as f64 * WARM_UP) as usize..];
    let some = (warm.len() / 4).clamp(1, 20);
    let (first, last) = (&warm[..some], &warm[warm.len() - some..]);
    let growth = |of: fn(&Sample) -> i64| median(last, of) - median(first, of);
    let memory = growth(|sample| sample.resident_kib);
    let (tasks, descriptors) = (growth(|sample| sample.tasks), growth(|sample| sample.descriptors));
    eprintln!("after the warm-up: {memory:+} KiB, {tasks:+} tasks, {descriptors:+} descriptors");
    assert!(memory <= MORE_KIB, "{memory} KiB more");
    assert!(tasks <= MORE_TASKS, "{tasks} tasks more");
    assert!(descriptors <= MORE_DESCRIPTORS, "{descriptors} descriptors more");
}

fn median(samples: &[Sample], of: fn(&Sample) -> i64) -> i64 {
    let mut values: Vec<_> = samples.iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2]
}
