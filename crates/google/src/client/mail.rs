//! A mail as Gmail wants it: MIME built by lettre, from parts that cannot break out of their header.
//!
//! Whatever goes into a header (names, addresses, subjects, file names, ids) is refused with a line break, a NUL or
//! another control character in it, before any encoder sees it: Gmail honours a `Bcc` it finds in the message, so one
//! smuggled line would send the mail to anybody.

use std::fmt;

use bytes::Bytes;
use lettre::Address;
use lettre::message::header::{ContentType, HeaderName, HeaderValue, Headers};
use lettre::message::{Attachment as Part, Mailbox as Box_, Mailboxes, MultiPart, SinglePart, header};
use palisade_core::{Error, ErrorKind, Result, Timestamp};

use super::gmail::Message;

/// The largest message the upload route takes (Gmail API discovery document, messages.send: 36,700,160 bytes).
pub const MIME_BYTES_MAX: usize = 36_700_160;
/// The longest header value taken from a caller: what mail servers commonly take of a whole header block.
const VALUE_BYTES_MAX: usize = 8 << 10;
/// How many ids of earlier messages are named, as the first and the newest ones (RFC 5322 section 3.6.4 lets it be cut).
const REFERENCES_MAX: usize = 40;
/// Stands in a Message-ID where no sender's domain is known.
const ID_DOMAIN: &str = "mail.palisade.invalid";
/// Headers that are made from the parts and not given.
const OWN_HEADERS: [&str; 11] =
    ["from", "sender", "to", "cc", "bcc", "reply-to", "subject", "date", "message-id", "in-reply-to", "references"];

/// Somebody's address, with the name shown for it.
#[derive(Clone, PartialEq, Eq)]
pub struct Mailbox {
    name: Option<String>,
    address: String,
}

impl fmt::Debug for Mailbox {
    /// An address is a person's: it is not written to logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mailbox(…)")
    }
}

impl Mailbox {
    /// Takes an address; it is checked when the mail is written.
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self { name: None, address: address.into() }
    }

    /// Takes a name and an address.
    #[must_use]
    pub fn named(name: impl Into<String>, address: impl Into<String>) -> Self {
        Self { name: Some(name.into()), address: address.into() }
    }

    fn checked(&self) -> Result<Box_> {
        let name = self.name.as_deref().map(|name| one_line(name, "a name holds a line break or control character"));
        let address = one_line(&self.address, "an address holds a line break or control character")?;
        // Other alphabets need SMTPUTF8 on the whole way; their domains have an ASCII form.
        let parsed = address.parse::<Address>().ok().filter(|_| address.is_ascii());
        let parsed = parsed.ok_or_else(|| {
            invalid("an address is not one such as ann@example.com")
                .with_user_message("One of the e-mail addresses is not valid. Please check it and try again.")
        })?;
        Ok(Box_::new(name.transpose()?.filter(|name| !name.is_empty()).map(str::to_owned), parsed))
    }
}

impl From<&str> for Mailbox {
    fn from(address: &str) -> Self {
        Self::new(address)
    }
}

/// What a mail answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; checked when the mail is written")]
pub struct Reply {
    /// Gmail's id of the conversation.
    pub thread_id: String,
    /// The Message-ID of the message that is answered.
    pub message_id: String,
    /// What that message itself referred to, oldest first.
    pub references: Vec<String>,
    /// Its subject: Gmail keeps a conversation together only under the same one.
    pub subject: String,
}

impl Reply {
    /// Reads from a message what an answer to it needs. `None` when it was not read with its headers
    /// ([`super::Format::Full`], or [`super::Format::Metadata`] with `Message-ID`, `References` and `Subject`).
    #[must_use]
    pub fn to(message: &Message) -> Option<Self> {
        let headers = message.payload.as_ref()?.headers.as_ref()?;
        let value = |name: &str| {
            let found = headers.iter().find(|h| h.name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(name)));
            found.and_then(|header| header.value.clone())
        };
        let references = value("References").unwrap_or_default();
        Some(Self {
            thread_id: message.thread_id.clone()?,
            message_id: value("Message-ID")?,
            references: references.split_ascii_whitespace().map(str::to_owned).collect(),
            subject: value("Subject").unwrap_or_default(),
        })
    }
}

