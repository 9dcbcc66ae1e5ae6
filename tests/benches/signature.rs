//! What verifying a webhook costs beside the HMAC-SHA256 that no verification can do without.

use std::hint::black_box;

use axum::body::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use palisade_core::webhook::standard::{self, StandardWebhook};
use palisade_core::webhook::{RawDelivery, Webhook, hmac as codes};
use palisade_core::{Secret, Timestamp};
use palisade_stripe::webhook::{SIGNATURE, StripeWebhook};
use sha2::Sha256;

use crate::harness::{Spread, rounds, thread_cpu};
use crate::report::{Row, Target};

/// Verifications of one contender in one round.
const CALLS: usize = 50_000;
/// When everything here is signed and checked.
pub(crate) const NOW: i64 = 1_780_000_000;

/// Measures Stripe's and Standard Webhooks' schemes on a body of 1 KiB.
pub(crate) fn run(count: usize) -> Vec<Row> {
    let body = Bytes::from(vec![b'x'; 1_024]);
    let stripe_secret = Secret::new("whsec_5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH");
    let stripe = stripe(&body, &stripe_secret);
    let standard_secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let standard = standard(&body, &standard_secret);
    let (stripe_secrets, standard_secrets) = ([stripe_secret.clone()], [standard_secret]);
    let stripe_scheme = StripeWebhook;
    let now = Timestamp::from_seconds(NOW);
    // The peer is the stricter one: its key is set up before the clock starts.
    let keyed = Hmac::<Sha256>::new_from_slice(stripe_secret.expose().as_bytes()).expect("any key will do");
    let mut bare = || {
        each(|| {
            let mut mac = black_box(&keyed).clone();
            mac.update(black_box(&body));
            black_box(mac.finalize());
        })
    };
    let mut by_stripe =
        || each(|| stripe_scheme.verify(black_box(&stripe), &stripe_secrets, now).expect("it is valid"));
    let mut by_standard =
        || each(|| StandardWebhook.verify(black_box(&standard), &standard_secrets, now).expect("it is valid"));
    let took = rounds(count, &mut [&mut bare, &mut by_stripe, &mut by_standard]);
    let row = |what: &str, at: usize| {
        let peer = format!("bare HMAC-SHA256 of the body: {:.0} ns", Spread::of(took[0].clone()).median);
        // A speed over a speed: bare time over our time.
        Row::new("signature", what, Spread::of(took[at].clone()), "ns")
            .against(peer, Spread::ratio(&took[0], &took[at]))
            .target(Target::AtLeast(0.9))
    };
    vec![row("Stripe, 1 KiB, speed", 1), row("Standard Webhooks, 1 KiB, speed", 2)]
}

fn each(mut call: impl FnMut()) -> f64 {
    let start = thread_cpu();
    for _ in 0..CALLS {
        call();
    }
    (thread_cpu() - start).as_nanos() as f64 / CALLS as f64
}

fn delivery(body: &Bytes, headers: &[(&'static HeaderName, String)]) -> RawDelivery {
    // What else a delivery carries: a lookup among few headers would flatter us.
    let mut all = HeaderMap::new();
    for (name, value) in [
        ("host", "hooks.example.com"),
        ("user-agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)"),
        ("accept", "*/*; q=0.5, application/xml"),
        ("content-type", "application/json; charset=utf-8"),
        ("content-length", "1024"),
        ("cache-control", "no-cache"),
    ] {
        all.insert(name, HeaderValue::from_static(value));
    }
    for (name, value) in headers {
        all.insert(*name, value.parse().expect("a header"));
    }
    RawDelivery {
        method: Method::POST,
        url: "https://hooks.example.com/stripe".into(),
        headers: all,
        body: body.clone(),
    }
}

fn stripe(body: &Bytes, secret: &Secret) -> RawDelivery {
    let code = codes::sha256(secret.expose().as_bytes(), &[NOW.to_string().as_bytes(), b".", body]);
    delivery(body, &[(&SIGNATURE, format!("t={NOW},v1={}", codes::to_lower_hex(&code)))])
}

fn standard(body: &Bytes, secret: &Secret) -> RawDelivery {
    let signature = standard::sign(secret, "msg_1", NOW, body).expect("the secret is base64");
    delivery(
        body,
        &[
            (&standard::ID, "msg_1".to_owned()),
            (&standard::TIMESTAMP, NOW.to_string()),
            (&standard::SIGNATURE, signature),
        ],
    )
}
