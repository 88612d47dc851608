//! A real headless Chromium, driven over chromedriver's W3C interface.
//!
//! Both are processes of ours, so that neither outlives the test: chromedriver attaches to a browser
//! that it did not start.

use std::{path::PathBuf, process::Command, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{Error, Result, free_port, http_client, process::Process, until};

const STARTING: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// One browser with one page. Dropping it kills both processes.
#[derive(Debug)]
pub struct Browser {
    client: reqwest::Client,
    session: String,
    // Dropped in this order, the folder last.
    _driver: Process,
    _chromium: Process,
    _dir: tempfile::TempDir,
}

/// A program of the system; `<NAME>_BIN` in the environment wins.
fn program(name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(format!("{}_BIN", name.to_uppercase())) {
        return Ok(path.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::other(format!("there is no {name}; run scripts/setup")))
}

impl Browser {
    pub async fn start() -> Result<Self> {
        let dir = tempfile::tempdir().map_err(|e| Error::Io("a folder".into(), e))?;
        let data = dir.path().join("data");
        let mut command = Command::new(program("chromium")?);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--no-proxy-server",
            "--remote-debugging-port=0",
            "--window-size=1280,900",
        ]);
        command.arg(format!("--user-data-dir={}", data.display())).arg("about:blank");
        let mut chromium = Process::spawn("chromium", dir.path(), command)?;
        let told = data.join("DevToolsActivePort");
        let listening = async || {
            // Two lines; the first is the port.
            std::fs::read_to_string(&told).is_ok_and(|text| text.lines().count() == 2)
        };
        chromium.ready(STARTING, listening).await?;
        let text = std::fs::read_to_string(&told).map_err(|e| Error::Io("its port".into(), e))?;
        let address = format!("127.0.0.1:{}", text.lines().next().unwrap_or_default());

        let port = free_port()?;
        let mut command = Command::new(program("chromedriver")?);
        command.arg(format!("--port={port}"));
        let mut driver = Process::spawn("chromedriver", dir.path(), command)?;
        let client = http_client(Duration::from_secs(30))?;
        let root = format!("http://127.0.0.1:{port}");
        let status = format!("{root}/status");
        driver.ready(STARTING, async || client.get(&status).send().await.is_ok()).await?;
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"debuggerAddress": address},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let opened = ask(client.post(format!("{root}/session")).json(&wanted)).await?;
        let id = opened["sessionId"].as_str();
        let id = id.ok_or_else(|| Error::other(format!("no session: {opened}")))?;
        let session = format!("{root}/session/{id}");
        Ok(Self { client, session, _driver: driver, _chromium: chromium, _dir: dir })
    }

    async fn post(&self, what: &str, body: &Value) -> Result<Value> {
        ask(self.client.post(format!("{}/{what}", self.session)).json(body)).await
    }

    /// Opens `url`, and waits until it is loaded.
    pub async fn open(&self, url: &str) -> Result<()> {
        self.post("url", &json!({"url": url})).await.map(drop)
    }

    /// What the body of a function answers in the page.
    pub async fn run(&self, script: &str) -> Result<Value> {
        self.post("execute/sync", &json!({"script": script, "args": []})).await
    }

    /// Waits until the body of a function answers true in the page.
    pub async fn until(&self, what: &str, patience: Duration, script: &str) -> Result<()> {
        let found = until(what, patience, POLL, async || {
            Ok((self.run(script).await? == true).then_some(()))
        });
        let Err(error) = found.await else { return Ok(()) };
        let text = self.run("return document.title + '\\n' + document.body.innerText").await?;
        Err(Error::other(format!("{error}; it shows:\n{}", text.as_str().unwrap_or_default())))
    }

    /// Shows the page on a screen of this size.
    pub async fn resize(&self, width: u32, height: u32, mobile: bool) -> Result<()> {
        self.command(
            "Emulation.setDeviceMetricsOverride",
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}),
        )
        .await
        .map(drop)
    }

    /// Shows the page as on a system in the dark.
    pub async fn darken(&self) -> Result<()> {
        let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
        self.command("Emulation.setEmulatedMedia", dark).await.map(drop)
    }

    async fn command(&self, name: &str, parameters: Value) -> Result<Value> {
        self.post("goog/cdp/execute", &json!({"cmd": name, "params": parameters})).await
    }

    /// What the page looks like, as PNG.
    pub async fn picture(&self) -> Result<Vec<u8>> {
        let taken = ask(self.client.get(format!("{}/screenshot", self.session))).await?;
        let text = taken.as_str().unwrap_or_default();
        BASE64_STANDARD.decode(text).map_err(|e| Error::other(format!("a picture: {e}")))
    }

    /// What the console said since the last time.
    pub async fn console(&self) -> Result<Vec<String>> {
        let entries = self.log("browser").await?;
        Ok(entries.iter().map(ToString::to_string).collect())
    }

    /// The addresses that were asked for since the last time.
    pub async fn requested(&self) -> Result<Vec<String>> {
        let entries = self.log("performance").await?;
        let mut urls = Vec::new();
        for entry in entries {
            let text = entry["message"].as_str().unwrap_or_default();
            let message: Value = serde_json::from_str(text)?;
            let message = &message["message"];
            if message["method"] == "Network.requestWillBeSent" {
                let url = message["params"]["request"]["url"].as_str();
                urls.extend(url.map(str::to_owned));
            }
        }
        Ok(urls)
    }

    async fn log(&self, kind: &str) -> Result<Vec<Value>> {
        let told = self.post("se/log", &json!({"type": kind})).await?;
        Ok(told.as_array().cloned().unwrap_or_default())
    }
}

/// The `value` of an answer; an error if it says that it is one.
async fn ask(request: reqwest::RequestBuilder) -> Result<Value> {
    let answer = request.send().await?;
    let failed = !answer.status().is_success();
    let text = answer.text().await?;
    let mut told: Value = serde_json::from_str(&text)?;
    let value = told["value"].take();
    if failed {
        return Err(Error::other(format!("chromedriver: {} {}", value["error"], value["message"])));
    }
    Ok(value)
}
