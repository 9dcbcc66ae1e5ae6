//! What SendGrid would surely refuse, and what no mail may hold, is refused before it leaves: one sentence each.
//!
//! Limits: SendGrid's OpenAPI (2026-01) and its page on the limits of mail send. Control characters are refused
//! everywhere but in the texts themselves: a line break in a subject, name or header would begin another header.

use std::collections::HashSet;

use palisade_core::{Error, ErrorKind, Result};

use super::REFERENCE;
use super::mail::{Address, Attachment, Mail, Personalization};
use crate::error::TOO_LARGE;
use crate::operation;

/// The most personalizations, and the most recipients in all, of one call.
const RECIPIENTS_MAX: usize = 1_000;
/// The most addresses replies may go to.
const REPLY_TO_MAX: usize = 1_000;
const CATEGORIES_MAX: usize = 10;
const CATEGORY_CHARS_MAX: usize = 255;
/// The most bytes of custom arguments, of the mail and of each personalization.
const CUSTOM_ARGS_BYTES_MAX: usize = 10_000;
/// The largest mail with everything in it. SendGrid says 30 MB; counted as the body that is sent.
pub(super) const MAIL_BYTES_MAX: usize = 30_000_000;
/// The longest address (RFC 5321: 64 before the at sign, 255 behind it).
const LOCAL_BYTES_MAX: usize = 64;
const DOMAIN_BYTES_MAX: usize = 255;
/// A line of a header (RFC 5322).
const LINE_CHARS_MAX: usize = 998;
const REFERENCE_BYTES_MAX: usize = 100;
/// Headers SendGrid sets itself.
const RESERVED: [&str; 12] = [
    "x-sg-id",
    "x-sg-eid",
    "received",
    "dkim-signature",
    "content-type",
    "content-transfer-encoding",
    "to",
    "from",
    "subject",
    "reply-to",
    "cc",
    "bcc",
];

fn refuse<T>(code: &'static str, reason: &'static str, message: &'static str) -> Result<T> {
    Err(Error::new(ErrorKind::Invalid, reason)
        .with_code(code)
        .with_user_message(message)
        .during("sendgrid", operation::SEND_MAIL.name))
}

/// Checks a mail.
pub(super) fn mail(mail: &Mail) -> Result<()> {
    address(&mail.from)?;
    recipients(mail)?;
    subject(mail)?;
    content(mail)?;
    mail.attachments.iter().try_for_each(attachment)?;
    // Known before anything is encoded: base64 makes four bytes of three.
    size(
        mail.attachments
            .iter()
            .map(|one| one.content.len().div_ceil(3).saturating_mul(4))
            .fold(0, usize::saturating_add),
    )?;
    mail.reply_to.iter().try_for_each(address)?;
    if mail.reply_to.len() > REPLY_TO_MAX {
        return refuse(
            "reply_to_many",
            "more than 1,000 addresses for replies",
            "There are too many addresses for replies.",
        );
    }
    headers(mail)?;
    arguments(mail)?;
    for word in [&mail.template, &mail.batch, &mail.ip_pool].into_iter().flatten() {
        if !plain(word) {
            let reason = "the id of a template, batch or pool is empty or holds a control character";
            return refuse("id_invalid", reason, "This e-mail's settings are not valid. Please check them.");
        }
    }
    Ok(())
}

/// Checks the size of the whole.
pub(super) fn size(bytes: usize) -> Result<()> {
    if bytes > MAIL_BYTES_MAX {
        return refuse("too_large", "the mail is larger than 30 MB", TOO_LARGE);
    }
    Ok(())
}

fn recipients(mail: &Mail) -> Result<()> {
    let all = |one: &Personalization| one.to.len() + one.cc.len() + one.bcc.len();
    if mail.personalizations.is_empty() || mail.personalizations.iter().any(|one| one.to.is_empty()) {
        return refuse("recipient_missing", "a mail has no recipient", "Please enter at least one recipient.");
    }
    if mail.personalizations.iter().map(all).sum::<usize>() > RECIPIENTS_MAX {
        let reason = "more than 1,000 recipients in one call";
        return refuse(
            "recipients_many",
            reason,
            "An e-mail can go to 1,000 recipients at the most. Please send it in parts.",
        );
    }
    for one in &mail.personalizations {
        let mut known = HashSet::new();
        for recipient in one.to.iter().chain(&one.cc).chain(&one.bcc) {
            address(recipient)?;
            if !known.insert(recipient.email.to_ascii_lowercase()) {
                let reason = "an address stands more than once among the recipients of one mail";
                let message = "Someone stands more than once among the recipients. Please enter each address once.";
                return refuse("address_repeated", reason, message);
            }
        }
    }
    Ok(())
}

