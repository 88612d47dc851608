//! Consensus over buckets that lie in every known way.

use std::{num::NonZeroUsize, time::Instant};

use super::*;
use crate::flow::ciphertexts::{
    attestation::{
        AttestedMaterial, Serialisation,
        tests::{signer, text},
    },
    consensus::Coprocessor,
};

/// What a bucket says or does that is not so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    Silent,
    NoJson,
    OtherVersion,
    UnknownFormat,
    OtherFormat,
    OtherKey,
    OtherCiphertextDigest,
    OtherSnsDigest,
    NoSnsCiphertext,
    OtherHandle,
    Stranger,
    ForeignSigner,
    ShortSignature,
    OtherBytes,
    Missing,
    BlackHole,
    Broken,
}

const LIES: [Lie; 17] = [
    Lie::Silent,
    Lie::NoJson,
    Lie::OtherVersion,
    Lie::UnknownFormat,
    Lie::OtherFormat,
    Lie::OtherKey,
    Lie::OtherCiphertextDigest,
    Lie::OtherSnsDigest,
    Lie::NoSnsCiphertext,
    Lie::OtherHandle,
    Lie::Stranger,
    Lie::ForeignSigner,
    Lie::ShortSignature,
    Lie::OtherBytes,
    Lie::Missing,
    Lie::BlackHole,
    Lie::Broken,
];

const KEY: u64 = 77;

fn truth(body: &[u8]) -> AttestedMaterial {
    AttestedMaterial {
        key_id: U256::from(KEY),
        ciphertext_digest: keccak256(b"the regular one"),
        sns_ciphertext_digest: keccak256(body),
        serialisation: Serialisation::CompressedOnCpu,
    }
}

/// What the coprocessor with this number answers about a ciphertext.
fn act(number: usize, body: &[u8], lie: Option<Lie>) -> ServerAction {
    let key = signer(u8::try_from(number).unwrap() + 1);
    let (mut said, handle) = (truth(body), material(0, body, 1).handle);
    match lie {
        Some(Lie::OtherFormat) => said.serialisation = Serialisation::UncompressedOnCpu,
        Some(Lie::OtherKey) => said.key_id += U256::ONE,
        Some(Lie::OtherCiphertextDigest) => said.ciphertext_digest = keccak256(b"another"),
        Some(Lie::OtherSnsDigest) => said.sns_ciphertext_digest = keccak256(b"another"),
        Some(Lie::NoSnsCiphertext) => said.sns_ciphertext_digest = B256::ZERO,
        _ => {}
    }
    let mut json = match lie {
        Some(Lie::OtherHandle) => text(&said, &keccak256(b"another"), &key),
        Some(Lie::Stranger) => text(&said, &handle, &signer(99)),
        _ => text(&said, &handle, &key),
    };
    match lie {
        Some(Lie::OtherVersion) => json["version"] = 2.into(),
        Some(Lie::UnknownFormat) => json["format"] = "folded_on_paper".into(),
        Some(Lie::ForeignSigner) => json["signer"] = signer(50).address().to_string().into(),
        Some(Lie::ShortSignature) => {
            json["signature"] = json["signature"].as_str().unwrap()[..130].into();
        }
        _ => {}
    }
    let header = match lie {
        Some(Lie::Silent) => None,
        Some(Lie::NoJson) => Some("x-amz-meta-ct-attestation: {\"version\": 1".to_owned()),
        _ => Some(format!("x-amz-meta-ct-attestation: {json}")),
    };
    let body = if lie == Some(Lie::OtherBytes) { b"others" } else { body };
    match lie {
        Some(Lie::Missing) => ServerAction::Status(404),
        Some(Lie::Broken) => ServerAction::Status(500),
        Some(Lie::BlackHole) => ServerAction::BlackHole,
        _ => ServerAction::Attested { body: body.to_vec(), header },
    }
}

/// Coprocessors with these lies, of which so many must agree about this ciphertext.
struct Stand {
    servers: Vec<Server>,
    room: Ciphertexts<Registry>,
    request: Request,
    body: Vec<u8>,
}

