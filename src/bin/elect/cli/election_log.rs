//! Events of an election as log lines, for `server` and `run`.

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

/// Target for programs, at debug: the time in which this process takes itself for the leader. Moments are
/// nanoseconds of the boot-time clock, which all processes of a machine share.
const BELIEF: &str = "belief";

/// Turns events into log lines.
pub(super) struct ElectionLog {
    /// The term that this process leads, by the events so far.
    leading: Option<FencingToken>,
    transcript: Transcript,
    /// The line about this server's connection to the others.
    reaching: LogLine,
    /// The term at the head of the queue, and its leader.
    head: Option<(FencingToken, String)>,
    refreshing: RefreshPace,
    /// Limits the refresh lines; the rest goes to debug.
    aloud: RefreshPace,
    namesakes: Namesakes,
    failures: RateLimit,
    lasting: Lasting,
    /// True once there was a connection, or the advice about it was logged.
    advice_logged: bool,
}

/// Decides when a lasting problem is logged by `plain`, which omits single failures.
#[derive(Debug, Default)]
struct Lasting {
    since: Option<Timestamp>,
    last_logged: Option<Timestamp>,
}

impl Lasting {
    /// Shorter failures belong to a restart, or to a change of etcd's leader.
    const AFTER: Duration = Duration::from_secs(2);
    const EVERY: Duration = Duration::from_secs(60);

    /// Records a failure; returns whether to log it.
    fn failed(&mut self, now: Timestamp) -> bool {
        let since = *self.since.get_or_insert(now);
        let is_due = self.last_logged.is_none_or(|last_logged| now.since(last_logged) >= Self::EVERY);
        let due = now.since(since) >= Self::AFTER && is_due;
        if due {
            self.last_logged = Some(now);
        }
        due
    }

    fn over(&mut self) {
        self.since = None;
    }
}

/// Limits the lines that this server still leads; renewals may come more often.
struct RefreshPace {
    every: Duration,
    /// True if it has to lead for one interval before the first line.
    waits: bool,
    last: Option<Timestamp>,
}

impl RefreshPace {
    /// Pace of renewals: one line each; reconnections cause extra ones.
    fn of_renewals(ttl: Ttl) -> Self {
        Self { every: ttl.renewal_interval() / 2, waits: false, last: None }
    }

    /// Pace of the full log, for people: the first of a term, then one a minute. Programs that read the other
    /// forms count them.
    fn aloud(format: Format) -> Self {
        let every = match format {
            Format::Full => Duration::from_secs(60),
            Format::Plain | Format::Json => Duration::ZERO,
        };
        Self { every, waits: false, last: None }
    }

