//! The room of the ciphertexts by itself: on real buckets, with a table for a registry.

use std::{num::NonZeroUsize, sync::Arc};

use alloy::primitives::{Address, B256, U256};
use kms_connector::{
    domain::{
        BlockRef, Bytes, EventShape, Material, Operation, PublicDecryption, Request, RequestKey,
        RequestSource,
    },
    flow::ciphertexts::{
        BucketClient, BucketLookupError, BucketRegistry, Ciphertexts, CiphertextsOptions,
        Coprocessor, Coprocessors, FallbackStore, SMALLEST_MEMORY_MIB,
    },
    net::proxy::Proxies,
    telemetry::metrics::Metrics,
};

use world::deployment::Store;

/// Who is registered.
#[derive(Debug, Default)]
pub(super) struct Table(Coprocessors);

impl Table {
    /// One coprocessor with this bucket, or none.
    pub(super) fn of_url(url: Option<String>) -> Self {
        let member = |url| Coprocessor {
            tx_sender: Address::with_last_byte(1),
            signer: Address::with_last_byte(2),
            url,
        };
        Self(Coprocessors { members: url.into_iter().map(member).collect(), threshold: None })
    }

    /// These coprocessors, of which so many must agree.
    pub(super) fn of_stores(stores: &[Store], threshold: usize) -> Self {
        let member = |store: &Store| Coprocessor {
            tx_sender: store.tx_sender,
            signer: store.signer().address(),
            url: store.bucket.url().to_owned(),
        };
        let threshold = NonZeroUsize::new(threshold);
        Self(Coprocessors { members: stores.iter().map(member).collect(), threshold })
    }

    /// The coprocessor with this number has another bucket.
    pub(super) fn with_bucket(mut self, number: usize, url: String) -> Self {
        self.0.members[number].url = url;
        self
    }
}

impl BucketRegistry for Table {
    async fn bucket_url_of(&self, who: Address) -> Result<Option<String>, BucketLookupError> {
        let found = self.0.members.iter().find(|member| member.tx_sender == who);
        Ok(found.map(|member| member.url.clone()))
    }

    async fn is_known_coprocessor(&self, _: Address) -> Result<bool, BucketLookupError> {
        Ok(true)
    }

    async fn coprocessors(&self) -> Result<Arc<Coprocessors>, BucketLookupError> {
        Ok(Arc::new(self.0.clone()))
    }
}

pub(super) fn room(table: Table, fallback: Option<FallbackStore>) -> Ciphertexts<Table> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs has the default versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Ciphertexts::new(CiphertextsOptions {
        buckets: Arc::new(table),
        fallback,
        memory_mib: SMALLEST_MEMORY_MIB,
        verify_coprocessors: false,
        http: BucketClient::new(tls, &Proxies::default()).expect("a client"),
        metrics: Metrics::default(),
    })
}

/// A request whose event names these handles, and these materials or none.
pub(super) fn request(handles: Vec<B256>, materials: Option<Vec<Material>>) -> Request {
    let source = RequestSource { chain_id: 1, contract: Address::ZERO };
    let extra_data = Bytes::new();
    Request {
        key: RequestKey { source, id: U256::from(1), content: B256::ZERO },
        shape: if materials.is_some() { EventShape::G9 } else { EventShape::Head },
        block: BlockRef { number: 1, hash: B256::ZERO },
        transaction: B256::ZERO,
        operation: Operation::PublicDecryption(PublicDecryption { handles, materials, extra_data }),
    }
}

/// A request of these materials.
pub(super) fn request_of(materials: Vec<Material>) -> Request {
    let handles = materials.iter().map(|material| material.handle).collect();
    request(handles, Some(materials))
}
