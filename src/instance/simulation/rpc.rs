//! The node behind the product's own port ([`Provider`]): what it answers. Which of the URLs is asked
//! decides `endpoints`, and what one says wrongly `lies`.

use std::time::Duration;

use alloy::{primitives::FixedBytes, sol_types::SolValue};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    chain::{DECRYPTION, GATEWAY_CONFIG, Transaction, domain},
    lies::BlockReceipts,
    node::{HOST, SimulatedNode, refused, unavailable},
    requests::{BUCKETS, COPROCESSORS},
    world::State,
};
use crate::{
    domain::{Address, B256, BlockRef, Bytes, Event, SigningDomain, U256},
    gateway::{
        abi,
        provider::{
            Addresses, At, Beginning, Call, Emitted, Head, LogRange, NodeId, Nodes, Provider,
            Range, Receipt, RpcError, Sent, Told, Transaction as Mined, Way,
        },
    },
};

const HOSTS: [&str; 2] = ["node-0", "node-1"];
/// So many blocks under the head are the tags; deeper than any reorganisation.
const SAFE_AFTER: u64 = 8;
const FINAL_AFTER: u64 = 16;
/// A count above is none, as in `provider::arbitrum`.
const MOST_TRANSACTIONS: u64 = 1 << 53;

/// How an answer looks in the trace.
fn told<T>(
    answer: Result<T, RpcError>,
    of: impl FnOnce(&T) -> String,
) -> (Result<T, RpcError>, String) {
    let note = match &answer {
        Ok(value) => of(value),
        Err(error) => error.to_string(),
    };
    (answer, note)
}

fn contract(call: &Call, state: &State, wallet: Address, number: u64) -> Result<Bytes, RpcError> {
    if call.to == GATEWAY_CONFIG {
        let text = |text: &str| text.to_owned();
        if call.data == abi::kms_node(wallet).calldata() {
            let node = (wallet, state.core.address(), text("node"), text(""));
            return Ok(node.abi_encode().into());
        }
        for (coprocessor, url) in COPROCESSORS.into_iter().zip(BUCKETS) {
            if call.data == abi::coprocessor(coprocessor).calldata() {
                return Ok((coprocessor, coprocessor, text(url)).abi_encode().into());
            }
        }
    }
    if call.to == DECRYPTION
        && let Some(id) = call.data.get(4..36).map(U256::from_be_slice)
        && call.data == abi::decryption_consensus_tx_senders(id).calldata()
    {
        let answered = state.chain.is_answered(id, number);
        return Ok(if answered { vec![wallet] } else { vec![] }.abi_encode().into());
    }
    if call.to == DECRYPTION
        && let Some(told) = described(call)
    {
        return Ok(told);
    }
    let to = Some(call.to);
    match state.chain.execute(to, &call.data, number) {
        Ok(()) => Ok(Bytes::new()),
        Err(data) => Err(refused(3, "execution reverted", Some(data))),
    }
}

/// What a machine shows of its logs, but for what is broken at its endpoint.
fn logs_of(state: &mut State, machine: usize, range: LogRange) -> Result<Vec<Event>, RpcError> {
    let (height, sight) = (state.chain.height(), state.chain.sight(machine));
    let blind = state.blind_until.is_some_and(|until| Instant::now() < until);
    let shown = |block: &super::chain::Block| {
        if blind || block.shown_from > height { Vec::new() } else { block.events.clone() }
    };
    match range {
        LogRange::Block(hash) => match state.chain.block_of(hash, sight) {
            Some(block) => Ok(shown(block)),
            None => Err(refused(-32_000, "unknown block", None)),
        },
        LogRange::Numbers { from, to } => {
            let known = (from..=to.min(sight)).filter_map(|n| state.chain.block(n));
            let mut events: Vec<Event> = known.flat_map(shown).collect();
            let rate = state.plan.faults.shuffled;
            if state.fault(rate) {
                events.extend(events.clone());
                state.dice.shuffle(&mut events);
            }
            Ok(events)
        }
    }
}

/// The same, as its endpoint answers it.
fn ranged(state: &mut State, machine: usize, range: LogRange) -> Result<Vec<Event>, RpcError> {
    let endpoint = state.endpoint_of(machine);
    if let LogRange::Numbers { from, to } = range {
        state.takes_range(endpoint, to.saturating_sub(from) + 1)?;
    }
    let logs = logs_of(state, machine, range)?;
    Ok(state.shown_by(endpoint, logs))
}

