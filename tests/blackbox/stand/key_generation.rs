//! The contracts for keys behave as the protocol's tables say, on the gateway and on Ethereum, and take
//! what the stub of a Core signs.

use alloy::{
    primitives::{Address, B256, Bytes, U256, fixed_bytes},
    sol_types::{SolCall, SolError, SolEvent},
};
use world::{
    Error, Result,
    anvil::{Anvil, AnvilOptions},
    contracts::{Variant, reverted},
    core_stub::{CoreOptions, CoreStub, CoreVersion, Fault},
    deployment::{Deployment, Node, Thresholds},
    host::Host,
    key_contracts::{KMSGeneration, OnEthereum, OnGateway, TOPICS, raw},
    key_generation::{BITS, KeyGeneration, KeyRequest},
    random_address,
    rpc::{Call, Receipt},
};

use super::contracts::assert_absent;

const ON_GATEWAY: [Variant; 4] = [Variant::V0_9_0, Variant::V0_9_7, Variant::G10, Variant::G12];
const ON_ETHEREUM: [Variant; 3] = [Variant::G13, Variant::G14, Variant::Head];

/// A chain with a contract for keys, and three nodes of which two must agree.
struct Net {
    _dir: tempfile::TempDir,
    _anvil: Anvil,
    keys: KeyGeneration,
    parties: Vec<Party>,
}

struct Party {
    wallet: Address,
    core: CoreStub,
}

impl Net {
    async fn up(variant: Variant) -> Result<Self> {
        let dir = tempfile::tempdir().map_err(|e| Error::Io("tempdir".into(), e))?;
        let options = AnvilOptions { block_time: None, ..AnvilOptions::default() };
        let anvil = Anvil::start(dir.path(), options).await?;
        let on_ethereum = variant.since(Variant::G13);
        let version = if on_ethereum { CoreVersion::V0_13_20 } else { CoreVersion::V0_12 };
        let signers: Vec<_> = (0..3).map(|_| world::random_key()).collect();
        let wallets: Vec<_> = (0..3).map(|_| random_address()).collect();
        let node = |(wallet, signer): (&Address, &alloy::signers::local::PrivateKeySigner)| Node {
            wallet: *wallet,
            signer: signer.address(),
        };
        let nodes: Vec<Node> = wallets.iter().zip(&signers).map(node).collect();
        let thresholds = Thresholds { public: 2, user: 2 };
        let keys = if on_ethereum {
            let host = Host::deploy(anvil.chain(), variant, &nodes, thresholds).await?;
            KeyGeneration::on_ethereum(&host).await?
        } else {
            let deployment =
                Deployment::deploy(anvil.chain(), variant, &nodes, &[], thresholds).await?;
            KeyGeneration::on_gateway(&deployment).await?
        };
        let mut parties = Vec::new();
        for (wallet, signer) in wallets.into_iter().zip(signers) {
            anvil.fund(wallet).await?;
            let core = CoreStub::start(CoreOptions {
                signer,
                key_generation: Some((keys.chain_id, keys.address)),
                ..CoreOptions::new(version, keys.chain_id, Address::ZERO)
            });
            parties.push(Party { wallet, core: core.await });
        }
        Ok(Self { _dir: dir, _anvil: anvil, keys, parties })
    }

    /// The answer of a party, correct in every way.
    fn answer(&self, party: usize, request: &KeyRequest) -> Call {
        let Party { wallet, core } = &self.parties[party];
        self.keys.answer(*wallet, core, request)
    }

    async fn send(&self, call: Call) -> Result<Receipt> {
        self.keys.chain.send(call).await
    }

    /// The topics of what the contract tells to the answer of a party.
    async fn told(&self, party: usize, request: &KeyRequest) -> Vec<B256> {
        let told = self.send(self.answer(party, request)).await;
        let receipt = told.expect("the contract takes it");
        receipt.logs.iter().map(|log| log.topics[0]).collect()
    }

    /// The custom error the call is refused with.
    async fn refusal<E: SolError>(&self, call: Call) -> E {
        let error = self.send(call).await.expect_err("the contract should refuse this");
        reverted::<E>(&error).unwrap_or_else(|| panic!("expected {}, got {error}", E::SIGNATURE))
    }

