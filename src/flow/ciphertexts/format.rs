//! How a ciphertext is serialised: by the object's own head. Pure.
//!
//! The digest on chain covers the bytes, and the bytes say what they are; the header that a bucket
//! sends beside them is nobody's word but the bucket's. A Core that is told the wrong format fails on
//! the request, and one up to v0.13 keeps it failed until it is restarted.
//!
//! The head, as tfhe writes it before each object (protocol: ciphertext-storage 7), little-endian:
//!
//! ```text
//! 8 bytes  length, then that many: version of the head, "0.5"
//! 4 bytes  how the object is versioned
//! 8 bytes  length, then that many: version of that, "0.1"
//! 8 bytes  length, then that many: the type's name
//! ```

use reqwest::header::HeaderMap;

use crate::domain::CiphertextFormat;

/// Tells how the coprocessor serialised the object (protocol: ciphertext-storage 3).
const HEADER: &str = "x-amz-meta-ct-format";
/// A text of the head is no longer.
const LONGEST: usize = 128;

/// What the format is, and whether the header says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub is: CiphertextFormat,
    pub header_is_wrong: bool,
}

/// Of an object with these headers.
pub(super) fn of(headers: &HeaderMap, object: &[u8]) -> Format {
    let said = of_header(headers);
    match of_object(object) {
        Some(is) => Format { is, header_is_wrong: is != said },
        // Another head than we know: then there is only the header.
        None => Format { is: said, header_is_wrong: false },
    }
}

/// `compressed_on_*` is compressed; everything else, and silence, is expanded.
fn of_header(headers: &HeaderMap) -> CiphertextFormat {
    let value = headers.get(HEADER).map_or(&b""[..], |value| value.as_bytes());
    let value = value.trim_ascii().to_ascii_lowercase();
    if value.starts_with(b"compressed_on_") {
        CiphertextFormat::BigCompressed
    } else {
        CiphertextFormat::BigExpanded
    }
}

fn of_object(object: &[u8]) -> Option<CiphertextFormat> {
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

/// A text at the beginning, and what comes after it.
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

    /// An object of this type, with something behind its head.
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
        assert_eq!(of_header(&HeaderMap::new()), CiphertextFormat::BigExpanded);
        for (value, expected) in [
            ("compressed_on_cpu", CiphertextFormat::BigCompressed),
            ("compressed_on_gpu", CiphertextFormat::BigCompressed),
            ("uncompressed_on_cpu", CiphertextFormat::BigExpanded),
            ("uncompressed_on_gpu", CiphertextFormat::BigExpanded),
            ("ct64_compressed", CiphertextFormat::BigExpanded),
            ("", CiphertextFormat::BigExpanded),
        ] {
            assert_eq!(of_header(&headers(value)), expected, "{value}");
        }
    }

    #[test]
    fn b2_the_objects_own_head_decides() {
        const COMPRESSED: &str = "high_level_api::CompressedSquashedNoiseCiphertextList";
        const UINT: &str = "high_level_api::SquashedNoiseFheUint";
        const BOOL: &str = "high_level_api::SquashedNoiseFheBool";
        // Where the name begins by the protocol's sheet.
        assert_eq!(&object(UINT, b"")[34..], UINT.as_bytes());
        for (name, is) in [
            (COMPRESSED, CiphertextFormat::BigCompressed),
            (UINT, CiphertextFormat::BigExpanded),
            (BOOL, CiphertextFormat::BigExpanded),
        ] {
            let object = object(name, b"more");
            for header in ["compressed_on_cpu", "uncompressed_on_cpu", "nonsense", ""] {
                let compressed = header.starts_with("compressed");
                let header_is_wrong = compressed != (is == CiphertextFormat::BigCompressed);
                assert_eq!(of(&headers(header), &object), Format { is, header_is_wrong });
            }
            // As objects of v0.7 come.
            assert_eq!(of(&HeaderMap::new(), &object).is, is);
        }
        // A type we do not know says nothing, and neither does half a head.
        let other = object("high_level_api::FheUint", b"");
        let half = &object(COMPRESSED, b"")[..60];
        for object in [&other[..], half, b"", &[0xff; 200]] {
            let format = of(&headers("compressed_on_cpu"), object);
            assert_eq!(
                (format.is, format.header_is_wrong),
                (CiphertextFormat::BigCompressed, false)
            );
        }
    }

    proptest! {
        #[test]
        fn b2_any_bytes_have_a_format(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let format = of(&HeaderMap::new(), &bytes);
            prop_assert!(!format.header_is_wrong || of_object(&bytes).is_some());
        }
    }
}
