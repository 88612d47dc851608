//! What a journal takes over of another wallet's (`old`).

/// Copies the requests that a new wallet takes over from the journal of the earlier one, attached as `old`:
/// `?1` contract, `?2` a block.
///
/// A submitted request becomes answered: the new wallet sends the answer again. Settled requests of blocks
/// after `?2` are copied too: these blocks are read again, and would otherwise show them as new.
pub(in crate::journal::sqlite) const REQUESTS: &str = "
INSERT INTO main.requests (contract, id, content, kind, stage, attempts, last_error, hold_reason,
    hold_detail, held_since, arrived_at, asked_at, asked_core, answered_at, worked, settled_at, outcome,
    refusal, outcome_detail, outcome_transaction, outcome_block_number, outcome_block_hash)
SELECT contract, id, content, kind, CASE stage WHEN 'submitted' THEN 'answered' ELSE stage END,
    attempts, last_error, hold_reason, hold_detail, held_since, arrived_at, asked_at, asked_core, answered_at,
    worked, settled_at, outcome, refusal, outcome_detail, outcome_transaction,
    outcome_block_number, outcome_block_hash
FROM old.requests WHERE contract = ?1 AND (outcome IS NULL
    OR seq IN (SELECT seq FROM old.events WHERE block_number > ?2))
ORDER BY seq ON CONFLICT DO NOTHING";

pub(in crate::journal::sqlite) const EVENTS: &str = "
INSERT INTO main.events
    (seq, block_number, block_hash, transaction_hash, log_index, topics, data)
SELECT n.seq, e.block_number, e.block_hash, e.transaction_hash, e.log_index, e.topics, e.data
FROM main.requests n
CROSS JOIN old.requests o ON o.contract = n.contract AND o.id = n.id AND o.content = n.content
CROSS JOIN old.events e ON e.seq = o.seq
WHERE n.contract = ?1 ON CONFLICT DO NOTHING";

/// Also of settled requests: a reorganisation may open them again.
pub(in crate::journal::sqlite) const ANSWERS: &str = "
INSERT INTO main.answers (seq, payload, signature, extra_data)
SELECT n.seq, a.payload, a.signature, a.extra_data
FROM main.requests n
CROSS JOIN old.requests o ON o.contract = n.contract AND o.id = n.id AND o.content = n.content
CROSS JOIN old.answers a ON a.seq = o.seq
WHERE n.contract = ?1 ON CONFLICT DO NOTHING";

pub(in crate::journal::sqlite) const ACCESS: &str = "
INSERT INTO main.access (seq, bound_context, record)
SELECT n.seq, a.bound_context, a.record
FROM main.requests n
CROSS JOIN old.requests o ON o.contract = n.contract AND o.id = n.id AND o.content = n.content
CROSS JOIN old.access a ON a.seq = o.seq
WHERE n.contract = ?1 ON CONFLICT DO NOTHING";

/// From version 11 on, as the next three. `?1` contract.
pub(in crate::journal::sqlite) const APPROVALS: &str = "
INSERT INTO main.approvals (seq, approved_by, approved_at)
SELECT n.seq, a.approved_by, a.approved_at
FROM main.requests n
CROSS JOIN old.requests o ON o.contract = n.contract AND o.id = n.id AND o.content = n.content
CROSS JOIN old.approvals a ON a.seq = o.seq
WHERE n.contract = ?1 ON CONFLICT DO NOTHING";

/// From version 13 on.
pub(in crate::journal::sqlite) const REPRESENTATIONS: &str = "
INSERT INTO main.representations (seq, representation, chosen_at)
SELECT n.seq, a.representation, a.chosen_at
FROM main.requests n
CROSS JOIN old.requests o ON o.contract = n.contract AND o.id = n.id AND o.content = n.content
CROSS JOIN old.representations a ON a.seq = o.seq
WHERE n.contract = ?1 ON CONFLICT DO NOTHING";

/// The contracts that stand beside Decryption contract `?1`.
pub(in crate::journal::sqlite) const BESIDE: &str = "
INSERT INTO main.beside (contract, decryption)
SELECT contract, decryption FROM old.beside WHERE decryption = ?1 ON CONFLICT DO NOTHING";

/// Their cursors. `?2` now.
pub(in crate::journal::sqlite) const CURSORS_BESIDE: &str = "
INSERT INTO main.cursors (contract, begun_after, number, hash, moved_at, read_twice)
SELECT contract, begun_after, number, hash, ?2, read_twice FROM old.cursors
WHERE contract IN (SELECT contract FROM old.beside WHERE decryption = ?1) ON CONFLICT DO NOTHING";

/// Their unproven blocks.
pub(in crate::journal::sqlite) const UNPROVEN_BESIDE: &str = "
INSERT INTO main.unproven SELECT * FROM old.unproven
WHERE contract IN (SELECT contract FROM old.beside WHERE decryption = ?1) ON CONFLICT DO NOTHING";

/// `?1` contract, `?2` now.
pub(in crate::journal::sqlite) const CURSOR: &str = "
INSERT INTO main.cursors (contract, begun_after, number, hash, moved_at, read_twice)
SELECT contract, begun_after, number, hash, ?2, read_twice FROM old.cursors WHERE contract = ?1";

pub(in crate::journal::sqlite) const UNPROVEN: &str = "
INSERT INTO main.unproven SELECT * FROM old.unproven WHERE contract = ?1 ON CONFLICT DO NOTHING";

/// `?1` contract.
pub(in crate::journal::sqlite) const SEEN_IDS: &str = "
INSERT INTO main.seen_ids (contract, counter, first, last, first_block, last_block)
SELECT contract, counter, first, last, first_block, last_block FROM old.seen_ids
WHERE contract = ?1 ON CONFLICT DO NOTHING";

/// From version 14 on.
pub(in crate::journal::sqlite) const GENERATIONS: &str = "
INSERT INTO main.generations (contract, generation, block)
SELECT contract, generation, block FROM old.generations WHERE contract = ?1 ON CONFLICT DO NOTHING";
