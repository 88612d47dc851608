//! The wallet's transactions.

use rusqlite::{Result, params};

use super::{Rows, hash, maybe_number, number, read_transaction};
use crate::{
    chain::lane::{MinedTransaction, SignedTransaction},
    domain::{BlockRef, RequestKey},
    journal::{
        JournaledTransaction,
        sqlite::{
            columns::{Fixed, Number, block_from_columns},
            statements as sql,
        },
    },
};

impl Rows<'_> {
    pub fn open_transactions(&self) -> Result<Vec<SignedTransaction>> {
        self.many(sql::OPEN_TRANSACTIONS, [self.chain()], self.transaction())
    }

    pub fn stranded_transactions(&self) -> Result<Vec<SignedTransaction>> {
        self.many(sql::STRANDED_TRANSACTIONS, [self.chain()], self.transaction())
    }

    pub fn unsettled_transactions(&self) -> Result<Vec<SignedTransaction>> {
        self.many(sql::UNSETTLED_TRANSACTIONS, [self.of], self.transaction())
    }

    pub fn unconfirmed_transactions(&self, nonces: u64) -> Result<Vec<SignedTransaction>> {
        let with = [Number(nonces), self.chain()];
        self.many(sql::UNCONFIRMED_TRANSACTIONS, with, self.transaction())
    }

    pub fn recently_mined(&self, nonces: u64) -> Result<Vec<MinedTransaction>> {
        self.many(sql::RECENTLY_MINED, [Number(nonces), self.chain()], |row| {
            let block = BlockRef { number: number(row, 2)?, hash: hash(row, 3)? };
            Ok(MinedTransaction { nonce: number(row, 0)?, hash: hash(row, 1)?, block })
        })
    }

    pub fn transactions_of(&self, key: RequestKey) -> Result<Vec<JournaledTransaction>> {
        let with = params![self.of, Fixed(key.id), Fixed(key.content)];
        self.many(sql::TRANSACTIONS_OF, with, |row| {
            Ok(JournaledTransaction {
                transaction: read_transaction(row, self.of.home)?,
                mined: block_from_columns(row.get(5)?, row.get(6)?),
                signed_at_ms: number(row, 7)?,
                given_up: row.get(8)?,
            })
        })
    }

    pub fn highest_nonce(&self) -> Result<Option<u64>> {
        let highest = self.one(sql::HIGHEST_NONCE, [self.chain()], |row| maybe_number(row, 0))?;
        Ok(highest.flatten())
    }
}
