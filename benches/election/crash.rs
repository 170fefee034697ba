//! A crash: SIGKILL to the leader's process; the next one leads once etcd has expired the lease.
//!
//! Most of the time is etcd's: the rest of the lease, and up to half a second until its next check for
//! expired leases. So the last part is shown as well: from the key's end to the next leader.

use std::{thread, time::Duration};

use etcd_client::EventType;
use tokio::sync::oneshot;

use crate::{
    Bench,
    contender::{How, but},
    field::Field,
    report::{
        Floors, Section,
        measure::{Better, Measure},
        number::Unit,
        sample::Sample,
        who::{Kind, Who},
    },
    support::{client::Admin, clock::BootTime, runtime},
    trials::concurrently,
};

/// Trials at a time, which mostly wait, each in an election of its own; contenders take turns.
const AT_ONCE: usize = 20;

const TTLS: [u64; 2] = [2, 5];

/// Limit for a crash among three peers, at the default timing.
const RAFT_MEDIAN_SECONDS: f64 = 0.4;
const RAFT_MOST_SECONDS: f64 = 1.0;

pub(crate) fn measure(bench: &Bench, _: &mut Floors) -> Section {
    let trials = bench.scale.of(30, 3);
    let mut section = Section::new(
        "crash",
        "Crash",
        format!(
            "From SIGKILL to the leader's process until the next one leads. The moments of the crash are spread evenly over \
             the time between two renewals, the same for all; {AT_ONCE} elections at a time. *After the key's \
             end*: what is left of it once another client saw etcd delete the leader's key. (`elect run` has a guard \
             that gives leadership up when its supervisor is gone.)"
        ),
    );
    for ttl in TTLS {
        let of = |what: &str| format!("{what}, TTL {ttl} s");
        let (name, name_after) =
            if ttl == 5 { ("crash", "crash-after-key") } else { ("crash-2s", "crash-after-key-2s") };
        let mut total = Measure::new(name, of("crash"), Unit::Seconds, Better::Less).plotted();
        total.headline = ttl == 5;
        let mut after =
            Measure::new(name_after, of("after the key's end"), Unit::Milliseconds, Better::Neither);
        after.beside = crate::report::measure::Beside::Floors;
        // A contender with a fixed TTL is measured once. `etcdctl elect` takes a minute: in the background.
        let contenders = bench.contenders().into_iter().filter(|who| ttl == 5 || but(*who, ttl).is_none());
        let (fixed, contenders): (Vec<_>, Vec<_>) = contenders.partition(|who| *who == Who::EtcdctlElect);
        let (done, slow) = thread::scope(|scope| {
            let slow = scope.spawn(|| fail_over_all(bench, &fixed, trials, trials, ttl));
            (fail_over_all(bench, &contenders, trials, AT_ONCE, ttl), slow.join().expect("panics are caught"))
        });
        for (who, times) in done.into_iter().chain(slow) {
            if times.len() < trials {
                section.failed.push(format!("{} crashes of {}", trials - times.len(), who.title()));
            }
            let seconds: Sample = times.iter().map(|times| times.total.as_secs_f64()).collect();
            total.add_but(who, seconds, but(who, ttl));
            let since_key: Sample = times.iter().filter_map(|times| times.after_key).collect();
            // A runner's time includes the start of its command, and Raft has no key.
            if who.kind() == Kind::Program && !since_key.is_empty() {
                after.add(who, since_key);
            }
        }
        if let Some(raft) = total.sample(Who::Peers) {
            let (median, max) = (raft.median(), raft.max());
            let what = format!("{}: crash", Who::Peers.title());
            section.at_most(&format!("{what}, median"), "s", median, RAFT_MEDIAN_SECONDS, "");
            section.at_most(&format!("{what}, max"), "s", max, RAFT_MOST_SECONDS, "");
        }
        section.measures.extend([total, after]);
    }
    section
}

struct Times {
    total: Duration,
    /// Time since another client saw the dead leader's key deleted.
    after_key: Option<Duration>,
}

fn fail_over_all(
    bench: &Bench,
    contenders: &[Who],
    trials: usize,
    at_once: usize,
    ttl: u64,
) -> Vec<(Who, Vec<Times>)> {
    let admin = bench.etcd.admin();
    let done = concurrently(contenders.len() * trials, at_once, |index| {
        let who = contenders[index % contenders.len()];
        let phase = (index / contenders.len()) as f64 / trials as f64;
        (who, fail_over(bench, &admin, who, ttl, phase))
    });
    let mut of_each: Vec<_> = contenders.iter().map(|who| (*who, Vec::new())).collect();
    for (who, times) in done.into_iter().flatten() {
        let of_who = of_each.iter_mut().find(|(each, _)| *each == who);
        of_who.expect("each is in the list").1.push(times);
    }
    of_each
}

/// `phase` is the elapsed share of the renewal interval at the crash.
fn fail_over(bench: &Bench, admin: &Admin, who: Who, ttl: u64, phase: f64) -> Times {
    let (mut field, stand) = Field::on(&bench.etcd, who, 2, ttl, How::Quiet);
    let gone = admin.leader(&stand.election).map(|leader| deletion_of(admin, leader.key));
    thread::sleep((Duration::from_secs(ttl) / 3).mul_f64(phase));

    let marks = field.marks();
    let killed = field.leader.crash();
    let leads = field.wait_for_next(&marks);
    let after_key =
        gone.map(|gone| leads - gone.blocking_recv().expect("the key goes before another one leads"));
    field.dismiss();
    Times { total: leads - killed, after_key }
}

/// The moment at which a client sees the key deleted.
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
