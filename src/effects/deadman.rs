//! The dead man's switch: the kernel kills this process at a moment that was not moved on.
//!
//! It needs no instruction of ours to be carried out. So it works where the clock of the process itself does
//! not: stopped by SIGSTOP together with all that would notice, frozen with its cgroup, asleep with the machine.
//! What is tied to this process's death by [`shim`](super::shim) dies with it, stopped as it is, and runs not
//! one more instruction when the rest is continued.
//!
//! A POSIX timer of the boot-time clock, whose signal is SIGKILL: timer_create(2). Children don't inherit it.

use std::{fmt, io, time::Duration};

use leader_election::clock::Timestamp;
use nix::{
    sys::{
        signal::{SigEvent, SigevNotify, Signal},
        timer::{Expiration, Timer, TimerSetTimeFlags},
    },
    time::ClockId,
};

/// Armed for as long as it exists.
pub(crate) struct DeadMansSwitch {
    timer: Timer,
    at: Timestamp,
}

impl DeadMansSwitch {
    /// # Errors
    ///
    /// If the kernel has no such timer for us: no more signals may be queued (`ulimit -i`), say.
    pub(crate) fn armed(at: Timestamp) -> io::Result<Self> {
        let kill = SigEvent::new(SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 });
        let timer = Timer::new(ClockId::CLOCK_BOOTTIME, kill)?;
        let mut switch = Self { timer, at };
        switch.set()?;
        Ok(switch)
    }

    /// Moves it on. It never moves back.
    pub(crate) fn extend(&mut self, at: Timestamp) -> io::Result<()> {
        if at > self.at {
            self.at = at;
            self.set()?;
        }
        Ok(())
    }

    fn set(&mut self) -> io::Result<()> {
        // Zero would disarm it.
        let at = Duration::from_nanos(self.at.as_nanos().max(1));
        let once = Expiration::OneShot(at.into());
        Ok(self.timer.set(once, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
    }
}

impl fmt::Debug for DeadMansSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadMansSwitch").field("at", &self.at).finish_non_exhaustive()
    }
}
