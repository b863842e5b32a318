//! A real Chromium without a window.
//!
//! Whether a page works is decided by the browser: whether its policy allows its own script,
//! whether a label becomes markup, where the focus goes. So tests drive one over the DevTools
//! protocol, through a pair of pipes: a browser whose pipes are closed ends by itself, even if the
//! test was killed.
//!
//! A page's complaints are kept, see [`Page::complaints`]: errors on its console, uncaught
//! exceptions, and what its Content-Security-Policy refused.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::process::temporary_directory;
use super::{tool, wait};

/// How long the browser may take over one command. It starts slowly on a busy machine.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);

/// Without a sandbox, since tests may run as root, and without requests of its own to the network.
const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--remote-debugging-pipe",
];

/// A running browser with a profile of its own. Dropped, it is killed with all of its processes.
#[derive(Debug)]
pub(crate) struct Browser {
    child: Child,
    profile: TempDir,
    wire: Arc<Wire>,
}

/// The pipes, and the calls that wait for an answer.
#[derive(Debug)]
struct Wire {
    commands: Mutex<ChildStdin>,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Value>>>,
    /// The events of each page, by its session.
    pages: Mutex<HashMap<String, Arc<Events>>>,
}

/// The events of a page.
#[derive(Debug, Default)]
struct Events {
    complaints: Mutex<Vec<String>>,
    /// Answers that replace a server's, by a part of the URL.
    answers: Mutex<Vec<(String, Answer)>>,
}

/// An answer that replaces a server's.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

/// A tab of the browser.
#[derive(Debug)]
pub(crate) struct Page {
    session: String,
    wire: Arc<Wire>,
    events: Arc<Events>,
}

impl Browser {
    /// Starts a browser; it may not be up yet when this returns.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a browser with further flags.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        Self::start_by(&[], flags)
    }

    /// The same on one core, as on a slow machine: all that it does shares its time.
    pub(crate) fn start_on_one_core(flags: &[&str]) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
        let last = allowed.trim().rsplit([',', '-']).next().unwrap();
        Self::start_by(&["taskset", "-c", last], flags)
    }

    fn start_by(starter: &[&str], flags: &[&str]) -> Self {
        let chromium = tool::find("chromium", "chromium");
        let profile = temporary_directory();
        // The protocol uses the descriptors 3 and 4.
        let mut child = Command::new("sh")
            .args(["-c", r#"exec "$@" 3<&0 4>&1 </dev/null >&2"#, "sh"])
            .args(starter)
            .arg(chromium)
            .args(FLAGS)
            .args(flags)
            .arg(format!("--user-data-dir={}", profile.path().join("profile").display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(log(&profile)).unwrap())
            .process_group(0)
            .spawn()
            .unwrap();
        let (commands, messages) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let wire = Arc::new(Wire {
            commands: Mutex::new(commands),
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            pages: Mutex::default(),
        });
        let reader = Arc::clone(&wire);
        thread::spawn(move || reader.read(messages));
        Self { child, profile, wire }
    }

    /// Its major version.
    pub(crate) async fn version(&self) -> u32 {
        let answer = self.wire.call(None, "Browser.getVersion", json!({})).await;
        let product = answer["product"].as_str().unwrap();
        product.split(['/', '.']).nth(1).unwrap().parse().unwrap()
    }

    /// Opens an empty tab of a size in pixels. It hides the one before.
    pub(crate) async fn page(&self, width: u32, height: u32) -> Page {
        self.target(width, height, false).await
    }

    /// The same in a window of its own, which hides no other.
    pub(crate) async fn window(&self, width: u32, height: u32) -> Page {
        self.target(width, height, true).await
    }

    async fn target(&self, width: u32, height: u32, window: bool) -> Page {
        let create = json!({ "url": "about:blank", "newWindow": window });
        let target = self.wire.call(None, "Target.createTarget", create).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = self.wire.call(None, "Target.attachToTarget", attach).await;
        let session = attached["sessionId"].as_str().unwrap().to_owned();
        let events = Arc::<Events>::default();
        self.wire.pages.lock().unwrap().insert(session.clone(), Arc::clone(&events));
        let page = Page { session, wire: Arc::clone(&self.wire), events };
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            page.call(domain, json!({})).await;
        }
        page.resize(width, height).await;
        page
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its helper processes are in its group. A failure means that all of them are gone already.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
        if thread::panicking() {
            let log = fs::read_to_string(log(&self.profile)).unwrap_or_default();
            // Without a desktop there is no D-Bus, and chromium logs that many times.
            let log = log.lines().filter(|line| !line.contains("/dbus/")).collect::<Vec<_>>().join("\n");
            #[expect(clippy::print_stderr, reason = "the test has failed, and this may be why")]
            {
                eprintln!("--- log of chromium ---\n{log}\n---");
            }
        }
    }
}

fn log(profile: &TempDir) -> PathBuf {
    profile.path().join("log")
}

impl Wire {
    /// Sends a command and waits for its result.
    ///
    /// # Panics
    ///
    /// On an error, and when the browser doesn't answer.
    async fn call(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().unwrap().insert(id, sender);
        self.send(id, session, method, params);
        let answer = timeout(COMMAND_WITHIN, receiver).await;
        let answer = answer.unwrap_or_else(|_| panic!("chromium does not answer {method}"));
        let mut answer = answer.unwrap_or_else(|_| panic!("chromium ended before it answered {method}"));
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].take()
    }

    fn send(&self, id: u64, session: Option<&str>, method: &str, params: Value) {
        let mut message = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        // Whoever waits for an answer notices that the browser has ended.
        let _ = self.commands.lock().unwrap().write_all(&bytes);
    }

    /// Dispatches the browser's messages until it ends.
    fn read(&self, messages: ChildStdout) {
        for message in BufReader::new(messages).split(0) {
            let Ok(message) = message else { break };
            let Ok(message) = serde_json::from_slice::<Value>(&message) else { continue };
            if let Some(id) = message["id"].as_u64() {
                if let Some(waiting) = self.waiting.lock().unwrap().remove(&id) {
                    let _ = waiting.send(message);
                }
                continue;
            }
            let Some(session) = message["sessionId"].as_str() else { continue };
            let Some(events) = self.pages.lock().unwrap().get(session).cloned() else { continue };
            let (method, params) = (message["method"].as_str().unwrap_or_default(), &message["params"]);
            if method == "Fetch.requestPaused" {
                self.answer(session, &events, params);
            } else if let Some(complaint) = complaint(method, params) {
                events.complaints.lock().unwrap().push(complaint);
            }
        }
        // Closes the channels of those that still wait.
        self.waiting.lock().unwrap().clear();
    }

    /// Answers a request instead of the server, or lets it pass.
    fn answer(&self, session: &str, events: &Events, paused: &Value) {
        let url = paused["request"]["url"].as_str().unwrap_or_default();
        let answers = events.answers.lock().unwrap();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        match answers.iter().find(|(part, _)| url.contains(part)) {
            Some((_, answer)) => {
                let params = json!({
                    "requestId": paused["requestId"],
                    "responseCode": answer.status,
                    "responseHeaders": [{ "name": "Content-Type", "value": answer.content_type }],
                    "body": STANDARD.encode(&answer.body),
                });
                self.send(id, Some(session), "Fetch.fulfillRequest", params);
            }
            None => {
                let params = json!({ "requestId": paused["requestId"] });
                self.send(id, Some(session), "Fetch.continueRequest", params);
            }
        }
    }
}

