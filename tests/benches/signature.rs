//! What verifying a webhook costs beside the one operation of cryptography that no verification can do without.

use std::hint::black_box;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256,
};
use axum::body::Bytes;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use palisade_core::webhook::standard::{self, StandardWebhook};
use palisade_core::webhook::{RawDelivery, Webhook, hmac as codes};
use palisade_core::{Secret, Timestamp};
use palisade_google::webhook::{GoogleWebhook, Jwks, PushTrust, Trust};
use palisade_sendgrid::webhook::{self as sendgrid, SendGridWebhook};
use palisade_slack::webhook::{self as slack, SlackWebhook};
use palisade_stripe::webhook::{SIGNATURE, StripeWebhook};
use palisade_twilio::webhook::{self as twilio, Algorithm, TwilioWebhook};
use serde_json::json;
use sha2::Sha256;
use url::form_urlencoded;

use crate::harness::{Spread, rounds, thread_cpu};
use crate::report::{Row, Target};

/// Verifications of one contender in one round, where the cryptography is a hash.
const HASHED: usize = 50_000;
/// The same, where it is a public key's.
const PUBLIC_KEY: usize = 2_000;
/// When everything here is signed and checked.
const NOW: i64 = 1_780_000_000;
/// Where deliveries go.
const URL: &str = "https://hooks.example.com/palisade";

/// One scheme: a valid delivery, and the bare operation on the same bytes with its key set up before the clock starts.
struct Contest {
    what: &'static str,
    bare_name: &'static str,
    calls: usize,
    delivery: RawDelivery,
    secret: Secret,
    webhook: Box<dyn Webhook>,
    bare: Box<dyn FnMut()>,
}

/// Measures every scheme, on a body of 1 KiB where the scheme signs the body.
pub(crate) fn run(count: usize) -> Vec<Row> {
    let body = Bytes::from(vec![b'x'; 1_024]);
    let contests = [
        stripe(&body),
        standard_webhooks(&body),
        slack_events(&body),
        twilio_form(Algorithm::Sha1),
        twilio_form(Algorithm::Sha256),
        sendgrid_events(&body),
        google_push(),
    ];
    contests.into_iter().map(|contest| contest.row(count)).collect()
}

impl Contest {
    fn row(self, count: usize) -> Row {
        let Self { what, bare_name, calls, delivery, secret, webhook, mut bare } = self;
        let (secrets, now) = ([secret], Timestamp::from_seconds(NOW));
        let mut by_bare = || each(calls, &mut bare);
        let mut by_us = || {
            each(calls, || {
                webhook.verify(black_box(&delivery), &secrets, now).expect("it is valid");
            })
        };
        let took = rounds(count, &mut [&mut by_bare, &mut by_us]);
        let peer = format!("{bare_name}: {:.0} ns", Spread::of(took[0].clone()).median);
        // A speed over a speed: bare time over our time.
        Row::new("signature", what, Spread::of(took[1].clone()), "ns")
            .against(peer, Spread::ratio(&took[0], &took[1]))
            .target(Target::AtLeast(0.9))
    }
}

fn each(calls: usize, mut call: impl FnMut()) -> f64 {
    let start = thread_cpu();
    for _ in 0..calls {
        call();
    }
    (thread_cpu() - start).as_nanos() as f64 / calls as f64
}

/// HMAC-SHA256 of a message under a key that is set up already: the stricter peer.
fn bare_sha256(key: &[u8], message: Bytes) -> Box<dyn FnMut()> {
    let keyed = Hmac::<Sha256>::new_from_slice(key).expect("any key will do");
    Box::new(move || {
        let mut mac = black_box(&keyed).clone();
        mac.update(black_box(&message));
        black_box(mac.finalize());
    })
}

