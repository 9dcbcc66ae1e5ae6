//! A form's parameters, decoded once: verified and read from the same bytes, so that what is signed is what is seen.

use std::ops::Range;

use memchr::{memchr, memchr2};
use palisade_core::webhook::split;

/// The most parameters a delivery may have: Twilio's longest (an MMS with ten media and its add-ons) stays far below.
const PAIRS_MAX: usize = 1_000;

/// Decoded parameters, sorted by name and value, each once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Form {
    decoded: Vec<u8>,
    pairs: Vec<Pair>,
}

/// Where a parameter's name and value stand.
#[derive(Debug, PartialEq, Eq)]
struct Pair {
    /// The name's first bytes as a number: it decides nearly every comparison.
    start: u64,
    name: Range<usize>,
    value: Range<usize>,
}

impl Form {
    /// Decodes `a=b&c=d`: `+` is a blank, `%41` a byte; what is not a whole escape stays as it is, as in every form
    /// parser. `None` when there are more parameters than any of Twilio's deliveries has.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let mut form = Self { decoded: Vec::with_capacity(text.len()), pairs: Vec::with_capacity(32) };
        for pair in split(text, b'&').filter(|pair| !pair.is_empty()) {
            if form.pairs.len() == PAIRS_MAX {
                return None;
            }
            let at = memchr(b'=', pair).unwrap_or(pair.len());
            let name = form.decode(pair.get(..at).unwrap_or_default());
            let value = form.decode(pair.get(at + 1..).unwrap_or_default());
            form.pairs.push(Pair { start: start_of(form.slice(&name)), name, value });
        }
        let mut pairs = std::mem::take(&mut form.pairs);
        // Bytes of UTF-8 sort as their code points do, which is how Twilio sorts.
        pairs.sort_unstable_by(|a, b| a.start.cmp(&b.start).then_with(|| form.texts(a).cmp(&form.texts(b))));
        pairs.dedup_by(|a, b| a.start == b.start && form.texts(a) == form.texts(b));
        form.pairs = pairs;
        Some(form)
    }

    fn decode(&mut self, text: &[u8]) -> Range<usize> {
        let start = self.decoded.len();
        let mut rest = text;
        while let Some(at) = memchr2(b'+', b'%', rest)
            && let Some((plain, [sign, after @ ..])) = rest.split_at_checked(at)
        {
            self.decoded.extend_from_slice(plain);
            rest = after;
            let decoded = match (sign, after) {
                (b'+', _) => b' ',
                (_, [high, low, tail @ ..]) => match (digit(*high), digit(*low)) {
                    (Some(high), Some(low)) => {
                        rest = tail;
                        high << 4 | low
                    }
                    _ => b'%',
                },
                _ => b'%',
            };
            self.decoded.push(decoded);
        }
        self.decoded.extend_from_slice(rest);
        start..self.decoded.len()
    }

    fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.decoded.get(range.clone()).unwrap_or_default()
    }

    fn texts(&self, pair: &Pair) -> (&[u8], &[u8]) {
        (self.slice(&pair.name), self.slice(&pair.value))
    }

    /// Gives the parameters in order.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pairs.iter().map(|pair| self.texts(pair))
    }

    /// Writes names and values in order, one behind the other: what Twilio signs.
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        for (name, value) in self.pairs() {
            to.extend_from_slice(name);
            to.extend_from_slice(value);
        }
    }

    /// The bytes of all names and values.
    pub(super) fn len(&self) -> usize {
        self.decoded.len()
    }
}

/// Reads a name's first eight bytes as a number that sorts as they do. A shorter name sorts before what it begins:
/// zeros follow it, and a name that goes on with zeros is told from it by the whole texts.
fn start_of(name: &[u8]) -> u64 {
    let mut first = [0; 8];
    for (to, byte) in first.iter_mut().zip(name) {
        *to = *byte;
    }
    u64::from_be_bytes(first)
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, &str)]) {
        let form = Form::read(text.as_bytes()).unwrap();
        let read: Vec<_> = form.pairs().collect();
        let expected: Vec<_> = expected.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        assert_eq!(read, expected, "{text}");
    }

    #[test]
    fn parameters_are_decoded_sorted_and_each_once() {
        check("", &[]);
        check("&&", &[]);
        check("b=2&a=1", &[("a", "1"), ("b", "2")]);
        check("M=u2&M=u1&M=u2&N=3", &[("M", "u1"), ("M", "u2"), ("N", "3")]);
        check("Empty=&Z", &[("Empty", ""), ("Z", "")]);
        check("=x", &[("", "x")]);
        check("a+b=c%2Bd&x=caf%C3%A9", &[("a b", "c+d"), ("x", "café")]);
        check("a=%&b=%4&c=%zz&d=%41%", &[("a", "%"), ("b", "%4"), ("c", "%zz"), ("d", "A%")]);
        check("a=b=c", &[("a", "b=c")]);
        check("a=1&B=2", &[("B", "2"), ("a", "1")]);
        check("NumSegments=1&NumMedia=0&NumMediaB=0", &[("NumMedia", "0"), ("NumMediaB", "0"), ("NumSegments", "1")]);
        check("a%00=1&a=2", &[("a", "2"), ("a\0", "1")]);
    }

    #[test]
    fn bytes_that_are_no_text_are_kept_and_endless_forms_refused() {
        let form = Form::read(b"a=%ff\xfe").unwrap();
        assert_eq!(form.pairs().collect::<Vec<_>>(), [(&b"a"[..], &b"\xff\xfe"[..])]);
        assert!(Form::read("a=1&".repeat(1_000).as_bytes()).is_some());
        assert!(Form::read("a=1&".repeat(1_001).as_bytes()).is_none());
    }
}
