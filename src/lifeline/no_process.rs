//! Stands for `process` where the kernel has no pidfds: no process is named, and a ticket that names one is left alone.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::{MutexGuard, Weak},
};

use super::{
    NamingError,
    directory::{TicketDirectory, TicketSlot},
    evidence::{ProcessId, ProcessSeen},
};
use crate::leadership::Ticket;

pub(super) const SOCKET: &str = ".socket";

#[derive(Debug)]
pub(crate) enum ProcessOffer {}

#[derive(Debug)]
pub(super) struct OfferState;

#[derive(Debug, Clone)]
pub(super) struct OfferedTicket {
    pub(super) slot: Weak<TicketSlot>,
    pub(super) candidate: String,
    pub(super) ticket: Ticket,
}

impl ProcessOffer {
    pub(super) fn new(_: &Path) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn state(&self) -> MutexGuard<'_, OfferState> {
        match *self {}
    }

    pub(super) fn name(
        &self,
        _: u32,
        _: impl FnMut(&OfferedTicket, ProcessId, &TicketSlot) -> io::Result<()>,
    ) -> Result<(), NamingError> {
        match *self {}
    }

    pub(super) fn withdraw_all(&self) -> Result<(), NamingError> {
        match *self {}
    }

    pub(super) fn socket(&self) -> u64 {
        match *self {}
    }

    pub(super) fn close(&self) {
        match *self {}
    }

    pub(super) fn answer(&self) {
        match *self {}
    }
}

impl OfferState {
    pub(super) fn named(&self) -> Option<ProcessId> {
        None
    }

    pub(super) fn remember(&mut self, _: OfferedTicket) {}
}

impl AsFd for ProcessOffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match *self {}
    }
}

pub(super) fn remove_socket(_: &Path, _: u64) {}

pub(super) fn is_left_behind(_: &Path) -> bool {
    false
}

#[derive(Debug, Default)]
pub(super) enum FollowedProcess {
    #[default]
    NotAsked,
    NotNamed,
}

impl FollowedProcess {
    pub(super) fn ask(_: &TicketDirectory, _: ProcessId) -> Self {
        Self::NotAsked
    }

    pub(super) fn advance(&mut self) {}

    pub(super) fn seen(&self) -> ProcessSeen {
        ProcessSeen::Unknown
    }

    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
