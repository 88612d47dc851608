//! Answers of the chain in memory.

use std::time::Duration;

use alloy::{
    consensus::{Transaction as _, TxEnvelope},
    eips::Decodable2718,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    CONTRACT, FakeChain, Pooled, SendBehavior, no_answer, receipt_in, refused, refused_by,
    request_data,
};
use crate::{
    chain::{
        provider::CALL_DEADLINE,
        reader::{
            Attributed, BlockId, ChainReader, EmittedLog, EthCall, Head, LogFilter, LogRange,
            LogSource, NodeId, NodeSets, RangeLogs, ReadAt, Receipt, StateRead, Transaction,
        },
        rpc_error::RpcError,
        sender::{Acceptance, TransactionSender},
    },
    domain::{Address, B256, BlockRef, Bytes, Event, U256},
};

impl ChainReader for FakeChain {
    fn node_sets(&self) -> NodeSets {
        let node = self.state();
        let all = (0..node.faults.len()).map(NodeId);
        NodeSets {
            sound: all.clone().filter(|one| !node.faults[one.0].is_disconnected).collect(),
            advancing: all.clone().filter(|one| node.faults[one.0].is_advancing).collect(),
            voters: all.clone().collect(),
            count: all.len(),
        }
    }
    fn for_node(&self, asked: NodeId) -> Self {
        Self { asked, is_alone: true, ..self.clone() }
    }
    fn host(&self, node: NodeId) -> String {
        format!("node-{}", node.0)
    }
    fn heads(&self) -> watch::Receiver<Option<Head>> {
        if self.is_alone {
            let node = self.state();
            let head = node.header_of(self.asked, BlockId::Latest);
            return watch::channel(head.map(|head| node.as_shown_by(self.asked, &head))).1;
        }
        let mut heads = self.heads.subscribe();
        heads.mark_changed();
        heads
    }
    async fn header(&self, at: BlockId) -> Result<Option<Head>, RpcError> {
        let slow = self.state().faults[self.asked.0].slow_header;
        if !slow.is_zero() {
            sleep(slow).await;
        }
        let node = self.count_call("header")?;
        let shown = node.faults[self.asked.0]
            .shows_block
            .filter(|shown| at == BlockId::Number(shown.number));
        let head = node.header_of(self.asked, at).map(|head| node.as_shown_by(self.asked, &head));
        Ok(head.map(|head| Head { block: shown.unwrap_or(head.block), ..head }))
    }
    async fn block_logs(
        &self,
        hash: B256,
        way: LogSource,
    ) -> Result<Attributed<Vec<EmittedLog>>, RpcError> {
        let (by, what) = match way {
            LogSource::Logs => (self.asked, "block_logs"),
            LogSource::Receipts => (self.asked, "block_receipts"),
        };
        let mut node = self.count_call(what)?;
        let lies = &node.faults[by.0];
        if way == LogSource::Receipts && lies.no_block_receipts {
            let message = "the method eth_getBlockReceipts does not exist";
            return Err(refused_by(-32601, message, None));
        }
        if way == LogSource::Logs && lies.hides_logs {
            return Ok(Attributed { node: by, value: Vec::new() });
        }
        let head =
            node.header(BlockId::Hash(hash)).ok_or_else(|| refused("unknown block", None))?;
        let number = usize::try_from(head.block.number).unwrap();
        if node.hides(number) {
            return Ok(Attributed { node: by, value: Vec::new() });
        }
        let block = node.chain[number].clone();
        let own = block.events.into_iter().map(|event| EmittedLog { address: CONTRACT, event });
        Ok(Attributed { node: by, value: own.chain(block.others).collect() })
    }
    async fn logs(
        &self,
        filter: LogFilter<'_>,
        range: LogRange,
    ) -> Result<Attributed<Vec<Event>>, RpcError> {
        let topics = filter.topic0;
        if let (LogRange::Numbers { from, to }, [_, ..]) = (range, filter.topic1) {
            let answer = self.logs_with(topics, filter.topic1, (from, to))?;
            return Ok(Attributed { node: self.asked, value: answer });
        }
        let slow = self.state().faults[self.asked.0].slow_logs;
        if !slow.is_zero() {
            sleep(slow).await;
        }
        let mut node = self.count_call("logs")?;
        let by = self.asked;
        let answer = match range {
            LogRange::Block(hash) => {
                if let Some((code, message)) = node.faults[by.0].no_block_logs {
                    return Err(refused_by(code, message, None));
                }
                let head = node.header_of(by, BlockId::Hash(hash));
                let head = head.ok_or_else(|| refused("unknown block", None))?;
                let mut events = node.logs_of(usize::try_from(head.block.number).unwrap());
                events.extend(node.forged(by, head.block));
                events
            }
            LogRange::Numbers { from, to } => {
                if let Some((most, code, message)) = node.faults[by.0].block_range_limit
                    && to - from >= most
                {
                    *node.calls.entry("refused").or_default() += 1;
                    return Err(refused_by(code, message, None));
                }
                match node.longest_range {
                    Some((longest, true)) if to - from >= longest => {
                        return Err(refused("query returned more than 10000 results", None));
                    }
                    Some((longest, false)) if to - from >= longest => {
                        let what = "eth_getLogs timed out".into();
                        return Err(RpcError::Unavailable { host: "node".into(), what });
                    }
                    _ => {}
                }
                // A lagging node returns nothing for unknown blocks, and no error.
                let mut last = node.header(BlockId::Latest).map_or(0, |head| head.block.number);
                node.others_turn = !node.others_turn;
                if let Some(knows) = node.other_knows.filter(|_| node.others_turn) {
                    last = last.min(knows);
                }
                let skipped = node.missing_in_ranges.clone();
                let mut events = Vec::new();
                for number in (from..=to.min(last)).filter(|number| !skipped.contains(number)) {
                    events.extend(node.logs_of(usize::try_from(number).unwrap()));
                }
                let stale = node.faults[by.0].stale.iter();
                events.extend(
                    stale.filter(|event| (from..=to).contains(&event.block.number)).cloned(),
                );
                if node.is_shuffling_ranges {
                    events.reverse();
                    events.extend(events.clone());
                }
                events
            }
        };
        let shows_none = node.faults[by.0].hides_logs || node.faults[by.0].hides_events;
        let mut answer = if shows_none { Vec::new() } else { answer };
        answer.truncate(node.shows_at_most.unwrap_or(usize::MAX));
        if let Some(number) = node.faults[by.0].misplaces {
            for event in &mut answer {
                event.block.number = number;
            }
        }
        answer.retain(|event| topics.is_empty() || topics.contains(&event.topics[0]));
        if let Some(says) = node.faults[by.0].rewrites {
            for event in &mut answer {
                event.data = request_data(says);
            }
        }
        Ok(Attributed { node: by, value: answer })
    }
    async fn receipt_logs(&self, transaction: B256) -> Result<Option<Vec<EmittedLog>>, RpcError> {
        let node = self.count_call("emitted_by")?;
        if node.hide_receipts || node.faults[self.asked.0].hides_events {
            return Ok(None);
        }
        let forged = node.faults[self.asked.0].forges.iter();
        let events = node.chain.iter().flat_map(|block| &block.events).chain(forged);
        let own = events.filter(|event| event.transaction == transaction);
        let own = own.map(|event| EmittedLog { address: CONTRACT, event: event.clone() });
        let others = node.chain.iter().flat_map(|block| &block.others);
        let others = others.filter(|other| other.event.transaction == transaction).cloned();
        let emitted: Vec<_> = own.chain(others).collect();
        Ok((!emitted.is_empty()).then_some(emitted))
    }
    async fn block_transactions(&self, block: B256) -> Result<Option<Vec<B256>>, RpcError> {
        let node = self.count_call("block_transactions")?;
        let Some(head) = node.header_of(self.asked, BlockId::Hash(block)) else { return Ok(None) };
        let block = &node.chain[usize::try_from(head.block.number).unwrap()];
        let others = block.others.iter().map(|other| other.event.clone());
        let forged = node.forged(self.asked, head.block).chain(others);
        let all = block.events.iter().cloned().chain(forged);
        Ok(Some(all.map(|event| event.transaction).collect()))
    }
    async fn logs_between(
        &self,
        filter: LogFilter<'_>,
        from: u64,
        to: u64,
    ) -> Result<RangeLogs, RpcError> {
        let (first, last) = {
            let mut node = self.count_call("header")?;
            let lags = node.lags_from;
            // This call takes the turn that the logs just had.
            if let Some(knows) = node.other_knows.filter(|_| !node.others_turn) {
                node.lags_from = Some(knows + 1);
            }
            let told = |number| {
                node.header(BlockId::Number(number)).map(|head| node.as_shown_by(self.asked, &head))
            };
            let ends = (told(from), told(to));
            node.lags_from = lags;
            ends
        };
        let told = self.logs(filter, LogRange::Numbers { from, to }).await?;
        Ok(RangeLogs { first_head: first, last_head: last, events: told.value, node: told.node })
    }
    async fn call(&self, call: &EthCall, at: BlockId) -> Result<Bytes, RpcError> {
        let node = self.count_call("call")?;
        let asked = node.header(at).map(|head| head.block.number);
        let of_block = matches!(at, BlockId::Hash(_) | BlockId::Number(_));
        if of_block && asked.is_none_or(|asked| node.calls_know_below.is_some_and(|b| asked >= b)) {
            return Err(refused("header not found", None));
        }
        if of_block && asked.is_some_and(|asked| node.no_state_below.is_some_and(|b| asked < b)) {
            return Err(refused("missing trie node 8b16 (path )", None));
        }
        let at_block = asked.unwrap_or(u64::MAX);
        let answer = node.view(self.asked.0, &call.data, at_block);
        if let Some(answer) = answer.or_else(|| node.told(call, at_block)) {
            return answer;
        }
        if node.tells_ids && call.to == CONTRACT {
            let id = U256::from_be_slice(&call.data[4..36]);
            return Err(refused("execution reverted", Some(node.id_reply(id, asked))));
        }
        node.verdict(self.asked).map(|()| Bytes::new())
    }
    async fn calls(
        &self,
        calls: &[EthCall],
        at: BlockId,
    ) -> Result<Vec<Result<Bytes, RpcError>>, RpcError> {
        let mut said = Vec::new();
        let takes = {
            let mut node = self.count_call("calls")?;
            *node.calls.entry("calls in messages").or_default() += calls.len();
            node.answer_history.answers_after
        };
        sleep(takes).await;
        for call in calls {
            said.push(self.call(call, at).await);
        }
        Ok(said)
    }
    async fn read_state(
        &self,
        block: BlockRef,
        reads: &[(StateRead, ReadAt)],
    ) -> Result<Vec<Result<Bytes, RpcError>>, RpcError> {
        self.host_state(block, reads).await
    }
    async fn transaction(&self, hash: B256) -> Result<Option<Transaction>, RpcError> {
        let node = self.count_call("transaction")?;
        if let Some(shown) = &node.faults[self.asked.0].shows_transaction {
            return Ok(Some(shown.clone()));
        }
        Ok(node.host.transactions.get(&hash).cloned().or_else(|| node.past_transaction(hash)))
    }
    async fn senders(&self, transactions: &[B256]) -> Result<Vec<Option<Address>>, RpcError> {
        Ok(self.count_call("senders")?.senders(transactions))
    }
    async fn transaction_counts_at(
        &self,
        sender: Address,
        blocks: &[u64],
    ) -> Result<Vec<Option<u64>>, RpcError> {
        Ok(self.count_call("counts_at")?.counts_at(sender, blocks))
    }
    async fn transactions_from(
        &self,
        sender: Address,
        blocks: &[u64],
    ) -> Result<Vec<Transaction>, RpcError> {
        Ok(self.count_call("transactions_of")?.transactions_of(sender, blocks))
    }
    async fn code_size(&self, address: Address) -> Result<usize, RpcError> {
        let node = self.count_call("code_size")?;
        let is_host = node.host.contract == Some(address) || node.host.code.contains_key(&address);
        Ok(usize::from(address == CONTRACT || node.has_registry || is_host))
    }
    async fn receipts(&self, hashes: &[B256]) -> Result<Vec<Option<Receipt>>, RpcError> {
        let node = self.count_call("receipts")?;
        if node.most_receipts.is_some_and(|most| hashes.len() > most) {
            return Err(refused("too many", None));
        }
        if let Some(block) = node.faults[self.asked.0].receipts_in {
            let receipt = |hash: &B256| Some(receipt_in(*hash, block));
            return Ok(hashes.iter().map(receipt).collect());
        }
        if node.hide_receipts || node.faults[self.asked.0].no_receipts {
            return Ok(vec![None; hashes.len()]);
        }
        let receipt = |hash: &B256| {
            let of_event = || {
                let mut events = node.chain.iter().flat_map(|block| &block.events);
                let event = events.find(|event| event.transaction == *hash)?;
                Some(receipt_in(*hash, event.block))
            };
            let receipt = node.receipts.get(hash).cloned().or_else(of_event);
            let success = !node.faults[self.asked.0].reverts;
            receipt.map(|receipt| Receipt { success: receipt.success && success, ..receipt })
        };
        Ok(hashes.iter().map(receipt).collect())
    }
}

