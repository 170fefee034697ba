//! The guard: a small process that ends the command in time, whatever becomes of the supervisor.
//!
//! It knows until when leadership is proved, as the supervisor last said, and has a clock of its own. It does
//! not talk to etcd, but for one thing: when the supervisor is dead and all of the command is gone, it gives
//! the leadership up, so that the next candidate need not wait for the lease to end. Among peers there is
//! nothing to give up: the supervisor's term ends with it.
//!
//! While a command runs, the kernel is to kill this process shortly before that moment, should the guard itself
//! be stopped ([`DeadMansSwitch`]).
//!
//! It ignores TERM, INT and HUP, which come to it where somebody signals every process of a service. They are
//! caught, not ignored by disposition: the command would inherit that.

use std::{
    ffi::OsString,
    future::pending,
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, ExitCode, ExitStatus},
    time::Duration,
};

use anyhow::Context;
use leader_election::{
    clock::{Timestamp, sleep_until},
    etcd::{Etcd, Settings},
    leadership::Ticket,
};
use nix::{
    sys::{prctl, signal::Signal},
    unistd::Pid,
};
use tokio::{
    runtime::Handle,
    signal::unix::{self, SignalKind, signal},
    time::timeout,
};
use tracing::{debug, info, warn};

use super::{
    budget::Budget,
    children,
    control::{self, End, Order, Receiver, Report, Sender, Start},
    countdown::{Countdown, Due},
    deadman::DeadMansSwitch,
    environment::{Variables, WITHHELD},
    shim,
};

/// How long giving leadership up is tried in the supervisor's place. The lease ends by itself after that.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);

/// How soon a killed child is looked for again, where the kernel has not said that it ended.
const KILL_AGAIN: Duration = Duration::from_millis(2);

/// How soon the rest of a group that was told to stop is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What a guard is for.
#[derive(Debug)]
pub(crate) struct Charge {
    /// Where there is something to give up.
    pub(crate) etcd: Option<Settings>,
    pub(crate) budget: Budget,
    pub(crate) command: Vec<OsString>,
    /// What is true of all terms.
    pub(crate) variables: Variables,
}

/// The descriptors that the supervisor left open for its guard.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Inherited {
    #[arg(long)]
    pub(crate) orders: i32,
    #[arg(long)]
    pub(crate) reports: i32,
}

/// Guards until the supervisor is gone.
pub(crate) async fn run(charge: Charge, inherited: Inherited) -> anyhow::Result<ExitCode> {
    let orders = control::inherited_source(inherited.orders).and_then(Receiver::new);
    let mut orders: Receiver<Order> = orders.context("the guard has no orders; `elect run` starts it")?;
    let reports = control::inherited_sink(inherited.reports).and_then(Sender::new);
    let reports = reports.context("the guard has nobody to report to; `elect run` starts it")?;
    let _ = prctl::set_name(c"elect-guard");
    children::adopt_orphans().context("the guard can't become the parent of orphans")?;
    // Better missed now than once a command is to start.
    DeadMansSwitch::armed(Timestamp::from_nanos(u64::MAX)).context("the kernel gives the guard no timer")?;
    let mut signals = Caught::listen().context("failed to listen for signals")?;

    let mut guard = Guard { charge, reports, running: None, ticket: None };
    guard.report(&Report::Ready);
    loop {
        tokio::select! {
            biased;
            order = orders.next() => {
                let Ok(Some(order)) = order else { return Ok(guard.bereaved(&mut signals).await) };
                guard.obey(order);
                // After a freeze there may be several: the last one counts, so all are heard before the clock.
                while let Ok(Some(order)) = orders.already_here() {
                    guard.obey(order);
                }
            }
            () = signals.any() => {}
            () = guard.due() => {}
        }
        guard.step();
    }
}

struct Guard {
    charge: Charge,
    reports: Sender<Report>,
    running: Option<Running>,
    /// What gives up the term under way.
    ticket: Option<Ticket>,
}

impl Guard {
    fn obey(&mut self, order: Order) {
        let now = Timestamp::now();
        match (order, &mut self.running) {
            (Order::Start(start), None) => self.start(*start),
            (Order::Start(_), Some(_)) => unreachable!("the supervisor waits for the end of one run"),
            (Order::Until(until), running) => {
                if let Some(running) = running {
                    running.extend(until.into());
                }
                self.report(&Report::Heard(until));
            }
            (Order::Signal(number), Some(running)) => running.pass_on(number),
            (Order::Stop(number), Some(running)) => {
                running.countdown.stop(now);
                running.ask_to_stop(number);
            }
            (Order::Kill, Some(running)) => running.kill(),
            (Order::Over, _) => self.ticket = None,
            // It ended by itself meanwhile.
            (Order::Signal(_) | Order::Stop(_) | Order::Kill, None) => {}
        }
    }

    fn start(&mut self, start: Start) {
        let Start { token, cluster, until, ticket } = start;
        self.ticket = ticket;
        let not_started = |why: String, ran_out| Report::Ended { how: End::NotStarted(why), ran_out };
        let Some(countdown) = Countdown::begin(self.charge.budget, until.into(), Timestamp::now()) else {
            return self.report(&not_started("no time was left to stop it in".into(), true));
        };
        // Before there is anything to kill.
        let switch = match DeadMansSwitch::armed(countdown.backstop()) {
            Ok(switch) => switch,
            Err(error) => return self.report(&not_started(format!("no timer: {error}"), false)),
        };
        let mut shim = shim::command(self.charge.command.iter().cloned());
        shim.env("ELECT_TOKEN", token).env("ELECT_CLUSTER", cluster);
        shim.envs(self.charge.variables.iter().map(|(key, value)| (key, value)));
        for withheld in WITHHELD {
            shim.env_remove(withheld);
        }
        match shim.process_group(0).spawn() {
            Ok(child) => {
                let running = Running::of(child, countdown, switch);
                let pid = running.pid.as_raw();
                self.running = Some(running);
                self.report(&Report::Started { pid });
            }
            Err(error) => self.report(&not_started(error.to_string(), false)),
        }
    }

