//! Mails: what is in them, and what cannot get into them.

use bytes::Bytes;
use palisade_core::{ErrorKind, Timestamp};
use palisade_google::client::gmail::Message;
use palisade_google::client::mail::{Attachment, MIME_BYTES_MAX, Mail, Mailbox, Reply};
use serde_json::json;

const NOW: Timestamp = Timestamp(1_767_225_600_000);

fn written(mail: &Mail) -> String {
    String::from_utf8(mail.to_mime("u1", NOW).unwrap().bytes().to_vec()).unwrap()
}

/// Headers unfolded, in order.
fn headers(text: &str) -> Vec<(String, String)> {
    let head = text.split_once("\r\n\r\n").unwrap().0.replace("\r\n ", " ").replace("\r\n\t", " ");
    head.split("\r\n").map(|line| line.split_once(": ").unwrap()).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

fn header(text: &str, name: &str) -> Option<String> {
    headers(text).into_iter().find(|(found, _)| found == name).map(|(_, value)| value)
}

#[test]
fn a_mail_is_whole_and_ends_its_lines_with_cr_lf() {
    let text = written(
        &Mail::new()
            .from(Mailbox::named("Ann Example", "ann@example.com"))
            .to("bob@example.com")
            .cc(Mailbox::named("Zoë \"Z\" Ünal", "zoe@example.com"))
            .bcc("eve@example.com")
            .reply_to("office@example.com")
            .subject("Grüße – 你好")
            .text("one\ntwo\r\nthree\rfour")
            .header("X-Campaign", "spring"),
    );
    assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "every line ends in CR LF: {text:?}");
    assert!(text.is_ascii(), "what is not ASCII is encoded");
    assert_eq!(header(&text, "MIME-Version").as_deref(), Some("1.0"));
    assert_eq!(header(&text, "Date").as_deref(), Some("Thu, 01 Jan 2026 00:00:00 +0000"));
    assert_eq!(header(&text, "Message-ID").as_deref(), Some("<u1@example.com>"));
    assert_eq!(header(&text, "To").as_deref(), Some("bob@example.com"));
    assert_eq!(header(&text, "Bcc").as_deref(), Some("eve@example.com"));
    assert_eq!(header(&text, "X-Campaign").as_deref(), Some("spring"));
    assert!(header(&text, "Subject").unwrap().starts_with("=?utf-8?b?"), "{text}");
    assert!(header(&text, "From").unwrap().ends_with("<ann@example.com>"));
    assert!(text.contains("\r\n\r\none\r\ntwo\r\nthree\r\nfour"), "{text}");
    assert!(header(&text, "Content-Type").unwrap().contains("charset=utf-8"));
}

#[test]
fn text_html_and_files_nest_as_they_should() {
    let file = Attachment {
        file_name: "Rechnung März \"1\".pdf".into(),
        content_type: "application/pdf".into(),
        bytes: Bytes::from_static(b"%PDF-1.7\x00\xff"),
    };
    let text = written(&Mail::new().to("a@x.example").text("t").html("<p>h</p>").attach(file));
    assert!(header(&text, "Content-Type").unwrap().starts_with("multipart/mixed"));
    let outer = text.find("multipart/mixed").unwrap();
    let inner = text.find("multipart/alternative").unwrap();
    let (plain, html) = (text.find("text/plain").unwrap(), text.find("text/html").unwrap());
    let pdf = text.find("application/pdf").unwrap();
    assert!(outer < inner && inner < plain && plain < html && html < pdf, "{text}");
    assert!(text.contains("Content-Disposition: attachment"));
    assert!(text.contains("JVBERi0xLjcA/w=="), "the bytes as base64");
    assert!(text.is_ascii() && text.contains("palisade-1-u1") && text.contains("palisade-2-u1"));
    assert!(text.ends_with("--palisade-2-u1--\r\n"));
}

#[test]
fn an_answer_stays_in_its_conversation() {
    let message: Message = serde_json::from_value(json!({
        "id": "m1", "threadId": "t1", "payload": { "headers": [
            { "name": "subject", "value": "Lunch?" },
            { "name": "Message-Id", "value": "<2@x.example>" },
            { "name": "References", "value": "<0@x.example>\r\n <1@x.example>" },
        ] },
    }))
    .unwrap();
    let reply = Reply::to(&message).unwrap();
    let mail = Mail::answering(reply.clone()).to("a@x.example").text("yes");
    let mime = mail.to_mime("u1", NOW).unwrap();
    assert_eq!(mime.thread(), Some("t1"));
    let text = written(&mail);
    assert_eq!(header(&text, "Subject").as_deref(), Some("Re: Lunch?"));
    assert_eq!(header(&text, "In-Reply-To").as_deref(), Some("<2@x.example>"));
    assert_eq!(header(&text, "References").as_deref(), Some("<0@x.example> <1@x.example> <2@x.example>"));

    let again = Mail::answering(Reply { subject: "RE: Lunch?".into(), ..reply.clone() }).to("a@x.example");
    assert_eq!(header(&written(&again), "Subject").as_deref(), Some("RE: Lunch?"));

    let long = Reply { references: (0..500).map(|n| format!("<{n}@x.example>")).collect(), ..reply };
    let text = written(&Mail::answering(long).to("a@x.example"));
    let references = header(&text, "References").unwrap();
    let ids: Vec<&str> = references.split(' ').collect();
    assert_eq!((ids.len(), ids[0], ids[39]), (40, "<0@x.example>", "<2@x.example>"));
    assert!(text.lines().all(|line| line.len() <= 998), "a line of RFC 5322 is not longer");

    let bare: Message = serde_json::from_value(json!({ "id": "m1", "threadId": "t1" })).unwrap();
    assert_eq!(Reply::to(&bare), None);
}

