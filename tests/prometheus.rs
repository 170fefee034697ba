//! deploy/prometheus and deploy/grafana: real servers' numbers in Debian's Prometheus, with the files unchanged.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use support::{
    capture::Captured,
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    http,
    peers::Group,
    pki::Pki,
    port::ReservedPort,
    process,
    server::{FOLLOWER, LEADER, SOON},
    tool,
};
use tempfile::TempDir;

const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus");
const DASHBOARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/grafana/dashboard.json");

/// Time for Prometheus to start, to scrape every 5 s, and to evaluate the rules.
const SCRAPED: Duration = Duration::from_secs(90);

#[test]
fn promtool_takes_the_configuration_and_the_alerts_fire_when_they_should() {
    let Some(promtool) = tool::find("promtool") else { return };
    let promtool = |args: &[&str]| {
        let output = tool::run(Command::new(&promtool).args(args).current_dir(FILES));
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && !said.contains("WARNING"), "{args:?}: {said}");
        said
    };
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "alerts.yml"]);
    let said = promtool(&["test", "rules", "alerts_test.yml"]);
    assert!(said.contains("SUCCESS"), "{said}");
}

#[test]
fn every_alert_has_a_test_in_which_it_fires() {
    let [alerts, tests] = ["alerts.yml", "alerts_test.yml"].map(|name| read(&Path::new(FILES).join(name)));
    let names: Vec<_> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        // An alert that does not fire is written in one line, with `exp_alerts: []`.
        let fires = tests.contains(&format!("- alertname: {name}\n"));
        assert!(fires, "{name} fires in no test");
    }
}

#[test]
fn every_number_that_alerts_and_dashboard_name_is_exported() {
    // On etcd with certificates, and among peers: some series exist on one backend only.
    let page = Site::start().metrics() + &among_peers();
    let (series, families) = (series_of(&page), families_of(&page));
    assert!(series.contains("elect_leader") && series.contains("elect_info"), "{series:?}");
    // The alerts' tests too: an invented series would make an alert fire there and nowhere else.
    for file in ["prometheus/alerts.yml", "prometheus/alerts_test.yml", "grafana/dashboard.json"] {
        let text = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file));
        let (asked, told): (Vec<_>, Vec<_>) = text.lines().partition(|line| {
            ["expr:", "series:", "\"expr\":", "\"query\":"].iter().any(|key| line.contains(key))
        });
        let asked = names_in(&asked.join("\n"));
        assert!(asked.len() >= 6, "{file} asks for {asked:?}");
        assert!(asked.is_subset(&series), "{file} asks for {:?}", asked.difference(&series));
        let told = &names_in(&told.join("\n")) - &series;
        assert!(told.is_subset(&families), "{file} tells of {:?}", told.difference(&families));
    }
    // The reverse, to find series that no alert or panel uses. Of a histogram the buckets suffice.
    let mut unseen = &series - &names_in(&read(Path::new(DASHBOARD)));
    unseen.retain(|name| !name.ends_with("_sum") && !name.ends_with("_count"));
    assert!(unseen.is_empty(), "on no panel: {unseen:?}");
}

#[test]
fn a_certificate_that_is_renewed_on_disk_shows_at_the_next_scrape() {
    let site = Site::start();
    let ends = |which: &str| {
        let series = format!("elect_certificate_expiry_timestamp_seconds{{certificate=\"{which}\"}} ");
        let page = site.metrics();
        let value = page.lines().find_map(|line| line.strip_prefix(&series));
        value.unwrap_or_else(|| panic!("no {series}in {page}")).parse::<f64>().unwrap()
    };
    let (own, authority) = (ends("own"), ends("authority"));
    assert!(own > 2e9 && authority > 2e9, "{own} {authority}");
    let renewed = site.pki.client_until(2001);
    fs::copy(&renewed.cert, &site.pki.client.cert).unwrap();
    fs::copy(&renewed.key, &site.pki.client.key).unwrap();
    let (own, same) = (ends("own"), ends("authority"));
    assert_eq!((own, same), (978_307_200.0, authority), "it ended with the year 2000");
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard: Value = serde_json::from_str(&read(Path::new(DASHBOARD))).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "ids are given once");
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(
            panel["description"].as_str().is_some_and(|text| !text.is_empty()),
            "{title}: says what it shows"
        );
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}: not a developer's own Prometheus");
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{title}");
    }
}

#[test]
fn prometheus_scrapes_real_servers_and_sees_a_failover() {
    let Some(prometheus) = tool::find("prometheus") else { return };
    let mut site = Site::start();
    let prometheus = Prometheus::start(prometheus, &site.addresses());
    let leader = |address: &str| format!("elect_leader{{job=\"elect\", instance=\"{address}\"}} == 1");
    let [first, second] = site.addresses();

    prometheus.wait_for(&leader(&first));
    prometheus.wait_for("election:leaders{election=\"leader\"} == 1");
    let token = prometheus.wait_for("election:token{election=\"leader\"}");
    prometheus.wait_for("count(up{job=\"elect\"} == 1) == 2");
    // Prometheus evaluates every expression: rules by itself, panels here.
    prometheus.has_healthy_rules();
    for query in panel_queries() {
        prometheus.query(&query);
    }
    let by_name = "(elect_leader == 1) * on (job, instance) group_left (name) elect_info{name=\"server1\"}";
    prometheus.wait_for(by_name);

    site.servers[0].kill();
    prometheus.wait_for(&leader(&second));
    prometheus.wait_for("election:leaders{election=\"leader\"} == 1");
    prometheus.wait_for(&format!("up{{job=\"elect\", instance=\"{first}\"}} == 0"));
    prometheus.wait_for(&format!("election:token > {token}"));
}

