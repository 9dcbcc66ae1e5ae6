//! Mails written of arbitrary names, addresses, subjects and texts: refused or written, and nothing of them becomes a
//! header of its own.
#![no_main]

use libfuzzer_sys::fuzz_target;
use palisade_fuzz::{Cut, NOW};
use palisade_google::client::mail::{Mail, Mailbox};

fuzz_target!(|data: &[u8]| {
    let mut cut = Cut::new(data);
    let part = |cut: &mut Cut<'_>| {
        // Line ends are what an injection is made of.
        cut.text().replace('\u{1}', "\r").replace('\u{2}', "\n")
    };
    let (name, address, subject) = (part(&mut cut), part(&mut cut), part(&mut cut));
    let (header, value) = (part(&mut cut), part(&mut cut));
    let text = String::from_utf8_lossy(&cut.rest()).into_owned();
    let mail = Mail::new()
        .from("ada@example.com")
        .to(Mailbox::named(name, "bob@example.com"))
        .cc(Mailbox::new(address))
        .subject(subject)
        .header(header.clone(), value)
        .text(text);
    let Ok(mime) = mail.to_mime("abcdefghijklmnopqrstuvwxyz012345", NOW) else { return };
    let whole = String::from_utf8_lossy(mime.bytes());
    let head = whole.split("\r\n\r\n").next().unwrap_or_default();
    let ours = [
        "from",
        "to",
        "cc",
        "subject",
        "date",
        "message-id",
        "mime-version",
        "content-type",
        "content-transfer-encoding",
    ];
    for line in head.split("\r\n").filter(|line| !line.starts_with([' ', '\t'])) {
        let name = line.split(':').next().unwrap_or_default();
        let known = ours.iter().any(|ours| name.eq_ignore_ascii_case(ours)) || name.eq_ignore_ascii_case(&header);
        assert!(known, "a header nobody wrote: {line:?}");
    }
});
