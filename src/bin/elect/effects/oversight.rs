//! What the supervisor does about its command during one term: a pure function of what it sees, and the clock.
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
//! Where the term had a hook, *Clearing* comes before *Finished*: until nothing is left of the hook either.
//!
//! * A command is started only after the end of the one before was reported.
//! * Loss is answered with KILL at once. A guard that was told so has [`ALLOWANCE`] to report the end.
//! * A guard that has not reported the end by the [backstop](Budget::backstop) of what it last heard is destroyed,
//!   and so is one that was told to stop and takes too long. It is looked at once more before that: after a freeze
//!   the clock is seen before the pipe is.
//! * The end of a term is announced once nothing of it is left.
//!
//! [`countdown`](super::countdown) is the same for the guard.

use std::time::Duration;

use leader_election::{Loss, clock::Timestamp};
use nix::sys::signal::Signal;

use super::{
    budget::{ALLOWANCE, Budget, GRACE},
    control::{End, Order, Report},
    restart::{Pace, Restart},
};

/// What the supervisor sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// Leadership is proved until then.
    Proved(Timestamp),
    /// Leadership is lost.
    Lost(Loss),
    /// The guard reports.
    Said(Report),
    /// The guard is dead.
    GuardDied,
    /// Nothing is left of what a dead guard guarded.
    Swept,
    /// A signal asks to stop.
    Stop(i32),
    /// A second one does.
    StopAtOnce,
    /// A signal is for the command.
    PassOn(i32),
    /// The check fails.
    Unfit,
    /// It is the turn of the term's hook.
    HookDue,
    /// The moment that [`Oversight::next`] names has come.
    Clock,
}

/// What the supervisor is to do. They are carried out in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Instruction {
    /// Order the start of the command, under a leadership that is proved until then.
    Start { until: Timestamp },
    /// Give the guard another order.
    Tell(Order),
    /// Read what the guard has said, and only then ask for the time again.
    LookAgain,
    /// Kill the guard, and the command with it.
    Destroy,
    /// Kill what the dead guard left, until nothing is left. Then see [`Input::Swept`].
    Sweep,
    /// Say that the command has started.
    SayStarted { pid: i32 },
    /// Say that the term's hook has ended.
    SayHookEnded { how: End, timed_out: bool },
    /// Say that the term's hook does not run: there is no term for it any more.
    LeaveHookOut,
    /// Say that nothing is left of the command.
    SayEnded(Ran),
    /// Say that it is started again after this pause.
    SayRestarting(Duration),
    /// Give leadership up: nothing is left of the term. The last instruction.
    Finish(Ran),
}

/// One run of the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) how: End,
    pub(crate) why: Why,
}

/// Why the command does not run any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It ended by itself.
    Itself,
    Told,
    Unfit,
    /// The guard ended it, for want of a renewal.
    RanOut,
    Lost(Loss),
    GuardDied,
}

impl Why {
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
enum Stage {
    /// The guard was ordered to start the command, and has not reported its end.
    Running {
        since: Timestamp,
    },
    /// The command ended like this, and is started again then.
    Pausing {
        until: Timestamp,
        how: End,
    },
    /// The guard is dead, and the rest is being killed. This is how the command ended, then or before.
    Sweeping {
        how: End,
        ran: bool,
    },
    /// The command is gone; what the term's hook is, or has left, is being killed. The guard has until then.
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
    pace: Pace,
    stage: Stage,
    /// Until when leadership is proved, as far as this was told.
    proved: Timestamp,
    /// Until when the guard acts as if leadership were proved: no longer than it was told.
    heard: Timestamp,
    /// When all must be over, for another reason than the end of validity.
    over_by: Timestamp,
    /// Why the command must end: the first reason counts.
    why: Option<Why>,
    lost: bool,
    /// Whether the term's hook was started.
    hooked: bool,
    /// Whether the guard was asked once more before it is judged.
    looked: bool,
    destroyed: bool,
}

const NEVER: Timestamp = Timestamp::from_nanos(u64::MAX);

impl Oversight {
    /// For a term that is proved until then. The instructions start the command.
    pub(crate) fn begin(
        budget: Budget,
        restart: Restart,
        until: Timestamp,
        now: Timestamp,
    ) -> (Self, Vec<Instruction>) {
        let mut oversight = Self {
            budget,
            restart,
            pace: Pace::new(),
            stage: Stage::Finished,
            proved: until,
            heard: until,
            over_by: NEVER,
            why: None,
            lost: false,
            hooked: false,
            looked: false,
            destroyed: false,
        };
        let first = oversight.start(now);
        (oversight, first)
    }

