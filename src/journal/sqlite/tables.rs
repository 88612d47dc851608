//! Applies the commands of a commit to the tables.
//!
//! No command can fail alone: unknown keys, repeated hashes and illegal steps ([`crate::journal::progress`])
//! change nothing. An error is one of the disk or of the file, and fails the whole commit.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::{
    columns::{Fixed, Number, OutcomeColumns, SourceColumn, step_name, topics_to_blob},
    reader::{read_progress, read_transaction},
    statements as sql,
};
use crate::{
    chain::lane::{SignedTransaction, TransactionId},
    contracts::abi,
    domain::{
        B256, BlockRef, CoreAddress, Event, Generation, Kind, RequestKey, RequestSource,
        SignedResult,
    },
    flow::ledger::{
        AccessNote, Arrival, Batch, IdRange, Sighting, Step, StoredBatch, UnprovenRange,
    },
    journal::{
        Pruned,
        commands::{CommandResult, Settlement, Work},
        progress::{EndedProgress, OpenProgress, Reopening, Resighting, SeenAgain, StoredRequest},
    },
};

/// The most rows that one prune command removes, so that commits behind it wait only milliseconds.
const PRUNE_CHUNK: u32 = 500;

/// The changes of a deployment that are kept.
const DEPLOYMENTS_KEPT: u32 = 100;

/// The tables within one transaction.
pub(super) struct Tables<'t> {
    pub transaction: &'t Transaction<'t>,
    /// What is asked of no request by its key.
    pub of: SourceColumn,
}

