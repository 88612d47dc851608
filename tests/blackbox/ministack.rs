//! A real S3 and AWS KMS emulator: `ministack`, found through `KMS_CONNECTOR_TEST_MINISTACK`,
//! `.tools/venv/bin` or the `PATH`.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub struct Ministack {
    child: Child,
    pub endpoint: String,
    pub http: reqwest::Client,
}

impl Drop for Ministack {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ministack {
    pub async fn start() -> Self {
        // The client is built once for the test process; plain HTTP only.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(5))
            .build()
            .expect("an HTTP client");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(program())
            .env("BIND_HOST", "127.0.0.1")
            .env("GATEWAY_PORT", port.to_string())
            .env("SERVICES", "s3,kms")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ministack starts (pip install ministack==1.5.33 cryptography)");
        let stack = Self { child, endpoint: format!("http://127.0.0.1:{port}"), http };
        let patience = Instant::now() + Duration::from_mins(1);
        while stack.try_call("ListKeys", &json!({})).await.is_none() {
            assert!(Instant::now() < patience, "ministack does not answer");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stack
    }

    async fn try_call(&self, action: &str, body: &Value) -> Option<Value> {
        let response = self
            .http
            .post(&self.endpoint)
            .header("X-Amz-Target", format!("TrentService.{action}"))
            .header("Content-Type", "application/x-amz-json-1.1")
            .body(body.to_string())
            .send()
            .await
            .ok()?;
        let status = response.status();
        let text = response.text().await.ok()?;
        status.is_success().then(|| serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    pub async fn call(&self, action: &str, body: Value) -> Value {
        self.try_call(action, &body).await.unwrap_or_else(|| panic!("{action} failed"))
    }

    pub async fn create_key(&self, spec: &str, usage: &str) -> Value {
        self.call("CreateKey", json!({ "KeySpec": spec, "KeyUsage": usage })).await["KeyMetadata"]
            .clone()
    }
}

fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("KMS_CONNECTOR_TEST_MINISTACK") {
        return path.into();
    }
    let local = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".tools/venv/bin/ministack");
    if local.exists() { local } else { "ministack".into() }
}
