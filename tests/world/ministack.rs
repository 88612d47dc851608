//! S3 and AWS KMS: one local server that speaks both.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use alloy::primitives::{Address, B256, keccak256};
use base64::Engine as _;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Error, PATIENCE, Result, http_client, on_free_port, process::Process, tool};

/// The `Ct-Format` a coprocessor writes for what it did not compress.
pub const UNCOMPRESSED: &str = "uncompressed_on_cpu";
/// The `Ct-Format` of compressed ciphertexts.
pub const COMPRESSED: &str = "compressed_on_cpu";

/// The server. Objects and keys survive [`Ministack::restart`]. Dropping it kills the server.
#[derive(Debug)]
pub struct Ministack {
    dir: PathBuf,
    port: u16,
    client: reqwest::Client,
    process: Option<Process>,
}

impl Ministack {
    /// Starts the server with its data in `dir`. A `port` of `None` takes a free one.
    pub async fn start(dir: &Path, port: Option<u16>) -> Result<Self> {
        on_free_port(port, async |port| {
            let client = http_client(PATIENCE)?;
            let mut ministack = Self { dir: dir.into(), port, client, process: None };
            ministack.start_again().await?;
            Ok(ministack)
        })
        .await
    }

    /// Starts a stopped server on its old port with its old data.
    pub async fn start_again(&mut self) -> Result<()> {
        let mut command = Command::new(tool("ministack")?);
        command
            .env("BIND_HOST", "127.0.0.1")
            .env("GATEWAY_PORT", self.port.to_string())
            .env("SERVICES", "s3,kms")
            .env("LOG_LEVEL", "WARNING")
            .env("PERSIST_STATE", "1")
            .env("STATE_DIR", self.dir.join("ministack/state"))
            .env("S3_PERSIST", "1")
            .env("S3_DATA_DIR", self.dir.join("ministack/s3"))
            // It would listen on a fixed port, where two worlds meet.
            .env("IOT_MTLS_ENABLED", "0");
        let mut process = Process::spawn("ministack", &self.dir, command)?;
        let health = format!("{}/_ministack/health", self.url());
        process
            .ready(PATIENCE, async || {
                self.client.get(&health).send().await.is_ok_and(|r| r.status().is_success())
            })
            .await?;
        self.process = Some(process);
        Ok(())
    }

    /// Stops the server; its data stay.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop(Signal::TERM, PATIENCE).await?;
        }
        Ok(())
    }

    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    /// An error if the server has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check)
    }

    /// The endpoint of both services.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Creates a bucket (no error if it is there already).
    pub async fn bucket(&self, name: &str) -> Result<Bucket> {
        let bucket = Bucket::new(format!("{}/{name}", self.url()))?;
        checked(self.client.put(bucket.url()), "create bucket").await?;
        Ok(bucket)
    }

    /// One call of AWS KMS, unsigned: this server asks nobody who he is.
    pub async fn kms(&self, operation: &str, arguments: &Value) -> Result<Value> {
        let request = self
            .client
            .post(self.url())
            .header("x-amz-target", format!("TrentService.{operation}"))
            .header("content-type", "application/x-amz-json-1.1")
            .body(arguments.to_string());
        let answer = checked(request, operation).await?.bytes().await?;
        if answer.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_slice(&answer)?) }
    }

    /// Creates a signing key on secp256k1 and an alias for it (`alias/…`).
    pub async fn create_key(&self, alias: &str) -> Result<KmsKey> {
        let created = self
            .kms("CreateKey", &json!({"KeySpec": "ECC_SECG_P256K1", "KeyUsage": "SIGN_VERIFY"}))
            .await?;
        let text = |name: &str| -> Result<String> {
            let value = created["KeyMetadata"][name].as_str();
            Ok(value.ok_or_else(|| Error::other(format!("CreateKey gave no {name}")))?.to_owned())
        };
        let (id, arn) = (text("KeyId")?, text("Arn")?);
        self.kms("CreateAlias", &json!({"AliasName": alias, "TargetKeyId": id})).await?;
        let public = self.kms("GetPublicKey", &json!({"KeyId": id})).await?;
        let der = base64::engine::general_purpose::STANDARD
            .decode(public["PublicKey"].as_str().unwrap_or_default())
            .map_err(|e| Error::other(format!("GetPublicKey: {e}")))?;
        // A SubjectPublicKeyInfo ends with the uncompressed point: 04, x, y.
        let Some((_, [0x04, point @ ..])) = der.split_last_chunk::<65>() else {
            return Err(Error::other("GetPublicKey gave no uncompressed point"));
        };
        let address = Address::from_raw_public_key(point);
        Ok(KmsKey { id, arn, alias: alias.into(), address })
    }
}

/// A key in AWS KMS and the wallet address it stands for.
#[derive(Clone, Debug)]
pub struct KmsKey {
    pub id: String,
    pub arn: String,
    pub alias: String,
    pub address: Address,
}

/// One coprocessor's bucket by its path-style URL.
#[derive(Clone, Debug)]
pub struct Bucket {
    url: String,
    client: reqwest::Client,
}

impl Bucket {
    /// A bucket by its URL, also one that was created elsewhere.
    pub fn new(url: impl Into<String>) -> Result<Self> {
        Ok(Self { url: url.into(), client: http_client(PATIENCE)? })
    }

    /// What a coprocessor registers as `s3BucketUrl`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stores a ciphertext under its digest and returns the digest.
    pub async fn put_ciphertext(&self, bytes: &[u8], format: Option<&str>) -> Result<B256> {
        let digest = keccak256(bytes);
        self.put(digest, bytes, format).await?;
        Ok(digest)
    }

    /// Stores any bytes under any digest: how a bucket comes to lie.
    pub async fn put(&self, digest: B256, bytes: &[u8], format: Option<&str>) -> Result<()> {
        let headers: Vec<_> =
            format.map(|format| (FORMAT, format.to_owned())).into_iter().collect();
        self.put_at(&format!("{digest:x}"), bytes, &headers).await
    }

    /// Stores any bytes under any key, with these headers.
    pub async fn put_at(
        &self,
        key: &str,
        bytes: &[u8],
        headers: &[(&'static str, String)],
    ) -> Result<()> {
        let mut request = self.client.put(self.object(key)).body(bytes.to_vec());
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        checked(request, "put object").await?;
        Ok(())
    }

    pub async fn delete(&self, digest: B256) -> Result<()> {
        self.delete_at(&format!("{digest:x}")).await
    }

    pub async fn delete_at(&self, key: &str) -> Result<()> {
        checked(self.client.delete(self.object(key)), "delete object").await?;
        Ok(())
    }

    /// The URL of an object.
    pub fn object(&self, key: &str) -> String {
        format!("{}/{key}", self.url)
    }
}

/// The header with the format of a ciphertext.
pub const FORMAT: &str = "x-amz-meta-Ct-Format";

async fn checked(request: reqwest::RequestBuilder, what: &str) -> Result<reqwest::Response> {
    let response = request.send().await?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.text().await.unwrap_or_default();
    Err(Error::other(format!("{what}: {status}: {body}")))
}
