//! Sending: what comes in as JSON or by the upload route, where it goes, and which conversation it belongs to.

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use super::mime::{self, Part, addresses};
use super::{Asked, SENDS};
use crate::google::refusal::Refusal;
use crate::google::service::{body, done, text};

/// The largest message (Gmail API, messages.send, `maxSize`).
const MESSAGE_BYTES_MAX: usize = 36_700_160;
/// The most people one message goes to (Workspace, sending limits).
const RECIPIENTS_MAX: usize = 500;

impl Asked<'_> {
    pub(super) fn send(&self) -> Result<Response<Bytes>, Refusal> {
        let (raw, thread) = self.outgoing()?;
        if raw.len() > MESSAGE_BYTES_MAX {
            return Err(Refusal::new(413, "uploadTooLarge", "Request Too Large"));
        }
        let part = Part::read(&raw);
        let to = |name: &str| addresses(part.header(name).unwrap_or_default());
        let recipients: Vec<String> = ["to", "cc", "bcc"].iter().flat_map(|name| to(name)).collect();
        if recipients.is_empty() {
            return Err(Refusal::invalid("Recipient address required"));
        }
        if recipients.len() > RECIPIENTS_MAX {
            return Err(Refusal::invalid("Too many recipients"));
        }
        self.service.allow(SENDS)?;
        let (own, now) = (self.service.email()?, self.service.now());
        let raw = signed(&raw, &part, &own);
        let part = Part::read(&raw);
        let mut world = self.service.google.world();
        let mut mailbox = world.take_mailbox(&own)?;
        if thread.as_deref().is_some_and(|thread| !mailbox.has_thread(thread)) {
            world.put_mailbox(mailbox);
            return Err(Refusal::missing());
        }
        // A conversation that is asked for is kept only where subject and references fit (Gmail API, threads).
        let thread = thread.filter(|thread| mailbox.thread_of(&part) == Some(thread));
        let to_itself = recipients.contains(&own);
        let labels: &[&str] = if to_itself { &["SENT", "INBOX", "UNREAD"] } else { &["SENT"] };
        let id = mailbox.add(raw.clone(), thread.as_deref(), labels, now, &mut world.dice);
        let thread = mailbox.get(&id).map(|sent| sent.thread.clone());
        let shown = json!({ "id": id, "threadId": thread, "labelIds": labels });
        world.put_mailbox(mailbox);
        let mut told = vec![own.clone()];
        let delivered = without_bcc(&raw);
        for other in recipients.iter().filter(|other| **other != own) {
            if let Ok(mut mailbox) = world.take_mailbox(other) {
                let thread = mailbox.thread_of(&part).map(str::to_owned);
                mailbox.add(delivered.clone(), thread.as_deref(), &["INBOX", "UNREAD"], now, &mut world.dice);
                world.put_mailbox(mailbox);
                told.push(other.clone());
            }
        }
        drop(world);
        self.service.tell_of_mail(&told);
        Ok(done(&shown))
    }

    /// Gives the message and the conversation that is asked for.
    fn outgoing(&self) -> Result<(Bytes, Option<String>), Refusal> {
        let kind = self.request.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let upload = self.request.uri().path().starts_with("/upload/");
        let named = |value: &Value| text(value, "threadId").filter(|id| !id.is_empty()).map(str::to_owned);
        match (upload, self.query.get("uploadType")) {
            (false, _) => {
                let body = body(self.request)?;
                let raw = text(&body, "raw").filter(|raw| !raw.is_empty());
                let raw = raw.ok_or_else(|| {
                    Refusal::invalid(
                        "'raw' RFC822 payload message string or uploading message via /upload/* URL required",
                    )
                })?;
                let raw = mime::decode(raw).ok_or_else(|| Refusal::invalid("Invalid value for ByteString"))?;
                Ok((raw.into(), named(&body)))
            }
            (true, Some("media")) if kind.starts_with("message/rfc822") => Ok((self.request.body().clone(), None)),
            (true, Some("multipart")) if kind.starts_with("multipart/related") => {
                let whole = [b"Content-Type: ", kind.as_bytes(), b"\r\n\r\n", self.request.body()].concat();
                let part = Part::read(&whole);
                let [about, message] = part.parts.as_slice() else {
                    return Err(Refusal::invalid("Missing end boundary in multipart body"));
                };
                let about: Value =
                    serde_json::from_slice(&about.content).map_err(|_| Refusal::invalid("Parse Error"))?;
                Ok((message.content.clone().into(), named(&about)))
            }
            (true, _) => {
                Err(Refusal::new(400, "badContent", "Media type is not supported. Valid media types: [message/*]"))
            }
        }
    }
}

/// Puts the sender's own address where another one stands, and a Message-ID where there is none.
fn signed(raw: &Bytes, part: &Part, own: &str) -> Bytes {
    let from = part.header("from").map(addresses).unwrap_or_default();
    let mut before = String::new();
    if part.header("message-id").is_none() {
        let word = raw
            .iter()
            .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3));
        before.push_str(&format!("Message-ID: <{word:016x}@mail.gmail.com>\r\n"));
    }
    if from.first().is_some_and(|from| from == own) {
        return [before.as_bytes(), raw].concat().into();
    }
    before.push_str(&format!("From: {own}\r\n"));
    [before.as_bytes(), &without(raw, "from")].concat().into()
}

fn without_bcc(raw: &Bytes) -> Bytes {
    without(raw, "bcc").into()
}

/// Leaves out a header with its continuations.
fn without(raw: &[u8], name: &str) -> Vec<u8> {
    let (mut out, mut rest, mut skips) = (Vec::with_capacity(raw.len()), raw, false);
    while !rest.is_empty() {
        let end = rest.iter().position(|c| *c == b'\n').map_or(rest.len(), |end| end + 1);
        let (line, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        if line == b"\n" || line == b"\r\n" {
            out.extend_from_slice(rest);
            return out;
        }
        if !line.starts_with(b" ") && !line.starts_with(b"\t") {
            let known = line.iter().position(|c| *c == b':').and_then(|at| line.get(..at)).unwrap_or_default();
            skips = known.eq_ignore_ascii_case(name.as_bytes());
        }
        if !skips {
            out.extend_from_slice(line);
        }
        rest = after;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_left_out_with_its_continuations_and_no_body_is() {
        let raw = b"To: a@x\r\nBcc: b@x,\r\n c@x\r\nSubject: s\r\n\r\nBcc: stays\r\n";
        assert_eq!(without(raw, "bcc"), b"To: a@x\r\nSubject: s\r\n\r\nBcc: stays\r\n");
        let signed = signed(
            &Bytes::from_static(b"From: eve@x\nTo: a@x\n\nx"),
            &Part::read(b"From: eve@x\nTo: a@x\n\nx"),
            "ada@x",
        );
        let text = String::from_utf8(signed.to_vec()).unwrap();
        assert!(
            text.contains("From: ada@x\r\n") && !text.contains("eve") && text.starts_with("Message-ID: <"),
            "{text}"
        );
    }
}