    /// Until when leadership is proved, as far as this was told.
    pub(crate) fn proved(&self) -> Timestamp {
        self.proved
    }

    /// Whether the loss of leadership is known. It is told once.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether there is a reason to end the command already: no other is needed.
    pub(crate) fn is_ending(&self) -> bool {
        self.why.is_some()
    }

    /// When [`Input::Clock`] is due.
    pub(crate) fn next(&self) -> Timestamp {
        match &self.stage {
            Stage::Running { .. } if !self.destroyed => self.budget.backstop(self.heard).min(self.over_by),
            Stage::Pausing { until, .. } => *until,
            Stage::Clearing { by, .. } if !self.destroyed => *by,
            Stage::Clearing { .. } | Stage::Running { .. } | Stage::Sweeping { .. } | Stage::Finished => {
                NEVER
            }
        }
    }

    /// What follows from this.
    pub(crate) fn see(&mut self, input: Input, now: Timestamp) -> Vec<Instruction> {
        match input {
            Input::Proved(until) => self.proved_until(until),
            Input::Lost(loss) => {
                self.lost = true;
                // The next leader may work already: no time for TERM.
                self.end(Why::Lost(loss), now, now + ALLOWANCE, Order::Kill)
            }
            Input::Said(report) => self.said(report, now),
            Input::GuardDied => self.guard_died(),
            Input::Swept => self.swept(),
            Input::Stop(number) => self.end(Why::Told, now, self.stopped_by(now), Order::Stop(number)),
            Input::StopAtOnce => self.end(Why::Told, now, now + GRACE, Order::Kill),
            Input::PassOn(number) => match self.stage {
                Stage::Running { .. } => vec![Instruction::Tell(Order::Signal(number))],
                _ => Vec::new(),
            },
            Input::Unfit if self.is_ending() => Vec::new(),
            Input::Unfit => {
                self.end(Why::Unfit, now, self.stopped_by(now), Order::Stop(Signal::SIGTERM as i32))
            }
            Input::HookDue => self.hook_due(now),
            Input::Clock => self.clock(now),
        }
    }

    fn start(&mut self, now: Timestamp) -> Vec<Instruction> {
        self.stage = Stage::Running { since: now };
        (self.heard, self.looked) = (self.proved, false);
        vec![Instruction::Start { until: self.proved }]
    }

    fn proved_until(&mut self, until: Timestamp) -> Vec<Instruction> {
        if until <= self.proved {
            return Vec::new();
        }
        self.proved = until;
        match self.stage {
            // Between two runs the hook may be there.
            Stage::Running { .. } | Stage::Pausing { .. } => {
                vec![Instruction::Tell(Order::Until(until.into()))]
            }
            _ => Vec::new(),
        }
    }

    fn hook_due(&mut self, now: Timestamp) -> Vec<Instruction> {
        let term = matches!(self.stage, Stage::Running { .. } | Stage::Pausing { .. });
        if !term || self.is_ending() || now >= self.budget.terminate_at(self.proved) {
            return vec![Instruction::LeaveHookOut];
        }
        self.hooked = true;
        vec![Instruction::Tell(Order::Hook)]
    }

