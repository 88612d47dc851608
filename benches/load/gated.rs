//! Requests of G13, where nobody but the connector checks access: each comes by the protocol's own function,
//! in a transaction of its own, and a host chain has granted it before.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use alloy::primitives::{Address, B256};
use world::{
    Result,
    contracts::{LeanGated, SnsCiphertextMaterial, Variant},
    deployment::{Deployment, Node, Thresholds},
    request::{Ask, Ciphertext, fhe},
    rpc::Call,
};

use crate::{
    host::{Asked, FarHost},
    store::Store,
};

pub const VARIANT: Variant = Variant::G13;
/// An argument of anvil: connectors ask for the state of a request's block, a moment later.
pub const FEW_OLD_STATES: &str = "--prune-history=16";

/// Which requests.
#[derive(Clone, Copy, Debug)]
pub enum Gate {
    /// So many different ones, each made once: public, direct and delegated.
    Fresh(usize),
    /// So many different ones, made again and again: public and direct.
    Known(usize),
}

impl Gate {
    fn asks(self) -> usize {
        let (Self::Fresh(count) | Self::Known(count)) = self;
        count
    }

    /// Requests that must be answered before anything is counted, if more than usual.
    pub fn warm_up(self) -> usize {
        match self {
            Self::Fresh(_) => 0,
            Self::Known(count) => count,
        }
    }

    /// The handle's first byte names the ciphertext.
    fn ask(self, number: usize, ciphertexts: usize, digests: &[B256]) -> Ask {
        let types = vec![fhe::UINT64; ciphertexts];
        let mut ask = match (number % 4, self) {
            (0 | 2, _) => Ask::public(&types),
            (1, _) | (_, Self::Known(_)) => Ask::user(&types),
            (_, Self::Fresh(_)) => Ask::user(&types).delegated(),
        };
        for (place, ciphertext) in ask.ciphertexts.iter_mut().enumerate() {
            let of = (number + place) % digests.len();
            ciphertext.handle.0[0] = u8::try_from(of).unwrap_or_default();
            let handle = ciphertext.handle;
            *ciphertext = Ciphertext { handle, bytes: Vec::new(), digest: digests[of] };
        }
        ask
    }
}

/// The requests and the host chain of their handles.
pub struct Gated {
    host: FarHost,
    asks: Vec<Ask>,
    made: AtomicUsize,
}

impl Gated {
    /// Grants everything.
    pub async fn start(
        dir: &Path,
        gate: Gate,
        ciphertexts: usize,
        store: &Store,
        (nodes, thresholds): (&[Node], Thresholds),
    ) -> Result<Self> {
        let host = FarHost::start(dir, VARIANT, nodes, thresholds).await?;
        let asks = 0..gate.asks();
        let asks: Vec<Ask> =
            asks.map(|number| gate.ask(number, ciphertexts, store.digests())).collect();
        host.grant(&asks).await?;
        Ok(Self { host, asks, made: AtomicUsize::new(0) })
    }

    /// Tells the contract what the handles stand for.
    pub async fn commit(&self, deployment: &Deployment, store: &Store) -> Result<()> {
        let coprocessors: Vec<Address> =
            deployment.stores.iter().map(|store| store.tx_sender).collect();
        let mut all = Ask::public(&vec![fhe::UINT64; store.digests().len()]);
        for (ciphertext, digest) in all.ciphertexts.iter_mut().zip(store.digests()) {
            ciphertext.digest = *digest;
        }
        let materials: Vec<SnsCiphertextMaterial> = all.materials(&coprocessors);
        let call = Call::new(deployment.decryption, &LeanGated::setMaterialsCall { materials });
        deployment.chain.send(call).await.map(drop)
    }

    /// The next ones; from the first on again after the last.
    pub fn asks(&self, count: usize) -> Vec<Ask> {
        let from = self.made.fetch_add(count, Ordering::Relaxed);
        (from..from + count).map(|number| self.asks[number % self.asks.len()].clone()).collect()
    }

    /// What a configuration says of the host chain, after all other keys.
    pub fn config(&self) -> String {
        self.host.config()
    }

    /// What was asked of the host chain so far.
    pub fn asked(&self) -> Asked {
        self.host.asked()
    }
}
