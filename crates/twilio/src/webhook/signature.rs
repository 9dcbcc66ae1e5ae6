//! The signature: `X-Twilio-Signature` over the URL and the parameters, or over the URL that carries the body's hash.
//!
//! base64 of an HMAC under the account's auth token, SHA-1, of the full URL followed by each POST parameter, name and
//! value, names sorted, repeated values each once (twilio-python 9.13, twilio-node 6.2). With the header
//! `X-Twilio-Webhooks-Signature-Settings` it is the algorithm named there under a shared key. A body that is no form is
//! covered by `bodySHA256` in the URL.
//!
//! Where the SDKs are lax the stricter reading is taken: an empty settings header or one without an algorithm is refused
//! (they take SHA-1), a body that nothing signs is refused, a form whose URL carries a `bodySHA256` must match both.

use aws_lc_rs::hmac as legacy;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::CONTENT_TYPE;
use http::{HeaderName, Method};
use palisade_core::Secret;
use palisade_core::webhook::{RawDelivery, Refusal, hmac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::form::Form;

/// The header with the signature.
pub static SIGNATURE: HeaderName = HeaderName::from_static("x-twilio-signature");
/// The header that names the shared key and the algorithm, where a shared key signs.
pub static SETTINGS: HeaderName = HeaderName::from_static("x-twilio-webhooks-signature-settings");
/// The query parameter with the hash of a body that is no form.
const BODY_HASH: &str = "bodySHA256";

/// The algorithm of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: any other is refused")]
pub enum Algorithm {
    /// HMAC-SHA1: the auth token's, and what no settings header means.
    Sha1,
    /// HMAC-SHA256: a shared key's.
    Sha256,
}

impl Algorithm {
    fn code(self, secret: &Secret, url: &[&str], form: &Form) -> Vec<u8> {
        let mut message = Vec::with_capacity(url.iter().map(|part| part.len()).sum::<usize>() + form.len());
        url.iter().for_each(|part| message.extend_from_slice(part.as_bytes()));
        form.write(&mut message);
        match self {
            // aws-lc is linked for the vault already; it spares a crate for an algorithm nothing else here uses.
            Self::Sha1 => {
                let key = legacy::Key::new(legacy::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.expose().as_bytes());
                legacy::sign(&key, &message).as_ref().to_vec()
            }
            Self::Sha256 => secret.hmac_key().code(&[&message]).to_vec(),
        }
    }
}

/// Says what a delivery's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Parameters, which are signed one by one.
    Form,
    /// Anything else, which is signed by its hash.
    Opaque,
}

impl Body {
    /// Tells by the content type. Without one it is a form: Twilio's deliveries were forms before they were anything
    /// else, and a form is signed whole.
    pub(super) fn of(delivery: &RawDelivery) -> Self {
        let kind = delivery.headers.get(CONTENT_TYPE).map(|kind| kind.as_bytes());
        let essence = kind.map(|kind| kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii());
        match essence {
            None => Self::Form,
            Some(kind) if kind.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") => Self::Form,
            Some(_) => Self::Opaque,
        }
    }
}

/// Makes the value of the signature header: for tests and for products that send themselves deliveries.
#[must_use]
pub fn sign(secret: &Secret, algorithm: Algorithm, url: &str, form: &[u8]) -> String {
    let form = Form::read(form).unwrap_or_default();
    STANDARD.encode(algorithm.code(secret, &[url], &form))
}

/// Checks a delivery's signature.
pub(super) fn verify(delivery: &RawDelivery, secrets: &[Secret]) -> Result<(), Refusal> {
    let signature = delivery.header(&SIGNATURE)?;
    let algorithm = algorithm(delivery)?;
    let form = signed_form(delivery)?;
    let other = other_port(&delivery.url);
    let urls = [Some(vec![delivery.url.as_str()]), other];
    for secret in secrets {
        for url in urls.iter().flatten() {
            let code = algorithm.code(secret, url, &form);
            let expected = STANDARD.encode(code);
            if expected.as_bytes().ct_eq(signature.as_bytes()).into() {
                return Ok(());
            }
        }
    }
    Err(Refusal::Mismatch)
}