    fn call(&self, function: &impl SolCall) -> Call {
        Call::new(self.keys.address, function)
    }

    fn digests(&self, request: &KeyRequest) -> Vec<(u8, Bytes)> {
        let answer = self.parties[0].core.answer_to(&request.ask());
        answer.digests.into_iter().map(|(kind, digest)| (kind, digest.into())).collect()
    }
}

#[test]
fn signatures_are_those_of_the_protocol() {
    for (name, ours, protocol) in TOPICS {
        assert_eq!(ours, protocol, "{name}");
    }
    for (name, ours, protocol) in [
        ("prep", KMSGeneration::prepKeygenResponseCall::SELECTOR, fixed_bytes!("589adb0e")),
        ("keygen", KMSGeneration::keygenResponseCall::SELECTOR, fixed_bytes!("4610ffe8")),
        ("crsgen", KMSGeneration::crsgenResponseCall::SELECTOR, fixed_bytes!("62978787")),
        ("materials", KMSGeneration::getKeyMaterialsCall::SELECTOR, fixed_bytes!("936608ae")),
        ("of a CRS", KMSGeneration::getCrsMaterialsCall::SELECTOR, fixed_bytes!("c55b8724")),
        ("consensus", KMSGeneration::getConsensusTxSendersCall::SELECTOR, fixed_bytes!("16c713d9")),
        ("done", OnEthereum::isRequestDoneCall::SELECTOR, fixed_bytes!("3d5ec7e3")),
        ("completed", OnEthereum::getCompletedKeyIdsCall::SELECTOR, fixed_bytes!("e410117e")),
        ("info", OnEthereum::getKeyInfoCall::SELECTOR, fixed_bytes!("6294f462")),
        (
            "signed",
            KMSGeneration::KmsAlreadySignedForPrepKeygen::SELECTOR,
            fixed_bytes!("33ca1fe3"),
        ),
        ("signed", KMSGeneration::KmsAlreadySignedForKeygen::SELECTOR, fixed_bytes!("98fb957d")),
        ("signed", KMSGeneration::KmsAlreadySignedForCrsgen::SELECTOR, fixed_bytes!("fcf5a6e9")),
        ("unknown", KMSGeneration::PrepKeygenNotRequested::SELECTOR, fixed_bytes!("0ab7f687")),
        ("unknown", KMSGeneration::KeygenNotRequested::SELECTOR, fixed_bytes!("adfab904")),
        ("unknown", KMSGeneration::CrsgenNotRequested::SELECTOR, fixed_bytes!("8d8c940a")),
        ("empty", KMSGeneration::EmptyKeyDigests::SELECTOR, fixed_bytes!("e6f9083b")),
        ("ongoing", KMSGeneration::KeygenOngoing::SELECTOR, fixed_bytes!("3b853da8")),
        ("ongoing", KMSGeneration::CrsgenOngoing::SELECTOR, fixed_bytes!("061ac61d")),
        ("pending", OnEthereum::KeyManagementRequestPending::SELECTOR, fixed_bytes!("6fbcdd2b")),
        ("not yet", KMSGeneration::KeyNotGenerated::SELECTOR, fixed_bytes!("84de1331")),
        ("not yet", KMSGeneration::CrsNotGenerated::SELECTOR, fixed_bytes!("da32d00f")),
        ("aborted", OnEthereum::KeyAborted::SELECTOR, fixed_bytes!("83f18335")),
        ("aborted", OnEthereum::CrsAborted::SELECTOR, fixed_bytes!("d5fd3cd7")),
        ("no id", OnEthereum::AbortKeygenInvalidId::SELECTOR, fixed_bytes!("fcf2db7a")),
        ("done", OnEthereum::AbortKeygenAlreadyDone::SELECTOR, fixed_bytes!("92789b67")),
        ("no id", OnEthereum::AbortCrsgenInvalidId::SELECTOR, fixed_bytes!("cbe92656")),
        ("done", OnEthereum::AbortCrsgenAlreadyDone::SELECTOR, fixed_bytes!("df0db5fb")),
    ] {
        assert_eq!(ours, protocol, "{name}");
    }
}

