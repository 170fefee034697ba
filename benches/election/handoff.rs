//! A planned change of leaders: SIGTERM to the leader, and the next one leads.

use std::{thread, time::Duration};

use etcd_client::{EventType, WatchOptions};
use nix::sys::signal::Signal;
use tokio::time::timeout;

use crate::{
    Bench,
    programs::{LEADER, SOON, Side, Stand},
    report::{Report, Target},
    sample::Sample,
    support::{client::Admin, clock::BootTime},
    trials::election,
};

/// After which a candidate that has just queued waits for nothing but its turn: etcd looks after a new watch,
/// its own Campaign's too, every 100 ms at first.
pub(crate) const SETTLE: Duration = Duration::from_millis(150);

/// Who gives way to whom. The mixed ones show on which side of a handoff the time goes.
const PAIRS: [(Side, Side); 4] =
    [(Side::Ours, Side::Ours), (Side::Twin, Side::Twin), (Side::Ours, Side::Twin), (Side::Twin, Side::Ours)];

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    let trials = bench.scale.of(200, 3);
    report.section("handoff", "from SIGTERM to the leader's process to the next one's `I am the leader.`");
    let admin = bench.etcd.admin();
    let mut samples = PAIRS.map(|_| Sample::default());
    let mut floor = Sample::default();
    for trial in 0..trials {
        // Each goes first in its turn.
        for turn in 0..PAIRS.len() {
            let index = (trial + turn) % PAIRS.len();
            samples[index].add(hand_over(bench, &admin, PAIRS[index]).as_secs_f64() * 1e3);
        }
        floor.add(delete_to_event(bench).as_secs_f64() * 1e3);
    }
    let [ours, twin, from_ours, to_ours] = samples;
    report.ratio("graceful handoff", "ms", &ours, &twin, "twin", Target::AtMost(1.0));
    report.ratio("the same, beside a delete and its event", "ms", &ours, &floor, "floor", Target::None);
    report.ratio("ours gives way to a twin", "ms", &from_ours, &twin, "twin", Target::None);
    report.ratio("a twin gives way to ours", "ms", &to_ours, &twin, "twin", Target::None);
}

/// A leader, a follower, and no one else.
pub(crate) fn hand_over(bench: &Bench, admin: &Admin, (from, to): (Side, Side)) -> Duration {
    let stand = Stand { endpoint: bench.etcd.endpoint(), election: election("handoff"), ttl: 5 };
    let mut leader = from.start(&stand, "first");
    leader.wait_for_line(LEADER, SOON);
    let mut follower = to.start(&stand, "second");
    admin.wait_for_candidates(&stand.election, 2, SOON);
    thread::sleep(SETTLE);

    let told = BootTime::now();
    leader.signal(Signal::SIGTERM);
    let took = follower.wait_for_line(LEADER, SOON).at - told;
    assert!(leader.wait_exit(SOON).success(), "{} did not end well", from.name());
    // Gone before the next trial, so that it takes no time from it.
    follower.signal(Signal::SIGTERM);
    assert!(follower.wait_exit(SOON).success(), "{} did not end well", to.name());
    took
}

/// What no election on etcd can be faster than: a client deletes a key, another one sees it go.
fn delete_to_event(bench: &Bench) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime starts wherever this does");
    let (key, mut deleter, mut watcher) = (election("floor"), bench.etcd.admin(), bench.etcd.admin());
    let revision = deleter.put(key.clone(), "");
    let (deleter, watcher) = (&mut deleter, &mut watcher);
    let measured = async {
        let options = WatchOptions::new().with_start_revision(revision + 1);
        let mut events = watcher.client().watch(key.clone(), Some(options)).await?;
        let asked = BootTime::now();
        let mut client = deleter.client();
        let deleting = tokio::spawn(async move { client.delete(key, None).await });
        let took = loop {
            let message = events.message().await?.expect("etcd keeps the watch open");
            if message.events().iter().any(|event| event.event_type() == EventType::Delete) {
                break asked.elapsed();
            }
        };
        deleting.await.expect("nothing panics here")?;
        Ok::<_, etcd_client::Error>(took)
    };
    let measured = runtime.block_on(async { timeout(SOON, measured).await });
    measured.expect("etcd answers in time").expect("etcd deletes a key")
}
