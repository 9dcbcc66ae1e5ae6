//! Proof Key for Code Exchange (RFC 7636): what an authorisation is bound to, and whether a verifier fits.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// Bounds of a verifier and of a plain challenge (RFC 7636 sections 4.1 and 4.2).
const LENGTH: std::ops::RangeInclusive<usize> = 43..=128;

/// What the authorisation request said about its verifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// The verifier itself.
    Plain(String),
    /// Its SHA-256.
    S256(String),
}

impl Challenge {
    /// Reads `code_challenge` and `code_challenge_method`; `None` when the request has none.
    ///
    /// # Errors
    /// Says what is wrong with a challenge that no verifier could ever fit.
    pub(crate) fn read(challenge: Option<&str>, method: Option<&str>) -> Result<Option<Self>, &'static str> {
        let challenge = match (challenge, method) {
            (None, None) => return Ok(None),
            (None, Some(_)) => return Err("code_challenge_method came without code_challenge"),
            (Some(challenge), _) => challenge,
        };
        match method.unwrap_or("plain") {
            "S256" => match URL_SAFE_NO_PAD.decode(challenge) {
                Ok(digest) if digest.len() == 32 => Ok(Some(Self::S256(challenge.to_owned()))),
                Ok(_) | Err(_) => Err("code_challenge is not the base64url of a SHA-256"),
            },
            "plain" if is_verifier(challenge) => Ok(Some(Self::Plain(challenge.to_owned()))),
            "plain" => Err("code_challenge is not 43 to 128 unreserved characters"),
            _ => Err("code_challenge_method is neither S256 nor plain"),
        }
    }

    /// Tells whether the verifier is the one the challenge was made from.
    pub(crate) fn fits(&self, verifier: &str) -> bool {
        is_verifier(verifier)
            && match self {
                Self::Plain(challenge) => challenge == verifier,
                Self::S256(challenge) => *challenge == URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes())),
            }
    }

    /// Tells whether the challenge hides its verifier.
    pub(crate) fn is_hashed(&self) -> bool {
        matches!(self, Self::S256(_))
    }
}

fn is_verifier(text: &str) -> bool {
    LENGTH.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7636 appendix B.
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    #[test]
    fn the_published_example_fits() {
        let challenge = Challenge::read(Some(CHALLENGE), Some("S256")).unwrap().unwrap();
        assert!(challenge.fits(VERIFIER) && challenge.is_hashed());
        assert!(!challenge.fits(CHALLENGE) && !challenge.fits(&VERIFIER.replace('d', "e")));
        let plain = Challenge::read(Some(VERIFIER), None).unwrap().unwrap();
        assert!(plain.fits(VERIFIER) && !plain.fits(CHALLENGE) && !plain.is_hashed());
    }

    #[test]
    fn hopeless_challenges_are_refused() {
        assert_eq!(Challenge::read(None, None), Ok(None));
        for (challenge, method) in [
            (None, Some("S256")),
            (Some("short"), None),
            (Some(VERIFIER), Some("S512")),
            (Some("!!!!"), Some("S256")),
            (Some("AAAA"), Some("S256")),
        ] {
            assert!(Challenge::read(challenge, method).is_err(), "{challenge:?} {method:?}");
        }
        assert!(!Challenge::Plain("short".to_owned()).fits("short"), "a verifier has at least 43 characters");
    }
}
