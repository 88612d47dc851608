//! Contexts and epochs on Ethereum: the contract behaves as the protocol's tables say, and takes what the
//! stub of a Core answers to what a careful node asks it.

use alloy::{
    primitives::{Address, B256, Bytes, U256, b256, fixed_bytes},
    signers::local::PrivateKeySigner,
    sol_types::{SolCall, SolError, SolEvent, SolValue},
};
use world::{
    Error, Result,
    anvil::{Anvil, AnvilOptions},
    contracts::{Variant, reverted},
    core_stub::{CoreOptions, CoreStub, CoreVersion, Fault, Lifecycle},
    deployment::{Node, Thresholds},
    host::Host,
    host_contracts::ProtocolConfig,
    key_generation::{KeyGeneration, KeyRequest},
    lifecycle::data_hash,
    proto::kms::v1,
    random_address, random_key,
    rpc::{Call, Receipt},
};

use super::contracts::assert_absent;

const LIVING: [Variant; 2] = [Variant::G14, Variant::Head];
const AGREE: Thresholds = Thresholds { public: 2, user: 2 };

/// A chain with the contracts of Ethereum, and nodes of which the first four are its context.
struct Net {
    _dir: tempfile::TempDir,
    _anvil: Anvil,
    host: Host,
    keys: KeyGeneration,
    parties: Vec<Party>,
}

struct Party {
    wallet: Address,
    signer: PrivateKeySigner,
    core: CoreStub,
}

impl Party {
    fn node(&self) -> Node {
        Node { wallet: self.wallet, signer: self.signer.address() }
    }
}

impl Net {
    async fn up(variant: Variant) -> Result<Self> {
        let dir = tempfile::tempdir().map_err(|e| Error::Io("tempdir".into(), e))?;
        let options = AnvilOptions { block_time: None, ..AnvilOptions::default() };
        let anvil = Anvil::start(dir.path(), options).await?;
        let own: Vec<_> = (0..6).map(|_| (random_address(), random_key())).collect();
        let nodes: Vec<Node> = own
            .iter()
            .take(4)
            .map(|(wallet, signer)| Node { wallet: *wallet, signer: signer.address() })
            .collect();
        let host = Host::deploy(anvil.chain(), variant, &nodes, AGREE).await?;
        let keys = KeyGeneration::on_ethereum(&host).await?;
        let version = if variant == Variant::Head { CoreVersion::Head } else { CoreVersion::V0_14 };
        let mut parties = Vec::new();
        for (wallet, signer) in own {
            anvil.fund(wallet).await?;
            let core = CoreStub::start(CoreOptions {
                signer: signer.clone(),
                key_generation: Some((keys.chain_id, keys.address)),
                protocol_config: Some((host.chain_id, host.protocol_config)),
                ..CoreOptions::new(version, keys.chain_id, Address::ZERO)
            });
            parties.push(Party { wallet, signer, core: core.await });
        }
        Ok(Self { _dir: dir, _anvil: anvil, host, keys, parties })
    }

    fn nodes(&self, parties: &[usize]) -> Vec<Node> {
        parties.iter().map(|party| self.parties[*party].node()).collect()
    }

    async fn send(&self, call: Call) -> Result<Receipt> {
        self.host.chain.send(call).await
    }

    /// The custom error the call is refused with.
    async fn refusal<E: SolError>(&self, call: Call) -> E {
        let error = self.send(call).await.expect_err("the contract should refuse this");
        reverted::<E>(&error).unwrap_or_else(|| panic!("expected {}, got {error}", E::SIGNATURE))
    }

    fn call(&self, function: &impl SolCall) -> Call {
        Call::new(self.host.protocol_config, function)
    }

    /// A key and a CRS, made by the first two.
    async fn with_material(&self) -> (KeyRequest, KeyRequest) {
        let preparation = self.keys.keygen().await.expect("the world of the test answers");
        let key = preparation.key();
        let crs = self.keys.crsgen().await.expect("the world of the test answers");
        for request in [&preparation, &key, &crs] {
            for Party { wallet, core, .. } in &self.parties[..2] {
                self.send(self.keys.answer(*wallet, core, request))
                    .await
                    .expect("the world of the test answers");
            }
        }
        (key, crs)
    }

