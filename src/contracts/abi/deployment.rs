//! Which deployment of the contracts a version of the Decryption contract belongs to.

/// The deployed contracts, as far as the Decryption contract's version tells (gateway-abi 1.1). The
/// numbering restarted at v0.9.0, so one version may belong to several generations, but never to both
/// sides of G12.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deployment {
    /// G7 to G10: the gateway checks access. Served.
    UpToG10,
    /// G12 and later: nobody but the connectors checks access.
    FromG12,
    /// An unknown version, verbatim.
    Unknown(String),
}

/// Parses `getVersion()` of the Decryption contract: `Decryption v<major>.<minor>.<patch>`.
#[must_use]
pub fn deployment_from_version(decryption_version: &str) -> Deployment {
    match version_numbers(decryption_version) {
        Some((0, 1..=3, _)) => Deployment::UpToG10,
        Some((0, 4.., _) | (1.., _, _)) => Deployment::FromG12,
        Some((0, 0, _)) | None => Deployment::Unknown(decryption_version.to_owned()),
    }
}

pub(super) fn version_numbers(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.strip_prefix("Decryption v")?.split('.').map(|part| {
        // `parse` alone would accept a sign.
        part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok()).flatten()
    });
    let numbers = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_tell_the_deployment() {
        for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.17"] {
            let version = format!("Decryption v{version}");
            assert_eq!(deployment_from_version(&version), Deployment::UpToG10, "{version}");
        }
        for version in ["0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.10.0", "1.0.0"] {
            let version = format!("Decryption v{version}");
            assert_eq!(deployment_from_version(&version), Deployment::FromG12, "{version}");
        }
        for odd in [
            "",
            "v0.3.0",
            "Decryption",
            "Decryption v",
            "Decryption v0.3",
            "Decryption v0.3.",
            "Decryption v0.3.0.1",
            "Decryption v0.3.0-rc1",
            "Decryption v0.+3.0",
            "Decryption v0.0.9",
            "Decryption v0.99999999999.0",
            "KmsManagement v0.1.0",
            " Decryption v0.3.0",
        ] {
            assert_eq!(deployment_from_version(odd), Deployment::Unknown(odd.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn versions_never_panic(version in ".{0,30}") {
            let wrapped = format!("Decryption v{version}");
            for version in [version, wrapped] {
                match deployment_from_version(&version) {
                    Deployment::Unknown(said) => prop_assert_eq!(said, version),
                    Deployment::UpToG10 => prop_assert!(version.starts_with("Decryption v0.")),
                    Deployment::FromG12 => prop_assert!(version.starts_with("Decryption v")),
                }
            }
        }
    }
}
