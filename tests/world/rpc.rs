//! JSON-RPC over HTTP, and transactions from accounts whose keys the node holds.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use alloy::{
    primitives::{Address, B256, Bytes, U64, U256},
    sol_types::SolCall,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{Error, PATIENCE, Result, http_client, until};

/// A handle on one chain. Cheap to clone; survives a restart of the node on the same port.
#[derive(Clone, Debug)]
pub struct Chain {
    client: reqwest::Client,
    url: String,
    /// Sends the harness's own transactions.
    admin: Address,
    /// The node picks nonces itself; two sends at once may be given the same one.
    sending: Arc<Mutex<()>>,
}

/// One log as the node tells it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Log {
    pub address: Address,
    pub topics: Vec<B256>,
    pub data: Bytes,
    pub block_number: U64,
    pub block_hash: B256,
    pub transaction_hash: B256,
    #[serde(rename = "logIndex")]
    pub index: U64,
}

/// The parts of a receipt that tests look at.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    pub transaction_hash: B256,
    pub status: U64,
    pub from: Address,
    pub to: Option<Address>,
    pub contract_address: Option<Address>,
    pub block_number: U64,
    pub block_hash: B256,
    pub logs: Vec<Log>,
}

impl Receipt {
    pub fn succeeded(&self) -> bool {
        self.status == U64::from(1)
    }
}

/// A transaction to be sent by [`Chain::send_all`].
#[derive(Clone, Debug)]
pub struct Call {
    pub from: Option<Address>,
    pub to: Option<Address>,
    pub data: Bytes,
    /// `None`: what the node estimates, on the latest block: not enough where a transaction before it
    /// in the same block matters.
    pub gas: Option<u64>,
}

impl Call {
    /// A call of `function` on `to` by the harness's own account.
    pub fn new(to: Address, function: &impl SolCall) -> Self {
        Self::encoded(to, function.abi_encode().into())
    }

    /// The same of calldata.
    pub fn encoded(to: Address, data: Bytes) -> Self {
        Self { from: None, to: Some(to), data, gas: None }
    }

    pub fn create(code: Vec<u8>) -> Self {
        Self { from: None, to: None, data: code.into(), gas: None }
    }

    #[must_use]
    pub fn gas(mut self, gas: u64) -> Self {
        self.gas = Some(gas);
        self
    }

    /// The same, sent by another account. The node does not ask for its key.
    #[must_use]
    pub fn from(mut self, from: Address) -> Self {
        self.from = Some(from);
        self
    }
}

#[derive(Deserialize)]
struct Response {
    #[serde(default)]
    result: Value,
    error: Option<RpcError>,
}

#[derive(Deserialize)]
struct RpcError {
    code: i64,
    message: String,
    data: Option<Value>,
}

impl Chain {
    /// A chain at `url` on which `admin` is an unlocked account.
    pub fn new(url: impl Into<String>, admin: Address) -> Result<Self> {
        Ok(Self { client: http_client(PATIENCE)?, url: url.into(), admin, sending: Arc::default() })
    }

    pub fn admin(&self) -> Address {
        self.admin
    }

