//! Bytes nobody meant, from a seed, and what a panic said.

use std::any::Any;

use palisade_core::Random;
use palisade_core::random::SeededRandom;

/// Words that are found in bodies and make parsers think.
const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\\",
    "null",
    "true",
    "1e999",
    "-1",
    "99999999999999999999",
    "\"x\"",
    "{}",
    "[]",
    "\u{0}",
    "é",
    "&",
    "=",
    "%",
    "%2",
    "%ff",
    "+",
    "\r\n",
    "--",
    ";",
    "\\ud800",
    "1.5",
    "\u{feff}",
];

/// Makes bytes by a seed: mutations of what is well formed, mixtures of words, and bytes of any kind.
#[derive(Debug)]
pub(crate) struct Noise(SeededRandom);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SeededRandom::new(seed))
    }

    pub(crate) fn below(&self, limit: usize) -> usize {
        let limit = u64::try_from(limit.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.0.bits() % limit).unwrap_or(0)
    }

    fn byte(&self) -> u8 {
        u8::try_from(self.below(256)).unwrap_or(0)
    }

    fn word(&self) -> &'static [u8] {
        WORDS.get(self.below(WORDS.len())).map_or(&[], |word| word.as_bytes())
    }

    /// Makes bytes, most of them out of `good`.
    pub(crate) fn like(&self, good: &[u8]) -> Vec<u8> {
        match self.below(6) {
            0 => (0..self.below(200)).map(|_| self.byte()).collect(),
            1 => (0..self.below(40)).flat_map(|_| self.word().to_vec()).collect(),
            _ => {
                let mut bytes = good.to_vec();
                for _ in 0..=self.below(4) {
                    self.mutate(&mut bytes);
                }
                bytes
            }
        }
    }

    fn mutate(&self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        match self.below(6) {
            0 => bytes.truncate(at),
            1 => {
                bytes.drain(..at);
            }
            2 => {
                bytes.splice(at..at, self.word().iter().copied());
            }
            3 => {
                let to = at + self.below(bytes.len() - at + 1);
                bytes.drain(at..to);
            }
            4 => {
                let to = at + self.below((bytes.len() - at).min(64) + 1);
                let copy: Vec<u8> = bytes.get(at..to).unwrap_or_default().to_vec();
                bytes.splice(at..at, copy);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (self.0.bits() % 8);
                }
            }
        }
    }
}

/// Returns what a panic said.
pub(crate) fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "nothing".to_owned())
}
