//! What happens in an election, as log lines: what `server` and `run` tell people.

use leader_election::{
    CandidateName, ElectionName,
    candidate::Event,
    clock::Timestamp,
    etcd::{Front, Settings},
    timing::Ttl,
};
use tracing::{info, warn};

use super::transcript::{Happened, Line, Transcript};
use crate::log::{TRANSCRIPT, together};

/// Turns what happens into log lines.
pub(super) struct Journal {
    transcript: Transcript,
    endpoints: String,
}

impl Journal {
    /// Tells that this server, called `name`, starts and connects.
    pub(super) fn starting(
        settings: &Settings,
        election: &ElectionName,
        name: &CandidateName,
        ttl: Ttl,
    ) -> Self {
        let endpoints = settings.endpoints().iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let journal = Self { transcript: Transcript::new(), endpoints };
        let starting = Line::Starting { name: name.to_string() };
        info!(target: TRANSCRIPT, election = %election, ttl = %ttl, "{starting}");
        journal.connecting();
        journal
    }

    fn connecting(&self) {
        info!(target: TRANSCRIPT, "{}", Line::Connecting { endpoints: self.endpoints.clone() });
    }

    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Campaigning => self.happened(Happened::Campaigning),
            Event::Following { token } => self.happened(Happened::Queued { own: token }),
            Event::Elected { token, until } => {
                let lines = self.transcript.lines(Happened::Elected { token });
                together(|| {
                    // Frozen between the news and this line, we may have been deposed: then say nothing.
                    for line in lines.iter().filter(|_| Timestamp::now() < until) {
                        info!(target: TRANSCRIPT, token = token.get(), "{line}");
                    }
                });
            }
            Event::Renewed { until, latency, .. } => {
                let lines = self.transcript.lines(Happened::Renewed);
                for line in lines.iter().filter(|_| Timestamp::now() < until) {
                    info!(target: TRANSCRIPT, ?latency, "{line}");
                }
            }
            Event::Lost { token, loss } => {
                for line in self.transcript.lines(Happened::Lost) {
                    info!(target: TRANSCRIPT, token = token.get(), reason = %loss, "{line}");
                }
            }
            Event::Retrying { problem, unreachable, pause } => {
                warn!(problem, retry_in = ?pause, "the attempt failed");
                if unreachable {
                    self.connecting();
                }
            }
            _ => {}
        }
    }

    pub(super) fn seen(&mut self, front: Front) {
        match front {
            Front::Candidate(token) => self.happened(Happened::SeenLeader { token }),
            Front::Foreign(key) => {
                warn!(key, "nobody can lead until this key, put by hand, is deleted");
                self.happened(Happened::SeenVacant);
            }
            _ => self.happened(Happened::SeenVacant),
        }
    }

    pub(super) fn happened(&mut self, happened: Happened) {
        for line in self.transcript.lines(happened) {
            info!(target: TRANSCRIPT, "{line}");
        }
    }
}
