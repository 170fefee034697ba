//! What happens in an election, as log lines: what `server` and `run` tell people.

use std::{collections::BTreeMap, time::Duration};

use leader_election::{
    ElectionName, FencingToken,
    candidate::Event,
    clock::Timestamp,
    observe::QueueHead,
    peers::{Group, Settings},
    timing::Ttl,
};
use tracing::{debug, info, warn};

use super::transcript::{Happened, LogLine, Transcript};
use crate::{
    config::{CandidateBackend, CandidateConfig},
    log::{self, Format, RateLimit, TRANSCRIPT, lasting_problem, together},
};

/// The target of what machines follow, at debug: from when until when this process takes itself for the leader. Moments
/// are nanoseconds of the boot-time clock, which all processes of a machine share.
const BELIEF: &str = "belief";

/// Turns what happens into log lines.
pub(super) struct ElectionLog {
    /// The term that this process leads, as far as it has heard.
    leading: Option<FencingToken>,
    transcript: Transcript,
    /// How this server is in touch with the others.
    reaching: LogLine,
    /// The term at the front, and whose it is.
    front: Option<(FencingToken, String)>,
    refreshing: RefreshPace,
    /// How often that is said aloud, and not at debug only.
    aloud: RefreshPace,
    namesakes: Namesakes,
    failures: RateLimit,
    lasting: Lasting,
    /// Whether there was a connection, or what to check about it was told.
    told_what_to_check: bool,
}

/// When a problem that lasts is told of where single failures are not.
#[derive(Debug, Default)]
struct Lasting {
    since: Option<Timestamp>,
    told: Option<Timestamp>,
}

impl Lasting {
    /// Attempts that fail for less are the business of a restart, or of a change of etcd's leader.
    const AFTER: Duration = Duration::from_secs(2);
    const EVERY: Duration = Duration::from_secs(60);

    /// Notes a failure; whether it is to be told.
    fn failed(&mut self, now: Timestamp) -> bool {
        let since = *self.since.get_or_insert(now);
        let is_due = self.told.is_none_or(|told| now.since(told) >= Self::EVERY);
        let due = now.since(since) >= Self::AFTER && is_due;
        if due {
            self.told = Some(now);
        }
        due
    }

    fn over(&mut self) {
        self.since = None;
    }
}

/// How often it is told, at most, that this server still leads. Whatever proves it may come more often.
struct RefreshPace {
    every: Duration,
    /// Whether it has to have led for as long before it is told the first time.
    waits: bool,
    last: Option<Timestamp>,
}

impl RefreshPace {
    /// At each renewal; but connections that break make more of them than there should be.
    fn of_renewals(ttl: Ttl) -> Self {
        Self { every: ttl.renewal_interval() / 2, waits: false, last: None }
    }

    /// In the full log, for people: the first of a term, and then once a minute. What follows the other forms counts them.
    fn aloud(format: Format) -> Self {
        let every = match format {
            Format::Full => Duration::from_secs(60),
            Format::Plain | Format::Json => Duration::ZERO,
        };
        Self { every, waits: false, last: None }
    }

    /// Heartbeats come many times a second: once a second.
    fn of_heartbeats() -> Self {
        Self { every: Duration::from_secs(1), waits: true, last: None }
    }

    fn begin(&mut self) {
        self.last = self.waits.then(Timestamp::now);
    }

    fn is_due(&mut self) -> bool {
        let now = Timestamp::now();
        let due = self.last.is_none_or(|last| now.since(last) >= self.every);
        if due {
            self.last = Some(now);
        }
        due
    }
}