impl TransactionSender for FakeChain {
    async fn estimate_gas(&self, _: &EthCall) -> Result<u64, RpcError> {
        let node = self.count_call("estimate")?;
        node.verdict(self.asked)
            .map(|()| node.faults[self.asked.0].estimate.unwrap_or(node.estimate))
    }
    async fn balance(&self, _: Address) -> Result<U256, RpcError> {
        Ok(U256::MAX)
    }
    async fn transaction_count(&self, _: Address, at: BlockId) -> Result<u64, RpcError> {
        let node = self.count_call("transaction_count")?;
        let asked = node.header(at).ok_or_else(|| refused("header not found", None))?;
        if node.faults[self.asked.0].lags_from.is_some_and(|from| asked.block.number >= from) {
            return Err(refused("header not found", None));
        }
        Ok(node.faults[self.asked.0].transaction_count.unwrap_or(node.nonce))
    }
    async fn priority_fee(&self) -> Result<u128, RpcError> {
        let node = self.count_call("priority_fee")?;
        Ok(node.faults[self.asked.0].priority_fee.unwrap_or(0))
    }
    async fn send(&self, raw: &Bytes, waits: bool) -> Result<Acceptance, RpcError> {
        let hash = self.take(raw).await?;
        let until = Instant::now() + Duration::from_secs(2);
        while waits && self.state().offers_receipts && Instant::now() < until {
            if let Some(block) = self.state().faults[self.asked.0].receipts_in {
                return Ok(Acceptance::Mined(receipt_in(hash, block)));
            }
            if let Some(receipt) = self.state().receipts.get(&hash) {
                return Ok(Acceptance::Mined(receipt.clone()));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(Acceptance::Accepted)
    }
}

impl FakeChain {
    fn logs_with(
        &self,
        first: &[B256],
        second: &[B256],
        range: (u64, u64),
    ) -> Result<Vec<Event>, RpcError> {
        let node = self.count_call("logs_with")?;
        if node.faults[self.asked.0].hides_logs {
            return Ok(Vec::new());
        }
        match node.longest_range {
            Some((longest, _)) if range.1 - range.0 >= longest => {
                Err(refused("query returned more than 10000 results", None))
            }
            _ => Ok(node.logs_with(first, second, range)),
        }
    }
    async fn take(&self, raw: &Bytes) -> Result<B256, RpcError> {
        let swallowed = {
            let mut node = self.state();
            let swallowed = node.lost_sends > 0;
            node.lost_sends = node.lost_sends.saturating_sub(1);
            swallowed
        };
        if swallowed {
            sleep(CALL_DEADLINE).await;
            return Err(no_answer());
        }
        let mut node = self.count_call("send")?;
        if let Some(data) = &node.reverts_in_advance {
            return Err(refused("execution reverted", Some(data.clone())));
        }
        match node.send_behavior {
            SendBehavior::Lose => return Err(no_answer()),
            SendBehavior::Refuse(message) => return Err(refused(message, None)),
            SendBehavior::Accept | SendBehavior::TakeSilently => {}
        }
        let transaction = TxEnvelope::decode_2718(&mut raw.as_ref()).unwrap();
        let (hash, nonce) = (*transaction.tx_hash(), transaction.nonce());
        let (gas_limit, max_fee) = (transaction.gas_limit(), transaction.max_fee_per_gas());
        let tip = transaction.max_priority_fee_per_gas().unwrap_or(0);
        let cost = U256::from(gas_limit).saturating_mul(U256::from(max_fee));
        if node.funds.is_some_and(|funds| funds - node.paid < cost) {
            return Err(refused("insufficient funds for gas * price + value", None));
        }
        if node.block_gas.is_some_and(|most| gas_limit > most) {
            return Err(refused("exceeds block gas limit", None));
        }
        if nonce < node.nonce {
            return Err(refused("nonce too low", None));
        }
        let pooled = Pooled { hash, gas_limit, max_fee, tip };
        if max_fee < node.base_fee && node.pool_rules.is_none() {
            return Err(refused("max fee per gas less than block base fee", None));
        }
        if node.pool.get(&nonce).is_some_and(|known| known.hash == hash) {
            return Err(refused("already known", None));
        }
        if let Some(message) = node.pool_refuses(nonce, pooled) {
            return Err(refused(message, None));
        }
        node.sent.push(transaction.input().clone());
        node.pool.insert(nonce, pooled);
        if node.send_behavior == SendBehavior::TakeSilently { Err(no_answer()) } else { Ok(hash) }
    }
}