#[tokio::test]
async fn enough_equal_answers_make_a_key_and_a_crs() {
    for variant in ON_GATEWAY.into_iter().chain(ON_ETHEREUM) {
        let net = Net::up(variant).await.unwrap();
        let keys = &net.keys;
        let on_ethereum = variant.since(Variant::G13);
        let tells = |topic: B256| variant.since(Variant::G10).then_some(topic).into_iter();
        let requested = if on_ethereum {
            OnEthereum::KeygenRequest::SIGNATURE_HASH
        } else {
            OnGateway::KeygenRequest::SIGNATURE_HASH
        };

        let preparation = keys.keygen().await.unwrap();
        assert_eq!(preparation.id, (U256::from(3) << 248) | U256::from(1), "{variant:?}");
        let response = || tells(KMSGeneration::PrepKeygenResponse::SIGNATURE_HASH);
        assert_eq!(net.told(0, &preparation).await, response().collect::<Vec<_>>());
        assert!(keys.consensus(preparation.id).await.unwrap().is_empty());
        let consensus: Vec<B256> = response().chain([requested]).collect();
        assert_eq!(net.told(1, &preparation).await, consensus, "{variant:?}");
        assert_eq!(net.told(2, &preparation).await, response().collect::<Vec<_>>(), "late");
        let wallets: Vec<Address> = net.parties.iter().map(|party| party.wallet).collect();
        assert_eq!(keys.consensus(preparation.id).await.unwrap(), wallets);

        let key = preparation.key();
        assert_eq!(key.id, (U256::from(4) << 248) | U256::from(1));
        let response = || tells(KMSGeneration::KeygenResponse::SIGNATURE_HASH);
        assert_eq!(net.told(2, &key).await, response().collect::<Vec<_>>());
        let early = keys.view(KMSGeneration::getKeyMaterialsCall { keyId: key.id }).await;
        assert!(reverted::<KMSGeneration::KeyNotGenerated>(&early.unwrap_err()).is_some());
        let consensus: Vec<B256> =
            response().chain([KMSGeneration::ActivateKey::SIGNATURE_HASH]).collect();
        assert_eq!(net.told(0, &key).await, consensus);
        let materials = keys.view(KMSGeneration::getKeyMaterialsCall { keyId: key.id }).await;
        let materials = materials.unwrap();
        assert_eq!(materials.urls.len(), 2);
        let digests = materials.digests.into_iter().map(|one| (one.keyType, one.digest));
        assert_eq!(digests.collect::<Vec<_>>(), net.digests(&key));
        let active = keys.view(KMSGeneration::getActiveKeyIdCall {}).await.unwrap();
        assert_eq!(active, key.id);

        let crs = keys.crsgen().await.unwrap();
        assert_eq!(crs.id, (U256::from(5) << 248) | U256::from(1));
        assert_eq!(crs.bits, Some(BITS));
        let response = || tells(KMSGeneration::CrsgenResponse::SIGNATURE_HASH);
        assert_eq!(net.told(0, &crs).await, response().collect::<Vec<_>>());
        let consensus: Vec<B256> =
            response().chain([KMSGeneration::ActivateCrs::SIGNATURE_HASH]).collect();
        assert_eq!(net.told(1, &crs).await, consensus);
        let materials = keys.view(KMSGeneration::getCrsMaterialsCall { crsId: crs.id }).await;
        assert_eq!(materials.unwrap().digest, net.digests(&crs)[0].1);

        let signers: Vec<Address> =
            net.parties.iter().map(|party| party.core.signer_address()).collect();
        let soon = std::time::Duration::ZERO;
        keys.answered_by(&preparation, &signers, soon).await.unwrap();
        assert!(keys.answered_by(&crs, &signers, soon).await.is_err(), "one is missing");
        let another = keys.keygen().await.unwrap();
        assert_eq!(another.id, preparation.id + U256::from(1));
    }
}