fn algorithm(delivery: &RawDelivery) -> Result<Algorithm, Refusal> {
    if !delivery.headers.contains_key(&SETTINGS) {
        return Ok(Algorithm::Sha1);
    }
    let mut named = None;
    for part in delivery.header(&SETTINGS)?.split(',') {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if name.trim() == "algorithm" && named.replace(value.trim()).is_some() {
            return Err(Refusal::Malformed("the signature's settings name more than one algorithm"));
        }
    }
    match named {
        Some(name) if name.eq_ignore_ascii_case("HMAC_SHA1") => Ok(Algorithm::Sha1),
        Some(name) if name.eq_ignore_ascii_case("HMAC_SHA256") => Ok(Algorithm::Sha256),
        Some(_) | None => Err(Refusal::UnknownScheme),
    }
}

/// Finds the parameters that are signed beside the URL, and makes sure that every byte of the body is signed somehow.
fn signed_form(delivery: &RawDelivery) -> Result<Form, Refusal> {
    let hash = body_hash(&delivery.url)?;
    if let Some(hash) = hash
        && !hmac::matches_lower_hex(&Sha256::digest(&delivery.body).into(), hash)
    {
        return Err(Refusal::Mismatch);
    }
    let too_many = Refusal::Malformed("the form has more parameters than any of Twilio's");
    match (Body::of(delivery), delivery.method == Method::GET) {
        _ if delivery.body.is_empty() => Ok(Form::default()),
        (Body::Form, false) => Form::read(&delivery.body).ok_or(too_many),
        (Body::Form | Body::Opaque, _) if hash.is_some() => Ok(Form::default()),
        (Body::Form | Body::Opaque, _) => {
            Err(Refusal::Malformed("the body is not signed: it is no form, and the URL carries no bodySHA256"))
        }
    }
}

fn body_hash(url: &str) -> Result<Option<&str>, Refusal> {
    let url = url.split('#').next().unwrap_or_default();
    let Some((_, query)) = url.split_once('?') else { return Ok(None) };
    let mut hashes = query.split('&').filter_map(|pair| pair.split_once('=')).filter(|(name, _)| *name == BODY_HASH);
    let found = hashes.next().map(|(_, hash)| hash);
    if hashes.next().is_some() {
        return Err(Refusal::Malformed("the URL carries more than one bodySHA256"));
    }
    Ok(found)
}

/// Writes the URL with its port taken away, or with the default one added: Twilio's servers disagree on it.
fn other_port(url: &str) -> Option<Vec<&str>> {
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end)?;
    // A colon is a port's only behind the bracket of an IPv6 address and behind a user.
    let host_at = authority.rfind(['@', ']']).map_or(0, |at| at + 1);
    let port_at = authority.get(host_at..)?.find(':').map(|at| host_at + at);
    let (host, port) = match port_at {
        Some(at) => (authority.get(..at)?, ""),
        None if scheme.eq_ignore_ascii_case("https") => (authority, ":443"),
        None => (authority, ":80"),
    };
    Some(vec![scheme, "://", host, port, path])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_one_other_form() {
        let check = |url: &str, other: &str| assert_eq!(other_port(url).unwrap().concat(), other);
        check("https://a.example/x?y=1", "https://a.example:443/x?y=1");
        check("http://a.example", "http://a.example:80");
        check("https://a.example:8443/x", "https://a.example/x");
        check("https://a.example:443?x", "https://a.example?x");
        check("https://[::1]/x", "https://[::1]:443/x");
        check("https://[::1]:8443/x", "https://[::1]/x");
        check("https://u:p@a.example/x:1", "https://u:p@a.example:443/x:1");
        assert_eq!(other_port("a.example/x"), None);
        assert_eq!(other_port(""), None);
    }

    #[test]
    fn the_reference_of_the_official_sdks_is_met() {
        let form = "CallSid=CA1234567890ABCDE&Digits=1234&From=%2B14158675309&To=%2B18005551212&Caller=%2B14158675309";
        let url = "https://mycompany.com/myapp.php?foo=1&bar=2";
        assert_eq!(sign(&"12345".into(), Algorithm::Sha1, url, form.as_bytes()), "RSOYDt4T1cUTdK1PDd93/VVr8B8=");
    }
}
