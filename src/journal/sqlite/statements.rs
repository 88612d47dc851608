//! The SQL, in one place, so that a test can ask the query planner which index each scan uses.

pub(super) mod salvage;
pub(super) mod inherit;

/// `?1` contract, `?2` id, `?3` content, `?4` kind, `?5` now.
pub(super) const INSERT_REQUEST: &str = "
INSERT INTO requests (contract, id, content, kind, stage, arrived_at)
VALUES (?1, ?2, ?3, ?4, 'arrived', ?5) ON CONFLICT DO NOTHING";

pub(super) const INSERT_EVENT: &str = "
INSERT INTO events
    (seq, block_number, block_hash, transaction_hash, log_index, topics, data)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

/// After a reorganisation the event is in another block, and may say something else of the ciphertexts.
pub(super) const MOVE_EVENT: &str = "
UPDATE events SET block_number = ?2, block_hash = ?3, transaction_hash = ?4, log_index = ?5,
    topics = ?6, data = ?7
WHERE seq = ?1";

/// Removes the outcome.
pub(super) const REOPEN: &str = "
UPDATE requests SET settled_at = NULL, outcome = NULL, refusal = NULL, outcome_detail = NULL,
    outcome_transaction = NULL, outcome_block_number = NULL, outcome_block_hash = NULL
WHERE seq = ?1";

pub(super) const INSERT_SKIPPED: &str = "
INSERT INTO skipped_logs
    (contract, reason, skipped_at, block_number, block_hash, transaction_hash, log_index, topics,
     data)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING";

pub(super) const SET_CURSOR: &str = "
INSERT INTO cursors (contract, begun_after, number, hash, moved_at, read_twice)
VALUES (?1, ?2, ?2, ?3, ?4, ?5)
ON CONFLICT (contract) DO UPDATE SET number = excluded.number, hash = excluded.hash,
    moved_at = excluded.moved_at, read_twice = excluded.read_twice";

pub(super) const SELECT_CURSOR: &str = "SELECT number, hash FROM cursors WHERE contract = ?1";

/// The block up to which all were read twice, if that is known.
pub(super) const SELECT_READ_TWICE: &str = "SELECT read_twice FROM cursors WHERE contract = ?1";

/// The list is small, and is replaced as a whole.
pub(super) const FORGET_UNPROVEN: &str = "DELETE FROM unproven WHERE contract = ?1";
pub(super) const PUT_UNPROVEN: &str = "
INSERT INTO unproven (contract, first, last, hash, since) VALUES (?1, ?2, ?3, ?4, ?5)";
pub(super) const SELECT_UNPROVEN: &str = "
SELECT first, last, hash, since FROM unproven WHERE contract = ?1 ORDER BY first";

/// The known ids of requests: a counter's tag, its ranges and their blocks.
pub(super) const SELECT_SEEN_IDS: &str = "
SELECT counter, first, last, first_block, last_block FROM seen_ids WHERE contract = ?1";
pub(super) const DELETE_SEEN_IDS: &str = "DELETE FROM seen_ids WHERE contract = ?1";
pub(super) const INSERT_SEEN_IDS: &str = "
INSERT INTO seen_ids (contract, counter, first, last, first_block, last_block)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

/// The number of requests of contract `?1` with id `?2`, and how many of them were answered.
pub(super) const SELECT_ANSWERED: &str = "
SELECT count(*), coalesce(sum(outcome IN ('accepted', 'already_answered')
    OR (outcome IS NULL AND stage = 'submitted')), 0)
FROM requests WHERE contract = ?1 AND id = ?2";

/// A request with id `?2` that ended as done without an answer.
pub(super) const SELECT_DONE: &str = "\
SELECT 1 FROM requests WHERE contract = ?1 AND id = ?2 AND outcome = 'no_answer_due'";

/// A request with id `?2` that the Core was not asked for.
pub(super) const SELECT_UNASKED: &str = "\
SELECT 1 FROM requests WHERE contract = ?1 AND id = ?2 AND outcome IS NULL AND stage = 'arrived'";

/// The block up to which answers may have been given that this journal does not know.
pub(super) const SELECT_FORGOTTEN: &str = "SELECT up_to FROM forgotten WHERE contract = ?1";
pub(super) const FORGET: &str = "
INSERT INTO forgotten (contract, up_to) VALUES (?1, ?2)
ON CONFLICT (contract) DO UPDATE SET up_to = max(up_to, excluded.up_to)";

