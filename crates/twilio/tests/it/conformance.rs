//! Twilio as a subject of the kit.

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{HeaderMap, HeaderValue, Method};
use palisade_core::auth::Scheme;
use palisade_core::client::Repeat;
use palisade_core::webhook::RawDelivery;
use palisade_core::{ErrorKind, Outcome, Result, Secret, Timestamp, Transport};
use palisade_testkit::conformance::{self, Ask, Hook, Meaning, Sample, Stream, Subject, Vector};
use palisade_testkit::fake::Said;
use palisade_twilio::client::{ListMessages, NewMessage};
use palisade_twilio::sid::{AccountSid, MessageSid, ServiceSid};
use palisade_twilio::webhook::{Algorithm, sign};
use palisade_twilio::{Twilio, TwilioProvider, operation};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

use super::fake::{ACCOUNT, message};
use super::stage::TwilioStage;

#[tokio::test(start_paused = true)]
async fn keeps_every_promise_of_the_kit() {
    conformance::prove(&subject(), option_env!("CARGO_TARGET_TMPDIR")).await;
}

const SECRETS: [&str; 2] = ["the_auth_token_of_this_test", "the_secondary_auth_token"];
const URL: &str = "https://hooks.example.test/webhooks/twilio?a=1";

fn delivery(ask: &Ask<'_>, kind: &'static str, algorithm: Algorithm, url: &str, form: &[u8]) -> RawDelivery {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static(kind));
    let signature = sign(&Secret::from(SECRETS[ask.secret]), algorithm, url, form);
    headers.insert("x-twilio-signature", signature.parse().unwrap());
    RawDelivery { method: Method::POST, url: url.into(), headers, body: Bytes::copy_from_slice(ask.content) }
}

const FORM: &str = "application/x-www-form-urlencoded";

/// Values are signed decoded, so an escape may be written in either case.
fn alike(good: &RawDelivery, changed: &RawDelivery) -> bool {
    let escape = |at: usize| good.body[at.saturating_sub(2)..at].contains(&b'%');
    let differs = (0..good.body.len()).filter(|at| changed.body.get(*at) != good.body.get(*at));
    changed.headers == good.headers
        && changed.url == good.url
        && changed.body.eq_ignore_ascii_case(&good.body)
        && differs.into_iter().all(escape)
}

fn forms() -> Hook {
    let signed = |ask: &Ask<'_>| delivery(ask, FORM, Algorithm::Sha1, URL, ask.content);
    Hook::new("forms", SECRETS.map(Secret::from), signed).about(SENT, DELIVERED).alike(alike).signing_url()
}

fn shared_key() -> Hook {
    let signed = |ask: &Ask<'_>| {
        let mut raw = delivery(ask, FORM, Algorithm::Sha256, URL, ask.content);
        let settings = HeaderValue::from_static("key=webhooks_sharedkey_1,algorithm=HMAC_SHA256");
        raw.headers.insert("x-twilio-webhooks-signature-settings", settings);
        raw
    };
    Hook::new("forms under a shared key", SECRETS.map(Secret::from), signed)
        .about(SENT, DELIVERED)
        .alike(alike)
        .signing_url()
}

fn event_streams() -> Hook {
    let signed = |ask: &Ask<'_>| {
        let hex: String = Sha256::digest(ask.content).iter().map(|byte| format!("{byte:02x}")).collect();
        delivery(ask, "application/json", Algorithm::Sha1, &format!("{URL}&bodySHA256={hex}"), b"")
    };
    Hook::new("event streams", SECRETS.map(Secret::from), signed).about(BATCH, OTHER_BATCH).signing_url()
}

const SENT: &str = "AccountSid=AC00000000000000000000000000000000&MessageSid=SM00000000000000000000000000000001&MessageStatus=sent&SmsStatus=sent&To=%2B15005550006&From=%2B15005550001";
const DELIVERED: &str = "AccountSid=AC00000000000000000000000000000000&MessageSid=SM00000000000000000000000000000001&MessageStatus=delivered&SmsStatus=delivered&To=%2B15005550006&From=%2B15005550001";
const BATCH: &str = r#"[{"specversion":"1.0","type":"com.twilio.messaging.message.delivered","id":"EZ1","time":"2026-01-01T00:00:00.123Z","data":{"messageSid":"SM00000000000000000000000000000001"}},{"type":"com.twilio.voice.insights.call-summary.complete","id":"EZ2","data":{}}]"#;
const OTHER_BATCH: &str = r#"[{"type":"com.twilio.messaging.message.delivered","id":"EZ3","data":{"messageSid":"SM00000000000000000000000000000001"}}]"#;

fn twilio(transport: Arc<dyn Transport>) -> Twilio {
    Twilio::new(transport, "conn_1", "tenant_1", AccountSid::parse(ACCOUNT).unwrap())
}

fn sid() -> MessageSid {
    MessageSid::parse(&format!("SM{:032}", 1)).unwrap()
}

fn text() -> NewMessage {
    NewMessage::text("+15005550006", "hi")
}

