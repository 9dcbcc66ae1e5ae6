//! HMAC-SHA256 for signature schemes: one keyed state per secret ([`Key`]), constant-time comparison.
//!
//! The hashing is `sha2`'s, which uses the processor's SHA instructions; only the frame around it (RFC 2104, and the
//! padding of FIPS 180-4) stands here. The `hmac` crate's frame keeps buffers beside its two states, copied and wiped
//! for every message: 50 of 730 ns for 1 KiB, as much as everything else that verifying a signature adds.

use std::{fmt, slice};

use sha2::block_api::compress256;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The length of an HMAC-SHA256 code in bytes.
pub const CODE_BYTES: usize = 32;

/// What SHA-256 hashes at once.
const BLOCK_BYTES: usize = 64;
/// Stands behind the message's last byte.
const END: u8 = 0x80;
/// The bytes that end the last block: the message's length in bits.
const LENGTH_BYTES: usize = 8;
/// The state SHA-256 begins with (FIPS 180-4, 5.3.3).
const START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// A key with its block absorbed on both sides, so that a message costs its own bytes only. Wiped when it goes.
#[derive(Clone)]
pub struct Key {
    inner: Zeroizing<[u32; 8]>,
    outer: Zeroizing<[u32; 8]>,
}

impl Key {
    /// Absorbs a key of any length.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        let mut block = Zeroizing::new([0; BLOCK_BYTES]);
        match block.get_mut(..key.len()) {
            Some(start) => start.copy_from_slice(key),
            None => {
                let (start, _) = block.split_at_mut(CODE_BYTES);
                start.copy_from_slice(&Sha256::digest(key));
            }
        }
        let absorbed = |pad: u8| {
            let mut state = Zeroizing::new(START);
            compress256(&mut state, &[*Zeroizing::new(block.map(|byte| byte ^ pad))]);
            state
        };
        Self { inner: absorbed(0x36), outer: absorbed(0x5c) }
    }

    /// Returns HMAC-SHA256 over the concatenation of `parts`.
    #[must_use]
    pub fn code(&self, parts: &[&[u8]]) -> [u8; CODE_BYTES] {
        let mut inner = Hash { state: *self.inner, block: [0; BLOCK_BYTES], filled: 0, bytes: BLOCK_BYTES as u64 };
        for part in parts {
            inner.update(part);
        }
        let mut last = [0; BLOCK_BYTES];
        last[..CODE_BYTES].copy_from_slice(&inner.finish());
        last[CODE_BYTES] = END;
        last[BLOCK_BYTES - LENGTH_BYTES..].copy_from_slice(&((BLOCK_BYTES + CODE_BYTES) as u64 * 8).to_be_bytes());
        let mut outer = *self.outer;
        compress256(&mut outer, slice::from_ref(&last));
        bytes_of(outer)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// SHA-256 in the middle of a message.
struct Hash {
    state: [u32; 8],
    /// The message's last bytes, as far as they fill no block yet.
    block: [u8; BLOCK_BYTES],
    filled: usize,
    bytes: u64,
}

impl Hash {
    fn update(&mut self, mut part: &[u8]) {
        self.bytes += part.len() as u64;
        if self.filled > 0
            && let Some((now, later)) = part.split_at_checked(BLOCK_BYTES - self.filled)
        {
            self.keep(now);
            compress256(&mut self.state, slice::from_ref(&self.block));
            self.filled = 0;
            part = later;
        }
        if part.len() >= BLOCK_BYTES {
            let (blocks, rest) = part.as_chunks();
            compress256(&mut self.state, blocks);
            part = rest;
        }
        self.keep(part);
    }

    /// Appends to the block what fits into it.
    fn keep(&mut self, bytes: &[u8]) {
        if let Some(free) = self.block.get_mut(self.filled..self.filled + bytes.len()) {
            free.copy_from_slice(bytes);
            self.filled += bytes.len();
        }
    }

    fn finish(mut self) -> [u8; CODE_BYTES] {
        if let Some((end, rest)) = self.block.get_mut(self.filled..).and_then(|free| free.split_first_mut()) {
            *end = END;
            rest.fill(0);
        }
        if self.filled >= BLOCK_BYTES - LENGTH_BYTES {
            compress256(&mut self.state, slice::from_ref(&self.block));
            self.block = [0; BLOCK_BYTES];
        }
        self.block[BLOCK_BYTES - LENGTH_BYTES..].copy_from_slice(&(self.bytes * 8).to_be_bytes());
        compress256(&mut self.state, slice::from_ref(&self.block));
        bytes_of(self.state)
    }
}

fn bytes_of(state: [u32; 8]) -> [u8; CODE_BYTES] {
    let mut bytes = [0; CODE_BYTES];
    for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(state) {
        *to = word.to_be_bytes();
    }
    bytes
}

/// Returns HMAC-SHA256 over the concatenation of `parts`, under a key that is used once.
#[must_use]
pub fn sha256(key: &[u8], parts: &[&[u8]]) -> [u8; CODE_BYTES] {
    Key::new(key).code(parts)
}

/// Compares two codes in constant time.
#[must_use]
pub fn equal(a: &[u8; CODE_BYTES], b: &[u8; CODE_BYTES]) -> bool {
    equal_texts(a, b)
}

/// Compares a code with its lower-case hexadecimal text in constant time, without reading the text first: it is the
/// code that is written out. Upper case never matches: no provider sends it.
#[must_use]
pub fn matches_lower_hex(code: &[u8; CODE_BYTES], text: impl AsRef<[u8]>) -> bool {
    text.as_ref().try_into().is_ok_and(|text| equal_texts(&lower_hex(code), text))
}

/// Compares in constant time: the differences of all words are gathered before any of them is looked at.
pub(super) fn equal_texts<const N: usize>(a: &[u8; N], b: &[u8; N]) -> bool {
    let ((a_words, a_rest), (b_words, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let words = a_words.iter().zip(b_words).map(|(a, b)| u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b));
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| u64::from(a ^ b));
    words.chain(rest).fold(0, |all, one| all | one).ct_eq(&0).into()
}

/// Arithmetic instead of a table: no memory access depends on the code, and a loop of it becomes vector instructions.
fn digit(nibble: u8) -> u8 {
    nibble + if nibble > 9 { b'a' - 10 } else { b'0' }
}

fn lower_hex(code: &[u8; CODE_BYTES]) -> [u8; CODE_BYTES * 2] {
    let mut text = [0; CODE_BYTES * 2];
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(code) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
    text
}

/// Compares a code with its text in base64 in constant time, as [`matches_lower_hex`] does.
#[must_use]
pub fn matches_base64(code: &[u8; CODE_BYTES], text: impl AsRef<[u8]>) -> bool {
    text.as_ref().try_into().is_ok_and(|text| equal_texts(&base64(code), text))
}

/// The length of a code in base64.
pub(super) const BASE64_BYTES: usize = CODE_BYTES.div_ceil(3) * 4;

fn letter(sextet: u8) -> u8 {
    let step = |after: u8, by: u8| if sextet > after { by } else { 0 };
    // A-Z, a-z, 0-9, +, /: sums that wrap are sums that subtract.
    sextet
        .wrapping_add(b'A')
        .wrapping_add(step(25, 6))
        .wrapping_add(step(51, 181))
        .wrapping_add(step(61, 241))
        .wrapping_add(step(62, 3))
}

fn base64(code: &[u8; CODE_BYTES]) -> [u8; BASE64_BYTES] {
    // One byte more, so that the last three are as the others; what it adds is the one sign of padding.
    let mut padded = [0; CODE_BYTES + 1];
    padded[..CODE_BYTES].copy_from_slice(code);
    let mut text = [0; BASE64_BYTES];
    for (to, [a, b, c]) in text.as_chunks_mut().0.iter_mut().zip(padded.as_chunks().0) {
        *to = [a >> 2, a << 4 & 63 | b >> 4, b << 2 & 63 | c >> 6, c & 63];
    }
    for sextet in &mut text {
        *sextet = letter(*sextet);
    }
    text[BASE64_BYTES - 1] = b'=';
    text
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

/// Writes bytes as lower-case hexadecimal.
#[must_use]
pub fn to_lower_hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, cases 1, 2, 6 and 7: short and long keys, short and long data.
    #[test]
    fn codes_are_those_of_the_rfc_however_the_message_is_split() {
        let cases: [(&[u8], &[u8], &str); 4] = [
            (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (
                &[0xaa; 131],
                b"This is a test using a larger than block-size key and a larger than block-size data. \
                  The key needs to be hashed before being used by the HMAC algorithm.",
                "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
            ),
        ];
        for (key, message, expected) in cases {
            let key = Key::new(key);
            for at in 0..=message.len() {
                let (start, end) = message.split_at(at);
                assert_eq!(to_lower_hex(&key.code(&[start, b"", end])), expected, "split at {at}");
            }
        }
    }

    // Fails when a block border, the padding or the length of a message or key is off by one anywhere.
    #[test]
    fn codes_are_another_implementations_for_every_length_around_the_block_borders() {
        use aws_lc_rs::hmac;
        let bytes: Vec<u8> = (0..=255).collect();
        for key in (0..=130).map(|length| &bytes[..length]) {
            let (ours, theirs) = (Key::new(key), hmac::Key::new(hmac::HMAC_SHA256, key));
            for message in (0..=200).map(|length| &bytes[..length]) {
                let expected = hmac::sign(&theirs, message);
                let (start, end) = message.split_at(key.len().min(message.len()));
                assert_eq!(ours.code(&[start, end]), expected.as_ref(), "key {}, message {}", key.len(), message.len());
            }
        }
    }

    #[test]
    fn a_code_matches_its_own_lower_case_text_only() {
        let code = sha256(b"key", &[b"message"]);
        let text = to_lower_hex(&code);
        assert!(matches_lower_hex(&code, &text));
        for at in 0..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] ^= 1;
            assert!(!matches_lower_hex(&code, &other), "changed at {at}");
        }
        for other in ["", &text[1..], &format!("{text}0"), &text.to_uppercase()] {
            assert!(!matches_lower_hex(&code, other), "{other:?}");
        }
    }

    #[test]
    fn a_code_matches_its_own_base64_only() {
        use ::base64::Engine;
        use ::base64::engine::general_purpose::STANDARD;
        for seed in 0_u8..=255 {
            let code = sha256(&[seed], &[b"message"]);
            let text = STANDARD.encode(code);
            assert!(matches_base64(&code, &text), "{text}");
            for at in 0..text.len() {
                let mut other = text.clone().into_bytes();
                other[at] ^= 1;
                assert!(!matches_base64(&code, &other), "{text} changed at {at}");
            }
            assert!(!matches_base64(&code, text.trim_end_matches('=')), "{text} without its padding");
        }
        let all: String = (0..64).map(|sextet| char::from(letter(sextet))).collect();
        assert_eq!(all, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
    }

    #[test]
    fn a_key_prints_nothing_of_itself() {
        assert_eq!(format!("{:?}", Key::new(b"whsec_1")), "Key(…)");
    }
}
