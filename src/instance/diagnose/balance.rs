//! How many answers the wallet can pay for.

use super::Finding;
use crate::{
    chain::{reader::BlockId, rpc_error::RpcError, sender::TransactionSender},
    domain::{Address, U256},
};

const SUBJECT: &str = "balance";
/// Assumed gas per answer in this estimate. The real cost depends on the contract.
const ANSWER_GAS: u64 = 500_000;
/// Below this number of answers the balance is a warning.
const LOW_ANSWERS: u64 = 1_000;

/// `chain`: its name.
pub(super) async fn diagnose_balance<P: TransactionSender>(
    provider: &P,
    wallet: Address,
    chain: &str,
) -> Finding {
    match ask(provider, wallet).await {
        Ok((balance, fee)) => judge(wallet, balance, fee, chain),
        Err(error) => {
            Finding::fail(SUBJECT, error.to_string(), "try again; another node if it stays so")
        }
    }
}

/// Wallet balance in wei and the current price in wei per gas.
async fn ask<P: TransactionSender>(
    provider: &P,
    wallet: Address,
) -> Result<(U256, u128), RpcError> {
    let (balance, head) =
        tokio::try_join!(provider.balance(wallet), provider.header(BlockId::Latest))?;
    let base = head.and_then(|head| head.base_fee).unwrap_or_default();
    // Not every node serves this call, and the tip is a small part of the price.
    let tip = provider.priority_fee().await.unwrap_or_default();
    Ok((balance, base.saturating_add(tip)))
}

fn judge(wallet: Address, balance: U256, fee: u128, chain: &str) -> Finding {
    let shown = ether(balance);
    if balance.is_zero() {
        let found = format!("{wallet} has nothing on the {chain} chain: answers there wait");
        return Finding::fail(SUBJECT, found, format!("send it ether of the {chain} chain"));
    }
    let cost = U256::from(fee).saturating_mul(U256::from(ANSWER_GAS));
    let Some(answers) = balance.checked_div(cost) else {
        return Finding::ok(SUBJECT, format!("{shown} ETH on the {chain} chain"));
    };
    let found =
        format!("{shown} ETH on the {chain} chain, at the present fee for some {answers} answers");
    if answers < U256::from(LOW_ANSWERS) {
        return Finding::warn(SUBJECT, found, format!("send it ether of the {chain} chain soon"));
    }
    Finding::ok(SUBJECT, found)
}

/// Wei as ether, truncated after six decimals.
fn ether(wei: U256) -> String {
    let micro = wei / U256::from(1_000_000_000_000_u64);
    let (whole, rest) = (micro / U256::from(1_000_000), micro % U256::from(1_000_000));
    format!("{whole}.{:06}", rest.to::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::diagnose::Severity;

    #[test]
    fn ether_is_cut_not_rounded() {
        assert_eq!(ether(U256::from(1_999_999_999_999_999_999_u64)), "1.999999");
        assert_eq!(ether(U256::from(1_000_000_000_000_u64)), "0.000001");
        assert_eq!(ether(U256::ZERO), "0.000000");
    }

    #[test]
    fn how_much_is_enough_depends_on_the_fee() {
        let verdict =
            |balance: u64, fee| judge(Address::ZERO, U256::from(balance), fee, "Gateway").verdict;
        assert_eq!(verdict(0, 0), Severity::Fail);
        assert_eq!(verdict(1, 0), Severity::Ok);
        assert_eq!(verdict(ANSWER_GAS * LOW_ANSWERS - 1, 1), Severity::Warn);
        assert_eq!(verdict(ANSWER_GAS * LOW_ANSWERS, 1), Severity::Ok);
    }
}
