//! What walks know of the deployed contract, and how they wait for it.

use tokio::sync::{Mutex, watch};

use crate::contracts::decryption::DeploymentSupport;

/// Whether this version can serve the deployed contract.
#[derive(Debug)]
pub struct KnownSupport {
    told: watch::Receiver<DeploymentSupport>,
    /// Held by the first of the walks that wait. A channel wakes all that wait for it in no fixed order,
    /// which no seed of ours decides; one after the other they go on in the order in which they came.
    turn: Mutex<()>,
}

impl KnownSupport {
    #[must_use]
    pub fn new(told: watch::Receiver<DeploymentSupport>) -> Self {
        Self { told, turn: Mutex::new(()) }
    }

    pub fn now(&self) -> DeploymentSupport {
        self.told.borrow().clone()
    }

    /// Waits while the contract was upgraded and is not looked at again yet. `None`: the instance is
    /// stopping.
    pub async fn looked_at(&self) -> Option<DeploymentSupport> {
        let is_known =
            |told: &DeploymentSupport| !matches!(told, DeploymentSupport::Upgraded { .. });
        let now = self.now();
        if is_known(&now) {
            return Some(now);
        }
        let _turn = self.turn.lock().await;
        let mut told = self.told.clone();
        let known = told.wait_for(is_known).await.ok()?;
        Some(known.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex as Order, PoisonError},
        time::Duration,
    };

    use tokio::{
        task::JoinSet,
        time::{sleep, timeout},
    };

    use super::*;

    /// Each in a task of its own, as walks are.
    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_contract_goes_on_in_the_order_of_arrival() {
        let upgraded = DeploymentSupport::Upgraded { block: 7 };
        let (teller, told) = watch::channel(upgraded.clone());
        let support = Arc::new(KnownSupport::new(told));
        let (order, mut walks) = (Arc::new(Order::new(Vec::new())), JoinSet::new());
        for number in 0..64 {
            let (support, order) = (support.clone(), order.clone());
            walks.spawn(async move {
                let told = support.looked_at().await;
                order.lock().unwrap_or_else(PoisonError::into_inner).push(number);
                told
            });
        }
        sleep(Duration::from_secs(1)).await;
        // Who leaves keeps nobody waiting.
        assert!(timeout(Duration::from_secs(1), support.looked_at()).await.is_err());
        teller.send_replace(DeploymentSupport::up_to_g10());
        for told in walks.join_all().await {
            assert_eq!(told, Some(DeploymentSupport::up_to_g10()));
        }
        let order = order.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert_eq!(order, (0..64).collect::<Vec<_>>());
        assert_eq!(support.looked_at().await, Some(DeploymentSupport::up_to_g10()));
        // The instance is stopping.
        teller.send_replace(upgraded);
        drop(teller);
        assert_eq!(support.looked_at().await, None);
    }
}
