//! What was asked of whom, and what came back: the explanation of a check, in bounded text.

use super::decision::Verdict;
use crate::{
    contracts::acl::{AclAnswer, AclQuestion},
    domain::{Address, BlockRef, excerpt},
};

/// Checks of one chain that are listed: those that deny come first.
const MOST_CHECKS: usize = 24;
/// Characters of a record.
const LONGEST_RECORD: usize = 8_000;

/// What one chain was asked.
#[derive(Clone, Debug)]
pub(super) struct ChainRecord<'c> {
    pub chain_id: u64,
    pub acl: Address,
    /// The block that was asked, and its time in unix seconds. `None`: every grant was known.
    pub at: Option<(BlockRef, u64)>,
    /// Hosts.
    pub hosts: &'c [String],
    pub questions: &'c [AclQuestion],
    pub answers: &'c [AclAnswer],
    /// Which answers are grants known from before.
    pub known: &'c [bool],
    pub verdict: &'c Verdict,
}

/// The record of one check: a few lines per chain, stored with the request and shown by
/// `requests show`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessRecord(String);

impl AccessRecord {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A line about something else than a chain's ACL.
    pub(super) fn line(&mut self, text: &str) {
        let line = excerpt(500, text);
        if self.0.len() + line.len() < LONGEST_RECORD {
            if !self.0.is_empty() {
                self.0.push('\n');
            }
            self.0.push_str(&line);
        }
    }

    /// The record of a part.
    pub(super) fn append(&mut self, other: &Self) {
        for line in other.0.lines() {
            self.line(line);
        }
    }

    pub(super) fn chain(&mut self, chain: &ChainRecord<'_>) {
        let ChainRecord { chain_id, acl, at, hosts, questions, answers, known, verdict } = chain;
        let block = match at {
            Some((block, time)) => format!(
                "block {} ({}, time {time}) of {}",
                block.number,
                block.hash,
                hosts.join(" and ")
            ),
            None => "known since a finalized block".to_owned(),
        };
        self.line(&format!("chain {chain_id}, {block}: {}", verdict.text()));
        let mut order: Vec<usize> = (0..questions.len()).collect();
        // Those that deny, as far as one answer tells, in their order.
        order.sort_by_key(|index| {
            !matches!(answers.get(*index), Some(AclAnswer::No | AclAnswer::Reverted) | None)
        });
        for index in order.iter().take(MOST_CHECKS) {
            let Some(question) = questions.get(*index) else { continue };
            let answer = match answers.get(*index) {
                Some(_) if known.get(*index) == Some(&true) => "yes (known)".to_owned(),
                Some(answer) => answer_text(answer),
                None => "no answer".to_owned(),
            };
            self.line(&format!("  {} = {answer}", call_text(*acl, question)));
        }
        if questions.len() > MOST_CHECKS {
            self.line(&format!("  and {} more", questions.len() - MOST_CHECKS));
        }
    }
}

impl Verdict {
    /// In one or two words.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Early { .. } => "early",
            Self::Denied(_) => "denied",
            Self::Refused(_) => "refused",
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Granted | Self::Denied(_) => self.as_str().to_owned(),
            Self::Early { now, start } => format!("not valid before {start}, and it is {now}"),
            Self::Refused(why) => format!("refused, {why}"),
        }
    }
}

/// The call that asks a question: contract, function and arguments.
pub(super) fn call_text(acl: Address, question: &AclQuestion) -> String {
    match question {
        AclQuestion::AllowedForDecryption { handle } => {
            format!("{acl}.isAllowedForDecryption({handle})")
        }
        AclQuestion::Allowed { handle, account } => {
            format!("{acl}.isAllowed({handle}, {account})")
        }
        AclQuestion::Delegated { delegator, delegate, contract, handle } => format!(
            "{acl}.isHandleDelegatedForUserDecryption({delegator}, {delegate}, {contract}, {handle})"
        ),
        AclQuestion::InvalidatedBefore { account } => {
            format!("{acl}.decryptionSignatureInvalidatedBefore({account})")
        }
        AclQuestion::ValidSignature { account, digest, signature } => {
            format!("{account}.isValidSignature({digest}, {} bytes)", signature.len())
        }
        AclQuestion::CodeSize { account } => format!("code at {account}"),
    }
}

pub(super) fn answer_text(answer: &AclAnswer) -> String {
    match answer {
        AclAnswer::Yes => "yes".to_owned(),
        AclAnswer::No => "no".to_owned(),
        AclAnswer::Time(time) => time.to_string(),
        AclAnswer::Reverted => "reverted".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::B256;

    fn record(answers: &[AclAnswer], known: &[bool], verdict: &Verdict) -> String {
        let questions: Vec<_> = (0..answers.len())
            .map(|index| AclQuestion::AllowedForDecryption {
                handle: B256::with_last_byte(u8::try_from(index).unwrap_or(u8::MAX)),
            })
            .collect();
        let hosts = ["node:8545".to_owned()];
        let mut record = AccessRecord::default();
        record.chain(&ChainRecord {
            chain_id: 5,
            acl: Address::repeat_byte(0xac),
            at: Some((BlockRef { number: 77, hash: B256::ZERO }, 1_000)),
            hosts: &hosts,
            questions: &questions,
            answers,
            known,
            verdict,
        });
        record.as_str().to_owned()
    }

    #[test]
    fn a_record_says_what_was_asked_of_whom() {
        let answers = [AclAnswer::Yes, AclAnswer::No, AclAnswer::Yes];
        let told = record(&answers, &[true, false, false], &Verdict::Denied(Some(1)));
        let lines: Vec<_> = told.lines().collect();
        assert!(lines[0].starts_with("chain 5, block 77 (0x"), "{told}");
        assert!(lines[0].ends_with(", time 1000) of node:8545: denied"), "{told}");
        let call = format!("  {}.isAllowedForDecryption(0x", Address::repeat_byte(0xac));
        assert!(
            lines[1].starts_with(&call) && lines[1].ends_with("01) = no"),
            "what denies is first"
        );
        assert!(lines[2].ends_with("00) = yes (known)"), "{told}");
        assert!(lines[3].ends_with("02) = yes"), "{told}");
    }

    #[test]
    fn a_record_is_bounded_and_what_denies_is_in_it() {
        let mut answers = vec![AclAnswer::Yes; 5_000];
        answers[200] = AclAnswer::Reverted;
        let told = record(&answers, &[], &Verdict::Denied(Some(200)));
        assert!(told.len() <= LONGEST_RECORD && told.contains("= reverted"), "{told}");
        assert!(told.ends_with("and 4976 more"), "{told}");
        let mut record = AccessRecord::default();
        for _ in 0..1_000 {
            record.line(&"x".repeat(1_000));
        }
        assert!(record.as_str().len() <= LONGEST_RECORD);
    }
}
