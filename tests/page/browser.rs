//! A real Chromium, without a window, driven through WebDriver.
//!
//! Chromium is started here and not by chromedriver, so that it ends with the test in every case. It
//! resolves no name and reaches nothing but 127.0.0.1.

use std::{
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fantoccini::{Client, ClientBuilder, wd::WebDriverCompatibleCommand};
use hyper_util::client::legacy::connect::HttpConnector;
use nix::{sys::signal::Signal, unistd::geteuid};
use serde_json::{Value, json};
use tempfile::TempDir;
use url::{ParseError, Url};

use crate::support::{
    capture::Captured,
    clock::BootTime,
    eventually::eventually,
    port::ReservedPort,
    process,
    runtime::{wait_for, wait_within},
    tool,
};

/// Time for a browser to start on a loaded machine.
const START_DEADLINE: Duration = Duration::from_secs(90);

/// Time limit for one WebDriver command; each takes milliseconds.
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

/// Time for Chromium to exit when asked to. After that it is killed.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// A page in a browser.
pub(crate) struct Browser {
    client: Client,
    _driver: Captured,
    chromium: Captured,
    _ports: [ReservedPort; 2],
    _profile: TempDir,
}

impl Browser {
    /// Opens `url`, or returns `None` where there is no Chromium.
    #[track_caller]
    pub(crate) fn open(url: &str) -> Option<Self> {
        let (program, driver) = (tool::find("chromium")?, tool::find("chromedriver")?);
        let profile = tempfile::tempdir().expect("a temporary directory");
        let ports = [ReservedPort::new(), ReservedPort::new()];

        let mut chromium = process::command(program);
        chromium.env("HOME", profile.path());
        chromium.arg(format!("--user-data-dir={}", profile.path().join("profile").display()));
        chromium.arg(format!("--remote-debugging-port={}", ports[0].number()));
        chromium.args([
            "--headless=new",
            "--window-size=1000,900",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ]);
        chromium.args(["--no-first-run", "--disable-extensions", "--disable-background-networking"]);
        chromium.args(["--disable-component-update", "--disable-sync", "--disable-default-apps"]);
        chromium.arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1");
        if geteuid().is_root() {
            chromium.arg("--no-sandbox");
        }
        chromium.arg("about:blank");
        let chromium = Captured::start("chromium", chromium);
        chromium.wait_for_line(|line: &str| line.starts_with("DevTools listening on"), START_DEADLINE);

        let mut command = process::command(driver);
        command.env("HOME", profile.path()).arg(format!("--port={}", ports[1].number()));
        let driver = Captured::start("chromedriver", command);
        driver.wait_for_line(|line: &str| line.contains("started successfully"), START_DEADLINE);

        let (address, debugger) = (format!("http://{}", ports[1].address()), ports[0].address());
        let client = wait_for(async move {
            let capabilities = json!({ "goog:chromeOptions": { "debuggerAddress": debugger } });
            let capabilities = capabilities.as_object().expect("it was just written as one").clone();
            ClientBuilder::new(HttpConnector::new()).capabilities(capabilities).connect(&address).await
        });
        let client = client.unwrap_or_else(|error| panic!("no session with Chromium: {error}"));
        let browser = Self { client, _driver: driver, chromium, _ports: ports, _profile: profile };
        let (client, url) = (browser.client.clone(), url.to_owned());
        browser.within(async move { client.goto(&url).await });
        Some(browser)
    }

    /// Runs a function body; returns its result.
    #[track_caller]
    pub(crate) fn run(&self, script: &str) -> Value {
        let (client, script) = (self.client.clone(), script.to_owned());
        self.within(async move { client.execute(&script, Vec::new()).await })
    }

    /// Evaluates an expression.
    #[track_caller]
    pub(crate) fn value(&self, expression: &str) -> Value {
        self.run(&format!("return ({expression});"))
    }

    /// The visible text of the element with this id.
    #[track_caller]
    pub(crate) fn text(&self, id: &str) -> String {
        let text = self.value(&format!("document.getElementById({}).innerText", json!(id)));
        text.as_str().expect("an element's text").to_owned()
    }

    /// Waits until an expression is true for good.
    #[track_caller]
    pub(crate) fn wait_until(&self, expression: &str, within: Duration) {
        eventually(within, &format!("the page to satisfy {expression}"), || {
            (self.value(expression) == true).then_some(())
        });
    }

    /// Waits until the element with this id shows exactly this.
    #[track_caller]
    pub(crate) fn wait_for_text(&self, id: &str, text: &str, within: Duration) {
        eventually(within, &format!("#{id} to be {text:?}"), || (self.text(id) == text).then_some(()));
    }

    /// Sends a command of Chromium's own protocol, such as one that emulates a narrow window.
    #[track_caller]
    pub(crate) fn devtools(&self, method: &'static str, params: Value) -> Value {
        let client = self.client.clone();
        self.within(async move { client.issue_cmd(DevTools { method, params }).await })
    }

    #[track_caller]
    fn within<T, F>(&self, command: F) -> T
    where
        T: Send + 'static,
        F: Future<Output = Result<T, fantoccini::error::CmdError>> + Send + 'static,
    {
        let answer = wait_within(COMMAND_DEADLINE, command).expect("an answer of the browser");
        answer.unwrap_or_else(|error| panic!("the browser refuses: {error}"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // On a normal exit, no child process is left that still writes to the profile.
        self.chromium.signal(Signal::SIGTERM);
        let told = BootTime::now();
        while self.chromium.status().is_none() && told.elapsed() < END_DEADLINE {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A moment on the scale of a page's `Date.now()`.
pub(crate) fn page_time(moment: BootTime) -> f64 {
    let at = SystemTime::now() - moment.elapsed();
    at.duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64() * 1000.0
}

/// chromedriver's passage to Chromium's own protocol.
#[derive(Debug)]
struct DevTools {
    method: &'static str,
    params: Value,
}

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (hyper::Method, Option<String>) {
        let body = json!({ "cmd": self.method, "params": self.params });
        (hyper::Method::POST, Some(body.to_string()))
    }
}
