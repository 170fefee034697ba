//! Places outside etcd that leaders write to: a store that compares tokens, and a file that does not.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use super::{
    clocks::uptime,
    history::{At, Event, EventKind, Token, WriteTarget},
};

/// Time limit for the store's answer, which is a few instructions away.
const PATIENCE: Duration = Duration::from_secs(5);

/// A store behind a socket: it refuses a write if a newer term has already written. Comparison and write are one step.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    state: Arc<Mutex<StoreState>>,
}

#[derive(Debug, Default)]
struct StoreState {
    newest: Token,
    taken: u64,
    events: Vec<Event>,
}

impl Store {
    /// Serves at `path` until this process ends.
    pub(crate) fn serve(path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("the directory is ours");
        let store = Self { state: Arc::default() };
        let server = store.clone();
        let serve = move || {
            for stream in listener.incoming().flatten() {
                let store = server.clone();
                thread::spawn(move || store.answer(&stream));
            }
        };
        thread::Builder::new().name("store".into()).spawn(serve).expect("a test can start a thread");
        store
    }

    fn answer(&self, stream: &UnixStream) {
        let mut line = String::new();
        if BufReader::new(stream).read_line(&mut line).is_err() {
            return;
        }
        let Ok(token) = line.trim_end().parse() else { return };
        let answer = if self.write(token) { "taken\n" } else { "refused\n" };
        let mut stream = stream;
        let _ = stream.write_all(answer.as_bytes());
    }

    fn write(&self, token: Token) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let at = At::now();
        if token < state.newest {
            state.events.push(Event { at, what: EventKind::Refused { place: WriteTarget::Store, token } });
            return false;
        }
        state.newest = token;
        let order = state.taken;
        state.taken += 1;
        state.events.push(Event { at, what: EventKind::Wrote { place: WriteTarget::Store, order, token } });
        true
    }

    /// The writes it accepted and refused so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).events.clone()
    }
}

/// Writes to the store at `path`. The store notes whether it accepted.
pub(crate) fn write_to_store(path: &Path, token: Token) {
    let Ok(mut stream) = UnixStream::connect(path) else { return };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    if stream.write_all(format!("{token}\n").as_bytes()).is_ok() {
        let _ = BufReader::new(stream).read_line(&mut String::new());
    }
}

/// Writes to a file without any check: one line, in one write.
pub(crate) fn write_to_file(path: &Path, token: Token) {
    let file = File::options().append(true).create(true).open(path);
    if let Ok(mut file) = file {
        let _ = file.write_all(format!("{token} {}\n", uptime().0).as_bytes());
    }
}

/// The file's writes, in its order.
pub(crate) fn read_file(path: &Path) -> Vec<Event> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().enumerate().filter_map(|(order, line)| {
        let (token, at) = line.split_once(' ')?;
        let (order, token) = (order as u64, token.parse().ok()?);
        Some(Event {
            at: At(at.parse().ok()?),
            what: EventKind::Wrote { place: WriteTarget::File, order, token },
        })
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_refuses_an_older_token_and_takes_the_same_one_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = Store::serve(&path);
        for token in [7, 9, 7, 9] {
            write_to_store(&path, token);
        }
        let taken = |event: &Event| matches!(event.what, EventKind::Wrote { .. });
        assert_eq!(store.events().iter().map(taken).collect::<Vec<_>>(), [true, true, false, true]);
    }
}
