//! A configuration whose wallet is changed: what the earlier wallet has sent is followed to the end,
//! what was not answered is answered by the new one, and going back loses nothing either.

use std::{path::PathBuf, time::Duration};

use alloy::{
    primitives::{Address, B256, U256},
    signers::local::PrivateKeySigner,
};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use world::{
    Error, Result,
    deployment::Node,
    program, random_key,
    request::Ask,
    scene::{PATIENCE, Scene, SceneOptions},
    until,
};

const POLL: Duration = Duration::from_millis(30);

/// The scene's configuration with another key.
fn with_wallet(scene: &Scene, wallet: &PrivateKeySigner) -> String {
    let config = scene.config("max_transactions_in_flight = 3\n");
    config.replace(&scene.wallet.to_bytes().to_string(), &wallet.to_bytes().to_string())
}

/// The journal of this wallet.
fn journal(scene: &Scene, wallet: Address) -> Result<PathBuf> {
    let ending = format!("-{wallet:x}.sqlite3");
    let files = std::fs::read_dir(scene.state_dir()).map_err(|e| Error::Io("state".into(), e))?;
    let mut paths = files.flatten().map(|entry| entry.path());
    let path = paths.find(|path| path.to_string_lossy().ends_with(&ending));
    path.ok_or_else(|| Error::other(format!("no journal {ending}")))
}

/// The first column of each row.
fn query<T: rusqlite::types::FromSql>(scene: &Scene, wallet: Address, sql: &str) -> Result<Vec<T>> {
    let path = journal(scene, wallet)?;
    let query = || {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        let mut statement = connection.prepare(sql)?;
        statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<T>>>()
    };
    query().map_err(|error| Error::other(format!("{sql}: {error}")))
}

fn unfinished(scene: &Scene, wallet: Address, stage: &str) -> Result<Vec<U256>> {
    ids(
        scene,
        wallet,
        &format!("SELECT id FROM requests WHERE outcome IS NULL AND stage = '{stage}'"),
    )
}

fn ids(scene: &Scene, wallet: Address, sql: &str) -> Result<Vec<U256>> {
    let ids: Vec<[u8; 32]> = query(scene, wallet, sql)?;
    Ok(ids.into_iter().map(U256::from_be_bytes).collect())
}

async fn until_true(what: &str, mut is: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    until(what, PATIENCE, POLL, async || Ok(is().await?.then_some(()))).await
}

async fn until_stored(
    scene: &Scene,
    wallet: Address,
    what: &str,
    sql: &str,
    wanted: usize,
) -> Result<()> {
    let stored = until_true(what, async || {
        let rows = query::<Anything>(scene, wallet, sql).unwrap_or_default();
        Ok(rows.len() == wanted)
    });
    stored.await.map_err(|error| Error::other(format!("{error}\n{}", scene.log())))
}

/// Whatever a column holds.
struct Anything;

impl rusqlite::types::FromSql for Anything {
    fn column_result(_: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
        Ok(Self)
    }
}

