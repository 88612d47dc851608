//! Nodes of another chain, and nodes that contradict what is known of this one.

use std::time::Duration;

use alloy::primitives::B256;
use kms_connector::{
    chain::{
        reader::{ChainReader, NodeId},
        rpc_error::RpcError,
    },
    domain::BlockRef,
};
use tokio::time::Instant;
use world::{Result, faulty_rpc::Lie, proxy::Weather, until};

use super::{POLL, SEND, SOON, ground, send};

#[world::test]
async fn a_node_of_another_chain_is_left_out_and_all_of_them_are_refused() -> Result<()> {
    let ground = ground(&["ws", "ws"]).await?;
    ground.nodes[0].lie(|lies| lies.chain_id = Some(1));
    ground.nodes[0].proxy.cut().await;
    ground.reads_from(1).await?;
    assert_eq!(ground.nodes[0].calls("eth_getBalance"), 0);
    ground.nodes[1].lie(|lies| lies.chain_id = Some(1));
    ground.nodes[1].proxy.cut().await;
    until("a refusal", SOON, POLL, async || {
        let asked = ground.provider.chain_id().await;
        Ok(matches!(asked, Err(RpcError::WrongChain { found: 1, .. })).then_some(()))
    })
    .await
}

/// What a liar of another chain with the same id would have it do: take over, and blame the right node.
#[world::test]
async fn b1_a_node_of_another_chain_of_the_same_id_is_left_out() -> Result<()> {
    for schemes in [["ws", "ws"], ["http", "http"]] {
        let ground = ground(&schemes).await?;
        let liar = &ground.nodes[1];
        liar.lie(|lies| {
            lies.other_blocks = vec![(0, B256::repeat_byte(9))];
            lies.tells_head = Some(5_000_000);
        });
        ground.connected().await?;
        let genesis = ground.anvil.chain().block_hash(0).await?.unwrap_or_default();
        ground.provider.settle_genesis(genesis).await;
        assert!(ground.head() < 5_000_000);
        ground.reads_from(0).await?;
        until("the other one to be left out", SOON, POLL, async || {
            let up: Vec<bool> =
                ground.provider.endpoint_statuses().into_iter().map(|(_, up, _)| up).collect();
            Ok((up == [true, false]).then_some(()))
        })
        .await?;
        // It may answer for another chain tomorrow, or for ours.
        ground.nodes[0].proxy.set(Weather::Cut);
        until("nobody to be left", SOON, POLL, async || {
            Ok(ground.provider.sound_nodes().is_empty().then_some(()))
        })
        .await?;
        let trouble = ground.provider.connection_error().map(|error| error.to_string());
        assert!(trouble.is_some_and(|text| text.contains("block 0")));
        liar.be_honest();
        ground.reads_from(1).await?;
    }
    Ok(())
}

