//! What a provider gives when somebody allows it: tokens, scopes, and what renews them. And their plaintext form, which
//! leaves this crate sealed only.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::id::GrantName;
use crate::secret::Secret;

/// The name of the grant of a connection that has only one.
pub const MAIN: &str = "main";

/// A provider's answer to a connect or a renewal, for one grant.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Tokens {
    /// Which of the connection's grants.
    pub name: GrantName,
    /// The access token, sent as bearer.
    pub access: Secret,
    /// What gets the next one.
    pub renewal: Renewal,
    /// How long the access token lives; `None` when it does not expire.
    pub expires_in: Option<Duration>,
    /// The scopes that were asked for.
    pub requested: Vec<String>,
    /// The scopes that were granted.
    pub granted: Vec<String>,
}

impl Tokens {
    /// Returns the scopes that were asked for and not granted.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        missing(&self.requested, &self.granted)
    }
}

/// Returns the scopes of `requested` that are not in `granted`, in their order.
#[must_use]
pub fn missing(requested: &[String], granted: &[String]) -> Vec<String> {
    requested.iter().filter(|scope| !granted.contains(scope)).cloned().collect()
}

/// What gets a grant's next access token.
#[derive(Clone)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: each is renewed in one place")]
pub enum Renewal {
    /// Nothing: the token lives until somebody ends it.
    Never,
    /// A refresh token.
    RefreshToken(Secret),
    /// The client's own id and secret (client credentials): those of the flow, or these.
    Client(Option<(String, Secret)>),
    /// A service account's key.
    ServiceAccount {
        /// The key file, as the provider gave it (JSON).
        key: Secret,
        /// The user to act for (domain-wide delegation).
        subject: Option<String>,
    },
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "Never",
            Self::RefreshToken(_) => "RefreshToken(…)",
            Self::Client(_) => "Client(…)",
            Self::ServiceAccount { .. } => "ServiceAccount(…)",
        })
    }
}

/// The secrets of one grant: what its row seals.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct GrantSecrets {
    /// The access token.
    pub access: Secret,
    /// What gets the next one.
    pub renewal: Renewal,
}

/// The first byte of the plaintext.
const VERSION: u8 = 1;

/// The form, version 1: `0x01 | kind | fields`, each field behind its length (u32, big endian). The access token is
/// the first field; an absent field has the length `u32::MAX`. Written in one piece and read in place, so that no copy
/// is left behind unwiped.
const NEVER: u8 = 0;
const REFRESH_TOKEN: u8 = 1;
const OWN_CLIENT: u8 = 2;
const CLIENT: u8 = 3;
const SERVICE_ACCOUNT: u8 = 4;

impl GrantSecrets {
    /// Writes the secrets for sealing. The buffer is wiped when dropped.
    #[must_use]
    pub fn to_plaintext(&self) -> Zeroizing<Vec<u8>> {
        let (kind, first, second) = match &self.renewal {
            Renewal::Never => (NEVER, None, None),
            Renewal::RefreshToken(token) => (REFRESH_TOKEN, Some(token.expose()), None),
            Renewal::Client(None) => (OWN_CLIENT, None, None),
            Renewal::Client(Some((id, secret))) => (CLIENT, Some(id.as_str()), Some(secret.expose())),
            Renewal::ServiceAccount { key, subject } => (SERVICE_ACCOUNT, Some(key.expose()), subject.as_deref()),
        };
        let fields = [Some(self.access.expose()), first, second];
        let length = 2 + fields.iter().map(|field| 4 + field.map_or(0, str::len)).sum::<usize>();
        let mut bytes = Zeroizing::new(Vec::with_capacity(length));
        bytes.extend([VERSION, kind]);
        for field in fields {
            let length = field.map_or(u32::MAX, |text| u32::try_from(text.len()).unwrap_or(u32::MAX));
            bytes.extend(length.to_be_bytes());
            bytes.extend(field.unwrap_or_default().as_bytes());
        }
        bytes
    }

