//! The other members and the connections to them.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    counts::{Counts, TransportError},
    log_once::{LogOnce, OF_A_MEMBER},
    queue::{Full, Outbox},
    session::Disconnect,
    stream::LastReceived,
    timeouts::Timeouts,
};
use crate::{
    clock::Timestamp,
    names::CandidateName,
    peers::{
        PeerAddress, PeerDisk, PeerLink, Settings, Timing, TimingAdvice,
        ledger::{Ledger, WriteTally},
        measured::Recent,
        refusal::Refusal,
        wire::proto::{self, frame::Frame as Kind},
    },
    raft::{
        identity::{Index, MAX_MEMBERS, NodeId},
        membership::{DirectoryId, Objection, WriteCount},
        message::Envelope,
    },
};

/// One place for each member, this server included.
#[derive(Debug)]
pub(super) struct Sessions {
    me: NodeId,
    timeouts: Timeouts,
    timing: Timing,
    places: Vec<MemberSlot>,
    /// This server's address, for members that have to call it.
    listen: PeerAddress,
    /// The longest election timeout that was advised.
    advised: Mutex<Duration>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) counts: Counts,
}

#[derive(Debug)]
struct MemberSlot {
    name: CandidateName,
    state: Mutex<LinkState>,
}

#[derive(Debug)]
struct LinkState {
    session: Option<Session>,
    /// Of connections that have ended.
    heard: Option<Timestamp>,
    /// The last question that was answered on a connection.
    answered: Option<u64>,
    problem: Option<Disconnect>,
    /// Since the last connection.
    said: LogOnce<Disconnect>,
}

/// A connection on which both members have proved who they are, and accepted each other.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) outbox: Outbox,
    pub(super) heard: Arc<LastReceived>,
    /// The member's directory, and the entry of its log that named it.
    pub(super) disk: (DirectoryId, Index),
    /// Ends the connection.
    pub(super) over: CancellationToken,
    pub(super) round_trips: RoundTrips,
}

/// Round trips to a member.
#[derive(Debug, Default)]
pub(super) struct RoundTrips {
    /// The unanswered ping, and the time when it was sent.
    asked: Option<(u64, Timestamp)>,
    recent: Recent,
}

impl RoundTrips {
    /// The ping to send at `now`, unless there is an unanswered one.
    fn ask(&mut self, nonce: u64, now: Timestamp) -> Option<u64> {
        if self.asked.is_some() {
            return None;
        }
        self.asked = Some((nonce, now));
        Some(nonce)
    }

    /// Returns true if that was the answer.
    fn answered(&mut self, nonce: u64, now: Timestamp) -> bool {
        let Some((_, asked)) = self.asked.take_if(|(asked, _)| *asked == nonce) else { return false };
        self.recent.add(now.since(asked));
        true
    }
}

impl Sessions {
    pub(super) fn of(settings: &Settings, timeouts: Timeouts, ledger: Arc<Ledger>) -> Self {
        let (group, me, timing) = (settings.group(), settings.me(), *settings.timing());
        let place = |name: &CandidateName| {
            let state = LinkState {
                session: None,
                heard: None,
                answered: None,
                problem: None,
                said: LogOnce::nothing(OF_A_MEMBER),
            };
            MemberSlot { name: name.clone(), state: Mutex::new(state) }
        };
        let places = group.members().iter().map(|member| place(&member.name)).collect();
        let (advised, counts) = (Mutex::default(), Counts::default());
        let listen = settings.listen().clone();
        Self { me, timeouts, timing, places, listen, advised, ledger, counts }
    }

    /// Sends a message, or counts it as lost.
    pub(super) fn send(&self, envelope: Envelope) {
        let Some(place) = self.places.get(envelope.to.place()) else { return };
        match place.lock().session.as_ref().map(|session| session.outbox.send(envelope)) {
            Some(Ok(())) => {}
            Some(Err(Full)) => self.counts.count(TransportError::Overflow),
            None => self.counts.count(TransportError::Apart),
        }
    }

    /// Ends connections with directories that represent no member any more, by the log.
    pub(super) fn part_from_the_replaced(&self) {
        for (node, place) in (0..).map(NodeId::new).zip(&self.places) {
            let state = place.lock();
            let Some(session) = &state.session else { continue };
            let (directory, claim) = session.disk;
            if !self.ledger.is_welcome(node, directory, claim) {
                tracing::info!(peer = %place.name, "a peer's data directory is replaced by another one");
                session.over.cancel();
            }
        }
    }

