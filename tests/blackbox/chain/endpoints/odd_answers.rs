//! Answers that no node should give: another one is asked, or another way is taken.

use alloy::primitives::{Address, B256, Bytes, U256};
use kms_connector::chain::{
    reader::{BlockId, ChainReader, LogRange, NodeId},
    rpc_error::RpcError,
    sender::TransactionSender,
};
use world::{
    Error, Result,
    faulty_rpc::{Arrays, FaultyRpc, Lie, Rule},
    rpc::Call,
    until,
};

use super::{Ground, POLL, SOON, filter, ground, send};

/// What a node says about itself is asked of the next one; what it says about the question is not.
#[world::test]
async fn trouble_of_the_node_is_not_an_answer() -> Result<()> {
    let ground = ground(&["http", "ws"]).await?;
    ground.connected().await?;
    ground.reads_from(0).await?;
    let lies = [
        Lie::Status(429),
        Lie::Status(503),
        Lie::Malformed,
        Lie::method_not_found(),
        Lie::error(-32005, "rate limit exceeded"),
        Lie::error(-32603, "internal error"),
        Lie::Result(serde_json::json!("no number")),
    ];
    for lie in lies {
        // One that is asked too often is left alone for a moment.
        ground.reads_from(0).await?;
        ground.nodes[0].rule(Rule::times(1, "eth_getCode", lie.clone()));
        let asked = ground.provider.code_size(Address::ZERO).await;
        assert_eq!(asked.as_ref().ok(), Some(&0), "{lie:?}: {asked:?}");
    }
    ground.nodes[0].be_honest();
    ground.reads_from(0).await?;
    ground.reads_from(0).await?;
    let calls = ground.nodes[1].calls("eth_getCode");
    let reverted = Lie::Error {
        code: 3,
        message: "execution reverted".into(),
        data: Some(serde_json::json!("0x12345678")),
    };
    ground.nodes[0].rule(Rule::times(1, "eth_getCode", reverted));
    let asked = ground.provider.code_size(Address::ZERO).await;
    let data = asked.err().and_then(|error| error.revert_data());
    assert_eq!(data, Some(Bytes::from_static(&[0x12, 0x34, 0x56, 0x78])));
    assert_eq!(ground.nodes[1].calls("eth_getCode"), calls, "nobody else was asked");
    Ok(())
}

#[world::test]
async fn a_malformed_frame_costs_a_connection_and_nothing_else() -> Result<()> {
    let ground = ground(&["ws", "ws"]).await?;
    ground.connected().await?;
    ground.reads_from(0).await?;
    ground.nodes[0].rule(Rule::times(1, "eth_getBalance", Lie::Malformed));
    assert_eq!(ground.provider.balance(Address::ZERO).await.ok(), Some(U256::ZERO));
    ground.provider.balance(Address::ZERO).await.map_err(|e| Error::other(e.to_string()))?;
    Ok(())
}

impl Ground {
    /// Two transactions in one block.
    async fn mined(&self) -> Result<[B256; 2]> {
        let chain = self.anvil.chain();
        let call = || Call::encoded(chain.admin(), Bytes::new());
        let receipts = chain.send_all(vec![call(), call()]).await?;
        Ok([receipts[0].transaction_hash, receipts[1].transaction_hash])
    }

    /// Receipts and ranges are read.
    async fn reads_several(&self, hashes: &[B256]) -> Result<()> {
        let failed = |e: RpcError| Error::other(e.to_string());
        let receipts = self.provider.receipts(hashes).await.map_err(failed)?;
        assert!(receipts.iter().all(|receipt| receipt.as_ref().is_some_and(|it| it.success)));
        let range = self.provider.logs_between(filter(&[B256::ZERO]), 0, 1).await;
        let range = range.map_err(failed)?;
        assert_eq!(range.first_head.map(|head| head.block.number), Some(0));
        assert_eq!(range.last_head.map(|head| head.block.number), Some(1));
        Ok(())
    }
}

/// Alone, and of two that are the same; however the refusal is put.
#[world::test]
async fn a4_a_node_that_refuses_arrays_is_asked_call_by_call() -> Result<()> {
    let refusals =
        [Arrays::Refused(200), Arrays::Refused(400), Arrays::Status(405), Arrays::InPart];
    for (index, refusal) in refusals.into_iter().enumerate() {
        let schemes = ["http", "http"];
        let ground = ground(&schemes[..=(index % 2)]).await?;
        ground.connected().await?;
        let hashes = ground.mined().await?;
        for node in &ground.nodes {
            node.lie(|lies| lies.arrays = refusal);
        }
        for _ in 0..3 {
            ground.reads_several(&hashes).await?;
        }
        let tried: usize = ground.nodes.iter().map(FaultyRpc::arrays).sum();
        assert_eq!(tried, 1, "{refusal:?}: once is enough to find out");
    }
    let ground = ground(&["http"]).await?;
    ground.connected().await?;
    let hashes = ground.mined().await?;
    ground.reads_several(&hashes).await?;
    assert_eq!(ground.nodes[0].arrays(), 2, "who takes them gets them");
    // A node that is busy has said nothing about arrays.
    ground.nodes[0].lie(|lies| lies.arrays = Arrays::Status(429));
    assert!(ground.provider.receipts(&hashes).await.is_err());
    ground.nodes[0].be_honest();
    let arrays = ground.nodes[0].arrays();
    ground.reads_several(&hashes).await?;
    assert_eq!(ground.nodes[0].arrays(), arrays + 2);
    Ok(())
}