    /// Waits until [`step`](Self::step) has something to do that no signal tells of.
    async fn due(&self) {
        match &self.running {
            Some(running) => sleep_until(running.due_at()).await,
            None => pending().await,
        }
    }

    /// Does what is due.
    fn step(&mut self) {
        let Some(running) = &mut self.running else { return };
        if let Some(how) = running.step(Timestamp::now()) {
            let ran_out = running.countdown.ran_out();
            self.running = None;
            self.report(&Report::Ended { how, ran_out });
        }
    }

    /// A supervisor that can't be told is dead, which the other pipe says, or stuck; then it finds out for
    /// itself. Neither is a reason to stop guarding.
    fn report(&mut self, report: &Report) {
        if let Err(error) = self.reports.send(report) {
            debug!(%error, ?report, "the supervisor does not hear");
        }
    }

    /// The supervisor is gone: ends the command, then gives up its leadership.
    async fn bereaved(mut self, signals: &mut Caught) -> ExitCode {
        if let Some(mut running) = self.running.take() {
            warn!("the supervisor is gone: the command is killed");
            running.kill();
            while running.step(Timestamp::now()).is_none() {
                tokio::select! {
                    () = signals.any() => {}
                    () = sleep_until(running.due_at()) => {}
                }
            }
        }
        if let (Some(ticket), Some(etcd)) = (self.ticket, self.charge.etcd) {
            let etcd = Etcd::start_on(Handle::current(), etcd);
            match etcd.release(ticket, RELEASE_WITHIN).await {
                Ok(()) => info!("gave up leadership in the place of the supervisor"),
                Err(error) => warn!(%error, "could not give up leadership in the place of the supervisor"),
            }
            let _ = timeout(RELEASE_WITHIN, etcd.settled()).await;
        }
        ExitCode::SUCCESS
    }
}

/// One run of the command.
struct Running {
    child: Child,
    /// Also the id of its group. Ours to signal until it is reaped, which is done last.
    pid: Pid,
    countdown: Countdown,
    /// For when this process can't.
    switch: DeadMansSwitch,
    killing: bool,
    /// Set once it is reaped.
    ended: Option<End>,
}

impl Running {
    fn of(child: Child, countdown: Countdown, switch: DeadMansSwitch) -> Self {
        let pid = Pid::from_raw(child.id().cast_signed());
        Self { child, pid, countdown, switch, killing: false, ended: None }
    }

    /// Leadership is proved until then.
    fn extend(&mut self, until: Timestamp) {
        self.countdown.extend(until);
        if let Err(error) = self.switch.set(self.countdown.backstop()) {
            debug!(%error, "the timer keeps its time");
        }
    }

    fn pass_on(&self, number: i32) {
        if let (Ok(signal), None) = (Signal::try_from(number), &self.ended) {
            children::signal_group(self.pid, signal);
        }
    }

    /// Also wakes what was stopped: else it would not hear.
    fn ask_to_stop(&self, number: i32) {
        self.pass_on(number);
        self.pass_on(Signal::SIGCONT as i32);
    }

    fn kill(&mut self) {
        self.countdown.kill();
        self.killing = true;
    }

    fn due_at(&self) -> Timestamp {
        let now = Timestamp::now();
        if self.killing {
            now + KILL_AGAIN
        } else if self.countdown.is_stopping() && children::has_ended(self.pid) {
            self.countdown.next().min(now + LOOK_AGAIN)
        } else {
            self.countdown.next()
        }
    }

    /// Does what is due, and returns how the command ended once nothing of it is left.
    fn step(&mut self, now: Timestamp) -> Option<End> {
        match self.countdown.due(now) {
            Due::Nothing => {}
            Due::Terminate => {
                warn!("no renewal in time: the command is told to stop");
                self.ask_to_stop(Signal::SIGTERM as i32);
            }
            Due::Kill => {
                warn!("out of time: the command is killed");
                self.kill();
            }
        }
        if !self.killing && children::has_ended(self.pid) && !self.others_are_stopping() {
            self.kill();
        }
        if self.killing {
            return self.kill_all();
        }
        let _ = children::reap_all_but(|child| child == self.pid);
        None
    }

    /// Whether the rest of the group still uses the time it was given to stop.
    fn others_are_stopping(&self) -> bool {
        // If that can't be told, there is nobody to wait for.
        self.countdown.is_stopping() && children::group_outlives_its_leader(self.pid).unwrap_or(false)
    }

    /// Kills all there is. The command itself is reaped last: its id is its group's.
    fn kill_all(&mut self) -> Option<End> {
        if self.ended.is_none() {
            children::signal_group(self.pid, Signal::SIGKILL);
            // Not to be known counts as not to be over.
            if children::kill_all_but(|child| child == self.pid).unwrap_or(true) {
                return None;
            }
            let status = self.child.try_wait().ok().flatten()?;
            self.ended = Some(ended(status));
        }
        // The kernel has the last word.
        if !children::none_is_left() {
            let _ = children::kill_all_but(|_| false);
            return None;
        }
        self.ended.take()
    }
}

fn ended(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited(code),
        (None, Some(signal)) => End::Signalled(signal),
        (None, None) => End::NotStarted("it ended in no known way".into()),
    }
}

/// The signals that wake the guard, and do nothing else.
struct Caught {
    child: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
}

impl Caught {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            child: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Cancel safe.
    async fn any(&mut self) {
        tokio::select! {
            _ = self.child.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
