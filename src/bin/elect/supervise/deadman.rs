//! The dead man's switch: the kernel kills this process at a moment, unless that was moved.
//!
//! The process need not run for it. So it works while the process itself does not: stopped by SIGSTOP
//! together with all that would notice, frozen with its cgroup, asleep with the machine. Processes tied to
//! this one's death by [`shim`](super::shim) die with it, even if stopped, and run not one more instruction
//! when the rest is continued.
//!
//! A POSIX timer of the boot-time clock, whose signal is SIGKILL: timer_create(2). Children don't inherit it.

use std::{io, time::Duration};

use leader_election::clock::Timestamp;
use nix::{
    sys::{
        signal::{SigEvent, SigevNotify, Signal},
        timer::{Expiration, Timer, TimerSetTimeFlags},
    },
    time::ClockId,
};

/// Armed for as long as it exists.
#[derive(Debug)]
pub(crate) struct DeadMansSwitch(Timer);

impl DeadMansSwitch {
    /// # Errors
    ///
    /// If the kernel has no such timer left: for example, no more signals may be queued (`ulimit -i`).
    pub(crate) fn armed(at: Timestamp) -> io::Result<Self> {
        let kill = SigEvent::new(SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 });
        let mut switch = Self(Timer::new(ClockId::CLOCK_BOOTTIME, kill)?);
        switch.set(at)?;
        Ok(switch)
    }

    /// Moves it to another moment.
    pub(crate) fn set(&mut self, at: Timestamp) -> io::Result<()> {
        // Zero would disarm it.
        let at = Duration::from_nanos(at.as_nanos().max(1));
        let once = Expiration::OneShot(at.into());
        Ok(self.0.set(once, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
    }
}
