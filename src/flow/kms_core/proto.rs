//! The generated protobuf code (`proto/`, compiled by `build.rs`). Used in `kms_core` only; public for the
//! reference responder of the benchmarks.

#![expect(
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

pub mod kms {
    pub mod v1 {
        tonic::include_proto!("kms.v1");
    }
}

pub mod kms_service {
    pub mod v1 {
        tonic::include_proto!("kms_service.v1");
    }
}

pub mod grpc {
    pub mod health {
        pub mod v1 {
            tonic::include_proto!("grpc.health.v1");
        }
    }
}