/// The deployment that was noted last for a contract, and since when it is known.
pub(super) const SELECT_DEPLOYMENT: &str = "\
SELECT deployment, seen_at FROM deployments WHERE contract = ?1 ORDER BY seq DESC LIMIT 1";
/// Notes a deployment, unless it is the last one.
pub(super) const NOTE_DEPLOYMENT: &str = "
INSERT INTO deployments (contract, seen_at, deployment) SELECT ?1, ?2, ?3
WHERE ?3 IS NOT
    (SELECT deployment FROM deployments WHERE contract = ?1 ORDER BY seq DESC LIMIT 1)";
/// Keeps the newest `?2` of a contract.
pub(super) const FORGET_DEPLOYMENTS: &str = "
DELETE FROM deployments WHERE contract = ?1 AND seq NOT IN
    (SELECT seq FROM deployments WHERE contract = ?1 ORDER BY seq DESC LIMIT ?2)";

/// The generation that is known to have stood at a contract's address.
pub(super) const SELECT_GENERATION: &str = "SELECT generation FROM generations WHERE contract = ?1";
/// Generation `?2` stood there in block `?3`.
pub(super) const PUT_GENERATION: &str =
    "REPLACE INTO generations (contract, generation, block) VALUES (?1, ?2, ?3)";

/// The blocks read for the Decryption contract whose cursor moved last: the number of its first cursor, which
/// no later cursor changes, and its cursor.
pub(super) const SELECT_LAST_CURSOR: &str = "\
SELECT begun_after, number, hash FROM cursors WHERE contract NOT IN (SELECT contract FROM beside)
ORDER BY moved_at DESC LIMIT 1";
/// For versions before 11.
pub(super) const SELECT_LAST_CURSOR_V10: &str = "\
SELECT begun_after, number, hash FROM cursors ORDER BY moved_at DESC LIMIT 1";
/// Contract `?1` stands beside Decryption contract `?2`.
pub(super) const PUT_BESIDE: &str = "REPLACE INTO beside (contract, decryption) VALUES (?1, ?2)";
pub(super) const SELECT_BEGUN_AFTER: &str = "SELECT begun_after FROM cursors WHERE contract = ?1";

/// Lowers the block after which reading began to at most `?2`.
pub(super) const BEGIN_EARLIER: &str = "
UPDATE cursors SET begun_after = min(begun_after, ?2) WHERE contract = ?1";

/// The requests that were stored last, newest first. `?1` contract, `?2` limit.
pub(super) const NEWEST_IDS: &str = "
SELECT r.id, e.block_number FROM requests r NOT INDEXED CROSS JOIN events e ON e.seq = r.seq
WHERE r.contract = ?1 ORDER BY r.seq DESC LIMIT ?2";

pub(super) const OLDEST_UNFINISHED: &str = "
SELECT min(e.block_number) FROM requests r NOT INDEXED CROSS JOIN events e ON e.seq = r.seq
WHERE r.contract = ?1 AND r.outcome IS NULL";

/// The columns of a `Progress`, in the order in which `read_progress` reads them.
macro_rules! progress_columns {
    () => {
        "r.stage, r.hold_reason, r.hold_detail, r.held_since, r.attempts, r.last_error,
         r.submitted_transaction, r.arrived_at, r.asked_at, r.answered_at, r.submitted_at,
         r.settled_at, r.outcome, r.refusal, r.outcome_detail, r.outcome_transaction,
         r.outcome_block_number, r.outcome_block_hash, r.worked, r.asked_core"
    };
}

/// The number of columns in `progress_columns`.
pub(super) const PROGRESS_COLUMNS: usize = 20;

pub(super) const SELECT_PROGRESS: &str = concat!(
    "SELECT ",
    progress_columns!(),
    ", r.seq, r.kind FROM requests r WHERE r.contract = ?1 AND r.id = ?2 AND r.content = ?3"
);

/// The same, with the hash of the event's block, and whether the event has topics `?4` and data `?5`.
pub(super) const SELECT_PLACE: &str = concat!(
    "SELECT ",
    progress_columns!(),
    ", r.seq, e.block_hash, e.topics = ?4 AND e.data = ?5 FROM requests r JOIN events e ON e.seq = r.seq
     WHERE r.contract = ?1 AND r.id = ?2 AND r.content = ?3"
);

