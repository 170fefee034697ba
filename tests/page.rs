//! The page that `--http` serves, in a real Chromium.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

#[path = "page/browser.rs"]
mod browser;

use std::{collections::BTreeSet, time::Duration};

use browser::{Browser, page_time};
use serde_json::{Value, json};
use support::{
    capture::{Captured, longest_stall},
    clock::BootTime,
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    port::ReservedPort,
    server::{FOLLOWER, LEADER, SOON, token_of},
};

/// Time limit for the page after the new leader's own log line.
const NAMES_THE_NEXT_WITHIN: Duration = Duration::from_secs(1);

/// Minimum contrast by WCAG 2: level AA, text of ordinary size.
const LEAST_CONTRAST: f64 = 4.5;

/// The narrowest supported window.
const NARROW: u32 = 320;

/// Records each change of the leader's name, and stalls of the page itself.
const WATCH: &str = "
    window.marker = 'not reloaded';
    window.changes = [];
    window.stalls = [];
    const leader = document.getElementById('leader');
    new MutationObserver(() => window.changes.push({ text: leader.textContent, at: Date.now() }))
        .observe(leader, { childList: true, characterData: true, subtree: true });
    let last = Date.now();
    setInterval(() => {
        const now = Date.now();
        if (now - last > 50) window.stalls.push({ ended: now, ms: now - last });
        last = now;
    }, 10);";

#[test]
fn a_followers_page_names_the_next_leader_within_a_second_and_without_a_reload() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let mut site = Site::start(&etcd, ["server1", "server2", "server3"], "2s");
    let Some(browser) = Browser::open(&site.url(2)) else { return };
    browser.wait_for_text("leader", "server1", SOON);
    browser.wait_for_text("token", &token_of(&etcd.endpoint(), "server1").to_string(), SOON);
    browser.wait_until("/waits/.test(document.getElementById('role').innerText)", SOON);
    assert_eq!(queue(&browser), ["server1", "server2", "server3"]);
    browser.run(WATCH);

    site.servers[0].kill();
    let leads = site.servers[1].wait_for_line(LEADER, SOON).at;
    browser.wait_for_text("leader", "server2", SOON);

    let changes = browser.value("window.changes");
    let named = changes.as_array().unwrap().iter().find(|change| change["text"] == "server2").unwrap();
    let took = named["at"].as_f64().unwrap() - page_time(leads);
    // Stalls of this machine are not the page's delay.
    let stalls = browser.value("window.stalls");
    let stalls =
        stalls.as_array().unwrap().iter().filter(|stall| stall["ended"].as_f64().unwrap() > page_time(leads));
    let page_stalled = stalls.map(|stall| stall["ms"].as_f64().unwrap()).fold(0.0, f64::max);
    let stalled = longest_stall(leads, BootTime::now()).as_secs_f64() * 1000.0 + page_stalled;
    let allowed = NAMES_THE_NEXT_WITHIN.as_secs_f64() * 1000.0 + stalled;
    assert!(took <= allowed, "it took {took} ms; {stalled} ms of that it stood still");

    assert_eq!(browser.value("window.marker"), "not reloaded");
    browser.wait_for_text("token", &token_of(&etcd.endpoint(), "server2").to_string(), SOON);
    browser.wait_until("document.querySelectorAll('#timeline tbody tr').length >= 2", SOON);
    let terms = browser.text("timeline");
    assert!(terms.find("server2").unwrap() < terms.find("server1").unwrap(), "newest first: {terms}");
    assert_eq!(queue(&browser), ["server2", "server3"]);
}

#[test]
fn the_page_says_that_it_is_stale_and_recovers_by_itself() {
    let mut etcd = Etcd::start(EtcdVersion::V3_7);
    let mut site = Site::start(&etcd, ["server1"], "2s");
    let Some(browser) = Browser::open(&site.url(0)) else { return };
    browser.wait_for_text("leader", "server1", SOON);
    let stale = "!document.getElementById('stale').hidden";
    let current = "document.getElementById('stale').hidden && document.getElementById('leader').innerText === 'server1'";
    browser.wait_until(current, SOON);
    browser.run(WATCH);

    // The server dies, and comes back at the same address.
    site.servers[0].kill();
    browser.wait_until(stale, SOON);
    assert!(browser.text("stale").contains("silent"), "{}", browser.text("stale"));
    browser.wait_until("/Last heard \\d+ s ago/.test(document.getElementById('stale').textContent)", SOON);
    assert!(!browser.text("lease").contains("left"), "{}", browser.text("lease"));
    site.restart(0);
    browser.wait_until(current, SOON);

    // The server is up, etcd is not.
    etcd.freeze();
    browser.wait_until(stale, SOON);
    browser.wait_until("/etcd/.test(document.getElementById('stale').innerText)", SOON);
    etcd.thaw();
    browser.wait_until(current, SOON);
    assert_eq!(browser.value("window.marker"), "not reloaded");
}

