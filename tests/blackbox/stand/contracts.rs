//! The test contracts behave as the protocol's tables say, for every variant they play. What these
//! tests hold, every other black-box test builds on.

use alloy::{
    primitives::{Address, B256, Bytes, FixedBytes, U256, b256, fixed_bytes},
    signers::local::PrivateKeySigner,
    sol_types::{SolCall, SolError, SolEvent},
};
use world::{
    Error, Result,
    anvil::{Anvil, AnvilOptions},
    contracts::{
        Decryption, G7, G8, G9, G14, GatewayConfig, HeadHandles, Proxy, TOPICS, Variant, raw,
        response_call, reverted,
    },
    deployment::{Deployment, Node, Thresholds},
    random, random_address, random_key,
    request::{Ask, Issued, Kind, fhe},
    rpc::{Call, Receipt},
    signing::sign,
};

/// A chain, a deployment without coprocessors, and three KMS nodes.
pub struct Net {
    _dir: tempfile::TempDir,
    pub anvil: Anvil,
    pub deployment: Deployment,
    pub parties: Vec<Party>,
}

pub struct Party {
    pub wallet: Address,
    pub core: PrivateKeySigner,
}

impl Party {
    fn random() -> Self {
        Self { wallet: random_address(), core: random_key() }
    }

    pub fn node(&self) -> Node {
        Node { wallet: self.wallet, signer: self.core.address() }
    }
}

impl Net {
    pub async fn up(variant: Variant, threshold: u64) -> Result<Self> {
        let dir = tempfile::tempdir().map_err(|e| Error::Io("tempdir".into(), e))?;
        let options = AnvilOptions { block_time: None, ..AnvilOptions::default() };
        let anvil = Anvil::start(dir.path(), options).await?;
        let parties = vec![Party::random(), Party::random(), Party::random()];
        let nodes: Vec<_> = parties.iter().map(Party::node).collect();
        let thresholds = Thresholds { public: threshold, user: threshold };
        let deployment =
            Deployment::deploy(anvil.chain(), variant, &nodes, &[], thresholds).await?;
        for party in &parties {
            anvil.fund(party.wallet).await?;
        }
        Ok(Self { _dir: dir, anvil, deployment, parties })
    }

    /// The response call of `party`, correct in every way.
    pub fn answer(&self, party: &Party, request: &Issued, payload: &Bytes) -> Call {
        let signature = self.signature(&party.core, request, payload);
        self.deployment.respond(party.wallet, request, payload, &signature)
    }

    pub fn signature(&self, core: &PrivateKeySigner, request: &Issued, payload: &Bytes) -> Bytes {
        let domain = self.deployment.domain();
        let digest = match request.kind {
            Kind::Public => domain.public_digest(&request.handles, payload, &request.extra_data),
            Kind::User => domain.user_digest(
                &request.public_key,
                &request.handles,
                payload,
                &request.extra_data,
            ),
        };
        sign(core, digest).expect("a local key signs")
    }

    pub async fn send(&self, call: Call) -> Result<Receipt> {
        self.deployment.chain.send(call).await
    }

    /// The custom error the call is refused with.
    pub async fn refusal<E: SolError>(&self, call: Call) -> E {
        let error = self.send(call).await.expect_err("the contract should refuse this");
        reverted::<E>(&error).unwrap_or_else(|| panic!("expected {}, got {error}", E::SIGNATURE))
    }

    pub async fn view<C: SolCall>(&self, call: C) -> Result<C::Return> {
        self.deployment.chain.call(self.deployment.decryption, &call).await
    }

    pub async fn config<C: SolCall>(&self, call: C) -> Result<C::Return> {
        self.deployment.chain.call(self.deployment.gateway_config, &call).await
    }

    /// Whether consensus is reached, asked the way of the variant.
    pub async fn done(&self, id: U256) -> bool {
        if self.deployment.variant.has_tagged_ids() {
            let call = Decryption::isDecryptionDoneCall { decryptionId: id };
            return self.view(call).await.expect("the view is there");
        }
        match self.view(Decryption::checkDecryptionDoneCall { decryptionId: id }).await {
            Ok(_) => true,
            Err(error) => {
                let refused = reverted::<Decryption::DecryptionNotDone>(&error);
                assert_eq!(refused.map(|e| e.decryptionId), Some(id), "{error}");
                false
            }
        }
    }
}