/// The request whose answer transaction `?2` with nonce `?1` delivered.
pub(super) const SELECT_ANSWERED_BY: &str = concat!(
    "SELECT ",
    progress_columns!(),
    ", r.seq FROM transactions t CROSS JOIN requests r
     ON r.contract = t.contract AND r.id = t.request_id AND r.content = t.request_content
     WHERE t.nonce = ?1 AND t.hash = ?2"
);

/// Does not touch the columns of a settled request, nor their indexes.
pub(super) const ADVANCE: &str = "
UPDATE requests SET stage = ?2, hold_reason = ?3, hold_detail = ?4, held_since = ?5,
    attempts = ?6, last_error = ?7, submitted_transaction = ?8, asked_at = ?9, answered_at = ?10,
    submitted_at = ?11, worked = ?12, asked_core = ?13
WHERE seq = ?1";

pub(super) const SETTLE: &str = "
UPDATE requests SET hold_reason = NULL, hold_detail = NULL, held_since = NULL, settled_at = ?2,
    outcome = ?3, refusal = ?4, outcome_detail = ?5, outcome_transaction = ?6,
    outcome_block_number = ?7, outcome_block_hash = ?8
WHERE seq = ?1";

pub(super) const PUT_ANSWER: &str =
    "REPLACE INTO answers (seq, payload, signature, extra_data) VALUES (?1, ?2, ?3, ?4)";

/// `?1` contract, `?2` id, `?3` content, `?4` who, `?5` now. The first approval stays.
pub(super) const APPROVE: &str = "
INSERT INTO approvals (seq, approved_by, approved_at)
SELECT seq, ?4, ?5 FROM requests WHERE contract = ?1 AND id = ?2 AND content = ?3
ON CONFLICT DO NOTHING";

/// `?1` contract, `?2` id, `?3` content, `?4` the kind of key, `?5` now. The first one stays.
pub(super) const REPRESENT: &str = "
INSERT INTO representations (seq, representation, chosen_at)
SELECT seq, ?4, ?5 FROM requests WHERE contract = ?1 AND id = ?2 AND content = ?3
ON CONFLICT DO NOTHING";

/// Of the preparation with id `?2`: after a reorganisation there may be several, and the last one counts.
pub(super) const SELECT_REPRESENTATION: &str = "\
SELECT p.representation FROM requests r JOIN representations p ON p.seq = r.seq
WHERE r.contract = ?1 AND r.id = ?2 AND r.outcome IS NOT 'orphaned' ORDER BY p.chosen_at DESC LIMIT 1";

pub(super) const PUT_ACCESS: &str =
    "REPLACE INTO access (seq, bound_context, record) VALUES (?1, ?2, ?3)";

pub(super) const INSERT_TRANSACTION: &str = "
INSERT INTO transactions
    (nonce, hash, contract, request_id, request_content, signed_at, raw, chain)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (nonce, hash) DO UPDATE SET given_up = NULL";

pub(super) const MINE_TRANSACTION: &str = "
UPDATE transactions SET mined_at = ?3, mined_block_number = ?4, mined_block_hash = ?5, given_up = NULL
WHERE nonce = ?1 AND hash = ?2";

/// `?1` nonce, `?2` hash, `?3` the name of the reason.
pub(super) const GIVE_UP_TRANSACTION: &str = "
UPDATE transactions SET given_up = ?3
WHERE nonce = ?1 AND hash = ?2 AND mined_block_number IS NULL";

pub(super) const REOPEN_TRANSACTION: &str = "
UPDATE transactions SET mined_at = NULL, mined_block_number = NULL, mined_block_hash = NULL
WHERE nonce = ?1 AND hash = ?2";

macro_rules! unfinished {
    ($filter:expr) => {
        concat!(
            "SELECT ",
            progress_columns!(),
            ", r.seq, r.id, r.content, r.kind, e.block_number, e.block_hash, e.transaction_hash,
             e.log_index, e.topics, e.data, a.payload, a.signature, a.extra_data, c.record,
             c.bound_context, p.approved_by, p.approved_at
             FROM requests r JOIN events e ON e.seq = r.seq LEFT JOIN answers a ON a.seq = r.seq
             LEFT JOIN access c ON c.seq = r.seq LEFT JOIN approvals p ON p.seq = r.seq
             WHERE ",
            $filter
        )
    };
}

