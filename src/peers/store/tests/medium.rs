//! A disk in memory, with every kind of failure.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use super::super::file::Medium;

/// A disk writes each sector as a whole or not at all.
const SECTOR: usize = 512;

/// The same disk, however often it is cloned.
#[derive(Debug, Clone, Default)]
pub(super) struct Platter(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The bytes that a read sees.
    seen: Vec<u8>,
    /// The bytes after a power cut.
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    done: u64,
    syncs: u64,
    /// The first operation that fails, with all after it, and the error.
    failing: Option<(u64, io::ErrorKind)>,
    syncs_fail: bool,
    /// Its greatest length.
    space: Option<u64>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

impl Platter {
    pub(super) fn with(bytes: Vec<u8>) -> Self {
        let state = State { seen: bytes.clone(), durable: bytes, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// A machine after its process was killed: `seen` in memory, and less on the disk.
    pub(super) fn unsynced(durable: Vec<u8>, seen: &[u8]) -> Self {
        let platter = Self::with(durable);
        platter.set_len(seen.len() as u64).unwrap();
        platter.write(0, seen).unwrap();
        platter
    }

    /// The bytes for a process that starts after the killed one.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.state().seen.clone()
    }

    /// The bytes after a power cut: all that was synced, and any part of the rest, in pieces.
    pub(super) fn after_power_cut(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let state = self.state();
        let mut bytes = state.durable.clone();
        // Mostly nearly all or nearly nothing: a transaction of which one piece is missing.
        let likely = [0.02, 0.5, 0.98][random.usize(..3)];
        for change in &state.unsynced {
            match change {
                Change::SetLen(len) if random.f64() < likely => bytes.resize(*len as usize, 0),
                Change::SetLen(_) => {}
                Change::Write(at, data) => {
                    for (piece, data) in data.chunks(SECTOR).enumerate() {
                        if random.f64() < likely {
                            put(&mut bytes, *at as usize + piece * SECTOR, data);
                        }
                    }
                }
            }
        }
        bytes
    }

    /// Lets that many more changes and syncs pass; from then on they all fail.
    pub(super) fn fail_after(&self, operations: u64, kind: io::ErrorKind) {
        let mut state = self.state();
        state.failing = Some((state.done + operations, kind));
    }

    /// From now on writes are seen, and never become durable.
    pub(super) fn fail_syncs(&self) {
        self.state().syncs_fail = true;
    }

    /// Limits its length.
    pub(super) fn limit(&self, space: Option<u64>) {
        self.state().space = space;
    }

    pub(super) fn syncs(&self) -> u64 {
        self.state().syncs
    }

    pub(super) fn len(&self) -> usize {
        self.state().seen.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    let end = at + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(data);
}

impl State {
    fn operation(&mut self) -> io::Result<()> {
        self.done += 1;
        match self.failing {
            Some((from, kind)) if self.done > from => Err(kind.into()),
            _ => Ok(()),
        }
    }
}

impl Medium for Platter {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().seen.len() as u64)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let from = usize::try_from(offset).unwrap();
        let there = state.seen.get(from..from + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(there);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        // A file may be long and have holes. Only written bytes take space.
        if state.space.is_some_and(|space| offset + data.len() as u64 > space) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        put(&mut state.seen, offset as usize, data);
        state.unsynced.push(Change::Write(offset, data.to_vec()));
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        state.seen.resize(len as usize, 0);
        state.unsynced.push(Change::SetLen(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        if state.syncs_fail {
            return Err(io::ErrorKind::Other.into());
        }
        state.syncs += 1;
        let State { durable, unsynced, .. } = &mut *state;
        for change in unsynced.drain(..) {
            match change {
                Change::Write(at, data) => put(durable, at as usize, &data),
                Change::SetLen(len) => durable.resize(len as usize, 0),
            }
        }
        Ok(())
    }
}
