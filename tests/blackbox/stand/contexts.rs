//! The test contracts of the generations with KMS contexts behave as the protocol's tables say.

use alloy::{
    primitives::{Address, B256, Bytes, Signature, U256, b256},
    sol_types::SolEvent,
};
use serde_json::{Value, json};
use world::{
    Result,
    contracts::{Decryption, G8, GatewayConfig, HostChain, Proxy, Variant, raw, reverted},
    deployment::{Node, Store, Thresholds},
    ministack::Bucket,
    random_address, random_key,
    request::{Ask, Issued, Kind, fhe},
    rpc::Call,
};

use super::contracts::{Net, Party, assert_absent, payload};

/// `request` as if it had been asked with other `extraData`: an answer to it carries those.
fn with_extra(request: &Issued, extra_data: Vec<u8>) -> Issued {
    Issued { extra_data: extra_data.into(), ..request.clone() }
}

/// `extraData` of version 1 or 2 that names a context.
fn naming(version: u8, context: U256) -> Vec<u8> {
    let mut bytes = vec![version];
    bytes.extend(context.to_be_bytes::<32>());
    bytes
}

/// Field failure T41.
#[tokio::test]
async fn from_g12_on_the_context_decides_and_not_the_sender() {
    for variant in Variant::WITH_CONTEXTS {
        let net = Net::up(variant, 1).await.unwrap();
        let asks = vec![Ask::public(&[fhe::UINT8]), Ask::user(&[fhe::UINT8])];
        for ask in asks {
            let request = net.deployment.request(vec![ask]).await.unwrap().remove(0);
            contexts_of_one(&net, &request).await.unwrap();
        }
    }
}

async fn contexts_of_one(net: &Net, request: &Issued) -> Result<()> {
    let variant = net.deployment.variant;
    let pins = variant.since(Variant::G13);
    let (party, other) = (&net.parties[0], &net.parties[1]);
    let (text, garbage) = (payload("the answer"), Bytes::from_static(&[1; 64]));
    let context = net.deployment.context().await?;
    let answer = |extra: Vec<u8>| net.answer(party, &with_extra(request, extra), &text);
    // Whatever else is wrong: the request's id first, then its `extraData`, then the signature.
    let broken = |extra: Vec<u8>| {
        let request = with_extra(request, extra);
        net.deployment.respond(party.wallet, &request, &text, &garbage)
    };
    let unknown = Issued { id: request.id + U256::from(1000), ..with_extra(request, vec![9]) };
    let call = net.deployment.respond(party.wallet, &unknown, &text, &garbage);
    net.refusal::<Decryption::DecryptionNotRequested>(call).await;
    let mut versions = vec![3, 255];
    if !variant.since(Variant::G14) {
        versions.push(2);
    }
    for version in versions {
        let call = broken(naming(version, context));
        let refused = net.refusal::<Decryption::UnsupportedExtraDataVersion>(call).await;
        assert_eq!(refused.version, version, "{variant:?}");
    }
    let mut short = naming(1, context);
    short.pop();
    let refused = net.refusal::<Decryption::InvalidExtraDataLength>(broken(short)).await;
    assert_eq!((refused.length, refused.expected), (U256::from(32), U256::from(33)), "{variant:?}");
    let nowhere = context + U256::from(77);
    if pins {
        let call = broken(naming(1, U256::ZERO));
        net.refusal::<Decryption::InvalidNullContextId>(call).await;
        let call = broken(naming(1, nowhere));
        let refused = net.refusal::<Decryption::DecryptionContextMismatch>(call).await;
        assert_eq!(refused.decryptionId, request.id, "{variant:?}");
        let contexts = (refused.requestContextId, refused.responseContextId);
        assert_eq!(contexts, (context, nowhere), "{variant:?}");
    } else {
        for context in [U256::ZERO, nowhere] {
            let refused = net.refusal::<Decryption::NotKmsSigner>(answer(naming(1, context))).await;
            assert_eq!(refused.signer, party.core.address(), "{variant:?}");
        }
    }
    net.refusal::<Decryption::ECDSAInvalidSignatureLength>(broken(vec![0, 1, 2])).await;

    // The signer is of the context, and the sender is the same node.
    let stranger = random_address();
    net.anvil.fund(stranger).await?;
    let signature = net.signature(&random_key(), request, &text);
    let call = net.deployment.respond(stranger, request, &text, &signature);
    net.refusal::<Decryption::NotKmsSigner>(call).await;
    let signature = net.signature(&party.core, request, &text);
    for sender in [stranger, other.wallet] {
        let call = net.deployment.respond(sender, request, &text, &signature);
        let refused = net.refusal::<Decryption::KmsSignerDoesNotMatchTxSender>(call).await;
        assert_eq!((refused.signer, refused.txSender), (party.core.address(), sender));
    }

    // A new context without this node: "none named" is the current one from now on.
    let nodes = [net.parties[1].node(), net.parties[2].node()];
    let later = net.deployment.new_context(&nodes, Thresholds { public: 2, user: 2 }).await?;
    if pins {
        let call = answer(Vec::new());
        let refused = net.refusal::<Decryption::DecryptionContextMismatch>(call).await;
        let contexts = (refused.requestContextId, refused.responseContextId);
        assert_eq!(contexts, (context, later), "{variant:?}");
    } else {
        net.refusal::<Decryption::NotKmsSigner>(answer(Vec::new())).await;
    }
    // Named, the old one still decides, also how many are enough.
    net.send(answer(naming(1, context))).await?;
    assert!(net.done(request.id).await, "{variant:?}");
    let call = answer(naming(1, context));
    net.refusal::<Decryption::KmsNodeAlreadySigned>(call).await;
    if pins {
        // Once it is destroyed nothing is taken; what is no signature is said first.
        net.deployment.destroy_context(context).await?;
        let named = with_extra(request, naming(1, context));
        let call = net.answer(other, &named, &text);
        let refused = net.refusal::<Decryption::InvalidKmsContext>(call).await;
        assert_eq!(refused.contextId, context, "{variant:?}");
        let call = broken(naming(1, context));
        net.refusal::<Decryption::ECDSAInvalidSignatureLength>(call).await;
    }
    // The next one starts with all nodes again.
    let nodes: Vec<_> = net.parties.iter().map(Party::node).collect();
    net.deployment.new_context(&nodes, Thresholds::ONE).await?;
    Ok(())
}

