//! etcd is away for longer than the TTL: the time from its first answer to the next leader.

use std::{thread, time::Duration};

use etcd_client::Client;
use tokio::time::{sleep, timeout};

use crate::{
    Bench,
    contender::{Candidate, How, SOON, Stand, says_leader},
    report::{Floors, Section, sample::Sample, who::Who},
    support::{clock::BootTime, cluster::Cluster, etcd::Etcd, runtime},
    trials::{concurrently, election},
};

/// TTLs, each with the number of outages at a time, which mostly wait.
const TTLS: [(u64, usize); 2] = [(2, 1), (60, 5)];
const MEMBERS: [usize; 2] = [1, 3];
/// Candidates in each of the elections on one etcd.
const PROCESSES: [usize; 3] = [1, 3, 50];
/// Additional length of an outage beyond the TTL.
const LONGER: Duration = Duration::from_millis(1500);
/// Time beyond a TTL after which a contender without a leader has not survived.
const GIVEN_UP: Duration = Duration::from_secs(5);
const MEDIAN_MS: f64 = 300.0;
const MOST_MS: f64 = 1000.0;

pub(crate) fn measure(bench: &Bench, _: &mut Floors) -> Section {
    let outages = bench.scale.of(20, 2);
    let how = format!(
        "etcd is away for {LONGER:?} longer than the TTL. From its first answer to a linearizable read until there is a leader again: \
         {outages} outages of etcds with one and with three members, each with an election of 1, one of 3 and one of 50 `elect server`."
    );
    let mut section = Section::new("recovery", "etcd lost for longer than the TTL", how);
    for (ttl, at_once) in TTLS {
        for members in MEMBERS {
            let times = concurrently(outages, at_once, |turn| {
                // Their ends should not fall together.
                thread::sleep(Duration::from_secs(2) * (turn % at_once) as u32);
                let mut etcd = Cluster::start_with(crate::etcd(), members);
                let fields: Vec<_> =
                    PROCESSES.iter().map(|count| field(Who::Elect, &etcd, ttl, *count)).collect();
                led_after_an_outage(&mut etcd, &fields, ttl)
            });
            let times: Vec<_> = times.into_iter().flatten().collect();
            for (place, processes) in PROCESSES.into_iter().enumerate() {
                let what = format!("TTL {ttl} s, processes: {processes}, members of etcd: {members}");
                let led: Sample = times.iter().filter_map(|of_one| of_one[place]).collect();
                section.all(&format!("{what}: led again"), led.len(), outages, "");
                targets(&mut section, &what, &led);
            }
        }
    }
    section
}

/// Adds the targets of a recovery.
pub(crate) fn targets(section: &mut Section, what: &str, led: &Sample) {
    section.at_most(&format!("{what}, median"), "ms", led.median(), MEDIAN_MS, "");
    section.at_most(&format!("{what}, max"), "ms", led.max(), MOST_MS, "");
}

/// Starts the candidates of one election; the first one leads.
pub(crate) fn field(who: Who, etcd: &Cluster, ttl: u64, count: usize) -> Vec<Candidate> {
    let stand = Stand { endpoint: etcd.endpoint_list(), election: election("recovery"), ttl };
    let first = Candidate::start(who, &stand, "first", How::Quiet);
    first.wait_until_leader();
    let others =
        (2..=count).map(|number| Candidate::start(who, &stand, &format!("number {number}"), How::Quiet));
    let field: Vec<_> = std::iter::once(first).chain(others).collect();
    etcd.admin().wait_for_candidates(&stand.election, count, SOON);
    field
}

/// Kills all members of etcd, starts them again after the TTL, and returns the time from its first answer to
/// the first leader of each field.
pub(crate) fn led_after_an_outage(
    etcd: &mut Cluster,
    fields: &[Vec<Candidate>],
    ttl: u64,
) -> Vec<Option<Duration>> {
    thread::sleep(Duration::from_millis(fastrand::u64(500..1500)));
    for member in 0..etcd.len() {
        etcd[member].kill();
    }
    thread::sleep(Duration::from_secs(ttl) + LONGER);
    let marks: Vec<Vec<_>> = fields.iter().map(|field| field.iter().map(Candidate::mark).collect()).collect();
    for member in 0..etcd.len() {
        etcd[member].restart_without_waiting();
    }
    let served = first_read(&etcd[0]);
    let led = |place: usize| {
        let lines = fields[place].iter().zip(&marks[place]).filter_map(|(candidate, mark)| {
            let lines = candidate.process().lines_since(*mark);
            Some(lines.into_iter().find(|line| says_leader(&line.text, &candidate.name))?.at)
        });
        lines.min()
    };
    let most = Duration::from_secs(ttl) + GIVEN_UP;
    while served.elapsed() < most && (0..fields.len()).any(|place| led(place).is_none()) {
        thread::sleep(Duration::from_millis(20));
    }
    // A leader before our own answer is as quick as can be seen.
    let since = |at: BootTime| if at > served { at - served } else { Duration::ZERO };
    (0..fields.len()).map(|place| led(place).map(since)).collect()
}

/// The moment of etcd's first answer to a linearizable read.
fn first_read(etcd: &Etcd) -> BootTime {
    let (url, options) = (etcd.url(), etcd.connect_options());
    runtime::wait_for(async move {
        loop {
            let read = async {
                let mut client = Client::connect([&url], Some(options.clone())).await?;
                client.get("nothing", None).await
            };
            if let Ok(Ok(_)) = timeout(Duration::from_millis(200), read).await {
                return BootTime::now();
            }
            sleep(Duration::from_millis(2)).await;
        }
    })
}
