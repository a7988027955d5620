//! A headless Chromium of one's own, driven by WebDriver: JSON over HTTP, of which these tests need
//! a dozen calls. A library for that would cost more to compile than this to read.

use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use test_support::ends_with_test::ends_with_test;
use test_support::port::free_port;
use test_support::waiting::PATIENCE;
use tokio::sync::{Mutex, MutexGuard};

/// One browser at a time: several would slow each other down.
static TURN: Mutex<()> = Mutex::const_new(());

const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

pub const TAB: &str = "\u{E004}";
pub const ENTER: &str = "\u{E007}";

pub struct Browser {
    driver: Child,
    session: String,
    client: reqwest::Client,
    _profile: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// The first of these programs that is there.
fn program(names: &[&str]) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = names.iter().find_map(|name| {
        std::env::split_paths(&path)
            .map(|folder| folder.join(name))
            .find(|file| file.is_file())
    });
    let found = found.unwrap_or_else(|| {
        panic!(
            "none of {names:?} is here: run the tests by scripts/test, which installs Debian's \
             packages chromium and chromium-driver"
        )
    });
    found.to_str().unwrap().to_owned()
}

/// Starts chromedriver; returns it with its port. It needs the same port of IPv4 and of IPv6, also when it may choose,
/// and ends where another process has one of them.
fn start_driver() -> (Child, u16) {
    let mut said = Vec::new();
    for _ in 0..20 {
        let port = free_port();
        let mut driver = ends_with_test("TERM")
            .arg(program(&["chromedriver"]))
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        for line in lines.by_ref().map(Result::unwrap) {
            if line.contains("started successfully") {
                std::thread::spawn(move || lines.for_each(drop));
                return (driver, port);
            }
            said.push(line);
        }
        driver.wait().unwrap();
    }
    panic!("chromedriver does not start:\n{}", said.join("\n"));
}

impl Browser {
    pub async fn start() -> Self {
        let turn = TURN.lock().await;
        let chromium = program(&["chromium", "chromium-browser", "google-chrome"]);
        let (driver, port) = start_driver();
        let profile = tempfile::tempdir().unwrap();
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--window-size=1280,900",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let client = reqwest::Client::new();
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "binary": chromium, "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
            "unhandledPromptBehavior": "ignore",
        }}});
        let base = format!("http://127.0.0.1:{port}/session");
        let answer: Value = client
            .post(&base)
            .json(&wanted)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let id = answer["value"]["sessionId"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"));
        Self {
            session: format!("{base}/{id}"),
            driver,
            client,
            _profile: profile,
            _turn: turn,
        }
    }

    async fn call(&self, path: &str, body: Value) -> Result<Value, String> {
        let answer = self
            .client
            .post(format!("{}/{path}", self.session))
            .json(&body)
            .send()
            .await
            .unwrap();
        let good = answer.status().is_success();
        let body: Value = answer.json().await.unwrap();
        if good {
            Ok(body["value"].clone())
        } else {
            Err(body["value"]["message"].to_string())
        }
    }

    pub async fn go(&self, url: &str) {
        self.call("url", json!({ "url": url })).await.unwrap();
    }

    /// What this script returns. A promise is waited for.
    pub async fn js(&self, script: &str) -> Value {
        let body = json!({ "script": script, "args": [] });
        match self.call("execute/sync", body).await {
            Ok(value) => value,
            Err(error) => panic!("{script}: {error}"),
        }
    }

    pub async fn text(&self, selector: &str) -> String {
        let found = self
            .js(&format!(
                "return document.querySelector({})?.innerText ?? null",
                json!(selector)
            ))
            .await;
        found
            .as_str()
            .unwrap_or_else(|| panic!("no {selector}"))
            .to_owned()
    }

    pub async fn path(&self) -> String {
        let found = self.js("return location.pathname").await;
        found.as_str().unwrap().to_owned()
    }

    /// Waits until the script returns something true.
    pub async fn until(&self, script: &str) {
        let begun = Instant::now();
        loop {
            let body = json!({ "script": format!("return Boolean({script})"), "args": [] });
            // A page that is being left cannot be asked.
            if self.call("execute/sync", body).await == Ok(json!(true)) {
                return;
            }
            if begun.elapsed() > PATIENCE {
                let page = self.js("return document.body.innerText").await;
                panic!("never {script}: {page}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn element(&self, selector: &str) -> String {
        let body = json!({ "using": "css selector", "value": selector });
        let found = self.call("element", body).await;
        let found = found.unwrap_or_else(|error| panic!("{selector}: {error}"));
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    pub async fn click(&self, selector: &str) {
        let element = self.element(selector).await;
        self.call(&format!("element/{element}/click"), json!({}))
            .await
            .unwrap();
    }

    pub async fn write(&self, selector: &str, text: &str) {
        let element = self.element(selector).await;
        self.call(&format!("element/{element}/value"), json!({ "text": text }))
            .await
            .unwrap();
    }

    /// A key, to whatever has the focus.
    pub async fn press(&self, key: &str) {
        let body = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": [
            { "type": "keyDown", "value": key },
            { "type": "keyUp", "value": key },
        ]}]});
        self.call("actions", body).await.unwrap();
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.call("goog/cdp/execute", body).await.unwrap()
    }

    pub async fn scheme(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        )
        .await;
    }

    pub async fn size(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1,
            "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    /// A PNG of what is in view.
    pub async fn picture(&self) -> Vec<u8> {
        use base64::Engine as _;
        let parameters = json!({ "format": "png", "optimizeForSpeed": false });
        let answer = self.devtools("Page.captureScreenshot", parameters).await;
        let data = answer["data"].as_str().unwrap();
        base64::engine::general_purpose::STANDARD
            .decode(data)
            .unwrap()
    }

    /// What the console has said since the last call, violations of the policy included.
    pub async fn console(&self) -> Vec<String> {
        let entries = self.call("se/log", json!({ "type": "browser" })).await;
        entries
            .unwrap()
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["message"].to_string())
            .collect()
    }

    /// As if it had been to no site.
    pub async fn forget_cookies(&self) {
        self.devtools("Network.clearBrowserCookies", json!({}))
            .await;
    }

    /// Whether a dialog is open.
    pub async fn dialog(&self) -> bool {
        let url = format!("{}/alert/text", self.session);
        self.client.get(url).send().await.unwrap().status() == 200
    }

    pub async fn log_in(&self, base: &str, token: &str) {
        self.go(&format!("{base}/login")).await;
        self.write("#token", token).await;
        self.click("#login button").await;
        self.until("location.pathname === '/' && document.querySelector('header.top')")
            .await;
    }

    pub async fn close(mut self) {
        let _ = self.client.delete(&self.session).send().await;
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