#[tokio::test]
async fn the_registry_answers_by_context() {
    for variant in Variant::WITH_CONTEXTS {
        let net = Net::up(variant, 1).await.unwrap();
        let first = net.deployment.context().await.unwrap();
        let (party, other) = (&net.parties[0], &net.parties[1]);
        let moved = Node { signer: random_address(), ..party.node() };
        let two = Thresholds { public: 1, user: 2 };
        let second = net.deployment.new_context(&[moved], two).await.unwrap();
        assert_eq!(second, first + U256::ONE);

        let signer_in = async |context, wallet| {
            let call =
                GatewayConfig::getKmsNodeForContextCall { contextId: context, txSender: wallet };
            net.config(call).await.map(|node| node.signerAddress)
        };
        assert_eq!(signer_in(first, party.wallet).await.unwrap(), party.core.address());
        assert_eq!(signer_in(second, party.wallet).await.unwrap(), moved.signer);
        assert_eq!(signer_in(second, other.wallet).await.unwrap(), Address::ZERO);
        let signers = async |context| {
            net.config(GatewayConfig::getKmsSignersForContextCall { contextId: context }).await
        };
        assert_eq!(signers(first).await.unwrap().len(), 3);
        assert_eq!(signers(second).await.unwrap(), [moved.signer]);
        let user = async |context| {
            let call =
                GatewayConfig::getUserDecryptionThresholdForContextCall { contextId: context };
            net.config(call).await
        };
        assert_eq!(user(first).await.unwrap(), U256::ONE);
        assert_eq!(user(second).await.unwrap(), U256::from(2));
        // Those without a context are of the current one, or gone.
        assert_eq!(net.config(GatewayConfig::getKmsSignersCall {}).await.unwrap(), [moved.signer]);
        assert_absent(net.config(GatewayConfig::getUserDecryptionThresholdCall {}).await);

        let nowhere = second + U256::from(5);
        if variant == Variant::G12 {
            assert_eq!(signers(nowhere).await.unwrap(), [] as [Address; 0]);
            assert_eq!(user(nowhere).await.unwrap(), U256::ZERO);
            assert_absent(net.deployment.destroy_context(first).await);
            continue;
        }
        net.deployment.destroy_context(first).await.unwrap();
        for context in [first, nowhere, U256::ZERO] {
            let error = signers(context).await.unwrap_err();
            let refused = reverted::<GatewayConfig::InvalidKmsContext>(&error);
            assert_eq!(refused.map(|e| e.contextId), Some(context), "{variant:?}");
            assert!(signer_in(context, party.wallet).await.is_err());
            assert!(user(context).await.is_err());
            let call = GatewayConfig::isValidKmsContextCall { contextId: context };
            assert!(!net.config(call).await.unwrap());
            // Nor can a request name it.
            let ask = Ask::public(&[fhe::UINT8]).extra_data(naming(1, context));
            for call in net.deployment.commits(std::slice::from_ref(&ask)) {
                net.send(call).await.unwrap();
            }
            let call = net.deployment.request_call(&ask).unwrap();
            if context == U256::ZERO {
                net.refusal::<Decryption::InvalidNullContextId>(call).await;
            } else {
                net.refusal::<Decryption::InvalidKmsContext>(call).await;
            }
        }
        let error = net.deployment.destroy_context(second).await.unwrap_err();
        assert!(reverted::<GatewayConfig::CurrentKmsContextCannotBeDestroyed>(&error).is_some());
    }
}