/// A file sent with a mail.
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; checked when the mail is written")]
pub struct Attachment {
    /// Its name.
    pub file_name: String,
    /// Its type (`application/pdf`).
    pub content_type: String,
    /// Its bytes.
    pub bytes: Bytes,
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// A mail to write. Gmail sets the sender to the account or one of its aliases, whatever `from` says.
#[derive(Clone, Default)]
pub struct Mail {
    from: Option<Mailbox>,
    to: Vec<Mailbox>,
    cc: Vec<Mailbox>,
    bcc: Vec<Mailbox>,
    reply_to: Vec<Mailbox>,
    subject: Option<String>,
    text: Option<String>,
    html: Option<String>,
    attachments: Vec<Attachment>,
    headers: Vec<(String, String)>,
    reply: Option<Reply>,
    message_id: Option<String>,
}

impl fmt::Debug for Mail {
    /// Neither people nor texts are written to logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mail")
            .field("recipients", &(self.to.len() + self.cc.len() + self.bcc.len()))
            .field("attachments", &self.attachments)
            .finish_non_exhaustive()
    }
}

impl Mail {
    /// Begins a mail.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins an answer: in the same conversation, under the same subject.
    #[must_use]
    pub fn answering(reply: Reply) -> Self {
        Self { reply: Some(reply), ..Self::default() }
    }

    /// Names the sender: the account's address or an alias allowed to it.
    #[must_use]
    pub fn from(mut self, sender: impl Into<Mailbox>) -> Self {
        self.from = Some(sender.into());
        self
    }

    /// Adds a recipient.
    #[must_use]
    pub fn to(mut self, recipient: impl Into<Mailbox>) -> Self {
        self.to.push(recipient.into());
        self
    }

    /// Adds a recipient of a copy.
    #[must_use]
    pub fn cc(mut self, recipient: impl Into<Mailbox>) -> Self {
        self.cc.push(recipient.into());
        self
    }

    /// Adds a recipient nobody else sees.
    #[must_use]
    pub fn bcc(mut self, recipient: impl Into<Mailbox>) -> Self {
        self.bcc.push(recipient.into());
        self
    }

    /// Adds an address answers go to.
    #[must_use]
    pub fn reply_to(mut self, address: impl Into<Mailbox>) -> Self {
        self.reply_to.push(address.into());
        self
    }

    /// Sets the subject.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Sets the text.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// Sets the HTML, shown in place of the text where both are there.
    #[must_use]
    pub fn html(mut self, html: impl Into<String>) -> Self {
        self.html = Some(html.into());
        self
    }

    /// Adds a file.
    #[must_use]
    pub fn attach(mut self, attachment: Attachment) -> Self {
        self.attachments.push(attachment);
        self
    }

    /// Adds a header of one's own (`X-Campaign`, `List-Unsubscribe`).
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the Message-ID, without its angle brackets; a random one is made otherwise.
    #[must_use]
    pub fn message_id(mut self, id: impl Into<String>) -> Self {
        self.message_id = Some(id.into());
        self
    }

    /// Writes the mail. `unique` is a random word that occurs nowhere else; from it the boundaries are made, and the
    /// Message-ID if none is set.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], saying what is wrong: no recipient, an address that is none, a line break or control
    /// character in a header, a header that is not for the caller to set, more than [`MIME_BYTES_MAX`]. Nothing of the
    /// mail is in the message.
    pub fn to_mime(&self, unique: &str, now: Timestamp) -> Result<Mime> {
        if self.to.is_empty() && self.cc.is_empty() && self.bcc.is_empty() {
            return Err(invalid("a mail needs a recipient"));
        }
        let message_id = match &self.message_id {
            Some(id) => checked_id(id)?,
            None => {
                let sender = self.from.as_ref().map(Mailbox::checked).transpose()?;
                let domain = sender.as_ref().map_or(ID_DOMAIN, |sender| sender.email.domain());
                format!("{unique}@{domain}")
            }
        };
        let headers = self.head(&message_id, now)?;
        // Files become a third larger at least: what cannot fit is not encoded to find that out.
        let files: usize = self.attachments.iter().map(|file| file.bytes.len()).sum();
        if files / 3 * 4 > MIME_BYTES_MAX {
            return Err(too_large());
        }
        let bytes = self.parts(unique, &headers.to_string())?;
        if bytes.len() > MIME_BYTES_MAX {
            return Err(too_large());
        }
        let thread = self.reply.as_ref().map(|reply| reply.thread_id.clone()).filter(|id| !id.is_empty());
        Ok(Mime { bytes: bytes.into(), message_id, thread })
    }