/// Two servers of one election, both with certificates; the first leads.
struct Site {
    servers: [Captured; 2],
    ports: [ReservedPort; 2],
    pki: Arc<Pki>,
    _etcd: Etcd,
}

impl Site {
    #[track_caller]
    fn start() -> Self {
        let pki = Arc::new(Pki::new());
        let etcd = Etcd::builder(EtcdVersion::V3_7).tls(Arc::clone(&pki)).start();
        let ports = [ReservedPort::new(), ReservedPort::new()];
        let files = [("--cacert", &pki.ca), ("--cert", &pki.client.cert), ("--key", &pki.client.key)];
        let server = |name: &str, port: &ReservedPort, line: &str| {
            let mut elect =
                Elect::server(name, &etcd.endpoint()).args(["--ttl", "3s", "--http", &port.address()]);
            for (flag, file) in files {
                elect = elect.arg(flag).arg(file);
            }
            let server = elect.start();
            server.wait_for_line(line, SOON);
            server
        };
        let servers = [server("server1", &ports[0], LEADER), server("server2", &ports[1], FOLLOWER)];
        Self { servers, ports, pki, _etcd: etcd }
    }

    fn addresses(&self) -> [String; 2] {
        self.ports.each_ref().map(ReservedPort::address)
    }

    /// The leader's metrics.
    fn metrics(&self) -> String {
        http::get(&self.ports[0].address(), "/metrics").text().to_owned()
    }
}

/// A member's metrics, once it has measured the round trip to the other.
fn among_peers() -> String {
    let group = Group::of(2);
    let port = ReservedPort::new();
    let line = group.command_line(0);
    let elect = Elect::new(&line).args(["--http", &port.address()]);
    let _both = [group.start_as(0, elect), group.start(1)];
    let page = || {
        let page = http::try_get(&port.address(), "/metrics").ok()?;
        page.text().contains("elect_peer_round_trip_seconds{").then(|| page.text().to_owned())
    };
    eventually(SOON, "a page of metrics with a round trip", page)
}

/// Debian's Prometheus with the shipped files, except for the servers' addresses.
struct Prometheus {
    _captured: Captured,
    _dir: TempDir,
    port: ReservedPort,
}

impl Prometheus {
    #[track_caller]
    fn start(prometheus: PathBuf, targets: &[String]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["prometheus.yml", "alerts.yml"] {
            fs::copy(Path::new(FILES).join(name), dir.path().join(name)).unwrap();
        }
        // As JSON, which is valid YAML.
        let targets = serde_json::json!([{ "targets": targets }]).to_string();
        fs::write(dir.path().join("targets.yml"), targets).unwrap();
        let port = ReservedPort::new();
        let mut command = process::command(prometheus);
        command
            .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={}", port.address()));
        let captured = Captured::start("prometheus", command);
        let prometheus = Self { _captured: captured, _dir: dir, port };
        let ready = || {
            http::try_get(&prometheus.port.address(), "/-/ready").ok().filter(|answer| answer.status == 200)
        };
        eventually(SOON, "Prometheus to be ready", ready);
        prometheus
    }

    /// Waits until a query has a result, and returns its first number.
    #[track_caller]
    fn wait_for(&self, query: &str) -> String {
        eventually(SCRAPED, &format!("a result of {query}"), || {
            self.query(query).first().map(|sample| sample["value"][1].as_str().unwrap().to_owned())
        })
    }

    /// The result of a query, which must be valid.
    #[track_caller]
    fn query(&self, query: &str) -> Vec<Value> {
        let path = format!("/api/v1/query?query={}", escaped(query));
        let answer = http::get(&self.port.address(), &path).json();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// Waits until every rule has been evaluated once without an error.
    #[track_caller]
    fn has_healthy_rules(&self) {
        eventually(SCRAPED, "all rules to have been applied", || {
            let answer = http::get(&self.port.address(), "/api/v1/rules").json();
            let rules = answer["data"]["groups"][0]["rules"].as_array()?.clone();
            let applied = rules.iter().all(|rule| rule["health"] != "unknown");
            for rule in rules.iter().filter(|_| applied) {
                assert_eq!(rule["health"], "ok", "{rule}");
            }
            (applied && !rules.is_empty()).then_some(())
        });
    }
}

/// Queries of panels and annotations, with Grafana's variables filled in.
fn panel_queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read(Path::new(DASHBOARD))).unwrap();
    let targets =
        dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let annotations = dashboard["annotations"]["list"].as_array().unwrap();
    let asked = targets.chain(annotations).map(|item| item["expr"].as_str().unwrap());
    let filled = asked.map(|query| query.replace("$__rate_interval", "20s").replace("$election", "leader"));
    let queries: Vec<_> = filled.collect();
    assert!(queries.len() > 12 && queries.iter().all(|query| !query.contains('$')), "{queries:#?}");
    queries
}

/// The names of the series in a page of metrics.
fn series_of(page: &str) -> BTreeSet<String> {
    let samples = page.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    samples.map(|sample| sample.split(['{', ' ']).next().unwrap().to_owned()).collect()
}

/// The families with HELP and TYPE; a histogram's name has no `_bucket` or similar.
fn families_of(page: &str) -> BTreeSet<String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|of| of.split(' ').next().unwrap().to_owned()).collect()
}

/// All words that look like one of our series.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("elect_")).map(str::to_owned).collect()
}

fn escaped(query: &str) -> String {
    query.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
