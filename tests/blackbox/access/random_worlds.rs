//! Random worlds: what the access room decides is what the ACL contract and the protocol's rules say.
//!
//! Each world is an ACL per host chain, with grants, delegations and invalidations, and some requests:
//! public, legacy (direct or delegated) and unified ones, of keys and of smart accounts, with a lie here
//! and there. They stand on a real node; the room asks it through its own adapters, and the oracle asks the
//! same contracts by itself. A world in which they differ is made smaller by proptest and printed.

mod drawn;
mod ground;
mod oracle;

use std::{collections::BTreeSet, sync::PoisonError};

use kms_connector::{
    contracts::abi::{Deployment as Deployed, Generation},
    flow::access::AccessError,
};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use world::{Error, Result, host_contracts::acl_code, rpc::Call, until};

use self::{
    drawn::World,
    ground::{Asked, CHAINS, Ground, POLL, SOON},
    oracle::{FINAL, Oracle},
};

/// Worlds of a run, the same ones each time. `PROPTEST_CASES` names another number, and draws others.
const WORLDS: u32 = 40;
/// Between the latest block and the one that a world is judged at, in seconds.
const AHEAD: u64 = 1_000;

impl Ground {
    /// Builds a world, and compares.
    async fn compare(&self, world: &World) -> Result<()> {
        let now = self.now().await? + AHEAD;
        let codes = world.acls.iter().map(|variant| Ok(Call::create(acl_code(*variant)?)));
        let created = self.chain().send_all(codes.collect::<Result<_>>()?).await?;
        let acl = |index: usize| created[index].contract_address;
        let (Some(first), Some(second)) = (acl(0), acl(1)) else {
            return Err(Error::other("no ACL"));
        };
        let acls = [first, second];
        let grants = world.grants.iter().flat_map(|grant| self.call(grant, acls, now));
        self.chain().send_all(grants.map(|call| call.gas(200_000)).collect()).await?;
        let asked: Vec<Asked> = world
            .questions
            .iter()
            .map(|question| self.asked(question, now))
            .collect::<Result<_>>()?;
        let receipts = self.make(&asked).await?;
        // The grants are final, and the world has its time.
        self.chain().mine(2).await?;
        let _: Value = self.chain().rpc("evm_setNextBlockTimestamp", json!([now])).await?;
        self.chain().mine(1).await?;
        let newest = self.chain().block_number().await?;
        for reader in &self.readers {
            until("the head", SOON, POLL, async || {
                let head = reader.endpoints()[0].head();
                Ok(head.filter(|head| head.block.number >= newest).map(drop))
            })
            .await?;
        }
        assert_eq!(self.now().await?, now);
        let oracle = Oracle {
            chain: self.chain(),
            acls: CHAINS.into_iter().zip(acls).collect(),
            decryption: self.deployment.decryption,
            gateway: self.deployment.domain(),
            now,
        };
        let room = self.room(acls).await?;
        let deployed =
            Deployed { generation: Generation::G14, version: "of a test".into(), hybrid: false };
        for (number, (asked, receipt)) in asked.iter().zip(&receipts).enumerate() {
            let log = receipt.logs.first().ok_or_else(|| Error::other("no event"))?;
            let request = self.request(log)?;
            let failures = oracle.failures(asked).await?;
            // What was granted at a final block is known the second time.
            for _ in 0..2 {
                let check = room.check(&request, request.block, &deployed, None).await;
                let decided = check.result.as_ref().err().map_or("granted", AccessError::code);
                let record = check.record.as_str();
                self.count(decided, record);
                agrees(decided, &failures).map_err(|why| {
                    let question = &world.questions[number];
                    Error::other(format!(
                        "question {number} ({question:?}): {why}; the oracle finds {failures:?}; \
                         the room says:\n{record}"
                    ))
                })?;
            }
        }
        Ok(())
    }

    fn count(&self, decided: &'static str, record: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen.entry(decided).or_default() += 1;
        if record.contains("known since") || record.contains("(known)") {
            *seen.entry("known").or_default() += 1;
        }
    }
}

/// The room may name any of the failures; but it grants only where there is none, and where one ends the
/// request, and none of the others keeps the room from seeing that, it ends.
fn agrees(
    decided: &'static str,
    failures: &BTreeSet<&'static str>,
) -> std::result::Result<(), String> {
    if decided == "granted" || failures.is_empty() {
        let same = decided == "granted" && failures.is_empty();
        return if same { Ok(()) } else { Err(format!("it is {decided}")) };
    }
    if !failures.contains(decided) {
        return Err(format!("it is {decided}, which is not so"));
    }
    let is_final = |word: &&'static str| FINAL.contains(word);
    let hidden = ["not_yet_valid", "host_chain_not_configured"];
    let ends = failures.iter().any(is_final) && !hidden.iter().any(|one| failures.contains(one));
    if ends && !is_final(&decided) {
        return Err(format!("it is {decided}, and will never be granted"));
    }
    Ok(())
}

#[world::test]
async fn the_room_decides_as_the_contract_and_the_rules_say() -> Result<()> {
    let ground = Ground::start().await?;
    let cases = std::env::var_os("PROPTEST_CASES").and_then(|cases| cases.to_str()?.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(WORLDS),
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let mut runner = match cases {
        Some(_) => TestRunner::new(config),
        None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
    };
    let tried = tokio::task::block_in_place(|| {
        runner.run(&drawn::worlds(), |world| {
            let compared = Handle::current().block_on(ground.compare(&world));
            compared.map_err(|error| TestCaseError::fail(error.to_string()))
        })
    });
    if let Err(smallest) = tried {
        panic!("{smallest}");
    }
    let seen = ground.seen.lock().unwrap_or_else(PoisonError::into_inner);
    // What never happened proves nothing.
    let also = ["granted", "known", "access_denied_on_chain", "not_yet_valid"];
    for decided in also.iter().chain(&FINAL[..4]) {
        assert!(seen.contains_key(decided), "{decided}: {seen:?}");
    }
    Ok(())
}
