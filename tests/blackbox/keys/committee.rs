//! What scenes of KMS contexts and epochs have in common: a key that was made before, the nodes of a context, and
//! what each of them has confirmed.

use alloy::primitives::{Address, U256};
use tonic::Code;
use world::{
    Result,
    contracts::Variant,
    core_stub::CoreStub,
    deployment::{Node, Thresholds},
    fleet::name,
    host::Host,
    journal::Entry,
    key_generation::KeyRequest,
    lifecycle::data_hash,
    parties::Parties,
    program,
    request::{Ask, Issued, fhe},
    rpc::Call,
    scene::{PATIENCE, SceneOptions},
    until,
};

use super::stage::{POLL, SOON_FINAL, Stage};

pub const AGREE: Thresholds = Thresholds { public: 3, user: 3 };
/// More than a vote needs, which makes more of it if it is the last one that was missing.
const GAS: u64 = 2_000_000;

/// The id under which a journal has the end of a context or an epoch.
pub fn end_of(id: U256) -> U256 {
    id | (U256::ONE << 255)
}

/// What the Core answered to each ask about this context or epoch.
pub fn codes(core: &CoreStub, id: U256) -> Vec<Code> {
    let asks = core.lifecycle_asks().into_iter();
    asks.filter(|one| one.ask.id() == id).map(|one| one.code).collect()
}

/// Ethereum's contracts.
pub fn ethereum(parties: &Parties) -> &Host {
    &parties.hosts[0].host
}

/// Parties as the nodes of a context.
pub fn nodes(of: &Parties, parties: &[usize]) -> Vec<Node> {
    let node = |party: &usize| {
        let party = &of.list[*party];
        Node { wallet: party.address(), signer: party.signer.address() }
    };
    parties.iter().map(node).collect()
}

/// Public decryptions under a key, in the context they name.
pub async fn decrypt(
    parties: &Parties,
    count: usize,
    key: &KeyRequest,
    context: U256,
) -> Result<Vec<Issued>> {
    let named = [&[1][..], &context.to_be_bytes::<32>()].concat();
    let ask = || Ask { key_id: key.id, ..Ask::public(&[fhe::UINT64]) }.extra_data(named.clone());
    let asks: Vec<Ask> = (0..count).map(|_| ask()).collect();
    ethereum(parties).grant(&asks).await?;
    parties.deployment.request(asks).await
}

impl Stage {
    /// Four parties of which the first has a connector, with a key and a CRS made before.
    pub async fn with_one_and_a_key(variant: Variant) -> Result<(Self, KeyRequest)> {
        let mut stage = Self::set(SceneOptions::of(variant)).await?;
        let key = stage.made_before().await?;
        stage.run(&[0], SOON_FINAL).await?;
        Ok((stage, key))
    }

    pub fn ethereum(&self) -> &Host {
        ethereum(&self.fleet.parties)
    }

    /// Parties as the nodes of a context.
    pub fn nodes(&self, parties: &[usize]) -> Vec<Node> {
        nodes(&self.fleet.parties, parties)
    }

    /// A key and a CRS, for which three parties vote that have no connector yet.
    pub async fn made_before(&self) -> Result<KeyRequest> {
        let (preparation, crs) = (self.keys.keygen().await?, self.keys.crsgen().await?);
        let key = preparation.key();
        self.voted(&[&preparation, &crs]).await?;
        self.voted(&[&key]).await?;
        Ok(key)
    }

    /// Parties 1 to 3 answer these requests.
    pub async fn voted(&self, requests: &[&KeyRequest]) -> Result<()> {
        let mut votes = Vec::new();
        for party in &self.fleet.parties.list[1..4] {
            let vote = |request| self.keys.answer(party.address(), &party.core, request).gas(GAS);
            votes.extend(requests.iter().copied().map(vote));
        }
        self.keys.chain.send_all(votes).await.map(drop)
    }

    /// The configuration of a party that reads Ethereum from the next block on.
    pub async fn config_from_now(&self, party: usize, more: &str) -> Result<String> {
        let since = |block: u64| format!("ethereum_starting_block = {block}\n");
        let next = self.keys.chain.block_number().await? + 1;
        let config = self.fleet.config(party, more);
        Ok(config.replace(&since(self.keys.since_block), &since(next)))
    }