fn delivery(content_type: &'static str, body: &Bytes, headers: &[(&'static str, String)]) -> RawDelivery {
    // What else a delivery carries: a lookup among few headers would flatter us.
    let mut all = HeaderMap::new();
    for (name, value) in [
        ("host", "hooks.example.com"),
        ("user-agent", "Provider/1.0 (+https://example.com/docs/webhooks)"),
        ("accept", "*/*; q=0.5, application/xml"),
        ("content-type", content_type),
        ("content-length", "1024"),
        ("cache-control", "no-cache"),
    ] {
        all.insert(name, HeaderValue::from_static(value));
    }
    for (name, value) in headers {
        all.insert(HeaderName::from_static(name), value.parse().expect("a header"));
    }
    RawDelivery { method: Method::POST, url: URL.into(), headers: all, body: body.clone() }
}

const JSON: &str = "application/json; charset=utf-8";

fn stripe(body: &Bytes) -> Contest {
    let secret = Secret::new("whsec_5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH");
    let code = codes::sha256(secret.expose().as_bytes(), &[NOW.to_string().as_bytes(), b".", body]);
    let signature = format!("t={NOW},v1={}", codes::to_lower_hex(&code));
    Contest {
        what: "Stripe, 1 KiB, speed",
        bare_name: "bare HMAC-SHA256 of the body",
        calls: HASHED,
        delivery: delivery(JSON, body, &[(SIGNATURE.as_str(), signature)]),
        bare: bare_sha256(secret.expose().as_bytes(), body.clone()),
        secret,
        webhook: Box::new(StripeWebhook),
    }
}

fn standard_webhooks(body: &Bytes) -> Contest {
    let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let signature = standard::sign(&secret, "msg_1", NOW, body).expect("the secret is base64");
    let headers = [
        (standard::ID.as_str(), "msg_1".to_owned()),
        (standard::TIMESTAMP.as_str(), NOW.to_string()),
        (standard::SIGNATURE.as_str(), signature),
    ];
    Contest {
        what: "Standard Webhooks, 1 KiB, speed",
        bare_name: "bare HMAC-SHA256 of the body",
        calls: HASHED,
        delivery: delivery(JSON, body, &headers),
        bare: bare_sha256(secret.expose().as_bytes(), body.clone()),
        secret,
        webhook: Box::new(StandardWebhook),
    }
}

fn slack_events(body: &Bytes) -> Contest {
    let secret = Secret::new("8f742231b10e8888abcd99yyyzzz85a5");
    let signature = slack::sign(&secret, Timestamp::from_seconds(NOW), body);
    let headers = [(slack::SIGNATURE.as_str(), signature), (slack::TIMESTAMP.as_str(), NOW.to_string())];
    Contest {
        what: "Slack, 1 KiB, speed",
        bare_name: "bare HMAC-SHA256 of the body",
        calls: HASHED,
        delivery: delivery(JSON, body, &headers),
        bare: bare_sha256(secret.expose().as_bytes(), body.clone()),
        secret,
        webhook: Box::new(SlackWebhook),
    }
}

/// A message that came in. Twilio signs its parameters decoded and sorted, so the peer decodes and sorts them too, with
/// the field's crate for forms.
fn twilio_form(algorithm: Algorithm) -> Contest {
    let secret = Secret::new("0123456789abcdef0123456789abcdef");
    let form = "ToCountry=US&ToState=CA&SmsMessageSid=SM0123456789abcdef0123456789abcdef&NumMedia=0&ToCity=OAKLAND\
                &FromZip=94105&SmsSid=SM0123456789abcdef0123456789abcdef&FromState=CA&SmsStatus=received\
                &FromCity=SAN+FRANCISCO&Body=Is+my+order+%231042+on+its+way%3F&FromCountry=US&To=%2B15105550100\
                &ToZip=94601&NumSegments=1&MessageSid=SM0123456789abcdef0123456789abcdef\
                &AccountSid=AC0123456789abcdef0123456789abcdef&From=%2B14155550100&ApiVersion=2010-04-01";
    let mut headers = vec![(twilio::SIGNATURE.as_str(), twilio::sign(&secret, algorithm, URL, form.as_bytes()))];
    let key = secret.expose().as_bytes();
    let (what, bare_name, bare): (_, _, Box<dyn FnMut()>) = match algorithm {
        Algorithm::Sha1 => {
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
            let bare = move || {
                black_box(aws_lc_rs::hmac::sign(black_box(&key), sorted(black_box(form)).as_bytes()));
            };
            ("Twilio's auth token, form of 19 parameters, speed", "form decoded and sorted, HMAC-SHA1", Box::new(bare))
        }
        Algorithm::Sha256 => {
            headers.push((twilio::SETTINGS.as_str(), "algorithm=HMAC_SHA256".to_owned()));
            let keyed = Hmac::<Sha256>::new_from_slice(key).expect("any key will do");
            let bare = move || {
                let mut mac = black_box(&keyed).clone();
                mac.update(sorted(black_box(form)).as_bytes());
                black_box(mac.finalize());
            };
            (
                "Twilio's shared key, form of 19 parameters, speed",
                "form decoded and sorted, HMAC-SHA256",
                Box::new(bare),
            )
        }
    };
    let delivery = delivery("application/x-www-form-urlencoded", &Bytes::from_static(form.as_bytes()), &headers);
    Contest { what, bare_name, calls: HASHED, delivery, secret, webhook: Box::new(TwilioWebhook::new()), bare }
}

