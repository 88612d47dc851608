//! What the coprocessors of the test world keep and attest is what ciphertext-storage says, and each of
//! their lies is found by its rules.

use alloy::primitives::{Address, B256, Signature, U256, keccak256};
use serde::Deserialize;
use world::{
    Error, PATIENCE, Result,
    anvil::{Anvil, AnvilOptions},
    attestation::{ATTESTATION, Layout, Lie},
    contracts::Variant,
    deployment::{Deployment, Store, Thresholds},
    http_client,
    ministack::{COMPRESSED, FORMAT, Ministack},
    request::{Ask, Ciphertext, fhe},
};

const COPROCESSORS: usize = 3;

/// A chain, S3, and a deployment with coprocessors.
struct Net {
    _dir: tempfile::TempDir,
    _anvil: Anvil,
    _ministack: Ministack,
    deployment: Deployment,
}

impl Net {
    async fn up(variant: Variant) -> Result<Self> {
        let dir = tempfile::tempdir().map_err(|e| Error::Io("tempdir".into(), e))?;
        let options = AnvilOptions { block_time: None, ..AnvilOptions::default() };
        let anvil = Anvil::start(dir.path(), options).await?;
        let ministack = Ministack::start(dir.path(), None).await?;
        let mut stores = Vec::new();
        for number in 0..COPROCESSORS {
            stores.push(Store::new(ministack.bucket(&format!("coprocessor-{number}")).await?));
        }
        let one = Thresholds::ONE;
        let deployment = Deployment::deploy(anvil.chain(), variant, &[], &stores, one).await?;
        Ok(Self { _dir: dir, _anvil: anvil, _ministack: ministack, deployment })
    }

    /// What one bucket holds under a name.
    async fn fetch(&self, store: usize, key: &str) -> Result<Option<Fetched>> {
        let client = http_client(PATIENCE)?;
        let url = self.deployment.stores[store].bucket.object(key);
        let head = client.head(&url).send().await?;
        if !head.status().is_success() {
            return Ok(None);
        }
        let header = |name: &str| {
            let value = head.headers().get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let (format, attestation) = (header(FORMAT), header(ATTESTATION));
        let body = client.get(&url).send().await?.bytes().await?.to_vec();
        Ok(Some(Fetched { format, attestation, body }))
    }

    fn signers(&self) -> Vec<Address> {
        self.deployment.stores.iter().map(|store| store.signer().address()).collect()
    }
}

struct Fetched {
    format: Option<String>,
    attestation: Option<String>,
    body: Vec<u8>,
}

#[derive(Deserialize)]
struct Said {
    version: u64,
    key_id: U256,
    ciphertext_digest: B256,
    sns_ciphertext_digest: B256,
    format: String,
    signer: Address,
    signature: alloy::primitives::Bytes,
}

/// What is wrong with an object by the rules of the sheet; what it is of if nothing is.
fn judge(
    fetched: Option<&Fetched>,
    handle: B256,
    signers: &[Address],
) -> Result<(U256, B256, B256, String), &'static str> {
    let fetched = fetched.ok_or("missing")?;
    let text = fetched.attestation.as_ref().ok_or("silent")?;
    let said: Said = serde_json::from_str(text).map_err(|_| "malformed")?;
    if said.version != 1 {
        return Err("version");
    }
    let format = match said.format.as_str() {
        "uncompressed_on_cpu" => 10,
        "compressed_on_cpu" => 11,
        "uncompressed_on_gpu" => 20,
        "compressed_on_gpu" => 21,
        _ => return Err("format"),
    };
    let mut message = Vec::from(*b"FHEVMCTA\x01");
    message.extend_from_slice(handle.as_slice());
    message.extend(said.key_id.to_be_bytes::<32>());
    message.extend(U256::ONE.to_be_bytes::<32>());
    message.extend_from_slice(said.ciphertext_digest.as_slice());
    message.extend_from_slice(said.sns_ciphertext_digest.as_slice());
    message.push(format);
    assert_eq!(message.len(), 170);
    let signature = Signature::from_raw(&said.signature).map_err(|_| "signature")?;
    let by =
        signature.recover_address_from_prehash(&keccak256(message)).map_err(|_| "signature")?;
    if by != said.signer {
        return Err("signature");
    }
    if !signers.contains(&by) {
        return Err("signer");
    }
    if said.sns_ciphertext_digest.is_zero() {
        return Err("nothing");
    }
    if keccak256(&fetched.body) != said.sns_ciphertext_digest {
        return Err("body");
    }
    Ok((said.key_id, said.ciphertext_digest, said.sns_ciphertext_digest, said.format))
}

