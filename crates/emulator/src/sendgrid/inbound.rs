//! Inbound Parse: a mail as a form with parts, signed or not.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::SendGridProvider;
use super::world::World;
use crate::post::Parcel;

/// What the ids of inbound mails begin with.
pub(super) const PREFIX: &str = "inbound:";
/// The same of those that are not signed.
pub(super) const UNSIGNED: &str = "inbound:unsigned:";
pub(super) const BOUNDARY: &str = "xYzEmulatorZyX";

/// A mail somebody sends to the account.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InboundMail {
    /// The sender.
    pub from: String,
    /// The recipient.
    pub to: String,
    /// The subject.
    pub subject: String,
    /// The plain text.
    pub text: String,
    /// Attachments: name, content type and text.
    pub attachments: Vec<(String, String, String)>,
}

impl SendGridProvider {
    /// Wraps a mail up for the endpoint, if there is one.
    pub(super) fn parse(&self, world: &mut World, mail: &InboundMail) -> Option<Parcel> {
        let (url, signed) = world.inbound_url.clone()?;
        let id = format!("{}{}", if signed { PREFIX } else { UNSIGNED }, world.name(16));
        let envelope = json!({ "to": [mail.to], "from": mail.from }).to_string();
        let charsets = json!({ "to": "UTF-8", "from": "UTF-8", "subject": "UTF-8", "text": "UTF-8" }).to_string();
        let headers =
            format!("From: {}\nTo: {}\nSubject: {}\nMessage-ID: <{id}@emulator>", mail.from, mail.to, mail.subject);
        let count = mail.attachments.len().to_string();
        let mut body = String::new();
        let fields = [
            ("headers", headers.as_str()),
            ("dkim", "{@example.com : pass}"),
            ("to", &mail.to),
            ("from", &mail.from),
            ("subject", &mail.subject),
            ("text", &mail.text),
            ("sender_ip", "192.0.2.1"),
            ("spam_score", "0.1"),
            ("envelope", &envelope),
            ("attachments", &count),
            ("charsets", &charsets),
            ("SPF", "pass"),
        ];
        for (name, value) in fields {
            let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
            body.push_str(&head);
            body.push_str(value);
            body.push_str("\r\n");
        }
        for (at, (name, kind, content)) in mail.attachments.iter().enumerate() {
            let field = at + 1;
            let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
            let head = format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"attachment{field}\"; filename=\"{quoted}\"\r\nContent-Type: {kind}\r\n\r\n"
            );
            body.push_str(&head);
            body.push_str(content);
            body.push_str("\r\n");
        }
        body.push_str(&format!("--{BOUNDARY}--\r\n"));
        Some(Parcel::json(&id, &url, Bytes::from(body)))
    }
}
