//! The supervisor's hold on its guard: orders, reports, and the guard's end.

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

/// A running guard. Dropping it ends its orders, which it takes for our death.
#[derive(Debug)]
pub(crate) struct Supervision {
    child: Child,
    orders: PipeSender<GuardOrder>,
    reports: PipeReceiver<GuardReport>,
    ready: bool,
    /// Whether it has said all it will say.
    silent: bool,
    /// `None` once it is dead: its id may be another's then.
    known: Option<ChildEntry>,
}

/// What a guard says, or that it is no more.
#[derive(Debug)]
pub(crate) enum GuardEvent {
    Said(GuardReport),
    /// It is dead, and reaped. What it guarded is our child now, as far as it is alive.
    Died(String),
}

impl Supervision {
    /// Starts a guard with the same arguments as this `elect run` was given, in a process group of its own.
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
        // Nothing else is started between here and the end of this function: it would inherit them.
        protocol::bequeath(&their_orders)?;
        protocol::bequeath(&their_reports)?;
        let child = command.spawn()?;
        let pid = child.id().map_or(0, u32::cast_signed);
        let known = registry.enter(Pid::from_raw(pid));
        Ok(Self { child, orders, reports, ready: false, silent: false, known: Some(known) })
    }

    /// Gives an order. A guard that does not take it is killed, and so is what it guards.
    pub(crate) fn order(&mut self, order: &GuardOrder) {
        if let Err(error) = self.orders.send(order) {
            debug!(%error, ?order, "the guard takes no orders");
            self.destroy();
        }
    }

    /// What it says next; at last, its end.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing said is lost.
    pub(crate) async fn news(&mut self) -> GuardEvent {
        loop {
            tokio::select! {
                biased;
                report = self.reports.next(), if !self.silent => match report {
                    Ok(Some(report)) => {
                        self.ready |= report == GuardReport::Ready;
                        return GuardEvent::Said(report);
                    }
                    // Dead, or talks nonsense: then it must go.
                    Ok(None) | Err(_) => {
                        self.silent = true;
                        self.destroy();
                    }
                },
                status = self.child.wait() => {
                    (self.ready, self.known) = (false, None);
                    return GuardEvent::Died(status.map_or_else(|error| error.to_string(), |status| status.to_string()));
                }
            }
        }
    }

    /// Waits for its end, whatever it says before.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe, where nothing is guarded: what it says is dropped.
    pub(crate) async fn died(&mut self) {
        while let GuardEvent::Said(_) = self.news().await {}
    }

    /// Whether it can take orders.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Kills the guard. The kernel kills the command with it; what else is left becomes our child.
    pub(crate) fn destroy(&mut self) {
        // If it is dead already, so much the better.
        let _ = self.child.start_kill();
    }

    /// Lets go of a guard that has nothing to guard, and waits until it has ended.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it ends anyhow.
    pub(crate) async fn dismiss(self) {
        let Self { mut child, orders, .. } = self;
        drop(orders);
        let _ = child.wait().await;
    }
}

/// `elect guard`, as this very program, whatever its file is called by now.
fn guard() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("elect").arg("guard");
    for variable in environment::OF_SYSTEMD {
        command.env_remove(variable);
    }
    command
}
