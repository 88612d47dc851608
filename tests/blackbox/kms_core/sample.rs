//! A request as a Core is asked it, and the client of a stub.

use std::{future::Future, time::Duration};

use alloy::primitives::{Address, B256, U256, address, keccak256};
use kms_connector::{
    domain::{
        BlockRef, Bytes, Ciphertext, CiphertextFormat, EventShape, HoldReason, Kind, KindGroup,
        Material, Operation, PublicDecryption, Remedy, Request, RequestKey, RequestSource,
        SignedResult, SigningDomain, UserDecryption,
    },
    flow::kms_core::{
        AskResult, CoreError, Expected, KmsCore, Options, PollingEnd, SendBefore, Transport,
        wire::ExtraDataMeaning,
    },
    net::tls::TlsRoots,
    telemetry::metrics::Metrics,
    time::clock::Clock,
};
use tokio::time::Instant;

use world::core_stub::{
    CoreOptions, CoreStub, CoreVersion, decrypted_result, plaintext_of, user_decrypted_share,
};

pub(super) const CHAIN_ID: u64 = 54_321;
pub(super) const DECRYPTION: Address = address!("0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed");
pub(super) const USER: Address = address!("0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359");
pub(super) const KEY_ID: u64 = 77;
pub(super) const ENC_KEY: &[u8] = b"the user's public key";
pub(super) const CEILING: Duration = Duration::from_millis(100);
pub(super) const ANYBODY: Expected<'_> = by(&[]);
/// Longer than anything here takes.
pub(super) const LONG: Duration = Duration::from_secs(30);

pub(super) const fn by(signers: &[Address]) -> Expected<'_> {
    Expected { extra_data: ExtraDataMeaning::Opaque, signers, is_checked: true }
}

pub(super) fn options(version: CoreVersion) -> CoreOptions {
    CoreOptions::new(version, CHAIN_ID, DECRYPTION)
}

pub(super) async fn stub(version: CoreVersion) -> CoreStub {
    CoreStub::start(options(version)).await
}

pub(super) fn domain() -> SigningDomain {
    SigningDomain {
        name: "Decryption".into(),
        version: "1".into(),
        chain_id: CHAIN_ID,
        verifying_contract: DECRYPTION,
    }
}

pub(super) fn client_with(endpoint: &str, options: Options) -> KmsCore {
    let roots = TlsRoots::load(None).expect("no file to read");
    let endpoint = endpoint.parse().expect("a URL");
    let transport = Transport::to(&endpoint, &roots).expect("an endpoint");
    KmsCore::new(transport, domain(), options, Metrics::default())
}

pub(super) fn client(stub: &CoreStub) -> KmsCore {
    client_with(&stub.endpoint(), Options::default())
}

/// The contract's generation a Core version belongs to.
pub(super) fn generation(version: CoreVersion) -> EventShape {
    match version {
        CoreVersion::V0_11_0_21 => EventShape::G7,
        CoreVersion::V0_11_0_26 => EventShape::G8,
        CoreVersion::V0_12 | CoreVersion::V0_13 | CoreVersion::V0_13_10 | CoreVersion::V0_13_20 => {
            EventShape::G9
        }
        CoreVersion::V0_14 => EventShape::G14,
        CoreVersion::Head => EventShape::Head,
    }
}

/// A request and what there is to fetch for it.
pub(super) struct Sample {
    pub(super) request: Request,
    pub(super) ciphertexts: Vec<Ciphertext>,
}

