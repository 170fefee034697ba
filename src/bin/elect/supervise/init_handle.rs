//! The guard's handle of an init: orders, reports, and its end.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tracing::debug;

use super::{
    environment::{Variables, WITHHELD},
    init::{self, InitOrder, InitReport},
    namespace::Contained,
    protocol::{self, PipeReceiver, PipeSender},
};

/// The standard streams of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommandStreams {
    /// Those of `elect run`.
    Ours,
    /// No input, and all output to the standard error: the standard output belongs to the command.
    ErrorsOnly,
}

/// An init that waits for its command, or has one. Dropping it closes its orders, and ends all processes
/// below it.
#[derive(Debug)]
pub(crate) struct InitHandle {
    child: Child,
    /// `None` once it was told to end.
    orders: Option<PipeSender<InitOrder>>,
    reports: PipeReceiver<InitReport>,
    /// True once its reports have ended.
    silent: bool,
}

impl InitHandle {
    /// Starts one for this command. Call it from the process's main thread: the kernel takes the thread for
    /// the parent.
    pub(crate) fn start(
        command: &[OsString],
        variables: &Variables,
        contained: Contained,
        streams: CommandStreams,
    ) -> io::Result<Self> {
        let (their_orders, orders) = protocol::pipe()?;
        let (reports, their_reports) = protocol::pipe()?;
        let (orders, reports) = (PipeSender::new(orders)?, PipeReceiver::new(reports)?);

        let mut init = Command::new("/proc/self/exe");
        init.arg0("elect").arg(init::NAME).arg(contained.name());
        init.arg(their_orders.as_raw_fd().to_string()).arg(their_reports.as_raw_fd().to_string());
        init.args(command).envs(variables.iter().map(|(key, value)| (key, value)));
        for withheld in WITHHELD {
            init.env_remove(withheld);
        }
        if streams == CommandStreams::ErrorsOnly {
            let errors = || Ok::<_, io::Error>(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?));
            init.stdin(Stdio::null()).stdout(errors()?).stderr(errors()?);
        }
        // Nothing else is started between here and the end of this function: it would inherit the
        // descriptors.
        protocol::make_inheritable(&their_orders)?;
        protocol::make_inheritable(&their_reports)?;
        let child = contained.spawn(init.process_group(0))?;
        Ok(Self { child, orders: Some(orders), reports, silent: false })
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Gives an order. An init that takes none is dead, or as good as dead: then so is its command.
    pub(crate) fn order(&mut self, order: &InitOrder) {
        let Some(orders) = &mut self.orders else { return };
        if let Err(error) = orders.send(order) {
            debug!(%error, ?order, "the command's init takes no orders");
            self.kill();
        }
    }

    /// Waits for its next report; `None`, once, at its end.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no report is lost.
    pub(crate) async fn report(&mut self) -> Option<InitReport> {
        if self.silent {
            return std::future::pending().await;
        }
        match self.reports.next().await {
            Ok(Some(report)) => Some(report),
            // Dead, or its messages are invalid: then it must go.
            Ok(None) | Err(_) => {
                self.silent = true;
                self.kill();
                None
            }
        }
    }

    /// Makes it kill all processes below it, as at this process's death, and then end. A stopped one is
    /// continued.
    pub(crate) fn end(&mut self) {
        if self.orders.take().is_some() && !self.is_gone() {
            // Only we reap it, so the id is still its own.
            let _ = kill(self.pid(), Signal::SIGCONT);
        }
    }

    /// Kills it. The kernel kills all of its namespace with it, or kills the command and makes the rest our
    /// children.
    pub(crate) fn kill(&mut self) {
        // An error means that it is already dead.
        let _ = self.child.kill();
    }

    /// Returns whether it is dead, and reaped.
    pub(crate) fn is_gone(&mut self) -> bool {
        // An error: it is not a child of ours any more.
        !matches!(self.child.try_wait(), Ok(None))
    }
}
