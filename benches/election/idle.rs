//! The cost of an election while nothing happens: memory, CPU time, and requests to etcd.

use std::{collections::BTreeMap, thread, time::Duration};

use crate::{
    Bench,
    contender::{How, but},
    family::{Usage, usage},
    field::Field,
    programs,
    report::{
        Floors, Section,
        measure::{Better, Measure},
        number::Unit,
        sample::Sample,
        who::Who,
    },
    support::{clock::BootTime, etcd::Etcd},
};

const TTL: u64 = 5;

const CANDIDATES: usize = 3;

/// Time after which candidates only wait and renew.
const SETTLE: Duration = Duration::from_secs(5);

/// A trial's duration: in each, every candidate renews three times.
const SPAN: Duration = Duration::from_secs(TTL);

/// Limits for our programs: MiB of memory, and percent of a core.
const LIMITS: [(Who, f64, f64); 2] = [(Who::Elect, 8.0, 0.1), (Who::Peers, 15.0, 1.0)];

pub(crate) fn measure(bench: &Bench, _: &mut Floors) -> Section {
    let spans = bench.scale.of(20, 2);
    let mut section = Section::new(
        "idle",
        "Idle",
        format!(
            "One leader and two that wait, TTL {TTL} s, each contender on an etcd of its own, all at the same time: {spans} spans of \
             {} s. Memory is resident (RSS), with all processes that belong to a candidate but a runner's command; CPU is that of one \
             core, as the scheduler counts it.",
            SPAN.as_secs()
        ),
    );
    let mut groups: Vec<Group> = bench.contenders().into_iter().map(Group::start).collect();
    thread::sleep(SETTLE);
    for group in &mut groups {
        group.begin();
    }
    for _ in 0..spans {
        thread::sleep(SPAN);
        for group in &mut groups {
            group.look();
        }
    }

    let quantity = |name, what, unit| Measure::new(name, what, unit, Better::Less).not_judged();
    let mut memory = quantity("memory", "idle: a leader's memory", Unit::Mebibytes).headline().plotted();
    let mut anonymous = Measure::new("anonymous", "of which not of files", Unit::Mebibytes, Better::Neither);
    let mut waiting = quantity("memory-waiting", "one that waits: memory", Unit::Mebibytes);
    let mut cpu = quantity("cpu", "idle: a leader's CPU", Unit::Percent).headline().plotted();
    let mut cpu_waiting = quantity("cpu-waiting", "one that waits: CPU", Unit::Percent);
    let mut messages =
        quantity("messages", "idle: messages to etcd, all three", Unit::PerSecond).headline().plotted();
    for group in &groups {
        let but = but(group.who, TTL);
        memory.add(group.who, group.leader.resident.clone());
        anonymous.add(group.who, group.leader.anonymous.clone());
        waiting.add(group.who, group.waiting.resident.clone());
        cpu.add_but(group.who, group.leader.cpu.clone(), but.clone());
        cpu_waiting.add_but(group.who, group.waiting.cpu.clone(), but.clone());
        if group.who != Who::Peers {
            messages.add_but(group.who, group.messages.clone(), but);
        }
        if let Some((_, mib, percent)) = LIMITS.iter().find(|(who, _, _)| *who == group.who) {
            for (role, of) in [("a leader", &group.leader), ("one that waits", &group.waiting)] {
                let of_role = format!("{}: {role}", group.who.title());
                section.at_most(&format!("{of_role}, memory"), "MiB", of.resident.max(), *mib, "");
                section.at_most(&format!("{of_role}, CPU"), "%", of.cpu.median(), *percent, "");
            }
        }
        if group.who == Who::Elect {
            let others: BTreeMap<_, _> =
                group.methods.iter().filter(|(method, _)| *method != "LeaseKeepAlive").collect();
            let found = if others.is_empty() { "nothing else".to_owned() } else { format!("{others:?}") };
            section.all(
                "etcd is asked to renew, and nothing else",
                usize::from(others.is_empty()),
                1,
                &found,
            );
        }
    }
    section.measures.extend([memory, anonymous, waiting, cpu, cpu_waiting, messages]);
    section
}

/// Three candidates of one contender, with their measurements.
struct Group {
    who: Who,
    etcd: Etcd,
    field: Field,
    leader: Seen,
    waiting: Seen,
    messages: Sample,
    /// Requests to etcd since the beginning.
    methods: BTreeMap<String, u64>,
    received: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Seen {
    resident: Sample,
    anonymous: Sample,
    cpu: Sample,
    last: Option<(BootTime, Usage)>,
}

impl Group {
    fn start(who: Who) -> Self {
        let etcd = crate::etcd().start();
        let (field, _) = Field::on(&etcd, who, CANDIDATES, TTL, How::Quiet);
        Self {
            who,
            etcd,
            field,
            leader: Seen::default(),
            waiting: Seen::default(),
            messages: Sample::default(),
            methods: BTreeMap::new(),
            received: BTreeMap::new(),
        }
    }

    fn begin(&mut self) {
        self.leader.last = Some(now(&self.field.leader));
        self.waiting.last = Some(now(&self.field.others[0]));
        self.received = self.etcd.messages_received();
    }

    fn look(&mut self) {
        let since = self.leader.last.map(|(at, _)| at).expect("it has begun");
        self.leader.add(now(&self.field.leader));
        self.waiting.add(now(&self.field.others[0]));
        let received = self.etcd.messages_received();
        let mut sum = 0;
        for (method, count) in &received {
            let grown = count - self.received.get(method).copied().unwrap_or(0);
            sum += grown;
            if grown > 0 {
                *self.methods.entry(method.clone()).or_default() += grown;
            }
        }
        self.messages.add(sum as f64 / since.elapsed().as_secs_f64());
        self.received = received;
    }
}

impl Seen {
    fn add(&mut self, (at, usage): (BootTime, Usage)) {
        let (before, last) = self.last.replace((at, usage)).expect("it has begun");
        let on_cpu = usage.on_cpu.saturating_sub(last.on_cpu);
        self.resident.add(usage.resident_mib);
        self.anonymous.add(usage.anonymous_mib);
        self.cpu.add(on_cpu.as_secs_f64() / (at - before).as_secs_f64() * 100.0);
    }
}

fn now(candidate: &crate::contender::Candidate) -> (BootTime, Usage) {
    (BootTime::now(), usage(candidate.process().id(), &programs::library()))
}
