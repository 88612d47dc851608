//! Compiles the KMS Core's services for the stub of it, from the same `proto/` as the product and by
//! tonic's own codec.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let proto = "../../proto";
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={proto}");
    let files = ["kms.v1.proto", "kms_service.v1.proto", "grpc.health.v1.proto"];
    let descriptors = protox::compile(files, [proto])?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_client(false)
        // What the stub of a version does not play it does not know, as old ones.
        .generate_default_stubs(true)
        .compile_fds(descriptors)?;
    Ok(())
}
