//! Inbound mail: the parts of SendGrid's Inbound Parse as one event.
//!
//! Each text is decoded by the charset SendGrid names for it; one this crate does not know is kept in base64, so that
//! nothing is lost. Attachments are part of the event, in base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use palisade_core::webhook::{Event, hmac, unreadable};
use palisade_core::{EventId, Result};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::multipart::{Part, boundary, parts};

/// The type of the event of an inbound mail.
pub const INBOUND: &str = "inbound";

/// The fields that are JSON themselves.
const JSON_FIELDS: [&str; 4] = ["envelope", "charsets", "attachment-info", "content-ids"];

/// Makes the event of a delivery. Its identity is a hash of all parts: SendGrid gives none, and the boundary may differ
/// from one try to the next.
pub(super) fn event(content_type: &str, body: &[u8]) -> Result<Event> {
    let boundary =
        boundary(content_type).ok_or_else(|| unreadable("sendgrid", "the inbound mail's form names no boundary"))?;
    let parts = parts(body, boundary).ok_or_else(|| unreadable("sendgrid", "the inbound mail's form is not whole"))?;
    let charsets = parts.iter().find(|part| part.name == "charsets");
    let charsets: Map<String, Value> =
        charsets.and_then(|part| serde_json::from_slice(part.content).ok()).unwrap_or_default();
    let mut digest = Sha256::new();
    let (mut fields, mut files) = (Map::new(), Vec::new());
    for part in &parts {
        for piece in [part.name.as_bytes(), part.filename.as_deref().unwrap_or_default().as_bytes(), part.content] {
            digest.update(piece.len().to_le_bytes());
            digest.update(piece);
        }
        if part.filename.is_some() {
            files.push(file(part));
            continue;
        }
        let charset = charsets.get(&part.name).and_then(Value::as_str);
        let value = field(part, charset);
        // The first of a name counts, as in every form reader.
        fields.entry(part.name.clone()).or_insert(value);
    }
    fields.insert("files".to_owned(), files.into());
    let payload = serde_json::to_vec(&fields).map_err(|_| unreadable("sendgrid", "the inbound mail cannot be kept"))?;
    Ok(Event {
        id: EventId::new(hmac::to_lower_hex(&digest.finalize())),
        kind: INBOUND.to_owned(),
        account: None,
        created: None,
        ordering_key: None,
        payload: Bytes::from(payload),
    })
}

fn file(part: &Part<'_>) -> Value {
    json!({
        "field": part.name,
        "filename": part.filename,
        "content_type": part.content_type,
        "content": STANDARD.encode(part.content),
    })
}

fn field(part: &Part<'_>, charset: Option<&str>) -> Value {
    if JSON_FIELDS.contains(&part.name.as_str())
        && let Ok(value) = serde_json::from_slice(part.content)
    {
        return value;
    }
    match text(part.content, charset) {
        Some(text) => Value::String(text),
        None => json!({ "charset": charset, "base64": STANDARD.encode(part.content) }),
    }
}

/// Decodes a text: UTF-8 where it is, else by its charset where that maps byte by byte.
fn text(bytes: &[u8], charset: Option<&str>) -> Option<String> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Some(text.to_owned());
    }
    match charset?.to_ascii_lowercase().as_str() {
        "iso-8859-1" | "latin1" | "windows-1252" | "cp1252" | "us-ascii" | "ascii" => {
            Some(bytes.iter().map(|byte| windows_1252(*byte)).collect())
        }
        _ => None,
    }
}

/// Maps a byte of windows-1252, which every reader of mail takes ISO-8859-1 for (WHATWG, encoding standard).
fn windows_1252(byte: u8) -> char {
    const UPPER: [char; 32] = [
        '\u{20ac}', '\u{81}', '\u{201a}', '\u{192}', '\u{201e}', '\u{2026}', '\u{2020}', '\u{2021}', '\u{2c6}',
        '\u{2030}', '\u{160}', '\u{2039}', '\u{152}', '\u{8d}', '\u{17d}', '\u{8f}', '\u{90}', '\u{2018}', '\u{2019}',
        '\u{201c}', '\u{201d}', '\u{2022}', '\u{2013}', '\u{2014}', '\u{2dc}', '\u{2122}', '\u{161}', '\u{203a}',
        '\u{153}', '\u{9d}', '\u{17e}', '\u{178}',
    ];
    let upper = byte.checked_sub(0x80).and_then(|at| UPPER.get(usize::from(at)).copied());
    upper.unwrap_or(char::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_decoded_by_their_charset_and_others_kept() {
        assert_eq!(text("Grüße".as_bytes(), Some("iso-8859-1")).as_deref(), Some("Grüße"), "UTF-8 is told by itself");
        assert_eq!(text(b"Gr\xfc\xdfe", Some("ISO-8859-1")).as_deref(), Some("Grüße"));
        assert_eq!(text(b"5 \x80 \x96 \x93x\x94", Some("windows-1252")).as_deref(), Some("5 € – “x”"));
        assert_eq!(text(b"\x83\x65", Some("shift_jis")), None);
        assert_eq!(text(b"\xff", None), None);
    }
}