/// Pages: `?1` contract, `?2` the last position seen, `?3` limit.
pub(super) const UNFINISHED: &str =
    unfinished!("r.contract = ?1 AND r.outcome IS NULL AND r.seq > ?2 ORDER BY r.seq LIMIT ?3");
pub(super) const UNFINISHED_HELD: &str = unfinished!(
    "r.contract = ?1 AND r.outcome IS NULL AND r.hold_reason IS NOT NULL AND r.seq > ?2
     ORDER BY r.seq LIMIT ?3"
);
pub(super) const REQUEST: &str = unfinished!("r.contract = ?1 AND r.id = ?2 AND r.content = ?3");
pub(super) const NAMESAKES: &str =
    unfinished!("r.contract = ?1 AND r.id = ?2 AND r.content <> ?3 LIMIT 8");
/// Also `?4` transaction, `?5` limit. An orphaned event is not on chain.
pub(super) const NAMESAKES_IN_TRANSACTION: &str = unfinished!(
    "r.contract = ?1 AND r.id = ?2 AND r.content <> ?3 AND e.transaction_hash = ?4
     AND r.outcome IS NOT 'orphaned' LIMIT ?5"
);

/// Another request of the same id whose answer the contract has taken.
pub(super) const SELECT_ACCEPTED_NAMESAKE: &str = "\
SELECT 1 FROM requests WHERE contract = ?1 AND id = ?2 AND content <> ?3 AND outcome = 'accepted'";

/// Ended without an answer since `?4`: the requests that an operator may want to open again.
macro_rules! ended {
    () => {
        "r.seq IN (SELECT seq FROM requests INDEXED BY requests_settled
         WHERE outcome IS NOT NULL AND settled_at >= ?4 AND contract = ?1
             AND outcome IN ('refused', 'expired', 'orphaned') AND seq > ?2)
         ORDER BY r.seq LIMIT ?3"
    };
}

/// The plus keeps the planner from using an index by contract, whose result would have to be sorted.
macro_rules! all {
    () => {
        "+r.contract = ?1 AND r.seq > ?2 ORDER BY r.seq LIMIT ?3"
    };
}

pub(super) const ENDED: &str = unfinished!(ended!());
pub(super) const ALL: &str = unfinished!(all!());
pub(super) const BY_ID: &str = unfinished!("r.contract = ?1 AND r.id = ?2 ORDER BY r.content");

/// Without the large columns of event and answer.
macro_rules! listed {
    ($filter:expr) => {
        concat!(
            "SELECT ",
            progress_columns!(),
            ", r.seq, r.id, r.content, r.kind, e.block_number
             FROM requests r JOIN events e ON e.seq = r.seq WHERE ",
            $filter
        )
    };
}

pub(super) const LISTED_UNFINISHED: &str =
    listed!("r.contract = ?1 AND r.outcome IS NULL AND r.seq > ?2 ORDER BY r.seq LIMIT ?3");
/// The oldest decryption that is not held. Key operations take hours.
pub(super) const LISTED_OLDEST: &str = listed!(
    "r.contract = ?1 AND r.outcome IS NULL AND r.hold_reason IS NULL
     AND r.kind IN ('public_decryption', 'user_decryption') ORDER BY r.seq LIMIT 1"
);
pub(super) const LISTED_HELD: &str =
    listed!("r.contract = ?1 AND r.hold_reason IS NOT NULL AND r.seq > ?2 ORDER BY r.seq LIMIT ?3");
pub(super) const LISTED_ENDED: &str = listed!(ended!());
pub(super) const LISTED_ALL: &str = listed!(all!());

/// The Decryption contract on the journal's own chain whose cursor moved last.
pub(super) const LATEST_CONTRACT: &str = "
SELECT contract FROM cursors
WHERE length(contract) = 20 AND contract NOT IN (SELECT contract FROM beside)
ORDER BY moved_at DESC LIMIT 1";

/// Unfinished and not held, keys only: `?1` contract, `?2` the last position seen, `?3` limit.
pub(super) const UNFINISHED_KEYS: &str = "
SELECT r.seq, r.id, r.content FROM requests r
WHERE r.contract = ?1 AND r.outcome IS NULL AND r.hold_reason IS NULL AND r.seq > ?2
ORDER BY r.seq LIMIT ?3";