    fn said(&mut self, report: Report, now: Timestamp) -> Vec<Instruction> {
        match (report, &self.stage) {
            (Report::Heard(until), _) => {
                self.heard = self.heard.max(until.into());
                self.looked = false;
                Vec::new()
            }
            (Report::Started { pid }, Stage::Running { .. }) => vec![Instruction::SayStarted { pid }],
            (Report::Ended { how, ran_out }, Stage::Running { since }) => {
                let since = *since;
                let why = self.why.unwrap_or(if ran_out { Why::RanOut } else { Why::Itself });
                self.ended(Ran { how, why }, since, now)
            }
            // It is killed with the term: that says enough.
            (Report::HookEnded { .. }, Stage::Clearing { .. }) => Vec::new(),
            (Report::HookEnded { .. }, _) if self.lost => Vec::new(),
            (Report::HookEnded { how, timed_out }, _) => {
                vec![Instruction::SayHookEnded { how, timed_out }]
            }
            (Report::Cleared, Stage::Clearing { last, .. }) => {
                let last = last.clone();
                vec![self.finish(last)]
            }
            (Report::Ready | Report::Started { .. } | Report::Ended { .. } | Report::Cleared, _) => {
                Vec::new()
            }
        }
    }

    fn ended(&mut self, ran: Ran, since: Timestamp, now: Timestamp) -> Vec<Instruction> {
        let said = Instruction::SayEnded(ran.clone());
        if ran.why != Why::Itself || !self.restart.wants(ran.how.exit_code()) {
            return vec![said, self.clear(ran, now)];
        }
        let pause = self.pace.pause(now.since(since));
        self.stage = Stage::Pausing { until: now + pause, how: ran.how };
        vec![said, Instruction::SayRestarting(pause)]
    }

    fn guard_died(&mut self) -> Vec<Instruction> {
        let how = match &self.stage {
            Stage::Running { .. } => End::Signalled(Signal::SIGKILL as i32),
            Stage::Pausing { how, .. } => how.clone(),
            Stage::Clearing { last, .. } => last.how.clone(),
            Stage::Sweeping { .. } | Stage::Finished => return Vec::new(),
        };
        self.why.get_or_insert(Why::GuardDied);
        let ran = matches!(self.stage, Stage::Running { .. });
        self.stage = Stage::Sweeping { how, ran };
        vec![Instruction::Sweep]
    }

    fn swept(&mut self) -> Vec<Instruction> {
        let Stage::Sweeping { how, ran } = &self.stage else { return Vec::new() };
        let (how, ran) = (how.clone(), *ran);
        let ran_so = Ran { how, why: self.why.unwrap_or(Why::GuardDied) };
        let said = ran.then(|| Instruction::SayEnded(ran_so.clone()));
        said.into_iter().chain([self.finish(ran_so)]).collect()
    }

    /// There is a reason to end the command.
    fn end(&mut self, why: Why, now: Timestamp, by: Timestamp, order: Order) -> Vec<Instruction> {
        let why = *self.why.get_or_insert(why);
        self.over_by = self.over_by.min(by);
        match &self.stage {
            Stage::Running { .. } => vec![Instruction::Tell(order)],
            Stage::Pausing { how, .. } => {
                let ran = Ran { how: how.clone(), why };
                vec![self.clear(ran, now)]
            }
            Stage::Sweeping { .. } | Stage::Clearing { .. } | Stage::Finished => Vec::new(),
        }
    }

    /// When a command that is told to stop now must be gone.
    fn stopped_by(&self, now: Timestamp) -> Timestamp {
        now + self.budget.kill_after() + GRACE
    }

    fn clock(&mut self, now: Timestamp) -> Vec<Instruction> {
        if now < self.next() {
            return Vec::new();
        }
        match &self.stage {
            Stage::Running { .. } | Stage::Clearing { .. } if !self.looked => {
                self.looked = true;
                vec![Instruction::LookAgain]
            }
            Stage::Running { .. } | Stage::Clearing { .. } => {
                self.destroyed = true;
                vec![Instruction::Destroy]
            }
            Stage::Pausing { .. } if now < self.proved => self.start(now),
            // The loss is about to be told.
            Stage::Pausing { .. } => self.end(Why::Lost(Loss::Expired), now, now, Order::Kill),
            Stage::Sweeping { .. } | Stage::Finished => Vec::new(),
        }
    }

    /// The command is gone for good. What is left of the hook goes as well.
    fn clear(&mut self, last: Ran, now: Timestamp) -> Instruction {
        if !self.hooked {
            return self.finish(last);
        }
        self.why = Some(last.why);
        self.looked = false;
        self.stage = Stage::Clearing { last, by: now + ALLOWANCE };
        Instruction::Tell(Order::Kill)
    }

