//! `palisade verify`: why does my signature fail? One delivery from files, or a file of cases.

use std::path::{Path, PathBuf};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use bytes::Bytes;
use clap::Args;
use palisade_core::clock::SystemClock;
use palisade_core::webhook::{RawDelivery, Refusal, Verified, Webhook};
use palisade_core::{Clock, Secret, Timestamp};
use serde_json::{Value, json};

use super::{Failure, say};
use crate::builtin;
use crate::config::secret::read_secret_file;

mod cases;

/// What the help shows.
pub(super) const EXAMPLES: &str = "\
Examples:
  palisade verify --provider stripe --secret-file s --headers-file h --body-file b
  palisade verify --provider twilio --secret-file s --headers-file h --body-file b --url https://example.com/webhooks/sms";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The provider whose scheme is used: google, slack, stripe, twilio, sendgrid or standard_webhooks.
    #[arg(long, required_unless_present = "cases")]
    provider: Option<String>,
    /// A file with the signing secret, one per line while one is rotated.
    #[arg(long, value_name = "FILE", required_unless_present = "cases")]
    secret_file: Option<PathBuf>,
    /// A file with the request's headers: `Name: value` lines or a JSON object.
    #[arg(long, value_name = "FILE", required_unless_present = "cases")]
    headers_file: Option<PathBuf>,
    /// A file with the provider's published keys (JWKS), for schemes that are signed with a private one.
    #[arg(long, value_name = "FILE")]
    keys_file: Option<PathBuf>,
    /// A file with the exact bytes of the body.
    #[arg(long, value_name = "FILE", required_unless_present = "cases")]
    body_file: Option<PathBuf>,
    /// The URL the provider posted to, for schemes that sign it.
    #[arg(long, default_value = "https://localhost/")]
    url: String,
    /// The time to check at, in seconds since 1970; now when absent.
    #[arg(long, value_name = "SECONDS")]
    now: Option<i64>,
    /// A file of cases in the format of vectors/webhooks.json, instead of one delivery.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["provider", "secret_file", "headers_file", "body_file", "keys_file", "now"])]
    cases: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if let Some(file) = &arguments.cases {
        return cases::run(file);
    }
    let needed = |name| Failure::usage(format!("--{name} is missing"));
    let provider = arguments.provider.as_deref().ok_or_else(|| needed("provider"))?;
    let Some(verifier) = builtin::webhook(provider) else {
        let known = builtin::WEBHOOKS.iter().map(|verifier| verifier.name).collect::<Vec<_>>().join(", ");
        return Err(Failure::usage(format!("no such provider: this program verifies {known}")));
    };
    let keys = arguments.keys_file.as_deref().map(read_file).transpose()?;
    let webhook = (verifier.webhook)(keys.as_deref())
        .map_err(|error| Failure::usage(format!("--keys-file: {}", error.message())))?;
    let secret_file = arguments.secret_file.as_deref().ok_or_else(|| needed("secret-file"))?;
    let headers_file = arguments.headers_file.as_deref().ok_or_else(|| needed("headers-file"))?;
    let body_file = arguments.body_file.as_deref().ok_or_else(|| needed("body-file"))?;
    let delivery = RawDelivery {
        method: Method::POST,
        url: arguments.url.clone(),
        headers: read_headers(headers_file)?,
        body: read_file(body_file)?,
    };
    let secrets = read_secrets(secret_file)?;
    let now = arguments.now.map_or_else(|| SystemClock.now(), Timestamp::from_seconds);
    let (verdict, valid) = verdict(webhook.as_ref(), provider, &delivery, &secrets, now);
    say(verdict);
    if valid { Ok(()) } else { Err(Failure::negative()) }
}

/// The largest headers or body file read, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

fn read_file(path: &Path) -> Result<Bytes, Failure> {
    let cannot = |error: std::io::Error| Failure::usage(format!("{} cannot be read: {}", path.display(), error.kind()));
    if std::fs::metadata(path).map_err(cannot)?.len() > FILE_BYTES_MAX {
        return Err(Failure::usage(format!("{} is larger than {FILE_BYTES_MAX} bytes", path.display())));
    }
    std::fs::read(path).map(Bytes::from).map_err(cannot)
}

fn read_secrets(path: &Path) -> Result<Vec<Secret>, Failure> {
    let text = read_secret_file(path).map_err(Failure::usage)?;
    let secrets: Vec<Secret> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Secret::new).collect();
    if secrets.is_empty() {
        return Err(Failure::usage(format!("{} holds no secret", path.display())));
    }
    Ok(secrets)
}

/// Reads headers as they stand in a request, or a JSON object of texts or lists of texts.
fn read_headers(path: &Path) -> Result<HeaderMap, Failure> {
    let bytes = read_file(path)?;
    let wrong = |why: &str| Failure::usage(format!("{}: {why}", path.display()));
    let mut headers = HeaderMap::new();
    if bytes.trim_ascii_start().starts_with(b"{") {
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| wrong("this is not a JSON object of headers"))?;
        return headers_of(&value).ok_or_else(|| wrong("a header is not a name with a text or a list of texts"));
    }
    for (i, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        let request_line = i == 0 && line.ends_with(b"HTTP/1.1");
        if line.is_empty() || request_line {
            continue;
        }
        let mut halves = line.splitn(2, |byte| *byte == b':');
        let name = halves.next().and_then(|name| HeaderName::from_bytes(name).ok());
        let value = halves.next().and_then(|value| HeaderValue::from_bytes(value.trim_ascii()).ok());
        let (Some(name), Some(value)) = (name, value) else {
            return Err(wrong(&format!("line {} is not `Name: value`", i + 1)));
        };
        headers.append(name, value);
    }
    Ok(headers)
}