impl ElectionLog {
    /// Tells that this server starts.
    pub(super) fn starting(standing: &CandidateConfig, election: &ElectionName, format: Format) -> Self {
        let starting = LogLine::Starting { name: standing.name.to_string() };
        let (reaching, refreshing) = match &standing.place {
            CandidateBackend::Etcd(settings, ttl) => {
                info!(target: TRANSCRIPT, election = %election, ttl = %ttl, "{starting}");
                let endpoints: Vec<_> = settings.endpoints().iter().map(ToString::to_string).collect();
                (LogLine::Connecting { endpoints: endpoints.join(",") }, RefreshPace::of_renewals(*ttl))
            }
            CandidateBackend::Peers(settings) => {
                let (data, timing) = (settings.data().display(), standing.place.proof());
                info!(target: TRANSCRIPT, election = %election, election_timeout = %timing, data = %data, "{starting}");
                if let Some(note) = evenness(settings.group()) {
                    info!("{note}");
                }
                (listening(settings), RefreshPace::of_heartbeats())
            }
        };
        Self {
            leading: None,
            transcript: Transcript::new(),
            reaching,
            front: None,
            refreshing,
            aloud: RefreshPace::aloud(format),
            namesakes: Namesakes::of(standing),
            failures: RateLimit::new(),
            lasting: Lasting::default(),
            told_what_to_check: false,
        }
    }

    /// Tells how it reaches the others.
    pub(super) fn reaching(&self) {
        info!(target: TRANSCRIPT, "{}", self.reaching);
    }

    pub(super) fn event(&mut self, event: Event) {
        self.believe(&event);
        match event {
            Event::Campaigning => {
                self.told_what_to_check = true;
                self.happened(Happened::Campaigning);
            }
            Event::Following { token } => {
                self.lasting.over();
                self.happened(Happened::Queued { own: token });
            }
            Event::Elected { token, until } => {
                self.lasting.over();
                self.refreshing.begin();
                self.aloud.begin();
                let lines = self.transcript.lines(Happened::Elected { token });
                together(|| {
                    // Frozen between the news and this line, we may have been deposed: then say nothing.
                    for line in lines.iter().filter(|_| Timestamp::now() < until) {
                        info!(target: TRANSCRIPT, token = token.get(), "{line}");
                    }
                });
            }
            Event::Renewed { until, latency, .. } if self.refreshing.is_due() => {
                let lines = self.transcript.lines(Happened::Renewed);
                for line in lines.iter().filter(|_| Timestamp::now() < until) {
                    match self.aloud.is_due() {
                        true => info!(target: TRANSCRIPT, ?latency, "{line}"),
                        false => debug!(target: TRANSCRIPT, ?latency, "{line}"),
                    }
                }
            }
            Event::Unobservable { token, until } => {
                let left = until.since(Timestamp::now());
                warn!(
                    token = token.get(),
                    ends_in = ?left,
                    "the leader's key can't be watched, though its lease is renewed; leadership ends unless it can be \
                     watched again: may this user still read the election's prefix, and is etcd's store alive?"
                );
            }
            Event::Lost { token, loss } => {
                for line in self.transcript.lines(Happened::Lost) {
                    info!(target: TRANSCRIPT, token = token.get(), reason = %loss, "{line}");
                }
            }
            Event::Retrying { problem, unreachable, pause } => {
                if self.lasting.failed(Timestamp::now()) {
                    lasting_problem(&problem);
                }
                let Some(left_out) = self.failures.pass(Timestamp::now()) else { return };
                let left_out = (left_out > 0).then_some(left_out);
                warn!(problem, retry_in = ?pause, left_out, "the attempt failed");
                // Peers dial each other all the time.
                if unreachable && matches!(self.reaching, LogLine::Connecting { .. }) {
                    if !std::mem::replace(&mut self.told_what_to_check, true) {
                        warn!(
                            "no connection to etcd: check that it runs, that --etcd has its address for clients, and that \
                             both sides speak TLS (--cacert, https://) or neither"
                        );
                    }
                    self.reaching();
                }
            }
            Event::Missed { count } => warn!(missed = count, "log lines were left out"),
            _ => {}
        }
    }