pub fn payload(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn topics(receipt: &Receipt) -> Vec<B256> {
    let recorded = Decryption::ResponseRecorded::SIGNATURE_HASH;
    receipt.logs.iter().map(|log| log.topics[0]).filter(|topic| *topic != recorded).collect()
}

/// A call of a function that is not there: refused without a word.
pub fn assert_absent<T>(answer: Result<T>) {
    let error = answer.err().expect("this variant does not have the function");
    assert!(matches!(error, Error::Rpc { .. }), "{error}");
    assert!(error.revert().is_none_or(|data| data.is_empty()), "{error}");
}

/// Selectors as the protocol's tables give them.
const SELECTORS: &[(&str, [u8; 4], FixedBytes<4>)] = &[
    ("G7 public response", G7::publicDecryptionResponseCall::SELECTOR, fixed_bytes!("02fd1a64")),
    ("G8 public response", G8::publicDecryptionResponseCall::SELECTOR, fixed_bytes!("6f8913bc")),
    ("G7 user response", G7::userDecryptionResponseCall::SELECTOR, fixed_bytes!("b9bfe0a8")),
    ("G8 user response", G8::userDecryptionResponseCall::SELECTOR, fixed_bytes!("046f9eb3")),
    ("isDecryptionDone", Decryption::isDecryptionDoneCall::SELECTOR, fixed_bytes!("58f5b8ab")),
    (
        "checkDecryptionDone",
        Decryption::checkDecryptionDoneCall::SELECTOR,
        fixed_bytes!("a6090439"),
    ),
    ("eip712Domain", Decryption::eip712DomainCall::SELECTOR, fixed_bytes!("84b0196e")),
    ("getVersion", Decryption::getVersionCall::SELECTOR, fixed_bytes!("0d8e6e2c")),
    ("getCoprocessor", GatewayConfig::getCoprocessorCall::SELECTOR, fixed_bytes!("ef6997f9")),
    ("getKmsNode", GatewayConfig::getKmsNodeCall::SELECTOR, fixed_bytes!("e3b2a874")),
    ("isKmsTxSender", GatewayConfig::isKmsTxSenderCall::SELECTOR, fixed_bytes!("e5275eaf")),
    (
        "getCurrentKmsContextId",
        GatewayConfig::getCurrentKmsContextIdCall::SELECTOR,
        fixed_bytes!("976f3eb9"),
    ),
    (
        "DecryptionNotRequested",
        Decryption::DecryptionNotRequested::SELECTOR,
        fixed_bytes!("d48af942"),
    ),
    ("KmsNodeAlreadySigned", Decryption::KmsNodeAlreadySigned::SELECTOR, fixed_bytes!("99ec48d9")),
    ("NotKmsTxSender", Decryption::NotKmsTxSender::SELECTOR, fixed_bytes!("aee86323")),
    ("NotKmsSigner", Decryption::NotKmsSigner::SELECTOR, fixed_bytes!("2a7c6ef6")),
    (
        "KmsSignerDoesNotMatchTxSender",
        Decryption::KmsSignerDoesNotMatchTxSender::SELECTOR,
        fixed_bytes!("0d86f521"),
    ),
    ("EnforcedPause", Decryption::EnforcedPause::SELECTOR, fixed_bytes!("d93c0665")),
    (
        "ECDSAInvalidSignature",
        Decryption::ECDSAInvalidSignature::SELECTOR,
        fixed_bytes!("f645eedf"),
    ),
    (
        "ECDSAInvalidSignatureLength",
        Decryption::ECDSAInvalidSignatureLength::SELECTOR,
        fixed_bytes!("fce698f7"),
    ),
    (
        "ECDSAInvalidSignatureS",
        Decryption::ECDSAInvalidSignatureS::SELECTOR,
        fixed_bytes!("d78bce0c"),
    ),
    ("DecryptionNotDone", Decryption::DecryptionNotDone::SELECTOR, fixed_bytes!("0bf01406")),
    (
        "DecryptionContextMismatch",
        Decryption::DecryptionContextMismatch::SELECTOR,
        fixed_bytes!("abb5f486"),
    ),
    (
        "InvalidExtraDataLength",
        Decryption::InvalidExtraDataLength::SELECTOR,
        fixed_bytes!("93548a66"),
    ),
    (
        "UnsupportedExtraDataVersion",
        Decryption::UnsupportedExtraDataVersion::SELECTOR,
        fixed_bytes!("2139cc2c"),
    ),
    ("InvalidKmsContext", Decryption::InvalidKmsContext::SELECTOR, fixed_bytes!("77ddbe81")),
    ("InvalidNullContextId", Decryption::InvalidNullContextId::SELECTOR, fixed_bytes!("cb17b7a5")),
    ("EmptyHandles", Decryption::EmptyHandles::SELECTOR, fixed_bytes!("240e9309")),
    ("public request", G8::publicDecryptionRequestCall::SELECTOR, fixed_bytes!("d8998f45")),
    ("direct request", G8::userDecryptionRequestCall::SELECTOR, fixed_bytes!("f1b57adb")),
    (
        "delegated request",
        G8::delegatedUserDecryptionRequestCall::SELECTOR,
        fixed_bytes!("9fad5a2f"),
    ),
    ("unified request", G14::userDecryptionRequestCall::SELECTOR, fixed_bytes!("b4de2c37")),
    ("isValidKmsContext", GatewayConfig::isValidKmsContextCall::SELECTOR, fixed_bytes!("bf9b16c8")),
    (
        "isKmsTxSenderForContext",
        GatewayConfig::isKmsTxSenderForContextCall::SELECTOR,
        fixed_bytes!("46c5bbbd"),
    ),
    (
        "isKmsSignerForContext",
        GatewayConfig::isKmsSignerForContextCall::SELECTOR,
        fixed_bytes!("9447cfd4"),
    ),
    (
        "getKmsNodeForContext",
        GatewayConfig::getKmsNodeForContextCall::SELECTOR,
        fixed_bytes!("31ff41c8"),
    ),
    (
        "getKmsTxSendersForContext",
        GatewayConfig::getKmsTxSendersForContextCall::SELECTOR,
        fixed_bytes!("c5a6a446"),
    ),
    (
        "getKmsSignersForContext",
        GatewayConfig::getKmsSignersForContextCall::SELECTOR,
        fixed_bytes!("5bff76d9"),
    ),
    (
        "getPublicDecryptionThresholdForContext",
        GatewayConfig::getPublicDecryptionThresholdForContextCall::SELECTOR,
        fixed_bytes!("c3aaaa5a"),
    ),
    (
        "getUserDecryptionThresholdForContext",
        GatewayConfig::getUserDecryptionThresholdForContextCall::SELECTOR,
        fixed_bytes!("281e8bfe"),
    ),
    (
        "getCoprocessorSigners",
        GatewayConfig::getCoprocessorSignersCall::SELECTOR,
        fixed_bytes!("9164d0ae"),
    ),
    (
        "getCoprocessorMajorityThreshold",
        GatewayConfig::getCoprocessorMajorityThresholdCall::SELECTOR,
        fixed_bytes!("6799ef52"),
    ),
    ("getHostChains", GatewayConfig::getHostChainsCall::SELECTOR, fixed_bytes!("2585bb65")),
    (
        "isHostChainRegistered",
        GatewayConfig::isHostChainRegisteredCall::SELECTOR,
        fixed_bytes!("bff3aaba"),
    ),
];

/// The same of events that no table of the world has.
const OTHER_TOPICS: [(B256, B256); 3] = [
    (
        GatewayConfig::UpdateKmsContext::SIGNATURE_HASH,
        b256!("e804757fef94124088109f77eb49e91cb1a091c67b6d7a644a9e3aee4239b5a7"),
    ),
    (
        GatewayConfig::DestroyKmsContext::SIGNATURE_HASH,
        b256!("3e8f02dc7af6e3a67f3af0bc99bcf11b4deb46105e9ba7f1ac6da82322e9025e"),
    ),
    (
        Proxy::Upgraded::SIGNATURE_HASH,
        b256!("bc7cd75a20ee27fd9adebab32041f755214dbc6bffa90cc0225b39da2e5c2d3b"),
    ),
];

#[test]
fn signatures_are_those_of_the_protocol() {
    for (name, ours, protocol) in TOPICS {
        assert_eq!(ours, protocol, "{name}");
    }
    for (name, ours, protocol) in SELECTORS {
        assert_eq!(FixedBytes(*ours), *protocol, "{name}");
    }
    for (ours, protocol) in OTHER_TOPICS {
        assert_eq!(ours, protocol);
    }
}

#[tokio::test]
async fn every_variant_takes_an_answer_once() {
    for variant in Variant::ALL {
        let net = Net::up(variant, 1).await.unwrap();
        let asks = vec![
            Ask::public(&[fhe::UINT64, fhe::BOOL]).extra_data(vec![0]),
            Ask::user(&[fhe::UINT8]).extra_data(vec![0]),
            Ask::public(&[fhe::UINT256]),
            Ask::user(&[fhe::UINT160, fhe::UINT16, fhe::UINT32]),
        ];
        let requests = net.deployment.request(asks).await.unwrap();
        let tag = |kind: u8| U256::from(kind) << 248;
        let ids: Vec<_> = requests.iter().map(|request| request.id).collect();
        let expected: Vec<U256> = if variant.has_tagged_ids() {
            [(1, 1), (2, 1), (1, 2), (2, 2)].map(|(t, n)| tag(t) | U256::from(n)).to_vec()
        } else {
            (1..=4).map(U256::from).collect()
        };
        assert_eq!(ids, expected, "{variant:?}");

        let party = &net.parties[0];
        for request in &requests {
            let text = payload("the answer");
            assert!(!net.done(request.id).await, "{variant:?}");
            let call = net.answer(party, request, &text);
            let receipt = net.send(call.clone()).await.unwrap();
            assert!(net.done(request.id).await, "{variant:?}");

            let answers = net.deployment.response(request.id).await.unwrap();
            assert_eq!(answers.len(), 1, "{variant:?}");
            assert_eq!(answers[0].payload, text);
            assert_eq!(answers[0].signer, party.core.address());
            assert_eq!(answers[0].tx_sender, party.wallet);
            assert_eq!(answers[0].extra_data, request.extra_data);
            assert_eq!(answers[0].transaction, receipt.transaction_hash);
            assert_eq!(answers[0].signature, net.signature(&party.core, request, &text));

            let twice = net.refusal::<Decryption::KmsNodeAlreadySigned>(call).await;
            assert_eq!(twice.decryptionId, request.id, "{variant:?}");
            assert_eq!(twice.signer, party.core.address(), "{variant:?}");
            let accepted = net.deployment.accepted_by(request.id, party.core.address()).await;
            assert_eq!(accepted.unwrap(), 1, "{variant:?}");
        }
        assert!(net.deployment.failed_transactions().await.unwrap().is_empty());
    }
}

/// Field failure T41.
#[tokio::test]
async fn refusals_come_in_the_order_of_the_protocol() {
    for variant in Variant::SERVED {
        let net = Net::up(variant, 1).await.unwrap();
        let asks = vec![Ask::public(&[fhe::UINT64]), Ask::user(&[fhe::UINT64])];
        for request in net.deployment.request(asks).await.unwrap() {
            refusals_of_one(&net, &request).await.unwrap();
        }
    }
}

/// Every error of table 4.4 that the variant has, each where the earlier checks pass and, where
/// two would apply, the earlier one.
async fn refusals_of_one(net: &Net, request: &Issued) -> Result<()> {
    let variant = net.deployment.variant;
    let (party, other) = (&net.parties[0], &net.parties[1]);
    let text = payload("the answer");
    let good = net.signature(&party.core, request, &text);
    let with = |signature: Bytes| net.deployment.respond(party.wallet, request, &text, &signature);

    // The sender comes first, whatever else is wrong.
    let stranger = random_address();
    net.anvil.fund(stranger).await?;
    let unknown = Issued { id: request.id + U256::from(1000), ..request.clone() };
    for (request, signature) in [(request, good.clone()), (&unknown, Bytes::new())] {
        let call = net.deployment.respond(stranger, request, &text, &signature);
        let refused = net.refusal::<Decryption::NotKmsTxSender>(call).await;
        assert_eq!(refused.txSender, stranger, "{variant:?}");
    }

    // Only v0.7 can pause answers, and it says so before it looks at them.
    net.deployment.pause(true).await?;
    if variant == Variant::G7 {
        net.refusal::<Decryption::EnforcedPause>(with(Bytes::new())).await;
    } else {
        net.refusal::<Decryption::ECDSAInvalidSignatureLength>(with(Bytes::new())).await;
    }
    net.deployment.pause(false).await?;

    // v0.7 does not know what was asked: the wrong handles give a wrong signer.
    let of_unknown = net.deployment.respond(party.wallet, &unknown, &text, &good);
    if variant == Variant::G7 {
        net.refusal::<Decryption::NotKmsSigner>(of_unknown).await;
    } else {
        let refused = net.refusal::<Decryption::DecryptionNotRequested>(of_unknown).await;
        assert_eq!(refused.decryptionId, unknown.id, "{variant:?}");
        let other_kind = Issued {
            kind: if request.kind == Kind::Public { Kind::User } else { Kind::Public },
            ..request.clone()
        };
        let call = net.deployment.respond(party.wallet, &other_kind, &text, &good);
        net.refusal::<Decryption::DecryptionNotRequested>(call).await;
    }

    let refused = net.refusal::<Decryption::ECDSAInvalidSignatureLength>(with(good.slice(..64)));
    assert_eq!(refused.await.length, U256::from(64), "{variant:?}");
    let mut high = good.to_vec();
    high[32] = 0xff;
    let refused = net.refusal::<Decryption::ECDSAInvalidSignatureS>(with(high.clone().into()));
    assert_eq!(refused.await.s, B256::from_slice(&high[32..64]), "{variant:?}");
    let mut no_v = good.to_vec();
    no_v[64] = 26;
    net.refusal::<Decryption::ECDSAInvalidSignature>(with(no_v.into())).await;

    // A good signature of somebody unknown, and a registered signer's over other bytes.
    let unregistered = random_key();
    let signature = net.signature(&unregistered, request, &text);
    let refused = net.refusal::<Decryption::NotKmsSigner>(with(signature)).await;
    assert_eq!(refused.signer, unregistered.address(), "{variant:?}");
    let signature = net.signature(&party.core, request, &payload("another answer"));
    net.refusal::<Decryption::NotKmsSigner>(with(signature)).await;

    // Another node's signer: only later contracts look at the pair.
    let foreign = with(net.signature(&other.core, request, &text));
    if variant.flag() >= Variant::V0_9_7.flag() {
        let refused = net.refusal::<Decryption::KmsSignerDoesNotMatchTxSender>(foreign).await;
        assert_eq!(refused.signer, other.core.address(), "{variant:?}");
        assert_eq!(refused.txSender, party.wallet, "{variant:?}");
    } else {
        net.send(foreign).await?;
    }
    net.send(with(good)).await?;

    // A wallet that left is a stranger again.
    net.deployment.unregister(party.wallet).await?;
    let call = net.answer(party, request, &text);
    net.refusal::<Decryption::NotKmsTxSender>(call).await;
    net.deployment.register(party.node()).await?;
    Ok(())
}

#[tokio::test]
async fn consensus_tells_itself_the_way_of_the_variant() {
    for variant in Variant::ALL {
        let net = Net::up(variant, 2).await.unwrap();
        let asks = vec![Ask::public(&[fhe::UINT64]), Ask::user(&[fhe::UINT64])];
        let requests = net.deployment.request(asks).await.unwrap();
        let (public, user) = (&requests[0], &requests[1]);
        let mut seen = Vec::new();
        // One public answer differs: it counts for nobody else's consensus.
        for (party, text) in [(2, "wrong"), (0, "right"), (1, "right")] {
            let call = net.answer(&net.parties[party], public, &payload(text));
            seen.push(topics(&net.send(call).await.unwrap()));
        }
        let response = if variant.has_extra_data() {
            G8::PublicDecryptionResponse::SIGNATURE_HASH
        } else {
            G7::PublicDecryptionResponse::SIGNATURE_HASH
        };
        if variant.flag() >= Variant::G10.flag() {
            let call = Decryption::PublicDecryptionResponseCall::SIGNATURE_HASH;
            assert_eq!(seen, [vec![call], vec![call], vec![call, response]], "{variant:?}");
        } else {
            assert_eq!(seen, [vec![], vec![], vec![response]], "{variant:?}");
        }

        // Shares differ, and one that comes after the consensus is taken too.
        let mut seen = Vec::new();
        for (party, text) in [(0, "share 0"), (1, "share 1"), (2, "share 2")] {
            assert_eq!(net.done(user.id).await, party == 2, "{variant:?}");
            let call = net.answer(&net.parties[party], user, &payload(text));
            let receipt = net.send(call).await.unwrap();
            seen.push(topics(&receipt));
            if variant.has_tagged_ids() {
                let log = &receipt.logs[1];
                let share = G9::UserDecryptionResponse::decode_raw_log(
                    log.topics.iter().copied(),
                    &log.data,
                );
                assert_eq!(share.unwrap().indexShare, U256::from(party), "{variant:?}");
            }
        }
        if variant.has_tagged_ids() {
            let share = G9::UserDecryptionResponse::SIGNATURE_HASH;
            let reached = Decryption::UserDecryptionResponseThresholdReached::SIGNATURE_HASH;
            assert_eq!(seen, [vec![share], vec![share, reached], vec![share]], "{variant:?}");
        } else {
            let all = if variant.has_extra_data() {
                G8::UserDecryptionResponse::SIGNATURE_HASH
            } else {
                G7::UserDecryptionResponse::SIGNATURE_HASH
            };
            assert_eq!(seen, [vec![], vec![all], vec![]], "{variant:?}");
        }

        let senders =
            |id| net.view(Decryption::getDecryptionConsensusTxSendersCall { decryptionId: id });
        if variant == Variant::G7 {
            assert_absent(senders(public.id).await);
        } else {
            let wallets: Vec<_> = net.parties.iter().map(|party| party.wallet).collect();
            assert_eq!(senders(public.id).await.unwrap(), wallets[..2], "{variant:?}");
            assert_eq!(senders(user.id).await.unwrap(), wallets, "{variant:?}");
        }
    }
}

#[tokio::test]
async fn probes_tell_the_variants_apart() {
    for variant in Variant::ALL {
        let mut net = Net::up(variant, 1).await.unwrap();
        let later = variant.has_tagged_ids();
        let party = net.parties[0].node();

        let version = net.view(Decryption::getVersionCall {}).await.unwrap();
        assert_eq!(version, variant.decryption_version());
        let id = U256::from(1);
        let check = net.view(Decryption::checkDecryptionDoneCall { decryptionId: id }).await;
        let is = net.view(Decryption::isDecryptionDoneCall { decryptionId: id }).await;
        if later {
            assert_absent(check);
            assert!(!is.unwrap());
        } else {
            assert!(reverted::<Decryption::DecryptionNotDone>(&check.err().unwrap()).is_some());
            assert_absent(is);
        }
        let context = net.config(GatewayConfig::getCurrentKmsContextIdCall {}).await;
        let registry = net.config(GatewayConfig::getVersionCall {}).await.unwrap();
        assert_eq!(registry, variant.gateway_config_version());
        let valid =
            GatewayConfig::isValidKmsContextCall { contextId: (U256::from(7) << 248) + U256::ONE };
        if variant.since(Variant::G13) {
            assert!(net.config(valid).await.unwrap(), "{variant:?}");
        } else {
            assert_absent(net.config(valid).await);
        }
        if variant.since(Variant::G12) {
            assert_eq!(context.unwrap() >> 248, U256::from(7));
        } else {
            assert_absent(context);
        }

        // The node's struct has three fields or four; an unknown wallet is all zero.
        if later {
            let call = GatewayConfig::getKmsNodeCall { txSender: party.wallet };
            let node = net.config(call).await.unwrap();
            assert_eq!((node.txSenderAddress, node.signerAddress), (party.wallet, party.signer));
            assert!(!node.storageUrl.is_empty());
            let call = GatewayConfig::isKmsTxSenderCall { txSender: party.wallet };
            assert!(net.config(call).await.unwrap());
            let call = GatewayConfig::checkIsKmsTxSenderCall { txSender: party.wallet };
            assert_absent(net.config(call).await);
        } else {
            let call = G7::getKmsNodeCall { txSender: party.wallet };
            let node = net.config(call).await.unwrap();
            assert_eq!((node.txSenderAddress, node.signerAddress), (party.wallet, party.signer));
            let call = GatewayConfig::isKmsTxSenderCall { txSender: party.wallet };
            assert_absent(net.config(call).await);
            let call = GatewayConfig::checkIsKmsTxSenderCall { txSender: party.wallet };
            net.config(call).await.unwrap();
        }
        let unknown = random_address();
        let call = GatewayConfig::getCoprocessorCall { txSender: unknown };
        let coprocessor = net.config(call).await.unwrap();
        assert_eq!(coprocessor.txSenderAddress, Address::ZERO);
        assert!(coprocessor.s3BucketUrl.is_empty());
        net.deployment.set_bucket(unknown, "http://127.0.0.1:9/ct128").await.unwrap();
        let call = GatewayConfig::getCoprocessorCall { txSender: unknown };
        let coprocessor = net.config(call).await.unwrap();
        assert_eq!(coprocessor.txSenderAddress, unknown);
        assert_eq!(coprocessor.s3BucketUrl, "http://127.0.0.1:9/ct128");

        let domain = net.view(Decryption::eip712DomainCall {}).await.unwrap();
        assert_eq!((domain.name.as_str(), domain.version.as_str()), ("Decryption", "1"));
        assert_eq!(domain.chainId, U256::from(net.anvil.chain_id()));
        assert_eq!(domain.verifyingContract, net.deployment.decryption);

        // An upgrade in place changes all of it.
        let (decryption, config) = (Variant::G12, Variant::G13);
        net.deployment.upgrade_to(decryption, config).await.unwrap();
        let version = net.view(Decryption::getVersionCall {}).await.unwrap();
        assert_eq!(version, decryption.decryption_version());
        let version = net.config(GatewayConfig::getVersionCall {}).await.unwrap();
        assert_eq!(version, config.gateway_config_version());
        net.config(GatewayConfig::getCurrentKmsContextIdCall {}).await.unwrap();
    }
}

#[tokio::test]
async fn a_response_function_of_another_generation_is_not_there() {
    for variant in Variant::ALL {
        let net = Net::up(variant, 1).await.unwrap();
        let foreign = if variant.has_extra_data() { Variant::G7 } else { Variant::G10 };
        let nothing = Bytes::new();
        for user in [false, true] {
            let data = response_call(foreign, user, U256::from(1), &nothing, &nothing, &nothing);
            let call = Call::encoded(net.deployment.decryption, data).from(net.parties[0].wallet);
            assert_absent(net.send(call).await);
        }
    }
}

#[tokio::test]
async fn tests_can_make_any_log_and_any_failure() {
    let net = Net::up(Variant::G10, 1).await.unwrap();
    let handles = vec![B256::from(random())];
    let head = raw(&HeadHandles::PublicDecryptionRequest {
        decryptionId: U256::from(7),
        ctHandles: handles.clone(),
        extraData: Bytes::new(),
    });
    let garbage = Decryption::RawLog {
        topics: vec![net.deployment.request_topic(Kind::User), B256::with_last_byte(9)],
        data: payload("not an abi encoding"),
    };
    let empty = Decryption::RawLog { topics: vec![], data: Bytes::new() };
    let receipt = net.deployment.emit_raw(vec![head, garbage, empty]).await.unwrap();
    assert_eq!(receipt.logs.len(), 3);
    assert_eq!(receipt.logs[0].topics[0], HeadHandles::PublicDecryptionRequest::SIGNATURE_HASH);
    assert_eq!(receipt.logs[1].data, payload("not an abi encoding"));
    assert!(receipt.logs[2].topics.is_empty());

    // Requests the real contract would refuse get an id all the same.
    let mut several_keys = Ask::public(&[fhe::UINT8, fhe::UINT8]);
    several_keys.key_id = U256::from(3);
    let asks = vec![Ask::public(&[]), Ask::public(&[99]), several_keys];
    assert_eq!(net.deployment.request(asks).await.unwrap().len(), 3);

    // Any revert at all, and none.
    let request = net.deployment.request_public(1).await.unwrap().remove(0);
    let call = net.answer(&net.parties[0], &request, &payload("late"));
    let unpaused = Decryption::EnforcedPause {}.abi_encode();
    net.deployment.fail_with(Some(unpaused.into())).await.unwrap();
    net.refusal::<Decryption::EnforcedPause>(call.clone()).await;
    net.deployment.fail_with(Some(Bytes::new())).await.unwrap();
    assert_absent(net.send(call.clone()).await);
    net.deployment.fail_with(None).await.unwrap();
    net.send(call).await.unwrap();
}