    /// Returns true if a new connection of that member may replace the present one: there is none, or it does not
    /// answer a ping. A restarted server finds its old connection closed by its kernel; so a connection that
    /// answers is another server's, and the new one is refused.
    ///
    /// Waits that long at most for an answer.
    pub(super) async fn has_room(&self, node: NodeId, within: Duration) -> bool {
        /// An answer takes a round trip, and the caller's timeout is far above it.
        const LOOK_EVERY: Duration = Duration::from_millis(5);
        let place = &self.places[node.place()];
        // Earlier messages prove nothing: they may be the last bytes of a server that has ended.
        let nonce = fastrand::u64(..);
        let Some(older) = place.lock().session.as_ref().map(|session| {
            session.outbox.introduce(Kind::Ping(proto::Ping { nonce }));
            session.over.clone()
        }) else {
            return true;
        };
        let give_up = Instant::now() + within;
        while Instant::now() < give_up {
            sleep(LOOK_EVERY).await;
            let state = place.lock();
            match state.session.as_ref().filter(|session| is_same(&session.over, &older)) {
                None => return state.session.is_none(),
                Some(_) if state.answered == Some(nonce) => return false,
                Some(_) => {}
            }
        }
        true
    }

    /// Answers a ping.
    pub(super) fn answer(&self, node: NodeId, nonce: u64) {
        if let Some(session) = &self.places[node.place()].lock().session {
            session.outbox.introduce(Kind::Pong(proto::Pong { nonce }));
        }
    }

    /// Sends that member a ping, to measure the round trip.
    pub(super) fn measure(&self, node: NodeId) {
        if let Some(session) = &mut self.places[node.place()].lock().session
            && let Some(nonce) = session.round_trips.ask(fastrand::u64(..), Timestamp::now())
        {
            session.outbox.introduce(Kind::Ping(proto::Ping { nonce }));
        }
    }

    /// That member has answered a ping.
    pub(super) fn answered(&self, node: NodeId, nonce: u64) {
        let now = Timestamp::now();
        let place = &self.places[node.place()];
        let mut state = place.lock();
        let measured = state.session.as_mut().is_some_and(|session| session.round_trips.answered(nonce, now));
        if !measured {
            state.answered = Some(nonce);
            return;
        }
        let usual = state.session.as_ref().and_then(|session| session.round_trips.recent.usual());
        drop(state);
        self.advise(usual.and_then(|usual| TimingAdvice::for_round_trip(&self.timing, &place.name, usual)));
    }

    /// Logs the timing that is needed, once; again if it becomes longer by half.
    fn advise(&self, advice: Option<TimingAdvice>) {
        let Some(advice) = advice else { return };
        let needed = advice.needed().shortest();
        let mut advised = self.advised.lock().unwrap_or_else(PoisonError::into_inner);
        if *advised + *advised / 2 < needed {
            *advised = needed;
            tracing::warn!("{advice}");
        }
    }

    /// Takes a member's number of its own writes, and a leader's of the others'. On one connection they never fall.
    pub(super) fn count_writes(
        &self,
        node: NodeId,
        directory: &DirectoryId,
        before: &mut WriteCount,
        message: &proto::Message,
    ) -> Result<(), Objection> {
        let now = WriteCount(message.writes);
        if now < *before {
            return Err(Objection::FewerWrites { before: before.0, now: now.0 });
        }
        *before = now;
        self.ledger.raise(node, directory, now);
        message.tallies.iter().take(usize::from(MAX_MEMBERS)).filter_map(WriteTally::read).for_each(
            |tally| {
                self.ledger.heed(tally);
            },
        );
        Ok(())
    }

    /// Sends that member the reason for a refusal on its connection. The member ends the connection.
    pub(super) fn object(&self, node: NodeId, refusal: &Refusal) {
        if let Some(session) = &self.places[node.place()].lock().session {
            session.outbox.introduce(Kind::Verdict(refusal.told().verdict()));
        }
        self.apart(node, Disconnect::Refused(refusal.clone()));
    }

    /// From now on this is the connection to that member. An older one is ended.
    pub(super) fn join(&self, node: NodeId, session: Session) {
        let place = &self.places[node.place()];
        let mut state = place.lock();
        state.problem = None;
        state.said.forget();
        let older = state.session.replace(session);
        drop(state);
        match older {
            None => tracing::info!(peer = %place.name, "connected with a peer"),
            Some(older) => {
                tracing::info!(peer = %place.name, "a peer has connected anew");
                older.over.cancel();
            }
        }
    }

