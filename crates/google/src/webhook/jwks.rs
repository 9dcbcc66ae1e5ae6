//! The keys Google signs its tokens with: read from its JWKS, kept as long as it says, fetched again when due.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{AGE, CACHE_CONTROL};
use palisade_core::webhook::{KeysWanted, PublishedKeys};
use palisade_core::{Error, ErrorKind, Result, Timestamp, Transport};
use serde_json::Value;

/// Where Google publishes the keys of its OIDC tokens.
pub const JWKS_URL: &str = "https://www.googleapis.com/oauth2/v3/certs";

/// Google publishes two or three keys.
const KEYS_MAX: usize = 32;
/// The largest answer read, in bytes.
const BODY_BYTES_MAX: usize = 64 << 10;
/// RSA keys of 2048 to 8192 bits; smaller ones are no proof.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1_024;
/// Pub/Sub waits ten seconds for an answer (its default), which a fetch must leave room in.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// The shortest time between two fetches for a missing key, and between two that failed.
const FLOOR: Duration = Duration::from_secs(60);
/// How long keys are kept when the answer does not say.
const KEPT_BY_DEFAULT: Duration = Duration::from_secs(3_600);
/// The longest they are kept whatever the answer says: Google rotates weekly and says hours.
const KEPT_MAX: Duration = Duration::from_secs(24 * 3_600);
/// How long old keys are used when no new ones can be had.
const STALE_MAX: Duration = Duration::from_secs(24 * 3_600);

/// A set of public keys.
#[derive(Clone, Default)]
pub struct Jwks {
    keys: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    id: String,
    // Set up once: a token should not pay for reading the key again.
    public: ParsedPublicKey,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.public.as_ref() == other.public.as_ref()
    }
}

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.id)).finish()
    }
}

impl Jwks {
    /// Reads a JWKS document. Keys that are no RSA keys for RS256 signatures are left out.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when it is none, or holds no usable key.
    pub fn parse(document: &[u8]) -> Result<Self> {
        let wrong = |why: &'static str| Error::new(ErrorKind::Decode, why).during("google", "jwks");
        let value: Value = serde_json::from_slice(document).map_err(|_| wrong("the key set is not JSON"))?;
        let listed = value.get("keys").and_then(Value::as_array).ok_or_else(|| wrong("the key set has no keys"))?;
        let keys: Vec<Key> = listed.iter().take(KEYS_MAX).filter_map(Key::read).collect();
        if keys.is_empty() {
            return Err(wrong("the key set has no RSA key for RS256 signatures"));
        }
        Ok(Self { keys })
    }

    /// Tells whether a key of this id is there.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.keys.iter().any(|key| key.id == id)
    }

    /// Tells whether `signature` is that of `message` by the key of this id; `None` when there is no such key.
    #[must_use]
    pub fn verify(&self, id: &str, message: &[u8], signature: &[u8]) -> Option<bool> {
        let key = self.keys.iter().find(|key| key.id == id)?;
        Some(key.public.verify_sig(message, signature).is_ok())
    }
}

impl Key {
    fn read(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let is = |name: &str, wanted: &str| text(name).is_none_or(|found| found == wanted);
        if text("kty") != Some("RSA") || !is("alg", "RS256") || !is("use", "sig") {
            return None;
        }
        let number = |name: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(text(name)?).ok()?;
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            Some(bytes.get(zeros..)?.to_vec())
        };
        let (modulus, exponent) = (number("n")?, number("e")?);
        let id = text("kid").filter(|id| !id.is_empty())?;
        if !MODULUS_BYTES.contains(&modulus.len()) || !(1..=8).contains(&exponent.len()) {
            return None;
        }
        let components = RsaPublicKeyComponents { n: &modulus, e: &exponent };
        let public = components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).ok()?;
        Some(Self { id: id.to_owned(), public })
    }
}

