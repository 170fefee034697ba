//! The supervisor's decisions about its command during one term: a pure function of its inputs, and the
//! clock.
//!
//! ```text
//!            ┌────────── pause is over ──────────┐
//!            ▼                                   │
//!   begin ► Running ── ended, is restarted ──► Pausing
//!            │  │                                │
//!            │  └── guard died ──► Sweeping ◄────┤ guard died
//!            │ ended, is not restarted  │ swept  │ lost, told to stop, unfit
//!            └───────────────────► Finished ◄────┘
//! ```
//!
//! If the term had a hook, *Clearing* comes before *Finished*: until nothing is left of the hook either.
//!
//! * A command is started only after the end of the one before was reported.
//! * Loss is answered with KILL at once. The guard then has [`ALLOWANCE`] to report the end.
//! * A guard that has not reported the end by the [backstop](Budget::backstop) of its last confirmed deadline
//!   is destroyed, and so is one that was told to stop and takes too long. Its reports are read once more
//!   before that: after a freeze the clock is seen before the pipe is.
//! * The end of a term is announced once nothing of it is left.
//!
//! [`countdown`](super::countdown) is the counterpart for the guard.

use std::time::Duration;

use leader_election::{Loss, clock::Timestamp};
use nix::sys::signal::Signal;

use super::{
    budget::{ALLOWANCE, Budget, GRACE},
    protocol::{CommandExit, GuardOrder, GuardReport},
    restart::{Restart, RestartPause},
};

/// An input of the supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OversightInput {
    /// Leadership is proved until then.
    Proved(Timestamp),
    /// Leadership is lost.
    Lost(Loss),
    /// The guard reports.
    Said(GuardReport),
    /// The guard is dead.
    GuardDied,
    /// No process of a dead guard is left.
    Swept,
    /// A signal asks to stop.
    Stop(i32),
    /// A second signal asks to stop.
    StopAtOnce,
    /// A signal to forward to the command.
    PassOn(i32),
    /// The check fails.
    Unfit,
    /// The term's hook is due.
    HookDue,
    /// The moment of [`Oversight::next`] has come.
    Clock,
}

/// An instruction for the supervisor. They are carried out in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Instruction {
    /// Order the start of the command, under a leadership that is proved until then.
    Start { until: Timestamp },
    /// Give the guard another order.
    Tell(GuardOrder),
    /// Read the guard's reports, and only then the clock again.
    LookAgain,
    /// Kill the guard, and the command with it.
    Destroy,
    /// Kill the dead guard's processes, until none is left. Then send [`OversightInput::Swept`].
    Sweep,
    /// Report that the command has started.
    SayStarted { pid: i32 },
    /// Report that the term's hook has ended.
    SayHookEnded { how: CommandExit, timed_out: bool },
    /// Report that the term's hook does not run: its term is over.
    LeaveHookOut,
    /// Report that nothing is left of the command.
    SayEnded(Ran),
    /// Report that the command restarts after this pause.
    SayRestarting(Duration),
    /// Give leadership up: nothing is left of the term. The last instruction.
    Finish(Ran),
}

/// One run of the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) how: CommandExit,
    pub(crate) why: StopReason,
}

/// Reason that the command does not run any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// It ended by itself.
    Itself,
    Told,
    Unfit,
    /// The guard ended it, because no renewal came.
    RanOut,
    Lost(Loss),
    GuardDied,
}

