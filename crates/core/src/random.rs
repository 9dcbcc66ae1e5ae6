//! Randomness as an argument: the operating system's in production, a seed in tests.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::RngExt;

/// Gives random numbers. One value is shared by all tasks, so it takes `&self`.
pub trait Random: Send + Sync + fmt::Debug + 'static {
    /// Returns 64 random bits.
    fn bits(&self) -> u64;

    /// Returns a number in `[0, 1)`.
    fn unit(&self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Fills a buffer.
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bits = self.bits().to_le_bytes();
            for (to, from) in chunk.iter_mut().zip(bits) {
                *to = from;
            }
        }
    }
}

/// Random numbers fit for keys, nonces and tokens (ChaCha seeded by the operating system, per thread).
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn bits(&self) -> u64 {
        rand::rng().random()
    }
}

/// A repeatable sequence from a seed (SplitMix64). For tests and simulations only, never for keys.
#[derive(Debug)]
pub struct SeededRandom(AtomicU64);

impl SeededRandom {
    /// Starts the sequence of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}

impl Random for SeededRandom {
    fn bits(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