    /// A party's Core has a context.
    async fn make_context(&self, party: usize, context: U256) {
        let request =
            self.host.context_request(context).await.expect("the world of the test answers");
        let core = &self.parties[party].core;
        super::core_lifecycle::make_context(core, &request)
            .await
            .expect("the world of the test answers");
    }

    async fn epoch(&self, epoch: U256) -> v1::NewMpcEpochRequest {
        self.host.epoch_request(&self.keys, epoch).await.expect("the world of the test answers")
    }

    /// The activation that a party sends for a pending epoch.
    async fn activation(&self, party: usize, epoch: U256) -> Call {
        let request = self.epoch(epoch).await;
        let Party { wallet, core, .. } = &self.parties[party];
        self.host.confirm_epoch(*wallet, epoch, &core.epoch_result(&request))
    }
}

fn topics(receipt: &Receipt) -> Vec<B256> {
    receipt.logs.iter().map(|log| log.topics[0]).collect()
}

#[test]
fn signatures_are_those_of_the_protocol() {
    for (ours, protocol) in [
        (
            ProtocolConfig::NewKmsContext::SIGNATURE_HASH,
            b256!("204d6b80121154cd87d99cf54c639a3dd0a53b3084277098de972ebdd34c6be9"),
        ),
        (
            ProtocolConfig::NewKmsEpoch::SIGNATURE_HASH,
            b256!("15aaaf475ef407543f5164f57dcf57f7f93816f55bae77ca09efc445ba40eef7"),
        ),
        (
            ProtocolConfig::ActivateEpoch::SIGNATURE_HASH,
            b256!("1a547b42e72cd3dda04e6adccd2200276cfef01fe2138d07f3a7440f416d38bc"),
        ),
        (
            ProtocolConfig::KmsContextDestroyed::SIGNATURE_HASH,
            b256!("da075d09198d207e3a918d4b8dfc87df2d60a00be703fd39eaac90962da0b7f0"),
        ),
        (
            ProtocolConfig::KmsEpochDestroyed::SIGNATURE_HASH,
            b256!("03436013075f8d1abb1781dbcaf418fc76fc797d1ab51c38664c1a51f3cd57f9"),
        ),
        (
            ProtocolConfig::KmsContextCreationConfirmation::SIGNATURE_HASH,
            b256!("b79c48003695b6ebe555afa36fad071deeee75eb3718ad63de5621d35ba44b4f"),
        ),
        (
            ProtocolConfig::EpochActivationConfirmation::SIGNATURE_HASH,
            b256!("7eda6f85e23b7b91c019b0570d02b663606ef9d74594f7e01fcfbdb0f4e954d5"),
        ),
        (
            ProtocolConfig::MirrorKmsContextAndEpoch::SIGNATURE_HASH,
            b256!("2ac68f78f4ccde76b64906026d01ff3c42403eb7eef86fe788474a23267d64cf"),
        ),
        (
            ProtocolConfig::MirrorKmsEpoch::SIGNATURE_HASH,
            b256!("0a1c24c2ba5e6e1b1a8585795e5b781e372aee1db686247dac7574c10fd735a6"),
        ),
    ] {
        assert_eq!(ours, protocol);
    }
    for (name, ours, protocol) in [
        (
            "context",
            ProtocolConfig::confirmKmsContextCreationCall::SELECTOR,
            fixed_bytes!("d9be2de4"),
        ),
        ("epoch", ProtocolConfig::confirmEpochActivationCall::SELECTOR, fixed_bytes!("4cb950e1")),
        (
            "quorum",
            ProtocolConfig::getContextCreationPreviousTxSenderThresholdCall::SELECTOR,
            fixed_bytes!("3e6316ea"),
        ),
        (
            "context twice",
            ProtocolConfig::KmsContextCreationAlreadyConfirmed::SELECTOR,
            fixed_bytes!("62585cc8"),
        ),
        ("no more", ProtocolConfig::KmsContextNotPending::SELECTOR, fixed_bytes!("3586efa1")),
        (
            "stranger",
            ProtocolConfig::KmsContextCreationUnauthorized::SELECTOR,
            fixed_bytes!("b81df8e8"),
        ),
        (
            "epoch twice",
            ProtocolConfig::EpochActivationAlreadyConfirmed::SELECTOR,
            fixed_bytes!("49417636"),
        ),
        ("no more", ProtocolConfig::InvalidKmsEpoch::SELECTOR, fixed_bytes!("7995bbcf")),
        (
            "stranger",
            ProtocolConfig::EpochActivationUnauthorized::SELECTOR,
            fixed_bytes!("a3f4afeb"),
        ),
        ("not yet", ProtocolConfig::KmsContextNotCreated::SELECTOR, fixed_bytes!("32c5b9f6")),
        ("unknown", ProtocolConfig::InvalidKmsContext::SELECTOR, fixed_bytes!("77ddbe81")),
        (
            "empty",
            ProtocolConfig::EmptyEpochActivationAttestation::SELECTOR,
            fixed_bytes!("ce9440df"),
        ),
        (
            "signer",
            ProtocolConfig::EpochActivationSignerDoesNotMatchTxSender::SELECTOR,
            fixed_bytes!("f1735b46"),
        ),
        (
            "owner",
            ProtocolConfig::KmsLifecycleOperationInFlight::SELECTOR,
            fixed_bytes!("078020be"),
        ),
    ] {
        assert_eq!(ours, protocol, "{name}");
    }
}

