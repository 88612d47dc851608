//! The blocks in which answers may be, merged so that each is read once. Pure.

/// A range of blocks, and the requests (by index) whose answers may be in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BlockWindow {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) queries: Vec<usize>,
}

/// Merges the blocks in which answers may be, so that each block is read once. `of`: index and block of
/// each request.
pub(super) fn windows(mut of: Vec<(usize, u64)>, within: u64, head: u64) -> Vec<BlockWindow> {
    of.sort_by_key(|(index, block)| (*block, *index));
    let mut windows: Vec<BlockWindow> = Vec::new();
    for (index, block) in of.into_iter().filter(|(_, block)| *block <= head) {
        let to = block.saturating_add(within).min(head);
        match windows.last_mut().filter(|last| block <= last.to) {
            Some(last) => {
                last.to = to;
                last.queries.push(index);
            }
            None => windows.push(BlockWindow { from: block, to, queries: vec![index] }),
        }
    }
    windows
}
