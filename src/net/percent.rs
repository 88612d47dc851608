//! Percent-encoded text: in the paths of HTTP requests and in the headers given for traces.

/// The bytes behind a percent-encoded text. `None`: the encoding is invalid.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut unescaped = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            unescaped.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        unescaped.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    Some(unescaped)
}
