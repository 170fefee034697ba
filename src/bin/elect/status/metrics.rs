//! Metrics for Prometheus, in the OpenMetrics text format, or in the older one for scrapers that want it.
//!
//! Events are counted when they happen; gauges are computed at the scrape, so that none is older than it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use leader_election::{Loss, etcd::Expiry, peers::SyncTimes};
use prometheus_client::{
    encoding::{
        EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder, MetricEncoder, NoLabelSet, text,
    },
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use super::{
    snapshot::{GroupMeasurements, Role, StatusSnapshot},
    store::ServerIdentity,
};
use crate::lease_timing::LeaseTiming;

/// A format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    OpenMetrics,
    /// Prometheus' own text format, version 0.0.4: many scrapers read only this.
    Text,
}

impl Form {
    /// Chooses the format for a scraper's `Accept` header; without one, OpenMetrics.
    pub(crate) fn accepted(accept: &str) -> Self {
        let quality = |wanted: &[&str]| {
            let ranges = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let kind = parts.next()?.to_ascii_lowercase();
                let quality = parts.find_map(|part| part.strip_prefix("q=")?.trim().parse::<f32>().ok());
                wanted.contains(&&*kind).then_some(quality.unwrap_or(1.0))
            });
            ranges.fold(0.0, f32::max)
        };
        if accept.trim().is_empty() {
            return Self::OpenMetrics;
        }
        let open = quality(&["application/openmetrics-text"]);
        if open > 0.0 && open >= quality(&["text/plain", "text/*"]) { Self::OpenMetrics } else { Self::Text }
    }

    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Converts OpenMetrics to the older format, which names a counter like its sample, and has no units and no