#[tokio::test]
async fn answers_that_differ_are_counted_apart() {
    let net = Net::up(Variant::G12).await.unwrap();
    net.parties[0].core.change(|behaviour| behaviour.fault = Some(Fault::Diverges));
    let crs = net.keys.crsgen().await.unwrap();
    let response = KMSGeneration::CrsgenResponse::SIGNATURE_HASH;
    assert_eq!(net.told(0, &crs).await, [response]);
    assert_eq!(net.told(1, &crs).await, [response]);
    assert_eq!(net.told(2, &crs).await, [response, KMSGeneration::ActivateCrs::SIGNATURE_HASH]);
    let wallets = [net.parties[1].wallet, net.parties[2].wallet];
    assert_eq!(net.keys.consensus(crs.id).await.unwrap(), wallets);
    assert_eq!(net.keys.answers(crs.id).await.unwrap().len(), 3);
}

#[tokio::test]
async fn what_is_wrong_with_an_answer_is_said_in_the_protocols_words() {
    for variant in ON_GATEWAY.into_iter().chain(ON_ETHEREUM) {
        let net = Net::up(variant).await.unwrap();
        let Party { wallet, core } = &net.parties[0];
        let (mine, other) = (core.signer_address(), net.parties[1].core.signer_address());
        let preparation = net.keys.keygen().await.unwrap();
        let crs = net.keys.crsgen().await.unwrap();

        let stranger = random_address();
        net.keys.chain.set_balance(stranger, U256::MAX >> 8).await.unwrap();
        let call = net.keys.answer(stranger, core, &preparation);
        assert_eq!(net.refusal::<KMSGeneration::NotKmsTxSender>(call).await.txSender, stranger);

        let call = net.keys.answer(*wallet, &net.parties[1].core, &crs);
        if variant.since(Variant::V0_9_7) {
            let refused = net.refusal::<KMSGeneration::KmsSignerDoesNotMatchTxSender>(call).await;
            assert_eq!((refused.signer, refused.txSender), (other, *wallet), "{variant:?}");
        } else {
            net.send(call).await.unwrap();
        }
        // Signed over something else: another signer is recovered, whom nobody knows.
        core.change(|behaviour| behaviour.fault = Some(Fault::Garbage));
        let call = net.answer(0, &crs);
        if variant == Variant::G13 {
            net.refusal::<KMSGeneration::KmsSignerDoesNotMatchTxSender>(call).await;
        } else {
            let refused = net.refusal::<KMSGeneration::NotKmsSigner>(call).await;
            assert_ne!(refused.signer, mine);
        }
        core.change(|behaviour| behaviour.fault = Some(Fault::ShortSignature));
        let call = net.answer(0, &preparation);
        let refused = net.refusal::<KMSGeneration::ECDSAInvalidSignatureLength>(call).await;
        assert_eq!(refused.length, U256::from(64));
        core.change(|behaviour| behaviour.fault = Some(Fault::HighS));
        net.refusal::<KMSGeneration::ECDSAInvalidSignatureS>(net.answer(0, &preparation)).await;
        core.change(|behaviour| behaviour.fault = None);

        let data = KMSGeneration::ECDSAInvalidSignature {}.abi_encode();
        net.keys.fail_with(Some(data.into())).await.unwrap();
        net.refusal::<KMSGeneration::ECDSAInvalidSignature>(net.answer(0, &preparation)).await;
        net.keys.fail_with(None).await.unwrap();

        let key = preparation.key();
        if variant.since(Variant::G13) {
            net.refusal::<OnEthereum::KeyManagementRequestPending>(net.answer(0, &key)).await;
        }
        for party in 0..2 {
            net.send(net.answer(party, &preparation)).await.unwrap();
        }
        let twice = net.answer(0, &preparation);
        let refused = net.refusal::<KMSGeneration::KmsAlreadySignedForPrepKeygen>(twice).await;
        assert_eq!((refused.prepKeygenId, refused.kmsSigner), (preparation.id, mine));
        if variant.since(Variant::V0_9_7) {
            core.change(|behaviour| behaviour.fault = Some(Fault::Empty));
            let refused = net.refusal::<KMSGeneration::EmptyKeyDigests>(net.answer(0, &key)).await;
            assert_eq!(refused.keyId, key.id);
            core.change(|behaviour| behaviour.fault = None);
        }
        // Kinds of keys are an enum.
        core.change(|behaviour| behaviour.fault = Some(Fault::UnknownKeyType));
        let error = net.send(net.answer(0, &key)).await.expect_err("no contract has this kind");
        assert!(error.revert().is_none_or(|data| data.is_empty()), "{error}");
        core.change(|behaviour| behaviour.fault = None);
        net.send(net.answer(0, &key)).await.unwrap();
        net.refusal::<KMSGeneration::KmsAlreadySignedForKeygen>(net.answer(0, &key)).await;
        net.send(net.answer(0, &crs)).await.unwrap();
        net.refusal::<KMSGeneration::KmsAlreadySignedForCrsgen>(net.answer(0, &crs)).await;

        let beyond = |request: &KeyRequest| {
            let later = KeyRequest { id: request.id + U256::from(1), ..request.clone() };
            net.answer(2, &later)
        };
        if variant.since(Variant::G10) {
            net.refusal::<KMSGeneration::PrepKeygenNotRequested>(beyond(&preparation)).await;
            net.refusal::<KMSGeneration::KeygenNotRequested>(beyond(&key)).await;
            net.refusal::<KMSGeneration::CrsgenNotRequested>(beyond(&crs)).await;
            let call = net.call(&KMSGeneration::keygenCall { paramsType: 1 });
            let refused = net.refusal::<KMSGeneration::KeygenOngoing>(call).await;
            assert_eq!(refused.keyId, key.id);
            let bits = U256::from(BITS);
            let call =
                net.call(&KMSGeneration::crsgenRequestCall { maxBitLength: bits, paramsType: 1 });
            net.refusal::<KMSGeneration::CrsgenOngoing>(call).await;
        } else {
            // The key of a number that was never given is of no preparation.
            net.refusal::<KMSGeneration::NotKmsSigner>(beyond(&key)).await;
        }
    }
}

