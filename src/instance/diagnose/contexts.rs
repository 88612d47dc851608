//! Probes what `ProtocolConfig` tells of the current KMS context: whether this wallet is in it, and whether the
//! nodes can prove how it was defined. That the contract stands there is probed with the host chains.

use super::{Finding, within_deadline};
use crate::{
    chain::{provider::ArbitrumProvider, reader::ChainReader},
    config::Config,
    contracts::{
        kms_lifecycle::{DefinedContext, KmsLifecycle, LifecycleError},
        pinned_reads::HostChainError,
        protocol_config::{ProtocolConfig, Registered},
    },
    domain::{Address, U256},
};

const REGISTRATION: &str = "KMS context";
const DEFINITION: &str = "context's event";

/// `reader`: all nodes of the chain that contexts and epochs are read on. `None`: they are not read.
pub(super) async fn diagnose_contexts(
    contexts: Option<&ProtocolConfig<ArbitrumProvider>>,
    (config, reader): (&Config, Option<&ArbitrumProvider>),
    wallet: Option<Address>,
) -> Vec<Finding> {
    let (Some(contexts), Some(wallet)) = (contexts, wallet) else { return Vec::new() };
    let told = match within_deadline(REGISTRATION, contexts.registered(wallet)).await {
        Ok(told) => told,
        Err(late) => return vec![late],
    };
    let current = told.as_ref().ok().map(|told| told.context);
    let mut findings = Vec::from_iter(of_registration(wallet, told));
    if let (Some(context), Some(reader), Some(key_generation)) =
        (current, reader, config.kms_generation_address)
    {
        let history = KmsLifecycle::new(reader.clone(), contexts.address(), key_generation);
        findings.push(diagnose_definition(&history, context).await);
    }
    findings
}

/// `None`: there is no such contract, which is said with the host chains.
fn of_registration(wallet: Address, told: Result<Registered, HostChainError>) -> Option<Finding> {
    Some(match told {
        Ok(Registered { context, signer: Some(signer) }) => Finding::ok(
            REGISTRATION,
            format!(
                "{wallet} is a transaction sender of the current one, {context:#066x}; its Core has to sign as \
                 {signer}"
            ),
        ),
        Ok(Registered { context, signer: None }) => Finding::warn(
            REGISTRATION,
            format!("{wallet} is no transaction sender of the current one, {context:#066x}"),
            "nothing if this node joins with the next KMS context; else use the wallet that is registered",
        ),
        Err(HostChainError::NoContract { .. }) => return None,
        Err(error) => {
            let remedy = "look at Ethereum's nodes, and at protocol_config_address";
            Finding::fail(REGISTRATION, error.to_string(), remedy)
        }
    })
}

async fn diagnose_definition<P: ChainReader>(history: &KmsLifecycle<P>, context: U256) -> Finding {
    let asking = history.definition(context);
    let asked = within_deadline(DEFINITION, asking).await;
    asked.map_or_else(|late| late, |told| of_definition(context, told))
}

/// A change of the context is proven by this one's event.
fn of_definition(context: U256, told: Result<Option<DefinedContext>, LifecycleError>) -> Finding {
    match told {
        Ok(Some(DefinedContext { block, .. })) => Finding::ok(
            DEFINITION,
            format!("the nodes show that of {context:#066x}, in block {block}"),
        ),
        Ok(None) => {
            Finding::ok(DEFINITION, "none: contracts up to v0.13 ask for no contexts and epochs")
        }
        Err(error) => Finding::warn(
            DEFINITION,
            error.to_string(),
            "the next KMS context, and the end of this one, are held until the nodes prove it: name a node that \
             keeps old logs in ethereum_fallback_urls",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::fake_chain::{FakeChain, host::Told},
        contracts::abi::protocol_config,
        domain::{Bytes, no_context},
        instance::diagnose::Severity,
    };

    #[test]
    fn who_is_in_no_context_may_be_in_the_next_one() {
        let (wallet, signer) = (Address::repeat_byte(1), Some(Address::repeat_byte(2)));
        let of = |signer| {
            let told = Ok(Registered { context: U256::ONE, signer });
            of_registration(wallet, told).unwrap()
        };
        assert_eq!(of(signer).verdict, Severity::Ok);
        let none = of(None);
        assert_eq!(none.verdict, Severity::Warn);
        assert!(none.found.contains(&wallet.to_string()), "{none:?}");
        let error = HostChainError::NoFinalizedBlock { chain_id: 1, host: "h".to_owned() };
        assert_eq!(of_registration(wallet, Err(error)).unwrap().verdict, Severity::Fail);
    }

    #[tokio::test(start_paused = true)]
    async fn a_context_whose_event_no_node_shows_is_a_warning() {
        let at = Address::repeat_byte(0x9c);
        let chain = FakeChain::host(9, at, "ProtocolConfig v0.2.0");
        let context = no_context() | U256::ONE;
        let anchor = protocol_config::context_anchor(context).calldata();
        chain.answer(anchor.clone(), (U256::from(5), crate::domain::B256::ZERO));
        let history = KmsLifecycle::new(chain.clone(), at, Address::ZERO);
        let lost = diagnose_definition(&history, context).await;
        assert_eq!(lost.verdict, Severity::Warn);
        assert!(lost.remedy.contains("old logs"), "{lost:?}");
        chain.tell(at, anchor, Told::Reverts(Bytes::new()));
        assert_eq!(diagnose_definition(&history, context).await.verdict, Severity::Ok, "of G13");
    }
}
