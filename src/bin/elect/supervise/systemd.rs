//! Notifications to systemd: readiness, a status line, the end, and the watchdog of the election loop.
//!
//! The protocol is one datagram a message, to the socket in `NOTIFY_SOCKET`. Sending never waits: the loop
//! that notifies is the one that renews, and a service manager that does not read must not cost it its lease.
//! Without the socket nothing is done.

use std::{
    env, io,
    os::unix::{
        ffi::OsStrExt,
        net::{SocketAddr, UnixDatagram},
    },
    process,
    time::Duration,
};

use leader_election::candidate::Event;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{debug, warn};

/// The connection to systemd, if it started us.
#[derive(Debug)]
pub(crate) struct Systemd {
    socket: Option<UnixDatagram>,
    watchdog: Option<Interval>,
    ready: bool,
}

impl Systemd {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`. Call it on a Tokio runtime.
    pub(crate) fn from_environment() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()).and_then(|path| {
            connect(path.as_bytes()).inspect_err(|error| warn!(%error, "NOTIFY_SOCKET can't be used")).ok()
        });
        let watchdog = socket.as_ref().and_then(|_| watchdog()).map(|limit| {
            let mut due = interval(limit / 2);
            due.set_missed_tick_behavior(MissedTickBehavior::Delay);
            due
        });
        Self { socket, watchdog, ready: false }
    }

    /// Reports an event of the candidate. It is ready once it has had a lease.
    pub(crate) fn event(&mut self, event: &Event) {
        match event {
            Event::Campaigning => {
                if !std::mem::replace(&mut self.ready, true) {
                    self.notify("READY=1");
                }
                self.status("in the queue");
            }
            Event::Following { token: Some(token) } => {
                self.status(&format!("follows; will lead with token {token}"));
            }
            Event::Following { token: None } => self.status("follows"),
            Event::Elected { token, .. } => self.status(&format!("leads with token {token}")),
            Event::Lost { token, loss } => self.status(&format!("led with token {token} until: {loss}")),
            Event::Retrying { problem, .. } => self.status(&format!("tries again: {problem}")),
            _ => {}
        }
    }

    /// Sets the line that `systemctl status` shows.
    pub(crate) fn status(&self, text: &str) {
        // One line: another one would be another variable.
        self.notify(&format!("STATUS={}", text.replace('\n', " ")));
    }

    pub(crate) fn stopping(&self) {
        self.notify("STOPPING=1\nSTATUS=stopping");
    }

    /// Feeds the watchdog whenever it is due. Poll it in the election loop only, which is the loop that the
    /// watchdog checks.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a later call does what is due.
    pub(crate) async fn feed(&mut self) {
        match &mut self.watchdog {
            Some(due) => drop(due.tick().await),
            None => std::future::pending().await,
        }
        self.notify("WATCHDOG=1");
    }

    fn notify(&self, message: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(message.as_bytes())
        {
            debug!(%error, message, "systemd was not notified");
        }
    }
}

fn connect(path: &[u8]) -> io::Result<UnixDatagram> {
    #[cfg(target_os = "linux")]
    use std::os::linux::net::SocketAddrExt;

    let address = match path.strip_prefix(b"@") {
        #[cfg(target_os = "linux")]
        Some(name) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// Returns how long systemd waits for a sign of life of this process, if it does.
fn watchdog() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(process::id()));
    let micros = number("WATCHDOG_USEC").filter(|micros| ours && *micros > 1)?;
    Some(Duration::from_micros(micros))
}
