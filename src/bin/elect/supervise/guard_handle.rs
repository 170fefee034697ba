//! The supervisor's handle of its guard: orders, reports, and the guard's end.

use std::{
    ffi::OsString,
    io,
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::Command,
};

use nix::unistd::Pid;
use tokio::process::Child;
use tracing::debug;

use super::{
    children::{ChildEntry, ChildRegistry},
    environment,
    protocol::{self, GuardOrder, GuardReport, PipeReceiver, PipeSender},
};

/// A running guard. Dropping it closes its orders, which the guard takes for our death.
#[derive(Debug)]
pub(crate) struct Supervision {
    child: Child,
    orders: PipeSender<GuardOrder>,
    reports: PipeReceiver<GuardReport>,
    ready: bool,
    /// The init that waits for the next command, as far as it was reported.
    waiting: Option<WaitingInit>,
    /// True once its reports have ended.
    silent: bool,
    /// `None` once it is dead: its id may be reused then.
    known: Option<ChildEntry>,
}

/// An init without a command. It is the guard's child, and the guard keeps its id from being reused.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitingInit {
    pub(crate) pid: u32,
    /// True if the ticket names it.
    pub(crate) named: bool,
}

/// A report of the guard, or its end.
#[derive(Debug)]
pub(crate) enum GuardEvent {
    Said(GuardReport),
    /// It is dead, and reaped. Its surviving processes are our children now.
    Died(String),
}

impl Supervision {
    /// Starts a guard with the arguments of this `elect run`, in a process group of its own.
    pub(crate) fn start(arguments: &[OsString], registry: &ChildRegistry) -> io::Result<Self> {
        let (their_orders, orders) = protocol::pipe()?;
        let (reports, their_reports) = protocol::pipe()?;
        let (orders, reports) = (PipeSender::new(orders)?, PipeReceiver::new(reports)?);

        let mut command = guard();
        command.arg("--orders").arg(their_orders.as_raw_fd().to_string());
        command.arg("--reports").arg(their_reports.as_raw_fd().to_string());
        command.args(arguments);
        let mut command = tokio::process::Command::from(command);
        command.process_group(0);
        // Nothing else is started between here and the end of this function: it would inherit the
        // descriptors.
        protocol::make_inheritable(&their_orders)?;
        protocol::make_inheritable(&their_reports)?;
        let child = command.spawn()?;
        let pid = child.id().map_or(0, u32::cast_signed);
        let known = registry.enter(Pid::from_raw(pid));
        let waiting = None;
        Ok(Self { child, orders, reports, ready: false, waiting, silent: false, known: Some(known) })
    }

    /// Gives an order. A guard that does not take it is killed, with its command.
    pub(crate) fn order(&mut self, order: &GuardOrder) {
        if let GuardOrder::Start(_) = order {
            self.waiting = None;
        }
        if let Err(error) = self.orders.send(order) {
            debug!(%error, ?order, "the guard takes no orders");
            self.destroy();
        }
    }

    /// Waits for its next report; finally, its end.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no report is lost.
    pub(crate) async fn next_event(&mut self) -> GuardEvent {
        loop {
            tokio::select! {
                biased;
                report = self.reports.next(), if !self.silent => match report {
                    Ok(Some(report)) => {
                        self.ready |= report == GuardReport::Ready;
                        if let GuardReport::InitWaits { pid } = report {
                            self.waiting = Some(WaitingInit { pid, named: false });
                        }
                        return GuardEvent::Said(report);
                    }
                    // Dead, or its messages are invalid: then it must go.
                    Ok(None) | Err(_) => {
                        self.silent = true;
                        self.destroy();
                    }
                },
                status = self.child.wait() => {
                    (self.ready, self.known, self.waiting) = (false, None, None);
                    return GuardEvent::Died(status.map_or_else(|error| error.to_string(), |status| status.to_string()));
                }
            }
        }
    }

    /// Waits for its end, and ignores reports before it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe if nothing is guarded: its reports are dropped.
    pub(crate) async fn died(&mut self) {
        while let GuardEvent::Said(_) = self.next_event().await {}
    }

    /// Returns whether it can take orders.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Returns the init that the next command starts under.
    pub(crate) fn waiting(&mut self) -> Option<&mut WaitingInit> {
        self.waiting.as_mut()
    }

    /// Kills the guard. The kernel kills the command with it; the remaining processes become our children.
    pub(crate) fn destroy(&mut self) {
        // An error means that it is already dead.
        let _ = self.child.start_kill();
    }

    /// Dismisses a guard that has nothing to guard, and waits until it has ended.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it ends in any case.
    pub(crate) async fn dismiss(self) {
        let Self { mut child, orders, .. } = self;
        drop(orders);
        let _ = child.wait().await;
    }
}

/// Builds `elect guard` with this very program, even if its file was renamed.
fn guard() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("elect").arg("guard");
    for variable in environment::OF_SYSTEMD {
        command.env_remove(variable);
    }
    command
}
