//! How the chain shows answers that were given: response events, and the calldata of responses
//! (gateway-abi 4.1, 4.2). In some versions events do not name the answering wallet, or there is no
//! event per answer.

use alloy::sol;
use alloy::sol_types::SolEvent;

use super::{DECODER, g7, g8, keys};
use crate::domain::{Address, B256, Event, Kind, KindGroup, U256};

sol! {
    /// From v0.10.0 on, one per answer.
    event PublicDecryptionResponseCall(
        uint256 indexed decryptionId,
        bytes decryptedResult,
        bytes signature,
        address kmsTxSender,
        bytes extraData
    );
    /// From v0.9.0 on, one per answer. Only its transaction tells whose answer it is.
    event UserDecryptionResponse(
        uint256 indexed decryptionId,
        uint256 indexShare,
        bytes userDecryptedShare,
        bytes signature,
        bytes extraData
    );
}

/// `topic0` of the events that report a single answer and index its request.
pub const RESPONSE_TOPICS: [B256; 4] = [
    PublicDecryptionResponseCall::SIGNATURE_HASH,
    UserDecryptionResponse::SIGNATURE_HASH,
    keys::CONTEXT_CONFIRMATION_TOPIC,
    keys::EPOCH_CONFIRMATION_TOPIC,
];

/// Who gave the answer that an event of [`RESPONSE_TOPICS`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Responder {
    Named(Address),
    /// The sender of the event's transaction.
    TransactionSender,
}

/// The request id and the responder of a response event. `None`: another event, or data that does not
/// decode.
#[must_use]
pub fn parse_response_event(event: &Event) -> Option<(U256, Responder)> {
    let (topic0, id) = match *event.topics.as_slice() {
        [topic0, id] => (topic0, id),
        [keys::CONTEXT_CONFIRMATION_TOPIC, context, wallet] => {
            let wallet = Address::from_word(wallet);
            return Some((U256::from_be_bytes(context.0), Responder::Named(wallet)));
        }
        // It names the signer.
        [keys::EPOCH_CONFIRMATION_TOPIC, epoch, _] => {
            return Some((U256::from_be_bytes(epoch.0), Responder::TransactionSender));
        }
        _ => return None,
    };
    let responder = match topic0 {
        PublicDecryptionResponseCall::SIGNATURE_HASH => {
            let (_, _, sender, _) =
                PublicDecryptionResponseCall::abi_decode_data_with_config(&event.data, DECODER)
                    .ok()?;
            Responder::Named(sender)
        }
        UserDecryptionResponse::SIGNATURE_HASH => Responder::TransactionSender,
        _ => return None,
    };
    Some((U256::from_be_bytes(id.0), responder))
}

/// The request id in the calldata of a response. `None`: another function.
#[must_use]
pub fn response_calldata_id(calldata: &[u8]) -> Option<U256> {
    let (selector, arguments) = calldata.split_first_chunk::<4>()?;
    let id = arguments.first_chunk::<32>()?;
    let decryptions = g7::RESPONSE_SELECTORS.iter().chain(&g8::RESPONSE_SELECTORS);
    let mut known = decryptions.chain(&keys::RESPONSE_SELECTORS);
    known.any(|known| known == selector).then(|| U256::from_be_bytes(*id))
}

