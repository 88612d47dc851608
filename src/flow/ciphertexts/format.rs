//! How a ciphertext is serialised, read from the object's own header. Pure.
//!
//! The digest on chain covers the bytes, and the bytes tell their format. The HTTP header that a bucket sends
//! with them is vouched for by the bucket alone. A Core that is told the wrong format fails on the request,
//! and a Core up to v0.13 keeps it failed until it is restarted.
//!
//! The header that tfhe writes before each object (protocol: ciphertext-storage 7), little-endian:
//!
//! ```text
//! 8 bytes  length, then that many: version of the header, "0.5"
//! 4 bytes  how the object is versioned
//! 8 bytes  length, then that many: version of that, "0.1"
//! 8 bytes  length, then that many: the type's name
//! ```

use reqwest::header::HeaderMap;

use crate::domain::CiphertextFormat;

/// The HTTP header in which a coprocessor names the serialisation (protocol: ciphertext-storage 3).
const HEADER: &str = "x-amz-meta-ct-format";
/// The longest text in an object's header, in bytes.
const LONGEST: usize = 128;

/// The format, and whether what was declared contradicts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub actual: CiphertextFormat,
    pub header_is_wrong: bool,
}

/// The format of an object that is declared to have this one.
pub(super) fn detect(declared: CiphertextFormat, object: &[u8]) -> Format {
    match from_object(object) {
        Some(is) => Format { actual: is, header_is_wrong: is != declared },
        // An unknown object header: what was declared is all there is.
        None => Format { actual: declared, header_is_wrong: false },
    }
}

/// `compressed_on_*` is compressed; any other value, and none, is expanded.
pub(super) fn from_header(headers: &HeaderMap) -> CiphertextFormat {
    let value = headers.get(HEADER).map_or(&b""[..], |value| value.as_bytes());
    let value = value.trim_ascii().to_ascii_lowercase();
    if value.starts_with(b"compressed_on_") {
        CiphertextFormat::BigCompressed
    } else {
        CiphertextFormat::BigExpanded
    }
}

fn from_object(object: &[u8]) -> Option<CiphertextFormat> {
    let (_, rest) = text(object)?;
    let (_, rest) = rest.split_at_checked(4)?;
    let (_, rest) = text(rest)?;
    let (name, _) = text(rest)?;
    if name.ends_with(b"CompressedSquashedNoiseCiphertextList") {
        Some(CiphertextFormat::BigCompressed)
    } else if [&b"SquashedNoiseFheUint"[..], b"SquashedNoiseFheInt", b"SquashedNoiseFheBool"]
        .iter()
        .any(|expanded| name.ends_with(expanded))
    {
        Some(CiphertextFormat::BigExpanded)
    } else {
        None
    }
}

/// Splits a length-prefixed text off the beginning.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    (length <= LONGEST).then(|| rest.split_at_checked(length))?
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    /// An object of this type, with `rest` after its header.
    pub fn object(name: &str, rest: &[u8]) -> Vec<u8> {
        let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        [&text("0.5")[..], &[0; 4], &text("0.1"), &text(name), rest].concat()
    }

    fn headers(value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("X-Amz-Meta-Ct-Format", HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn the_format_header_is_read_as_the_protocol_says() {
        assert_eq!(from_header(&HeaderMap::new()), CiphertextFormat::BigExpanded);
        for (value, expected) in [
            ("compressed_on_cpu", CiphertextFormat::BigCompressed),
            ("compressed_on_gpu", CiphertextFormat::BigCompressed),
            ("uncompressed_on_cpu", CiphertextFormat::BigExpanded),
            ("uncompressed_on_gpu", CiphertextFormat::BigExpanded),
            ("ct64_compressed", CiphertextFormat::BigExpanded),
            ("", CiphertextFormat::BigExpanded),
        ] {
            assert_eq!(from_header(&headers(value)), expected, "{value}");
        }
    }

    #[test]
    fn b2_the_objects_own_head_decides() {
        const COMPRESSED: &str = "high_level_api::CompressedSquashedNoiseCiphertextList";
        const UINT: &str = "high_level_api::SquashedNoiseFheUint";
        const BOOL: &str = "high_level_api::SquashedNoiseFheBool";
        // The offset of the name according to the protocol sheet.
        assert_eq!(&object(UINT, b"")[34..], UINT.as_bytes());
        for (name, actual) in [
            (COMPRESSED, CiphertextFormat::BigCompressed),
            (UINT, CiphertextFormat::BigExpanded),
            (BOOL, CiphertextFormat::BigExpanded),
        ] {
            let object = object(name, b"more");
            for header in ["compressed_on_cpu", "uncompressed_on_cpu", "nonsense", ""] {
                let compressed = header.starts_with("compressed");
                let header_is_wrong = compressed != (actual == CiphertextFormat::BigCompressed);
                assert_eq!(
                    detect(from_header(&headers(header)), &object),
                    Format { actual, header_is_wrong }
                );
            }
            // Objects of v0.7 come without an HTTP header.
            assert_eq!(detect(from_header(&HeaderMap::new()), &object).actual, actual);
        }
        // Neither an unknown type nor half a header tells the format.
        let other = object("high_level_api::FheUint", b"");
        let half = &object(COMPRESSED, b"")[..60];
        for object in [&other[..], half, b"", &[0xff; 200]] {
            let format = detect(CiphertextFormat::BigCompressed, object);
            assert_eq!(
                (format.actual, format.header_is_wrong),
                (CiphertextFormat::BigCompressed, false)
            );
        }
    }

    proptest! {
        #[test]
        fn b2_any_bytes_have_a_format(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let format = detect(CiphertextFormat::BigExpanded, &bytes);
            prop_assert!(!format.header_is_wrong || from_object(&bytes).is_some());
        }
    }
}