    /// Reads an opened plaintext.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when it is not one of ours.
    pub fn from_plaintext(bytes: &[u8]) -> Result<Self> {
        Self::read(bytes).ok_or_else(|| Error::new(ErrorKind::Decode, "the opened grant is not in a known form"))
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (&[version, kind], mut rest) = bytes.split_first_chunk::<2>()?;
        if version != VERSION {
            return None;
        }
        let mut field = || -> Option<Option<&str>> {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let length = u32::from_be_bytes(*length);
            if length == u32::MAX {
                rest = after;
                return Some(None);
            }
            let (text, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
            rest = after;
            std::str::from_utf8(text).ok().map(Some)
        };
        let access = Secret::new(field()??);
        let (first, second) = (field()?, field()?);
        if !rest.is_empty() {
            return None;
        }
        let renewal = match (kind, first, second) {
            (NEVER, None, None) => Renewal::Never,
            (REFRESH_TOKEN, Some(token), None) => Renewal::RefreshToken(token.into()),
            (OWN_CLIENT, None, None) => Renewal::Client(None),
            (CLIENT, Some(id), Some(secret)) => Renewal::Client(Some((id.to_owned(), secret.into()))),
            (SERVICE_ACCOUNT, Some(key), subject) => {
                Renewal::ServiceAccount { key: key.into(), subject: subject.map(str::to_owned) }
            }
            _ => return None,
        };
        Some(Self { access, renewal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a byte of the form changes: sealed rows would not be read.
    #[test]
    fn the_form_is_fixed() {
        for (renewal, wanted) in [
            (Renewal::Never, &b"\x01\x00\x00\x00\x00\x02at\xff\xff\xff\xff\xff\xff\xff\xff"[..]),
            (Renewal::RefreshToken("rt".into()), b"\x01\x01\x00\x00\x00\x02at\x00\x00\x00\x02rt\xff\xff\xff\xff"),
            (Renewal::Client(None), b"\x01\x02\x00\x00\x00\x02at\xff\xff\xff\xff\xff\xff\xff\xff"),
            (
                Renewal::Client(Some(("id".to_owned(), "".into()))),
                b"\x01\x03\x00\x00\x00\x02at\x00\x00\x00\x02id\x00\x00\x00\x00",
            ),
            (
                Renewal::ServiceAccount { key: "{}".into(), subject: Some("a@b".to_owned()) },
                b"\x01\x04\x00\x00\x00\x02at\x00\x00\x00\x02{}\x00\x00\x00\x03a@b",
            ),
        ] {
            let secrets = GrantSecrets { access: "at".into(), renewal };
            let plain = secrets.to_plaintext();
            assert_eq!(plain.as_slice(), wanted, "{secrets:?}");
            let read = GrantSecrets::from_plaintext(&plain).unwrap();
            assert_eq!(read.to_plaintext(), plain);
            for cut in 0..plain.len() {
                assert!(GrantSecrets::from_plaintext(&plain[..cut]).is_err(), "cut at {cut}");
            }
            let longer = [plain.as_slice(), b"\0"].concat();
            assert!(GrantSecrets::from_plaintext(&longer).is_err());
            assert!(!format!("{secrets:?}").contains("rt"), "{secrets:?}");
        }
        for wrong in [
            &b"\x02\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"[..],
            b"\x01\x05\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x01\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x01\x01\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x01\x00\xff\xff\xff\xfe\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x01\x00\x00\x00\x00\x01\xc3\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert_eq!(GrantSecrets::from_plaintext(wrong).unwrap_err().kind(), ErrorKind::Decode);
        }
    }

    #[test]
    fn what_was_not_granted_is_named_in_order() {
        let list = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(missing(&list("c a b"), &list("a x")), ["c", "b"]);
        assert!(missing(&[], &list("a")).is_empty());
    }
}