    /// Pace of heartbeats, which come many times a second: one line a second.
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
    /// Logs that this server starts.
    pub(super) fn starting(candidate: &CandidateConfig, election: &ElectionName, format: Format) -> Self {
        let starting = LogLine::Starting { name: candidate.name.to_string() };
        let (reaching, refreshing) = match &candidate.place {
            CandidateBackend::Etcd(settings, ttl) => {
                info!(target: TRANSCRIPT, election = %election, ttl = %ttl, "{starting}");
                let endpoints: Vec<_> = settings.endpoints().iter().map(ToString::to_string).collect();
                (LogLine::Connecting { endpoints: endpoints.join(",") }, RefreshPace::of_renewals(*ttl))
            }
            CandidateBackend::Peers(settings) => {
                let (data, timing) = (settings.data().display(), candidate.place.proof());
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
            head: None,
            refreshing,
            aloud: RefreshPace::aloud(format),
            namesakes: Namesakes::of(candidate),
            failures: RateLimit::new(),
            lasting: Lasting::default(),
            advice_logged: false,
        }
    }

    /// Logs how it reaches the others.
    pub(super) fn reaching(&self) {
        info!(target: TRANSCRIPT, "{}", self.reaching);
    }

    pub(super) fn event(&mut self, event: Event) {
        self.believe(&event);
        match event {
            Event::Campaigning => {
                self.advice_logged = true;
                self.log(Happened::Campaigning);
            }
            Event::Following { token } => {
                self.lasting.over();
                self.log(Happened::Queued { own: token });
            }
            Event::Elected { token, until } => {
                self.lasting.over();
                self.refreshing.begin();
                self.aloud.begin();
                let lines = self.transcript.lines(Happened::Elected { token });
                together(|| {
                    // A freeze since the event may have deposed us: then log nothing.
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
                // Peers redial all the time.
                if unreachable && matches!(self.reaching, LogLine::Connecting { .. }) {
                    if !std::mem::replace(&mut self.advice_logged, true) {
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

    pub(super) fn seen(&mut self, head: QueueHead) {
        self.head = None;
        match head {
            QueueHead::Candidate { token, name } => {
                self.head = Some((token, name));
                self.log(Happened::SeenLeader { token });
            }
            QueueHead::Foreign(key) => {
                warn!(key, "no candidate can lead until this key, put by hand, is deleted");
                self.log(Happened::SeenVacant);
            }
            QueueHead::Leased(key) => {
                warn!(
                    key,
                    "no candidate can lead before this key has gone with its lease: it is no candidate's, or one of several that were put at once"
                );
                self.log(Happened::SeenVacant);
            }
            _ => self.log(Happened::SeenVacant),
        }
    }

    /// Warns about candidates with this one's name.
    pub(super) fn namesakes(&mut self, seen: &[FencingToken]) {
        for token in self.namesakes.see(seen, Timestamp::now()) {
            log::problem(&format!(
                "another candidate is called '{}' too (token {token}); give each a name of its own, or neither log nor \
                 status can tell them apart",
                self.namesakes.name
            ));
        }
    }

    /// Logs the belief to lead, for programs.
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

    pub(super) fn log(&mut self, event: Happened) {
        if event == Happened::Stopping
            && let Some(token) = self.leading.take()
        {
            let at = Timestamp::now().as_nanos();
            debug!(target: BELIEF, token = token.get(), at, how = "Stopping", "ended");
        }
        for line in self.transcript.lines(event) {
            match &self.head {
                Some((token, leader)) if line == LogLine::Follower => {
                    info!(target: TRANSCRIPT, leader, leader_token = token.get(), "{line}");
                }
                _ => info!(target: TRANSCRIPT, "{line}"),
            }
        }
    }
}

/// Finds other candidates with this one's name, and warns of each once. Pure.
struct Namesakes {
    name: String,
    /// Longer than a dead process leaves its key: this server's own key from before it was killed is gone by
    /// then.
    after: Duration,
    /// Time since when each exists; `None` once it was reported.
    since: BTreeMap<FencingToken, Option<Timestamp>>,
}

impl Namesakes {
    fn of(candidate: &CandidateConfig) -> Self {
        // A lease's longest life, including a change of etcd's own leader: docs/safety.md.
        let after = candidate.place.proof().span() * 2 + Duration::from_secs(4);
        Self { name: candidate.name.to_string(), after, since: BTreeMap::new() }
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

/// Returns a note about a group that tolerates no more failures than a smaller one.
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
    fn an_even_group_is_noted_as_no_better_than_a_smaller_one() {
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
    fn a_problem_is_logged_when_it_lasts_and_then_once_a_minute() {
        let at = |secs| Timestamp::from_nanos(1) + Duration::from_secs(secs);
        let mut lasting = Lasting::default();
        let logged: Vec<_> = (0..200).filter(|secs| lasting.failed(at(*secs))).collect();
        assert_eq!(logged, [2, 62, 122, 182]);
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
    fn the_full_log_has_renewals_once_a_minute() {
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
    fn heartbeats_are_logged_once_a_second_at_most() {
        let mut pace = RefreshPace::of_heartbeats();
        assert!(pace.is_due() && !pace.is_due());
        let mut elected = RefreshPace::of_heartbeats();
        elected.begin();
        assert!(!elected.is_due());
    }

    #[test]
    fn renewals_in_quick_succession_are_logged_once() {
        let mut pace = RefreshPace::of_renewals(Ttl::DEFAULT);
        pace.begin();
        assert!(pace.is_due(), "the first of a term is told");
        assert!((0..1000).all(|_| !pace.is_due()));
        pace.last = pace.last.map(|last| last - Ttl::DEFAULT.renewal_interval());
        assert!(pace.is_due(), "each that comes in its time is told");
    }
}