#[tokio::test]
async fn the_gateways_contract_tells_its_version_and_writes_nothing_from_g13_on() {
    let net = Net::up(Variant::G12).await.unwrap();
    let keys = &net.keys;
    for (variant, version) in [
        (Variant::V0_9_0, "KMSGeneration v0.1.0"),
        (Variant::V0_9_7, "KMSGeneration v0.3.0"),
        (Variant::G10, "KMSGeneration v0.4.0"),
        (Variant::G12, "KMSGeneration v0.4.0"),
        (Variant::G13, "KMSGeneration v0.5.0"),
        (Variant::Head, "KMSGeneration v0.5.0"),
    ] {
        let deployment =
            Deployment::deploy(&keys.chain, variant, &[], &[], Thresholds::ONE).await.unwrap();
        let keys = KeyGeneration::on_gateway(&deployment).await.unwrap();
        let told = keys.view(KMSGeneration::getVersionCall {}).await.unwrap();
        assert_eq!(told, version, "{variant:?}");
        let writes = keys.view(KMSGeneration::keygenCall { paramsType: 0 }).await;
        if variant.since(Variant::G13) {
            assert_absent(writes);
            assert_absent(keys.view(KMSGeneration::getActiveKeyIdCall {}).await);
            assert_absent(keys.view(OnGateway::prssInitCall {}).await);
        } else {
            writes.unwrap();
        }
        if variant == Variant::V0_9_0 {
            assert_absent(keys.view(OnGateway::prssInitCall {}).await);
        }
    }
}