/// The complaint that an event contains, if any.
fn complaint(method: &str, params: &Value) -> Option<String> {
    match method {
        "Runtime.exceptionThrown" => {
            let details = &params["exceptionDetails"];
            Some(format!("exception: {} {}", details["text"], details["exception"]["description"]))
        }
        "Runtime.consoleAPICalled" if ["error", "assert"].contains(&params["type"].as_str()?) => {
            Some(format!("console: {}", params["args"]))
        }
        "Log.entryAdded" if params["entry"]["level"] == "error" => {
            let entry = &params["entry"];
            Some(format!("{}: {} ({})", entry["source"], entry["text"], entry["url"]))
        }
        _ => None,
    }
}

impl Page {
    async fn call(&self, method: &str, params: Value) -> Value {
        self.wire.call(Some(&self.session), method, params).await
    }

    /// Opens a URL and returns once the document and its resources have been loaded.
    ///
    /// # Panics
    ///
    /// If nothing can be loaded from there.
    pub(crate) async fn open(&self, url: &str) {
        let navigated = self.call("Page.navigate", json!({ "url": url })).await;
        assert!(navigated.get("errorText").is_none(), "{url}: {navigated}");
        self.until("document.readyState === 'complete'").await;
    }

    /// Closes the tab as a user does: the page hears that it goes.
    pub(crate) async fn close(self) {
        self.call("Page.close", json!({})).await;
    }

    /// The value of a JavaScript expression; a promise is waited for.
    ///
    /// # Panics
    ///
    /// If it throws.
    pub(crate) async fn evaluate(&self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", params).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].take()
    }

