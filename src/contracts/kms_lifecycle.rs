//! ADAPTER: what Ethereum tells of KMS contexts and epochs beyond one event: how a context was defined, which epochs
//! it has, and what the nodes had made at a block (gateway-abi 6.3, 7.3).
//!
//! A Core that is told anything else than the others' makes another network, or destroys its shares. So every sound
//! node is asked, and all that answer have to say the same. A definition is proven by the hash that the contract
//! keeps of it.
//!
//! ```text
//! definition   getKmsContextAnchor -> its block -> its one log there, with that hash
//! epochs       every log that opens one, from the definition on; and the first one, of which none tells
//! material     what getCompletedKeyIds and getCompletedCrsIds listed after a block: nodes drop old state
//! ```
//!
//! The contract keeps definitions from v0.14 (G14) on. A context from before that one has none, and no event tells of
//! its first epoch. One that was replaced before, too, has no epochs at all: the context that was in force then is
//! defined again as one without a previous one, and only the one in force gets epochs.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::sleep;

use super::abi::{self, View, key_generation, protocol_config};
use crate::{
    chain::{
        log_pages::logs_of_blocks,
        reader::{BlockId, ChainReader, EthCall, LogFilter, LogRange},
        rpc_error::RpcError,
        survey::Survey,
    },
    domain::{
        Address, B256, CompletedCrs, EpochMaterial, Event, Hold, HoldReason, KeyOperation,
        KmsContext, Operation, Remedy, RequestSource, U256, first_epoch, no_context,
    },
};

/// Deadline of a node's answer, which takes several calls.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// A node may be a block behind: how often, and after which pause, nodes that differ are asked again.
const ASKED_AGAIN: usize = 2;
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Definitions that are remembered. They never change.
const MOST_REMEMBERED: usize = 64;
/// Keys and CRSs that an epoch may have. A network makes a few a year.
const MOST_MATERIAL: usize = 1_000;

/// How a context was defined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinedContext {
    pub context: Arc<KmsContext>,
    /// [`no_context`]: it is the first.
    pub previous: U256,
    /// The block of its event.
    pub block: u64,
}

/// Why something is not known.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LifecycleError {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(
        "no Ethereum node has the state of block {block}, where the keys stand that are shared anew: name one \
         that keeps it (an archive node) in ethereum_fallback_urls"
    )]
    NoState { block: U256 },
    #[error(
        "Ethereum's nodes tell different things of {of}: one of them is wrong; nothing is asked"
    )]
    Differ { of: String },
    #[error("what KMS context {context:#066x} is cannot be proven: {why}; nothing is asked")]
    Unproven { context: U256, why: &'static str },
    #[error(
        "KMS context {context:#066x} is older than v0.14 of ProtocolConfig, which keeps no definition of it: what it is \
         cannot be proven; nothing is asked"
    )]
    Unkept { context: U256 },
    #[error("block {block} has {count} keys or CRSs, more than {MOST_MATERIAL}; nothing is asked")]
    TooMuch { block: U256, count: usize },
    #[error("Ethereum's nodes give too few blocks at a time to read the epochs of a KMS context")]
    TooManyBlocks,
    #[error("there is no contract at {key}, {address}; nothing is asked")]
    NoContract { key: &'static str, address: Address },
    #[error("the KMSGeneration contract tells of a key or CRS what does not decode: {0}")]
    Unreadable(Box<abi::ViewDecodeError>),
}

impl LifecycleError {
    /// Stable, for throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Rpc(error) => error.code(),
            Self::Unreadable(error) => error.code(),
            Self::NoState { .. }
            | Self::Differ { .. }
            | Self::Unproven { .. }
            | Self::Unkept { .. }
            | Self::TooMuch { .. }
            | Self::NoContract { .. }
            | Self::TooManyBlocks => self.reason().as_str(),
        }
    }

    fn reason(&self) -> HoldReason {
        match self {
            Self::NoState { .. } => HoldReason::ArchiveNodeNeeded,
            Self::NoContract { .. } => HoldReason::KeyManagementNotConfigured,
            Self::Differ { .. } => HoldReason::HostNodesDisagree,
            Self::Unproven { .. } | Self::Unkept { .. } | Self::TooMuch { .. } => {
                HoldReason::ContextUnproven
            }
            Self::Rpc(_) | Self::TooManyBlocks | Self::Unreadable(_) => HoldReason::NoProgress,
        }
    }

    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Rpc(_) => Remedy::Retry,
            Self::NoState { .. }
            | Self::Differ { .. }
            | Self::Unproven { .. }
            | Self::Unkept { .. }
            | Self::TooMuch { .. }
            | Self::NoContract { .. }
            | Self::TooManyBlocks
            | Self::Unreadable(_) => Remedy::Hold(Hold::new(self.reason(), self.to_string())),
        }
    }
}