    /// Starts connectors for these parties, which know nothing of what was before.
    pub async fn run(&mut self, parties: &[usize], more: &str) -> Result<()> {
        for party in parties {
            let config = self.config_from_now(*party, more).await?;
            self.fleet.supervisor.configs.write(&name(*party), &config)?;
        }
        self.fleet.supervisor.start(program())?;
        let names: Vec<String> = parties.iter().map(|party| name(*party)).collect();
        self.fleet.supervisor.until_running(&names).await.map(drop)
    }

    /// Waits until this context and epoch are in force.
    pub async fn in_force(&self, context: U256, epoch: U256) -> Result<()> {
        let what = format!("context {context:#x} with epoch {epoch:#x} in force");
        let seen = until(&what, PATIENCE, POLL, async || {
            Ok((self.ethereum().in_force().await? == (context, epoch)).then_some(()))
        });
        self.told(seen.await)
    }

    /// Waits until these parties have ended the request of `id` so.
    pub async fn settled_at(&self, parties: &[usize], id: U256, outcome: &str) -> Result<()> {
        for party in parties {
            let what = format!("{id:#x} ends as {outcome} at party {party}");
            let mut rows = Vec::new();
            let seen = until(&what, PATIENCE, POLL, async || {
                rows = self.fleet.key_entries(*party).unwrap_or_default();
                let is_it =
                    |entry: &Entry| entry.id == id && entry.outcome.as_deref() == Some(outcome);
                Ok(rows.iter().any(is_it).then_some(()))
            });
            let seen = seen.await.inspect_err(|_| println!("{rows:?}"));
            self.told(seen)?;
        }
        Ok(())
    }

    /// Waits until the Cores of these parties have taken the ask for this context or epoch.
    pub async fn taken_by_cores(&self, parties: &[usize], id: U256) -> Result<()> {
        let what = format!("{id:#x} asked of the Cores of {parties:?}");
        let seen = until(&what, PATIENCE, POLL, async || {
            let taken = |party: &usize| !self.core(*party).accepted_lifecycle(id).is_empty();
            Ok(parties.iter().all(taken).then_some(()))
        });
        self.told(seen.await)
    }

    /// Waits until the Core of party 0 has refused asks about this so often as it was at something else.
    pub async fn put_off(&self, id: U256, times: usize) -> Result<()> {
        let what = format!("{id:#x} put off {times} times");
        let seen = until(&what, PATIENCE, POLL, async || {
            let codes = codes(self.core(0), id).into_iter();
            let refused = codes.filter(|code| *code == Code::FailedPrecondition).count();
            Ok((refused >= times).then_some(()))
        });
        self.told(seen.await)
    }

    /// Each of these parties, and nobody else, has confirmed this epoch once, with one hash that is the chain's.
    pub async fn confirmed(&self, epoch: U256, parties: &[usize]) -> Result<()> {
        let request = self.ethereum().epoch_request(&self.keys, epoch).await?;
        let hash = data_hash(&self.core(parties[0]).epoch_result(&request));
        let confirmations = self.ethereum().confirmations(epoch).await?;
        let mut by: Vec<Address> = confirmations.iter().map(|one| one.by).collect();
        let mut expected = self.fleet.parties.signers(parties);
        by.sort();
        expected.sort();
        assert_eq!(by, expected);
        assert!(confirmations.iter().all(|one| one.dataHash == hash), "{confirmations:?}");
        Ok(())
    }

    /// Parties 1 to 3 confirm a context.
    pub async fn others_confirm_context(&self, context: U256) -> Result<()> {
        let others = &self.fleet.parties.list[1..4];
        let confirm = |wallet| self.ethereum().confirm_context(wallet, context).gas(GAS);
        self.confirm(others.iter().map(|party| confirm(party.address())).collect()).await
    }

    /// Parties 1 to 3 confirm an epoch, each with its Core's result.
    pub async fn others_confirm_epoch(&self, epoch: U256) -> Result<()> {
        let request = self.ethereum().epoch_request(&self.keys, epoch).await?;
        let confirm = |party: usize| {
            let (core, wallet) = (self.core(party), self.fleet.wallet(party));
            self.ethereum().confirm_epoch(wallet, epoch, &core.epoch_result(&request)).gas(GAS)
        };
        self.confirm((1..4).map(confirm).collect()).await
    }

    async fn confirm(&self, calls: Vec<Call>) -> Result<()> {
        self.ethereum().chain.send_all(calls).await.map(drop)
    }

    /// What party 0 has sent to Ethereum.
    pub async fn sent(&self) -> Result<u64> {
        self.keys.chain.nonce(self.fleet.wallet(0)).await
    }
}
