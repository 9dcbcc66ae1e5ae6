//! A quick hash for maps that are looked into on every call and are small by construction.
//!
//! It resists no attacker who chooses the names; the maps it serves hold a bounded number, so that names that all meet
//! cost a walk over that many and no more.

use std::hash::{BuildHasherDefault, Hasher};

/// Builds [`Words`].
pub(crate) type QuickHash = BuildHasherDefault<Words>;

/// Folds eight bytes at a time into a product.
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
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(FACTOR);
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

impl Hasher for Words {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.fold(u64::from_le_bytes(*word));
        }
        let rest = rest.iter().fold(bytes.len() as u64, |word, byte| (word << 8) | u64::from(*byte));
        self.fold(rest);
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
}
