//! `elect run -- COMMAND`: a command that runs exactly while this process leads.
//!
//! ```text
//!        ┌────────────────────── lost, or handed over ──────────────────────┐
//!        ▼                                                                  │
//!      wait ──── won ────► lead: COMMAND runs, is restarted, is ended ──► release
//!   (a guard is ready,                                                      │
//!    the check passes)                                      COMMAND ended, or was told to
//!        │                                                                  ▼
//!   told to stop ──► leave the queue, exit 0                       exit with its code
//! ```
//!
//! Leadership is released on one path only, after nothing of the command is left. `supervise.rs` describes
//! how the command ends when this process can't end it.

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use leader_election::{
    CampaignError, Candidate, Leadership,
    candidate::Backend,
    clock::{Timestamp, sleep_until},
    leadership::OrderError,
    lifeline::NamingError,
};
use tokio::{
    task::{spawn_blocking, yield_now},
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

use self::{
    events::{RunEvent, RunEvents},
    options::Options,
    reporter::Reporter,
};
use super::{
    LEAVE_WITHIN,
    lifeline::{CommandEnd, CommandLifeline},
    server::explained,
    signals::Wish,
    startup::{Participant, Startup},
};
use crate::{
    config::{CandidateBackend, UsageError},
    lease_timing::written,
    log, secrecy,
    supervise::{
        children::{self, ChildRegistry, Rest, Unkillable},
        environment::{self, Variables},
        guard::{self, GuardConfig, Inherited, TermHook},
        guard_handle::{GuardEvent, Supervision, WaitingInit},
        health::Health,
        hooks::Hooks,
        init::BY_ITSELF,
        namespace::Containment,
        oversight::{Instruction, Oversight, OversightInput, Ran, StopReason},
        program,
        protocol::{CommandExit, GuardOrder, GuardReport, Start},
        restart::RestartPause,
    },
};

mod events;
mod options;
mod reporter;

pub(super) use self::options::RunArgs;

/// Leadership was lost, and `--once` was given: `EX_TEMPFAIL` of sysexits.h.
const LOST: u8 = 75;

/// Shells add this to the number of the signal that ended a command.
const BY_SIGNAL: i32 = 128;

/// Time for an idle guard to end; it ends at once, and is not worth a longer wait.
const DISMISS_WITHIN: Duration = Duration::from_secs(1);

/// Runs the command while leading, until told to stop.
pub(super) async fn run(flags: RunArgs) -> anyhow::Result<ExitCode> {
    let explain = flags.explain;
    let (config, mut options) = flags.merge()?;
    secrecy::close(&config)?;
    let containment = Containment::decide(options.contain).map_err(UsageError)?;
    if explain {
        write!(io::stdout(), "{}\nContainment: {containment}.\n", options.budget)
            .context("failed to print")?;
        return Ok(ExitCode::SUCCESS);
    }
    // The standard output belongs to the command.
    super::begin(&config, log::OutputStream::Stderr)?;
    if let Some(Err(unusable)) = options.command.first().map(|command| program::find(command)) {
        eprintln!("elect: {unusable}");
        return Ok(ExitCode::from(unusable.exit_code()));
    }
    children::adopt_orphans().context("failed to become the parent of orphans")?;
    info!("{containment}");
    let end = CommandEnd::of(containment.how, options.hooks.on_leading.is_some());
    let (candidate, lifeline) = std::mem::take(&mut options.lifeline).add_to_run(options.candidate, end)?;
    options.candidate = candidate;

    let startup = Startup::set(&options.candidate, &config.election, config.log_format)?;
    let variables = environment::of_candidate(&options.candidate, &config);
    // Nothing here blocks for long: the longest is a scan of /proc.
    match options.candidate.place.clone() {
        CandidateBackend::Etcd(settings, ttl) => {
            take_part(startup.on_etcd(settings, ttl)?, options, variables, lifeline).await
        }
        CandidateBackend::Peers(settings) => {
            take_part(startup.among_peers(*settings)?, options, variables, None).await
        }
    }
}

async fn take_part<B: Backend>(
    participant: Participant<B>,
    options: Options,
    variables: Variables,
    lifeline: Option<CommandLifeline>,
) -> anyhow::Result<ExitCode> {
    let Participant { backend, candidate, store, election_log, addresses, .. } = participant;
    let registry = ChildRegistry::default();
    let hooks = Hooks::start(options.hooks.clone(), variables.clone(), addresses, registry.clone());
    let health = Health::start(options.check.clone(), variables, registry.clone());
    let listening = "failed to listen for signals";
    let reporter = Reporter::new(election_log, candidate.subscribe(), store, hooks, registry.clone());
    let reporter = reporter.context(listening)?;
    let mut events = RunEvents::new(reporter).context(listening)?;
    let Some(guard) = start_guard(&mut events, &registry).await else { return Ok(ExitCode::SUCCESS) };
    let (guarded, lifeline) = (false, lifeline);
    let supervisor = Supervisor { options, candidate, guard, guarded, lifeline, health, events, registry };
    let ended = supervisor.take_part(&backend).await;
    log::drain();
    ended
}

/// Runs the guard of [`run`], with the same flags.
pub(super) async fn guard(flags: RunArgs, inherited: Inherited) -> anyhow::Result<ExitCode> {
    let (config, options) = flags.merge()?;
    secrecy::close(&config)?;
    log::start(config.log_format, log::OutputStream::Stderr)?;
    let variables = environment::of_candidate(&options.candidate, &config);
    let etcd = match options.candidate.place {
        CandidateBackend::Etcd(settings, _) => Some(settings),
        CandidateBackend::Peers(_) => None,
    };
    let contained = Containment::decide(options.contain).map_err(UsageError)?.how;
    let hook = options.hooks.on_leading.map(|command| TermHook { command, timeout: options.hooks.timeout });
    let Options { budget, command, .. } = options;
    let config = GuardConfig { etcd, budget, command, hook, contained, variables };
    let ended = guard::run(config, inherited).await;
    log::drain();
    ended
}

/// Starts a guard, with retries while the machine has no room for a process. `None` if told to stop
/// meanwhile.
async fn start_guard(events: &mut RunEvents, registry: &ChildRegistry) -> Option<Supervision> {
    // The arguments of `elect run`.
    let arguments: Vec<OsString> = std::env::args_os().skip(2).collect();
    let mut pace = RestartPause::new();
    loop {
        match Supervision::start(&arguments, registry) {
            Ok(guard) => return Some(guard),
            Err(error) => {
                let pause = pace.pause(Duration::ZERO);
                error!(
                    %error, ?pause,
                    "failed to start the guard, and this server does not campaign without one; it is tried again: \
                     check the limits of processes and descriptors (ulimit -u, ulimit -n, TasksMax)"
                );
                events.meanwhile(sleep(pause)).await?;
            }
        }
    }
}

/// Campaigns, leads, and supervises the command.
struct Supervisor<B> {
    options: Options,
    candidate: Candidate<B>,
    guard: Supervision,
    /// True once a guard was ready.
    guarded: bool,
    lifeline: Option<CommandLifeline>,
    health: Health,
    events: RunEvents,
    registry: ChildRegistry,
}

/// Outcome of a wait.
enum Waited {
    Won(Leadership),
    Unfit,
    GuardDied,
    Told,
}

/// The next step after a term.
enum After {
    Exit(u8),
    Again,
}

impl<B: Backend> Supervisor<B> {
    async fn take_part(mut self, backend: &B) -> anyhow::Result<ExitCode> {
        let proof = self.options.candidate.place.proof();
        let code = loop {
            self.make_ready().await?;
            if self.events.is_stopping() {
                break None;
            }
            match self.wait().await.map_err(|error| explained(error, proof))? {
                Waited::Won(leadership) => match self.lead(leadership).await {
                    After::Exit(code) => break Some(code),
                    After::Again => {}
                },
                Waited::Told => break None,
                Waited::Unfit | Waited::GuardDied => {}
            }
        };
        self.finish(backend).await;
        if code.is_none() {
            info!("stopped; this server did not lead");
        }
        Ok(ExitCode::from(code.unwrap_or(0)))
    }

    /// Waits until a guard is ready and the check passes, or until told to stop.
    async fn make_ready(&mut self) -> anyhow::Result<()> {
        let mut pace = RestartPause::new();
        while !self.guard.is_ready() {
            match self.events.meanwhile(self.guard.next_event()).await {
                None => return Ok(()),
                Some(GuardEvent::Said(_)) => {}
                Some(GuardEvent::Died(status)) if !self.guarded => bail!(
                    "the guard can't start ({status}); it is given the same flags, so --config and \
                     --password-file must name files that can be read twice"
                ),
                Some(GuardEvent::Died(status)) => {
                    error!(%status, "the guard is dead; a new one is started");
                    self.sweep().await;
                    if self.events.meanwhile(sleep(pace.pause(Duration::ZERO))).await.is_none() {
                        return Ok(());
                    }
                    let Some(guard) = start_guard(&mut self.events, &self.registry).await else {
                        return Ok(());
                    };
                    self.guard = guard;
                }
            }
        }
        self.guarded = true;
        // Before the campaign, so that its ticket names it. What fails is tried again before the start.
        let _ = self.name_init().await;
        if !self.health.is_healthy() {
            self.events.reporter.healthy(false);
            let _ = self.events.meanwhile(self.health.becomes(true)).await;
            self.events.reporter.healthy(true);
        }
        Ok(())
    }

    /// Campaigns until this process leads. Leaves the queue on any other outcome.
    async fn wait(&mut self) -> Result<Waited, CampaignError> {
        let waiting = async {
            tokio::select! {
                biased;
                () = self.guard.died() => Ok(Waited::GuardDied),
                () = self.health.becomes(false) => Ok(Waited::Unfit),
                won = self.candidate.campaign() => won.map(Waited::Won),
            }
        };
        self.events.meanwhile(waiting).await.unwrap_or(Ok(Waited::Told))
    }

    /// Runs one term, from the win to its release.
    async fn lead(&mut self, leadership: Leadership) -> After {
        self.events.reporter.leading(leadership.handle());
        let Ran { how, why } = self.oversee(&leadership).await;
        // Nothing of the term is left. Only now may another one begin.
        self.events.reporter.stepped_down();
        self.release(leadership).await;
        match why {
            StopReason::Itself | StopReason::Told => After::Exit(shell_code(&how)),
            _ if self.options.once => After::Exit(LOST),
            StopReason::Unfit | StopReason::RanOut | StopReason::Lost(_) | StopReason::GuardDied => {
                After::Again
            }
        }
    }

    /// Runs the command, with its restarts, and returns when nothing of the term is left.
    async fn oversee(&mut self, leadership: &Leadership) -> Ran {
        let Some(until) = leadership.deadline() else {
            let why = StopReason::Lost(leadership.lost().await);
            return Ran { how: CommandExit::NotStarted("leadership was lost before".into()), why };
        };
        let Options { budget, restart, .. } = self.options;
        let (mut oversight, mut instructions) = Oversight::begin(budget, restart, until, Timestamp::now());
        loop {
            let mut answer = None;
            for instruction in instructions {
                match instruction {
                    Instruction::Start { until } => match self.name_init().await {
                        Ok(init) => self.guard.order(&start(leadership, until, init)),
                        Err(error) => {
                            let how = CommandExit::NotStarted(error.to_string());
                            answer = Some(OversightInput::Said(GuardReport::Ended { how, ran_out: false }));
                        }
                    },
                    Instruction::Tell(order) => self.guard.order(&order),
                    Instruction::LookAgain => yield_now().await,
                    Instruction::Destroy => {
                        error!("the guard has not ended the command in time: both are killed");
                        self.guard.destroy();
                    }
                    Instruction::Sweep => {
                        self.sweep().await;
                        answer = Some(OversightInput::Swept);
                    }
                    Instruction::SayStarted { pid } => self.events.reporter.command_started(pid),
                    Instruction::SayHookEnded { how, timed_out } => {
                        self.events.reporter.hook_ended(how, timed_out);
                    }
                    Instruction::LeaveHookOut => self.events.reporter.leave_hook_out(),
                    Instruction::SayEnded(Ran { how, why }) => {
                        self.events.reporter.command_ended(&how.to_string(), &why.text());
                    }
                    Instruction::SayRestarting(pause) => self.events.reporter.restarting(pause),
                    Instruction::Finish(ran) => return ran,
                }
            }
            let input = match answer {
                Some(answer) => answer,
                None => self.next_input(leadership, &oversight).await,
            };
            instructions = oversight.see(input, Timestamp::now());
        }
    }

    /// Has the ticket name the init that the next command starts under, and no other. Returns it if it does.
    ///
    /// # Errors
    ///
    /// A ticket names another: under this one the command must not start.
    async fn name_init(&mut self) -> Result<Option<u32>, NamingError> {
        let lifeline = self.lifeline.as_ref().and_then(CommandLifeline::of_init);
        let Some(lifeline) = lifeline else { return Ok(None) };
        let init = match self.guard.waiting() {
            Some(WaitingInit { pid, named: true }) => return Ok(Some(*pid)),
            Some(WaitingInit { pid, .. }) => Some(*pid),
            None => None,
        };
        let naming = spawn_blocking(move || match init {
            Some(init) => lifeline.name_process(init),
            None => lifeline.name_no_process(),
        });
        match naming.await.map_err(|error| NamingError::StillNamesAnother(io::Error::other(error)))? {
            Ok(()) => {
                if let Some(waiting) = self.guard.waiting() {
                    waiting.named = true;
                }
                Ok(init)
            }
            Err(NamingError::StillNamesAnother(why)) => Err(NamingError::StillNamesAnother(why)),
            Err(error) => {
                warn!(%error, "should all of elect's processes be killed, the next leader waits for the TTL");
                Ok(None)
            }
        }
    }

    /// Waits for the next input of the oversight.
    async fn next_input(&mut self, leadership: &Leadership, oversight: &Oversight) -> OversightInput {
        loop {
            if let Some(until) = leadership.deadline().filter(|until| *until > oversight.proved()) {
                return OversightInput::Proved(until);
            }
            return tokio::select! {
                biased;
                next_event = self.guard.next_event() => match next_event {
                    GuardEvent::Said(report) => OversightInput::Said(report),
                    GuardEvent::Died(status) => {
                        error!(%status, "the guard is dead: what it guarded is killed");
                        OversightInput::GuardDied
                    }
                },
                () = sleep_until(oversight.next()) => OversightInput::Clock,
                loss = leadership.lost(), if !oversight.is_lost() => OversightInput::Lost(loss),
                notice = self.events.next() => match notice {
                    RunEvent::Asked(Wish::Stop(number)) => OversightInput::Stop(number),
                    RunEvent::Asked(Wish::StopAtOnce) => OversightInput::StopAtOnce,
                    RunEvent::PassOn(number) => OversightInput::PassOn(number),
                    RunEvent::HookDue => OversightInput::HookDue,
                    // It may have been a renewal.
                    RunEvent::Passed => continue,
                },
                () = self.health.becomes(false), if !oversight.is_ending() => {
                    self.events.reporter.healthy(false);
                    OversightInput::Unfit
                }
            };
        }
    }

    /// Lets the inits that the guard left end the processes below them, then kills the rest, and reaps until
    /// there is nothing.
    async fn sweep(&mut self) {
        let (mut unreadable, mut unkillable) = (log::RateLimit::new(), Unkillable::default());
        let by_itself_until = Timestamp::now() + BY_ITSELF;
        loop {
            // If the command's init were killed at once, its processes would be ours; and if we were killed
            // next, no one's.
            let swept = match Timestamp::now() < by_itself_until {
                true => self.registry.reap_orphans(),
                false => self.registry.kill_orphans(),
            };
            let again = match swept {
                Ok(Rest { any: false, .. }) => return,
                Ok(rest) => {
                    unkillable.tell(&rest, Timestamp::now());
                    rest.again()
                }
                Err(error) => {
                    if let Some(left_out) = unreadable.pass(Timestamp::now()) {
                        warn!(%error, left_out, "/proc can't be read");
                    }
                    Rest::default().again()
                }
            };
            // A sweep goes before any other request.
            let _ = self.events.meanwhile(sleep(again)).await;
        }
    }

    /// Gives leadership up, unless it is lost already or the user won't wait.
    async fn release(&mut self, leadership: Leadership) {
        let mut resigning = std::pin::pin!(leadership.resign());
        let released = loop {
            match self.events.meanwhile(&mut resigning).await {
                Some(released) => break released,
                // The guard has the ticket, and releases it once we are gone.
                None if self.events.is_stopping_at_once() => return,
                None => {}
            }
        };
        match released {
            Err(OrderError::Unconfirmed(why)) => {
                let span = written(self.options.candidate.place.proof().span());
                warn!("leadership was not released: {why}; it ends by itself within {span}");
            }
            Ok(()) => info!("leadership was given up"),
            Err(_) => {}
        }
        self.guard.order(&GuardOrder::Over);
    }

    /// Leaves the queue, dismisses the guard, and waits for the pending hooks.
    async fn finish(self, backend: &B) {
        let Self { candidate, guard, health, mut events, .. } = self;
        events.reporter.stopping();
        drop((candidate, health));
        if events.is_stopping_at_once() {
            return;
        }
        let leaving = async {
            let _ = timeout(DISMISS_WITHIN, guard.dismiss()).await;
            // A lease that is not revoked by then expires by itself.
            let _ = timeout(LEAVE_WITHIN, backend.drained()).await;
        };
        let mut leaving = std::pin::pin!(leaving);
        while events.meanwhile(&mut leaving).await.is_none() {
            if events.is_stopping_at_once() {
                return;
            }
        }
        events.finish().await;
    }
}

/// The order to the guard to start the command.
fn start(leadership: &Leadership, until: Timestamp, init: Option<u32>) -> GuardOrder {
    GuardOrder::Start(Box::new(Start {
        token: leadership.token().to_string(),
        cluster: leadership.cluster().to_string(),
        until: until.into(),
        ticket: leadership.ticket().cloned(),
        init,
    }))
}

/// Returns the exit code that a shell would give it.
fn shell_code(how: &CommandExit) -> u8 {
    match how {
        // The kernel reports one byte of an exit code.
        CommandExit::Exited(code) => *code as u8,
        CommandExit::Signalled(number) => (BY_SIGNAL + number) as u8,
        CommandExit::NotStarted(_) => program::CANNOT_RUN,
    }
}
