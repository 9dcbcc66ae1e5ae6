//! `palisade verify --cases FILE`: every case of every group that is built in, against its expected verdict.

use std::path::Path;

use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use palisade_core::webhook::{RawDelivery, TOLERANCE_SECONDS, Verified, Webhook};
use palisade_core::{Secret, Timestamp};
use serde_json::{Value, json};

use super::{headers_of, read_file};
use crate::builtin;
use crate::cli::{Failure, say};

/// What the cases of a group came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: usize,
    differs: usize,
    skipped: usize,
}

/// What one case came to.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Differs(String),
    /// It asks for what the program does not have.
    Skipped,
}

pub(super) fn run(file: &Path) -> Result<(), Failure> {
    let wrong = |why: &str| Failure::usage(format!("{}: {why}", file.display()));
    let document: Value =
        serde_json::from_slice(&read_file(file)?).map_err(|error| wrong(&format!("this is not JSON: {error}")))?;
    let groups = document.as_object().ok_or_else(|| wrong("this is not an object of groups"))?;
    let mut all = Count::default();
    for (name, group) in groups.iter().filter(|(name, _)| !name.starts_with('_')) {
        let cases = group.get("vectors").and_then(Value::as_array);
        let cases = cases.ok_or_else(|| wrong(&format!("the group {name} has no list of vectors")))?;
        let keys = group.get("jwks").map(Value::to_string);
        let webhook = builtin::webhook(scheme(name))
            .map(|verifier| (verifier.webhook)(keys.as_deref().map(str::as_bytes)))
            .transpose()
            .map_err(|error| wrong(&format!("the keys of the group {name}: {}", error.message())))?;
        let count = check(name, cases, webhook.as_deref());
        let Count { passed, differs, skipped } = count;
        say(format_args!("{name}: passed {passed}, differs {differs}, skipped {skipped}"));
        all = Count { passed: all.passed + passed, differs: all.differs + differs, skipped: all.skipped + skipped };
    }
    let Count { passed, differs, skipped } = all;
    say(format_args!("all: passed {passed}, differs {differs}, skipped {skipped}"));
    if differs > 0 { Err(Failure::negative()) } else { Ok(()) }
}

/// Returns the name of a group's scheme: the file names some by what is signed.
fn scheme(group: &str) -> &str {
    match group {
        "sendgrid_event" => "sendgrid",
        "google_pubsub_push" | "google_calendar_push" => "google",
        _ => group,
    }
}

/// Returns when a case is checked: when it says, or when its delivery says it was signed. Schemes that sign no time ask
/// for none.
fn now(case: &Value) -> Option<i64> {
    let Some(now) = case.get("now") else {
        let headers = case.get("headers")?.as_object()?;
        let signed = headers.iter().find(|(name, _)| name.to_ascii_lowercase().ends_with("webhook-timestamp"));
        return Some(signed.and_then(|(_, time)| time.as_str()?.parse().ok()).unwrap_or_default());
    };
    now.as_i64()
}

fn check(group: &str, cases: &[Value], webhook: Option<&dyn Webhook>) -> Count {
    let mut count = Count::default();
    for (i, case) in cases.iter().enumerate() {
        let outcome = webhook.map_or(Outcome::Skipped, |webhook| judge(webhook, case));
        match outcome {
            Outcome::Passed => count.passed += 1,
            Outcome::Skipped => count.skipped += 1,
            Outcome::Differs(why) => {
                count.differs += 1;
                let name = case.get("name").and_then(Value::as_str).map_or_else(|| i.to_string(), str::to_owned);
                say(format_args!("{group}/{name}: {why}"));
            }
        }
    }
    count
}

/// Checks one case. `policy` means that senders' own libraries disagree: the stricter reading is to reject.
fn judge(webhook: &dyn Webhook, case: &Value) -> Outcome {
    let unclear = |what: &str| Outcome::Differs(format!("the case cannot be read: {what}"));
    let accept = match case.get("expect").and_then(Value::as_str) {
        Some("ok") => true,
        Some("fail" | "policy") => false,
        _ => return unclear("expect is neither ok, fail nor policy"),
    };
    if case.get("tolerance").and_then(Value::as_i64).is_some_and(|tolerance| tolerance != TOLERANCE_SECONDS) {
        return Outcome::Skipped;
    }
    let body = case.get("body_b64").and_then(Value::as_str).and_then(|text| STANDARD.decode(text).ok());
    let Some(body) = body else { return unclear("body_b64") };
    let Some(headers) = case.get("headers").and_then(headers_of) else { return unclear("headers") };
    let Some(now) = now(case) else { return unclear("now") };
    let Some(secrets) = secrets_of(case) else { return unclear("secret") };
    let text = |key: &str, otherwise: &str| case.get(key).and_then(Value::as_str).unwrap_or(otherwise).to_owned();
    let delivery = RawDelivery {
        method: text("method", "POST").parse().unwrap_or(Method::POST),
        url: text("url", "https://localhost/"),
        headers,
        body: body.into(),
    };
    match (Verified::check(webhook, delivery, &secrets, Timestamp::from_seconds(now)), accept) {
        (Ok(_), true) | (Err(_), false) => Outcome::Passed,
        (Ok(_), false) => Outcome::Differs("accepted, must be rejected".to_owned()),
        (Err(refusal), true) => Outcome::Differs(format!("rejected ({}), must be accepted", refusal.as_str())),
    }
}

/// Reads what the endpoint trusts: a signing secret or key or several, or what a token or channel must say.
fn secrets_of(case: &Value) -> Option<Vec<Secret>> {
    let trusted = |value: Value| Some(vec![Secret::new(value.to_string())]);
    let secret = case.get("secret").or(case.get("public_key_spki_b64"));
    match (secret, case.get("expected_aud"), case.get("expected")) {
        (Some(Value::String(secret)), ..) => Some(vec![Secret::from(secret.as_str())]),
        (Some(Value::Array(list)), ..) => list.iter().map(|secret| secret.as_str().map(Secret::from)).collect(),
        (None, Some(audience), _) => trusted(json!({ "audience": audience, "email": case.get("expected_email")? })),
        (None, None, Some(channel)) => trusted(json!({
            "channel_id": channel.get("channel_id")?,
            "resource_id": channel.get("resource_id")?,
            "token": channel.get("token")?,
        })),
        _ => None,
    }
}