/// `eip712Domain` and `getVersion` of the Decryption contract.
fn described(call: &Call) -> Option<Bytes> {
    if call.data == abi::signing_domain().calldata() {
        let SigningDomain { name, version, chain_id, verifying_contract } = domain();
        let (fields, chain_id) = (FixedBytes::from([0x0f]), U256::from(chain_id));
        let none: (B256, Vec<U256>) = (B256::ZERO, Vec::new());
        let told = (fields, name, version, chain_id, verifying_contract, none.0, none.1);
        return Some(told.abi_encode_params().into());
    }
    let asked = call.data == abi::decryption_version().calldata();
    asked.then(|| ("Decryption v0.3.0".to_owned(),).abi_encode_params().into())
}

impl Nodes for SimulatedNode {
    fn hosts(&self) -> &str {
        HOST
    }

    fn endpoints(&self) -> Vec<(&str, bool, Option<u64>)> {
        let state = self.life.world.state();
        let endpoints = state.endpoints.iter().zip(HOSTS);
        endpoints.map(|(endpoint, host)| (host, !endpoint.is_away(), endpoint.height())).collect()
    }

    fn trouble(&self) -> Option<RpcError> {
        self.order().is_empty().then(|| unavailable("no node is connected"))
    }

    async fn first_attempt(&self) -> Result<(), RpcError> {
        self.trouble().map_or(Ok(()), Err)
    }

    fn beginnings(&self) -> Vec<(&str, Beginning)> {
        let state = self.life.world.state();
        let genesis = state.chain.block(0).map(|block| block.head.block.hash);
        let told = |away: bool| match genesis {
            Some(genesis) if !away => Beginning::Is(genesis),
            Some(_) | None => Beginning::Away,
        };
        let endpoints = state.endpoints.iter().zip(HOSTS);
        endpoints.map(|(endpoint, host)| (host, told(endpoint.is_away()))).collect()
    }

    async fn settle_genesis(&self, _: B256) {}

    async fn made_anew(&self) -> RpcError {
        std::future::pending().await
    }

    fn begin_after(&self, _: BlockRef) {}

    async fn read_up_to(&self, _: BlockRef) {}
}

impl Provider for SimulatedNode {
    fn addresses(&self) -> Addresses {
        Addresses { decryption: DECRYPTION, gateway_config: GATEWAY_CONFIG }
    }

    fn sound_nodes(&self) -> Vec<NodeId> {
        self.order().into_iter().map(NodeId).collect()
    }
    fn goes_on(&self, _: NodeId) -> bool {
        false
    }
    fn node_count(&self) -> usize {
        self.life.world.state().plan.urls
    }
    fn voters(&self) -> Vec<NodeId> {
        (0..self.node_count()).map(NodeId).collect()
    }
    fn only(&self, node: NodeId) -> Self {
        Self { only: Some(node), ..self.clone() }
    }
    fn host(&self, node: NodeId) -> String {
        HOSTS[node.0].to_owned()
    }
    fn heads(&self) -> watch::Receiver<Option<Head>> {
        let mut state = self.life.world.state();
        let (sender, mut heads) = watch::channel(state.reading.told());
        heads.mark_changed();
        state.listeners.push(sender);
        heads
    }

    async fn chain_id(&self) -> Result<u64, RpcError> {
        Ok(super::chain::CHAIN_ID)
    }

    async fn header(&self, at: At) -> Result<Option<Head>, RpcError> {
        let what = match at {
            At::Latest => "header of the head".to_owned(),
            At::Safe => "header of the safe block".to_owned(),
            At::Finalized => "header of the final block".to_owned(),
            At::Number(number) => format!("header of {number}"),
            At::Hash(hash) => format!("header of {hash}"),
        };
        self.ask(&what, |state, node| {
            let (sight, endpoint) = (state.chain.sight(node), state.endpoint_of(node));
            let tagged = match at {
                At::Safe | At::Finalized => state.tag_follows(endpoint, sight),
                At::Latest | At::Number(_) | At::Hash(_) => sight,
            };
            let found = match at {
                At::Latest => state.chain.block(sight),
                At::Safe => state.chain.block(tagged.saturating_sub(SAFE_AFTER)),
                At::Finalized => state.chain.block(tagged.saturating_sub(FINAL_AFTER)),
                At::Number(number) if number > sight => None,
                At::Number(number) => state.chain.block(number),
                At::Hash(hash) => state.chain.block_of(hash, sight),
            };
            let by = NodeId(endpoint);
            let head = found.map(|block| Head { by, ..block.head });
            let head = head.map(|head| state.as_told(endpoint, &head));
            told(Ok(head), |head| match head {
                Some(head) => format!("{} {}", head.block.number, head.block.hash),
                None => "unknown".to_owned(),
            })
        })
        .await
    }

