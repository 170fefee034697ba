//! The guard: a small process that ends the command in time, whatever happens to the supervisor.
//!
//! It knows until when leadership is proved, by the supervisor's last message, and has a clock of its own. It
//! talks to etcd in one case only: when the supervisor is dead and all of the command is gone, it releases
//! the leadership, so that the next candidate need not wait for the lease to expire. Among peers nothing has
//! to be released: the supervisor's term ends with it.
//!
//! While a command runs, the kernel would kill this process shortly before that moment, should the guard
//! itself be stopped ([`DeadMansSwitch`]).
//!
//! It does nothing at TERM, INT and HUP, which reach it when every process of a service is signalled. They
//! are caught, not ignored by disposition: the command would inherit that.

use std::{
    ffi::OsString,
    future::pending,
    io,
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use anyhow::Context;
use leader_election::{
    clock::{Timestamp, sleep_until},
    etcd::{Etcd, Settings},
    leadership::Released,
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
use tracing::{debug, error, info, warn};

use super::{
    budget::Budget,
    children::{self, Rest, Unkillable},
    countdown::{Countdown, KillStep},
    deadman::DeadMansSwitch,
    environment::Variables,
    init::{BY_ITSELF, InitOrder, InitReport},
    init_handle::{CommandStreams, InitHandle},
    namespace::Contained,
    protocol::{self, CommandExit, GuardOrder, GuardReport, PipeReceiver, PipeSender, Start},
};

/// Time limit of the release in the supervisor's place. The lease expires by itself after that.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);

/// Time between two checks of the rest of a group that was told to stop.
const CHECK_EVERY: Duration = Duration::from_millis(10);

/// A moment that never comes.
const NEVER: Timestamp = Timestamp::from_nanos(u64::MAX);

/// The parameters of a guard.
#[derive(Debug)]
pub(crate) struct GuardConfig {
    /// `None` where nothing has to be released.
    pub(crate) etcd: Option<Settings>,
    pub(crate) budget: Budget,
    pub(crate) command: Vec<OsString>,
    pub(crate) hook: Option<TermHook>,
    pub(crate) contained: Contained,
    /// Variables that are the same in all terms.
    pub(crate) variables: Variables,
}

/// The hook of a term: `--on-leading`.
#[derive(Debug)]
pub(crate) struct TermHook {
    pub(crate) command: String,
    pub(crate) timeout: Duration,
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
pub(crate) async fn run(config: GuardConfig, inherited: Inherited) -> anyhow::Result<ExitCode> {
    let orders = protocol::inherited_source(inherited.orders).and_then(PipeReceiver::new);
    let mut orders: PipeReceiver<GuardOrder> =
        orders.context("the guard has no orders; `elect run` starts it")?;
    let reports = protocol::inherited_sink(inherited.reports).and_then(PipeSender::new);
    let reports = reports.context("the guard has no pipe for its reports; `elect run` starts it")?;
    let _ = prctl::set_name(c"elect-guard");
    children::adopt_orphans().context("the guard can't become the parent of orphans")?;
    // Checked now, and not first when a command is to start.
    DeadMansSwitch::armed(Timestamp::from_nanos(u64::MAX)).context("the kernel gives the guard no timer")?;
    let mut signals = Caught::listen().context("failed to listen for signals")?;

    let (init, running, hook, term) = (None, None, None, None);
    let mut guard = Guard { config, reports, init, running, hook, term, clearing: false, at_odds: false };
    guard.make_ready();
    guard.report(&GuardReport::Ready);
    loop {
        let due_at = guard.due_at();
        tokio::select! {
            biased;
            order = orders.next() => {
                let Ok(Some(order)) = order else { return Ok(guard.supervisor_gone(&mut signals).await) };
                guard.obey(order);
                // After a freeze there may be several: the last one counts, so all are read before the clock.
                while let Ok(Some(order)) = orders.already_here() {
                    guard.obey(order);
                }
            }
            () = signals.any() => {}
            report = of_init(&mut guard.running) => guard.report_of_init(report),
            report = of_init(&mut guard.hook) => guard.report_of_hook(report),
            () = sleep_until(due_at.unwrap_or(NEVER)), if due_at.is_some() => {}
        }
        if guard.at_odds {
            return Ok(ExitCode::FAILURE);
        }
        guard.step();
        if guard.running.is_none() && guard.init.is_none() {
            guard.make_ready();
        }
    }
}

/// Waits for the next report of the running init; for ever, if none runs.
async fn of_init(running: &mut Option<RunningCommand>) -> Option<InitReport> {
    match running {
        Some(running) => running.init.report().await,
        None => pending().await,
    }
}

struct Guard {
    config: GuardConfig,
    reports: PipeSender<GuardReport>,
    /// The init for the next run.
    init: Option<InitHandle>,
    running: Option<RunningCommand>,
    /// The hook of the term under way, and the processes it left behind.
    hook: Option<RunningCommand>,
    /// The term under way, until etcd knows that it is over.
    term: Option<Start>,
    /// True while the supervisor waits for the end of all of it.
    clearing: bool,
    /// True once it can't obey without breaking what a ticket says. It ends then, and nothing runs.
    at_odds: bool,
}

impl Guard {
    fn obey(&mut self, order: GuardOrder) {
        let now = Timestamp::now();
        match (order, &mut self.running) {
            (GuardOrder::Start(start), None) => self.start(*start),
            (GuardOrder::Start(_), Some(_)) => unreachable!("the supervisor waits for the end of one run"),
            (GuardOrder::Until(until), running) => {
                for running in running.iter_mut().chain(&mut self.hook) {
                    running.extend(until.into());
                }
                if let Some(term) = &mut self.term {
                    term.until = until;
                }
                self.report(&GuardReport::Heard(until));
            }
            (GuardOrder::Signal(number), Some(running)) => running.pass_on(number),
            (GuardOrder::Stop(number), Some(running)) => {
                running.countdown.stop(now);
                running.ask_to_stop(number);
            }
            (GuardOrder::Kill, running) => {
                running.iter_mut().chain(&mut self.hook).for_each(RunningCommand::kill);
                self.clearing = true;
            }
            (GuardOrder::Hook, _) => self.start_hook(),
            (GuardOrder::Over, _) => self.term = None,
            // It ended by itself meanwhile.
            (GuardOrder::Signal(_) | GuardOrder::Stop(_), None) => {}
        }
    }

    fn start(&mut self, start: Start) {
        let Start { token, cluster, until, init: named, .. } = start.clone();
        self.term = Some(start);
        let not_started =
            |why: String, ran_out| GuardReport::Ended { how: CommandExit::NotStarted(why), ran_out };
        let Some(countdown) = Countdown::begin(self.config.budget, until.into(), Timestamp::now()) else {
            return self.report(&not_started("no time was left to stop it in".into(), true));
        };
        // Before there is anything to kill.
        let switch = match DeadMansSwitch::armed(countdown.backstop()) {
            Ok(switch) => switch,
            Err(error) => return self.report(&not_started(format!("no timer: {error}"), false)),
        };
        // A waiting init may have been killed.
        let waiting = self.init.take().and_then(|mut init| (!init.is_gone()).then_some(init));
        // A witness takes that one's end for the command's.
        let is = |init: &InitHandle| Pid::from_raw(named.unwrap_or_default().cast_signed()) == init.pid();
        if named.is_some() && !waiting.as_ref().is_some_and(is) {
            error!("the init that was waiting is gone, and the ticket names it: a new guard is needed");
            self.at_odds = true;
            return;
        }
        let mut init = match waiting.map_or_else(|| self.start_init(), Ok) {
            Ok(init) => init,
            Err(error) => return self.report(&not_started(error.to_string(), false)),
        };
        init.order(&InitOrder::Start { token, cluster, backstop: countdown.backstop().into() });
        let contained = self.config.contained;
        self.running = Some(RunningCommand::of(init, contained, countdown, switch));
    }

    fn start_hook(&mut self) {
        let not_started =
            |why: String| GuardReport::HookEnded { how: CommandExit::NotStarted(why), timed_out: false };
        match self.try_start_hook() {
            Ok(hook) => self.hook = Some(hook),
            Err(error) => self.report(&not_started(error.to_string())),
        }
    }

    fn try_start_hook(&self) -> io::Result<RunningCommand> {
        let (Some(hook), Some(term), None, false) =
            (&self.config.hook, &self.term, &self.hook, self.clearing)
        else {
            return Err(io::Error::other("its term is over"));
        };
        let now = Timestamp::now();
        let countdown = Countdown::begin(self.config.budget, term.until.into(), now)
            .ok_or_else(|| io::Error::other("no time was left to stop it in"))?;
        let switch = DeadMansSwitch::armed(countdown.backstop())?;
        let command = ["sh".into(), "-c".into(), hook.command.clone().into()];
        let mut variables = self.config.variables.clone();
        variables.push(("ELECT_EVENT", "leading".into()));
        // No namespace: hooks exist to act on other processes.
        let contained = Contained::Reaper;
        let mut init = InitHandle::start(&command, &variables, contained, CommandStreams::ErrorsOnly)?;
        let (token, cluster) = (term.token.clone(), term.cluster.clone());
        init.order(&InitOrder::Start { token, cluster, backstop: countdown.backstop().into() });
        Ok(RunningCommand {
            late_at: now + hook.timeout,
            ..RunningCommand::of(init, contained, countdown, switch)
        })
    }

    fn start_init(&self) -> io::Result<InitHandle> {
        let GuardConfig { command, variables, contained, .. } = &self.config;
        InitHandle::start(command, variables, *contained, CommandStreams::Ours)
    }

    /// Starts the init of the next run ahead of time.
    fn make_ready(&mut self) {
        match self.start_init() {
            Ok(init) => {
                self.report(&GuardReport::InitWaits { pid: init.pid().as_raw().cast_unsigned() });
                self.init = Some(init);
            }
            // The start retries it.
            Err(error) => warn!(%error, "the command's init can't be started"),
        }
    }

    fn report_of_init(&mut self, report: Option<InitReport>) {
        let Some(running) = &mut self.running else { return };
        match report {
            Some(InitReport::Started { pid }) => {
                let pid = running.began(Pid::from_raw(pid)).as_raw();
                self.report(&GuardReport::Started { pid });
            }
            Some(InitReport::Ended(how)) => running.ended = Some(how),
            None => running.kill(),
        }
    }

    fn report_of_hook(&mut self, report: Option<InitReport>) {
        let Some(hook) = &mut self.hook else { return };
        match report {
            Some(InitReport::Started { .. }) => {}
            Some(InitReport::Ended(how)) => {
                let timed_out = hook.late;
                hook.ended = Some(how.clone());
                self.report(&GuardReport::HookEnded { how, timed_out });
            }
            None => hook.kill(),
        }
    }

    fn due_at(&self) -> Option<Timestamp> {
        let command = self.running.as_ref().map(RunningCommand::due_at);
        let hook = self.hook.as_ref().map(RunningCommand::hook_due_at);
        command.into_iter().chain(hook).min()
    }

    /// Takes the due steps.
    fn step(&mut self) {
        let now = Timestamp::now();
        let spare = self.init.as_ref().map(InitHandle::pid);
        let of = |running: &Option<RunningCommand>| running.as_ref().map(|running| running.init.pid());
        let (command, hook) = (of(&self.running), of(&self.hook));
        if let Some(running) = &mut self.running
            && let Some(how) = running.step(now, &Vec::from_iter(hook))
        {
            let ran_out = running.countdown.ran_out();
            self.running = None;
            self.report(&GuardReport::Ended { how, ran_out });
        }
        if let Some(hook) = &mut self.hook
            && hook.hook_step(now, &Vec::from_iter(command.into_iter().chain(spare)))
        {
            if hook.ended.is_none() {
                let how = CommandExit::Signalled(Signal::SIGKILL as i32);
                self.report(&GuardReport::HookEnded { how, timed_out: false });
            }
            self.hook = None;
        }
        if self.clearing && self.running.is_none() && self.hook.is_none() {
            self.clearing = false;
            self.report(&GuardReport::Cleared);
        }
    }

    /// A supervisor that can't be reached is dead, which the other pipe shows, or stuck; then it acts for
    /// itself. Neither is a reason to stop guarding.
    fn report(&mut self, report: &GuardReport) {
        if let Err(error) = self.reports.send(report) {
            debug!(%error, ?report, "the supervisor reads no reports");
        }
    }

    /// Ends the command after the supervisor's death, then releases its leadership.
    async fn supervisor_gone(mut self, signals: &mut Caught) -> ExitCode {
        if self.running.is_some() || self.hook.is_some() {
            warn!("the supervisor is gone: the command is killed");
        }
        self.running.iter_mut().chain(&mut self.hook).for_each(RunningCommand::kill);
        self.step();
        while let Some(due_at) = self.due_at() {
            tokio::select! {
                () = signals.any() => {}
                () = sleep_until(due_at) => {}
            }
            self.step();
        }
        if let (Some(ticket), Some(etcd)) = (self.term.and_then(|term| term.ticket), self.config.etcd) {
            let etcd = Etcd::start_on(Handle::current(), etcd);
            match etcd.release(ticket, RELEASE_WITHIN).await {
                Ok(Released::GivenUp) => info!("gave up leadership in the place of the supervisor"),
                Ok(Released::NothingHeld) => info!("the supervisor held no leadership any more"),
                Err(error) => warn!(%error, "could not give up leadership in the place of the supervisor"),
            }
            let _ = timeout(RELEASE_WITHIN, etcd.drained()).await;
        }
        ExitCode::SUCCESS
    }
}

/// One run of the command, or of the hook of its term.
struct RunningCommand {
    init: InitHandle,
    contained: Contained,
    /// Its process id, once it has begun. Only its init signals it, and knows whether the id is still its
    /// own.
    command: Option<Pid>,
    countdown: Countdown,
    /// For the case that this process can't act.
    switch: DeadMansSwitch,
    killing: bool,
    /// Time by which an init without a namespace has to kill the processes below it, once that was ordered.
    by_itself_until: Option<Timestamp>,
    /// Time between two rounds of killing, unless the kernel reports an end.
    again: Duration,
    unkillable: Unkillable,
    /// Set by its init's report. The rest of its group may live on.
    ended: Option<CommandExit>,
    /// Its time limit, and whether it was exceeded. The command has none.
    late_at: Timestamp,
    late: bool,
}

impl RunningCommand {
    fn of(init: InitHandle, contained: Contained, countdown: Countdown, switch: DeadMansSwitch) -> Self {
        Self {
            init,
            contained,
            command: None,
            countdown,
            switch,
            killing: false,
            by_itself_until: None,
            again: Rest::default().again(),
            unkillable: Unkillable::default(),
            ended: None,
            late_at: NEVER,
            late: false,
        }
    }

    /// Records that the command has begun, with this id for its init. Returns the id it has for us.
    fn began(&mut self, pid: Pid) -> Pid {
        let seen = match self.contained {
            Contained::Reaper => Ok(Some(pid)),
            Contained::Namespace => children::child_known_as(self.init.pid(), pid),
        };
        self.command = seen.inspect_err(|error| debug!(%error, "the command is not seen")).ok().flatten();
        self.command.unwrap_or(pid)
    }

    /// Extends the proved time.
    fn extend(&mut self, until: Timestamp) {
        self.countdown.extend(until);
        let backstop = self.countdown.backstop();
        if let Err(error) = self.switch.set(backstop) {
            debug!(%error, "the timer keeps its time");
        }
        // Process 1 of a namespace needs none: it dies with us.
        if self.contained == Contained::Reaper {
            self.init.order(&InitOrder::Backstop(backstop.into()));
        }
    }

    fn pass_on(&mut self, number: i32) {
        self.init.order(&InitOrder::Signal(number));
    }

    /// Also continues a stopped command, which would not get the signal.
    fn ask_to_stop(&mut self, number: i32) {
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
            now + self.again
        } else if self.countdown.is_stopping() && self.ended.is_some() {
            self.countdown.next().min(now + CHECK_EVERY)
        } else {
            self.countdown.next()
        }
    }

    /// Takes the due steps, and returns the command's exit once nothing of it is left but these others.
    fn step(&mut self, now: Timestamp, others: &[Pid]) -> Option<CommandExit> {
        self.count_down(now, "command");
        if !self.killing && self.ended.is_some() && !self.others_are_stopping() {
            self.kill();
        }
        if !self.killing || !self.kill_all(others) {
            return None;
        }
        let killed = || match self.command {
            Some(_) => CommandExit::Signalled(Signal::SIGKILL as i32),
            None => CommandExit::NotStarted("it was ended before".into()),
        };
        Some(self.ended.take().unwrap_or_else(killed))
    }

    fn hook_due_at(&self) -> Timestamp {
        let late_at = if self.late || self.ended.is_some() { NEVER } else { self.late_at };
        self.due_at().min(late_at)
    }

    /// Does the same for a hook. The processes it leaves behind have until the end of the term.
    fn hook_step(&mut self, now: Timestamp, others: &[Pid]) -> bool {
        self.count_down(now, "hook");
        if !self.late && self.ended.is_none() && now >= self.late_at {
            self.late = true;
            self.pass_on(Signal::SIGKILL as i32);
        }
        self.killing && self.kill_all(others)
    }

    fn count_down(&mut self, now: Timestamp, what: &str) {
        match self.countdown.due(now) {
            KillStep::Nothing => {}
            KillStep::Terminate => {
                warn!("no renewal in time: the {what} is told to stop");
                self.ask_to_stop(Signal::SIGTERM as i32);
            }
            KillStep::Kill => {
                warn!("out of time: the {what} is killed");
                self.kill();
            }
        }
    }

    /// Returns whether the rest of the group still uses its time to stop.
    fn others_are_stopping(&self) -> bool {
        let Some(command) = self.command.filter(|_| self.countdown.is_stopping()) else { return false };
        // If that is unknown it has its time.
        children::group_outlives_its_leader(self.init.pid(), command).unwrap_or(true)
    }

    /// Kills everything but these others, and returns whether nothing is left: through its init, which the
    /// kernel ends last where it has a namespace, and then the processes it leaves us.
    fn kill_all(&mut self, others: &[Pid]) -> bool {
        let now = Timestamp::now();
        // Killed at once, it would leave all of it to us; and if we are killed next, to no process.
        let by_itself = *self.by_itself_until.get_or_insert(now + BY_ITSELF);
        match self.contained {
            Contained::Reaper if now < by_itself => self.init.end(),
            Contained::Reaper | Contained::Namespace => self.init.kill(),
        }
        let gone = self.init.is_gone();
        // Only the kernel's answer counts.
        if gone && others.is_empty() && children::none_is_left() {
            return true;
        }
        let init = self.init.pid();
        let spared = |child: Pid| others.contains(&child) || (!gone && child == init);
        // Unknown counts as not over.
        let Ok(rest) = children::kill_all_but(spared) else { return false };
        self.unkillable.tell(&rest, Timestamp::now());
        self.again = rest.again();
        gone && !rest.any && !others.is_empty()
    }
}

/// Converts the exit status of a child of std's.
pub(super) fn ended(status: ExitStatus) -> CommandExit {
    match (status.code(), status.signal()) {
        (Some(code), _) => CommandExit::Exited(code),
        (None, Some(signal)) => CommandExit::Signalled(signal),
        (None, None) => CommandExit::NotStarted("it ended in no known way".into()),
    }
}

/// Signals that wake the guard, and do nothing else.
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
