//! Reads the logs of many blocks, in pages that the node accepts.

use super::{
    quirks::RangeRefusal,
    reader::{ChainReader, LogFilter, LogRange},
    rpc_error::RpcError,
};
use crate::domain::Event;

/// Blocks per call, if the node accepts that.
const PAGE: u64 = 50_000;
/// Calls of one search: at the smallest page that nodes accept, more than a day of an L2's blocks.
const MOST_CALLS: usize = 400;

/// All logs of these blocks, both ends inclusive. For contracts that emit a few a month. `None`: the node gives
/// too few blocks at a time to read so many.
pub async fn logs_of_blocks<P: ChainReader>(
    provider: &P,
    filter: LogFilter<'_>,
    (from, to): (u64, u64),
) -> Result<Option<Vec<Event>>, RpcError> {
    let (mut next, mut page) = (from, PAGE);
    let mut found = Vec::new();
    for _ in 0..MOST_CALLS {
        if next > to {
            break;
        }
        let last = to.min(next.saturating_add(page - 1));
        match provider.logs(filter, LogRange::Numbers { from: next, to: last }).await {
            Ok(told) => {
                found.extend(told.value);
                next = last + 1;
            }
            Err(error) if page > 1 => {
                let wished = match error.range_refusal() {
                    Some(RangeRefusal::Blocks { limit }) => limit,
                    Some(RangeRefusal::Results) => None,
                    None => return Err(error),
                };
                page = wished.unwrap_or(page).clamp(1, page / 2);
            }
            Err(error) => return Err(error),
        }
    }
    Ok((next > to).then_some(found))
}
