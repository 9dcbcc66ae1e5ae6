//! SendGrid as a subject of the kit.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::Response;
use palisade_core::auth::Scheme;
use palisade_core::client::Repeat;
use palisade_core::{ErrorKind, Operation, Outcome, Result, Secret, Transport};
use palisade_sendgrid::client::ListSuppressions;
use palisade_sendgrid::webhook::AGE_MAX_SECONDS;
use palisade_sendgrid::{List, Mail, SendGrid, SendGridProvider, operation};
use palisade_testkit::conformance::{self, Ask, Hook, Meaning, Sample, Stream, Subject, Vector};
use palisade_testkit::fake::{Said, answer};
use serde_json::{Value, json};

use super::inbound;
use super::stage::SendGridStage;
use super::webhook::Key;

#[tokio::test(start_paused = true)]
async fn keeps_every_promise_of_the_kit() {
    conformance::prove(&subject(), option_env!("CARGO_TARGET_TMPDIR")).await;
}

const BATCH: &str = "[{\"email\":\"a@x\",\"timestamp\":1767225599,\"event\":\"bounce\",\"sg_event_id\":\"e1\",\"sg_message_id\":\"m1.f\"},{\"event\":\"open\",\"email\":\"a@x\",\"sg_event_id\":\"e2\"}]\r\n";
const OTHER: &str =
    r#"[{"email":"a@x","timestamp":1767225599,"event":"bounce","sg_event_id":"e3","sg_message_id":"m1.f"}]"#;

fn hook(name: &'static str, kind: &'static str) -> Hook {
    let keys = [Arc::new(Key::new()), Arc::new(Key::new())];
    let secrets = keys.each_ref().map(|key| key.public.clone());
    let signed = move |ask: &Ask<'_>| keys[ask.secret].deliver_at(ask.at, kind, ask.content);
    Hook::new(name, secrets, signed)
        .signed_by(&["x-twilio-email-event-webhook-signature", "x-twilio-email-event-webhook-timestamp"])
        .window(AGE_MAX_SECONDS, 300)
}

/// The public key of a vector, as SendGrid shows it and as a file.
fn keys(vector: &Value) -> [Secret; 2] {
    let der = vector["public_key_spki_b64"].as_str().unwrap();
    [der.into(), format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n").into()]
}

fn sendgrid(transport: Arc<dyn Transport>) -> SendGrid {
    SendGrid::new(transport, "conn_1", "tenant_1")
}

fn operations() -> Vec<&'static Operation> {
    use operation::{ADD_UNSUBSCRIBES, BLOCKS, BOUNCES, FIND_MAIL, INVALID_EMAILS, SCOPES, SEND_MAIL, SPAM_REPORTS};
    let lists = [&BOUNCES, &BLOCKS, &SPAM_REPORTS, &operation::UNSUBSCRIBES, &INVALID_EMAILS];
    let of_lists = lists.into_iter().flat_map(|list| [&list.list, &list.retrieve, &list.delete]);
    [&SEND_MAIL, &SCOPES, &FIND_MAIL, &ADD_UNSUBSCRIBES].into_iter().chain(of_lists).collect()
}

fn dated(body: &str) -> Response<Bytes> {
    let mut response = answer(200, body);
    response.headers_mut().insert("date", "Thu, 01 Jan 2026 00:00:00 GMT".parse().unwrap());
    response
}

fn accepted() -> Response<Bytes> {
    let mut response = answer(202, "");
    response.headers_mut().insert("x-message-id", "14c5d75ce93".parse().unwrap());
    response
}