impl Sample {
    /// Ciphertexts are (FHE type, size); their bytes differ with `number`.
    pub(super) fn new(
        version: CoreVersion,
        kind: Kind,
        number: u64,
        ciphertexts: &[(u8, usize)],
    ) -> Self {
        let shape = generation(version);
        let tag = match (shape, kind.group()) {
            (EventShape::G7 | EventShape::G8, _) => 0,
            (_, KindGroup::PublicDecryption) => 1,
            (_, KindGroup::UserDecryption) => 2,
            (_, KindGroup::KeyOperation) => {
                panic!("a decryption")
            }
        };
        let extra_data = match shape {
            EventShape::G7 => Bytes::new(),
            EventShape::G8 | EventShape::G9 | EventShape::G14 | EventShape::Head => {
                Bytes::from_static(&[0])
            }
        };
        let ciphertexts: Vec<Ciphertext> = ciphertexts
            .iter()
            .enumerate()
            .map(|(index, (fhe_type, size))| {
                let seed = keccak256([number.to_be_bytes(), (index as u64).to_be_bytes()].concat());
                let mut handle = seed;
                handle[30] = *fhe_type;
                let mut body = seed.to_vec();
                body.resize(*size, 0xC1);
                let format = if index % 2 == 0 {
                    CiphertextFormat::BigExpanded
                } else {
                    CiphertextFormat::BigCompressed
                };
                Ciphertext { handle, format, body: body.into() }
            })
            .collect();
        let materials = ciphertexts
            .iter()
            .map(|one| Material {
                handle: one.handle,
                key_id: U256::from(KEY_ID),
                digest: keccak256(&one.body),
                coprocessors: vec![],
            })
            .collect();
        let operation = match kind.group() {
            KindGroup::PublicDecryption => {
                Operation::PublicDecryption(PublicDecryption::of_materials(materials, extra_data))
            }
            KindGroup::UserDecryption => Operation::UserDecryption(UserDecryption::of_materials(
                materials,
                USER,
                Bytes::from_static(ENC_KEY),
                extra_data,
            )),
            KindGroup::KeyOperation => {
                panic!("a decryption")
            }
        };
        let request = Request {
            key: RequestKey {
                source: RequestSource { chain_id: CHAIN_ID, contract: DECRYPTION },
                id: (U256::from(tag) << 248) + U256::from(number),
                content: B256::ZERO,
            },
            shape,
            block: BlockRef { number: 1, hash: B256::ZERO },
            transaction: B256::ZERO,
            operation,
        };
        Self { request, ciphertexts }
    }

    pub(super) fn public(version: CoreVersion) -> Self {
        Self::new(version, Kind::PublicDecryption, 1, &[(2, 100), (0, 200)])
    }

    pub(super) fn user(version: CoreVersion) -> Self {
        Self::new(version, Kind::UserDecryption, 2, &[(5, 100), (8, 200)])
    }

    pub(super) fn id(&self) -> U256 {
        self.request.key.id
    }

    pub(super) async fn ask(&self, core: &KmsCore) -> Result<AskResult, CoreError> {
        self.ask_meaning(core, ExtraDataMeaning::Opaque).await
    }

    pub(super) async fn ask_meaning(
        &self,
        core: &KmsCore,
        extra_data: ExtraDataMeaning,
    ) -> Result<AskResult, CoreError> {
        let ciphertexts = (U256::from(KEY_ID), self.ciphertexts.clone());
        let (turn, before) =
            (core.acquire_ask_permit().await?, SendBefore::new(Clock::Wall, Duration::MAX));
        core.ask(turn, &self.request, extra_data, ciphertexts, &before).await
    }

    pub(super) async fn answer(
        &self,
        core: &KmsCore,
        stub: &CoreStub,
    ) -> Result<PollingEnd, CoreError> {
        self.answer_meaning(core, stub, ExtraDataMeaning::Opaque).await
    }

    pub(super) async fn answer_meaning(
        &self,
        core: &KmsCore,
        stub: &CoreStub,
        extra_data: ExtraDataMeaning,
    ) -> Result<PollingEnd, CoreError> {
        let expected = Expected { extra_data, signers: &[stub.signer_address()], is_checked: true };
        core.poll_until_answered(&self.request, expected, LONG, CEILING).await
    }

    /// What the contract must be sent, by the stub's own reckoning.
    pub(super) fn expected_payload(&self, version: CoreVersion) -> Vec<u8> {
        let values: Vec<(u8, Vec<u8>)> = self
            .ciphertexts
            .iter()
            .map(|one| (one.handle[30], plaintext_of(one.handle[30], &one.body)))
            .collect();
        match self.request.kind().group() {
            KindGroup::PublicDecryption => decrypted_result(version.writes_words(), &values),
            KindGroup::UserDecryption => {
                let handles: Vec<B256> = self.ciphertexts.iter().map(|one| one.handle).collect();
                user_decrypted_share(ENC_KEY, &handles, &values)
            }
            KindGroup::KeyOperation => {
                panic!("a decryption")
            }
        }
    }
}

pub(super) fn answered(ending: Result<PollingEnd, CoreError>) -> SignedResult {
    match ending {
        Ok(PollingEnd::Answer(answer)) => answer.signed().clone(),
        other => panic!("no answer: {other:?}"),
    }
}

pub(super) fn held<T: std::fmt::Debug>(result: Result<T, CoreError>) -> HoldReason {
    match result.expect_err("an error").remedy() {
        Remedy::Hold(hold) => hold.reason,
        other @ (Remedy::Retry | Remedy::Refuse(_)) => panic!("not held: {other:?}"),
    }
}

pub(super) async fn eventually<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    let end = Instant::now() + LONG;
    while !holds().await {
        assert!(Instant::now() < end, "it never came true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
