//! The lane of a whole connector on a real chain: how a transaction is sent, and how its receipt
//! comes.

use world::{
    Result,
    audit::Journal,
    faulty_rpc::{FaultyRpc, Lie, Rule},
    program,
    request::Ask,
    scene::{Scene, SceneOptions},
};

const SYNC: &str = "eth_sendRawTransactionSync";

/// T40: the raw transaction goes out with the question for its receipt, in whatever spelling the node
/// takes; the receipt is not asked for a second time.
#[world::test]
async fn t40_the_receipt_comes_with_the_answer() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let node = FaultyRpc::start(&scene.anvil.http_url()).await?;
    let config = scene.config("").replace(&scene.anvil.ws_url(), &node.ws_url());
    scene.start_with(program(), &config)?;
    let requests = scene.deployment.request(Ask::mixed(4, 4)).await?;
    scene.audit(&requests, Journal::Whole).await?;
    assert!(node.calls(SYNC) >= requests.len(), "{}", node.calls(SYNC));
    // Once for each spelling that this node does not take (number, hex) at most, and those that were
    // on their way then.
    assert!(node.calls(SYNC) <= 3 * requests.len(), "{}", node.calls(SYNC));
    assert_eq!(node.calls("eth_sendRawTransaction"), 0);
    // A busy node may take longer than it is waited for: not for each.
    assert!(node.calls("eth_getTransactionReceipt") < requests.len());
    Ok(())
}

/// A node that has mined a transaction says that its nonce is used: nothing is wrong.
#[world::test]
async fn c9_a_used_nonce_of_what_is_mined_is_no_warning() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let node = FaultyRpc::start(&scene.anvil.http_url()).await?;
    // With the method that waits for the receipt, the receipt would be the answer.
    node.rule(Rule::always(SYNC, Lie::method_not_found()));
    node.rule(Rule::always("eth_sendRawTransaction", Lie::nonce_too_low().after()));
    let config = scene.config("").replace(&scene.anvil.ws_url(), &node.ws_url());
    scene.start_with(program(), &config)?;
    let requests = scene.deployment.request(Ask::mixed(2, 2)).await?;
    scene.audit(&requests, Journal::Whole).await?;
    let sent = node.calls("eth_sendRawTransaction");
    assert!(sent >= requests.len(), "{sent} were sent so");
    assert!(!scene.log().contains("not accepted"), "{}", scene.log());
    Ok(())
}

/// T62: a node without the method, and one that says "timeout" (EIP-7966, code 4) whatever is sent.
#[world::test]
async fn t62_where_no_receipt_comes_it_is_looked_for() -> Result<()> {
    let unknown = Lie::method_not_found();
    for lie in [unknown, Lie::SyncTimeout] {
        let mut scene = Scene::new(SceneOptions::default()).await?;
        let node = FaultyRpc::start(&scene.anvil.http_url()).await?;
        node.rule(Rule::always(SYNC, lie));
        let config = scene.config("").replace(&scene.anvil.ws_url(), &node.ws_url());
        scene.start_with(program(), &config)?;
        let requests = scene.deployment.request(Ask::mixed(4, 4)).await?;
        scene.audit(&requests, Journal::Whole).await?;
        assert!(node.calls("eth_getTransactionReceipt") > 0);
    }
    Ok(())
}