    fn finish(&mut self, ran: Ran) -> Instruction {
        self.stage = Stage::Finished;
        Instruction::Finish(ran)
    }
}

#[cfg(test)]
mod tests {
    use leader_election::timing::Ttl;
    use proptest::prelude::*;

    use super::{super::budget::KillAfter, *};
    use crate::proof::Proof;

    const TERM: i32 = Signal::SIGTERM as i32;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    /// TTL 5 s, 1 s from TERM to KILL: KILL 250 ms before the end of validity, the backstop 125 ms.
    fn budget() -> Budget {
        Budget::new(Proof::Lease(Ttl::DEFAULT), KillAfter::Given(Duration::from_secs(1))).unwrap()
    }

    /// Proved until 4500 ms, begun at 0.
    fn begun(restart: Restart) -> Oversight {
        let (oversight, first) = Oversight::begin(budget(), restart, at(4500), at(0));
        assert_eq!(first, [Instruction::Start { until: at(4500) }]);
        oversight
    }

    fn ended(code: i32) -> Input {
        Input::Said(Report::Ended { how: End::Exited(code), ran_out: false })
    }

    fn heard(millis: u64) -> Input {
        Input::Said(Report::Heard(at(millis).into()))
    }

    fn why(instructions: &[Instruction]) -> Why {
        match instructions {
            [.., Instruction::Finish(ran)] => ran.why,
            other => panic!("not finished: {other:?}"),
        }
    }

    #[test]
    fn a_command_that_ends_by_itself_ends_the_term() {
        let mut oversight = begun(Restart::OnFailure);
        let ran = Ran { how: End::Exited(0), why: Why::Itself };
        let finished = oversight.see(ended(0), at(10));
        assert_eq!(finished, [Instruction::SayEnded(ran.clone()), Instruction::Finish(ran)]);
        assert_eq!(oversight.next(), NEVER);
    }

    #[test]
    fn one_that_is_restarted_starts_after_a_pause_under_what_is_proved_by_then() {
        let mut oversight = begun(Restart::Always);
        oversight.see(ended(0), at(1000));
        let told = Order::Until(at(5500).into());
        assert_eq!(
            oversight.see(Input::Proved(at(5500)), at(1050)),
            [Instruction::Tell(told)],
            "a hook may run"
        );
        assert_eq!(oversight.see(Input::Clock, at(1099)), []);
        assert_eq!(oversight.see(Input::Clock, at(1100)), [Instruction::Start { until: at(5500) }]);
    }

