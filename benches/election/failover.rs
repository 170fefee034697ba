//! A crash: SIGKILL to the leader's process, and the next one leads when etcd has let the lease expire.
//!
//! Most of the time is etcd's: what is left of the lease, and up to half a second until its next look for
//! expired ones. So the part after that is shown as well: from the key's end to the next leader.

use std::thread;

use etcd_client::EventType;
use tokio::sync::oneshot;

use crate::{
    Bench,
    programs::{LEADER, SOON, Side, Stand},
    report::{Report, Target},
    sample::Sample,
    support::{client::Admin, clock::BootTime, runtime},
    trials::{concurrently, election},
};

/// Trials that wait at the same time, each in an election of its own; every other one is the twin's.
const AT_ONCE: usize = 20;

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    let trials = bench.scale.of(50, 3);
    report.section(
        "failover",
        &format!(
            "from SIGKILL to the leader, right after a renewal, to the next one's `I am the leader.`; \
             {AT_ONCE} elections at a time"
        ),
    );
    let admin = bench.etcd.admin();
    for ttl in [2, 5] {
        let done = concurrently(2 * trials, AT_ONCE, |index| {
            let side = Side::BOTH[index % 2];
            (side, fail_over(bench, &admin, side, ttl))
        });
        let [ours, twin] = Side::BOTH.map(|side| {
            let of_side = done.iter().flatten().filter(|(of, _)| *of == side);
            of_side.map(|(_, times)| times).collect::<Vec<_>>()
        });
        let total =
            |times: &[&Times]| times.iter().map(|times| times.leads - times.killed).collect::<Sample>();
        let what = format!("crash failover, TTL {ttl} s");
        report.ratio(&what, "ms", &total(&ours), &total(&twin), "twin", Target::AtMost(1.0));
        let after = |times: &[&Times]| times.iter().map(|times| times.leads - times.gone).collect::<Sample>();
        let what = format!("of which after the key's end, TTL {ttl} s");
        report.ratio(&what, "ms", &after(&ours), &after(&twin), "twin", Target::None);
        if ours.len() < trials || twin.len() < trials {
            report.failed(&format!("{} trials of failover", 2 * trials - ours.len() - twin.len()));
        }
    }
}

struct Times {
    killed: BootTime,
    /// When another client saw the dead leader's key deleted.
    gone: BootTime,
    leads: BootTime,
}

fn fail_over(bench: &Bench, admin: &Admin, side: Side, ttl: u64) -> Times {
    let stand = Stand { endpoint: bench.etcd.endpoint(), election: election("failover"), ttl };
    let mut leader = side.start(&stand, "first");
    leader.wait_for_line(LEADER, SOON);
    let follower = side.start(&stand, "second");
    let queue = admin.wait_for_candidates(&stand.election, 2, SOON);
    let gone = deletion_of(admin, queue[0].key.clone());
    // So that the moments at which etcd looks for expired leases fall anywhere in a trial.
    thread::sleep(std::time::Duration::from_millis(fastrand::u64(100..600)));

    leader.wait_for_line_since(leader.mark(), side.renewal(), SOON);
    let killed = BootTime::now();
    leader.kill();
    let leads = follower.wait_for_line(LEADER, SOON).at;
    let gone = gone.blocking_recv().expect("the key goes before another one leads");
    Times { killed, gone, leads }
}

/// When a client sees the key go.
fn deletion_of(admin: &Admin, key: String) -> oneshot::Receiver<BootTime> {
    let (tell, told) = oneshot::channel();
    let mut client = admin.client();
    runtime::handle().spawn(async move {
        let mut events = client.watch(key, None).await?;
        while let Some(message) = events.message().await? {
            if message.events().iter().any(|event| event.event_type() == EventType::Delete) {
                let _ = tell.send(BootTime::now());
                break;
            }
        }
        Ok::<_, etcd_client::Error>(())
    });
    told
}