/// `info`.
fn as_text(open_metrics: &str) -> String {
    let types = open_metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let types: BTreeMap<_, _> = types.collect();
    let sample = |name: &str, kind: &str| match kind {
        "info" => (format!("{name}_info"), "gauge".to_owned()),
        "counter" => (format!("{name}_total"), kind.to_owned()),
        "unknown" => (name.to_owned(), "untyped".to_owned()),
        _ => (name.to_owned(), kind.to_owned()),
    };
    let mut text = String::new();
    for line in open_metrics.lines() {
        match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            ["#", "EOF"] | ["#", "UNIT", ..] => {}
            ["#", "TYPE", name, kind] => {
                let (name, kind) = sample(name, kind);
                text.push_str(&format!("# TYPE {name} {kind}\n"));
            }
            ["#", "HELP", name, help] => {
                let (name, _) = sample(name, types.get(name).unwrap_or(&""));
                text.push_str(&format!("# HELP {name} {help}\n"));
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

/// From a healthy etcd's fractions of a millisecond to the timeout of a long TTL.
const LATENCY: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Of a TTL of 5 s, 2.83 s are left at a renewal in time. The low end is the dangerous one.
const MARGIN: [f64; 13] = [0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0, 10.0, 30.0, 60.0];

#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    leader: Gauge,
    token: Gauge,
    queue_position: Gauge,
    last_contact: Gauge<f64, AtomicU64>,
    certificate_expiry: Family<Certificate, Gauge<f64, AtomicU64>>,
    terms_lost: Family<Lost, Counter>,
    renewals: Counter,
    renewal_latency: Histogram,
    renewal_margin: Histogram,
    command_restarts: Counter,
    peer_connected: Family<PeerLabel, Gauge>,
    peer_refusals: Family<Refused, Counter>,
    peer_round_trip: Family<PeerLabel, Gauge<f64, AtomicU64>>,
    disk_sync: SyncHistogram,
    election_timeout_advised: Gauge<f64, AtomicU64>,
}

/// A histogram that the library keeps: it counts syncs, with or without a scraper.
#[derive(Debug, Clone, Default)]
struct SyncHistogram(Arc<Mutex<SyncTimes>>);

impl SyncHistogram {
    fn set(&self, times: SyncTimes) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = times;
    }
}

impl EncodeMetric for SyncHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bounds = SyncTimes::bounds().map(|bound| bound.as_secs_f64()).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(times.counts).collect();
        encoder.encode_histogram::<NoLabelSet>(times.total.as_secs_f64(), times.count(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabel {
    peer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Certificate {
    certificate: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Lost {
    reason: Reason,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Reason(Option<Loss>);

/// Every reason, so that each series exists, at 0, before it first happens.
const REASONS: [Loss; 8] = [
    Loss::Expired,
    Loss::Revoked,
    Loss::KeyDeleted,
    Loss::Superseded,
    Loss::Unobservable,
    Loss::Transferred,
    Loss::Resigned,
    Loss::ShutDown,
];

/// The name of a loss in a label, and in JSON.
pub(crate) const fn slug(loss: Loss) -> &'static str {
    match loss {
        Loss::Expired => "expired",
        Loss::Revoked => "revoked",
        Loss::KeyDeleted => "key_deleted",
        Loss::Superseded => "superseded",
        Loss::Unobservable => "blind",
        Loss::Transferred => "transferred",
        Loss::Resigned => "resigned",
        Loss::ShutDown => "shut_down",
        _ => "other",
    }
}

impl EncodeLabelValue for Reason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        EncodeLabelValue::encode(&self.0.map_or("other", slug), encoder)
    }
}

impl Metrics {
    pub(crate) fn new(identity: &ServerIdentity) -> Self {
        let metrics = Self {
            registry: Registry::default(),
            leader: Gauge::default(),
            token: Gauge::default(),
            queue_position: Gauge::default(),
            last_contact: Gauge::default(),
            certificate_expiry: Family::default(),
            terms_lost: Family::default(),
            renewals: Counter::default(),
            renewal_latency: Histogram::new(LATENCY),
            renewal_margin: Histogram::new(MARGIN),
            command_restarts: Counter::default(),
            peer_connected: Family::default(),
            peer_refusals: Family::default(),
            peer_round_trip: Family::default(),
            disk_sync: SyncHistogram::default(),
            election_timeout_advised: Gauge::default(),
        };
        for loss in REASONS {
            // Creates the series.
            let _ = metrics.terms_lost.get_or_create(&Lost { reason: Reason(Some(loss)) });
        }
        metrics.registered(identity)
    }

    fn registered(mut self, ServerIdentity { name, election, proof, .. }: &ServerIdentity) -> Self {
        let registry = &mut self.registry;
        let identity = vec![
            ("name", name.to_string()),
            ("election", election.to_string()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        // The format adds `_info`.
        registry.register("elect", "Name, election and version of this server", Info::new(identity));
        registry.register(
            "elect_leader",
            "1 while this process leads, checked at the scrape",
            self.leader.clone(),
        );
        registry.register(
            "elect_token",
            "Fencing token of the term that this process leads in, 0 while it does not",
            self.token.clone(),
        );
        registry.register(
            "elect_queue_position",
            "Place in the queue: 1 leads, 2 is next; 0 is not in the queue or not known",
            self.queue_position.clone(),
        );
        registry.register_with_unit(
            "elect_last_contact",
            match proof {
                LeaseTiming::Lease(_) => {
                    "Time since the last accepted response of etcd, or since the start without one"
                }
                LeaseTiming::Heartbeats(_) => {
                    "Time since the last heartbeat of a leader, or of a majority's answers to this one"
                }
            },
            Unit::Seconds,
            self.last_contact.clone(),
        );
        registry.register_with_unit(
            "elect_certificate_expiry_timestamp",
            "End of the certificate's validity, by its file at the scrape",
            Unit::Seconds,
            self.certificate_expiry.clone(),
        );
        registry.register(
            "elect_terms_lost",
            "Terms of leadership that ended, by reason",
            self.terms_lost.clone(),
        );
        registry.register(
            "elect_renewals",
            match proof {
                LeaseTiming::Lease(_) => "Renewals of the lease that were acknowledged while leading",
                LeaseTiming::Heartbeats(_) => "Heartbeats that a majority answered while leading",
            },
            self.renewals.clone(),
        );
        registry.register_with_unit(
            "elect_renewal_latency",
            "From the send of a renewal to its answer",
            Unit::Seconds,
            self.renewal_latency.clone(),
        );
        registry.register_with_unit(
            "elect_renewal_margin",
            "Proved time that was left when a renewal was answered",
            Unit::Seconds,
            self.renewal_margin.clone(),
        );
        registry.register(
            "elect_command_restarts",
            "Restarts of the command within a term",
            self.command_restarts.clone(),
        );
        if matches!(proof, LeaseTiming::Heartbeats(_)) {
            registry.register(
                "elect_peer_connected",
                "1 while there is a connection to this peer",
                self.peer_connected.clone(),
            );
            registry.register(
                "elect_peer_refusals",
                "Messages and connections that were refused",
                self.peer_refusals.clone(),
            );
            registry.register_with_unit(
                "elect_peer_round_trip",
                "Usual round trip to this peer",
                Unit::Seconds,
                self.peer_round_trip.clone(),
            );
            registry.register_with_unit(
                "elect_disk_sync",
                "From the start of a write to the data directory until it was durable",
                Unit::Seconds,
                self.disk_sync.clone(),
            );
            registry.register_with_unit(
                "elect_election_timeout_advised",
                "Shortest election timeout that the round trips and syncs need, 0 if the present one serves",
                Unit::Seconds,
                self.election_timeout_advised.clone(),
            );
        }
        self
    }

    pub(crate) fn renewed(&self, latency: Duration, left: Duration) {
        self.renewals.inc();
        self.renewal_latency.observe(latency.as_secs_f64());
        self.renewal_margin.observe(left.as_secs_f64());
    }

    pub(crate) fn lost(&self, loss: Loss) {
        let known = REASONS.contains(&loss).then_some(loss);
        self.terms_lost.get_or_create(&Lost { reason: Reason(known) }).inc();
    }

    pub(crate) fn restarted(&self) {
        self.command_restarts.inc();
    }

    /// Encodes all metrics, as of this snapshot.
    pub(crate) fn text(&self, snapshot: &StatusSnapshot, expiry: Expiry, form: Form) -> String {
        let term = match snapshot.role {
            Role::Leader { token, .. } => Some(token),
            Role::Follower { .. } | Role::Outside => None,
        };
        self.leader.set(i64::from(term.is_some()));
        // etcd's revisions are signed.
        self.token.set(term.map_or(0, |token| token.get() as i64));
        self.queue_position.set(snapshot.role.place().unwrap_or(0) as i64);
        self.last_contact.set(snapshot.unheard.as_secs_f64());
        for (certificate, ends) in [("own", expiry.own), ("authority", expiry.authority)] {
            let ends = ends.and_then(|ends| ends.duration_since(SystemTime::UNIX_EPOCH).ok());
            if let Some(ends) = ends {
                self.certificate_expiry.get_or_create(&Certificate { certificate }).set(ends.as_secs_f64());
            }
        }
        for peer in snapshot.servers.iter().flatten().filter(|peer| !peer.own) {
            let labels = PeerLabel { peer: peer.name.clone() };
            self.peer_connected.get_or_create(&labels).set(peer.connected.into());
            match peer.round_trip {
                Some(takes) => {
                    self.peer_round_trip.get_or_create(&labels).set(takes.as_secs_f64());
                }
                None => {
                    self.peer_round_trip.remove(&labels);
                }
            }
        }
        if let Some(GroupMeasurements { syncs, advice }) = &snapshot.measured {
            let advised = advice.as_ref().map_or(Duration::ZERO, |advice| advice.needed().shortest());
            self.disk_sync.set(syncs.clone());
            self.election_timeout_advised.set(advised.as_secs_f64());
        }
        for (reason, count) in &snapshot.refused {
            let refused = self.peer_refusals.get_or_create(&Refused { reason });
            refused.inc_by(count.saturating_sub(refused.get()));
        }
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("writing to a string can't fail");
        match form {
            Form::OpenMetrics => text,
            Form::Text => as_text(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_what_it_asks_for() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.25,*/*;q=0.1";
        let telegraf =
            "application/vnd.google.protobuf;encoding=delimited;q=0.7,text/plain;version=0.0.4;q=0.3";
        for (accept, form) in [
            ("", Form::OpenMetrics),
            (prometheus, Form::OpenMetrics),
            ("application/openmetrics-text", Form::OpenMetrics),
            (telegraf, Form::Text),
            ("text/plain", Form::Text),
            ("text/plain;q=0.9, application/openmetrics-text;q=0.1", Form::Text),
            ("application/openmetrics-text;q=0, */*", Form::Text),
            ("*/*", Form::Text),
        ] {
            assert_eq!(Form::accepted(accept), form, "{accept}");
        }
    }

    #[test]
    fn the_older_format_has_only_types_that_it_knows_and_no_units() {
        let open = "# HELP elect Which server.\n# TYPE elect info\nelect_info{name=\"a\"} 1\n\
                    # HELP elect_renewals Renewals.\n# TYPE elect_renewals counter\nelect_renewals_total 3\n\
                    # HELP elect_last_contact_seconds Time.\n# TYPE elect_last_contact_seconds gauge\n\
                    # UNIT elect_last_contact_seconds seconds\nelect_last_contact_seconds 0.5\n# EOF\n";
        let text = "# HELP elect_info Which server.\n# TYPE elect_info gauge\nelect_info{name=\"a\"} 1\n\
                    # HELP elect_renewals_total Renewals.\n# TYPE elect_renewals_total counter\n\
                    elect_renewals_total 3\n# HELP elect_last_contact_seconds Time.\n\
                    # TYPE elect_last_contact_seconds gauge\nelect_last_contact_seconds 0.5\n";
        assert_eq!(as_text(open), text);
    }
}