    async fn block_logs(&self, hash: B256, way: Way) -> Result<Told<Vec<Emitted>>, RpcError> {
        let what = match way {
            Way::Logs => format!("all logs of {hash}"),
            Way::Receipts => format!("receipts of {hash}"),
        };
        self.ask(&what, |state, node| {
            let endpoint = state.endpoint_of(node);
            let receipts = match way {
                Way::Logs => BlockReceipts::Hidden,
                Way::Receipts => state.block_receipts(endpoint),
            };
            let mut logs = logs_of(state, node, LogRange::Block(hash));
            match receipts {
                BlockReceipts::Shown => {}
                BlockReceipts::NotOffered => logs = Err(refused(-32_601, "not offered", None)),
                BlockReceipts::Hidden => {
                    logs = logs.map(|logs| state.shown_by(endpoint, logs));
                }
            }
            let emitted = logs.map(|logs| {
                let of_contract = |event| Emitted { address: DECRYPTION, event };
                let answer = logs.into_iter().map(of_contract).collect();
                Told { by: NodeId(endpoint), answer }
            });
            told(emitted, |emitted: &Told<Vec<_>>| format!("{} logs", emitted.answer.len()))
        })
        .await
    }

    async fn logs(
        &self,
        _: Address,
        topics: &[B256],
        range: LogRange,
    ) -> Result<Told<Vec<Event>>, RpcError> {
        let topics = topics.to_vec();
        let what = match range {
            LogRange::Block(hash) => format!("logs of {hash}"),
            LogRange::Numbers { from, to } => format!("logs of {from} to {to}"),
        };
        self.ask(&what, move |state, node| {
            let endpoint = state.endpoint_of(node);
            let logs = ranged(state, node, range).map(|mut answer| {
                answer.retain(|event| topics.contains(&event.topics[0]));
                Told { by: NodeId(endpoint), answer }
            });
            told(logs, |logs| {
                let ids =
                    logs.answer.iter().map(|event| super::requests::number_of(event).to_string());
                format!("[{}]", ids.collect::<Vec<_>>().join(" "))
            })
        })
        .await
    }

    async fn block_transactions(&self, block: B256) -> Result<Option<Vec<B256>>, RpcError> {
        self.ask(&format!("transactions of {block}"), move |state, node| {
            let sight = state.chain.sight(node);
            let mut known = (0..=sight).filter_map(|number| state.chain.block(number));
            let block = known.find(|known| known.head.block.hash == block);
            let hashes = block.map(|block| {
                block.events.iter().map(|event| event.transaction).collect::<Vec<B256>>()
            });
            told(Ok(hashes), |hashes| format!("{}", hashes.as_ref().map_or(0, Vec::len)))
        })
        .await
    }

    async fn emitted_by(&self, transaction: B256) -> Result<Option<Vec<Emitted>>, RpcError> {
        self.ask(&format!("logs of transaction {transaction}"), |state, node| {
            let sight = state.chain.sight(node);
            let known = (0..=sight).filter_map(|number| state.chain.block(number));
            let events = known.flat_map(|block| block.events.clone());
            let own = events.filter(|event| event.transaction == transaction);
            let own: Vec<Event> = own.collect();
            let rate = state.plan.faults.odd_receipt;
            if !own.is_empty() && state.fault(rate) {
                state.fired("receipt");
                let what = "an odd receipt".into();
                let odd = RpcError::Unreadable { host: HOST.into(), what };
                return (Err(odd), "odd".to_owned());
            }
            let emitted: Vec<Emitted> =
                own.into_iter().map(|event| Emitted { address: DECRYPTION, event }).collect();
            told(Ok((!emitted.is_empty()).then_some(emitted)), |emitted| {
                format!("{} logs", emitted.as_ref().map_or(0, Vec::len))
            })
        })
        .await
    }