/// Its block 0 is the right one, and what was read is not there; or the head it tells of.
#[world::test]
async fn b1_a_node_that_contradicts_or_lacks_blocks_blames_nobody() -> Result<()> {
    let ground = ground(&["ws", "ws"]).await?;
    ground.connected().await?;
    let chain = ground.anvil.chain();
    let genesis = chain.block_hash(0).await?.unwrap_or_default();
    ground.provider.settle_genesis(genesis).await;
    chain.mine(80).await?;
    let block = async |number: u64| -> Result<BlockRef> {
        Ok(BlockRef { number, hash: chain.block_hash(number).await?.unwrap_or_default() })
    };
    let only_first = async |what: &str| {
        until(what, SOON, POLL, async || {
            Ok((ground.provider.sound_nodes() == [NodeId(0)]).then_some(()))
        })
        .await
    };
    let both = async |what: &str| {
        until(what, SOON, POLL, async || {
            Ok((ground.provider.sound_nodes().len() == 2).then_some(()))
        })
        .await
    };
    both("both").await?;
    // It is deep, and both have named it: whoever has another one is of another chain, also where it
    // is alone.
    ground.provider.resume_after(block(5).await?);
    ground.provider.note_read_up_to(block(70).await?).await;
    ground.nodes[1].lie(|lies| lies.other_blocks = vec![(5, B256::repeat_byte(9))]);
    ground.nodes[1].proxy.cut().await;
    only_first("the second one to contradict").await?;
    ground.nodes[0].proxy.set(Weather::Cut);
    let nobody = async || Ok(ground.provider.sound_nodes().is_empty().then_some(()));
    until("nobody to be left", SOON, POLL, nobody).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(ground.provider.sound_nodes(), []);
    let sends = ground.nodes[1].calls(SEND);
    let trouble = ground.provider.connection_error().map(|error| error.to_string());
    assert!(trouble.is_some_and(|text| text.contains("its block 5")));
    ground.nodes[0].proxy.set(Weather::Clear);
    only_first("the first one to be back").await?;
    let _ = send(&ground).await;
    assert_eq!(ground.nodes[1].calls(SEND), sends, "it would be as good there");
    ground.nodes[1].be_honest();
    both("it to agree").await?;
    ground.nodes[1].lie(|lies| lies.tells_head = Some(5_000_000));
    let begun = Instant::now();
    only_first("its claim to be looked at").await?;
    // Longer than it takes to be behind for good.
    while begun.elapsed() < Duration::from_secs(7) {
        assert_eq!(ground.read_from().await?, 0);
        assert!(ground.head() < 5_000_000);
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// The node that is read from shows blocks of its own at the heights of the others: that is its word
/// alone, and the honest one keeps its say.
#[world::test]
async fn b1_a_block_that_one_node_told_puts_no_other_one_out() -> Result<()> {
    let ground = ground(&["ws", "ws"]).await?;
    let hash = B256::repeat_byte(9);
    ground.nodes[0].lie(|lies| lies.other_blocks = vec![(5, hash)]);
    ground.connected().await?;
    let chain = ground.anvil.chain();
    let genesis = chain.block_hash(0).await?.unwrap_or_default();
    ground.provider.settle_genesis(genesis).await;
    chain.mine(80).await?;
    ground.provider.resume_after(BlockRef { number: 5, hash });
    let block = |number, hash| BlockRef { number, hash };
    let later = chain.block_hash(70).await?.unwrap_or_default();
    ground.provider.note_read_up_to(block(70, later)).await;
    // Longer than it takes to be asked again.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(7) {
        let sound = ground.provider.sound_nodes();
        assert!(sound.contains(&NodeId(1)), "{sound:?} after {:?}", begun.elapsed());
        tokio::time::sleep(POLL).await;
    }
    let _ = send(&ground).await;
    assert_eq!(ground.nodes[1].calls(SEND), 1);
    Ok(())
}

/// Whoever pruned its first blocks contradicts nothing, in whatever words it says so.
#[world::test]
async fn b1_a_node_without_block_0_is_read_from() -> Result<()> {
    let ground = ground(&["http", "ws"]).await?;
    let ways =
        [Lie::error(4444, "pruned history unavailable"), Lie::Result(serde_json::Value::Null)];
    for (node, way) in ground.nodes.iter().zip(ways) {
        node.lie(|lies| lies.without_block_0 = Some(way));
    }
    ground.connected().await?;
    let genesis = ground.anvil.chain().block_hash(0).await?.unwrap_or_default();
    ground.provider.settle_genesis(genesis).await;
    ground.reads_from(0).await?;
    assert_eq!(ground.provider.sound_nodes().len(), 2);
    // Not even where one that never answers for it is connected anew.
    ground.nodes[1].lie(|lies| lies.without_block_0 = Some(Lie::Silence));
    let connections = ground.nodes[1].calls("eth_chainId");
    ground.nodes[1].proxy.cut().await;
    until("the other one again", SOON, POLL, async || {
        let again = ground.nodes[1].calls("eth_chainId") > connections;
        Ok((again && ground.provider.sound_nodes().len() == 2).then_some(()))
    })
    .await?;
    ground.nodes[0].proxy.set(Weather::Cut);
    ground.reads_from(1).await
}