#[tokio::test]
async fn ciphertexts_stand_where_each_generation_keeps_them() {
    let mut net = Net::up(Variant::G13).await.unwrap();
    let cases = [
        (Layout::Digests, vec!["D"]),
        (Layout::Handles, vec!["H/1", "D"]),
        (Layout::PrefixedHandles, vec!["ct128/H/1", "D"]),
        (Layout::PrefixedHandlesOnly, vec!["ct128/H/1"]),
    ];
    assert_eq!(net.deployment.layout, Layout::Digests);
    assert_eq!(Layout::of(Variant::G14), Layout::PrefixedHandles);
    assert_eq!(Layout::of(Variant::Head), Layout::PrefixedHandlesOnly);
    for (layout, there) in cases {
        net.deployment.layout = layout;
        let ask = Ask::public(&[fhe::UINT64]).format(Some(COMPRESSED));
        net.deployment.upload(std::slice::from_ref(&ask)).await.unwrap();
        let Ciphertext { handle, digest, bytes } = &ask.ciphertexts[0];
        for name in ["D", "H/1", "ct128/H/1"] {
            let key =
                name.replace('H', &format!("{handle:x}")).replace('D', &format!("{digest:x}"));
            for store in 0..COPROCESSORS {
                let found = net.fetch(store, &key).await.unwrap();
                assert_eq!(found.is_some(), there.contains(&name), "{layout:?} {name}");
                let Some(found) = found else { continue };
                assert_eq!(found.body, *bytes);
                let format = (layout != Layout::PrefixedHandlesOnly).then_some(COMPRESSED);
                assert_eq!(found.format.as_deref(), format, "{layout:?}");
                let judged = judge(Some(&found), *handle, &net.signers());
                let truth = (ask.key_id, keccak256(handle), *digest, COMPRESSED.to_owned());
                let expected = if layout.is_attested() { Ok(truth) } else { Err("silent") };
                assert_eq!(judged, expected, "{layout:?} {name}");
            }
        }
    }
}

#[tokio::test]
async fn every_lie_is_found_and_hurts_its_own_bucket_only() {
    let net = Net::up(Variant::Head).await.unwrap();
    for lie in Lie::ALL {
        let ask = Ask::user(&[fhe::UINT8]);
        let asks = std::slice::from_ref(&ask);
        net.deployment.upload_lying(asks, |store, _| (store == 1).then_some(lie)).await.unwrap();
        let handle = ask.ciphertexts[0].handle;
        let key = format!("ct128/{handle:x}/1");
        let mut judged = Vec::new();
        for store in 0..COPROCESSORS {
            let fetched = net.fetch(store, &key).await.unwrap();
            judged.push(judge(fetched.as_ref(), handle, &net.signers()));
        }
        let truth = judged[0].clone();
        assert!(truth.is_ok() && judged[2] == truth, "{lie:?}: {judged:?}");
        let expected = match lie {
            Lie::Silent => Err("silent"),
            Lie::NoJson => Err("malformed"),
            Lie::OtherVersion => Err("version"),
            Lie::UnknownFormat => Err("format"),
            Lie::OtherHandle | Lie::OtherContext | Lie::ForeignSigner | Lie::ShortSignature => {
                Err("signature")
            }
            Lie::Stranger => Err("signer"),
            Lie::NoSnsCiphertext => Err("nothing"),
            Lie::OtherSnsDigest | Lie::OtherBytes => Err("body"),
            Lie::Missing => Err("missing"),
            // Well signed, and of another group than the truth.
            Lie::OtherFormat | Lie::OtherKey | Lie::OtherCiphertextDigest => {
                assert!(judged[1].is_ok() && judged[1] != truth, "{lie:?}: {judged:?}");
                continue;
            }
        };
        assert_eq!(judged[1], expected, "{lie:?}");
    }
}
