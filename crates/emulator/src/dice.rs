//! The emulators' randomness: every identifier and every fault draw follows from a seed.

use serde::{Deserialize, Serialize};

/// SplitMix64: small, seedable, the same on every platform and version. Never used for secrets.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// Gives the next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Gives a number below the bound; zero for a bound of zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// Tells whether an event of that probability happens.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        if probability <= 0.0 {
            return false;
        }
        (self.next() >> 11) as f64 / (1u64 << 53) as f64 <= probability.min(1.0)
    }

    /// Makes a name: prefix and letters, digits of both cases.
    pub(crate) fn name(&mut self, prefix: &str, length: usize) -> String {
        const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut name = String::with_capacity(prefix.len() + length);
        name.push_str(prefix);
        for _ in 0..length {
            let at = self.below(62) as usize;
            name.push(char::from(LETTERS.get(at).copied().unwrap_or(b'0')));
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_repeat_with_their_seed() {
        let (mut one, mut two) = (Dice(7), Dice(7));
        assert_eq!(one.name("cus_", 14), two.name("cus_", 14));
        assert_ne!(one.next(), Dice(8).next());
        assert!(Dice(1).chance(1.0));
        assert!(!Dice(1).chance(0.0));
    }
}