#[test]
fn a_leaders_page_shows_its_time_run_down_and_be_renewed() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let site = Site::start(&etcd, ["server1"], "3s");
    let Some(browser) = Browser::open(&site.url(0)) else { return };
    browser.wait_until("/leads/.test(document.getElementById('role').innerText)", SOON);
    browser.run(
        "window.left = [];
        setInterval(() => {
            const number = parseFloat(document.getElementById('lease').innerText);
            if (!Number.isNaN(number)) window.left.push(number);
        }, 50);",
    );
    // It is renewed each second, with 1.7 s left of 2.7 s.
    let renewed = "window.left.filter((left, i) => i > 0 && left - window.left[i - 1] > 0.3).length >= 2";
    browser.wait_until(renewed, SOON);
    let run_down = "window.left.filter((left, i) => i > 0 && left < window.left[i - 1]).length >= 4";
    browser.wait_until(run_down, SOON);
    let least_and_most = browser.value("[Math.min(...window.left), Math.max(...window.left)]");
    assert!(
        least_and_most[0].as_f64() >= Some(0.0) && least_and_most[1].as_f64() <= Some(2.7),
        "{least_and_most}"
    );
}

#[test]
fn the_page_fits_a_narrow_window_with_the_longest_names_light_and_dark() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let long = "x".repeat(256);
    let site = Site::start(&etcd, [long.as_str(), "server2"], "3s");
    let Some(browser) = Browser::open(&site.url(1)) else { return };
    browser.wait_for_text("leader", &long, SOON);
    assert_eq!(queue(&browser), [&long, "server2"]);

    let screen = json!({ "width": NARROW, "height": 640, "deviceScaleFactor": 1, "mobile": false });
    browser.devtools("Emulation.setDeviceMetricsOverride", screen);
    browser.wait_until(&format!("window.innerWidth === {NARROW}"), SOON);
    let mut backgrounds = BTreeSet::new();
    for scheme in ["light", "dark"] {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        browser.devtools("Emulation.setEmulatedMedia", features);
        browser.wait_until(&format!("matchMedia('(prefers-color-scheme: {scheme})').matches"), SOON);
        let fits =
            browser.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth");
        assert_eq!(fits, true, "{scheme}: there is something beside the window");
        let cut_off = browser.run(CUT_OFF);
        assert_eq!(cut_off, json!([]), "{scheme}");
        backgrounds.insert(browser.value("getComputedStyle(document.body).backgroundColor").to_string());
        for stale in [false, true] {
            browser.run(&format!("document.body.classList.toggle('stale', {stale})"));
            let faint = browser.run(&format!("const least = {LEAST_CONTRAST}; {FAINT}"));
            assert_eq!(faint, json!([]), "{scheme}, stale: {stale}");
        }
    }
    assert_eq!(backgrounds.len(), 2, "dark is another colour than light: {backgrounds:?}");
}

#[test]
fn a_name_that_looks_like_a_page_stays_a_name() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let name = "<img src=x onerror='window.taken=1'><b>bold</b>";
    let site = Site::start(&etcd, [name, "server2"], "3s");
    let Some(browser) = Browser::open(&site.url(1)) else { return };
    browser.wait_for_text("leader", name, SOON);
    assert_eq!(queue(&browser), [name, "server2"]);
    assert!(browser.text("timeline").contains(name));
    assert_eq!(
        browser.value("[document.images.length, document.querySelectorAll('b').length, window.taken]"),
        json!([0, 0, null])
    );
}

#[test]
fn an_address_is_a_link_only_where_a_browser_can_go() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let port = ReservedPort::new();
    let mut browser = None;
    for (address, link) in [
        ("https://host1.example.com/a", Some("https://host1.example.com/a")),
        ("host1:8443", Some("http://host1:8443/")),
        ("javascript:alert(1)", None),
        ("https://user:password@host1/", None),
    ] {
        let server = Elect::server("server1", &etcd.endpoint()).args(["--http", &port.address()]);
        let mut server = server.args(["--advertise", address]).start();
        server.wait_for_line(LEADER, SOON);
        if browser.is_none() {
            browser = Browser::open(&format!("http://{}/", port.address()));
        }
        let Some(browser) = &browser else { return };
        browser.wait_for_text("address", address, SOON);
        let links =
            browser.value("[...document.querySelectorAll('#address a, #queue a')].map((link) => link.href)");
        let expected: Vec<_> = link.into_iter().flat_map(|link| [link, link]).collect();
        assert_eq!(links, json!(expected), "{address}");
        server.signal(nix::sys::signal::Signal::SIGTERM);
        server.wait_exit(SOON);
    }
}