fn headers_of(value: &Value) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in value.as_object()? {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let values: Vec<&str> = match value.as_array() {
            Some(list) => list.iter().map(Value::as_str).collect::<Option<_>>()?,
            None => vec![value.as_str()?],
        };
        for value in values {
            headers.append(name.clone(), HeaderValue::from_str(value).ok()?);
        }
    }
    Some(headers)
}

fn verdict(
    webhook: &dyn Webhook,
    provider: &str,
    delivery: &RawDelivery,
    secrets: &[Secret],
    now: Timestamp,
) -> (Value, bool) {
    match Verified::check(webhook, delivery.clone(), secrets, now) {
        Ok(verified) => {
            let mut verdict = json!({ "valid": true, "provider": provider });
            let told = match webhook.events(&verified) {
                Ok(parsed) => {
                    let one = |event: &palisade_core::webhook::Event| json!({ "id": event.id, "type": event.kind });
                    ("events", parsed.events.iter().map(one).collect())
                }
                Err(error) => ("unreadable", Value::from(error.message())),
            };
            if let Some(object) = verdict.as_object_mut() {
                object.insert(told.0.to_owned(), told.1);
            }
            (verdict, true)
        }
        Err(refusal) => {
            let mut verdict = json!({
                "valid": false,
                "provider": provider,
                "reason": refusal.as_str(),
                "message": refusal.to_string(),
            });
            if let Some(hint) = hint(webhook, delivery, secrets, now, refusal)
                && let Some(object) = verdict.as_object_mut()
            {
                object.insert("hint".to_owned(), hint.into());
            }
            (verdict, false)
        }
    }
}

/// Tries what usually goes wrong on the way and says which change would make the signature valid.
fn hint(
    webhook: &dyn Webhook,
    delivery: &RawDelivery,
    secrets: &[Secret],
    now: Timestamp,
    refusal: Refusal,
) -> Option<&'static str> {
    let holds = |body: Vec<u8>, secrets: &[Secret], now: Timestamp| {
        let delivery = RawDelivery { body: body.into(), ..delivery.clone() };
        webhook.verify(&delivery, secrets, now).is_ok()
    };
    let body = delivery.body.as_ref();
    let age = match refusal {
        Refusal::TooOld { age_seconds } => age_seconds,
        Refusal::TooNew { ahead_seconds } => ahead_seconds.saturating_neg(),
        Refusal::NoSecret
        | Refusal::MissingHeader(_)
        | Refusal::DuplicateHeader(_)
        | Refusal::Malformed(_)
        | Refusal::Mismatch
        | Refusal::UnknownScheme
        | _ => 0,
    };
    if age != 0 {
        let then = Timestamp::from_seconds(now.seconds().saturating_sub(age));
        let holds = holds(body.to_vec(), secrets, then);
        return Some(if holds {
            "apart from its time the signature is valid"
        } else {
            "it would not match at its own time either"
        });
    }
    if refusal != Refusal::Mismatch {
        return None;
    }
    let prefixed: Vec<Secret> = secrets.iter().map(|s| Secret::new(format!("whsec_{}", s.expose()))).collect();
    let bare: Vec<Secret> =
        secrets.iter().filter_map(|s| s.expose().strip_prefix("whsec_").map(Secret::from)).collect();
    let unmarked = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let tries: [(Vec<u8>, &[Secret], &str); 8] = [
        (
            body.trim_ascii_end().to_vec(),
            secrets,
            "the body has white space at its end that was not signed: an editor or a shell adds a line break",
        ),
        ([body, b"\n"].concat(), secrets, "the body lacks the line break at its end that was signed"),
        ([body, b"\r\n"].concat(), secrets, "the body lacks the line break (CR LF) at its end that was signed"),
        (without_carriage_returns(body), secrets, "the body's line breaks were turned into CR LF on the way"),
        (with_carriage_returns(body), secrets, "the body's line breaks (CR LF) were turned into LF on the way"),
        (unmarked.to_vec(), secrets, "the body has a byte order mark that was not signed"),
        (body.to_vec(), &prefixed, "the secret lacks its prefix whsec_"),
        (body.to_vec(), &bare, "the secret is signed without its prefix whsec_"),
    ];
    tries.into_iter().find(|(body, secrets, _)| holds(body.clone(), secrets, now)).map(|(_, _, hint)| hint)
}

fn without_carriage_returns(body: &[u8]) -> Vec<u8> {
    let mut next = body.iter().skip(1).chain(std::iter::once(&0));
    body.iter().filter(|byte| !(next.next() == Some(&b'\n') && **byte == b'\r')).copied().collect()
}

fn with_carriage_returns(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 16);
    for byte in body {
        if *byte == b'\n' && out.last() != Some(&b'\r') {
            out.push(b'\r');
        }
        out.push(*byte);
    }
    out
}
