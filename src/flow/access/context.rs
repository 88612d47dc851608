//! The KMS context and epoch that a request is to be answered in (protocol: gateway-abi 11). Pure.
//!
//! ```text
//! extraData                     up to G10   G12, G13            from G14 on
//! empty, or exactly 00          opaque      the current one     the current one
//! 00 with more bytes            opaque      refused             the current one
//! 01, context                   opaque      that context        that context
//! 02, context, epoch            opaque      refused             that context and epoch
//! shorter, or another version   opaque      refused             refused
//! ```
//!
//! Bytes after context and epoch are ignored, as by the contract. A context that is not named is the one
//! that was current in the request's block; from G13 on the contract compares it with the one that is
//! current when the answer comes.

use crate::{
    contracts::abi::{ContextRule, Deployment},
    domain::{AccessRefusal, AccessRefusalReason, U256},
};

/// What a request's extraData says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContextClaim {
    /// The deployment has no contexts.
    Opaque,
    /// None is named.
    Current,
    Context(U256),
    Epoch {
        context: U256,
        epoch: U256,
    },
}

/// Reads extraData as this deployment does.
pub(super) fn claim(
    extra_data: &[u8],
    deployment: &Deployment,
) -> Result<ContextClaim, AccessRefusal> {
    if deployment.context_rule() == ContextRule::Opaque {
        return Ok(ContextClaim::Opaque);
    }
    let word = |from: usize| {
        let bytes =
            extra_data.get(from..from + 32).ok_or_else(|| invalid(extra_data, deployment))?;
        Ok(U256::from_be_slice(bytes))
    };
    match extra_data {
        [] | [0] => Ok(ContextClaim::Current),
        [0, ..] if deployment.forwards_long_zero_extra_data() => Ok(ContextClaim::Current),
        [1, ..] => Ok(ContextClaim::Context(word(1)?)),
        [2, ..] if deployment.context_rule() == ContextRule::ProtocolConfig => {
            Ok(ContextClaim::Epoch { context: word(1)?, epoch: word(33)? })
        }
        _ => Err(invalid(extra_data, deployment)),
    }
}

/// Reads the extraData of a key operation, which the contract itself writes (gateway-abi 6.3): the context, and
/// from G14 on the epoch, that were current when it was asked for.
pub(super) fn key_claim(extra_data: &[u8]) -> Result<(U256, Option<U256>), AccessRefusal> {
    let word = |from: usize| U256::from_be_slice(&extra_data[from..from + 32]);
    match (extra_data.first(), extra_data.len()) {
        (Some(1), 33..) => Ok((word(1), None)),
        (Some(2), 65) => Ok((word(1), Some(word(33)))),
        (version, length) => {
            let version = version.copied().unwrap_or_default();
            let detail = format!(
                "contracts that ask for key operations write no extraData of version {version} and \
                 {length} bytes"
            );
            Err(AccessRefusal::new(AccessRefusalReason::ExtraDataInvalid, detail))
        }
    }
}

fn invalid(extra_data: &[u8], deployment: &Deployment) -> AccessRefusal {
    let version = extra_data.first().copied().unwrap_or_default();
    let detail = format!(
        "contracts of {} take no extraData of version {version} and {} bytes",
        deployment.generation,
        extra_data.len()
    );
    AccessRefusal::new(AccessRefusalReason::ExtraDataInvalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contracts::abi::Generation;

    fn extra_data(version: u8, words: &[u64], rest: &[u8]) -> Vec<u8> {
        let words = words.iter().flat_map(|word| U256::from(*word).to_be_bytes::<32>());
        std::iter::once(version).chain(words).chain(rest.iter().copied()).collect()
    }

    #[test]
    fn a_key_operation_names_its_context() {
        let (context, epoch) = (U256::from(7), U256::from(8));
        for (bytes, expected) in [
            (extra_data(1, &[7], &[]), Some((context, None))),
            (extra_data(1, &[7], &[9]), Some((context, None))),
            (extra_data(2, &[7, 8], &[]), Some((context, Some(epoch)))),
            (extra_data(2, &[7, 8], &[9]), None),
            (extra_data(2, &[7], &[]), None),
            (extra_data(1, &[7], &[])[..32].to_vec(), None),
            (extra_data(3, &[7, 8], &[]), None),
            (vec![0], None),
            (vec![], None),
        ] {
            assert_eq!(key_claim(&bytes).ok(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn extra_data_is_read_as_the_deployment_reads_it() {
        use Generation::{G12, G13, G14, Head, UpToG10};
        let context = ContextClaim::Context(U256::from(7));
        let epoch = ContextClaim::Epoch { context: U256::from(7), epoch: U256::from(8) };
        let (old, new) = (&[G12, G13][..], &[G14, Head][..]);
        let every = &[G12, G13, G14, Head][..];
        let rows: Vec<(Vec<u8>, &[Generation], Option<ContextClaim>)> = vec![
            (vec![], every, Some(ContextClaim::Current)),
            (vec![0], every, Some(ContextClaim::Current)),
            (vec![0, 0], old, None),
            (vec![0, 7], new, Some(ContextClaim::Current)),
            (extra_data(1, &[7], &[]), every, Some(context)),
            (extra_data(1, &[7], &[9]), every, Some(context)),
            (extra_data(1, &[7], &[])[..32].to_vec(), every, None),
            (vec![1], every, None),
            (extra_data(2, &[7, 8], &[]), old, None),
            (extra_data(2, &[7, 8], &[]), new, Some(epoch)),
            (extra_data(2, &[7, 8], &[9]), new, Some(epoch)),
            (extra_data(2, &[7, 8], &[])[..64].to_vec(), new, None),
            (extra_data(2, &[7], &[]), new, None),
            (extra_data(3, &[7, 8], &[]), every, None),
            (vec![255], every, None),
        ];
        for (bytes, generations, expected) in rows {
            for generation in generations.iter().copied() {
                let deployment =
                    Deployment { generation, version: "x".to_owned().into(), hybrid: false };
                let read = claim(&bytes, &deployment);
                match expected {
                    Some(expected) => assert_eq!(read, Ok(expected), "{generation} {bytes:?}"),
                    None => assert_eq!(
                        read.map_err(|why| why.reason),
                        Err(AccessRefusalReason::ExtraDataInvalid),
                        "{generation} {bytes:?}"
                    ),
                }
                let opaque = Deployment { generation: UpToG10, ..deployment };
                assert_eq!(claim(&bytes, &opaque), Ok(ContextClaim::Opaque));
            }
        }
    }
}