/// Returns whether the deployment emits an event for each answer to a request of this kind and id.
/// `version`: the present version text of the Decryption contract.
#[must_use]
pub fn has_answer_events(kind: Kind, id: U256, version: Option<&str>) -> bool {
    // Plain counters mean v0.8.1 or older, which emits only consensus events.
    if (id >> 248_usize).is_zero() {
        return false;
    }
    match kind.group() {
        KindGroup::UserDecryption => true,
        // The version numbers restarted at v0.9.0 and reached 0.3.0 again at v0.10.0.
        KindGroup::PublicDecryption => version
            .and_then(|text| super::deployment::version_numbers("Decryption", text))
            .is_some_and(|numbers| numbers >= (0, 3, 0)),
        // `KMSGeneration` indexes nothing.
        KindGroup::KeyOperation => kind.is_lifecycle(),
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{b256, hex};

    use super::*;
    use crate::chain::fake_chain::SOURCE;
    use crate::domain::{
        Answer, BlockRef, Bytes, EventShape, Operation, Request, RequestKey, SignedResult,
    };

    fn event(topics: Vec<B256>, data: Vec<u8>) -> Event {
        let block = BlockRef { number: 1, hash: B256::ZERO };
        Event { block, transaction: B256::ZERO, log_index: 0, topics, data: data.into() }
    }

    #[test]
    fn a13_response_events_name_who_answered_or_leave_it_to_their_transaction() {
        let topics = [
            b256!("4d7b1dba49e9e846215e1621f5737c81d8614c4f268494d8b787632c4e59f0e5"),
            b256!("7fcdfb5381917f554a717d0a5470a33f5a49ba6445f05ec43c74c0bc2cc608b2"),
            b256!("b79c48003695b6ebe555afa36fad071deeee75eb3718ad63de5621d35ba44b4f"),
            b256!("7eda6f85e23b7b91c019b0570d02b663606ef9d74594f7e01fcfbdb0f4e954d5"),
        ];
        assert_eq!(RESPONSE_TOPICS, topics);
        let wallet = Address::repeat_byte(7);
        let call = PublicDecryptionResponseCall {
            decryptionId: U256::from(9),
            decryptedResult: Bytes::from_static(&[1]),
            signature: Bytes::from_static(&[2]),
            kmsTxSender: wallet,
            extraData: Bytes::new(),
        };
        let log = call.encode_log_data();
        let read = parse_response_event(&event(log.topics().to_vec(), log.data.to_vec()));
        assert_eq!(read, Some((U256::from(9), Responder::Named(wallet))));
        let cut = parse_response_event(&event(log.topics().to_vec(), log.data[..40].to_vec()));
        assert_eq!(cut, None);
        let share = event(vec![topics[1], B256::with_last_byte(3)], vec![]);
        assert_eq!(
            parse_response_event(&share),
            Some((U256::from(3), Responder::TransactionSender))
        );
        let id = B256::with_last_byte(4);
        let confirmed = |topic| event(vec![topic, id, wallet.into_word()], vec![]);
        let of = |responder| Some((U256::from(4), responder));
        let named = parse_response_event(&confirmed(topics[2]));
        assert_eq!(named, of(Responder::Named(wallet)));
        let by_signer = parse_response_event(&confirmed(topics[3]));
        assert_eq!(by_signer, of(Responder::TransactionSender));
        assert_eq!(parse_response_event(&confirmed(topics[0])), None);
        assert_eq!(parse_response_event(&event(vec![topics[1]], vec![])), None);
        assert_eq!(parse_response_event(&event(vec![B256::ZERO, B256::ZERO], vec![])), None);
    }

    #[test]
    fn a13_calldata_of_a_response_names_its_request() {
        let answer = Answer::PublicDecryption(SignedResult {
            payload: Bytes::from_static(&[1; 40]),
            signature: Bytes::from_static(&[2; 65]),
            extra_data: Bytes::new(),
        });
        for shape in [EventShape::G7, EventShape::G8, EventShape::G9] {
            for id in [U256::from(5), U256::MAX] {
                let public =
                    crate::domain::PublicDecryption::of_materials(Vec::new(), Bytes::new());
                let request = Request {
                    key: RequestKey { source: SOURCE, id, content: B256::ZERO },
                    shape,
                    block: BlockRef { number: 1, hash: B256::ZERO },
                    transaction: B256::ZERO,
                    operation: Operation::PublicDecryption(public),
                };
                let calldata = super::super::response_call(&request, &answer);
                assert_eq!(response_calldata_id(&calldata), Some(id));
                assert_eq!(response_calldata_id(&calldata[..35]), None, "cut");
            }
        }
        for selector in [
            hex!("02fd1a64"),
            hex!("6f8913bc"),
            hex!("b9bfe0a8"),
            hex!("046f9eb3"),
            hex!("589adb0e"),
            hex!("4610ffe8"),
            hex!("62978787"),
        ] {
            assert_eq!(response_calldata_id(&[&selector[..], &[0; 32]].concat()), Some(U256::ZERO));
        }
        assert_eq!(response_calldata_id(&[0; 100]), None);
        assert_eq!(response_calldata_id(&[]), None);
    }

    #[test]
    fn a13_where_events_tell_nothing_is_known() {
        let tagged = (U256::ONE << 248_usize) | U256::ONE;
        for (kind, id, version, tells) in [
            (Kind::UserDecryption, tagged, None, true),
            (Kind::UserDecryption, U256::ONE, Some("Decryption v0.3.0"), false),
            (Kind::PublicDecryption, U256::ONE, Some("Decryption v0.3.0"), false),
            (Kind::PublicDecryption, tagged, Some("Decryption v0.2.0"), false),
            (Kind::PublicDecryption, tagged, Some("Decryption v0.3.0"), true),
            (Kind::PublicDecryption, tagged, None, false),
            (Kind::PublicDecryption, tagged, Some("nonsense"), false),
        ] {
            assert_eq!(has_answer_events(kind, id, version), tells, "{kind} {id:#x} {version:?}");
        }
    }
}