    /// The text that an element shows; nothing if there is none.
    pub(crate) async fn text(&self, selector: &str) -> String {
        let found = self.evaluate(&format!("document.querySelector({})?.innerText", json!(selector))).await;
        found.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an expression is true.
    pub(crate) async fn until(&self, expression: &str) {
        let seen = "document.body && document.body.innerText.slice(0, 2000)";
        wait::eventually_async(wait::PATIENCE, expression, async || {
            if self.evaluate(expression).await == json!(true) {
                Ok(())
            } else {
                Err(self.evaluate(seen).await)
            }
        })
        .await;
    }

    /// Presses and releases a key that has a name, such as `Tab`, `Enter` or `Escape`.
    pub(crate) async fn press(&self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, None),
            "Enter" => (13, Some("\r")),
            "Escape" => (27, None),
            " " => (32, Some(" ")),
            "End" => (35, None),
            "Home" => (36, None),
            "ArrowLeft" => (37, None),
            "ArrowRight" => (39, None),
            other => panic!("the test names no code for the key {other}"),
        };
        let mut event = json!({ "type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code });
        if let Some(text) = text {
            event["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", event.clone()).await;
        event["type"] = "keyUp".into();
        self.call("Input.dispatchKeyEvent", event).await;
    }

    /// Gives the tab another size, in pixels.
    pub(crate) async fn resize(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// Keeps the tab in sight, as if it had a screen of its own, whatever other tabs are opened.
    pub(crate) async fn keep_in_sight(&self) {
        self.call("Emulation.setFocusEmulationEnabled", json!({ "enabled": true })).await;
    }

    /// Makes the page's main thread so many times slower.
    pub(crate) async fn slow_down(&self, times: u32) {
        self.call("Emulation.setCPUThrottlingRate", json!({ "rate": times })).await;
    }

    /// Sets what the user has asked for, such as `("prefers-color-scheme", "dark")`.
    pub(crate) async fn prefer(&self, features: &[(&str, &str)]) {
        let features: Vec<_> =
            features.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        self.call("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// Answers requests whose URL contains a text instead of the server. If several match, the
    /// first one that was added does.
    pub(crate) async fn answer(&self, part_of_url: &str, answer: Answer) {
        {
            let mut answers = self.events.answers.lock().unwrap();
            answers.retain(|(part, _)| part != part_of_url);
            answers.push((part_of_url.to_owned(), answer));
        }
        self.call("Fetch.enable", json!({})).await;
    }

    /// All complaints so far.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.events.complaints.lock().unwrap().clone()
    }

    /// Forgets the complaints so far, which the test expected.
    pub(crate) fn forgive(&self) {
        self.events.complaints.lock().unwrap().clear();
    }

    /// The printed page, as PDF.
    pub(crate) async fn pdf(&self) -> Vec<u8> {
        let printed = self.call("Page.printToPDF", json!({ "preferCSSPageSize": true })).await;
        STANDARD.decode(printed["data"].as_str().unwrap()).unwrap()
    }

    /// A screenshot, as PNG.
    pub(crate) async fn screenshot(&self, path: &Path) {
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" })).await;
        fs::write(path, STANDARD.decode(shot["data"].as_str().unwrap()).unwrap()).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_runs_scripts_and_takes_keys_and_answers_in_a_servers_place() {
        let browser = Browser::start();
        let page = browser.page(640, 480).await;
        let body =
            "<title>hello</title><button onclick=\"document.title = 'pressed'\">go</button>".to_owned();
        page.answer("/hello", Answer { status: 200, content_type: "text/html", body }).await;
        page.open("http://127.0.0.1:9/hello").await;
        assert_eq!(page.evaluate("[innerWidth, innerHeight]").await, json!([640, 480]));
        assert_eq!(page.text("button").await, "go");
        page.press("Tab").await;
        page.press("Enter").await;
        page.until("document.title === 'pressed'").await;
        assert_eq!(page.evaluate("new Promise(done => setTimeout(() => done(7), 1))").await, json!(7));
        page.prefer(&[("prefers-color-scheme", "dark")]).await;
        assert_eq!(page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches").await, json!(true));
        let picture = browser.profile.path().join("picture.png");
        page.screenshot(&picture).await;
        assert!(fs::read(picture).unwrap().starts_with(b"\x89PNG"));
    }

    #[tokio::test]
    async fn it_keeps_what_a_page_complains_of() {
        let browser = Browser::start();
        let page = browser.page(640, 480).await;
        let policy = r#"<meta http-equiv="Content-Security-Policy" content="img-src 'none'">"#;
        let script = "console.error('a console error'); setTimeout(() => { throw new Error('uncaught') });";
        let body = format!("{policy}<img src=\"http://127.0.0.1:9/x.png\"><script>{script}</script>");
        page.answer("/", Answer { status: 200, content_type: "text/html", body }).await;
        page.open("http://127.0.0.1:9/").await;
        wait::eventually_async(wait::PATIENCE, "three complaints", async || {
            let all = page.complaints().join("\n");
            let expected = ["a console error", "Error: uncaught", "Content Security Policy"];
            wait::when(all, |all| expected.iter().all(|text| all.contains(text)))
        })
        .await;
        page.forgive();
        assert_eq!(page.complaints(), Vec::<String>::new());
    }

    #[test]
    fn nothing_of_it_outlives_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let browser = Browser::start();
        runtime.block_on(browser.page(640, 480));
        let profile = browser.profile.path().display().to_string();
        let processes = || {
            let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
            let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
            lines.filter(|line| String::from_utf8_lossy(line).contains(&profile)).count()
        };
        assert!(processes() > 1, "it has helpers");
        drop(browser);
        wait::eventually(wait::PATIENCE, "all of them to be gone", || {
            wait::when(processes(), |count| *count == 0)
        });
    }
}