/// The keys at hand, with when they were fetched. Verification reads them; [`PublishedKeys::refresh`] replaces them.
pub struct KeyCache {
    url: String,
    held: Mutex<Held>,
    /// Held while a fetch is under way.
    flight: tokio::sync::Mutex<()>,
}

#[derive(Clone, Default)]
struct Held {
    keys: Arc<Jwks>,
    /// Until when the provider lets them be kept; `None` when they were given and not fetched.
    fresh_until: Option<Timestamp>,
    /// When a fetch was last begun, and whether it brought keys.
    tried: Option<(Timestamp, bool)>,
}

impl fmt::Debug for KeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held();
        f.debug_struct("KeyCache")
            .field("keys", &held.keys)
            .field("fresh_until", &held.fresh_until)
            .finish_non_exhaustive()
    }
}

impl Default for KeyCache {
    fn default() -> Self {
        Self { url: JWKS_URL.to_owned(), held: Mutex::default(), flight: tokio::sync::Mutex::new(()) }
    }
}

impl KeyCache {
    /// Makes a cache with keys that are at hand.
    #[must_use]
    pub fn holding(keys: Jwks) -> Self {
        let held = Held { keys: Arc::new(keys), ..Held::default() };
        Self { held: Mutex::new(held), ..Self::default() }
    }

    /// Fetches from another address than [`JWKS_URL`].
    #[must_use]
    pub fn at(mut self, url: impl Into<String>) -> Self {
        self.url = url.into();
        self
    }

    /// Returns the keys to verify with: none when those there are too old to be trusted.
    #[must_use]
    pub fn at_hand(&self, now: Timestamp) -> Arc<Jwks> {
        let held = self.held();
        let too_old = held.fresh_until.is_some_and(|until| now > until.plus(STALE_MAX));
        if too_old { Arc::default() } else { Arc::clone(&held.keys) }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether a fetch is worth making. A clock that went backwards is no reason to wait.
    fn is_due(&self, now: Timestamp, wanted: KeysWanted) -> bool {
        let held = self.held();
        let just_tried = |at: Timestamp| now >= at && now.since(at) < FLOOR;
        match wanted {
            KeysWanted::Missing => !held.tried.is_some_and(|(at, _)| just_tried(at)),
            KeysWanted::Stale => {
                drop(held);
                self.stale(now)
            }
        }
    }

    async fn fetch(&self, transport: &dyn Transport, now: Timestamp) -> Result<bool> {
        self.held().tried = Some((now, false));
        let failed = |why: &'static str| Error::new(ErrorKind::Provider, why).during("google", "jwks");
        let request = http::Request::get(&self.url)
            .header("accept", "application/json")
            .body(Bytes::new())
            .map_err(|_| Error::new(ErrorKind::Config, "the address of the key set is not a URL"))?;
        let answer = tokio::time::timeout(FETCH_TIMEOUT, transport.send(request)).await;
        let response = answer.map_err(|_| {
            Error::new(ErrorKind::Timeout, "the key set was not there in time").during("google", "jwks")
        })??;
        if response.status() != http::StatusCode::OK {
            return Err(failed("the key set could not be fetched").with_status(response.status().as_u16()));
        }
        if response.body().len() > BODY_BYTES_MAX {
            return Err(failed("the key set is larger than any of Google's"));
        }
        let keys = Jwks::parse(response.body())?;
        let mut held = self.held();
        let changed = keys.keys != held.keys.keys;
        *held = Held {
            keys: Arc::new(keys),
            fresh_until: Some(now.plus(kept(response.headers()))),
            tried: Some((now, true)),
        };
        Ok(changed)
    }
}

#[async_trait]
impl PublishedKeys for KeyCache {
    fn stale(&self, now: Timestamp) -> bool {
        let held = self.held();
        let failed_just_now = held.tried.is_some_and(|(at, brought)| !brought && now >= at && now.since(at) < FLOOR);
        let old = held.fresh_until.is_none_or(|until| now >= until || until > now.plus(KEPT_MAX));
        old && !failed_just_now
    }

