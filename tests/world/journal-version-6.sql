-- The tables of a journal of schema version 6, as the program that knew no later one left them.
PRAGMA application_id = 1263358794;
PRAGMA user_version = 6;
CREATE TABLE identity (
    chain_id INTEGER NOT NULL,
    genesis BLOB NOT NULL,
    wallet BLOB NOT NULL
) STRICT;
CREATE TABLE cursors (
    contract BLOB PRIMARY KEY,
    begun_after INTEGER NOT NULL,
    number INTEGER NOT NULL,
    hash BLOB NOT NULL,
    moved_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE requests (
    seq INTEGER PRIMARY KEY,
    contract BLOB NOT NULL,
    id BLOB NOT NULL,
    content BLOB NOT NULL,
    kind TEXT NOT NULL,
    stage TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    hold_reason TEXT,
    hold_detail TEXT,
    held_since INTEGER,
    submitted_transaction BLOB,
    arrived_at INTEGER NOT NULL,
    asked_at INTEGER,
    answered_at INTEGER,
    submitted_at INTEGER,
    settled_at INTEGER,
    outcome TEXT,
    refusal TEXT,
    outcome_detail TEXT,
    outcome_transaction BLOB,
    outcome_block_number INTEGER,
    outcome_block_hash BLOB,
    worked INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE UNIQUE INDEX requests_by_key ON requests (contract, id, content);
CREATE INDEX requests_unfinished ON requests (contract, seq) WHERE outcome IS NULL;
CREATE INDEX requests_held ON requests (contract, seq) WHERE hold_reason IS NOT NULL;
CREATE INDEX requests_settled ON requests (settled_at, contract, outcome) WHERE outcome IS NOT NULL;
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    block_number INTEGER NOT NULL,
    block_hash BLOB NOT NULL,
    transaction_hash BLOB NOT NULL,
    log_index INTEGER NOT NULL,
    topics BLOB NOT NULL,
    data BLOB NOT NULL
) STRICT;
CREATE TABLE answers (
    seq INTEGER PRIMARY KEY,
    payload BLOB NOT NULL,
    signature BLOB NOT NULL,
    extra_data BLOB NOT NULL
) STRICT;
CREATE TABLE skipped_logs (
    seq INTEGER PRIMARY KEY,
    contract BLOB NOT NULL,
    reason TEXT NOT NULL,
    skipped_at INTEGER NOT NULL,
    block_number INTEGER NOT NULL,
    block_hash BLOB NOT NULL,
    transaction_hash BLOB NOT NULL,
    log_index INTEGER NOT NULL,
    topics BLOB NOT NULL,
    data BLOB NOT NULL,
    UNIQUE (contract, block_hash, log_index)
) STRICT;
CREATE TABLE keeper (
    name TEXT NOT NULL,
    kept_at INTEGER NOT NULL
) STRICT;
CREATE TABLE transactions (
    seq INTEGER PRIMARY KEY,
    nonce INTEGER NOT NULL,
    hash BLOB NOT NULL,
    contract BLOB NOT NULL,
    request_id BLOB,
    request_content BLOB,
    signed_at INTEGER NOT NULL,
    mined_at INTEGER,
    mined_block_number INTEGER,
    mined_block_hash BLOB,
    given_up TEXT,
    raw BLOB NOT NULL,
    UNIQUE (nonce, hash)
) STRICT;
CREATE INDEX transactions_by_nonce ON transactions (nonce, mined_block_number);
CREATE INDEX transactions_open ON transactions (nonce)
    WHERE mined_block_number IS NULL AND given_up IS NULL;
CREATE INDEX transactions_by_request ON transactions (request_id, request_content)
    WHERE request_id IS NOT NULL;
CREATE INDEX transactions_by_age ON transactions (signed_at);