fn calls() -> Vec<Sample> {
    let file: Value = serde_json::from_str(include_str!("../fixtures/sdk_wire.json")).unwrap();
    let wire = |name: &str| &file["requests"][name];
    let service = || ServiceSid::parse("MG00000000000000000000000000000000").unwrap();
    vec![
        Sample::new("messages.create", |transport| async move {
            let new = text().from("+15005550001").status_callback("https://h.example.test/s");
            twilio(transport).send(&new).await
        })
        .answered(201, message(1, ""))
        .recorded(wire("messages.create")),
        Sample::new(
            "messages.create",
            move |transport| async move { twilio(transport).send(&text().via(service())).await },
        )
        .answered(201, message(1, ""))
        .recorded(wire("messages.create_apikey")),
        Sample::new("messages.create", |transport| async move {
            twilio(transport).send(&NewMessage::text("bad", "x").from("+15005550001")).await
        })
        .answered(400, body(21_211, 400))
        .recorded(wire("error"))
        .refused(),
        Sample::new("messages.list", |transport| async move {
            let filter = ListMessages::new().sent_from(Timestamp::from_seconds(1_767_225_600));
            let listed: Result<Vec<_>> = twilio(transport).list_messages(&filter).try_collect().await;
            listed
        })
        .answered(200, format!(r#"{{"messages":[{}],"next_page_uri":null,"page":0}}"#, message(1, "")))
        .recorded(wire("messages.list")),
        Sample::new("messages.retrieve", |transport| async move { twilio(transport).message(&sid()).await })
            .answered(200, message(1, "")),
        Sample::new("messages.update", |transport| async move { twilio(transport).redact(&sid()).await })
            .answered(200, message(1, "")),
        Sample::new("messages.delete", |transport| async move { twilio(transport).delete(&sid()).await })
            .answered(204, ""),
        Sample::new("account.retrieve", |transport| async move { twilio(transport).account().await })
            .answered(200, format!(r#"{{"sid":"{ACCOUNT}","status":"active"}}"#)),
    ]
}

fn body(code: u32, status: u16) -> String {
    json!({
        "code": code, "status": status, "more_info": format!("https://www.twilio.com/docs/errors/{code}"),
        "message": "The 'To' number of ada@example.com is not a valid phone number.",
    })
    .to_string()
}

fn refusal(status: u16, code: u32) -> http::Response<Bytes> {
    palisade_testkit::fake::answer(status, body(code, status))
}

/// The documented codes, and what is answered without one.
fn meanings() -> Vec<Meaning> {
    use ErrorKind as K;
    let never = Said::Failed(Repeat::Never);
    let coded = [
        (400, 21_211, K::Invalid),
        (400, 21_212, K::Invalid),
        (400, 21_408, K::Permission),
        (403, 21_408, K::Permission),
        (400, 21_606, K::Invalid),
        (400, 21_610, K::Invalid),
        (400, 21_614, K::Invalid),
        (400, 21_617, K::Invalid),
        (403, 20_003, K::Permission),
        (403, 20_005, K::Permission),
        (404, 20_404, K::NotFound),
        (400, 63_018, K::Throttled),
        (400, 99_999, K::Invalid),
        (404, 99_999, K::NotFound),
        (409, 99_999, K::Conflict),
    ];
    let coded = coded.map(|(status, code, kind)| {
        Meaning::new(status, body(code, status), never, kind).code(code.to_string()).of("messages.create")
    });
    let failed = [500, 502, 503, 504].map(|status| {
        Meaning::new(status, body(20_500, status), Said::Failed(Repeat::IfSafe), K::Provider).outcome(Outcome::Unknown)
    });
    let others = [
        Meaning::new(401, body(20_003, 401), Said::Unauthorized, K::Auth),
        Meaning::new(429, body(20_429, 429), Said::Throttled, K::Throttled),
        // A queue that is full for hours does not stop all other messages of the account.
        Meaning::new(429, body(21_611, 429), never, K::Throttled).of("messages.create"),
        Meaning::new(400, body(21_611, 400), never, K::Throttled).of("messages.create"),
        Meaning::new(404, "<html>not found</html>", never, K::Config),
        Meaning::new(407, "", never, K::Config),
        Meaning::new(302, "", never, K::Config),
        Meaning::new(403, "", never, K::Permission),
        Meaning::new(400, "", never, K::Invalid),
    ];
    coded.into_iter().chain(failed).chain(others).collect()
}

fn subject() -> Subject {
    let timeless = "Twilio signs no time: a delivery is known by its content";
    let hooks = [forms(), shared_key(), event_streams()];
    let credential = Scheme::Basic { user: ACCOUNT.to_owned(), password: "the_auth_token_of_this_test".into() };
    let subject = Subject::new(TwilioProvider::new, credential)
        .operations(operation::OPERATIONS)
        .meanings(meanings())
        .throttled_by(refusal(429, 20_429))
        .stage(TwilioStage::new)
        .stream(
            Stream::new("messages", 1_000)
                .emptied(|page| {
                    let mut page = page.clone();
                    page["messages"] = json!([]);
                    page
                })
                .never_expires("a run reads a span of time, and a page's token lives as long as the run")
                .deletions_untold("Twilio tells nobody of a deleted message"),
        )
        .not_applicable(
            "a_burst_keeps_the_limit_and_uses_it",
            "Twilio publishes no limit of requests; the adapter's bound is its own",
        )
        .vectors(Vector::file(include_str!("../fixtures/webhooks.json")))
        // Where the SDKs are lax: unknown algorithms, bodies that nothing signs.
        .vectors(Vector::file(include_str!("../fixtures/more_webhooks.json")))
        .not_applicable("a_handshake_is_answered_and_makes_no_event", "Twilio asks nothing before it posts");
    let subject = calls().into_iter().fold(subject, Subject::call);
    hooks
        .into_iter()
        .fold(subject, |subject, hook| subject.hook(hook.signed_by(&["x-twilio-signature"]).without_window(timeless)))
}