impl StopReason {
    pub(crate) fn text(self) -> String {
        match self {
            Self::Itself => "by itself".into(),
            Self::Told => "told to stop".into(),
            Self::Unfit => "the check fails".into(),
            Self::RanOut => Loss::Expired.to_string(),
            Self::Lost(loss) => loss.to_string(),
            Self::GuardDied => "the guard died, or was stuck".into(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum CommandState {
    /// The guard was ordered to start the command, and has not reported its end.
    Running {
        since: Timestamp,
    },
    /// The command ended like this, and restarts then.
    Pausing {
        until: Timestamp,
        how: CommandExit,
    },
    /// The guard is dead, and the rest is being killed. The command ended like this, then or before.
    Sweeping {
        how: CommandExit,
        ran: bool,
    },
    /// The command is gone; the term's hook, or its remaining processes, are being killed. The guard has
    /// until then.
    Clearing {
        last: Ran,
        by: Timestamp,
    },
    Finished,
}

/// One term, from the win to the moment at which nothing of it is left.
#[derive(Debug)]
pub(crate) struct Oversight {
    budget: Budget,
    restart: Restart,
    pace: RestartPause,
    stage: CommandState,
    /// The proved time, by the inputs so far.
    proved: Timestamp,
    /// The proved time that the guard has confirmed: never longer than it was told.
    confirmed: Timestamp,
    /// The time by which all must be over, for another reason than the end of validity.
    over_by: Timestamp,
    /// Reason to end the command: the first one counts.
    why: Option<StopReason>,
    lost: bool,
    /// True if the term's hook was started.
    hooked: bool,
    /// True if the guard's reports were read once more before it is destroyed.
    reports_read: bool,
    destroyed: bool,
}

const NEVER: Timestamp = Timestamp::from_nanos(u64::MAX);

impl Oversight {
    /// Begins a term that is proved until then. The instructions start the command.
    pub(crate) fn begin(
        budget: Budget,
        restart: Restart,
        until: Timestamp,
        now: Timestamp,
    ) -> (Self, Vec<Instruction>) {
        let mut oversight = Self {
            budget,
            restart,
            pace: RestartPause::new(),
            stage: CommandState::Finished,
            proved: until,
            confirmed: until,
            over_by: NEVER,
            why: None,
            lost: false,
            hooked: false,
            reports_read: false,
            destroyed: false,
        };
        let first = oversight.start(now);
        (oversight, first)
    }

    /// Returns the proved time, by the inputs so far.
    pub(crate) fn proved(&self) -> Timestamp {
        self.proved
    }

    /// Returns whether the loss of leadership is known. It is an input once.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Returns whether there is already a reason to end the command: no other is needed.
    pub(crate) fn is_ending(&self) -> bool {
        self.why.is_some()
    }

    /// Returns when [`OversightInput::Clock`] is due.
    pub(crate) fn next(&self) -> Timestamp {
        match &self.stage {
            CommandState::Running { .. } if !self.destroyed => {
                self.budget.backstop(self.confirmed).min(self.over_by)
            }
            CommandState::Pausing { until, .. } => *until,
            CommandState::Clearing { by, .. } if !self.destroyed => *by,
            CommandState::Clearing { .. }
            | CommandState::Running { .. }
            | CommandState::Sweeping { .. }
            | CommandState::Finished => NEVER,
        }
    }

    /// Returns the instructions that follow from an input.
    pub(crate) fn see(&mut self, input: OversightInput, now: Timestamp) -> Vec<Instruction> {
        match input {
            OversightInput::Proved(until) => self.proved_until(until),
            OversightInput::Lost(loss) => {
                self.lost = true;
                // The next leader may work already: no time for TERM.
                self.end(StopReason::Lost(loss), now, now + ALLOWANCE, GuardOrder::Kill)
            }
            OversightInput::Said(report) => self.said(report, now),
            OversightInput::GuardDied => self.guard_died(),
            OversightInput::Swept => self.swept(),
            OversightInput::Stop(number) => {
                self.end(StopReason::Told, now, self.stopped_by(now), GuardOrder::Stop(number))
            }
            OversightInput::StopAtOnce => self.end(StopReason::Told, now, now + GRACE, GuardOrder::Kill),
            OversightInput::PassOn(number) => match self.stage {
                CommandState::Running { .. } => vec![Instruction::Tell(GuardOrder::Signal(number))],
                _ => Vec::new(),
            },
            OversightInput::Unfit if self.is_ending() => Vec::new(),
            OversightInput::Unfit => self.end(
                StopReason::Unfit,
                now,
                self.stopped_by(now),
                GuardOrder::Stop(Signal::SIGTERM as i32),
            ),
            OversightInput::HookDue => self.hook_due(now),
            OversightInput::Clock => self.clock(now),
        }
    }

    fn start(&mut self, now: Timestamp) -> Vec<Instruction> {
        self.stage = CommandState::Running { since: now };
        (self.confirmed, self.reports_read) = (self.proved, false);
        vec![Instruction::Start { until: self.proved }]
    }

    fn proved_until(&mut self, until: Timestamp) -> Vec<Instruction> {
        if until <= self.proved {
            return Vec::new();
        }
        self.proved = until;
        match self.stage {
            // Between two runs the hook may be there.
            CommandState::Running { .. } | CommandState::Pausing { .. } => {
                vec![Instruction::Tell(GuardOrder::Until(until.into()))]
            }
            _ => Vec::new(),
        }
    }

    fn hook_due(&mut self, now: Timestamp) -> Vec<Instruction> {
        let term = matches!(self.stage, CommandState::Running { .. } | CommandState::Pausing { .. });
        if !term || self.is_ending() || now >= self.budget.terminate_at(self.proved) {
            return vec![Instruction::LeaveHookOut];
        }
        self.hooked = true;
        vec![Instruction::Tell(GuardOrder::Hook)]
    }

    fn said(&mut self, report: GuardReport, now: Timestamp) -> Vec<Instruction> {
        match (report, &self.stage) {
            (GuardReport::Heard(until), _) => {
                self.confirmed = self.confirmed.max(until.into());
                self.reports_read = false;
                Vec::new()
            }
            (GuardReport::Started { pid }, CommandState::Running { .. }) => {
                vec![Instruction::SayStarted { pid }]
            }
            (GuardReport::Ended { how, ran_out }, CommandState::Running { since }) => {
                let since = *since;
                let why = self.why.unwrap_or(if ran_out { StopReason::RanOut } else { StopReason::Itself });
                self.ended(Ran { how, why }, since, now)
            }
            // It is killed with the term, whose end is reported.
            (GuardReport::HookEnded { .. }, CommandState::Clearing { .. }) => Vec::new(),
            (GuardReport::HookEnded { .. }, _) if self.lost => Vec::new(),
            (GuardReport::HookEnded { how, timed_out }, _) => {
                vec![Instruction::SayHookEnded { how, timed_out }]
            }
            (GuardReport::Cleared, CommandState::Clearing { last, .. }) => {
                let last = last.clone();
                vec![self.finish(last)]
            }
            (
                GuardReport::Ready
                | GuardReport::InitWaits { .. }
                | GuardReport::Started { .. }
                | GuardReport::Ended { .. }
                | GuardReport::Cleared,
                _,
            ) => Vec::new(),
        }
    }

    fn ended(&mut self, ran: Ran, since: Timestamp, now: Timestamp) -> Vec<Instruction> {
        let said = Instruction::SayEnded(ran.clone());
        if ran.why != StopReason::Itself || !self.restart.wants(ran.how.exit_code()) {
            return vec![said, self.clear(ran, now)];
        }
        let pause = self.pace.pause(now.since(since));
        self.stage = CommandState::Pausing { until: now + pause, how: ran.how };
        vec![said, Instruction::SayRestarting(pause)]
    }

    fn guard_died(&mut self) -> Vec<Instruction> {
        let how = match &self.stage {
            CommandState::Running { .. } => CommandExit::Signalled(Signal::SIGKILL as i32),
            CommandState::Pausing { how, .. } => how.clone(),
            CommandState::Clearing { last, .. } => last.how.clone(),
            CommandState::Sweeping { .. } | CommandState::Finished => return Vec::new(),
        };
        self.why.get_or_insert(StopReason::GuardDied);
        let ran = matches!(self.stage, CommandState::Running { .. });
        self.stage = CommandState::Sweeping { how, ran };
        vec![Instruction::Sweep]
    }

    fn swept(&mut self) -> Vec<Instruction> {
        let CommandState::Sweeping { how, ran } = &self.stage else { return Vec::new() };
        let (how, ran) = (how.clone(), *ran);
        let ran_so = Ran { how, why: self.why.unwrap_or(StopReason::GuardDied) };
        let said = ran.then(|| Instruction::SayEnded(ran_so.clone()));
        said.into_iter().chain([self.finish(ran_so)]).collect()
    }

    /// Ends the command for a reason.
    fn end(&mut self, why: StopReason, now: Timestamp, by: Timestamp, order: GuardOrder) -> Vec<Instruction> {
        let why = *self.why.get_or_insert(why);
        self.over_by = self.over_by.min(by);
        match &self.stage {
            CommandState::Running { .. } => vec![Instruction::Tell(order)],
            CommandState::Pausing { how, .. } => {
                let ran = Ran { how: how.clone(), why };
                vec![self.clear(ran, now)]
            }
            CommandState::Sweeping { .. } | CommandState::Clearing { .. } | CommandState::Finished => {
                Vec::new()
            }
        }
    }

    /// Returns when a command that is told to stop now must be gone.
    fn stopped_by(&self, now: Timestamp) -> Timestamp {
        now + self.budget.kill_after() + GRACE
    }

    fn clock(&mut self, now: Timestamp) -> Vec<Instruction> {
        if now < self.next() {
            return Vec::new();
        }
        match &self.stage {
            CommandState::Running { .. } | CommandState::Clearing { .. } if !self.reports_read => {
                self.reports_read = true;
                vec![Instruction::LookAgain]
            }
            CommandState::Running { .. } | CommandState::Clearing { .. } => {
                self.destroyed = true;
                vec![Instruction::Destroy]
            }
            CommandState::Pausing { .. } if now < self.proved => self.start(now),
            // The loss is about to be reported.
            CommandState::Pausing { .. } => {
                self.end(StopReason::Lost(Loss::Expired), now, now, GuardOrder::Kill)
            }
            CommandState::Sweeping { .. } | CommandState::Finished => Vec::new(),
        }
    }

    /// Ends the rest of the hook, once the command is gone for good.
    fn clear(&mut self, last: Ran, now: Timestamp) -> Instruction {
        if !self.hooked {
            return self.finish(last);
        }
        self.why = Some(last.why);
        self.reports_read = false;
        self.stage = CommandState::Clearing { last, by: now + ALLOWANCE };
        Instruction::Tell(GuardOrder::Kill)
    }

    fn finish(&mut self, ran: Ran) -> Instruction {
        self.stage = CommandState::Finished;
        Instruction::Finish(ran)
    }
}

#[cfg(test)]
mod tests {
    use leader_election::timing::Ttl;
    use proptest::prelude::*;

    use super::{super::budget::KillAfter, *};
    use crate::lease_timing::LeaseTiming;

    const TERM: i32 = Signal::SIGTERM as i32;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    /// TTL 5 s, 1 s from TERM to KILL: KILL 250 ms before the end of validity, the backstop 125 ms.
    fn budget() -> Budget {
        Budget::new(LeaseTiming::Lease(Ttl::DEFAULT), KillAfter::Given(Duration::from_secs(1))).unwrap()
    }

    /// Proved until 4500 ms, begun at 0.
    fn begun(restart: Restart) -> Oversight {
        let (oversight, first) = Oversight::begin(budget(), restart, at(4500), at(0));
        assert_eq!(first, [Instruction::Start { until: at(4500) }]);
        oversight
    }

    fn ended(code: i32) -> OversightInput {
        OversightInput::Said(GuardReport::Ended { how: CommandExit::Exited(code), ran_out: false })
    }

    fn confirmed(millis: u64) -> OversightInput {
        OversightInput::Said(GuardReport::Heard(at(millis).into()))
    }

    fn why(instructions: &[Instruction]) -> StopReason {
        match instructions {
            [.., Instruction::Finish(ran)] => ran.why,
            other => panic!("not finished: {other:?}"),
        }
    }

    #[test]
    fn a_command_that_ends_by_itself_ends_the_term() {
        let mut oversight = begun(Restart::OnFailure);
        let ran = Ran { how: CommandExit::Exited(0), why: StopReason::Itself };
        let finished = oversight.see(ended(0), at(10));
        assert_eq!(finished, [Instruction::SayEnded(ran.clone()), Instruction::Finish(ran)]);
        assert_eq!(oversight.next(), NEVER);
    }

    #[test]
    fn one_that_is_restarted_starts_after_a_pause_under_what_is_proved_by_then() {
        let mut oversight = begun(Restart::Always);
        oversight.see(ended(0), at(1000));
        let told = GuardOrder::Until(at(5500).into());
        assert_eq!(
            oversight.see(OversightInput::Proved(at(5500)), at(1050)),
            [Instruction::Tell(told)],
            "a hook may run"
        );
        assert_eq!(oversight.see(OversightInput::Clock, at(1099)), []);
        assert_eq!(oversight.see(OversightInput::Clock, at(1100)), [Instruction::Start { until: at(5500) }]);
    }

    #[test]
    fn nothing_is_restarted_once_there_is_a_reason_to_end() {
        for (input, expected) in [
            (OversightInput::Lost(Loss::Revoked), StopReason::Lost(Loss::Revoked)),
            (OversightInput::Stop(TERM), StopReason::Told),
            (OversightInput::StopAtOnce, StopReason::Told),
            (OversightInput::Unfit, StopReason::Unfit),
        ] {
            let mut oversight = begun(Restart::Always);
            oversight.see(input.clone(), at(10));
            assert_eq!(why(&oversight.see(ended(1), at(20))), expected);

            let mut between = begun(Restart::Always);
            between.see(ended(1), at(10));
            assert_eq!(why(&between.see(input, at(20))), expected);
        }
        let mut late = begun(Restart::Always);
        late.see(ended(1), at(10));
        assert_eq!(
            why(&late.see(OversightInput::Clock, at(4500))),
            StopReason::Lost(Loss::Expired),
            "as after a freeze"
        );
    }

    #[test]
    fn loss_is_answered_with_kill_at_once_also_while_the_command_uses_its_time_to_stop() {
        let mut oversight = begun(Restart::Never);
        let told = oversight.see(OversightInput::Stop(TERM), at(100));
        assert_eq!(told, [Instruction::Tell(GuardOrder::Stop(TERM))]);
        let lost = oversight.see(OversightInput::Lost(Loss::KeyDeleted), at(200));
        assert_eq!(lost, [Instruction::Tell(GuardOrder::Kill)]);
        assert_eq!(oversight.next(), at(200) + ALLOWANCE);
    }

    #[test]
    fn a_guard_that_is_silent_is_destroyed_at_the_backstop_of_what_it_heard() {
        let mut oversight = begun(Restart::Never);
        oversight.see(OversightInput::Proved(at(6000)), at(1500));
        assert_eq!(oversight.next(), budget().backstop(at(4500)), "it has not said that it heard");
        oversight.see(confirmed(6000), at(1501));
        let backstop = budget().backstop(at(6000));
        assert_eq!(oversight.next(), backstop);
        assert_eq!(oversight.see(OversightInput::Clock, backstop), [Instruction::LookAgain]);
        assert_eq!(oversight.see(OversightInput::Clock, backstop), [Instruction::Destroy]);
        assert_eq!(oversight.see(OversightInput::GuardDied, backstop), [Instruction::Sweep]);
        assert_eq!(why(&oversight.see(OversightInput::Swept, backstop)), StopReason::GuardDied);
    }

    #[test]
    fn after_a_freeze_what_the_guard_said_counts_before_the_clock() {
        let mut oversight = begun(Restart::Never);
        assert_eq!(oversight.see(OversightInput::Clock, at(60_000)), [Instruction::LookAgain]);
        assert_eq!(oversight.see(confirmed(5000), at(60_000)), []);
        assert_eq!(
            oversight.see(OversightInput::Clock, at(60_000)),
            [Instruction::LookAgain],
            "there may be more"
        );
        let report =
            OversightInput::Said(GuardReport::Ended { how: CommandExit::Signalled(9), ran_out: true });
        assert_eq!(why(&oversight.see(report, at(60_000))), StopReason::RanOut);
    }

    #[test]
    fn the_death_of_the_guard_between_two_runs_is_swept_up_too() {
        let mut oversight = begun(Restart::Always);
        oversight.see(ended(3), at(10));
        assert_eq!(oversight.see(OversightInput::GuardDied, at(20)), [Instruction::Sweep]);
        let ran = Ran { how: CommandExit::Exited(3), why: StopReason::GuardDied };
        assert_eq!(oversight.see(OversightInput::Swept, at(30)), [Instruction::Finish(ran)]);
    }

    #[test]
    fn a_term_with_a_hook_is_over_once_that_is_gone_too() {
        let mut oversight = begun(Restart::Never);
        assert_eq!(oversight.see(OversightInput::HookDue, at(10)), [Instruction::Tell(GuardOrder::Hook)]);
        let ended = oversight.see(ended(0), at(20));
        assert_eq!(ended[1..], [Instruction::Tell(GuardOrder::Kill)]);
        assert_eq!(oversight.next(), at(20) + ALLOWANCE);
        assert_eq!(
            why(&oversight.see(OversightInput::Said(GuardReport::Cleared), at(21))),
            StopReason::Itself
        );
    }

    #[test]
    fn a_guard_that_does_not_clear_up_is_destroyed_and_swept_up_after() {
        let mut oversight = begun(Restart::Never);
        oversight.see(OversightInput::HookDue, at(10));
        oversight.see(ended(0), at(20));
        let by = at(20) + ALLOWANCE;
        assert_eq!(oversight.see(OversightInput::Clock, by), [Instruction::LookAgain]);
        assert_eq!(oversight.see(OversightInput::Clock, by), [Instruction::Destroy]);
        assert_eq!(oversight.see(OversightInput::GuardDied, by), [Instruction::Sweep]);
        assert_eq!(why(&oversight.see(OversightInput::Swept, by)), StopReason::Itself);
    }

    #[test]
    fn a_hook_that_has_not_begun_does_not_where_its_term_is_about_to_end() {
        let mut oversight = begun(Restart::Never);
        assert_eq!(
            oversight.see(OversightInput::HookDue, at(3250)),
            [Instruction::LeaveHookOut],
            "no renewal"
        );
        oversight.see(OversightInput::Stop(TERM), at(10));
        assert_eq!(oversight.see(OversightInput::HookDue, at(20)), [Instruction::LeaveHookOut]);
    }

    fn any_input() -> impl Strategy<Value = OversightInput> {
        let moment = (0..20_000u64).prop_map(at);
        let report = prop_oneof![
            moment.clone().prop_map(|until| GuardReport::Heard(until.into())),
            Just(GuardReport::Started { pid: 7 }),
            Just(GuardReport::Cleared),
            any::<bool>()
                .prop_map(|timed_out| GuardReport::HookEnded { how: CommandExit::Exited(0), timed_out }),
            (0..2, any::<bool>())
                .prop_map(|(code, ran_out)| GuardReport::Ended { how: CommandExit::Exited(code), ran_out }),
        ];
        prop_oneof![
            3 => moment.prop_map(OversightInput::Proved),
            1 => Just(OversightInput::Lost(Loss::Expired)),
            4 => report.prop_map(OversightInput::Said),
            1 => Just(OversightInput::GuardDied),
            2 => Just(OversightInput::Swept),
            1 => Just(OversightInput::Stop(TERM)),
            1 => Just(OversightInput::StopAtOnce),
            1 => Just(OversightInput::PassOn(1)),
            1 => Just(OversightInput::Unfit),
            2 => Just(OversightInput::HookDue),
            6 => Just(OversightInput::Clock),
        ]
    }

    fn any_restart() -> impl Strategy<Value = Restart> {
        prop_oneof![Just(Restart::Never), Just(Restart::OnFailure), Just(Restart::Always)]
    }

    proptest! {
        /// For all inputs, in all orders and with all delays.
        #[test]
        fn no_two_commands_and_no_end_before_all_is_gone(
            restart in any_restart(),
            seen in prop::collection::vec((any_input(), 0u64..2_000), 1..80),
        ) {
            let mut oversight = begun(restart);
            let mut now = at(0);
            // The state of the world, by orders and reports.
            let (mut running, mut dead, mut finished, mut ending) = (true, false, false, false);
            let mut hooked = false;
            let mut reports_read_again = false;
            for (input, pause) in seen {
                now = now + Duration::from_millis(pause);
                let before = (oversight.confirmed, oversight.over_by);
                let instructions = oversight.see(input.clone(), now);
                let of_hook = |one: &Instruction| matches!(one, Instruction::SayHookEnded { .. } | Instruction::LeaveHookOut);
                prop_assert!(!finished || instructions.iter().all(of_hook));
                prop_assert!(oversight.over_by <= before.1, "what ends the command is not put off");
                let restarted = instructions.iter().any(|one| matches!(one, Instruction::Start { .. }));
                prop_assert!(restarted || oversight.confirmed >= before.0);
                match &input {
                    OversightInput::Said(GuardReport::Ended { .. }) if !dead => running = false,
                    OversightInput::Swept if dead => (running, hooked) = (false, false),
                    OversightInput::Said(GuardReport::Cleared) if !running => hooked = false,
                    OversightInput::Lost(_) if running && !dead => {
                        prop_assert_eq!(&instructions[..], &[Instruction::Tell(GuardOrder::Kill)][..]);
                    }
                    OversightInput::GuardDied if !finished && !dead => {
                        prop_assert_eq!(&instructions[..], &[Instruction::Sweep][..]);
                        dead = true;
                    }
                    _ => {}
                }
                ending |= matches!(input, OversightInput::Lost(_) | OversightInput::Stop(_) | OversightInput::StopAtOnce | OversightInput::Unfit | OversightInput::GuardDied);
                for instruction in instructions {
                    match instruction {
                        Instruction::Start { until } => {
                            prop_assert!(!running && !dead && !ending, "{:?} starts a second one", input);
                            prop_assert!(now < until);
                            running = true;
                        }
                        Instruction::Finish(_) => {
                            prop_assert!(!running, "{:?} ends a term whose command may be alive", input);
                            prop_assert!(!hooked, "{:?} ends a term whose hook may be alive", input);
                            finished = true;
                        }
                        Instruction::LookAgain => reports_read_again = true,
                        Instruction::Destroy => prop_assert!(reports_read_again, "judged before it was looked at again"),
                        Instruction::Tell(GuardOrder::Hook) => {
                            prop_assert!(!dead && !ending && !finished);
                            hooked = true;
                        }
                        Instruction::Tell(GuardOrder::Kill | GuardOrder::Until(_)) => prop_assert!(!dead && !finished),
                        Instruction::Tell(_) => prop_assert!(running && !dead),
                        _ => {}
                    }
                }
                if matches!(input, OversightInput::Said(GuardReport::Heard(_))) {
                    reports_read_again = false;
                }
            }
        }

        /// A silent guard is destroyed at the backstop at the latest, whatever other inputs come.
        #[test]
        fn a_silent_guard_is_destroyed_in_time(
            seen in prop::collection::vec((any_input(), 0u64..2_000), 0..40),
        ) {
            let mut oversight = begun(Restart::Never);
            let mut now = at(0);
            let silent = |input: &OversightInput| {
                !matches!(input, OversightInput::Said(_) | OversightInput::GuardDied | OversightInput::Swept)
            };
            let mut destroyed = false;
            for (input, pause) in seen.into_iter().filter(|(input, _)| silent(input)) {
                now = now + Duration::from_millis(pause);
                let lost = matches!(input, OversightInput::Lost(_));
                oversight.see(input, now);
                prop_assert!(!lost || destroyed || oversight.next() <= now + ALLOWANCE);
                prop_assert!(destroyed || oversight.next() <= budget().backstop(at(4500)));
                // The driver delivers the clock whenever it is due.
                while oversight.next() <= now {
                    destroyed |= oversight.see(OversightInput::Clock, now) == [Instruction::Destroy];
                }
                prop_assert!(destroyed || now < budget().backstop(at(4500)));
            }
        }
    }
}