/// A mined transaction closes its nonce for all transactions with that nonce. `?1` chain.
pub(super) const OPEN_TRANSACTIONS: &str = "
SELECT t.nonce, t.hash, t.raw, t.request_id, t.request_content, t.contract FROM transactions t
WHERE t.chain = ?1 AND t.mined_block_number IS NULL AND t.given_up IS NULL AND NOT EXISTS (
    SELECT 1 FROM transactions m
    WHERE m.chain = ?1 AND m.nonce = t.nonce AND m.mined_block_number IS NOT NULL)
ORDER BY t.nonce, t.seq";

/// Mined transactions of chain `?2` with one of the last `?1` nonces.
pub(super) const RECENTLY_MINED: &str = "
SELECT nonce, hash, mined_block_number, mined_block_hash FROM transactions
WHERE chain = ?2 AND mined_block_number IS NOT NULL AND nonce > (
    SELECT m.nonce FROM transactions m WHERE m.chain = ?2 AND m.mined_block_number IS NOT NULL
    ORDER BY m.nonce DESC LIMIT 1) - ?1
ORDER BY nonce";

/// Everything recorded for the last `?1` nonces of chain `?2` that are used, without what was given up, where
/// a request without an outcome had its last nonce.
pub(super) const UNCONFIRMED_TRANSACTIONS: &str = "
SELECT t.nonce, t.hash, t.raw, t.request_id, t.request_content, t.contract
FROM transactions m CROSS JOIN transactions t ON t.chain = m.chain AND t.nonce = m.nonce
WHERE m.chain = ?2 AND m.mined_block_number IS NOT NULL AND m.nonce > (
        SELECT l.nonce FROM transactions l WHERE l.chain = ?2 AND l.mined_block_number IS NOT NULL
        ORDER BY l.nonce DESC LIMIT 1) - ?1
    AND t.given_up IS NULL
    AND EXISTS (
        SELECT 1 FROM transactions own JOIN requests r ON r.contract = own.contract
            AND r.id = own.request_id AND r.content = own.request_content
        WHERE own.chain = m.chain AND own.nonce = m.nonce AND own.given_up IS NULL
            AND r.outcome IS NULL
            AND NOT EXISTS (
                SELECT 1 FROM transactions later
                WHERE later.request_id = r.id AND later.request_content = r.content
                    AND later.contract = r.contract AND later.nonce > own.nonce
                    AND later.given_up IS NULL))
ORDER BY t.nonce, t.seq";

/// The transactions that the chain of transaction `?2` has with its nonce `?1`, without those given up: a few
/// rows.
pub(super) const RECORDED_WITH: &str = "
SELECT t.nonce, t.hash, t.raw, t.request_id, t.request_content, t.contract
FROM transactions own CROSS JOIN transactions t ON t.chain = own.chain AND t.nonce = own.nonce
WHERE own.nonce = ?1 AND own.hash = ?2 AND t.given_up IS NULL
ORDER BY t.seq";

/// Mined for a request of contract `?1` that has no outcome.
pub(super) const UNSETTLED_TRANSACTIONS: &str = "
SELECT t.nonce, t.hash, t.raw, t.request_id, t.request_content, t.contract
FROM requests r JOIN transactions t ON t.request_id = r.id AND t.request_content = r.content
WHERE r.contract = ?1 AND r.outcome IS NULL AND t.contract = ?1
    AND t.mined_block_number IS NOT NULL
    AND NOT EXISTS (
        SELECT 1 FROM transactions later
        WHERE later.request_id = r.id AND later.request_content = r.content
            AND later.contract = ?1 AND later.seq > t.seq)";

pub(super) const NEWEST: &str = "SELECT max(seq) FROM requests WHERE contract = ?1";

pub(super) const TRANSACTIONS_OF: &str = "
SELECT t.nonce, t.hash, t.raw, t.request_id, t.request_content, t.mined_block_number,
    t.mined_block_hash, t.signed_at, t.given_up, t.contract
FROM transactions t
WHERE t.request_id = ?2 AND t.request_content = ?3 AND t.contract = ?1 ORDER BY t.seq";

/// The highest nonce in use. A nonce is free if every node refused its transaction, or if the chain does not
/// reach it, unless other bytes were recorded for it. `?1` chain.
pub(super) const HIGHEST_NONCE: &str = "
SELECT (SELECT nonce FROM transactions
    WHERE chain = ?1 AND (given_up IS NULL OR given_up NOT IN ('rejected', 'stranded'))
    ORDER BY nonce DESC LIMIT 1)";