    /// Any JSON-RPC method.
    pub async fn rpc<T: DeserializeOwned>(&self, method: &str, params: Value) -> Result<T> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let answer = self
            .client
            .post(&self.url)
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await?
            .bytes()
            .await?;
        let answer: Response = serde_json::from_slice(&answer)?;
        match answer.error {
            None => Ok(serde_json::from_value(answer.result)?),
            Some(RpcError { code, message, data }) => {
                // Revert data stands in `data` itself; other errors put prose there.
                let data = data.and_then(|d| serde_json::from_value(d).ok());
                Err(Error::Rpc { method: method.into(), code, message, data })
            }
        }
    }

    /// `eth_call` at the latest block.
    pub async fn call<C: SolCall>(&self, to: Address, call: &C) -> Result<C::Return> {
        self.call_from(self.admin, to, call).await
    }

    /// `eth_call` in the name of `from`: how a test asks what a transaction would do.
    pub async fn call_from<C: SolCall>(
        &self,
        from: Address,
        to: Address,
        call: &C,
    ) -> Result<C::Return> {
        let transaction = json!({"from": from, "to": to, "data": Bytes::from(call.abi_encode())});
        // A node that keeps no old states may make a block just when it looks at the last one.
        let mut left = 5;
        let data: Bytes = loop {
            let told = self.rpc("eth_call", json!([transaction, "latest"])).await;
            match told {
                Err(Error::Rpc { message, .. })
                    if left > 0 && message.contains("BlockOutOfRange") =>
                {
                    left -= 1;
                }
                told => break told?,
            }
        };
        Ok(C::abi_decode_returns(&data)?)
    }

    pub async fn block_number(&self) -> Result<u64> {
        Ok(self.rpc::<U64>("eth_blockNumber", json!([])).await?.to())
    }

    /// Hash of a block by number; `None` where the chain has not come to it.
    pub async fn block_hash(&self, number: u64) -> Result<Option<B256>> {
        let block: Value =
            self.rpc("eth_getBlockByNumber", json!([U64::from(number), false])).await?;
        Ok(serde_json::from_value(block["hash"].clone())?)
    }

    pub async fn chain_id(&self) -> Result<u64> {
        Ok(self.rpc::<U64>("eth_chainId", json!([])).await?.to())
    }

    pub async fn nonce(&self, account: Address) -> Result<u64> {
        let nonce: U64 = self.rpc("eth_getTransactionCount", json!([account, "latest"])).await?;
        Ok(nonce.to())
    }

    pub async fn balance(&self, account: Address) -> Result<U256> {
        self.rpc("eth_getBalance", json!([account, "latest"])).await
    }

    pub async fn set_balance(&self, account: Address, wei: U256) -> Result<()> {
        self.rpc("anvil_setBalance", json!([account, wei])).await
    }

    /// Mines `count` blocks now, whatever the block time.
    pub async fn mine(&self, count: u64) -> Result<()> {
        let _null: Value = self.rpc("anvil_mine", json!([U64::from(count)])).await?;
        Ok(())
    }

    /// A block every so many seconds by itself; `0`: only [`Self::mine`] makes blocks.
    pub async fn set_block_time(&self, seconds: u64) -> Result<()> {
        let _null: Value = self.rpc("evm_setIntervalMining", json!([seconds])).await?;
        Ok(())
    }

    /// Hashes of the transactions of `account` that wait to be mined, by nonce.
    pub async fn unmined(&self, account: Address) -> Result<BTreeMap<u64, B256>> {
        #[derive(Deserialize)]
        struct Content {
            pending: HashMap<Address, HashMap<String, Unmined>>,
        }
        #[derive(Deserialize)]
        struct Unmined {
            hash: B256,
            nonce: U64,
        }
        let mut content: Content = self.rpc("txpool_content", json!([])).await?;
        let mine = content.pending.remove(&account).unwrap_or_default();
        Ok(mine.into_values().map(|one| (one.nonce.to(), one.hash)).collect())
    }

    /// Replaces the last `depth` blocks by others that carry no transactions.
    pub async fn reorg(&self, depth: u64) -> Result<()> {
        let _null: Value = self.rpc("anvil_reorg", json!([depth, []])).await?;
        Ok(())
    }

    /// Replaces the last `depth` blocks by others that carry only these transactions, each in the
    /// block of that index. The others are gone, also from the pool.
    pub async fn reorg_with(&self, depth: u64, kept: &[(Value, u64)]) -> Result<()> {
        let _null: Value = self.rpc("anvil_reorg", json!([depth, kept])).await?;
        Ok(())
    }

    /// A mined transaction of the harness's account in the form in which [`Self::reorg_with`] makes
    /// the same one again, hash included.
    pub async fn transaction_again(&self, hash: B256) -> Result<Value> {
        let mut transaction: Value = self.rpc("eth_getTransactionByHash", json!([hash])).await?;
        let fields = transaction.as_object_mut();
        let fields = fields.ok_or_else(|| Error::other(format!("no transaction {hash}")))?;
        // What a block or a signature adds; the account is unlocked, and nobody signed.
        for added in [
            "hash",
            "blockHash",
            "blockNumber",
            "blockTimestamp",
            "transactionIndex",
            "gasPrice",
            "r",
            "s",
            "v",
            "yParity",
        ] {
            fields.remove(added);
        }
        Ok(transaction)
    }

    /// Logs of `address` from block `from` on.
    pub async fn logs(&self, address: Address, from: u64, topic0: B256) -> Result<Vec<Log>> {
        let filter = json!({
            "address": address, "fromBlock": U64::from(from), "toBlock": "latest", "topics": [topic0],
        });
        self.rpc("eth_getLogs", json!([filter])).await
    }

    /// Logs of `address` in a range of blocks, both ends included, with one of `topics` first.
    pub async fn logs_between(
        &self,
        address: Address,
        (from, to): (u64, u64),
        topics: &[B256],
    ) -> Result<Vec<Log>> {
        let filter = json!({
            "address": address, "fromBlock": U64::from(from), "toBlock": U64::from(to),
            "topics": [topics],
        });
        self.rpc("eth_getLogs", json!([filter])).await
    }

    /// Receipts of every transaction in one block.
    pub async fn block_receipts(&self, number: u64) -> Result<Vec<Receipt>> {
        let receipts: Option<Vec<Receipt>> =
            self.rpc("eth_getBlockReceipts", json!([U64::from(number)])).await?;
        Ok(receipts.unwrap_or_default())
    }

    /// Sends one transaction and waits for its receipt. A revert shows already while its gas is
    /// estimated, as [`Error::Rpc`] with the revert data; then nothing is sent.
    pub async fn send(&self, call: Call) -> Result<Receipt> {
        let _gas: U256 = self.rpc("eth_estimateGas", json!([self.transaction(&call)])).await?;
        let mut receipts = self.send_all(vec![call]).await?;
        receipts.pop().ok_or_else(|| Error::other("one transaction, one receipt"))
    }

    /// Sends the transactions in order, has them mined at once, and waits for all receipts. The
    /// first with status 0 is an error.
    pub async fn send_all(&self, calls: Vec<Call>) -> Result<Vec<Receipt>> {
        let mut hashes = Vec::with_capacity(calls.len());
        {
            let _in_order = self.sending.lock().await;
            for call in calls {
                hashes.push(self.submit(&self.transaction(&call)).await?);
            }
            self.mine(1).await?;
        }
        let mut receipts = Vec::with_capacity(hashes.len());
        for hash in hashes {
            let receipt = self.receipt(hash).await?;
            if !receipt.succeeded() {
                return Err(Error::Failed(hash));
            }
            receipts.push(receipt);
        }
        Ok(receipts)
    }

    /// Has the node send it. While it makes a block it may give a transaction a nonce that is used, and then
    /// refuse it for that.
    async fn submit(&self, transaction: &Value) -> Result<B256> {
        until("a nonce", PATIENCE, Duration::from_millis(20), async || {
            match self.rpc("eth_sendTransaction", json!([transaction])).await {
                Err(Error::Rpc { message, .. }) if message == "nonce too low" => Ok(None),
                sent => sent.map(Some),
            }
        })
        .await
    }

    fn transaction(&self, call: &Call) -> Value {
        let mut transaction = json!({"from": call.from.unwrap_or(self.admin), "data": call.data});
        if let Some(to) = call.to {
            transaction["to"] = json!(to);
        }
        if let Some(gas) = call.gas {
            transaction["gas"] = json!(U64::from(gas));
        }
        transaction
    }

    /// Waits for the receipt of a transaction.
    pub async fn receipt(&self, hash: B256) -> Result<Receipt> {
        let what = format!("receipt of {hash}");
        until(&what, PATIENCE, Duration::from_millis(20), async || {
            self.rpc::<Option<Receipt>>("eth_getTransactionReceipt", json!([hash])).await
        })
        .await
    }
}
