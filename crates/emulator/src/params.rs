//! Form pairs as OAuth and the form-encoded APIs send them: flat, decoded once, in the order they came.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// How many pairs one request may carry; a consent page with every scope of a provider stays far below.
const PAIRS_MAX: usize = 1024;
/// What `application/x-www-form-urlencoded` leaves as it is.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*');

/// Decoded pairs.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Decodes `a=b&c=d`.
    ///
    /// # Errors
    /// Says what is wrong with a text that is not UTF-8 after decoding, or that has too many pairs.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(text).map_err(|_| "the form is not UTF-8")?;
        let mut pairs = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            if pairs.len() >= PAIRS_MAX {
                return Err("the form has too many fields");
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode(name)?, decode(value)?));
        }
        Ok(Self(pairs))
    }

    /// Gives the first value of a name; an empty one counts as absent (RFC 6749 section 3.1).
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// Gives every value of a name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Gives one of the names that came more than once, which OAuth forbids (RFC 6749 sections 3.1 and 3.2).
    pub(crate) fn repeated(&self) -> Option<&str> {
        let mut names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.windows(2).find_map(|pair| match pair {
            [one, two] if one == two => Some(*one),
            _ => None,
        })
    }

    /// Walks the pairs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Appends a pair.
    pub(crate) fn push(&mut self, name: &str, value: impl Into<String>) {
        self.0.push((name.to_owned(), value.into()));
    }
}

fn decode(text: &str) -> Result<String, &'static str> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced)
        .decode_utf8()
        .map(|decoded| decoded.into_owned())
        .map_err(|_| "the form is not UTF-8 after decoding")
}

/// Encodes one name or value; a space becomes `%20`, which every decoder reads.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, FORM).to_string()
}

/// Encodes pairs as a form or query.
pub(crate) fn encode_all<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(&encode(name));
        out.push('=');
        out.push_str(&encode(value));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded_once_and_empty_ones_are_absent() {
        let params = Params::parse(b"a=1%2B1&b=x+y&c=&a=2&%C3%A9=%25").unwrap();
        assert_eq!((params.get("a"), params.get("b"), params.get("c")), (Some("1+1"), Some("x y"), None));
        assert_eq!((params.get("é"), params.repeated()), (Some("%"), Some("a")));
        assert_eq!(params.all("a").collect::<Vec<_>>(), ["1+1", "2"]);
        assert!(Params::parse(b"a=%ff").is_err() && Params::parse(b"a=\xff").is_err());
        assert!(Params::parse("a=1&".repeat(PAIRS_MAX + 1).as_bytes()).is_err());
    }

    #[test]
    fn what_is_encoded_decodes_to_itself() {
        let pairs = [("redirect_uri", "https://a.example/cb?x=1&y=é#"), ("state", "a b+c")];
        let text = encode_all(pairs);
        let back = Params::parse(text.as_bytes()).unwrap();
        assert_eq!(back.iter().collect::<Vec<_>>(), pairs);
    }
}
