//! The content of a request is the hash of what it asks for. Before version 10 of the tables it was the
//! hash of its event, so that overloads of one request, and events that tell of other ciphertexts, were
//! requests of their own.

use rusqlite::{Connection, OptionalExtension, params};

use super::{columns::Fixed, reader::read_event, statements as sql};
use crate::{
    contracts::abi,
    domain::{Address, B256, Event, RequestSource},
};

/// Rows that are read at a time.
const PAGE: u32 = 500;

const ROWS: &str = "
SELECT r.seq, r.contract, r.id, r.content, e.block_number, e.block_hash, e.transaction_hash,
    e.log_index, e.topics, e.data
FROM requests r JOIN events e ON e.seq = r.seq WHERE r.seq > ?1 ORDER BY r.seq LIMIT ?2";

const SAME: &str = "SELECT seq FROM requests WHERE contract = ?1 AND id = ?2 AND content = ?3";

/// How far a request has come. One that was answered must not be answered again.
const RANK: &str = "
SELECT CASE WHEN outcome IN ('accepted', 'already_answered') THEN 5 WHEN outcome IS NOT NULL THEN 0
    WHEN stage = 'submitted' THEN 4 WHEN stage = 'answered' THEN 3 WHEN stage = 'asked' THEN 2
    ELSE 1 END
FROM requests WHERE seq = ?1";

const OF_TRANSACTIONS: &str = "
UPDATE transactions SET request_content = ?4
WHERE request_id = ?2 AND request_content = ?3 AND contract = ?1";

const RENEW: &str = "UPDATE requests SET content = ?2 WHERE seq = ?1";

struct Stored {
    seq: i64,
    contract: Vec<u8>,
    id: Vec<u8>,
    content: B256,
    /// `None`: unreadable.
    event: Option<Event>,
}

/// Computes every content again from the stored event. Requests that were several and are one become the
/// one that has come furthest; of equals the first. Doing it twice changes nothing.
pub(super) fn renew(db: &Connection) -> rusqlite::Result<()> {
    let mut after = i64::MIN;
    loop {
        let mut rows = db.prepare_cached(ROWS)?;
        let page = rows.query_map(params![after, PAGE], |row| {
            Ok(Stored {
                seq: row.get(0)?,
                contract: row.get(1)?,
                id: row.get(2)?,
                content: row.get::<_, Fixed<B256>>(3)?.0,
                event: read_event(row, 4).ok(),
            })
        })?;
        let page: Vec<Stored> = page.collect::<rusqlite::Result<_>>()?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.seq;
        for stored in &page {
            renew_one(db, stored)?;
        }
    }
}

