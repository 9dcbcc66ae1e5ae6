//! Twilio's identifiers as types: two letters that tell the kind and 32 hexadecimal digits (Twilio OpenAPI, 2026-04).
//!
//! Strict on purpose: a SID stands in paths, and nothing that passes here can name another resource.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::sync::Arc;

/// A kind of resource that has a SID.
pub trait Kind {
    /// What it is called.
    const NAME: &'static str;
    /// The letters its SIDs begin with.
    const PREFIXES: &'static [&'static str];
}

/// The SID of a resource.
pub struct Sid<K>(Arc<str>, PhantomData<fn() -> K>);

/// Says that a text is no SID of the kind asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotASid {
    kind: &'static str,
}

impl fmt::Display for NotASid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the text is not the SID of {}", self.kind)
    }
}

impl std::error::Error for NotASid {}

/// The length of every SID.
const BYTES: usize = 34;

impl<K: Kind> Sid<K> {
    /// Takes a text as this SID.
    ///
    /// # Errors
    /// [`NotASid`] when it is not one.
    pub fn parse(text: &str) -> Result<Self, NotASid> {
        let digits = K::PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix));
        let fits = text.len() == BYTES && digits.is_some_and(|rest| rest.bytes().all(|c| c.is_ascii_hexdigit()));
        if fits { Ok(Self(text.into(), PhantomData)) } else { Err(NotASid { kind: K::NAME }) }
    }
}

impl<K> Sid<K> {
    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<K> Clone for Sid<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), PhantomData)
    }
}

impl<K> PartialEq for Sid<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<K> Eq for Sid<K> {}

impl<K> Hash for Sid<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl<K> fmt::Debug for Sid<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl<K> fmt::Display for Sid<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<K: Kind> std::str::FromStr for Sid<K> {
    type Err = NotASid;

    fn from_str(text: &str) -> Result<Self, NotASid> {
        Self::parse(text)
    }
}

impl<'de, K: Kind> serde::Deserialize<'de> for Sid<K> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Marks [`AccountSid`].
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a mark without a value")]
pub struct Account;
/// Marks [`MessageSid`].
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a mark without a value")]
pub struct Message;
/// Marks [`ServiceSid`].
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a mark without a value")]
pub struct Service;
/// Marks [`ContentSid`].
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a mark without a value")]
pub struct Content;
/// Marks [`CallSid`].
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a mark without a value")]
pub struct Call;
/// Marks [`RecordingSid`].
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a mark without a value")]
pub struct Recording;

impl Kind for Account {
    const NAME: &'static str = "an account (AC…)";
    const PREFIXES: &'static [&'static str] = &["AC"];
}

impl Kind for Message {
    const NAME: &'static str = "a message (SM… or MM…)";
    const PREFIXES: &'static [&'static str] = &["SM", "MM"];
}

impl Kind for Service {
    const NAME: &'static str = "a messaging service (MG…)";
    const PREFIXES: &'static [&'static str] = &["MG"];
}

impl Kind for Content {
    const NAME: &'static str = "a content template (HX…)";
    const PREFIXES: &'static [&'static str] = &["HX"];
}

impl Kind for Call {
    const NAME: &'static str = "a call (CA…)";
    const PREFIXES: &'static [&'static str] = &["CA"];
}

impl Kind for Recording {
    const NAME: &'static str = "a recording (RE…)";
    const PREFIXES: &'static [&'static str] = &["RE"];
}

/// The SID of an account or subaccount.
pub type AccountSid = Sid<Account>;
/// The SID of a message.
pub type MessageSid = Sid<Message>;
/// The SID of a messaging service.
pub type ServiceSid = Sid<Service>;
/// The SID of a content template.
pub type ContentSid = Sid<Content>;
/// The SID of a call.
pub type CallSid = Sid<Call>;
/// The SID of a recording.
pub type RecordingSid = Sid<Recording>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sid_is_two_letters_of_its_kind_and_32_digits() {
        let digits = "0123456789abcdef0123456789ABCDEF";
        assert!(MessageSid::parse(&format!("SM{digits}")).is_ok());
        assert!(MessageSid::parse(&format!("MM{digits}")).is_ok());
        assert!(AccountSid::parse(&format!("AC{digits}")).is_ok());
        for bad in [
            String::new(),
            "SM".to_owned(),
            format!("AC{digits}"),
            format!("sm{digits}"),
            format!("SM{digits}0"),
            format!("SM{}", &digits[1..]),
            format!("SM{}/", &digits[1..]),
            format!("SM{}é", &digits[2..]),
            format!(" SM{}", &digits[1..]),
        ] {
            assert!(MessageSid::parse(&bad).is_err(), "{bad}");
        }
    }
}