    fn head(&self, message_id: &str, now: Timestamp) -> Result<Headers> {
        let mut headers = Headers::new();
        headers.set(header::MIME_VERSION_1_0);
        headers.set(header::Date::new(now.to_system_time()));
        headers.insert_raw(plain("Message-ID", format!("<{message_id}>")));
        if let Some(from) = &self.from {
            headers.set(header::From::from(Mailboxes::from(from.checked()?)));
        }
        if !self.to.is_empty() {
            headers.set(header::To::from(all(&self.to)?));
        }
        if !self.cc.is_empty() {
            headers.set(header::Cc::from(all(&self.cc)?));
        }
        if !self.bcc.is_empty() {
            headers.set(header::Bcc::from(all(&self.bcc)?));
        }
        if !self.reply_to.is_empty() {
            headers.set(header::ReplyTo::from(all(&self.reply_to)?));
        }
        let answered = self.reply.as_ref().map(|reply| reply.subject.as_str());
        if let Some(subject) = self.subject.clone().or_else(|| answered.map(again)) {
            let subject = one_line(&subject, "the subject holds a line break or control character")?.to_owned();
            headers.set(header::Subject::from(subject));
        }
        if let Some(reply) = &self.reply {
            let answered = checked_id(&reply.message_id)?;
            let mut ids: Vec<String> = reply.references.iter().map(|id| checked_id(id)).collect::<Result<_>>()?;
            ids.retain(|id| *id != answered);
            ids.push(answered.clone());
            if ids.len() > REFERENCES_MAX {
                ids.drain(1..=ids.len() - REFERENCES_MAX);
            }
            let ids: Vec<String> = ids.iter().map(|id| format!("<{id}>")).collect();
            headers.insert_raw(plain("In-Reply-To", format!("<{answered}>")));
            headers.insert_raw(plain("References", ids.join(" ")));
        }
        for (name, value) in &self.headers {
            headers.insert_raw(own(name, value)?);
        }
        Ok(headers)
    }

    /// Writes head and body: a part of its own, or several around a boundary.
    fn parts(&self, unique: &str, head: &str) -> Result<Vec<u8>> {
        // Line breaks of any kind are CR LF on the wire. The encoder would put in each missing CR by moving the rest.
        let lines = |text: &str| text.replace("\r\n", "\n").replace('\r', "\n").replace('\n', "\r\n");
        let text = self.text.as_deref().map(|text| SinglePart::plain(lines(text)));
        let html = self.html.as_deref().map(|html| SinglePart::html(lines(html)));
        let boundary = |n: u8| format!("palisade-{n}-{unique}");
        let both = |text, html| {
            let pair = MultiPart::alternative().boundary(boundary(1));
            pair.singlepart(text).singlepart(html)
        };
        let body = if self.attachments.is_empty() {
            match (text, html) {
                (Some(text), Some(html)) => both(text, html).formatted(),
                (Some(one), None) | (None, Some(one)) => one.formatted(),
                (None, None) => SinglePart::plain(String::new()).formatted(),
            }
        } else {
            let mixed = MultiPart::mixed().boundary(boundary(2));
            let mut mixed = match (text, html) {
                (Some(text), Some(html)) => mixed.multipart(both(text, html)),
                (Some(one), None) | (None, Some(one)) => mixed.singlepart(one),
                (None, None) => mixed.singlepart(SinglePart::plain(String::new())),
            };
            for attachment in &self.attachments {
                mixed = mixed.singlepart(attachment.part()?);
            }
            mixed.formatted()
        };
        Ok([head.as_bytes(), &body].concat())
    }
}