#[track_caller]
fn refused(mail: &Mail, what: &str) {
    let error = mail.to_mime("u1", NOW).map(|mime| String::from_utf8_lossy(mime.bytes()).into_owned()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{what:?}");
    let said = format!("{error} {error:?} {} {mail:?}", error.user_message());
    assert!(!said.contains("evil"), "nothing of a mail is told: {said}");
}

/// Fails when any of these texts reaches a header: a smuggled `Bcc` is delivered to.
#[test]
fn nothing_breaks_out_of_its_header() {
    let ok = || Mail::new().to("a@x.example");
    for smuggled in [
        "\r\nBcc: evil@x.example",
        "\nBcc: evil@x.example",
        "\rBcc: evil@x.example",
        "\0evil",
        "\u{85}evil",
        "\u{2028}evil",
        "\x1bevil",
        "\x7fevil",
    ] {
        let text = format!("x{smuggled}");
        refused(&ok().subject(&text), &text);
        refused(&ok().header("X-A", &text), &text);
        refused(&ok().header(format!("X-A{smuggled}"), "v"), &text);
        refused(&ok().from(Mailbox::named(&text, "a@x.example")), &text);
        refused(&ok().to(format!("a@x.example{smuggled}").as_str()), &text);
        refused(&ok().cc(format!("{text}@x.example").as_str()), &text);
        refused(&ok().bcc(Mailbox::named(&text, "a@x.example")), &text);
        refused(&ok().reply_to(format!("a@x.example{smuggled}").as_str()), &text);
        refused(&ok().message_id(format!("1@x.example{smuggled}")), &text);
        let reply = Reply { message_id: "1@x.example".into(), ..Reply::default() };
        refused(&Mail::answering(Reply { subject: text.clone(), ..reply.clone() }).to("a@x.example"), &text);
        refused(&Mail::answering(Reply { message_id: text.clone(), ..reply.clone() }).to("a@x.example"), &text);
        refused(&Mail::answering(Reply { references: vec![text.clone()], ..reply }).to("a@x.example"), &text);
        let file = Attachment { file_name: "f".into(), content_type: "text/plain".into(), bytes: Bytes::new() };
        refused(&ok().attach(Attachment { file_name: text.clone(), ..file.clone() }), &text);
        refused(&ok().attach(Attachment { content_type: format!("text/plain{smuggled}"), ..file }), &text);
    }
    for name in [
        "Bcc",
        "bcc",
        "To",
        "Content-Type",
        "content-transfer-encoding",
        "Message-ID",
        "Date",
        "Sender",
        "X A",
        "X:A",
        "",
        "Ünal",
    ] {
        refused(&ok().header(name, "evil"), name);
    }
}

#[test]
fn addresses_that_are_none_are_refused_with_words_for_a_person() {
    for bad in [
        "",
        "evil",
        "evil@",
        "@x.example",
        "evil@x.example, b@x.example",
        "Evil <evil@x.example>",
        "evil @x.example",
        "evil@x..example",
        "evíl@x.example",
        "evil@bücher.example",
    ] {
        refused(&Mail::new().to(bad), bad);
        let error = Mail::new().to(bad).to_mime("u1", NOW).unwrap_err();
        assert!(error.user_message().contains("e-mail addresses"), "{bad}");
    }
    refused(&Mail::new().subject("nobody"), "no recipient");
    for good in ["a@x.example", "a.b+c@sub.x.example", "o'neil@x.example", "a@xn--bcher-kva.example"] {
        assert!(Mail::new().to(good).to_mime("u1", NOW).is_ok(), "{good}");
    }
}

#[test]
fn hostile_but_lawful_texts_stay_text() {
    let text = written(
        &Mail::new().to("a@x.example").subject("=?utf-8?q?x?= \\\"; <b>").text(".\n..\nFrom x\n--palisade-1-u1"),
    );
    assert!(text.contains("\r\n\r\n.\r\n..\r\nFrom x"), "{text}");
    let long = "word ".repeat(1_000);
    let text = written(&Mail::new().to("a@x.example").subject(&long).text(&*long));
    assert!(text.lines().all(|line| line.len() <= 998));
    refused(&Mail::new().to("a@x.example").subject("evil".repeat(10_000)), "a header of 40 kB");
}

#[test]
fn what_gmail_would_refuse_for_its_size_is_refused_here() {
    let file = |bytes: usize| Attachment {
        file_name: "f".into(),
        content_type: "application/octet-stream".into(),
        bytes: vec![0; bytes].into(),
    };
    let fits = Mail::new().to("a@x.example").attach(file(100_000)).to_mime("u1", NOW).unwrap();
    assert!((133_000..140_000).contains(&fits.bytes().len()), "{}", fits.bytes().len());
    for files in [&[MIME_BYTES_MAX / 4 * 3 + 3][..], &[20_000_000, 20_000_000], &[15_000_000; 3]] {
        let mail = files.iter().fold(Mail::new().to("a@x.example"), |mail, bytes| mail.attach(file(*bytes)));
        let error = mail.to_mime("u1", NOW).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.user_message().contains("too large"));
    }
}