    async fn refresh(&self, transport: &dyn Transport, now: Timestamp, wanted: KeysWanted) -> Result<bool> {
        let before = Arc::clone(&self.held().keys);
        let _flight = match wanted {
            // One fetches; the others have keys that will do. Without any, all wait.
            KeysWanted::Stale if !before.keys.is_empty() => match self.flight.try_lock() {
                Ok(flight) => flight,
                Err(_) => return Ok(false),
            },
            KeysWanted::Stale | KeysWanted::Missing => self.flight.lock().await,
        };
        // Whoever held the flight before may have brought what is wanted.
        let meanwhile = Arc::clone(&self.held().keys);
        if meanwhile.keys != before.keys {
            return Ok(true);
        }
        if !self.is_due(now, wanted) {
            return Ok(false);
        }
        self.fetch(transport, now).await
    }
}

/// Reads how long an answer may be kept (RFC 9111): `max-age` less the `Age` it has already, within our own bounds.
fn kept(headers: &HeaderMap) -> Duration {
    let directives = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let directives: Vec<&str> = directives.flat_map(|value| value.split(',')).map(str::trim).collect();
    let never = directives.iter().any(|d| d.eq_ignore_ascii_case("no-store") || d.eq_ignore_ascii_case("no-cache"));
    if never {
        return FLOOR;
    }
    let max_age = directives.iter().find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| value.trim_matches('"').parse::<u64>().ok())?
    });
    let age = headers.get(AGE).and_then(|age| age.to_str().ok()?.parse().ok()).unwrap_or(0);
    let kept = max_age.map_or(KEPT_BY_DEFAULT, |max_age| Duration::from_secs(max_age.saturating_sub(age)));
    kept.clamp(FLOOR, KEPT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn kept_for(headers: &[(&'static str, &'static str)], seconds: u64) {
        let map = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)));
        assert_eq!(kept(&map.collect()), Duration::from_secs(seconds), "{headers:?}");
    }

    #[test]
    fn keys_are_kept_as_long_as_the_answer_says_within_bounds() {
        kept_for(&[("cache-control", "public, max-age=22149, must-revalidate, no-transform")], 22_149);
        kept_for(&[("cache-control", "public, Max-Age=\"7200\""), ("age", "1200")], 6_000);
        kept_for(&[("cache-control", "max-age=100"), ("age", "500")], 60);
        kept_for(&[("cache-control", "max-age=99999999999")], 86_400);
        kept_for(&[("cache-control", "max-age=-5")], 3_600);
        kept_for(&[("cache-control", "no-store, max-age=900")], 60);
        kept_for(&[], 3_600);
    }

    #[test]
    fn only_rsa_keys_for_signatures_are_taken() {
        let modulus = "w".repeat(342);
        let key = |fields: &str| format!(r#"{{"kid":"k","n":"{modulus}","e":"AQAB",{fields}}}"#);
        let taken = |keys: &str| Jwks::parse(format!(r#"{{"keys":[{keys}]}}"#).as_bytes()).is_ok();
        assert!(taken(&key(r#""kty":"RSA","alg":"RS256","use":"sig""#)));
        assert!(taken(&key(r#""kty":"RSA""#)));
        for bad in [
            key(r#""kty":"RSA","alg":"RS512""#),
            key(r#""kty":"RSA","use":"enc""#),
            key(r#""kty":"oct""#),
            r#"{"kid":"k","kty":"RSA","n":"wwww","e":"AQAB"}"#.to_owned(),
            format!(r#"{{"kty":"RSA","n":"{modulus}","e":"AQAB"}}"#),
            "7".to_owned(),
            String::new(),
        ] {
            assert!(!taken(&bad), "{bad}");
        }
        for bad in ["", "[]", "{}", r#"{"keys":{}}"#, "<html>"] {
            assert_eq!(Jwks::parse(bad.as_bytes()).unwrap_err().kind(), ErrorKind::Decode);
        }
    }
}