/// Given up because of a gap below that chain `?1` has not closed.
pub(super) const STRANDED_TRANSACTIONS: &str = "
SELECT t.nonce, t.hash, t.raw, t.request_id, t.request_content, t.contract FROM transactions t
WHERE t.chain = ?1 AND t.mined_block_number IS NULL AND t.given_up = 'stranded'
    AND t.nonce > coalesce((
    SELECT m.nonce FROM transactions m WHERE m.chain = ?1 AND m.mined_block_number IS NOT NULL
    ORDER BY m.nonce DESC LIMIT 1), -1)
ORDER BY t.nonce";

pub(super) const COUNT_UNFINISHED: &str = "
SELECT stage, hold_reason, count(*), min(arrived_at) FROM requests
WHERE contract = ?1 AND outcome IS NULL GROUP BY stage, hold_reason";

/// The oldest request that has failed before and is tried again.
pub(super) const OLDEST_FAILING: &str = "
SELECT arrived_at, last_error FROM requests INDEXED BY requests_unfinished
WHERE contract = ?1 AND outcome IS NULL AND hold_reason IS NULL AND last_error IS NOT NULL
ORDER BY seq LIMIT 1";

/// Reads unfinished requests only, however many are settled.
pub(super) const COUNT_IN_HAND: &str =
    "SELECT count(*) FROM requests WHERE contract = ?1 AND outcome IS NULL";

/// Reads unfinished requests only, however many are settled.
pub(super) const COUNT_ELSEWHERE: &str = "
SELECT count(*) FROM requests INDEXED BY requests_unfinished
WHERE contract <> ?1 AND outcome IS NULL";

/// Reads unfinished requests only, however many are settled.
pub(super) const COUNT_STANDINGS: &str = "
SELECT kind, stage, hold_reason, count(*), min(arrived_at)
FROM requests INDEXED BY requests_unfinished
WHERE contract = ?1 AND outcome IS NULL GROUP BY kind, stage, hold_reason";

pub(super) const COUNT_SETTLED: &str = "
SELECT outcome, count(*) FROM requests INDEXED BY requests_settled
WHERE outcome IS NOT NULL AND contract = ?1 GROUP BY outcome";

pub(super) const COUNT_SKIPPED: &str = "SELECT count(*) FROM skipped_logs WHERE contract = ?1";

/// The instance that last kept this journal, and since when (Unix ms).
pub(super) const SELECT_KEEPER: &str = "SELECT name, kept_at FROM keeper";
pub(super) const DELETE_KEEPER: &str = "DELETE FROM keeper";
pub(super) const INSERT_KEEPER: &str = "INSERT INTO keeper (name, kept_at) VALUES (?1, ?2)";

/// On any chain.
pub(super) const HAS_OPEN_TRANSACTIONS: &str = "
SELECT EXISTS (SELECT 1 FROM transactions t INDEXED BY transactions_open
WHERE t.mined_block_number IS NULL AND t.given_up IS NULL AND NOT EXISTS (
    SELECT 1 FROM transactions m
    WHERE m.chain = t.chain AND m.nonce = t.nonce AND m.mined_block_number IS NOT NULL))";

/// For versions before 8.
pub(super) const HAS_OPEN_TRANSACTIONS_V3: &str = "
SELECT EXISTS (SELECT 1 FROM transactions t INDEXED BY transactions_open
WHERE t.mined_block_number IS NULL AND t.given_up IS NULL AND NOT EXISTS (
    SELECT 1 FROM transactions m WHERE m.nonce = t.nonce AND m.mined_block_number IS NOT NULL))";

pub(super) const IS_EMPTY: &str = "
SELECT NOT EXISTS (SELECT 1 FROM cursors) AND NOT EXISTS (SELECT 1 FROM requests)
    AND NOT EXISTS (SELECT 1 FROM transactions)";

/// Whether the row's chain prefix is `?4` (the bytes before the address in its column).
macro_rules! of_chain {
    () => {
        "substr(contract, 1, length(contract) - 20) = ?4"
    };
}

/// `?1` settled before, `?2` final block, `?3` limit, `?4` chain prefix.
pub(super) const OLD_REQUESTS: &str = concat!(
    "SELECT seq FROM requests
     WHERE outcome IS NOT NULL AND settled_at < ?1
         AND (outcome_block_number IS NULL OR outcome_block_number <= ?2) AND ",
    of_chain!(),
    " ORDER BY settled_at LIMIT ?3"
);

