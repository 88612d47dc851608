//! Ciphertexts of v0.14 and v0.15 in real buckets: found under each of their names, and taken from those
//! who agree, whatever the others say.

use alloy::primitives::B256;
use kms_connector::{
    contracts::abi::CiphertextSource,
    domain::{CiphertextFormat, HoldReason, Material, Remedy},
    flow::ciphertexts::{FetchError, Fetched},
};

use super::room::{Table, request, request_of, room};
use world::{
    Error, Result,
    attestation::{Layout, Lie, objects},
    deployment::Store,
    faulty_bucket::{Fault, FaultyBucket},
    ministack::{COMPRESSED, Ministack},
    request::{Ask, fhe},
};

/// Coprocessors with a bucket each.
struct Stand {
    _dir: tempfile::TempDir,
    _ministack: Ministack,
    stores: Vec<Store>,
}

impl Stand {
    async fn up(coprocessors: usize) -> Result<Self> {
        let dir = tempfile::tempdir().map_err(|e| Error::Io("tempdir".into(), e))?;
        let ministack = Ministack::start(dir.path(), None).await?;
        let mut stores = Vec::new();
        for number in 0..coprocessors {
            stores.push(Store::new(ministack.bucket(&format!("coprocessor-{number}")).await?));
        }
        Ok(Self { _dir: dir, _ministack: ministack, stores })
    }

    /// Every coprocessor stores the ciphertexts, some with a lie.
    async fn store(
        &self,
        layout: Layout,
        ask: &Ask,
        lie: impl Fn(usize) -> Option<Lie>,
    ) -> Result<()> {
        for ciphertext in &ask.ciphertexts {
            for (number, store) in self.stores.iter().enumerate() {
                let stored = objects(layout, ask, ciphertext, &store.signer(), lie(number))?;
                for object in stored {
                    store.bucket.put_at(&object.key, &object.bytes, &object.headers).await?;
                }
            }
        }
        Ok(())
    }

    async fn fetch(&self, threshold: usize, ask: &Ask) -> Result<Fetched, FetchError> {
        fetch(Table::of_stores(&self.stores, threshold), ask).await
    }
}

async fn fetch(table: Table, ask: &Ask) -> Result<Fetched, FetchError> {
    let handles = ask.ciphertexts.iter().map(|ciphertext| ciphertext.handle).collect();
    room(table, None).fetch(&request(handles, None), CiphertextSource::Attestation).await
}

fn ask() -> Ask {
    Ask { format: Some(COMPRESSED), ..Ask::public(&[fhe::UINT64, fhe::BOOL]) }
}

fn check(fetched: &Fetched, ask: &Ask) {
    assert_eq!(fetched.key_id, ask.key_id);
    assert_eq!(fetched.ciphertexts.len(), ask.ciphertexts.len());
    for (brought, stored) in fetched.ciphertexts.iter().zip(&ask.ciphertexts) {
        assert_eq!((brought.handle, &brought.body[..]), (stored.handle, &stored.bytes[..]));
        assert_eq!(brought.format, CiphertextFormat::BigCompressed);
    }
}

/// Two of five lie in each of the sixteen ways, then three of them: no lie is believed, and where too few
/// agree the request waits with the name of each who kept it back.
#[tokio::test]
async fn g1_coprocessors_that_lie_are_outvoted_or_named() -> Result<()> {
    let stand = Stand::up(5).await?;
    for lie in Lie::ALL {
        let two = ask();
        stand
            .store(Layout::PrefixedHandlesOnly, &two, |number| {
                [1, 3].contains(&number).then_some(lie)
            })
            .await?;
        let fetched = stand.fetch(3, &two).await;
        check(&fetched.unwrap_or_else(|error| panic!("{lie:?}: {error}")), &two);

        let three = ask();
        stand
            .store(Layout::PrefixedHandlesOnly, &three, |number| {
                [0, 1, 3].contains(&number).then_some(lie)
            })
            .await?;
        match (lie, stand.fetch(3, &three).await) {
            // Each says something else: two agree.
            (
                Lie::Silent
                | Lie::NoJson
                | Lie::OtherVersion
                | Lie::UnknownFormat
                | Lie::OtherCiphertextDigest
                | Lie::OtherSnsDigest
                | Lie::NoSnsCiphertext
                | Lie::OtherHandle
                | Lie::OtherContext
                | Lie::Stranger
                | Lie::ForeignSigner
                | Lie::ShortSignature
                | Lie::Missing,
                Err(error),
            ) => {
                let said = error.to_string();
                assert!(said.starts_with("2 of 5 coprocessors agree"), "{lie:?}: {said}");
                for liar in [0, 1, 3] {
                    let named = stand.stores[liar].tx_sender.to_string();
                    assert!(said.contains(&named), "{lie:?}: {said}");
                }
                assert_eq!(error.remedy(std::time::Duration::ZERO), Remedy::Retry);
                let Remedy::Hold(hold) = error.remedy(std::time::Duration::MAX) else {
                    panic!("{lie:?}: not held: {said}")
                };
                assert_eq!(hold.reason, HoldReason::NoAttestationConsensus);
            }
            // Three who say the same, and have the bytes, are the majority that the protocol trusts.
            (Lie::OtherFormat | Lie::OtherKey, Ok(fetched)) => {
                assert_eq!(fetched.ciphertexts.len(), three.ciphertexts.len());
            }
            // What they attest is right: the bytes of the others are.
            (Lie::OtherBytes, Ok(fetched)) => check(&fetched, &three),
            (_, result) => panic!("{lie:?}: {result:?}"),
        }
    }
    Ok(())
}

/// Two buckets hang or refuse: enough others have spoken.
#[tokio::test]
async fn g1_nobody_waits_for_a_bucket_that_hangs() -> Result<()> {
    let stand = Stand::up(4).await?;
    let (hanging, refusing) =
        (FaultyBucket::start(Fault::Hang).await?, FaultyBucket::start(Fault::Status(403)).await?);
    let ask = ask();
    stand.store(Layout::PrefixedHandlesOnly, &ask, |_| None).await?;
    let table = Table::of_stores(&stand.stores, 2)
        .with_bucket(0, hanging.url())
        .with_bucket(2, refusing.url());
    let begun = std::time::Instant::now();
    check(&fetch(table, &ask).await.map_err(|error| Error::other(error.to_string()))?, &ask);
    assert!(begun.elapsed() < std::time::Duration::from_secs(4), "{:?}", begun.elapsed());
    Ok(())
}

/// The names of v0.14 and of the coprocessors before and after it, each with its own headers.
#[tokio::test]
async fn g1_each_layout_of_v0_14_is_found() -> Result<()> {
    let stand = Stand::up(1).await?;
    for layout in
        [Layout::Digests, Layout::Handles, Layout::PrefixedHandles, Layout::PrefixedHandlesOnly]
    {
        let room = room(Table::of_stores(&stand.stores, 1), None);
        for _ in 0..2 {
            let ask = ask();
            stand.store(layout, &ask, |_| None).await?;
            let material = |handle: B256, digest: B256| Material {
                handle,
                key_id: ask.key_id,
                digest,
                coprocessors: vec![stand.stores[0].tx_sender],
            };
            let materials = ask
                .ciphertexts
                .iter()
                .map(|ciphertext| material(ciphertext.handle, ciphertext.digest));
            let request = request_of(materials.collect());
            let fetched = room.fetch(&request, CiphertextSource::HandleThenDigest).await;
            check(&fetched.unwrap_or_else(|error| panic!("{layout:?}: {error}")), &ask);
        }
    }
    Ok(())
}