/// Finds fault with an address that cannot be one. Whether it exists is not SendGrid's to say either.
fn address(address: &Address) -> Result<()> {
    let halves = address.email.rsplit_once('@');
    let fits = halves.is_some_and(|(local, domain)| {
        let plain = |c: char| !c.is_control() && !c.is_whitespace() && !"@<>()[]\\,;:\"".contains(c);
        (1..=LOCAL_BYTES_MAX).contains(&local.len())
            && (1..=DOMAIN_BYTES_MAX).contains(&domain.len())
            && local.chars().all(plain)
            && domain.chars().all(plain)
            && domain.split('.').all(|label| !label.is_empty())
    });
    if !fits {
        let message = "One of the e-mail addresses is not valid. Please check it and try again.";
        return refuse("address_invalid", "an address is not valid", message);
    }
    if address.name.as_deref().is_some_and(|name| name.chars().any(char::is_control)) {
        let reason = "a name beside an address holds a line break or control character";
        return refuse("name_invalid", reason, "A name must be a single line of text.");
    }
    Ok(())
}

fn subject(mail: &Mail) -> Result<()> {
    let own = mail.personalizations.iter().map(|one| one.subject.as_deref());
    for subject in own.clone().flatten().chain(mail.subject.as_deref()) {
        if !line(subject) {
            let reason = "a subject holds a line break or control character, or is longer than a line";
            return refuse("subject_invalid", reason, "The subject must be a single line of text.");
        }
    }
    let empty = |subject: Option<&str>| subject.is_none_or(|subject| subject.trim().is_empty());
    if mail.template.is_none() && empty(mail.subject.as_deref()) && own.into_iter().any(empty) {
        return refuse("subject_missing", "the mail has no subject", "Please enter a subject.");
    }
    Ok(())
}

fn content(mail: &Mail) -> Result<()> {
    let texts = [&mail.text, &mail.html];
    let empty = texts.iter().all(|text| text.is_none()) || texts.into_iter().flatten().any(String::is_empty);
    if empty && (mail.template.is_none() || texts.into_iter().any(Option::is_some)) {
        return refuse("content_missing", "the mail has no text", "The e-mail is empty. Please write something first.");
    }
    Ok(())
}

fn attachment(attachment: &Attachment) -> Result<()> {
    let token =
        |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&c));
    let essence = attachment.content_type.split(';').next().unwrap_or_default().trim();
    let typed = essence.split_once('/').is_some_and(|(kind, sub)| token(kind) && token(sub));
    let id = attachment.content_id.as_deref().is_none_or(|id| plain(id) && !id.contains(['<', '>', ' ']));
    let named = plain(&attachment.filename);
    if attachment.content.is_empty() || !typed || !id || !named || !line(&attachment.content_type) {
        let reason = "an attachment is empty, or its name, type or id is not one";
        return refuse("attachment_invalid", reason, "An attachment cannot be sent. Please attach it again.");
    }
    Ok(())
}

fn headers(mail: &Mail) -> Result<()> {
    for (name, value) in &mail.headers {
        let field = !name.is_empty() && name.bytes().all(|c| c.is_ascii_graphic() && c != b':');
        if !field || !line(value) {
            let reason = "a header's name is none, or its value holds a line break or control character";
            return refuse("header_invalid", reason, "This e-mail's settings are not valid. Please check them.");
        }
        if RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
            let reason = "a header that SendGrid sets itself cannot be given";
            return refuse("header_reserved", reason, "This e-mail's settings are not valid. Please check them.");
        }
    }
    Ok(())
}

fn arguments(mail: &Mail) -> Result<()> {
    let message = "This e-mail's settings are not valid. Please check them.";
    let mut known = HashSet::new();
    let fits = |category: &String| plain(category) && category.chars().count() <= CATEGORY_CHARS_MAX;
    if mail.categories.len() > CATEGORIES_MAX || !mail.categories.iter().all(|one| fits(one) && known.insert(one)) {
        return refuse(
            "category_invalid",
            "more than ten categories, or one that is empty, too long or repeated",
            message,
        );
    }
    let own = mail.personalizations.iter().map(|one| &one.custom_args);
    for arguments in own.chain([&mail.custom_args]) {
        if serde_json::to_vec(arguments).map_or(usize::MAX, |json| json.len()) > CUSTOM_ARGS_BYTES_MAX {
            return refuse("custom_args_large", "the custom arguments are larger than 10,000 bytes", message);
        }
        let reference = arguments.get(REFERENCE);
        if reference.is_some_and(|reference| !is_reference(reference)) {
            return refuse("reference_invalid", "a reference is 1 to 100 letters, digits and -_.:", message);
        }
    }
    Ok(())
}

/// Tells whether a text can be a mail's reference: it stands in a query, between quotes.
pub(super) fn is_reference(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.:".contains(&c);
    (1..=REFERENCE_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain)
}

/// Tells whether a text can be a header's value.
fn line(text: &str) -> bool {
    !text.chars().any(char::is_control) && text.chars().count() <= LINE_CHARS_MAX
}

fn plain(text: &str) -> bool {
    !text.trim().is_empty() && line(text)
}
