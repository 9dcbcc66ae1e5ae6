//! Inbound mail, signed and unsigned.

use bytes::Bytes;
use http::{HeaderMap, Method};
use palisade_core::webhook::{RawDelivery, Refusal, Webhook};
use palisade_core::{ErrorKind, Secret};
use palisade_sendgrid::{SendGridWebhook, TypedEvent};

use super::webhook::{Key, NOW, URL, read};

pub(crate) const KIND: &str = "multipart/form-data; boundary=xYz";
const TOKEN: &str = "0123456789abcdef";

fn part(disposition: &str, content: &[u8]) -> Vec<u8> {
    let head = format!("--xYz\r\nContent-Disposition: form-data; {disposition}\r\n\r\n");
    [head.as_bytes(), content, b"\r\n"].concat()
}

pub(crate) fn mail() -> Vec<u8> {
    [
        part("name=\"headers\"", b"Message-ID: <1@x>\nSubject: Gr"),
        part("name=\"from\"", b"Ada <ada@example.com>"),
        part("name=\"to\"", b"in@parse.example.com"),
        part("name=\"subject\"", b"Gr\xfc\xdfe"),
        part("name=\"text\"", b"Hello --xYz\r\n-xYz is no boundary here\r\n"),
        part("name=\"envelope\"", br#"{"to":["in@parse.example.com"],"from":"ada@example.com"}"#),
        part("name=\"charsets\"", br#"{"subject":"iso-8859-1","text":"UTF-8"}"#),
        part("name=\"attachments\"", b"1"),
        part("name=\"SPF\"", b"pass"),
        part("name=\"attachment1\"; filename=\"a.bin\"\r\nContent-Type: application/octet-stream", b"\0\xff\r\n"),
        b"--xYz--\r\n".to_vec(),
    ]
    .concat()
}

fn unsigned(url: &str, body: &[u8]) -> RawDelivery {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", KIND.parse().unwrap());
    RawDelivery { method: Method::POST, url: url.into(), headers, body: Bytes::copy_from_slice(body) }
}

fn verify(raw: &RawDelivery, secrets: &[&str]) -> Result<(), Refusal> {
    let secrets: Vec<Secret> = secrets.iter().map(|secret| Secret::from(*secret)).collect();
    SendGridWebhook::new().verify(raw, &secrets, NOW)
}

#[test]
fn a_signed_mail_is_read_with_its_texts_and_attachments() {
    let key = Key::new();
    let events = read(key.deliver(KIND, &mail()), &[key.public]).unwrap().events;
    assert_eq!((events.len(), events[0].kind.as_str()), (1, "inbound"));
    let TypedEvent::Inbound(mail) = TypedEvent::parse(&events[0]).unwrap() else { panic!() };
    assert_eq!((mail.from.as_str(), mail.subject.as_str()), ("Ada <ada@example.com>", "Grüße"));
    assert_eq!(mail.envelope_from.as_deref(), Some("ada@example.com"));
    assert_eq!(mail.envelope_to, ["in@parse.example.com"]);
    assert_eq!(mail.text.as_deref(), Some("Hello --xYz\r\n-xYz is no boundary here\r\n"));
    assert_eq!(mail.spf.as_deref(), Some("pass"));
    let [file] = mail.files.as_slice() else { panic!() };
    assert_eq!((file.filename.as_str(), &file.content[..]), ("a.bin", &b"\0\xff\r\n"[..]));
}

/// Fails when unsigned mail is taken without being chosen, or when a token that can be guessed is.
#[test]
fn unsigned_mail_is_taken_only_by_a_token_in_its_url() {
    let body = mail();
    let with = |query: &str| unsigned(&format!("{URL}?{query}"), &body);
    let key = Key::new();
    let (public, token) = (key.public.expose(), format!("token:{TOKEN}"));
    assert_eq!(verify(&with(&format!("token={TOKEN}")), &[public, &token]), Ok(()));
    assert_eq!(verify(&with(&format!("a=1&token={TOKEN}&b=2")), &[&token]), Ok(()));
    assert_eq!(verify(&with(&format!("token={TOKEN}")), &["token:another_token_of_it", &token]), Ok(()));
    assert!(
        matches!(verify(&with(&format!("token={TOKEN}")), &[public]), Err(Refusal::MissingHeader(_))),
        "not chosen"
    );
    assert_eq!(verify(&with("token=another"), &[&token]), Err(Refusal::Mismatch));
    assert_eq!(verify(&with("token="), &[&token]), Err(Refusal::Mismatch));
    assert_eq!(verify(&with("token=short"), &["token:short"]), Err(Refusal::Mismatch), "it can be guessed");
    assert_eq!(verify(&with("token="), &["token:"]), Err(Refusal::Mismatch));
    assert!(matches!(verify(&with("x=1"), &[&token]), Err(Refusal::Malformed(_))));
    assert!(matches!(verify(&with(&format!("token={TOKEN}&token={TOKEN}")), &[&token]), Err(Refusal::Malformed(_))));
    assert!(matches!(verify(&unsigned(URL, &body), &[&token]), Err(Refusal::Malformed(_))));
}

/// Fails when the token opens the door for forged events, or makes a wrong signature count for none.
#[test]
fn a_token_stands_for_unsigned_mail_and_nothing_else() {
    let key = Key::new();
    let token = format!("token:{TOKEN}");
    let secrets = [key.public.expose(), &token];
    let mut events = unsigned(&format!("{URL}?token={TOKEN}"), b"[]");
    for kind in ["application/json", "text/plain", "multipart/mixed; boundary=x", ""] {
        events.headers.insert("content-type", kind.parse().unwrap());
        assert!(matches!(verify(&events, &secrets), Err(Refusal::MissingHeader(_))), "{kind}");
    }
    let mut forged = key.deliver(KIND, &mail());
    forged.url = format!("{URL}?token={TOKEN}");
    forged.body = Bytes::from_static(b"--xYz--\r\n");
    assert_eq!(verify(&forged, &secrets), Err(Refusal::Mismatch));
    forged.headers.remove("x-twilio-email-event-webhook-signature");
    assert!(matches!(verify(&forged, &secrets), Err(Refusal::MissingHeader(_))));
}

/// Fails when a repetition with another boundary is taken for another mail.
#[test]
fn the_same_mail_is_the_same_event_whatever_its_boundary() {
    let id = |kind: &str, body: &[u8]| {
        let key = Key::new();
        read(key.deliver(kind, body), &[key.public]).unwrap().events.remove(0).id
    };
    let text = String::from_utf8_lossy(&mail()).replace(" --xYz\r\n-xYz is", "").replace('\u{fffd}', "?");
    let other = text.replace("xYz", "aBcDe");
    assert_eq!(id(KIND, text.as_bytes()), id("multipart/form-data; boundary=\"aBcDe\"", other.as_bytes()));
    assert_ne!(id(KIND, text.as_bytes()), id(KIND, text.replace("Hello", "Hallo").as_bytes()));
}

#[test]
fn a_form_that_is_not_whole_is_refused() {
    let key = Key::new();
    let whole = mail();
    for (kind, body) in [
        (KIND, &whole[..whole.len() - 10]),
        (KIND, b"".as_slice()),
        ("multipart/form-data; boundary=other", &whole),
        ("multipart/form-data", &whole),
    ] {
        let error = read(key.deliver(kind, body), std::slice::from_ref(&key.public)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode, "{kind}");
    }
}
