//! Compiles `proto/` in pure Rust (no system `protoc`) and tells the binary its commit and compiler.

use std::error::Error;
use std::path::Path;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    compile_protobuf()?;
    tell_commit();
    tell_compiler();
    Ok(())
}

fn compile_protobuf() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=proto");
    let files = ["kms.v1.proto", "kms_service.v1.proto", "grpc.health.v1.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        // Ciphertexts and answers are moved, not copied: `Bytes` instead of `Vec<u8>`.
        .bytes(".")
        // Cores of tests play some of the service, and say `Unimplemented` to the rest, as old ones do.
        .generate_default_stubs(true)
        .codec_path("crate::flow::kms_core::codec::Codec")
        .compile_fds(descriptors)?;
    Ok(())
}

/// Sets `KMS_CONNECTOR_COMMIT` for `--version`: the commit, or "unknown" where there is no
/// repository (a source archive) or no git.
fn tell_commit() {
    // A path that does not exist would make cargo run this script at every build.
    for path in ["HEAD", "refs/heads", "packed-refs"].iter().filter_map(|name| git_path(name)) {
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=KMS_CONNECTOR_COMMIT={commit}");
}

/// Sets `KMS_CONNECTOR_RUST_VERSION`, as in `1.94.1`.
fn tell_compiler() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().ok();
    let text = output.and_then(|output| String::from_utf8(output.stdout).ok());
    let version = text.as_deref().and_then(|text| text.split_whitespace().nth(1));
    println!("cargo::rustc-env=KMS_CONNECTOR_RUST_VERSION={}", version.unwrap_or("unknown"));
}

/// Where git keeps `name`; asked, because in a linked worktree `.git` is a file.
fn git_path(name: &str) -> Option<String> {
    git(&["rev-parse", "--git-path", name])
}

fn git(arguments: &[&str]) -> Option<String> {
    // An archive unpacked inside somebody else's repository must not tell that one's commit.
    if !Path::new(".git").exists() {
        return None;
    }
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}
