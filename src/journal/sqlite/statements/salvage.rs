//! What is read of a damaged file.

/// For a damaged file: reads the tables only, because the damage may be in an index. The caller appends the
/// sort order.
pub(in crate::journal::sqlite) const MINED: &str = "
SELECT t.nonce FROM transactions t NOT INDEXED WHERE t.mined_block_number IS NOT NULL
ORDER BY t.seq";

pub(in crate::journal::sqlite) const TRANSACTIONS: &str = "
SELECT t.nonce, t.hash, t.raw, t.request_id, t.request_content, t.seq, t.contract
FROM transactions t NOT INDEXED
WHERE t.mined_block_number IS NULL AND t.given_up IS NULL ORDER BY t.seq";

/// For a damaged file of a version before 4.
pub(in crate::journal::sqlite) const TRANSACTIONS_V1: &str = "
SELECT t.nonce, t.hash, t.raw, t.request_id, t.request_content, t.seq, t.contract
FROM transactions t NOT INDEXED WHERE t.mined_block_number IS NULL ORDER BY t.seq";

/// `?1` contract.
pub(in crate::journal::sqlite) const REQUESTS: &str = "
SELECT r.seq, r.id, r.content, e.block_number, e.block_hash, e.transaction_hash, e.log_index,
    e.topics, e.data
FROM requests r NOT INDEXED CROSS JOIN events e ON e.seq = r.seq
WHERE r.contract = ?1 AND r.outcome IS NULL ORDER BY r.seq";

/// The generation that has stood at contract `?1`.
pub(in crate::journal::sqlite) const GENERATIONS: &str = "
SELECT g.generation FROM generations g WHERE g.contract = ?1 ORDER BY g.contract";

/// The lowest cursor of contract `?1` and those beside it. Not for a damaged file of a version before 11.
pub(in crate::journal::sqlite) const LOWEST_CURSOR: &str = "
SELECT min(number) FROM cursors
WHERE contract = ?1 OR contract IN (SELECT contract FROM beside WHERE decryption = ?1)";