    async fn logs_between(
        &self,
        _: Address,
        _: &[B256],
        from: u64,
        to: u64,
    ) -> Result<Range, RpcError> {
        self.ask(&format!("blocks {from} to {to}"), |state, node| {
            let (sight, endpoint) = (state.chain.sight(node), state.endpoint_of(node));
            let by = NodeId(endpoint);
            let mut head = |number: u64| {
                let block = (number <= sight).then(|| state.chain.block(number)).flatten();
                let head = block.map(|block| Head { by, ..block.head })?;
                Some(state.as_told(endpoint, &head))
            };
            let (first, last) = (head(from), head(to));
            let events = ranged(state, node, LogRange::Numbers { from, to });
            told(events.map(|events| Range { first, last, events, by }), |range| {
                let last = range.last.map_or(0, |head| head.block.number);
                format!("{} logs up to {last}", range.events.len())
            })
        })
        .await
    }

    async fn call(&self, call: &Call, at: At) -> Result<Bytes, RpcError> {
        let (call, wallet) = (call.clone(), self.wallet);
        self.ask("call", move |state, node| {
            let sight = state.chain.sight(node);
            let number = match at {
                At::Number(number) => Some(number),
                At::Hash(hash) => {
                    state.chain.block_of(hash, sight).map(|one| one.head.block.number)
                }
                At::Latest | At::Safe | At::Finalized => Some(sight),
            };
            let Some(number) = number.filter(|number| *number <= sight) else {
                return told(Err(refused(-32_000, "header not found", None)), |_| String::new());
            };
            told(contract(&call, state, wallet, number), |_| "taken".to_owned())
        })
        .await
    }

    async fn calls(
        &self,
        calls: &[Call],
        at: At,
    ) -> Result<Vec<Result<Bytes, RpcError>>, RpcError> {
        let (calls, wallet) = (calls.to_vec(), self.wallet);
        self.ask(&format!("{} calls", calls.len()), move |state, node| {
            let sight = state.chain.sight(node);
            let number = match at {
                At::Number(number) => Some(number),
                At::Hash(hash) => {
                    state.chain.block_of(hash, sight).map(|one| one.head.block.number)
                }
                At::Latest | At::Safe | At::Finalized => Some(sight),
            };
            let Some(number) = number.filter(|number| *number <= sight) else {
                return told(Err(refused(-32_000, "header not found", None)), |_| String::new());
            };
            let said = calls.iter().map(|call| contract(call, state, wallet, number)).collect();
            told(Ok(said), |_| format!("of block {number}"))
        })
        .await
    }

    /// The contract has its list from the first answer on, so that nobody has to ask for more.
    async fn logs_with(
        &self,
        _: Address,
        _: &[B256],
        _: &[B256],
        (from, to): (u64, u64),
    ) -> Result<Vec<Event>, RpcError> {
        let what = format!("response logs of {from} to {to}");
        self.ask(&what, |_, _| (Ok(Vec::new()), "none".to_owned())).await
    }

    async fn senders(&self, transactions: &[B256]) -> Result<Vec<Option<Address>>, RpcError> {
        let none = vec![None; transactions.len()];
        self.ask("senders", move |_, _| (Ok(none.clone()), "none".to_owned())).await
    }

    async fn counts_at(&self, _: Address, blocks: &[u64]) -> Result<Vec<Option<u64>>, RpcError> {
        let blocks = blocks.to_vec();
        self.ask("counts", move |state, node| {
            let sight = state.chain.sight(node);
            let count = |block: &u64| (*block <= sight).then(|| state.chain.nonce(*block));
            (Ok(blocks.iter().map(count).collect()), format!("up to {sight}"))
        })
        .await
    }

    async fn transactions_of(&self, _: Address, blocks: &[u64]) -> Result<Vec<Mined>, RpcError> {
        let blocks = blocks.to_vec();
        self.ask("own transactions", move |state, node| {
            let sight = state.chain.sight(node);
            let known = blocks.iter().filter(|block| **block <= sight);
            let known = known.filter_map(|block| state.chain.block(*block));
            let mined = known.flat_map(|block| &block.transactions);
            let mined: Vec<Mined> = mined.map(|one| one.transaction.told()).collect();
            let note = format!("{}", mined.len());
            (Ok(mined), note)
        })
        .await
    }

