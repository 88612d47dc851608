//! Who gets a transaction, and what counts as its refusal.

use std::time::Duration;

use alloy::primitives::B256;
use kms_connector::chain::{
    quirks,
    reader::ChainReader,
    rpc_error::RpcError,
    sender::{Acceptance, TransactionSender},
};
use tokio::time::Instant;
use world::{
    Result,
    faulty_rpc::{Lie, Rule},
    proxy::Weather,
    until,
};

use super::{POLL, SEND, SOON, ground, send, transaction};

fn taken(hash: B256) -> Lie {
    Lie::Result(serde_json::json!(hash))
}

fn refusal(sent: &Result<Acceptance, RpcError>) -> Option<quirks::PoolError> {
    match sent {
        Err(RpcError::Refused { code, message, .. }) => Some(quirks::pool_error(*code, message)),
        _ => None,
    }
}

/// Field failure T40.
#[world::test]
async fn a_transaction_goes_to_every_node_and_one_acceptance_is_enough() -> Result<()> {
    let ground = ground(&["ws", "http", "ws"]).await?;
    ground.connected().await?;
    let (_, hash) = transaction();
    // Whichever takes it, whatever the others say or do not say.
    for (taker, lie) in
        [(0, taken(hash)), (1, taken(hash)), (2, taken(hash)), (1, Lie::already_known())]
    {
        for (index, node) in ground.nodes.iter().enumerate() {
            node.be_honest();
            let other = if index % 2 == 0 { Lie::nonce_too_high() } else { Lie::Silence };
            let lie = if index == taker { lie.clone() } else { other };
            node.rule(Rule::always(SEND, lie));
        }
        let begun = Instant::now();
        let sent = send(&ground).await;
        assert_eq!(sent.as_ref().ok(), Some(&Acceptance::Accepted), "{taker}: {sent:?}");
        assert!(begun.elapsed() < Duration::from_secs(9), "nobody was waited for");
    }
    until("all nodes to have it four times", SOON, POLL, async || {
        Ok(ground.nodes.iter().all(|node| node.transactions().len() == 4).then_some(()))
    })
    .await
}

/// A refusal counts only if nobody may have taken it: else the bytes are out, and stay the only
/// ones of their nonce.
#[world::test]
async fn a_refusal_is_one_only_if_every_node_proves_it() -> Result<()> {
    let ground = ground(&["http", "http"]).await?;
    ground.connected().await?;
    ground.reads_from(0).await?;
    let reverts = || Lie::error(3, "execution reverted");
    for (first, second, expected) in [
        (reverts(), reverts(), Some(quirks::PoolError::Reverted)),
        (reverts(), Lie::Silence, None),
        (reverts(), Lie::Status(503), None),
        (Lie::Status(429), reverts(), None),
        (reverts(), Lie::error(-32000, "who knows"), Some(quirks::PoolError::Unknown)),
        (reverts(), Lie::nonce_too_low(), Some(quirks::PoolError::NonceTooLow)),
        (Lie::underpriced(), reverts(), Some(quirks::PoolError::Underpriced)),
        // A node that lags misses nonces that the other has: the word of the one read from.
        (reverts(), Lie::nonce_too_high(), Some(quirks::PoolError::Reverted)),
        (Lie::insufficient_funds(), reverts(), Some(quirks::PoolError::InsufficientFunds)),
    ] {
        for (node, lie) in ground.nodes.iter().zip([&first, &second]) {
            node.be_honest();
            node.rule(Rule::always(SEND, lie.clone()));
        }
        let sent = send(&ground).await;
        assert_eq!(refusal(&sent), expected, "{first:?}, {second:?}: {sent:?}");
        assert!(sent.is_err());
        if expected.is_none() {
            let unknown =
                matches!(sent, Err(RpcError::Unavailable { .. } | RpcError::RateLimited { .. }));
            assert!(unknown, "{sent:?}");
        }
    }
    Ok(())
}

/// A node says at once that it was mined, and nobody else has such a receipt.
#[world::test]
async fn b5_a_receipt_that_came_with_a_send_counts_if_another_node_has_it() -> Result<()> {
    const RECEIPT: &str = "eth_getTransactionReceipt";
    let ground = ground(&["ws", "http"]).await?;
    ground.connected().await?;
    let (raw, hash) = transaction();
    let receipt = |block: u8| {
        Lie::Result(serde_json::json!({
            "transactionHash": hash, "status": "0x1", "gasUsed": "0x5208",
            "blockNumber": "0x7", "blockHash": B256::repeat_byte(block),
        }))
    };
    let send = async || ground.provider.send(&raw, true).await;
    ground.nodes[0].rule(Rule::always(SEND, Lie::Silence));
    ground.nodes[1].rule(Rule::always(SEND, receipt(1)));
    assert_eq!(send().await.ok(), Some(Acceptance::Accepted), "forged");
    ground.nodes[0].rule(Rule::always(RECEIPT, receipt(2)));
    assert_eq!(send().await.ok(), Some(Acceptance::Accepted), "another block");
    ground.nodes[0].be_honest();
    ground.nodes[0].rule(Rule::always(SEND, Lie::Silence));
    ground.nodes[0].rule(Rule::always(RECEIPT, receipt(1)));
    assert!(matches!(send().await, Ok(Acceptance::Mined(_))));
    ground.nodes[0].proxy.set(Weather::Cut);
    until("the other one to be away", SOON, POLL, async || {
        Ok((ground.provider.sound_nodes().len() == 1).then_some(()))
    })
    .await?;
    assert!(matches!(send().await, Ok(Acceptance::Mined(_))), "there is nobody else");
    Ok(())
}
