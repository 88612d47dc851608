//! Where the GatewayConfig contract names the buckets of coprocessors: the port of the ciphertexts.

use std::sync::Arc;

use crate::{
    chain::reader::ChainReader,
    contracts::{
        abi,
        gateway_config::{GatewayConfigAdapter, RegistryError},
    },
    domain::Address,
    flow::ciphertexts::{BucketLookupError, BucketRegistry, Coprocessor, Coprocessors},
};

fn lookup_error(error: RegistryError) -> BucketLookupError {
    BucketLookupError { code: error.code(), source: Arc::new(error) }
}

impl<P: ChainReader> BucketRegistry for GatewayConfigAdapter<P> {
    async fn bucket_url_of(
        &self,
        coprocessor: Address,
    ) -> Result<Option<String>, BucketLookupError> {
        self.bucket_url(coprocessor).await.map_err(lookup_error)
    }

    async fn is_known_coprocessor(&self, coprocessor: Address) -> Result<bool, BucketLookupError> {
        self.is_registered(coprocessor).await.map_err(lookup_error)
    }

    async fn coprocessors(&self) -> Result<Arc<Coprocessors>, BucketLookupError> {
        let registry = self.coprocessor_registry().await.map_err(lookup_error)?;
        let member = |member: &abi::Coprocessor| Coprocessor {
            tx_sender: member.tx_sender,
            signer: member.signer,
            url: member.url.clone(),
        };
        let members = registry.members.iter().map(member).collect();
        Ok(Arc::new(Coprocessors { members, threshold: registry.threshold }))
    }
}