/// Four become five, and one of the four leaves.
#[tokio::test]
async fn a_context_is_created_by_old_and_new_and_its_epoch_activated_by_all_of_the_new() {
    for variant in LIVING {
        let net = Net::up(variant).await.unwrap();
        let host = &net.host;
        let (first, first_epoch) = host.in_force().await.unwrap();
        let (key, crs) = net.with_material().await;
        let context = host.define_context(&net.nodes(&[1, 2, 3, 4, 5]), AGREE).await.unwrap();
        let call = ProtocolConfig::getContextCreationPreviousTxSenderThresholdCall {
            kmsContextId: context,
        };
        assert_eq!(host.protocol(call).await.unwrap(), U256::from(3));
        let event = host.new_kms_context(context).await.unwrap();
        assert_eq!((event.previousContextId, event.kmsNodeParams.len()), (first, 5));

        // All new ones and three of the old: the leaving one's comes before the last.
        let confirmation = ProtocolConfig::KmsContextCreationConfirmation::SIGNATURE_HASH;
        for party in [5, 0, 1, 2, 3] {
            let call = host.confirm_context(net.parties[party].wallet, context);
            assert_eq!(topics(&net.send(call).await.unwrap()), [confirmation], "{party}");
        }
        let call = host.confirm_context(net.parties[4].wallet, context);
        let receipt = net.send(call).await.unwrap();
        let opened = ProtocolConfig::NewKmsEpoch::SIGNATURE_HASH;
        assert_eq!(topics(&receipt), [confirmation, opened]);
        let confirmed = host.confirmations(context).await.unwrap();
        assert_eq!(confirmed.len(), 6);
        assert_eq!(confirmed[1].by, net.parties[0].wallet);

        let epoch = first_epoch + U256::ONE;
        let event = host.new_kms_epoch(epoch).await.unwrap();
        assert_eq!(
            (event.kmsContextId, event.previousContextId, event.previousEpochId),
            (context, first, first_epoch)
        );
        let request = net.epoch(epoch).await;
        let previous = request.previous_epoch.clone().unwrap();
        let id = |id: &Option<v1::RequestId>| id.clone().unwrap().request_id;
        assert_eq!(id(&previous.keys_info[0].key_id), format!("{:064x}", key.id));
        assert_eq!(id(&previous.crs_info[0].crs_id), format!("{:064x}", crs.id));
        for party in [0, 1, 2, 3, 4, 5] {
            net.make_context(party, context).await;
        }

        // Whoever leaves has signed nothing anew.
        let call = net.activation(0, epoch).await;
        net.refusal::<ProtocolConfig::EpochActivationUnauthorized>(call).await;
        let leaving = net.parties[0].core.epoch_result(&request);
        let call = host.confirm_epoch(net.parties[1].wallet, epoch, &leaving);
        net.refusal::<ProtocolConfig::EpochActivationSignerDoesNotMatchTxSender>(call).await;

        let confirmation = ProtocolConfig::EpochActivationConfirmation::SIGNATURE_HASH;
        for party in [5, 4, 3, 2] {
            let call = net.activation(party, epoch).await;
            assert_eq!(topics(&net.send(call).await.unwrap()), [confirmation], "{party}");
        }
        assert_eq!(host.in_force().await.unwrap(), (first, first_epoch), "unanimity");
        let call = net.activation(1, epoch).await;
        let active = ProtocolConfig::ActivateEpoch::SIGNATURE_HASH;
        assert_eq!(topics(&net.send(call).await.unwrap()), [confirmation, active]);
        assert_eq!(host.in_force().await.unwrap(), (context, epoch));
        let hash = data_hash(&net.parties[1].core.epoch_result(&request));
        let confirmed = host.confirmations(epoch).await.unwrap();
        assert_eq!(confirmed.len(), 5);
        assert!(confirmed.iter().all(|one| one.dataHash == hash), "{confirmed:?}");
        assert_eq!(confirmed[0].by, net.parties[5].signer.address());

        // And an epoch in place, of the same keys.
        let epoch = host.new_epoch().await.unwrap();
        let event = host.new_kms_epoch(epoch).await.unwrap();
        assert_eq!((event.kmsContextId, event.previousContextId), (context, context));
        for party in [1, 2, 3, 4, 5] {
            net.send(net.activation(party, epoch).await).await.unwrap();
        }
        assert_eq!(host.in_force().await.unwrap(), (context, epoch));
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_confirmation_is_said_in_the_protocols_words() {
    for variant in LIVING {
        let net = Net::up(variant).await.unwrap();
        let host = &net.host;
        let (first, first_epoch) = host.in_force().await.unwrap();
        let own = |party: usize| net.parties[party].wallet;
        let none = host.confirm_context(own(0), first);
        let refused = net.refusal::<ProtocolConfig::KmsContextNotPending>(none).await;
        assert_eq!(refused.kmsContextId, first);
        let none = host.confirm_epoch(own(0), first_epoch, &v1::EpochResultResponse::default());
        net.refusal::<ProtocolConfig::InvalidKmsEpoch>(none).await;

        let context = host.define_context(&net.nodes(&[0, 1, 2, 3]), AGREE).await.unwrap();
        let stranger = host.confirm_context(own(4), context);
        let refused = net.refusal::<ProtocolConfig::KmsContextCreationUnauthorized>(stranger).await;
        assert_eq!((refused.caller, refused.kmsContextId), (own(4), context));
        net.send(host.confirm_context(own(0), context)).await.unwrap();
        let twice = host.confirm_context(own(0), context);
        let refused =
            net.refusal::<ProtocolConfig::KmsContextCreationAlreadyConfirmed>(twice).await;
        assert_eq!((refused.txSender, refused.kmsContextId), (own(0), context));
        let busy = net.call(&ProtocolConfig::defineNewEpochForCurrentKmsContextCall {});
        net.refusal::<ProtocolConfig::KmsLifecycleOperationInFlight>(busy).await;
        // The owner gives it up: nothing is left to confirm.
        host.destroy_context(context).await.unwrap();
        let late = host.confirm_context(own(1), context);
        net.refusal::<ProtocolConfig::KmsContextNotPending>(late).await;

        // Nothing was made yet: that cannot be attested.
        let epoch = host.new_epoch().await.unwrap();
        let empty = net.activation(0, epoch).await;
        net.refusal::<ProtocolConfig::EmptyEpochActivationAttestation>(empty).await;
        host.destroy_epoch(epoch).await.unwrap();
        net.with_material().await;
        let epoch = host.new_epoch().await.unwrap();
        let core = &net.parties[0].core;
        core.change(|behaviour| behaviour.fault = Some(Fault::ShortSignature));
        let short = net.activation(0, epoch).await;
        net.refusal::<ProtocolConfig::EpochActivationUnauthorized>(short.clone().from(own(4)))
            .await;
        let error = net.send(short).await.expect_err("64 bytes");
        let length = U256::from(64);
        let data = world::key_contracts::KMSGeneration::ECDSAInvalidSignatureLength { length };
        assert_eq!(error.revert(), Some(&Bytes::from(data.abi_encode())));
        core.change(|behaviour| behaviour.fault = None);
        core.set_signer(random_key());
        let other = net.activation(0, epoch).await;
        net.refusal::<ProtocolConfig::EpochActivationSignerDoesNotMatchTxSender>(other).await;
        core.set_signer(net.parties[0].signer.clone());
        net.send(net.activation(0, epoch).await).await.unwrap();
        let twice = net.activation(0, epoch).await;
        let refused = net.refusal::<ProtocolConfig::EpochActivationAlreadyConfirmed>(twice).await;
        assert_eq!(refused.signer, net.parties[0].signer.address());

        // One who came to something else is never unanimous with the others.
        net.parties[1].core.change(|behaviour| behaviour.fault = Some(Fault::Diverges));
        for party in 1..4 {
            net.send(net.activation(party, epoch).await).await.unwrap();
        }
        assert_eq!(host.in_force().await.unwrap(), (first, first_epoch));
        host.destroy_epoch(epoch).await.unwrap();
        let late = net.activation(0, epoch).await;
        net.refusal::<ProtocolConfig::InvalidKmsEpoch>(late).await;

        let data: Bytes =
            ProtocolConfig::KmsContextNotCreated { kmsContextId: first }.abi_encode().into();
        host.fail_confirmations(Some(data)).await.unwrap();
        let epoch = host.new_epoch().await.unwrap();
        let call = host.confirm_epoch(own(0), epoch, &v1::EpochResultResponse::default());
        net.refusal::<ProtocolConfig::KmsContextNotCreated>(call).await;
        host.fail_confirmations(None).await.unwrap();
    }
}

#[tokio::test]
async fn replicas_mirror_and_v0_13_has_no_life_of_its_own() {
    let net = Net::up(Variant::G14).await.unwrap();
    let host = &net.host;
    let (context, epoch) = host.in_force().await.unwrap();
    let call = ProtocolConfig::mirrorKmsEpochCall { contextId: context, epochId: epoch };
    net.refusal::<ProtocolConfig::NonIncreasingEpochId>(net.call(&call)).await;
    let later = epoch + U256::from(4);
    let call = ProtocolConfig::mirrorKmsEpochCall { contextId: context, epochId: later };
    let receipt = net.send(net.call(&call)).await.unwrap();
    assert_eq!(topics(&receipt), [ProtocolConfig::MirrorKmsEpoch::SIGNATURE_HASH]);
    let event = host.new_kms_context(context).await.unwrap();
    let mirror = |id: U256| ProtocolConfig::mirrorKmsContextAndEpochCall {
        contextId: id,
        epochId: later + U256::ONE,
        kmsNodeParams: event.kmsNodeParams.clone(),
        thresholds: event.thresholds.clone(),
        softwareVersion: event.softwareVersion.clone(),
        pcrValues: Vec::new(),
    };
    net.refusal::<ProtocolConfig::NonIncreasingKmsContextId>(net.call(&mirror(context))).await;
    let receipt = net.send(net.call(&mirror(context + U256::from(2)))).await.unwrap();
    assert_eq!(topics(&receipt), [ProtocolConfig::MirrorKmsContextAndEpoch::SIGNATURE_HASH]);
    assert_eq!(host.in_force().await.unwrap(), (context + U256::from(2), later + U256::ONE));
    let hash = ProtocolConfig::getKmsContextAnchorCall { contextId: context };
    let anchor = host.protocol(hash).await.unwrap().contextInfoHash;
    let info = (event.kmsNodeParams, event.thresholds, event.softwareVersion, event.pcrValues);
    assert_eq!(alloy::primitives::keccak256(info.abi_encode_params()), anchor);

    let net = Net::up(Variant::G13).await.unwrap();
    let call = ProtocolConfig::confirmKmsContextCreationCall { kmsContextId: context };
    assert_absent(net.host.protocol(call).await);
    let call = ProtocolConfig::mirrorKmsEpochCall { contextId: context, epochId: later };
    assert_absent(net.host.protocol(call).await);
}

/// What each Core was told is what the chain says, and nothing else.
#[tokio::test]
async fn what_a_core_was_asked_is_kept_word_for_word() {
    let net = Net::up(Variant::G14).await.unwrap();
    let (context, _) = net.host.in_force().await.unwrap();
    net.make_context(0, context).await;
    let request = net.host.context_request(context).await.unwrap();
    let core = &net.parties[0].core;
    assert_eq!(core.accepted_lifecycle(context), [Lifecycle::NewContext(request)]);
    assert_eq!(core.contexts(), [context]);
}