impl Attachment {
    fn part(&self) -> Result<SinglePart> {
        let name = one_line(&self.file_name, "a file name holds a line break or control character")?;
        let kind = one_line(&self.content_type, "a file's type holds a line break or control character")?;
        let kind = ContentType::parse(kind).map_err(|_| invalid("a file's type is not one such as application/pdf"))?;
        Ok(Part::new(name.to_owned()).body(self.bytes.to_vec(), kind))
    }
}

/// A mail as it will be sent.
#[derive(Clone)]
pub struct Mime {
    bytes: Bytes,
    message_id: String,
    thread: Option<String>,
}

impl fmt::Debug for Mime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mime")
            .field("message_id", &self.message_id)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

impl Mime {
    /// Returns the message, lines ending in CR LF.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns its Message-ID, without its angle brackets.
    #[must_use]
    pub fn message_id(&self) -> &str {
        &self.message_id
    }

    /// Returns the conversation it belongs to, when it answers one.
    #[must_use]
    pub fn thread(&self) -> Option<&str> {
        self.thread.as_deref()
    }
}

fn invalid(why: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, why).during("google", "mail")
}

fn too_large() -> Error {
    invalid("the message is larger than Gmail takes")
        .with_user_message("This message is too large to be sent. Please remove an attachment and try again.")
}

fn all(mailboxes: &[Mailbox]) -> Result<Mailboxes> {
    let checked: Result<Vec<_>> = mailboxes.iter().map(Mailbox::checked).collect();
    Ok(checked?.into())
}

/// Takes a text for a header: one line, without control characters, of a lawful length.
fn one_line<'a>(text: &'a str, why: &'static str) -> Result<&'a str> {
    // U+2028 and U+2029 break lines for some readers, C1 controls for others.
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    if text.chars().any(breaks) {
        return Err(invalid(why));
    }
    if text.len() > VALUE_BYTES_MAX {
        return Err(invalid("a header is longer than mail servers take"));
    }
    Ok(text)
}

/// Takes a Message-ID, with or without its angle brackets (RFC 5322 section 3.6.4, the strict form).
fn checked_id(text: &str) -> Result<String> {
    let id = text.trim();
    let id = id.strip_prefix('<').and_then(|id| id.strip_suffix('>')).unwrap_or(id);
    let plain = |c: u8| c.is_ascii_graphic() && !b"<>\"\\(),;:".contains(&c);
    let halves = id.split_once('@').is_some_and(|(left, right)| !left.is_empty() && !right.is_empty());
    if !halves || id.len() > 250 || !id.bytes().all(plain) || id.matches('@').count() != 1 {
        return Err(invalid("a Message-ID is not one such as 1@example.com"));
    }
    Ok(id.to_owned())
}

/// Makes a header of checked ASCII, folded at its spaces.
fn plain(name: &'static str, value: String) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value)
}

/// Checks a header of the caller's own.
fn own(name: &str, value: &str) -> Result<HeaderValue> {
    let token = |c: u8| c.is_ascii_alphanumeric() || b"-_".contains(&c);
    let lower = name.to_ascii_lowercase();
    let made = OWN_HEADERS.contains(&lower.as_str()) || lower.starts_with("content-") || lower == "mime-version";
    if name.is_empty() || !name.bytes().all(token) || made {
        return Err(invalid(
            "a header's name is not one a mail may be given: set the sender, recipients, subject and ids as such",
        ));
    }
    let value = one_line(value, "a header holds a line break or control character")?;
    let name = HeaderName::new_from_ascii(name.to_owned()).map_err(|_| invalid("a header's name is too long"))?;
    Ok(HeaderValue::new(name, value.to_owned()))
}

/// Writes the subject of an answer.
fn again(subject: &str) -> String {
    let answers = subject.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("re:"));
    if answers { subject.to_owned() } else { format!("Re: {subject}") }
}