#[tokio::test]
async fn prss_and_resharing_are_told_and_so_is_anything_else() {
    let net = Net::up(Variant::G12).await.unwrap();
    let receipt = net.keys.send(&OnGateway::prssInitCall {}).await.unwrap();
    assert_eq!(receipt.logs[0].topics, [OnGateway::PRSSInit::SIGNATURE_HASH]);
    let preparation = net.keys.keygen().await.unwrap();
    let key = preparation.key();
    for party in 0..2 {
        net.send(net.answer(party, &preparation)).await.unwrap();
    }
    for party in 0..2 {
        net.send(net.answer(party, &key)).await.unwrap();
    }
    let receipt = net.keys.send(&OnGateway::keyReshareSameSetCall { keyId: key.id }).await;
    let log = &receipt.unwrap().logs[0];
    let event = OnGateway::KeyReshareSameSet::decode_raw_log(log.topics.iter().copied(), &log.data)
        .unwrap();
    assert_eq!((event.prepKeygenId, event.keyId), (preparation.id, key.id));
    assert_eq!(event.keyReshareId, (U256::from(6) << 248) | U256::from(1));
    let again = raw(&OnGateway::KeygenRequest { prepKeygenId: preparation.id, keyId: key.id });
    let receipt = net.keys.emit_raw(vec![again.clone(), again]).await.unwrap();
    assert_eq!(receipt.logs.len(), 2);
    assert_eq!(receipt.logs[0].data, receipt.logs[1].data);
}

#[tokio::test]
async fn ethereum_keeps_the_context_of_a_request_and_can_abort_it() {
    for variant in ON_ETHEREUM {
        let net = Net::up(variant).await.unwrap();
        let keys = &net.keys;
        let preparation = keys.keygen().await.unwrap();
        let key = preparation.key();
        let (version, length) = if variant == Variant::G13 { (1, 33) } else { (2, 65) };
        assert_eq!(preparation.extra_data.len(), length, "{variant:?}");
        assert_eq!(preparation.extra_data[..2], [version, 7]);
        net.send(net.answer(0, &preparation)).await.unwrap();

        let unknown = net.call(&OnEthereum::abortKeygenCall { prepKeygenId: key.id });
        net.refusal::<OnEthereum::AbortKeygenInvalidId>(unknown).await;
        let abort = net.call(&OnEthereum::abortKeygenCall { prepKeygenId: preparation.id });
        let receipt = net.send(abort.clone()).await.unwrap();
        assert_eq!(receipt.logs[0].topics, [OnEthereum::AbortKeygen::SIGNATURE_HASH]);
        net.refusal::<OnEthereum::AbortKeygenAlreadyDone>(abort).await;
        for id in [preparation.id, key.id] {
            assert!(keys.view(OnEthereum::isRequestDoneCall { requestId: id }).await.unwrap());
        }
        // Taken, and without an effect.
        let response = KMSGeneration::PrepKeygenResponse::SIGNATURE_HASH;
        assert_eq!(net.told(1, &preparation).await, [response]);
        let materials = keys.view(KMSGeneration::getKeyMaterialsCall { keyId: key.id }).await;
        assert!(reverted::<OnEthereum::KeyAborted>(&materials.unwrap_err()).is_some());

        let crs = keys.crsgen().await.unwrap();
        let abort = net.call(&OnEthereum::abortCrsgenCall { crsId: crs.id });
        net.send(abort.clone()).await.unwrap();
        net.refusal::<OnEthereum::AbortCrsgenAlreadyDone>(abort).await;
        let unknown = net.call(&OnEthereum::abortCrsgenCall { crsId: key.id });
        net.refusal::<OnEthereum::AbortCrsgenInvalidId>(unknown).await;
        let materials = keys.view(KMSGeneration::getCrsMaterialsCall { crsId: crs.id }).await;
        assert!(reverted::<OnEthereum::CrsAborted>(&materials.unwrap_err()).is_some());

        let preparation = keys.keygen().await.unwrap();
        let key = preparation.key();
        for request in [&preparation, &key] {
            for party in 0..2 {
                net.send(net.answer(party, request)).await.unwrap();
            }
        }
        if variant == Variant::G13 {
            assert_absent(keys.view(OnEthereum::getCompletedKeyIdsCall {}).await);
            continue;
        }
        let completed = keys.view(OnEthereum::getCompletedKeyIdsCall {}).await.unwrap();
        assert_eq!(completed, [key.id], "the aborted one is none");
        assert!(keys.view(OnEthereum::getCompletedCrsIdsCall {}).await.unwrap().is_empty());
        let info = keys.view(OnEthereum::getKeyInfoCall { keyId: key.id }).await.unwrap();
        assert_eq!((info.prepKeygenId, info.paramsType), (preparation.id, 1));
        assert_eq!(info.keyDigests.len(), 2);
    }
}