impl Tables<'_> {
    pub(super) fn execute(&self, work: &Work, now_ms: u64) -> rusqlite::Result<CommandResult> {
        match work {
            Work::StoreBatch(batch) => self.arrive(batch, now_ms).map(CommandResult::StoredBatch),
            Work::Signed(transactions) => {
                for transaction in transactions {
                    self.sign(transaction, now_ms)?;
                }
                Ok(CommandResult::Nothing)
            }
            Work::Note(key, step) => self.note(*key, step, now_ms),
            Work::Mined(id, block) => {
                self.mine(*id, *block, now_ms).map(|()| CommandResult::Nothing)
            }
            Work::GiveUp(ids, why) => {
                let mut give_up = self.transaction.prepare_cached(sql::GIVE_UP_TRANSACTION)?;
                for id in ids {
                    give_up.execute(params![Number(id.nonce), Fixed(id.hash), why.as_str()])?;
                }
                Ok(CommandResult::Nothing)
            }
            Work::Reopen(ids) => self.reopen(ids, now_ms).map(CommandResult::Reopened),
            Work::OpenAgain(key) => self.open_again(*key, now_ms).map(CommandResult::OpenedAgain),
            Work::Approve { key, by } => {
                let approval = params![
                    self.origin(key.source),
                    Fixed(key.id),
                    Fixed(key.content),
                    by,
                    Number(now_ms),
                ];
                self.transaction.prepare_cached(sql::APPROVE)?.execute(approval)?;
                Ok(CommandResult::Nothing)
            }
            Work::Represent { preparation, representation } => {
                let choice = params![
                    self.origin(preparation.source),
                    Fixed(preparation.id),
                    Fixed(preparation.content),
                    representation.as_str(),
                    Number(now_ms),
                ];
                self.transaction.prepare_cached(sql::REPRESENT)?.execute(choice)?;
                Ok(CommandResult::Nothing)
            }
            Work::StandBeside(decryption) => {
                let both = params![self.of, self.origin(*decryption)];
                self.transaction.prepare_cached(sql::PUT_BESIDE)?.execute(both)?;
                Ok(CommandResult::Nothing)
            }
            Work::ForgetUpTo(block) => {
                let up_to = params![self.of, Number(*block)];
                self.transaction.prepare_cached(sql::FORGET)?.execute(up_to)?;
                Ok(CommandResult::Nothing)
            }
            Work::NoteDeployment(deployment) => {
                let noted = params![self.of, Number(now_ms), deployment];
                if self.transaction.prepare_cached(sql::NOTE_DEPLOYMENT)?.execute(noted)? > 0 {
                    let kept = params![self.of, DEPLOYMENTS_KEPT];
                    self.transaction.prepare_cached(sql::FORGET_DEPLOYMENTS)?.execute(kept)?;
                }
                Ok(CommandResult::Nothing)
            }
            Work::NoteGeneration(generation, block) => {
                self.note_generation(*generation, *block)?;
                Ok(CommandResult::Nothing)
            }
            Work::Prune { settled_before_ms, final_block } => {
                self.prune(*settled_before_ms, *final_block)
            }
            Work::Flush => Ok(CommandResult::Nothing),
        }
    }

    fn origin(&self, source: RequestSource) -> SourceColumn {
        SourceColumn::of(source, self.of.home)
    }

    pub(super) fn arrive(&self, batch: &Batch, now_ms: u64) -> rusqlite::Result<StoredBatch> {
        let mut taken = StoredBatch::default();
        for (index, arrival) in batch.arrivals.iter().enumerate() {
            if self.insert_request(arrival, now_ms)? {
                taken.new.push(index);
            } else if self.move_request(arrival, now_ms)? {
                taken.reopened.push(index);
            }
        }
        for (index, (event, reason)) in batch.skipped.iter().enumerate() {
            let stored = self.transaction.prepare_cached(sql::INSERT_SKIPPED)?.execute(params![
                self.of,
                reason,
                Number(now_ms),
                Number(event.block.number),
                Fixed(event.block.hash),
                Fixed(event.transaction),
                Number(event.log_index),
                topics_to_blob(&event.topics),
                event.data.as_ref(),
            ])?;
            if stored > 0 {
                taken.skipped.push(index);
            }
        }
        if let Some(cursor) = batch.cursor {
            self.transaction.prepare_cached(sql::SET_CURSOR)?.execute(params![
                self.of,
                Number(cursor.number),
                Fixed(cursor.hash),
                Number(now_ms),
                batch.read_twice.map(Number),
            ])?;
        }
        if let Some(unproven) = &batch.unproven {
            self.replace_unproven(unproven)?;
        }
        if let Some(ids) = &batch.ids {
            self.replace_ids(ids)?;
        }
        Ok(taken)
    }

    fn replace_ids(&self, ids: &[IdRange]) -> rusqlite::Result<()> {
        self.transaction.prepare_cached(sql::DELETE_SEEN_IDS)?.execute([self.of])?;
        let mut insert = self.transaction.prepare_cached(sql::INSERT_SEEN_IDS)?;
        for IdRange { counter, first, last, first_block, last_block } in ids.iter().copied() {
            insert.execute(params![
                self.of,
                counter.tag(),
                Number(first),
                Number(last),
                Number(first_block),
                Number(last_block),
            ])?;
        }
        Ok(())
    }

    fn replace_unproven(&self, unproven: &[UnprovenRange]) -> rusqlite::Result<()> {
        let contract = self.of;
        self.transaction.prepare_cached(sql::FORGET_UNPROVEN)?.execute([contract])?;
        let mut put = self.transaction.prepare_cached(sql::PUT_UNPROVEN)?;
        for UnprovenRange { first, last, hash, since_ms } in unproven {
            put.execute(params![
                contract,
                Number(*first),
                Number(*last),
                hash.map(Fixed),
                Number(*since_ms),
            ])?;
        }
        Ok(())
    }

    /// Moves a known request to the block it is in now. Returns whether it was settled and is open again.
    fn move_request(&self, arrival: &Arrival, now_ms: u64) -> rusqlite::Result<bool> {
        let Arrival { key, event, seen, .. } = arrival;
        let known = self
            .transaction
            .prepare_cached(sql::SELECT_PLACE)?
            .query_row(
                params![
                    self.origin(key.source),
                    Fixed(key.id),
                    Fixed(key.content),
                    topics_to_blob(&event.topics),
                    event.data.as_ref(),
                ],
                |row| {
                    let (seq, stored) = read_stored(row)?;
                    let block: Fixed<B256> = row.get(sql::PROGRESS_COLUMNS + 1)?;
                    let is_same: bool = row.get(sql::PROGRESS_COLUMNS + 2)?;
                    Ok((seq, stored, block.0, is_same))
                },
            )
            .optional()?;
        let Some((seq, stored, block, is_same)) = known else { return Ok(false) };
        let (elsewhere, is_unasked) = (block != event.block.hash, stored.is_unasked());
        let id_taken = stored.is_orphan() && self.is_id_taken(*key)?;
        let again = Resighting { seen: *seen, elsewhere, id_taken };
        let open = match stored.seen_again(again, now_ms) {
            SeenAgain::Unchanged => {
                // A node shows it with other ciphertexts than the one before. Whoever is right: nothing is
                // asked before two nodes agree, and when they do, it must be stored as they show it.
                let replaces = !is_same && abi::names_materials(event);
                if replaces && is_unasked && !elsewhere && *seen != Sighting::Stale {
                    self.move_event(seq, event)?;
                }
                return Ok(false);
            }
            SeenAgain::Moved => None,
            SeenAgain::Reopened(open) => Some(open),
        };
        self.move_event(seq, event)?;
        if let Some(open) = &open {
            self.write_reopened(seq, open)?;
        }
        Ok(open.is_some())
    }

    /// Whether the chain took an answer to another request of this id.
    fn is_id_taken(&self, key: RequestKey) -> rusqlite::Result<bool> {
        let mut select = self.transaction.prepare_cached(sql::SELECT_ACCEPTED_NAMESAKE)?;
        select.exists(params![self.origin(key.source), Fixed(key.id), Fixed(key.content)])
    }

    fn move_event(&self, seq: i64, event: &Event) -> rusqlite::Result<()> {
        self.transaction.prepare_cached(sql::MOVE_EVENT)?.execute(params![
            seq,
            Number(event.block.number),
            Fixed(event.block.hash),
            Fixed(event.transaction),
            Number(event.log_index),
            topics_to_blob(&event.topics),
            event.data.as_ref(),
        ])?;
        Ok(())
    }

    /// Returns whether it was new.
    fn insert_request(&self, arrival: &Arrival, now_ms: u64) -> rusqlite::Result<bool> {
        let Arrival { key, kind, event, .. } = arrival;
        let inserted = self.transaction.prepare_cached(sql::INSERT_REQUEST)?.execute(params![
            self.origin(key.source),
            Fixed(key.id),
            Fixed(key.content),
            kind.as_str(),
            Number(now_ms),
        ])?;
        if inserted == 0 {
            return Ok(false);
        }
        self.transaction.prepare_cached(sql::INSERT_EVENT)?.execute(params![
            self.transaction.last_insert_rowid(),
            Number(event.block.number),
            Fixed(event.block.hash),
            Fixed(event.transaction),
            Number(event.log_index),
            topics_to_blob(&event.topics),
            event.data.as_ref(),
        ])?;
        Ok(true)
    }

    fn note(&self, key: RequestKey, step: &Step, now_ms: u64) -> rusqlite::Result<CommandResult> {
        let stored = self
            .transaction
            .prepare_cached(sql::SELECT_PROGRESS)?
            .query_row(params![self.origin(key.source), Fixed(key.id), Fixed(key.content)], |row| {
                let (seq, stored) = read_stored(row)?;
                let kind: String = row.get(sql::PROGRESS_COLUMNS + 1)?;
                Ok((seq, stored, kind))
            })
            .optional()?;
        let Some((seq, stored, kind)) = stored else {
            tracing::warn!(request = %key, step = step_name(step), "step of a request the journal does not know");
            return Ok(CommandResult::Nothing);
        };
        match stored.step(step, now_ms) {
            Err(illegal) => {
                let (step, code) = (step_name(step), illegal.code());
                tracing::error!(request = %key, step, code, "an illegal step is not stored");
                Ok(CommandResult::Nothing)
            }
            Ok(StoredRequest::Open(after)) => {
                if let Step::Answered(answer) = step {
                    let SignedResult { payload, signature, extra_data } = answer.signed();
                    self.transaction.prepare_cached(sql::PUT_ANSWER)?.execute(params![
                        seq,
                        payload.as_ref(),
                        signature.as_ref(),
                        extra_data.as_ref(),
                    ])?;
                }
                if let Step::AccessChecked(AccessNote { bound_context, record }) = step {
                    self.transaction.prepare_cached(sql::PUT_ACCESS)?.execute(params![
                        seq,
                        bound_context.map(Fixed),
                        record,
                    ])?;
                    return Ok(CommandResult::Nothing);
                }
                self.advance(seq, &after).map(|()| CommandResult::Nothing)
            }
            Ok(StoredRequest::Ended(end)) => {
                self.settle(seq, &end)?;
                let after = end.duration();
                Ok(Kind::from_name(&kind).map_or(CommandResult::Nothing, |kind| {
                    CommandResult::Settled(Settlement { kind, outcome: end.outcome, after })
                }))
            }
        }
    }

    fn advance(&self, seq: i64, open: &OpenProgress) -> rusqlite::Result<()> {
        let after = open.progress();
        let held = after.held.as_ref();
        self.transaction.prepare_cached(sql::ADVANCE)?.execute(params![
            seq,
            after.stage.as_str(),
            held.map(|held| held.hold.reason.as_str()),
            held.map(|held| held.hold.detail.as_str()),
            held.map(|held| Number(held.since_ms)),
            after.attempts,
            after.last_error,
            after.transaction.map(Fixed),
            after.asked_at_ms.map(Number),
            after.answered_at_ms.map(Number),
            after.submitted_at_ms.map(Number),
            Number(after.worked_ms),
            after.asked_core.as_ref().map(CoreAddress::as_str),
        ])?;
        Ok(())
    }

    fn settle(&self, seq: i64, end: &EndedProgress) -> rusqlite::Result<()> {
        let outcome = OutcomeColumns::from(&end.outcome);
        self.transaction.prepare_cached(sql::SETTLE)?.execute(params![
            seq,
            Number(end.at_ms),
            outcome.name,
            outcome.refusal,
            outcome.detail,
            outcome.transaction.map(Fixed),
            outcome.block.map(|block| Number(block.number)),
            outcome.block.map(|block| Fixed(block.hash)),
        ])?;
        Ok(())
    }

    pub(super) fn note_generation(
        &self,
        generation: Generation,
        block: u64,
    ) -> rusqlite::Result<()> {
        let noted = params![self.of, generation.name(), Number(block)];
        self.transaction.prepare_cached(sql::PUT_GENERATION)?.execute(noted)?;
        Ok(())
    }

    pub(super) fn sign(&self, signed: &SignedTransaction, now_ms: u64) -> rusqlite::Result<()> {
        self.transaction.prepare_cached(sql::INSERT_TRANSACTION)?.execute(params![
            Number(signed.nonce),
            Fixed(signed.hash),
            signed.request.map_or(self.of, |key| self.origin(key.source)),
            signed.request.map(|key| Fixed(key.id)),
            signed.request.map(|key| Fixed(key.content)),
            Number(now_ms),
            signed.raw.as_ref(),
            Number(self.of.source.chain_id),
        ])?;
        Ok(())
    }

    fn mine(&self, id: TransactionId, block: BlockRef, now_ms: u64) -> rusqlite::Result<()> {
        let known = self.transaction.prepare_cached(sql::MINE_TRANSACTION)?.execute(params![
            Number(id.nonce),
            Fixed(id.hash),
            Number(now_ms),
            Number(block.number),
            Fixed(block.hash),
        ])?;
        if known == 0 {
            tracing::warn!(transaction = %id.hash, "mined transaction the journal does not know");
        }
        Ok(())
    }

    /// Marks transactions as not mined, because their blocks left the chain, and opens the requests again
    /// that they had answered. Returns all transactions recorded with their nonces.
    fn reopen(
        &self,
        ids: &[TransactionId],
        now_ms: u64,
    ) -> rusqlite::Result<Vec<SignedTransaction>> {
        let mut open = BTreeMap::new();
        for id in ids {
            let (nonce, hash) = (Number(id.nonce), Fixed(id.hash));
            let answered = self
                .transaction
                .prepare_cached(sql::SELECT_ANSWERED_BY)?
                .query_row(params![nonce, hash], read_stored)
                .optional()?;
            self.reopen_stored(answered, Reopening::AnswerDropped, now_ms)?;
            self.transaction
                .prepare_cached(sql::REOPEN_TRANSACTION)?
                .execute(params![nonce, hash])?;
            let recorded: Vec<SignedTransaction> = self
                .transaction
                .prepare_cached(sql::RECORDED_WITH)?
                .query_map(params![nonce, hash], |row| read_transaction(row, self.of.home))?
                .collect::<rusqlite::Result<_>>()?;
            if let Some(first) = recorded.first() {
                open.insert(first.nonce, recorded);
            }
        }
        Ok(open.into_values().flatten().collect())
    }

    /// Opens a request again. Returns whether it had ended without an answer; any other request stays as it
    /// is.
    fn open_again(&self, key: RequestKey, now_ms: u64) -> rusqlite::Result<bool> {
        let stored = self
            .transaction
            .prepare_cached(sql::SELECT_PROGRESS)?
            .query_row(
                params![self.origin(key.source), Fixed(key.id), Fixed(key.content)],
                read_stored,
            )
            .optional()?;
        self.reopen_stored(stored, Reopening::RetryAsked, now_ms)
    }

    /// Returns whether the request exists and this opened it again.
    fn reopen_stored(
        &self,
        stored: Option<(i64, StoredRequest)>,
        by: Reopening,
        now_ms: u64,
    ) -> rusqlite::Result<bool> {
        let Some((seq, stored)) = stored else { return Ok(false) };
        let Ok(open) = stored.open_again(by, now_ms) else { return Ok(false) };
        self.write_reopened(seq, &open).map(|()| true)
    }

    /// Stores a request that had ended and is open again.
    fn write_reopened(&self, seq: i64, open: &OpenProgress) -> rusqlite::Result<()> {
        self.transaction.prepare_cached(sql::REOPEN)?.execute([seq])?;
        self.advance(seq, open)
    }

    fn prune(&self, settled_before_ms: u64, final_block: u64) -> rusqlite::Result<CommandResult> {
        let (before, last) = (Number(settled_before_ms), Number(final_block));
        let (chain, of_chain) = (Number(self.of.source.chain_id), self.of.chain());
        let old: Vec<i64> = self
            .transaction
            .prepare_cached(sql::OLD_REQUESTS)?
            .query_map(params![before, last, PRUNE_CHUNK, of_chain], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for statement in sql::DELETE_BESIDE.into_iter().chain(sql::DELETE_REQUEST) {
            let mut statement = self.transaction.prepare_cached(statement)?;
            for seq in &old {
                statement.execute([seq])?;
            }
        }
        let skipped = self
            .transaction
            .prepare_cached(sql::DELETE_OLD_SKIPPED)?
            .execute(params![before, last, PRUNE_CHUNK, of_chain])?;
        let highest: Option<Number> =
            self.transaction.query_row(sql::HIGHEST_NONCE, [chain], |row| row.get(0))?;
        let highest_final: Option<Number> = self
            .transaction
            .query_row(sql::HIGHEST_FINAL_NONCE, [last, chain], |row| row.get(0))
            .optional()?;
        let displaced: Vec<i64> = self
            .transaction
            .prepare_cached(sql::OLD_TRANSACTIONS)?
            .query_map(
                params![
                    before,
                    last,
                    highest.unwrap_or(Number(0)),
                    highest_final.unwrap_or(Number(0)),
                    PRUNE_CHUNK,
                    chain
                ],
                |row| row.get(0),
            )?
            .collect::<rusqlite::Result<_>>()?;
        let mut statement = self.transaction.prepare_cached(sql::DELETE_TRANSACTION)?;
        for seq in &displaced {
            statement.execute([seq])?;
        }
        let most = old.len().max(displaced.len()).max(skipped);
        Ok(CommandResult::Pruned {
            chunk: Pruned {
                requests: old.len() as u64,
                transactions: displaced.len() as u64,
                skipped_logs: skipped as u64,
            },
            is_full: most as u64 >= u64::from(PRUNE_CHUNK),
        })
    }
}

/// Reads a request from its progress and the `seq` that follows.
fn read_stored(row: &Row<'_>) -> rusqlite::Result<(i64, StoredRequest)> {
    Ok((row.get(sql::PROGRESS_COLUMNS)?, read_progress(row)?.into()))
}