    #[test]
    fn nothing_is_restarted_once_there_is_a_reason_to_end() {
        for (input, expected) in [
            (Input::Lost(Loss::Revoked), Why::Lost(Loss::Revoked)),
            (Input::Stop(TERM), Why::Told),
            (Input::StopAtOnce, Why::Told),
            (Input::Unfit, Why::Unfit),
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
        assert_eq!(why(&late.see(Input::Clock, at(4500))), Why::Lost(Loss::Expired), "as after a freeze");
    }

    #[test]
    fn loss_is_answered_with_kill_at_once_also_while_the_command_uses_its_time_to_stop() {
        let mut oversight = begun(Restart::Never);
        let told = oversight.see(Input::Stop(TERM), at(100));
        assert_eq!(told, [Instruction::Tell(Order::Stop(TERM))]);
        let lost = oversight.see(Input::Lost(Loss::KeyDeleted), at(200));
        assert_eq!(lost, [Instruction::Tell(Order::Kill)]);
        assert_eq!(oversight.next(), at(200) + ALLOWANCE);
    }

    #[test]
    fn a_guard_that_is_silent_is_destroyed_at_the_backstop_of_what_it_heard() {
        let mut oversight = begun(Restart::Never);
        oversight.see(Input::Proved(at(6000)), at(1500));
        assert_eq!(oversight.next(), budget().backstop(at(4500)), "it has not said that it heard");
        oversight.see(heard(6000), at(1501));
        let backstop = budget().backstop(at(6000));
        assert_eq!(oversight.next(), backstop);
        assert_eq!(oversight.see(Input::Clock, backstop), [Instruction::LookAgain]);
        assert_eq!(oversight.see(Input::Clock, backstop), [Instruction::Destroy]);
        assert_eq!(oversight.see(Input::GuardDied, backstop), [Instruction::Sweep]);
        assert_eq!(why(&oversight.see(Input::Swept, backstop)), Why::GuardDied);
    }

    #[test]
    fn after_a_freeze_what_the_guard_said_counts_before_the_clock() {
        let mut oversight = begun(Restart::Never);
        assert_eq!(oversight.see(Input::Clock, at(60_000)), [Instruction::LookAgain]);
        assert_eq!(oversight.see(heard(5000), at(60_000)), []);
        assert_eq!(oversight.see(Input::Clock, at(60_000)), [Instruction::LookAgain], "there may be more");
        let report = Input::Said(Report::Ended { how: End::Signalled(9), ran_out: true });
        assert_eq!(why(&oversight.see(report, at(60_000))), Why::RanOut);
    }

    #[test]
    fn the_death_of_the_guard_between_two_runs_is_swept_up_too() {
        let mut oversight = begun(Restart::Always);
        oversight.see(ended(3), at(10));
        assert_eq!(oversight.see(Input::GuardDied, at(20)), [Instruction::Sweep]);
        let ran = Ran { how: End::Exited(3), why: Why::GuardDied };
        assert_eq!(oversight.see(Input::Swept, at(30)), [Instruction::Finish(ran)]);
    }

    #[test]
    fn a_term_with_a_hook_is_over_once_that_is_gone_too() {
        let mut oversight = begun(Restart::Never);
        assert_eq!(oversight.see(Input::HookDue, at(10)), [Instruction::Tell(Order::Hook)]);
        let ended = oversight.see(ended(0), at(20));
        assert_eq!(ended[1..], [Instruction::Tell(Order::Kill)]);
        assert_eq!(oversight.next(), at(20) + ALLOWANCE);
        assert_eq!(why(&oversight.see(Input::Said(Report::Cleared), at(21))), Why::Itself);
    }

    #[test]
    fn a_guard_that_does_not_clear_up_is_destroyed_and_swept_up_after() {
        let mut oversight = begun(Restart::Never);
        oversight.see(Input::HookDue, at(10));
        oversight.see(ended(0), at(20));
        let by = at(20) + ALLOWANCE;
        assert_eq!(oversight.see(Input::Clock, by), [Instruction::LookAgain]);
        assert_eq!(oversight.see(Input::Clock, by), [Instruction::Destroy]);
        assert_eq!(oversight.see(Input::GuardDied, by), [Instruction::Sweep]);
        assert_eq!(why(&oversight.see(Input::Swept, by)), Why::Itself);
    }

    #[test]
    fn a_hook_that_has_not_begun_does_not_where_its_term_is_about_to_end() {
        let mut oversight = begun(Restart::Never);
        assert_eq!(oversight.see(Input::HookDue, at(3250)), [Instruction::LeaveHookOut], "no renewal");
        oversight.see(Input::Stop(TERM), at(10));
        assert_eq!(oversight.see(Input::HookDue, at(20)), [Instruction::LeaveHookOut]);
    }

    fn any_input() -> impl Strategy<Value = Input> {
        let moment = (0..20_000u64).prop_map(at);
        let report = prop_oneof![
            moment.clone().prop_map(|until| Report::Heard(until.into())),
            Just(Report::Started { pid: 7 }),
            Just(Report::Cleared),
            any::<bool>().prop_map(|timed_out| Report::HookEnded { how: End::Exited(0), timed_out }),
            (0..2, any::<bool>())
                .prop_map(|(code, ran_out)| Report::Ended { how: End::Exited(code), ran_out }),
        ];
        prop_oneof![
            3 => moment.prop_map(Input::Proved),
            1 => Just(Input::Lost(Loss::Expired)),
            4 => report.prop_map(Input::Said),
            1 => Just(Input::GuardDied),
            2 => Just(Input::Swept),
            1 => Just(Input::Stop(TERM)),
            1 => Just(Input::StopAtOnce),
            1 => Just(Input::PassOn(1)),
            1 => Just(Input::Unfit),
            2 => Just(Input::HookDue),
            6 => Just(Input::Clock),
        ]
    }

    fn any_restart() -> impl Strategy<Value = Restart> {
        prop_oneof![Just(Restart::Never), Just(Restart::OnFailure), Just(Restart::Always)]
    }

    proptest! {
        /// Whatever it sees, in whatever order, and however late.
        #[test]
        fn no_two_commands_and_no_end_before_all_is_gone(
            restart in any_restart(),
            seen in prop::collection::vec((any_input(), 0u64..2_000), 1..80),
        ) {
            let mut oversight = begun(restart);
            let mut now = at(0);
            // What the world is like, by what was ordered and reported.
            let (mut running, mut dead, mut finished, mut ending) = (true, false, false, false);
            let mut hooked = false;
            let mut looked_again = false;
            for (input, pause) in seen {
                now = now + Duration::from_millis(pause);
                let before = (oversight.heard, oversight.over_by);
                let instructions = oversight.see(input.clone(), now);
                let of_hook = |one: &Instruction| matches!(one, Instruction::SayHookEnded { .. } | Instruction::LeaveHookOut);
                prop_assert!(!finished || instructions.iter().all(of_hook));
                prop_assert!(oversight.over_by <= before.1, "what ends the command is not put off");
                let restarted = instructions.iter().any(|one| matches!(one, Instruction::Start { .. }));
                prop_assert!(restarted || oversight.heard >= before.0);
                match &input {
                    Input::Said(Report::Ended { .. }) if !dead => running = false,
                    Input::Swept if dead => (running, hooked) = (false, false),
                    Input::Said(Report::Cleared) if !running => hooked = false,
                    Input::Lost(_) if running && !dead => {
                        prop_assert_eq!(&instructions[..], &[Instruction::Tell(Order::Kill)][..]);
                    }
                    Input::GuardDied if !finished && !dead => {
                        prop_assert_eq!(&instructions[..], &[Instruction::Sweep][..]);
                        dead = true;
                    }
                    _ => {}
                }
                ending |= matches!(input, Input::Lost(_) | Input::Stop(_) | Input::StopAtOnce | Input::Unfit | Input::GuardDied);
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
                        Instruction::LookAgain => looked_again = true,
                        Instruction::Destroy => prop_assert!(looked_again, "judged before it was looked at again"),
                        Instruction::Tell(Order::Hook) => {
                            prop_assert!(!dead && !ending && !finished);
                            hooked = true;
                        }
                        Instruction::Tell(Order::Kill | Order::Until(_)) => prop_assert!(!dead && !finished),
                        Instruction::Tell(_) => prop_assert!(running && !dead),
                        _ => {}
                    }
                }
                if matches!(input, Input::Said(Report::Heard(_))) {
                    looked_again = false;
                }
            }
        }

        /// A guard that says nothing any more is destroyed at the backstop at the latest, whatever else is seen.
        #[test]
        fn a_silent_guard_is_destroyed_in_time(
            seen in prop::collection::vec((any_input(), 0u64..2_000), 0..40),
        ) {
            let mut oversight = begun(Restart::Never);
            let mut now = at(0);
            let silent = |input: &Input| {
                !matches!(input, Input::Said(_) | Input::GuardDied | Input::Swept)
            };
            let mut destroyed = false;
            for (input, pause) in seen.into_iter().filter(|(input, _)| silent(input)) {
                now = now + Duration::from_millis(pause);
                let lost = matches!(input, Input::Lost(_));
                oversight.see(input, now);
                prop_assert!(!lost || destroyed || oversight.next() <= now + ALLOWANCE);
                prop_assert!(destroyed || oversight.next() <= budget().backstop(at(4500)));
                // The driver sees the clock as often as it is due.
                while oversight.next() <= now {
                    destroyed |= oversight.see(Input::Clock, now) == [Instruction::Destroy];
                }
                prop_assert!(destroyed || now < budget().backstop(at(4500)));
            }
        }
    }
}