    pub(super) fn seen(&mut self, front: QueueHead) {
        self.front = None;
        match front {
            QueueHead::Candidate { token, name } => {
                self.front = Some((token, name));
                self.happened(Happened::SeenLeader { token });
            }
            QueueHead::Foreign(key) => {
                warn!(key, "no candidate can lead until this key, put by hand, is deleted");
                self.happened(Happened::SeenVacant);
            }
            QueueHead::Leased(key) => {
                warn!(
                    key,
                    "no candidate can lead before this key has gone with its lease: it is no candidate's, or one of several that were put at once"
                );
                self.happened(Happened::SeenVacant);
            }
            _ => self.happened(Happened::SeenVacant),
        }
    }

    /// Tells of candidates that go by this one's name.
    pub(super) fn namesakes(&mut self, seen: &[FencingToken]) {
        for token in self.namesakes.see(seen, Timestamp::now()) {
            log::problem(&format!(
                "another candidate is called '{}' too (token {token}); give each a name of its own, or neither log nor \
                 status can tell them apart",
                self.namesakes.name
            ));
        }
    }

    /// Tells machines.
    fn believe(&mut self, event: &Event) {
        let at = Timestamp::now().as_nanos();
        match event {
            Event::Elected { token, until } | Event::Renewed { token, until, .. } => {
                self.leading = Some(*token);
                debug!(target: BELIEF, token = token.get(), at, until = until.as_nanos(), "proved");
            }
            Event::Lost { token, loss } => {
                self.leading = None;
                debug!(target: BELIEF, token = token.get(), at, how = ?loss, "ended");
            }
            _ => {}
        }
    }

    pub(super) fn happened(&mut self, happened: Happened) {
        if happened == Happened::Stopping
            && let Some(token) = self.leading.take()
        {
            let at = Timestamp::now().as_nanos();
            debug!(target: BELIEF, token = token.get(), at, how = "Stopping", "ended");
        }
        for line in self.transcript.lines(happened) {
            match &self.front {
                Some((token, leader)) if line == LogLine::Follower => {
                    info!(target: TRANSCRIPT, leader, leader_token = token.get(), "{line}");
                }
                _ => info!(target: TRANSCRIPT, "{line}"),
            }
        }
    }
}

/// Which other candidates of this one's name to warn of, each once. Pure.
struct Namesakes {
    name: String,
    /// A key that its process has left behind is gone by then: it is this server's own, from before it was killed.
    after: Duration,
    /// Since when each is there; `None` once it was warned of.
    since: BTreeMap<FencingToken, Option<Timestamp>>,
}

impl Namesakes {
    fn of(standing: &CandidateConfig) -> Self {
        // What a lease may last beside a change of etcd's own leader: docs/safety.md.
        let after = standing.place.proof().span() * 2 + Duration::from_secs(4);
        Self { name: standing.name.to_string(), after, since: BTreeMap::new() }
    }

    fn see(&mut self, seen: &[FencingToken], now: Timestamp) -> Vec<FencingToken> {
        self.since.retain(|token, _| seen.contains(token));
        let mut due = Vec::new();
        for token in seen {
            let since = self.since.entry(*token).or_insert(Some(now));
            if since.is_some_and(|since| now.since(since) > self.after) {
                *since = None;
                due.push(*token);
            }
        }
        due
    }
}

fn listening(settings: &Settings) -> LogLine {
    let others = settings.group().members().iter().filter(|member| member.name != *settings.name());
    let peers = others.map(|member| member.name.to_string()).collect();
    LogLine::Listening { at: settings.listen().to_string(), peers }
}