#[test]
fn a_screen_reader_finds_its_way() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let site = Site::start(&etcd, ["server1", "server2"], "3s");
    let Some(browser) = Browser::open(&site.url(1)) else { return };
    browser.wait_for_text("leader", "server1", SOON);
    browser.wait_until("document.querySelectorAll('#timeline tbody tr').length >= 1", SOON);

    let tree = Tree::of(&browser);
    for landmark in ["banner", "main", "contentinfo"] {
        assert_eq!(tree.names(landmark).len(), 1, "{landmark}: {tree:?}");
    }
    let named = ["region", "heading", "list", "table", "columnheader", "rowheader", "link"];
    for role in named {
        let names = tree.names(role);
        assert!(!names.is_empty(), "no {role}: {tree:?}");
        assert!(names.iter().all(|name| !name.trim().is_empty()), "a {role} without a name: {names:?}");
    }
    assert!(tree.names("region").contains(&"Leader"), "{tree:?}");
    assert_eq!(tree.names("columnheader").len(), 3);
    assert_eq!(tree.names("image"), [""; 0], "a picture would need words");
    // A change of leader is read out; the running seconds are not.
    let live = "[...document.querySelectorAll('[aria-live], [role=status], [role=alert]')].map((e) => e.id)";
    assert_eq!(browser.value(live), json!(["stale", "leader"]));
    assert_eq!(browser.value("document.getElementById('leader').getAttribute('aria-live')"), "polite");
    assert_eq!(browser.value("document.documentElement.lang"), "en");
    assert!(browser.value("document.title").as_str().unwrap().contains("server1 leads"));
}

/// Elements with text that reach beyond the window.
const CUT_OFF: &str = "
    const width = document.documentElement.clientWidth;
    return [...document.body.querySelectorAll('*')]
        .filter((e) => e.innerText && e.getClientRects().length)
        .filter((e) => e.getBoundingClientRect().right > width + 0.5 || e.getBoundingClientRect().left < -0.5)
        .map((e) => e.outerHTML.slice(0, 200));";

/// Texts with too little contrast to their background.
const FAINT: &str = "
    const parse = (color) => (color.match(/[\\d.]+/g) || []).map(Number);
    const luminance = (rgb) => rgb.slice(0, 3)
        .map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (e) => {
        for (; e; e = e.parentElement) {
            const color = parse(getComputedStyle(e).backgroundColor);
            if (color.length === 3 || color[3] > 0) return color;
        }
        return [255, 255, 255];
    };
    const ratio = (e) => {
        const [low, high] = [luminance(parse(getComputedStyle(e).color)), luminance(behind(e))].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    return [...document.body.querySelectorAll('*')]
        .filter((e) => e.getClientRects().length)
        .filter((e) => [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
        .filter((e) => ratio(e) < least)
        .map((e) => e.outerHTML.slice(0, 120) + ' ' + ratio(e));";

/// The names in the queue, in order.
#[track_caller]
fn queue(browser: &Browser) -> Vec<String> {
    let names = "[...document.querySelectorAll('#queue li .name')].map((name) => name.innerText)";
    let names = browser.value(names);
    names.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// Chromium's accessibility tree: roles and names.
#[derive(Debug)]
struct Tree(Vec<(String, String)>);

impl Tree {
    #[track_caller]
    fn of(browser: &Browser) -> Self {
        browser.devtools("Accessibility.enable", json!({}));
        let tree = browser.devtools("Accessibility.getFullAXTree", json!({}));
        let nodes = tree["nodes"].as_array().unwrap().iter().filter(|node| node["ignored"] == false);
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        Self(nodes.map(|node| (text(&node["role"]), text(&node["name"]))).collect())
    }

    fn names(&self, role: &str) -> Vec<&str> {
        self.0.iter().filter(|(its, _)| its == role).map(|(_, name)| name.as_str()).collect()
    }
}

/// Servers of one election, each with a page; the first leads.
struct Site {
    servers: Vec<Captured>,
    ports: Vec<ReservedPort>,
    start: Vec<Box<dyn Fn() -> Captured>>,
}

impl Site {
    #[track_caller]
    fn start<const N: usize>(etcd: &Etcd, names: [&str; N], ttl: &'static str) -> Self {
        let mut site = Self { servers: Vec::new(), ports: Vec::new(), start: Vec::new() };
        for name in names {
            let port = ReservedPort::new();
            let (name, endpoint, http) = (name.to_owned(), etcd.endpoint(), port.address());
            let start = move || Elect::server(&name, &endpoint).args(["--ttl", ttl, "--http", &http]).start();
            let server = start();
            server.wait_for_line(if site.servers.is_empty() { LEADER } else { FOLLOWER }, SOON);
            site.servers.push(server);
            site.ports.push(port);
            site.start.push(Box::new(start));
        }
        site
    }

    fn url(&self, index: usize) -> String {
        format!("http://{}/", self.ports[index].address())
    }

    fn restart(&mut self, index: usize) {
        self.servers[index] = self.start[index]();
    }
}