fn calls() -> Vec<Sample> {
    let file: Value = serde_json::from_str(include_str!("../fixtures/sdk_wire.json")).unwrap();
    let wire = |name: &str| &file["requests"][name];
    let one = r#"[{"created":1443651125,"email":"a@x.example","reason":"550 5.1.1","status":"5.1.1"}]"#;
    let sent = || {
        Sample::new("mail.send", |transport| async move {
            sendgrid(transport).send(&Mail::from("a@example.com").to("b@example.com").subject("s").text("t")).await
        })
    };
    vec![
        sent().answered_by(accepted()).recorded(wire("mail.send")),
        sent().answered(401, refusal("x", None)).recorded(wire("error")).refused(),
        Sample::new("bounces.list", |transport| async move {
            let filter = ListSuppressions::of(List::Bounces);
            let all: Result<Vec<_>> = sendgrid(transport).list_suppressions(filter).try_collect().await;
            all
        })
        .answered_by(dated(one))
        .answered_by(dated(one)),
        Sample::new("bounces.retrieve", |transport| async move {
            sendgrid(transport).suppression(List::Bounces, "a@x.example").await
        })
        .answered_by(dated(one)),
        Sample::new("spam_reports.delete", |transport| async move {
            sendgrid(transport).unsuppress(List::SpamReports, "a@x.example").await
        })
        .answered(204, ""),
        Sample::new("unsubscribes.create", |transport| async move {
            sendgrid(transport).unsubscribe(&["a@x.example"]).await
        })
        .answered(201, r#"{"recipient_emails":["a@x.example"]}"#),
        Sample::new("scopes.list", |transport| async move { sendgrid(transport).scopes().await })
            .answered(200, r#"{"scopes":["mail.send"]}"#),
        Sample::new("messages.list", |transport| async move { sendgrid(transport).reconcile("order-4711").await }).answered(
            200,
            r#"{"messages":[{"from_email":"a@x","msg_id":"14c5d75ce93.dfd","to_email":"b@x","status":"delivered"}]}"#,
        ),
    ]
}

fn refusal(message: &str, field: Option<&str>) -> String {
    json!({ "errors": [{ "message": format!("{message} ada@example.com"), "field": field, "help": null }], "id": "x" })
        .to_string()
}

/// What SendGrid documents in sentences: it has no codes, so the adapter names them.
fn meanings() -> Vec<Meaning> {
    use ErrorKind as K;
    let never = Said::Failed(Repeat::Never);
    let plain = |message: &str| refusal(message, None);
    let repeated = "Each email address in the personalization block should be unique between to, cc, and bcc.";
    let coded = [
        (
            400,
            refusal("Does not contain a valid address.", Some("personalizations.0.to.0.email")),
            never,
            K::Invalid,
            "address_invalid",
        ),
        (400, refusal(repeated, Some("personalizations")), never, K::Invalid, "address_repeated"),
        (
            400,
            refusal("The template_id must be a valid GUID", Some("template_id")),
            never,
            K::Invalid,
            "template_invalid",
        ),
        (
            403,
            refusal("The from address does not match a verified Sender Identity.", Some("from")),
            never,
            K::Permission,
            "sender_unverified",
        ),
        (413, "<html>Request Entity Too Large</html>".to_owned(), never, K::Invalid, "too_large"),
        // A plan that is used up is no wrong key.
        (401, plain("Maximum credits exceeded"), never, K::Permission, "credits_exceeded"),
    ];
    let coded = coded.map(|(status, body, said, kind, code)| Meaning::new(status, body, said, kind).code(code));
    let others = [
        (400, plain("Bad Request"), never, K::Invalid),
        (401, plain("The provided authorization grant is invalid, expired, or revoked"), Said::Unauthorized, K::Auth),
        (403, plain("access forbidden"), never, K::Permission),
        (404, plain("not found"), never, K::NotFound),
        (404, "<html>".to_owned(), never, K::Config),
        (405, plain("method not allowed"), never, K::Invalid),
        (407, String::new(), never, K::Config),
        (302, String::new(), never, K::Config),
        (429, plain("too many requests"), Said::Throttled, K::Throttled),
    ];
    let others = others.map(|(status, body, said, kind)| Meaning::new(status, body, said, kind));
    let failed = [500, 502, 503, 504].map(|status| {
        Meaning::new(status, plain("template failure"), Said::Failed(Repeat::IfSafe), K::Provider)
            .outcome(Outcome::Unknown)
    });
    coded.into_iter().chain(others).chain(failed).map(|meaning| meaning.of("mail.send")).collect()
}

fn subject() -> Subject {
    let file: Value = serde_json::from_str(include_str!("../fixtures/webhooks.json")).unwrap();
    let mail = inbound::mail();
    let other = String::from_utf8_lossy(&mail).replace("Message-ID: <1@x>", "Message-ID: <2@x>").into_bytes();
    let subject = Subject::new(SendGridProvider::new, Scheme::Bearer("SG.x".into()));
    let subject = List::ALL.into_iter().fold(subject, |subject, list| {
        let stream = Stream::new(list.name(), 499)
            .never_empty("pages are places in a list: an empty one is its end")
            .never_expires("a place in a list is a number")
            .deletions_untold("SendGrid tells nobody of an address that is taken off")
            .makes_no_events(match list {
                List::Bounces | List::Blocks | List::SpamReports => "SendGrid lists addresses, not events",
                List::Unsubscribes | List::InvalidEmails => {
                    "people may put an address on the list, which no event tells"
                }
            });
        subject.stream(stream)
    });
    calls()
        .into_iter()
        .fold(subject, Subject::call)
        .operations(operations())
        .meanings(meanings())
        .throttled_by(answer(429, refusal("too many requests", None)))
        .stage(SendGridStage::new)
        .not_applicable(
            "a_burst_keeps_the_limit_and_uses_it",
            "SendGrid publishes no numbers: the limits are learned from its headers",
        )
        .vectors(Vector::read(&file, |vector| keys(vector)[..1].to_vec()))
        .vectors(Vector::read(&file, |vector| keys(vector)[1..].to_vec()))
        .hook(hook("events", "application/json").about(BATCH, OTHER))
        .hook(hook("inbound mail", inbound::KIND).about(mail, other))
        .not_applicable("a_handshake_is_answered_and_makes_no_event", "SendGrid asks nothing before it posts")
}