#[world::test]
async fn a_new_wallet_goes_on_where_the_earlier_one_stood() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let chain = scene.deployment.chain.clone();
    let (old, new) = (scene.wallet.clone(), random_key());
    let signer = scene.core.signer_address();
    scene.deployment.register(Node { wallet: new.address(), signer }).await?;
    scene.anvil.fund(new.address()).await?;

    // Requests in every stage: three on their way, others answered, others asked or not even that.
    chain.set_block_time(0).await?;
    let mut requests = scene.deployment.request(Ask::mixed(10, 10)).await?;
    scene.start_with(program(), &with_wallet(&scene, &old))?;
    until_true("answers", async || {
        let stages =
            ["answered", "submitted"].map(|stage| unfinished(&scene, old.address(), stage));
        let [answered, submitted] = stages.map(Result::unwrap_or_default);
        Ok(answered.len() + submitted.len() == requests.len())
    })
    .await
    .map_err(|error| Error::other(format!("{error}\n{}", scene.log())))?;
    scene.core.change(|core| core.never_finish = true);
    requests.extend(scene.deployment.request(Ask::mixed(2, 2)).await?);
    until_true("asks", async || Ok(unfinished(&scene, old.address(), "asked")?.len() == 4)).await?;
    scene.core.stop().await;
    requests.extend(scene.deployment.request(Ask::mixed(2, 2)).await?);
    let mut sent = Vec::new();
    until_true("all stages", async || {
        sent = chain.unmined(old.address()).await?.into_values().collect();
        let stages = ["arrived", "asked", "answered", "submitted"];
        let mut some = sent.len() == 3;
        for stage in stages {
            some &= !unfinished(&scene, old.address(), stage)?.is_empty();
        }
        Ok(some)
    })
    .await
    .map_err(|error| Error::other(format!("{error}\n{}", scene.log())))?;
    scene.kill();
    let left = unfinished_in_all(&scene, old.address())?;

    // Nobody but the journal knows the old transactions any more. Killed at any moment, the next
    // start takes over what this one did not.
    let _null: Value = chain.rpc("anvil_dropAllTransactions", json!([])).await?;
    assert!(chain.unmined(old.address()).await?.is_empty());
    for pause in [40, 120, 300] {
        scene.start_with(program(), &with_wallet(&scene, &new))?;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        scene.alive()?;
        scene.kill();
    }
    scene.start_with(program(), &with_wallet(&scene, &new))?;
    until_true("the same transactions again", async || {
        let unmined: Vec<B256> = chain.unmined(old.address()).await?.into_values().collect();
        Ok(unmined == sent)
    })
    .await
    .map_err(|error| Error::other(format!("{error}\n{}", scene.log())))?;
    assert!(requests.len() > left.len(), "some were settled before");
    assert_eq!(unfinished_in_all(&scene, old.address())?, left, "the old journal is only read");
    // Not all are open any more: what was mined when the old one was killed is found answered.
    let taken = ids(&scene, new.address(), "SELECT id FROM requests")?;
    assert!(left.iter().all(|id| taken.contains(id)), "{left:?} {taken:?}");
    let open = unfinished_in_all(&scene, new.address())?;
    assert!(open.iter().all(|id| left.contains(id)), "{open:?} {left:?}");

    scene.core.restart().await;
    scene.core.change(|core| core.never_finish = false);
    chain.set_block_time(1).await?;
    requests.extend(scene.deployment.request(Ask::mixed(1, 1)).await?);
    scene.answered(&requests).await?;
    let open = "SELECT 1 FROM requests WHERE outcome IS NULL";
    until_stored(&scene, new.address(), "outcomes", open, 0).await?;
    // The last of the old wallet's transactions is noted, and its journal let go.
    let unmined = "SELECT 1 FROM transactions WHERE mined_block_number IS NULL";
    until_stored(&scene, old.address(), "the old transactions' end", unmined, 0).await?;
    let answers = scene.deployment.answers().await?;
    assert!(answers.iter().any(|answer| answer.tx_sender == new.address()));
    assert!(sent.iter().all(|hash| answers.iter().any(|answer| answer.transaction == *hash)));
    assert_eq!(scene.stop().await?, Some(0), "{}", scene.log());

    // And back.
    requests.extend(scene.deployment.request(Ask::mixed(1, 1)).await?);
    scene.start_with(program(), &with_wallet(&scene, &old))?;
    scene.answered(&requests).await?;
    until_stored(&scene, old.address(), "outcomes of the old wallet", open, 0).await?;
    scene.alive()
}

fn unfinished_in_all(scene: &Scene, wallet: Address) -> Result<Vec<U256>> {
    ids(scene, wallet, "SELECT id FROM requests WHERE outcome IS NULL ORDER BY seq")
}