fn renew_one(db: &Connection, stored: &Stored) -> rusqlite::Result<()> {
    // The content does not depend on where the contract is.
    let source = RequestSource { chain_id: 0, contract: Address::ZERO };
    let request = stored.event.as_ref().and_then(|event| abi::decode(source, event).ok());
    // What does not decode keeps the name it has.
    let Some(content) = request.map(|request| request.key.content) else { return Ok(()) };
    if content == stored.content {
        return Ok(());
    }
    let Stored { seq, contract, id, content: before, .. } = stored;
    db.prepare_cached(OF_TRANSACTIONS)?.execute(params![
        contract,
        id,
        Fixed(*before),
        Fixed(content)
    ])?;
    let same: Option<i64> = db
        .prepare_cached(SAME)?
        .query_row(params![contract, id, Fixed(content)], |row| row.get(0))
        .optional()?;
    if let Some(same) = same {
        let rank = |seq: i64| -> rusqlite::Result<i64> {
            db.prepare_cached(RANK)?.query_row([seq], |row| row.get(0))
        };
        let dropped = if rank(*seq)? > rank(same)? { same } else { *seq };
        for statement in sql::DELETE_REQUEST {
            db.prepare_cached(statement)?.execute([dropped])?;
        }
        if dropped == *seq {
            return Ok(());
        }
    }
    db.prepare_cached(RENEW)?.execute(params![seq, Fixed(content)])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloy::sol_types::SolValue as _;

    use super::*;
    use crate::{
        chain::fake_chain::{SOURCE, request_data, request_event},
        domain::{Bytes, U256},
        journal::sqlite::{columns::topics_to_blob, schema::MIGRATIONS},
    };

    /// The handle-only overload of that event.
    fn overload(id: u64) -> Event {
        let topics = vec![abi::request_topics()[6], B256::from(U256::from(id))];
        let (handles, extra_data) = (Vec::<B256>::new(), Bytes::from_static(&[0]));
        let data = (handles, Address::ZERO, Bytes::new(), extra_data).abi_encode_params();
        Event { topics, data: data.into(), ..request_event(id) }
    }

    /// Stores a request as versions before 10 did.
    fn store(db: &Connection, seq: i64, event: &Event, (stage, outcome): (&str, Option<&str>)) {
        let content = abi::early_content(event).unwrap();
        db.execute(
            "INSERT INTO requests (seq, contract, id, content, kind, stage, outcome, arrived_at)
             VALUES (?1, ?2, ?3, ?4, 'user_decryption', ?5, ?6, 0)",
            params![
                seq,
                SOURCE.contract.as_slice(),
                event.topics[1].as_slice(),
                Fixed(content),
                stage,
                outcome
            ],
        )
        .unwrap();
        db.execute(
            "INSERT INTO events (seq, block_number, block_hash, transaction_hash, log_index, topics, data)
             VALUES (?1, 1, ?2, ?2, 0, ?3, ?4)",
            params![seq, Fixed(B256::ZERO), topics_to_blob(&event.topics), event.data.as_ref()],
        )
        .unwrap();
        db.execute(
            "INSERT INTO transactions (nonce, hash, contract, request_id, request_content, signed_at, raw)
             VALUES (?1, ?2, ?3, ?4, ?5, 0, x'00')",
            params![
                seq,
                Fixed(content),
                SOURCE.contract.as_slice(),
                event.topics[1].as_slice(),
                Fixed(content)
            ],
        )
        .unwrap();
    }

    #[test]
    fn g8_old_journals_name_requests_by_what_they_ask_for() {
        let db = Connection::open_in_memory().unwrap();
        for migration in &MIGRATIONS[..9] {
            db.execute_batch(migration).unwrap();
        }
        let broken = Event { data: Bytes::from_static(&[1]), ..request_event(5) };
        let other = Event { data: request_data(9), ..request_event(1) };
        let arrived = ("arrived", None);
        store(&db, 1, &request_event(1), arrived);
        // The same id with another content stays a request of its own.
        store(&db, 2, &other, arrived);
        // Overloads: of equals the first, else the one that has come furthest.
        store(&db, 3, &request_event(2), arrived);
        store(&db, 4, &overload(2), arrived);
        store(&db, 5, &request_event(3), ("arrived", Some("orphaned")));
        store(&db, 6, &overload(3), ("submitted", Some("accepted")));
        store(&db, 7, &overload(4), ("asked", None));
        store(&db, 8, &request_event(4), arrived);
        store(&db, 9, &broken, arrived);
        for _ in 0..2 {
            renew(&db).unwrap();
            let mut all = db.prepare("SELECT seq, content FROM requests ORDER BY seq").unwrap();
            let all = all.query_map([], |row| Ok((row.get(0)?, row.get::<_, Fixed<B256>>(1)?.0)));
            let all: Vec<(i64, B256)> = all.unwrap().collect::<rusqlite::Result<_>>().unwrap();
            let content = |event: &Event| abi::decode(SOURCE, event).unwrap().key.content;
            let expected = vec![
                (1, content(&request_event(1))),
                (2, content(&other)),
                (3, content(&request_event(2))),
                (6, content(&request_event(3))),
                (7, content(&request_event(4))),
                (9, abi::early_content(&broken).unwrap()),
            ];
            assert_eq!(all, expected);
            // Whatever was sent for a request belongs to the one that is left.
            let lost: i64 = db
                .query_row(
                    "SELECT count(*) FROM transactions t WHERE NOT EXISTS (SELECT 1 FROM requests r
                     WHERE r.id = t.request_id AND r.content = t.request_content)",
                    [],
                    |row| row.get(0),
                )
                .unwrap();
            assert_eq!(lost, 0);
            for table in ["events", "requests"] {
                let count = format!("SELECT count(*) FROM {table}");
                assert_eq!(db.query_row(&count, [], |row| row.get::<_, i64>(0)).unwrap(), 6);
            }
        }
    }
}