#[tokio::test]
async fn coprocessors_and_host_chains_stand_in_the_registry() {
    let net = Net::up(Variant::Head, 1).await.unwrap();
    let threshold =
        async || net.config(GatewayConfig::getCoprocessorMajorityThresholdCall {}).await;
    let senders: Vec<Address> = (0..4).map(|_| random_address()).collect();
    for sender in &senders {
        net.deployment.set_bucket(*sender, "http://127.0.0.1:9/c").await.unwrap();
    }
    assert_eq!(threshold().await.unwrap(), U256::from(3));
    net.deployment.set_coprocessor_threshold(2).await.unwrap();
    assert_eq!(threshold().await.unwrap(), U256::from(2));
    let signers = net.config(GatewayConfig::getCoprocessorSignersCall {}).await.unwrap();
    let store = |sender: &Address| Store {
        tx_sender: *sender,
        bucket: Bucket::new("http://127.0.0.1:9/c").unwrap(),
    };
    let expected: Vec<_> = senders.iter().map(|s| store(s).signer().address()).collect();
    assert_eq!(signers, expected);

    let chain = HostChain {
        chainId: U256::from(12_345),
        fhevmExecutorAddress: random_address(),
        aclAddress: random_address(),
        name: "a host chain".into(),
        website: String::new(),
    };
    let call = GatewayConfig::addHostChainCall { hostChain: chain.clone() };
    net.send(Call::new(net.deployment.gateway_config, &call)).await.unwrap();
    assert_eq!(net.config(GatewayConfig::getHostChainsCall {}).await.unwrap(), [chain]);
    for (id, registered) in [(12_345, true), (1, false)] {
        let call = GatewayConfig::isHostChainRegisteredCall { chainId: U256::from(id) };
        assert_eq!(net.config(call).await.unwrap(), registered);
    }
}

/// The events of each kind of request: one up to v0.14, two with one id at HEAD.
#[tokio::test]
async fn from_g12_on_requests_come_by_the_protocols_functions() {
    for variant in Variant::WITH_CONTEXTS {
        let net = Net::up(variant, 1).await.unwrap();
        let deployment = &net.deployment;
        let two = [fhe::UINT8, fhe::UINT64];
        let mut asks = vec![Ask::public(&two), Ask::user(&two), Ask::user(&two).delegated()];
        if variant.since(Variant::G14) {
            asks.push(Ask::user(&two).unified());
            asks.push(Ask::user(&two).delegated().unified());
        }
        let issued = deployment.request(asks.clone()).await.unwrap();
        for (ask, request) in asks.iter().zip(&issued) {
            let receipt = net.deployment.chain.receipt(request.transaction).await.unwrap();
            assert_eq!(receipt.to, Some(deployment.decryption));
            let transaction: Value = deployment
                .chain
                .rpc("eth_getTransactionByHash", json!([request.transaction]))
                .await
                .unwrap();
            let input: Bytes = serde_json::from_value(transaction["input"].clone()).unwrap();
            assert_eq!(input, ask.calldata(deployment.domain()).unwrap());
            let twice = if variant == Variant::Head { 2 } else { 1 };
            assert_eq!(receipt.logs.len(), twice, "{variant:?}");
            assert!(receipt.logs.iter().all(|log| log.topics[1] == B256::from(request.id)));
            let logs: Vec<_> =
                receipt.logs.iter().map(|log| (log.topics.clone(), log.data.clone())).collect();
            let told = deployment.told(ask, request.id).unwrap().map(|log| (log.topics, log.data));
            let expected: Vec<_> = told.into_iter().take(twice).collect();
            assert_eq!(logs, expected, "{variant:?} {ask:?}");
            if ask.kind == Kind::User {
                let signature = ask.signature(deployment.domain()).unwrap();
                let signature = Signature::from_raw(&signature).unwrap();
                let digest = ask.user_digest(deployment.domain());
                assert_eq!(signature.recover_address_from_prehash(&digest).unwrap(), ask.user);
            }
            let call = net.answer(&net.parties[0], request, &payload("the answer"));
            net.send(call).await.unwrap();
        }
        // Nothing without its materials; nothing unified before v0.14 or without handles.
        let call = deployment.request_call(&Ask::user(&two)).unwrap();
        net.refusal::<Decryption::CiphertextMaterialNotFound>(call).await;
        let call = deployment.request_call(&Ask::user(&[]).unified()).unwrap();
        if variant.since(Variant::G14) {
            net.refusal::<Decryption::EmptyHandles>(call).await;
        } else {
            assert_absent(net.send(call).await);
        }
    }
}