/// What is to be said of a group that is no better than a smaller one.
fn evenness(group: &Group) -> Option<String> {
    let count = group.members().len();
    let failures = match group.tolerates() {
        0 => "no failure".to_owned(),
        1 => "1 failure".to_owned(),
        more => format!("{more} failures"),
    };
    let fewer = match count - 1 {
        1 => "1 does".to_owned(),
        fewer => format!("{fewer} do"),
    };
    count.is_multiple_of(2).then(|| format!("{count} servers tolerate {failures}, as {fewer}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_group_is_told_that_it_could_be_smaller() {
        let note = |count: usize| {
            let members: Vec<_> = (1..=count).map(|i| format!("s{i}=h:{i}")).collect();
            evenness(&members.join(",").parse().unwrap())
        };
        assert_eq!(note(2).unwrap(), "2 servers tolerate no failure, as 1 does");
        assert_eq!(note(4).unwrap(), "4 servers tolerate 1 failure, as 3 do");
        assert_eq!(note(6).unwrap(), "6 servers tolerate 2 failures, as 5 do");
        assert_eq!([1, 3, 5, 7].map(note), [const { None }; 4]);
    }

    #[test]
    fn a_server_says_where_it_listens_and_who_else_does() {
        let line = |group: &str| {
            let settings =
                Settings::new(&"server1".parse().unwrap(), group.parse().unwrap(), "data").unwrap();
            listening(&settings).to_string()
        };
        assert_eq!(
            line("server3=h:3,server1=localhost:10000,server2=h:2"),
            "Listening on 'localhost:10000', peers: server2, server3"
        );
        assert_eq!(line("server1=localhost:10000"), "Listening on 'localhost:10000', no peers");
    }

    #[test]
    fn a_problem_is_told_when_it_lasts_and_then_once_a_minute() {
        let at = |secs| Timestamp::from_nanos(1) + Duration::from_secs(secs);
        let mut lasting = Lasting::default();
        let told: Vec<_> = (0..200).filter(|secs| lasting.failed(at(*secs))).collect();
        assert_eq!(told, [2, 62, 122, 182]);
        lasting.over();
        assert!(!lasting.failed(at(300)) && !lasting.failed(at(301)), "a new one has to last as well");
        assert!(lasting.failed(at(302)));
    }

    #[test]
    fn a_namesake_that_stays_is_warned_of_once_and_what_a_killed_process_left_is_not() {
        let at = |secs| Timestamp::from_nanos(1) + Duration::from_secs(secs);
        let [left, other] = [5, 9].map(FencingToken::new);
        let after = Duration::from_secs(14);
        let mut namesakes = Namesakes { name: "server1".into(), after, since: BTreeMap::new() };
        let mut warned = Vec::new();
        for secs in 0..100 {
            let seen = if secs < 10 { vec![left] } else { vec![other] };
            warned.extend(namesakes.see(&seen, at(secs)).into_iter().map(|token| (secs, token)));
        }
        assert_eq!(warned, [(25, other)]);
        assert_eq!(namesakes.see(&[], at(101)), []);
        assert_eq!(namesakes.see(&[other], at(102)), [], "it has to stay again");
    }

    #[test]
    fn in_the_full_log_renewals_are_told_of_once_a_minute() {
        let mut full = RefreshPace::aloud(Format::Full);
        assert!(full.is_due() && !full.is_due());
        full.last = full.last.map(|last| last - Duration::from_secs(61));
        assert!(full.is_due() && !full.is_due());
        full.begin();
        assert!(full.is_due(), "the first of a term");
        for form in [Format::Plain, Format::Json] {
            let mut each = RefreshPace::aloud(form);
            assert!(each.is_due() && each.is_due());
        }
    }

    #[test]
    fn heartbeats_are_told_of_once_a_second_at_most() {
        let mut pace = RefreshPace::of_heartbeats();
        assert!(pace.is_due() && !pace.is_due());
        let mut elected = RefreshPace::of_heartbeats();
        elected.begin();
        assert!(!elected.is_due());
    }

    #[test]
    fn renewals_that_come_in_a_rush_are_told_of_once() {
        let mut pace = RefreshPace::of_renewals(Ttl::DEFAULT);
        pace.begin();
        assert!(pace.is_due(), "the first of a term is told");
        assert!((0..1000).all(|_| !pace.is_due()));
        pace.last = pace.last.map(|last| last - Ttl::DEFAULT.renewal_interval());
        assert!(pace.is_due(), "each that comes in its time is told");
    }
}