impl Stand {
    async fn new(threshold: usize, lies: &[Option<Lie>]) -> Self {
        let body = super::body(1, 5000);
        let name = format!("/ct128/ct128/{:x}/1", material(0, &body, 1).handle);
        let mut servers = Vec::new();
        for (number, lie) in lies.iter().enumerate() {
            let (act, name) = (act(number, &body, *lie), name.clone());
            servers.push(
                Server::by_path(
                    move |path| {
                        if path == name { act.clone() } else { ServerAction::Status(404) }
                    },
                )
                .await,
            );
        }
        let member = |(number, server): (usize, &Server)| Coprocessor {
            tx_sender: coprocessor(number),
            signer: signer(u8::try_from(number).unwrap() + 1).address(),
            url: server.url(),
        };
        let members = servers.iter().enumerate().map(member).collect();
        let coprocessors = Coprocessors { members, threshold: NonZeroUsize::new(threshold) };
        let registry = Registry { coprocessors, ..Registry::default() };
        let room = room_with(registry, SMALLEST_MEMORY_MIB);
        // At HEAD nobody looks at the event's materials.
        let mut material = material(0, &body, 1);
        material.digest = B256::ZERO;
        let mut request = request(&[material]);
        request.shape = EventShape::Head;
        Self { servers, room, request, body }
    }

    async fn fetch(&self) -> Result<Fetched, FetchError> {
        self.room.fetch(&self.request, CiphertextSource::Attestation).await
    }

    /// The sum of a metric over its labels.
    fn counted(&self, name: &str) -> u64 {
        let families = self.room.calls.metrics.gather();
        let Some(family) = families.iter().find(|one| one.name().ends_with(name)) else { return 0 };
        let sum: f64 = family.get_metric().iter().map(|one| one.get_counter().get_value()).sum();
        format!("{sum:.0}").parse().unwrap()
    }
}

/// f of n lie, in every way: the others decide, the liar's answer is the only one that is lost, and bytes
/// come from those who agree alone.
#[tokio::test]
async fn g1_two_of_five_may_lie_in_every_way() {
    for lie in LIES {
        let stand = Stand::new(3, &[Some(lie), None, Some(lie), None, None]).await;
        let fetched = stand.fetch().await.unwrap_or_else(|error| panic!("{lie:?}: {error}"));
        assert_eq!(fetched.key_id, U256::from(KEY));
        assert_eq!(fetched.ciphertexts[0].body, stand.body);
        assert_eq!(fetched.ciphertexts[0].format, CiphertextFormat::BigCompressed, "{lie:?}");
        for liar in [0, 2] {
            // Who attests well belongs to the others until its bytes are seen.
            if lie != Lie::OtherBytes {
                assert_eq!(stand.servers[liar].calls("GET"), 0, "{lie:?}");
            }
        }
        let gets: usize = stand.servers.iter().map(|server| server.calls("GET")).sum();
        assert!((1..=3).contains(&gets), "{lie:?}: {gets}");
        assert_eq!(stand.counted("attestation_consensus_total"), 1);
    }
}

/// Three of five lie in the same way: they do not agree with the two, and nothing they say is believed,
/// unless it is what they all attest.
#[tokio::test]
async fn g1_without_a_consensus_the_request_waits_and_says_who_lied() {
    for lie in LIES {
        let stand = Stand::new(3, &[Some(lie), Some(lie), Some(lie), None, None]).await;
        let agreed = stand.fetch().await;
        let error = match lie {
            // Three colluding coprocessors are the majority that the protocol trusts.
            Lie::OtherKey | Lie::OtherCiphertextDigest | Lie::OtherFormat => {
                agreed.unwrap_or_else(|error| panic!("{lie:?}: {error}"));
                continue;
            }
            // They agree, and have no such bytes.
            Lie::OtherSnsDigest => {
                let error = agreed.unwrap_err();
                assert!(matches!(error, FetchError::Unavailable { .. }), "{error}");
                continue;
            }
            // Attested well: the others have the bytes.
            Lie::OtherBytes => {
                agreed.unwrap();
                continue;
            }
            Lie::Silent
            | Lie::NoJson
            | Lie::OtherVersion
            | Lie::UnknownFormat
            | Lie::NoSnsCiphertext
            | Lie::OtherHandle
            | Lie::Stranger
            | Lie::ForeignSigner
            | Lie::ShortSignature
            | Lie::Missing
            | Lie::BlackHole
            | Lie::Broken => agreed.unwrap_err(),
        };
        let FetchError::NoConsensus(missed) = &error else { panic!("{lie:?}: {error}") };
        assert_eq!((missed.agreed, missed.registered, missed.failures.len()), (2, 5, 3), "{lie:?}");
        assert_eq!(error.code(), "no_attestation_consensus");
        let said = error.to_string();
        assert!(said.starts_with("2 of 5 coprocessors agree"), "{said}");
        for number in 0..3 {
            assert!(said.contains(&coprocessor(number).to_string()), "{said}");
        }
        assert_eq!(error.remedy(Duration::ZERO), Remedy::Retry);
        // An outage is waited for; what was said and does not agree is told after a while.
        let outage = matches!(lie, Lie::BlackHole | Lie::Broken);
        let expected = (!outage).then_some(HoldReason::NoAttestationConsensus);
        assert_eq!(reason(&error), expected, "{lie:?}");
        let faults = if outage || lie == Lie::Missing { 0 } else { 3 };
        assert_eq!(stand.counted("attestation_faults_total"), faults, "{lie:?}");
    }
}