    /// The connection of the token `over` has ended. Nothing happens if another one has replaced it.
    pub(super) fn leave(&self, node: NodeId, over: &CancellationToken, mut ending: Disconnect) {
        self.count(&ending);
        let place = &self.places[node.place()];
        let mut state = place.lock();
        let Some(session) = state.session.take_if(|session| is_same(&session.over, over)) else { return };
        let heard = session.heard.last();
        let silence = heard.is_some_and(|at| self.timeouts.is_silence(Timestamp::now().since(at)));
        if silence && matches!(ending, Disconnect::Closed | Disconnect::Broken(_)) {
            ending = Disconnect::Mute;
        }
        state.heard = state.heard.max(heard);
        state.problem = Some(ending.clone());
        // Logged below.
        let _ = state.said.is_news(ending.clone());
        drop(state);
        if ending != Disconnect::Stopped {
            tracing::warn!(peer = %place.name, problem = %ending, "lost the connection with a peer");
        }
    }

    /// A connection has failed, or the other side was refused. Each reason is logged once, until there is a
    /// connection.
    pub(super) fn apart(&self, node: NodeId, ending: Disconnect) {
        self.count(&ending);
        let place = &self.places[node.place()];
        let mut state = place.lock();
        state.problem = Some(ending.clone());
        if !state.said.is_news(ending.clone()) {
            return;
        }
        drop(state);
        if ending.is_for_a_person() {
            tracing::warn!(peer = %place.name, problem = %ending, "refused a peer");
        } else {
            tracing::info!(peer = %place.name, problem = %ending, "no connection with a peer");
        }
    }

    pub(super) fn count(&self, ending: &Disconnect) {
        if let Some(error) = ending.error() {
            self.counts.count(error);
        }
    }

    /// The others, as of now, sorted by name.
    pub(super) fn seen(&self, now: Timestamp) -> Vec<PeerLink> {
        let others = self.places.iter().enumerate().filter(|(place, _)| *place != self.me.place());
        others.map(|(number, place)| self.contact(number, self.of_ledger(number, place.seen(now)))).collect()
    }

    /// With the records of its directories.
    fn of_ledger(&self, place: usize, contact: PeerLink) -> PeerLink {
        let node = NodeId::new(u8::try_from(place).expect("places are few"));
        let disk = self
            .ledger
            .disk_of(node)
            .map(|disk| PeerDisk { id: disk.directory().short(), counts: disk.counts() });
        PeerLink { disk, refused: self.ledger.refused(node).map(|directory| directory.short()), ..contact }
    }

    /// This server never calls that member, so no failed attempt shows a reason. The likely one is reported at
    /// once.
    fn contact(&self, place: usize, contact: PeerLink) -> PeerLink {
        let calls_us = place < self.me.place();
        if !calls_us || contact.connected || contact.problem.is_some() {
            return contact;
        }
        let (name, listen) = (&self.places[self.me.place()].name, &self.listen);
        let problem = format!(
            "it has not connected yet; it connects to the address that its --peers has for '{name}': compare that with {listen}, \
             where this server listens"
        );
        PeerLink { problem: Some(problem), ..contact }
    }
}

impl MemberSlot {
    fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self, now: Timestamp) -> PeerLink {
        let state = self.lock();
        let heard = state.session.as_ref().and_then(|session| session.heard.last()).max(state.heard);
        let connected = state.session.is_some();
        PeerLink {
            name: self.name.clone(),
            connected,
            disk: None,
            refused: None,
            heard: heard.map(|at| now.since(at)),
            round_trip: state.session.as_ref().and_then(|session| session.round_trips.recent.usual()),
            problem: if connected {
                None
            } else {
                state.problem.as_ref().map(|problem| problem.told().as_str().to_owned())
            },
        }
    }
}

/// Returns true if the two tokens end the same connection.
fn is_same(one: &CancellationToken, other: &CancellationToken) -> bool {
    one == other
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn one_question_at_a_time_is_measured_and_only_by_its_own_answer() {
        let mut round_trips = RoundTrips::default();
        assert_eq!(round_trips.ask(1, at(0)), Some(1));
        assert_eq!(round_trips.ask(2, at(500)), None, "the first one is not answered yet");
        assert!(!round_trips.answered(2, at(600)), "that was not asked to measure");
        assert!(round_trips.answered(1, at(700)));
        assert!(!round_trips.answered(1, at(800)), "answered already");
        for nonce in 2..5 {
            assert_eq!(round_trips.recent.usual(), None);
            assert!(round_trips.ask(nonce, at(1000)).is_some() && round_trips.answered(nonce, at(1020)));
        }
        assert_eq!(round_trips.recent.usual(), Some(Duration::from_millis(20)));
    }
}