pub(super) const DELETE_REQUEST: [&str; 4] = [
    "DELETE FROM access WHERE seq = ?1",
    "DELETE FROM answers WHERE seq = ?1",
    "DELETE FROM events WHERE seq = ?1",
    "DELETE FROM requests WHERE seq = ?1",
];

/// Beside [`DELETE_REQUEST`]: from versions 11 and 13 on.
pub(super) const DELETE_BESIDE: [&str; 2] =
    ["DELETE FROM approvals WHERE seq = ?1", "DELETE FROM representations WHERE seq = ?1"];

/// `?1` stored before, `?2` final block, `?3` limit, `?4` chain prefix.
pub(super) const DELETE_OLD_SKIPPED: &str = concat!(
    "DELETE FROM skipped_logs WHERE seq IN (
     SELECT seq FROM skipped_logs WHERE skipped_at < ?1 AND block_number <= ?2 AND ",
    of_chain!(),
    " ORDER BY skipped_at LIMIT ?3)"
);

/// The highest nonce of chain `?2` that is mined for good. All nonces below it are too.
pub(super) const HIGHEST_FINAL_NONCE: &str = "
SELECT nonce FROM transactions WHERE chain = ?2 AND mined_block_number <= ?1 ORDER BY nonce DESC LIMIT 1";

/// `?1` signed and settled before, `?2` final block, `?3` highest nonce, `?4` highest final nonce, `?5`
/// limit, `?6` chain (the plus keeps the planner from using an index by it). A transaction below nonce `?4`
/// that was never mined has lost its nonce to another for good.
pub(super) const OLD_TRANSACTIONS: &str = "
SELECT t.seq FROM transactions t
WHERE +t.chain = ?6 AND t.signed_at < ?1 AND t.nonce < ?3
    AND (t.mined_block_number <= ?2 OR (t.mined_block_number IS NULL AND t.nonce < ?4))
    AND NOT EXISTS (
        SELECT 1 FROM requests r
        WHERE r.contract = t.contract AND r.id = t.request_id AND r.content = t.request_content
            AND (r.outcome IS NULL OR r.settled_at >= ?1))
ORDER BY t.signed_at LIMIT ?5";

pub(super) const DELETE_TRANSACTION: &str = "DELETE FROM transactions WHERE seq = ?1";

/// Each scan and the index it must use. None may sort.
#[cfg(test)]
pub(super) const SCANS: &[(&str, &str)] = &[
    (UNFINISHED, "requests_unfinished"),
    (UNFINISHED_HELD, "requests_held"),
    (UNFINISHED_KEYS, "requests_unfinished"),
    (LISTED_UNFINISHED, "requests_unfinished"),
    (LISTED_OLDEST, "requests_unfinished"),
    (LISTED_HELD, "requests_held"),
    (LISTED_ENDED, "requests_settled"),
    (LISTED_ALL, "INTEGER PRIMARY KEY"),
    (ENDED, "requests_settled"),
    (ALL, "INTEGER PRIMARY KEY"),
    (BY_ID, "requests_by_key"),
    (REQUEST, "requests_by_key"),
    (NAMESAKES, "requests_by_key"),
    (NAMESAKES_IN_TRANSACTION, "requests_by_key"),
    (SELECT_ANSWERED, "requests_by_key"),
    (SELECT_DONE, "requests_by_key"),
    (SELECT_UNASKED, "requests_by_key"),
    (SELECT_ACCEPTED_NAMESAKE, "requests_by_key"),
    (SELECT_PROGRESS, "requests_by_key"),
    (OPEN_TRANSACTIONS, "transactions_open"),
    (HAS_OPEN_TRANSACTIONS, "transactions_open"),
    (TRANSACTIONS_OF, "transactions_by_request"),
    (HIGHEST_NONCE, "transactions_by_nonce"),
    (STRANDED_TRANSACTIONS, "transactions_by_nonce"),
    (RECENTLY_MINED, "transactions_by_nonce"),
    (SELECT_PLACE, "requests_by_key"),
    (SELECT_ANSWERED_BY, "requests_by_key"),
    (HIGHEST_FINAL_NONCE, "transactions_by_nonce"),
    (COUNT_IN_HAND, "requests_unfinished"),
    (OLDEST_FAILING, "requests_unfinished"),
    (OLD_REQUESTS, "requests_settled"),
    (OLD_TRANSACTIONS, "transactions_by_age"),
    (DELETE_OLD_SKIPPED, "skipped_by_age"),
];