    async fn estimate_gas(&self, call: &Call) -> Result<u64, RpcError> {
        let (call, wallet) = (call.clone(), self.wallet);
        self.ask("estimate", move |state, node| {
            let sight = state.chain.sight(node);
            let endpoint = state.endpoint_of(node);
            let gas = contract(&call, state, wallet, sight).map(|_| 100_000);
            told(gas.map(|gas| state.told_estimate(endpoint, gas)), u64::to_string)
        })
        .await
    }

    async fn code_size(&self, _: Address) -> Result<usize, RpcError> {
        self.ask("code", |_, _| (Ok(1), "some".to_owned())).await
    }

    async fn balance(&self, _: Address) -> Result<U256, RpcError> {
        Ok(U256::MAX)
    }

    async fn transaction_count(&self, _: Address, at: At) -> Result<u64, RpcError> {
        self.ask("count", move |state, node| {
            let sight = state.chain.sight(node);
            let block = match at {
                At::Number(number) => Some(number).filter(|number| *number <= sight),
                At::Hash(hash) => state.chain.number_of(hash).filter(|number| *number <= sight),
                At::Latest | At::Safe | At::Finalized => Some(sight),
            };
            let Some(block) = block else {
                return told(Err(refused(-32_000, "header not found", None)), |_| String::new());
            };
            let (endpoint, count) = (state.endpoint_of(node), state.chain.nonce(block));
            let count = match state.told_count(endpoint, count) {
                senseless @ MOST_TRANSACTIONS.. => Err(RpcError::Unreadable {
                    host: HOST.into(),
                    what: format!("{senseless} transactions").into(),
                }),
                count => Ok(count),
            };
            told(count, u64::to_string)
        })
        .await
    }

    async fn priority_fee(&self) -> Result<u128, RpcError> {
        self.ask("tip", |state, node| {
            let endpoint = state.endpoint_of(node);
            told(Ok(state.told_tip(endpoint)), u128::to_string)
        })
        .await
    }

    async fn send_raw_transaction(&self, raw: &Bytes) -> Result<B256, RpcError> {
        let transaction = Transaction::read(raw);
        let answers = match transaction.answers() {
            Some(id) => format!("{}", id & U256::from(u64::MAX)),
            None => "nothing".to_owned(),
        };
        let (nonce, hash) = (transaction.nonce, transaction.hash);
        let what = format!("send {hash} nonce {nonce} for {answers}");
        if let Some(what) = transaction.is_out_of_bounds() {
            self.life.world.violation(format!("{hash} was signed for {what}"));
        }
        self.send_to_all(hash, &what, move |state, node| {
            let (mempool, ahead) = (state.plan.mempool, state.plan.executes_ahead);
            let offered = state.chain.offer(node, transaction.clone(), mempool, ahead);
            let offered = offered.map_err(|(text, data)| {
                refused(if data.is_some() { 3 } else { -32_000 }, text, data)
            });
            told(offered, |_| "taken".to_owned())
        })
        .await
    }

    async fn send_raw_transaction_sync(&self, raw: &Bytes) -> Result<Sent, RpcError> {
        let hash = self.send_raw_transaction(raw).await?;
        if self.life.world.state().plan.offers_receipts {
            for _ in 0..10 {
                sleep(Duration::from_millis(200)).await;
                let receipt = self.receipts(&[hash]).await?.into_iter().flatten().next();
                if let Some(receipt) = receipt {
                    return Ok(Sent::Mined(receipt));
                }
            }
        }
        Ok(Sent::Accepted)
    }

    async fn receipts(&self, hashes: &[B256]) -> Result<Vec<Option<Receipt>>, RpcError> {
        let hashes = hashes.to_vec();
        self.ask("receipts", move |state, node| {
            let sight = state.chain.sight(node);
            let receipts: Vec<_> = hashes
                .iter()
                .map(|hash| {
                    let receipt = state.chain.receipt(*hash, sight)?;
                    let rate = state.plan.faults.odd_receipt;
                    if state.fault(rate) {
                        state.fired("receipt");
                        return None;
                    }
                    Some(receipt)
                })
                .collect();
            told(Ok(receipts), |receipts| {
                let shown = receipts.iter().zip(&hashes).map(|(receipt, hash)| match receipt {
                    Some(one) => format!("{hash} in {} {}", one.block.number, one.success),
                    None => format!("{hash} no"),
                });
                shown.collect::<Vec<_>>().join(", ")
            })
        })
        .await
    }
}
