//! A form's parameters, decoded once: verified and read from the same bytes, so that what is signed is what is seen.

use std::ops::Range;

/// The most parameters a delivery may have: Twilio's longest (an MMS with ten media and its add-ons) stays far below.
const PAIRS_MAX: usize = 1_000;

/// Decoded parameters, sorted by name and value, each once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Form {
    decoded: Vec<u8>,
    pairs: Vec<(Range<usize>, Range<usize>)>,
}

impl Form {
    /// Decodes `a=b&c=d`: `+` is a blank, `%41` a byte; what is not a whole escape stays as it is, as in every form
    /// parser. `None` when there are more parameters than any of Twilio's deliveries has.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let mut form = Self { decoded: Vec::with_capacity(text.len()), pairs: Vec::with_capacity(32) };
        for pair in text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            if form.pairs.len() == PAIRS_MAX {
                return None;
            }
            let at = pair.iter().position(|byte| *byte == b'=');
            let (name, value) = at.and_then(|at| Some((pair.get(..at)?, pair.get(at + 1..)?))).unwrap_or((pair, b""));
            let name = form.decode(name);
            let value = form.decode(value);
            form.pairs.push((name, value));
        }
        let Self { decoded, pairs } = &mut form;
        // Bytes of UTF-8 sort as their code points do, which is how Twilio sorts.
        let key =
            |(name, value): &(Range<usize>, Range<usize>)| (decoded.get(name.clone()), decoded.get(value.clone()));
        pairs.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
        pairs.dedup_by(|a, b| key(a) == key(b));
        Some(form)
    }

    fn decode(&mut self, text: &[u8]) -> Range<usize> {
        let start = self.decoded.len();
        let mut rest = text;
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            let decoded = match (byte, after) {
                (b'+', _) => b' ',
                (b'%', [high, low, tail @ ..]) => match (digit(*high), digit(*low)) {
                    (Some(high), Some(low)) => {
                        rest = tail;
                        high << 4 | low
                    }
                    _ => b'%',
                },
                (byte, _) => byte,
            };
            self.decoded.push(decoded);
        }
        start..self.decoded.len()
    }

    /// Gives the parameters in order.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let slice = |range: &Range<usize>| self.decoded.get(range.clone()).unwrap_or_default();
        self.pairs.iter().map(move |(name, value)| (slice(name), slice(value)))
    }
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
    }

    #[test]
    fn bytes_that_are_no_text_are_kept_and_endless_forms_refused() {
        let form = Form::read(b"a=%ff\xfe").unwrap();
        assert_eq!(form.pairs().collect::<Vec<_>>(), [(&b"a"[..], &b"\xff\xfe"[..])]);
        assert!(Form::read("a=1&".repeat(1_000).as_bytes()).is_some());
        assert!(Form::read("a=1&".repeat(1_001).as_bytes()).is_none());
    }
}
