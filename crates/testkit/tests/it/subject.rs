//! Acme as a subject of the suite: what an author of an adapter fills in.

use std::time::Duration;

use palisade_core::auth::Scheme;
use palisade_core::client::Repeat;
use palisade_core::{ErrorKind, Outcome, Provider, Secret};
use palisade_testkit::conformance::{Handshake, Hook, Meaning, NOW, Rate, Sample, Stream, Subject, Vector};
use palisade_testkit::fake::Said;
use serde_json::json;

use super::emulated::{self, SECRETS, signed};
use crate::acme::AcmeProvider;
use crate::acme::client::{Acme, CREATE, LIST, RETRIEVE};

pub(crate) const PARCEL: &str = r#"{"id":"p001","to":"Street 1","version":1}"#;
const EVENT: &str = r#"{"id":"e1","type":"parcel.changed","parcel":{"id":"p001","to":"Street 1","version":1}} "#;
const OTHER: &str = r#"{"id":"e2","type":"parcel.changed","parcel":{"id":"p001","deleted":true,"version":2}}"#;

pub(crate) fn create() -> Sample {
    Sample::new("parcels.create", |transport| async move { Acme::new(transport).create("Street 1").await })
        .answered(201, PARCEL)
        .recorded(&json!({
            "method": "POST", "path": "/v1/parcels", "body": r#"{"to": "Street 1"}"#,
            "headers": {
                "Accept": "application/json", "Content-Type": "application/json", "Authorization": "Bearer x",
                "Idempotency-Key": "any",
            },
        }))
}

fn meanings() -> [Meaning; 8] {
    let never = Said::Failed(Repeat::Never);
    let body = |code: &str| json!({ "code": code, "message": "no parcel for ada@example.com" }).to_string();
    [
        Meaning::new(400, body("street_unknown"), never, ErrorKind::Invalid).code("street_unknown"),
        Meaning::new(401, body("key_unknown"), Said::Unauthorized, ErrorKind::Auth),
        Meaning::new(402, body("unpaid"), never, ErrorKind::Declined),
        Meaning::new(403, body("key_reads_only"), never, ErrorKind::Permission),
        Meaning::new(404, body("parcel_unknown"), never, ErrorKind::NotFound),
        Meaning::new(410, body("since_too_old"), never, ErrorKind::CursorExpired),
        Meaning::new(429, body("slow_down"), Said::Throttled, ErrorKind::Throttled),
        Meaning::new(503, body("tired"), Said::Failed(Repeat::IfSafe), ErrorKind::Provider).outcome(Outcome::Unknown),
    ]
}

fn vectors() -> Vec<Vector> {
    let vector = |name: &str, secret: &str, by: &str, seconds: i64, accepted: bool| Vector {
        name: name.to_owned(),
        delivery: signed(by, NOW, EVENT.as_bytes()),
        secrets: vec![secret.into()],
        now: NOW.plus(Duration::from_secs(seconds.unsigned_abs())),
        accepted,
        by: None,
    };
    vec![
        vector("plain", SECRETS[0], SECRETS[0], 0, true),
        vector("wrong_secret", SECRETS[0], SECRETS[1], 0, false),
        vector("age_301", SECRETS[0], SECRETS[0], 301, false),
    ]
}

pub(crate) fn hook() -> Hook {
    Hook::new("events", SECRETS.map(Secret::from), |ask| signed(SECRETS[ask.secret], ask.at, ask.content))
        .about(EVENT, OTHER)
        .signed_by(&["acme-signature"])
        .window(300, 300)
}

pub(crate) fn rate() -> Rate {
    Rate::new("an account", 60, Duration::from_secs(60), |transport, _| async move {
        Acme::new(transport).retrieve("p001").await.map(drop)
    })
    .answered(200, PARCEL)
}

/// The subject with any provider: the sound one, or one that is broken.
pub(crate) fn of<P: Provider>(make: impl Fn() -> P + Send + Sync + 'static) -> Subject {
    let ping = signed(SECRETS[0], NOW, br#"{"type":"ping"}"#);
    Subject::new(make, Scheme::Bearer("acme_key".into()))
        .operations([&CREATE, &RETRIEVE, &LIST])
        .meanings(meanings())
        .vectors(vectors())
        .hook(hook())
        .handshake(Handshake { delivery: ping, secret: SECRETS[0].into(), status: 200, body: b"pong" })
        .stage(emulated::Acme::new)
        .stream(
            Stream::new("parcels", crate::acme::sync::PAGE_MAX)
                .emptied(|page| {
                    let mut page = page.clone();
                    page["parcels"] = json!([]);
                    page
                })
                .expired(410, r#"{"code":"since_too_old"}"#),
        )
}

pub(crate) fn sound() -> Subject {
    let retrieve =
        Sample::new("parcels.retrieve", |transport| async move { Acme::new(transport).retrieve("p001").await });
    of(|| AcmeProvider).call(create()).call(retrieve.answered(200, PARCEL)).rate(rate())
}