/// Nobody waits for the slow once enough have spoken, nor for those whose connection hangs.
#[tokio::test]
async fn g1_a_decision_does_not_wait_for_the_silent() {
    let stand =
        Stand::new(3, &[Some(Lie::BlackHole), None, Some(Lie::BlackHole), None, None]).await;
    let begun = Instant::now();
    stand.fetch().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

/// All who agreed first have failed lately: the decision waits for one who has not.
#[tokio::test]
async fn g1_bytes_are_found_at_the_bucket_that_has_them() {
    let lie = Some(Lie::OtherBytes);
    for _ in 0..3 {
        let stand = Stand::new(3, &[lie, lie, lie, None]).await;
        let fetched = stand.fetch().await.unwrap();
        assert_eq!(fetched.ciphertexts[0].body, stand.body);
    }
}

#[tokio::test]
async fn g1_a_registry_decides_who_counts() {
    // An impossible threshold.
    for threshold in [0, 6] {
        let stand = Stand::new(threshold, &[None; 5]).await;
        let error = stand.fetch().await.unwrap_err();
        assert_eq!(reason(&error), Some(HoldReason::NoAttestationConsensus), "{error}");
    }
    // Coprocessors without a bucket, or with one that others have.
    let stand = Stand::new(2, &[None, None, None]).await;
    let mut registry =
        Registry { coprocessors: stand.room.buckets.coprocessors.clone(), ..Registry::default() };
    registry.coprocessors.members[0].url = String::new();
    registry.coprocessors.members[1].url = "ftp://nowhere".to_owned();
    let room = room_with(registry, SMALLEST_MEMORY_MIB);
    let error = room.fetch(&stand.request, CiphertextSource::Attestation).await.unwrap_err();
    let FetchError::NoConsensus(missed) = &error else { panic!("{error}") };
    assert_eq!((missed.agreed, missed.failures.len()), (1, 2));
    let mut shared =
        Registry { coprocessors: stand.room.buckets.coprocessors.clone(), ..Registry::default() };
    shared.coprocessors.members[0].url = shared.coprocessors.members[1].url.clone();
    let room = room_with(shared, SMALLEST_MEMORY_MIB);
    room.fetch(&stand.request, CiphertextSource::Attestation).await.unwrap();
    assert_eq!(stand.servers[0].requests(), 0);
    assert_eq!(stand.servers[1].calls("HEAD"), 1);
    // Nobody is registered.
    let room = room_with(Registry::default(), SMALLEST_MEMORY_MIB);
    let error = room.fetch(&stand.request, CiphertextSource::Attestation).await.unwrap_err();
    assert!(error.to_string().starts_with("0 of 0"), "{error}");
}

/// The shadow counts what it finds, and a fetch never waits for it.
#[tokio::test]
async fn g1_the_shadow_counts_and_decides_nothing() {
    for (lies, result) in [
        ([None, None, None], "agrees"),
        ([Some(Lie::OtherKey); 3], "differs"),
        ([Some(Lie::Silent); 3], "no_consensus"),
    ] {
        let stand = Stand::new(2, &lies).await;
        let metrics = stand.room.calls.metrics.clone();
        let Stand { room, body, servers, .. } = stand;
        let (room, shadow) = room.shadowed();
        let mut material = material(0, &body, 1);
        material.key_id = U256::from(KEY);
        let queue = room.shadow.as_ref().unwrap();
        let counted = || {
            let families = metrics.gather();
            let family =
                families.iter().find(|one| one.name().ends_with("attestation_shadow_total"));
            let series = family.map(|one| one.get_metric().to_vec()).unwrap_or_default();
            let of = |name: &str| {
                let found = series.iter().find(|one| one.get_label()[0].value() == name);
                found.map_or(0.0, |one| one.get_counter().get_value())
            };
            (of(result), of("skipped"))
        };
        // More than there is room for.
        queue.offer(&vec![material; 70]);
        assert_eq!(counted(), (0.0, 6.0));
        let comparing = async {
            while counted().0 < 64.0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = shadow.run() => {}
            () = comparing => {}
            () = sleep(Duration::from_secs(20)) => panic!("{result}: {:?}", counted()),
        }
        assert_eq!(servers.iter().map(|server| server.calls("GET")).sum::<usize>(), 0);
    }
}