/// The adapter. Clones share what is remembered.
#[derive(Clone, Debug)]
pub struct KmsLifecycle<P> {
    provider: P,
    protocol_config: Address,
    key_generation: Address,
    defined: Arc<Mutex<BTreeMap<U256, DefinedContext>>>,
}

/// What one node tells of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Definition {
    /// The contract is of G13 and keeps none.
    NoneKept,
    /// The contract keeps those of later contexts.
    TooOld,
    NoContract,
    Unproven(&'static str),
    Proven(DefinedContext),
}

impl<P: ChainReader> KmsLifecycle<P> {
    #[must_use]
    pub fn new(provider: P, protocol_config: Address, key_generation: Address) -> Self {
        Self { provider, protocol_config, key_generation, defined: Arc::default() }
    }

    /// How a context was defined, also one that was destroyed. `None`: the contract keeps no definitions (up to G13).
    pub async fn definition(
        &self,
        context: U256,
    ) -> Result<Option<DefinedContext>, LifecycleError> {
        if let Some(known) = self.lock().get(&context) {
            return Ok(Some(known.clone()));
        }
        let of = || format!("KMS context {context:#066x}");
        let told = self.agreed(of, |one| self.definition_at(one, context)).await?;
        match told {
            Definition::NoneKept => Ok(None),
            Definition::TooOld => Err(LifecycleError::Unkept { context }),
            Definition::NoContract => Err(LifecycleError::NoContract {
                key: "protocol_config_address",
                address: self.protocol_config,
            }),
            Definition::Unproven(why) => Err(LifecycleError::Unproven { context, why }),
            Definition::Proven(defined) => {
                let mut known = self.lock();
                if known.len() >= MOST_REMEMBERED {
                    known.pop_first();
                }
                known.insert(context, defined.clone());
                Ok(Some(defined))
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<U256, DefinedContext>> {
        self.defined.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every epoch of a context up to now, in their order.
    pub async fn epochs_of(
        &self,
        context: U256,
        defined: &DefinedContext,
    ) -> Result<Vec<U256>, LifecycleError> {
        let opened = self.epochs_opened(context, defined.block).await?;
        let first = (defined.previous == no_context()).then(first_epoch);
        Ok(first.into_iter().chain(opened).collect())
    }

    /// Whether a context of which the contract keeps no definition was replaced before it began to keep any. Then no
    /// Core was told of it, and it has no epochs.
    pub async fn was_replaced_before(&self, context: U256) -> Result<bool, LifecycleError> {
        let of = || "the number of KMS contexts".to_owned();
        let counter = self.agreed(of, |one| self.highest_context_at(one)).await?;
        let after = (1..=MOST_REMEMBERED).map(|number| context.saturating_add(U256::from(number)));
        for later in after.take_while(|later| Some(*later) <= counter) {
            match self.definition(later).await {
                Ok(Some(defined)) if defined.previous == no_context() => {
                    return Ok(self.epochs_opened(context, defined.block).await?.is_empty());
                }
                Ok(_) => return Ok(false),
                Err(LifecycleError::Unkept { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// The epochs of a context that events open from this block on.
    async fn epochs_opened(&self, context: U256, from: u64) -> Result<Vec<U256>, LifecycleError> {
        let of = || format!("the epochs of KMS context {context:#066x}");
        let (topics, contexts) = ([abi::EPOCH_TOPIC], [B256::from(context)]);
        let filter = self.logs_of(&topics, &contexts);
        let read = |one: P| async move {
            let head = one.header(BlockId::Latest).await?.map_or(from, |head| head.block.number);
            let events = logs_of_blocks(&one, filter, (from, head)).await?;
            Ok(events.map(|events| events.iter().filter_map(abi::opened_epoch).collect::<Vec<_>>()))
        };
        self.agreed(of, read).await?.ok_or(LifecycleError::TooManyBlocks)
    }

    /// Everything that the nodes had made after this block.
    pub async fn material(&self, block: U256) -> Result<EpochMaterial, LifecycleError> {
        let Ok(number) = u64::try_from(block) else {
            return Err(LifecycleError::NoState { block });
        };
        let of = || format!("the keys at block {number}");
        let told = self.agreed_of_some(of, |one| self.material_at(one, number)).await?;
        match told {
            None => Err(LifecycleError::NoState { block }),
            Some(Material::NoContract) => Err(LifecycleError::NoContract {
                key: "kms_generation_address",
                address: self.key_generation,
            }),
            Some(Material::TooMuch(count)) => Err(LifecycleError::TooMuch { block, count }),
            Some(Material::Unreadable(error)) => Err(LifecycleError::Unreadable(error)),
            Some(Material::Read(material)) => Ok(material),
        }
    }

    fn logs_of<'t>(&'t self, topic0: &'t [B256], topic1: &'t [B256]) -> LogFilter<'t> {
        LogFilter { addresses: std::slice::from_ref(&self.protocol_config), topic0, topic1 }
    }

    async fn definition_at(&self, one: P, context: U256) -> Result<Definition, RpcError> {
        let view = protocol_config::context_anchor(context);
        let call = EthCall::view(self.protocol_config, view.calldata());
        let returned = match one.call(&call, BlockId::Latest).await {
            Ok(returned) => returned,
            Err(error) => match error.revert_data() {
                Some(data) if data.is_empty() => return Ok(Definition::NoneKept),
                Some(_) => return Ok(Definition::Unproven("the contract does not know it")),
                None => return Err(error),
            },
        };
        if returned.is_empty() && one.code_size(self.protocol_config).await? == 0 {
            return Ok(Definition::NoContract);
        }
        let Ok(anchor) = view.decode(&returned) else {
            return Ok(Definition::Unproven("the contract's answer does not decode"));
        };
        let Some(block) = u64::try_from(anchor.block).ok().filter(|block| *block > 0) else {
            return Ok(Definition::TooOld);
        };
        let (topics, contexts) = ([abi::CONTEXT_TOPIC], [B256::from(context)]);
        let range = LogRange::Numbers { from: block, to: block };
        let logs = one.logs(self.logs_of(&topics, &contexts), range).await?.value;
        Ok(proven(context, anchor, block, &logs))
    }

    /// The id of the context that was defined last. `None`: the contract does not tell.
    async fn highest_context_at(&self, one: P) -> Result<Option<U256>, RpcError> {
        let view = protocol_config::context_id_counter();
        let call = EthCall::view(self.protocol_config, view.calldata());
        match one.call(&call, BlockId::Latest).await {
            Ok(returned) => Ok(view.decode(&returned).ok()),
            Err(error) if error.revert_data().is_some() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn material_at(&self, one: P, block: u64) -> Result<Option<Material>, RpcError> {
        let at = BlockId::Number(block);
        let lists = [key_generation::completed_keys(), key_generation::completed_crs_list()];
        let Some(lists) = self.read_all(&one, &lists, at).await? else {
            // A node without that block's state has no code there either.
            let is_there = one.code_size(self.key_generation).await? > 0;
            return Ok((!is_there).then_some(Material::NoContract));
        };
        let [keys, crs_list] = match lists {
            Ok(lists) => match <[Vec<U256>; 2]>::try_from(lists) {
                Ok(lists) => lists,
                Err(_) => return Ok(None),
            },
            Err(error) => return Ok(Some(Material::Unreadable(error.into()))),
        };
        let count = keys.len() + crs_list.len();
        if count > MOST_MATERIAL {
            return Ok(Some(Material::TooMuch(count)));
        }
        let views: Vec<_> = keys.iter().copied().map(key_generation::key_info).collect();
        let Some(keys) = self.read_all(&one, &views, at).await? else { return Ok(None) };
        let views: Vec<_> = crs_list.iter().copied().map(key_generation::crs_digest).collect();
        let Some(digests) = self.read_all(&one, &views, at).await? else { return Ok(None) };
        Ok(Some(match (keys, digests) {
            (Ok(keys), Ok(digests)) => {
                let crs = |(id, digest)| CompletedCrs { id, digest };
                let crs_list = crs_list.into_iter().zip(digests).map(crs).collect();
                Material::Read(EpochMaterial { keys, crs_list })
            }
            (Err(error), _) | (_, Err(error)) => Material::Unreadable(error.into()),
        }))
    }

    /// The results of these views of `KMSGeneration`. `None`: the node does not have that block's state.
    async fn read_all<T>(
        &self,
        one: &P,
        views: &[View<T>],
        at: BlockId,
    ) -> Result<Option<Result<Vec<T>, abi::ViewDecodeError>>, RpcError> {
        if views.is_empty() {
            return Ok(Some(Ok(Vec::new())));
        }
        let to = self.key_generation;
        let calls: Vec<_> = views.iter().map(|view| EthCall::view(to, view.calldata())).collect();
        let untold = |error: &RpcError| error.is_state_pruned();
        let results = match one.calls(&calls, at).await {
            Err(error) if untold(&error) => return Ok(None),
            told => told?,
        };
        let mut values = Vec::with_capacity(views.len());
        for (view, result) in views.iter().zip(results) {
            match result {
                // It may say nothing of code that it does not have as of then.
                Ok(returned) if returned.is_empty() => return Ok(None),
                Ok(returned) => match view.decode(&returned) {
                    Ok(value) => values.push(value),
                    Err(error) => return Ok(Some(Err(error))),
                },
                Err(error) if untold(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(Ok(values)))
    }

    /// What every node says that answers.
    async fn agreed<T: PartialEq, Asking>(
        &self,
        of: impl Fn() -> String,
        ask: impl Fn(P) -> Asking,
    ) -> Result<T, LifecycleError>
    where
        Asking: Future<Output = Result<T, RpcError>>,
    {
        let asked = self.agreed_of_some(&of, |one| {
            let asking = ask(one);
            async { asking.await.map(Some) }
        });
        // Some node has answered, and each that does has said something.
        asked.await?.ok_or_else(|| LifecycleError::Differ { of: of() })
    }

    /// The same where a node may be unable to tell (`None`): the others decide. `None`: none can tell.
    async fn agreed_of_some<T: PartialEq, Asking>(
        &self,
        of: impl Fn() -> String,
        ask: impl Fn(P) -> Asking,
    ) -> Result<Option<T>, LifecycleError>
    where
        Asking: Future<Output = Result<Option<T>, RpcError>>,
    {
        for again in 0..=ASKED_AGAIN {
            if again > 0 {
                sleep(AGAIN_AFTER).await;
            }
            let told = Survey::run(&self.provider, ANSWERS_WITHIN, &ask).await;
            let mut told = told.into_answers(&self.provider)?.into_iter().flatten();
            let Some(first) = told.next() else { return Ok(None) };
            if told.all(|other| other == first) {
                return Ok(Some(first));
            }
        }
        Err(LifecycleError::Differ { of: of() })
    }
}

/// What one node tells of the material at a block.
#[derive(Clone, Debug, PartialEq)]
enum Material {
    /// Not today.
    NoContract,
    TooMuch(usize),
    Unreadable(Box<abi::ViewDecodeError>),
    Read(EpochMaterial),
}

/// (f) Whether the logs of a context's block prove its definition: one, of what the contract keeps the hash of.
fn proven(
    context: U256,
    anchor: protocol_config::ContextAnchor,
    block: u64,
    logs: &[Event],
) -> Definition {
    let [log] = logs else {
        return Definition::Unproven(if logs.is_empty() {
            "the block that the contract names has no log of it"
        } else {
            "the block that the contract names has several logs of it"
        });
    };
    let source = RequestSource { chain_id: 0, contract: Address::ZERO };
    let Ok(request) = abi::decode(source, log) else {
        return Definition::Unproven("its log does not decode");
    };
    let is_in_place = request.key.id == context && log.block.number == block;
    if let Operation::Key(KeyOperation::NewKmsContext { previous, context, info_hash }) =
        request.operation
        && is_in_place
        && info_hash == anchor.info_hash
    {
        return Definition::Proven(DefinedContext { context, previous, block });
    }
    Definition::Unproven("its log says something else than the contract keeps the hash of")
}

#[cfg(test)]
mod tests;
