//! HMAC-SHA256 for signature schemes: one keyed state per secret, constant-time comparison.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// The length of an HMAC-SHA256 code in bytes.
pub const CODE_BYTES: usize = 32;

/// Returns HMAC-SHA256 over the concatenation of `parts`.
#[must_use]
pub fn sha256(key: &[u8], parts: &[&[u8]]) -> [u8; CODE_BYTES] {
    // A key of any length is lawful for HMAC; the error type is a formality of the trait.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return [0; CODE_BYTES];
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Compares two codes in constant time.
#[must_use]
pub fn equal(a: &[u8; CODE_BYTES], b: &[u8; CODE_BYTES]) -> bool {
    a.ct_eq(b).into()
}

/// Reads lower-case hexadecimal of exactly one code. Upper case is refused: no provider sends it.
#[must_use]
pub fn from_lower_hex(text: &str) -> Option<[u8; CODE_BYTES]> {
    fn nibble(c: u8) -> Option<u8> {
        match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        }
    }
    let bytes = text.as_bytes();
    if bytes.len() != CODE_BYTES * 2 {
        return None;
    }
    let mut code = [0; CODE_BYTES];
    for (to, pair) in code.iter_mut().zip(bytes.as_chunks::<2>().0) {
        let [high, low] = *pair;
        *to = nibble(high)? << 4 | nibble(low)?;
    }
    Some(code)
}

/// Writes a code as lower-case hexadecimal.
#[must_use]
pub fn to_lower_hex(code: &[u8]) -> String {
    use std::fmt::Write;
    code.iter().fold(String::with_capacity(code.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