/// What Twilio signs, by the plainest means.
fn sorted(form: &str) -> String {
    let mut pairs: Vec<_> = form_urlencoded::parse(form.as_bytes()).collect();
    pairs.sort();
    pairs.iter().fold(URL.to_owned(), |message, (name, value)| message + name + value)
}

fn sendgrid_events(body: &Bytes) -> Contest {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
    let message = [NOW.to_string().as_bytes(), body].concat();
    let signature = pair.sign(&SystemRandom::new(), &message).expect("a signature");
    let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("a public key");
    let headers =
        [(sendgrid::SIGNATURE.as_str(), STANDARD.encode(signature)), (sendgrid::TIMESTAMP.as_str(), NOW.to_string())];
    let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, spki.as_ref()).expect("a public key");
    Contest {
        what: "SendGrid, 1 KiB, speed",
        bare_name: "bare ECDSA P-256 over SHA-256",
        calls: PUBLIC_KEY,
        delivery: delivery(JSON, body, &headers),
        secret: STANDARD.encode(spki.as_ref()).into(),
        webhook: Box::new(SendGridWebhook::new()),
        bare: Box::new(move || {
            black_box(&key).verify_sig(black_box(&message), signature.as_ref()).expect("it is valid");
        }),
    }
}

/// A Pub/Sub push with its OIDC token. The body is not signed; the token is.
fn google_push() -> Contest {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let email = "push@example.iam.gserviceaccount.com".into();
    let trust = PushTrust { audience: URL.into(), email, topic: None };
    let claims = json!({
        "iss": "https://accounts.google.com", "aud": trust.audience, "email": trust.email, "email_verified": true,
        "sub": "113774264463038321964", "azp": "113774264463038321964", "iat": NOW, "exp": NOW + 3_600,
    });
    let signed = format!("{}.{}", part(json!({"alg": "RS256", "kid": "key-1", "typ": "JWT"})), part(claims));
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).expect("a signature");
    let token = format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(&signature));
    let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let public = pair.public_key();
    let keys = json!({"keys": [{
        "kty": "RSA", "alg": "RS256", "use": "sig", "kid": "key-1",
        "n": number(public.modulus().big_endian_without_leading_zero()),
        "e": number(public.exponent().big_endian_without_leading_zero()),
    }]});
    let keys = Jwks::parse(keys.to_string().as_bytes()).expect("keys");
    let body = Bytes::from_static(br#"{"message":{"data":"eyJoaXN0b3J5SWQiOjF9","messageId":"1"},"subscription":"s"}"#);
    let key = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public.as_ref()).expect("a public key");
    Contest {
        what: "Google Pub/Sub, its token, speed",
        bare_name: "bare RSA-2048 over SHA-256 of the token",
        calls: PUBLIC_KEY,
        delivery: delivery(JSON, &body, &[("authorization", token)]),
        secret: Trust::Push(trust).to_secret(),
        webhook: Box::new(GoogleWebhook::with_keys(keys)),
        bare: Box::new(move || {
            black_box(&key).verify_sig(black_box(signed.as_bytes()), &signature).expect("it is valid");
        }),
    }
}