#[tokio::test]
async fn one_address_goes_through_all_generations() {
    let mut net = Net::up(Variant::G10, 1).await.unwrap();
    let mut asked = net.deployment.request_public(1).await.unwrap();
    let slot = b256!("360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc");
    let mut codes = Vec::new();
    for variant in [Variant::G12, Variant::G13, Variant::G14, Variant::Head] {
        let place = json!([net.deployment.decryption, slot, "latest"]);
        let code: B256 = net.deployment.chain.rpc("eth_getStorageAt", place).await.unwrap();
        assert!(!code.is_zero() && !codes.contains(&code), "{variant:?}");
        codes.push(code);

        let calls = net.deployment.upgrade_calls(variant, variant).await.unwrap();
        for (call, address) in
            calls.into_iter().zip([net.deployment.gateway_config, net.deployment.decryption])
        {
            let receipt = net.send(call).await.unwrap();
            assert_eq!(receipt.logs[0].topics[0], Proxy::Upgraded::SIGNATURE_HASH);
            assert_eq!(receipt.logs[0].address, address);
        }
        net.deployment.variant = variant;
        let version = net.view(Decryption::getVersionCall {}).await.unwrap();
        assert_eq!(version, variant.decryption_version());
        asked.extend(net.deployment.request_public(1).await.unwrap());
    }
    let counted: Vec<_> = asked.iter().map(|request| request.id & (U256::MAX >> 8)).collect();
    assert_eq!(counted, (1..=5).map(U256::from).collect::<Vec<_>>());
    // What was asked before v0.13 has no context of its own: that of the answer decides.
    let first = net.deployment.context().await.unwrap();
    let two = [net.parties[1].node()];
    net.deployment.new_context(&two, Thresholds::ONE).await.unwrap();
    for (request, made) in asked.iter().zip(["G10", "G12", "G13", "G14", "HEAD"]) {
        let pinned = net.view(Decryption::pinnedContextCall { id: request.id }).await.unwrap();
        let call = net.answer(&net.parties[1], request, &payload("the answer"));
        if ["G10", "G12"].contains(&made) {
            assert_eq!(pinned, U256::ZERO);
            net.send(call).await.unwrap();
        } else {
            assert_eq!(pinned, first);
            net.refusal::<Decryption::DecryptionContextMismatch>(call).await;
            let named = with_extra(request, naming(1, first));
            net.send(net.answer(&net.parties[0], &named, &payload("the answer"))).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_request_can_be_told_as_it_was_not_made() {
    let net = Net::up(Variant::Head, 1).await.unwrap();
    let deployment = &net.deployment;
    let ask = Ask::user(&[fhe::UINT8]);
    let lie = raw(&G8::UserDecryptionRequest {
        decryptionId: (U256::from(2) << 248) + U256::ONE,
        snsCtMaterials: deployment.materials(&ask),
        userAddress: ask.user,
        publicKey: payload("somebody else's"),
        extraData: Bytes::new(),
    });
    let mut calls = deployment.commits(std::slice::from_ref(&ask));
    calls.push(deployment.tell_next_as(vec![lie.clone()]));
    calls.push(deployment.request_call(&ask).unwrap());
    calls.push(deployment.request_call(&ask).unwrap());
    let receipts = deployment.chain.send_all(calls).await.unwrap();
    let [.., lied, honest] = receipts.as_slice() else { panic!("{receipts:?}") };
    assert_eq!(lied.logs.len(), 1);
    assert_eq!((&lied.logs[0].topics, &lied.logs[0].data), (&lie.topics, &lie.data));
    assert_eq!(honest.logs.len(), 2, "only the next one");
    let request = deployment.issued(ask, &lied.logs[0]);
    net.send(net.answer(&net.parties[0], &request, &payload("as asked"))).await.unwrap();
}