#[world::test]
async fn a5_receipts_without_what_is_not_needed_are_read() -> Result<()> {
    let fields = ["logsBloom", "logs", "type", "effectiveGasPrice", "cumulativeGasUsed", "gasUsed"];
    for scheme in ["ws", "http"] {
        let ground = ground(&[scheme]).await?;
        ground.connected().await?;
        let hashes = ground.mined().await?;
        for field in fields {
            ground.nodes[0].lie(|lies| lies.leaves_out.push(("eth_getTransactionReceipt", field)));
            ground.reads_several(&hashes).await?;
        }
    }
    Ok(())
}

/// Of a receipt that nobody can read nothing follows for those that came with it; another node is
/// asked for it.
#[world::test]
async fn a5_an_odd_receipt_takes_no_neighbour_along() -> Result<()> {
    const METHOD: &str = "eth_getTransactionReceipt";
    let ground = ground(&["http", "ws"]).await?;
    ground.connected().await?;
    ground.reads_from(0).await?;
    let hashes = ground.mined().await?;
    ground.nodes[0].rule(Rule::times(1, METHOD, Lie::Result(serde_json::json!({ "odd": 1 }))));
    let receipts = ground.provider.receipts(&hashes).await;
    let receipts = receipts.map_err(|e| Error::other(e.to_string()))?;
    assert!(receipts.iter().all(Option::is_some), "{receipts:?}");
    assert_eq!(ground.nodes[1].calls(METHOD), 1, "only for the odd one");
    for node in &ground.nodes {
        node.rule(Rule::times(1, METHOD, Lie::Result(serde_json::json!({ "odd": 1 }))));
    }
    let receipts = ground.provider.receipts(&hashes).await;
    let receipts = receipts.map_err(|e| Error::other(e.to_string()))?;
    assert_eq!(receipts.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
    Ok(())
}

#[world::test]
async fn b4_an_answer_without_end_is_not_read_to_the_end() -> Result<()> {
    let ground = ground(&["http", "ws"]).await?;
    ground.connected().await?;
    ground.reads_from(0).await?;
    for method in ["eth_getCode", "eth_getLogs"] {
        ground.nodes[0].rule(Rule::always(method, Lie::Flood));
    }
    let failed = |e: RpcError| Error::other(e.to_string());
    // Another one has a legal answer.
    assert_eq!(ground.provider.code_size(Address::ZERO).await.map_err(failed)?, 0);
    // What was on its way is not what was read.
    assert!(ground.nodes[0].flooded() < 48 << 20, "{}", ground.nodes[0].flooded());
    let alone = ground.provider.for_node(ground.provider.sound_nodes()[0]);
    let logs = alone.logs(filter(&[]), LogRange::Numbers { from: 0, to: 9 }).await;
    let error = logs.err().ok_or_else(|| Error::other("an answer"))?;
    assert!(error.range_refusal().is_some(), "{error}");
    assert!(ground.nodes[0].flooded() < 128 << 20, "{}", ground.nodes[0].flooded());

    // Over a WebSocket it costs the connection.
    ground.nodes[1].rule(Rule::times(1, "eth_getLogs", Lie::Flood));
    let other = ground.provider.for_node(NodeId(1));
    let range = LogRange::Numbers { from: 0, to: 9 };
    assert!(other.logs(filter(&[]), range).await.is_err());
    until("a new connection", SOON, POLL, async || Ok(other.logs(filter(&[]), range).await.ok()))
        .await?;
    Ok(())
}

/// T16: headers and logs of a range come from the same node.
#[world::test]
async fn t16_ends_and_logs_of_a_range_are_of_one_node() -> Result<()> {
    for scheme in ["ws", "http"] {
        let ground = ground(&[scheme]).await?;
        ground.connected().await?;
        ground.anvil.chain().mine(100).await?;
        ground.nodes[0].lie(|lies| lies.second_node_lags = Some(60));
        let head = ground.anvil.chain().block_number().await?;
        let (mut known, mut unknown) = (0, 0);
        // Which of the two answers is drawn: until each has.
        while known == 0 || unknown == 0 {
            assert!(known + unknown < 100, "{known} {unknown}");
            let range = ground.provider.logs_between(filter(&[B256::ZERO]), 1, head - 32);
            let range = range.await.map_err(|e| Error::other(e.to_string()))?;
            assert!(range.first_head.is_some());
            match range.last_head {
                Some(last) => {
                    assert_eq!(last.block.number, head - 32);
                    known += 1;
                }
                None => unknown += 1,
            }
        }
    }
    Ok(())
}

#[world::test]
async fn the_lies_are_what_they_say() -> Result<()> {
    let ground = ground(&["ws"]).await?;
    ground.connected().await?;
    let (provider, node) = (&ground.provider, &ground.nodes[0]);
    let failed = |e: RpcError| Error::other(e.to_string());
    ground.anvil.chain().mine(10).await?;
    let hash = ground.anvil.chain().block_hash(8).await?.unwrap_or_default();
    node.lie(|lies| lies.stands_at = Some(5));
    assert_eq!(
        provider.header(BlockId::Latest).await.map_err(failed)?.map(|h| h.block.number),
        Some(5)
    );
    assert_eq!(provider.header(BlockId::Number(6)).await.map_err(failed)?, None);
    assert_eq!(provider.header(BlockId::Hash(hash)).await.map_err(failed)?, None);
    let range = LogRange::Numbers { from: 6, to: 9 };
    let logs = provider.logs(filter(&[B256::ZERO]), range).await.map_err(failed)?;
    assert!(logs.value.is_empty());
    node.lie(|lies| lies.finalized = Some(3));
    let finalized = provider.header(BlockId::Finalized).await.map_err(failed)?;
    assert_eq!(finalized.map(|head| head.block.number), Some(3));
    node.rule(Rule::always("eth_sendRawTransaction", Lie::SyncTimeout));
    // EIP-7966, code 4: it is in the pool, and no receipt came in time.
    send(&ground).await.map_err(failed)?;
    Ok(())
}
