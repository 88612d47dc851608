//! What is fetched for each handle of a request, and from where: as the event's materials say, or as the
//! coprocessors attest.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt};

use super::{
    BucketRegistry, Ciphertexts,
    attesters::{Agreed, Attesters},
    bucket::Bucket,
    error::{BucketFailure, FetchError},
    object_key::Spelling,
    spellings::LearnedSpellings,
};
use crate::{
    contracts::abi::CiphertextSource,
    domain::{B256, CiphertextFormat, Material, Request, U256},
};

/// Handles about which coprocessors are asked at the same time. Each call also waits for its turn at its
/// host.
const HANDLES_ATTESTED_AT_ONCE: usize = 64;

/// One ciphertext to fetch.
pub(super) struct Target {
    pub handle: B256,
    pub digest: B256,
    pub names: Names,
    /// As the coprocessors agreed.
    pub format: Option<CiphertextFormat>,
    /// Each may have it.
    pub buckets: Vec<Arc<Bucket>>,
    /// Coprocessors without a usable bucket.
    pub failures: Vec<BucketFailure>,
}

/// The names under which a bucket may keep a ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    Only(Spelling),
    /// Those of v0.14, in the order that the bucket has taught.
    Learned,
}

impl Names {
    /// The names to try in this bucket, in this order.
    pub fn in_bucket(self, bucket: &Bucket, learned: &LearnedSpellings) -> Vec<Spelling> {
        match self {
            Self::Only(spelling) => vec![spelling],
            Self::Learned => learned.order(bucket).to_vec(),
        }
    }
}

/// All ciphertexts of a request, and the key that encrypted them.
pub(super) struct Targets {
    pub key_id: U256,
    /// In the order of the handles.
    pub ciphertexts: Vec<Target>,
}

impl<B: BucketRegistry> Ciphertexts<B> {
    /// Finds out what to fetch for this request.
    pub(super) async fn targets(
        &self,
        request: &Request,
        source: CiphertextSource,
    ) -> Result<Targets, FetchError> {
        let names = match source {
            CiphertextSource::Digest => Names::Only(Spelling::Digest),
            CiphertextSource::HandleThenDigest => Names::Learned,
            CiphertextSource::Attestation => return self.attested_targets(request.handles()).await,
        };
        let materials = request.materials().ok_or(FetchError::NoMaterials)?;
        let key_id = common_key(materials.iter().map(|material| material.key_id))
            .map_err(|[first, other]| FetchError::DifferentKeys { first, other })?;
        let places = self.look_up_buckets(materials).await;
        let target = |material: &Material| {
            let (buckets, failures) = self.candidates(material, &places);
            let &Material { handle, digest, .. } = material;
            Target { handle, digest, names, format: None, buckets, failures }
        };
        Ok(Targets { key_id, ciphertexts: materials.iter().map(target).collect() })
    }

    async fn attested_targets(&self, handles: &[B256]) -> Result<Targets, FetchError> {
        let attesters = &Attesters::find(&*self.buckets, &self.calls).await?;
        // Collected first: otherwise the stream would have to name the closure's lifetime.
        let asking: Vec<_> = handles.iter().map(|handle| attesters.agree(*handle)).collect();
        let mut asking = stream::iter(asking).buffered(HANDLES_ATTESTED_AT_ONCE);
        let mut agreed: Vec<Agreed> = Vec::with_capacity(handles.len());
        while let Some(about_one) = asking.next().await {
            self.calls.metrics.attestation_consensus(about_one.is_ok());
            agreed.push(about_one?);
        }
        let key_id = common_key(agreed.iter().map(|agreed| agreed.material.key_id))
            .map_err(|[first, other]| FetchError::AttestedForDifferentKeys { first, other })?;
        let target = |(handle, Agreed { material, buckets }): (&B256, Agreed)| Target {
            handle: *handle,
            digest: material.sns_ciphertext_digest,
            names: Names::Only(Spelling::PrefixedHandle),
            format: Some(material.serialisation.format()),
            buckets,
            failures: Vec::new(),
        };
        Ok(Targets { key_id, ciphertexts: handles.iter().zip(agreed).map(target).collect() })
    }
}

/// The key id that all have. `Err`: two that differ. Zero for a request without handles, which is refused
/// before anything is fetched.
fn common_key(mut ids: impl Iterator<Item = U256>) -> Result<U256, [U256; 2]> {
    let Some(first) = ids.next() else { return Ok(U256::ZERO) };
    match ids.find(|id| *id != first) {
        None => Ok(first),
        Some(other) => Err([first, other]),
    }
}
