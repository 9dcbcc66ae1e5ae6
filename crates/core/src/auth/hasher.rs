//! A quick hash for maps that are looked into on every call and are small by construction.
//!
//! It resists no attacker who chooses the names; the maps it serves hold a bounded number, so that names that all meet
//! cost a walk over that many and no more.

use std::hash::{BuildHasherDefault, Hasher};

/// Builds [`Words`].
pub(crate) type QuickHash = BuildHasherDefault<Words>;

/// Folds sixteen bytes at a time into a product.
#[derive(Clone, Copy)]
pub(crate) struct Words(u64);

const START: u64 = 0x243f_6a88_85a3_08d3;
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Default for Words {
    fn default() -> Self {
        Self(START)
    }
}

impl Words {
    fn pair(&mut self, pair: [u8; 16]) {
        let pair = u128::from_le_bytes(pair);
        let (one, other) = (pair as u64, (pair >> 64) as u64);
        let product = u128::from(self.0 ^ one) * u128::from(FACTOR ^ other);
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

impl Hasher for Words {
    fn write(&mut self, bytes: &[u8]) {
        // What tells a text from one with zeros behind it.
        self.0 ^= (bytes.len() as u64).wrapping_mul(FACTOR);
        for pair in bytes.as_chunks::<16>().0 {
            self.pair(*pair);
        }
        // The last sixteen once more, or all of a shorter text.
        let last = bytes.last_chunk::<16>().copied().unwrap_or_else(|| {
            let mut last = [0; 16];
            last.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            last
        });
        self.pair(last);
    }

    fn write_u8(&mut self, _end: u8) {
        // What ends a text; its length is in the hash already.
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::hash::BuildHasher;

    use super::*;
    use crate::id::ConnectionId;

    /// Fails when names of one kind meet in few places: a map of them would be a list.
    #[test]
    fn names_of_one_kind_are_spread() {
        let names = (0..4_096).map(|n| ConnectionId::new(format!("con_{n}")));
        let hashes: Vec<u64> = names.map(|name| QuickHash::default().hash_one(&name)).collect();
        assert_eq!(hashes.iter().collect::<BTreeSet<_>>().len(), 4_096);
        for shift in [0, 32, 57] {
            let mut places = [0_u32; 64];
            hashes.iter().for_each(|hash| places[(hash >> shift) as usize % 64] += 1);
            assert!(places.iter().all(|count| (32..=110).contains(count)), "{shift}: {places:?}");
        }
    }

    /// Fails when a part of a text, its place or its length does not count.
    #[test]
    fn every_byte_and_the_length_count() {
        let hash = |text: &[u8]| {
            let mut words = Words::default();
            words.write(text);
            words.finish()
        };
        let mut texts: Vec<Vec<u8>> = (0..60).map(|length| vec![0; length]).collect();
        for length in [1, 7, 15, 16, 17, 32, 36, 48] {
            texts.extend((0..length).map(|at| (0..length).map(|n| u8::from(n == at)).collect()));
        }
        texts.push([[1; 16], [2; 16]].concat());
        texts.push([[2; 16], [1; 16]].concat());
        let hashes: BTreeSet<u64> = texts.iter().map(|text| hash(text)).collect();
        assert_eq!(hashes.len(), texts.len());
    }
}
