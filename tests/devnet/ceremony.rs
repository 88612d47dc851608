//! A ceremony: a key and a CRS are asked for on chain, every node makes them with its Core and votes, and
//! what enough of them agree on comes into force. Every stage is told when the chain shows it.

use std::{collections::BTreeSet, time::Duration};

use alloy::primitives::{Address, U256};
use world::{
    Error, Result,
    journal::Entry,
    key_contracts::KMSGeneration,
    key_generation::{KeyGeneration, KeyRequest},
    until,
};

use crate::quickstart::{POLL, Progress};

/// Who takes part: name and signer of each node.
pub type Nodes<'a> = &'a [(String, Address)];

/// Has a key and a CRS made. Answers the requests that this took, the key's second.
pub async fn hold(
    log: &Progress,
    keys: &KeyGeneration,
    nodes: Nodes<'_>,
    deadline: Duration,
) -> Result<[KeyRequest; 3]> {
    let preprocessing = keys.keygen().await?;
    let key = preprocessing.key();
    log.say("asked for", format!("preprocessing {}", short(preprocessing.id)));
    let crs = keys.crsgen().await?;
    log.say("asked for", format!("CRS {} of {} bits", short(crs.id), crs.bits.unwrap_or_default()));
    let stages = [("preprocessing", &preprocessing), ("key", &key), ("CRS", &crs)];
    for (what, request) in stages {
        voted(log, keys, nodes, (what, request), deadline).await?;
    }
    let active = keys.view(KMSGeneration::getActiveKeyIdCall {}).await?;
    let digests = keys.view(KMSGeneration::getKeyMaterialsCall { keyId: key.id }).await?.digests;
    if active != key.id || keys.view(KMSGeneration::getActiveCrsIdCall {}).await? != crs.id {
        return Err(Error::other("the contract has not put key and CRS in force"));
    }
    log.say("in force", format!("key {}, CRS {}", short(key.id), short(crs.id)));
    for one in digests {
        log.say("", format!("key of type {}, digest {}", one.keyType, one.digest));
    }
    Ok([preprocessing, key, crs])
}

/// Tells of each vote as it comes, until every node has voted, once and as the others.
async fn voted(
    log: &Progress,
    keys: &KeyGeneration,
    nodes: Nodes<'_>,
    (what, request): (&str, &KeyRequest),
    deadline: Duration,
) -> Result<()> {
    let mut told = BTreeSet::new();
    let mut agreed = false;
    until(&format!("{what} {:#x}", request.id), deadline, POLL, async || {
        let answers = keys.answers(request.id).await?;
        for (name, signer) in nodes {
            if answers.iter().any(|one| one.signer == *signer) && told.insert(name.clone()) {
                log.say("voted", format!("{name}: {what} {}", short(request.id)));
            }
        }
        if !agreed && !keys.consensus(request.id).await?.is_empty() {
            agreed = true;
            log.say("agreed", format!("{what} {}", short(request.id)));
        }
        Ok((agreed && told.len() == nodes.len()).then_some(()))
    })
    .await?;
    let signers: Vec<Address> = nodes.iter().map(|(_, signer)| *signer).collect();
    keys.answered_by(request, &signers, Duration::ZERO).await
}

/// What is wrong with the journal of a node that took part.
pub fn problems(name: &str, requests: &[KeyRequest], entries: &[Entry]) -> Vec<String> {
    let problem = |request: &KeyRequest| {
        let id = short(request.id);
        let mut mine = entries.iter().filter(|entry| entry.id == request.id);
        match (mine.next(), mine.next()) {
            (Some(one), None) if one.outcome.as_deref() == Some("accepted") => None,
            (Some(one), None) => Some(format!("{name}: {id} is {:?} in the journal", one.outcome)),
            (None, _) => Some(format!("{name}: {id} is not in the journal")),
            (Some(_), Some(_)) => Some(format!("{name}: {id} is twice in the journal")),
        }
    };
    requests.iter().filter_map(problem).collect()
}

/// An id as a person tells it from others: its kind and its number.
fn short(id: U256) -> String {
    let text = format!("{id:064x}");
    format!("0x{}…{}", &text[..2], &text[60..])
}
