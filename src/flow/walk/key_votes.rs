//! Key operations: what is compared before an answer is sent. It is a vote that cannot be taken back.

use alloy::hex;

use super::policy::{
    representation,
    setback::{Cause, Setback},
};
use crate::{
    chain::sender::TransactionSender,
    contracts::{abi, decryption::Votes},
    domain::{
        Answer, Bytes, Hold, HoldReason, KeyOperation, KeyRepresentation, Operation, Request,
        excerpt,
    },
    flow::{AnswerStages, Flow, RequestLedger, ciphertexts::BucketRegistry},
};

/// The longest text of a digest in a hold, in hex digits.
const LONGEST_DIGEST: usize = 130;

impl<P: TransactionSender, B: BucketRegistry, L: RequestLedger> Flow<P, B, L> {
    /// Holds an answer about another kind of key than the Core was told to make, or than the contracts know.
    async fn check_kind_made(
        &self,
        rooms: &AnswerStages<P>,
        request: &Request,
        answer: &Answer,
    ) -> Result<(), Setback> {
        let Some((keys, made)) = rooms.keys_of(request).zip(kind_made(request, answer)) else {
            return Ok(());
        };
        let mut told = None;
        if let Operation::Key(KeyOperation::Keygen { preparation, .. }) = &request.operation {
            let recorded = self.ledger.representation_of(*preparation).await;
            // A failing journal ends the instance elsewhere.
            told = recorded.map_err(|_| Setback::retry(Cause::Stopping))?;
        }
        let gateway = keys.gateway.borrow().answered().map(|known| known.generation);
        representation::answer(made, told, gateway).map_err(Setback::held)
    }

    /// Holds an answer that differs from what another node has answered, or that is not of what the chain asks for.
    pub(in crate::flow) async fn compare_votes(
        &self,
        rooms: &AnswerStages<P>,
        request: &Request,
        answer: &Answer,
    ) -> Result<(), Setback> {
        let Some(keys) = rooms.key_rooms_of(request) else { return Ok(()) };
        self.compare_material(request, answer).await?;
        let ours = abi::voted_on(request.kind(), &answer.signed().payload);
        if ours.is_empty() {
            // There is nothing in which a preparation or a context could differ.
            return Ok(());
        }
        self.check_kind_made(rooms, request, answer).await?;
        let votes = match keys.contract.votes_on(request).await.map_err(Setback::retry)? {
            Votes::All(votes) => votes,
            Votes::TooManyBlocks => {
                let detail = format!(
                    "the nodes of chain {} give too few blocks at a time to read what the other KMS nodes \
                     answered; use one that gives more",
                    request.key.source.chain_id
                );
                return Err(Setback::held(Hold::new(HoldReason::NoProgress, detail)));
            }
        };
        let Some(theirs) = votes.into_iter().map(|vote| vote.payload).find(|vote| *vote != ours)
        else {
            return Ok(());
        };
        let detail = format!(
            "another KMS node has answered {}; this node's KMS Core has {}: a vote cannot be taken back, so \
             nothing is sent",
            describe(&theirs),
            describe(&ours)
        );
        Err(Setback::held(Hold::new(HoldReason::ResultDiffers, detail)))
    }
}

/// The kind of the keys that an answer on Ethereum is about. `None`: it is about none.
pub(super) fn kind_made(request: &Request, answer: &Answer) -> Option<KeyRepresentation> {
    let Operation::Key(operation) = &request.operation else { return None };
    let payload = &answer.signed().payload;
    let digests = if let KeyOperation::Keygen { extra_data: Some(_), .. } = operation {
        abi::key_digests(payload)?
    } else if let KeyOperation::NewKmsEpoch { .. } = operation {
        abi::epoch_result(payload)?.keys.into_iter().flat_map(|key| key.digests).collect()
    } else {
        return None;
    };
    Some(KeyRepresentation::of_types(digests.into_iter().map(|(kind, _)| kind)))
}

/// Digests as operators compare them: of keys by their type, or of a CRS.
fn describe(payload: &Bytes) -> String {
    let digest = |digest: &[u8]| excerpt(LONGEST_DIGEST, hex::encode_prefixed(digest));
    match abi::key_digests(payload) {
        Some(digests) => {
            let named = digests
                .iter()
                .map(|(kind, bytes)| format!("{}: {}", key_type(*kind), digest(bytes)));
            named.collect::<Vec<_>>().join(", ")
        }
        None => digest(payload),
    }
}

fn key_type(number: u8) -> String {
    match number {
        0 => "server key".to_owned(),
        1 => "public key".to_owned(),
        3 => "compressed key set".to_owned(),
        other => format!("key of type {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_in_digests_that_people_compare() {
        let keys = abi::key_digests_payload([
            (0, Bytes::from_static(&[0xab, 0xcd])),
            (1, Bytes::from_static(&[1])),
            (3, Bytes::from_static(&[2])),
            (4, Bytes::from(vec![7; 200])),
        ]);
        let told = describe(&keys);
        assert!(told.starts_with(
            "server key: 0xabcd, public key: 0x01, compressed key set: 0x02, key of type 4: 0x0707"
        ));
        assert!(told.len() < 280, "{told}");
        assert_eq!(describe(&Bytes::from_static(&[0xee])), "0xee");
    }
}
