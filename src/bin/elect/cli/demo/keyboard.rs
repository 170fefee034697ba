//! Single keys from the terminal, which is restored at the end.
//!
//! Only two settings change: keys arrive one by one, and are not echoed. Ctrl-C, Ctrl-Z and the rest keep
//! their effect.

use std::{
    io::{self, Read, stdin},
    panic,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use nix::{
    sys::{
        signal::Signal as Number,
        termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr},
    },
    unistd::{getpgrp, tcgetpgrp},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

/// Keys that wait to be handled. No one types ahead of this.
const TYPED_AHEAD: usize = 64;

/// Returns whether keys go to this process. A background job would be stopped for reading them.
pub(super) fn in_foreground() -> bool {
    // An error: it is not our controlling terminal, so there are no jobs.
    tcgetpgrp(stdin()).map_or(true, |group| group == getpgrp())
}

pub(super) struct Keyboard {
    keys: mpsc::Receiver<u8>,
    continued: Signal,
    terminal: Terminal,
}

impl Keyboard {
    pub(super) fn open() -> io::Result<Self> {
        let continued = signal(SignalKind::from_raw(Number::SIGCONT as i32))?;
        let terminal = Terminal::with_single_keys()?;
        let (pressed, keys) = mpsc::channel(TYPED_AHEAD);
        // A detached thread: nothing interrupts a read, and Tokio would wait for its own thread to end.
        thread::Builder::new().name("elect-keys".into()).spawn(move || {
            for key in stdin().lock().bytes().map_while(Result::ok) {
                if pressed.blocking_send(key).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { keys, continued, terminal })
    }

    /// Returns the next key; `None` when no more will come.
    ///
    /// Cancel safe.
    pub(super) async fn key(&mut self) -> Option<u8> {
        loop {
            tokio::select! {
                key = self.keys.recv() => return key,
                // A shell had the terminal meanwhile, and restored its own settings.
                Some(()) = self.continued.recv() => self.terminal.take_single_keys(),
            }
        }
    }
}

/// The terminal's original settings, restored on drop.
struct Terminal {
    before: Arc<Mutex<Termios>>,
}

impl Terminal {
    fn with_single_keys() -> io::Result<Self> {
        let before = Arc::new(Mutex::new(tcgetattr(stdin())?));
        // A release build has no `Drop` after a panic.
        let (as_before, report) = (Arc::clone(&before), panic::take_hook());
        panic::set_hook(Box::new(move |panic| {
            put_back(&as_before);
            report(panic);
        }));
        let terminal = Self { before };
        terminal.take_single_keys();
        Ok(terminal)
    }

    fn take_single_keys(&self) {
        let mut single = self.before.lock().unwrap_or_else(PoisonError::into_inner).clone();
        single.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        set(&single);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        put_back(&self.before);
    }
}

fn put_back(before: &Mutex<Termios>) {
    set(&before.lock().unwrap_or_else(PoisonError::into_inner));
}

fn set(settings: &Termios) {
    // In the background the terminal is another job's, and touching it would stop us.
    if in_foreground() {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, settings);
    }
}
