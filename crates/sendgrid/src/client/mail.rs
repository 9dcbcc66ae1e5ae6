//! A mail to be sent.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use palisade_core::{Result, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{REFERENCE, check};

/// An address, with a name if it has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Address {
    pub(super) email: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
}

impl Address {
    /// Takes an address.
    #[must_use]
    pub fn new(email: impl Into<String>) -> Self {
        Self { email: email.into(), name: None }
    }

    /// Gives it a name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

impl From<&str> for Address {
    fn from(email: &str) -> Self {
        Self::new(email)
    }
}

impl From<String> for Address {
    fn from(email: String) -> Self {
        Self::new(email)
    }
}

/// One mail of a send: its recipients see each other (but for blind copies), and nobody of another one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[must_use]
pub struct Personalization {
    pub(super) to: Vec<Address>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) cc: Vec<Address>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) bcc: Vec<Address>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(super) dynamic_template_data: Map<String, Value>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) custom_args: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) send_at: Option<i64>,
}

impl Personalization {
    /// Begins with a recipient.
    pub fn to(recipient: impl Into<Address>) -> Self {
        Self { to: vec![recipient.into()], ..Self::default() }
    }

    /// Adds a recipient.
    pub fn and_to(mut self, recipient: impl Into<Address>) -> Self {
        self.to.push(recipient.into());
        self
    }

    /// Adds a recipient of a copy.
    pub fn cc(mut self, recipient: impl Into<Address>) -> Self {
        self.cc.push(recipient.into());
        self
    }

    /// Adds a recipient of a blind copy.
    pub fn bcc(mut self, recipient: impl Into<Address>) -> Self {
        self.bcc.push(recipient.into());
        self
    }

    /// Sets a subject of its own.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Sets one of the dynamic template's values.
    pub fn value(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.dynamic_template_data.insert(name.into(), value.into());
        self
    }

    /// Sets a custom argument of its own; it goes before the mail's.
    pub fn custom_arg(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.custom_args.insert(name.into(), value.into());
        self
    }

    /// Sends it at a moment, at most 72 hours ahead.
    pub fn at(mut self, moment: Timestamp) -> Self {
        self.send_at = Some(moment.seconds());
        self
    }
}

/// A file sent with a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Attachment {
    pub(super) filename: String,
    pub(super) content_type: String,
    pub(super) content: Bytes,
    pub(super) content_id: Option<String>,
}

impl Attachment {
    /// Takes a file's name, content type and bytes.
    pub fn new(filename: impl Into<String>, content_type: impl Into<String>, content: impl Into<Bytes>) -> Self {
        Self { filename: filename.into(), content_type: content_type.into(), content: content.into(), content_id: None }
    }

    /// Shows it inside the HTML, where that names it as `cid:…`.
    pub fn inline(mut self, content_id: impl Into<String>) -> Self {
        self.content_id = Some(content_id.into());
        self
    }

    fn json(&self) -> Value {
        let mut json = json!({
            "content": STANDARD.encode(&self.content),
            "filename": self.filename,
            "type": self.content_type,
            "disposition": if self.content_id.is_some() { "inline" } else { "attachment" },
        });
        if let (Some(id), Value::Object(fields)) = (&self.content_id, &mut json) {
            fields.insert("content_id".to_owned(), id.as_str().into());
        }
        json
    }
}

/// A mail to be sent, to one or many.
///
/// ```
/// use palisade_sendgrid::Mail;
///
/// let mail = Mail::from("shop@example.com").to("ada@example.com").subject("Your order").text("It is on its way.");
/// assert!(mail.check().is_ok());
/// let error = mail.subject("Your order\r\nBcc: everybody@example.com").check().unwrap_err();
/// assert_eq!(error.user_message(), "The subject must be a single line of text.");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Mail {
    pub(super) from: Address,
    pub(super) personalizations: Vec<Personalization>,
    pub(super) subject: Option<String>,
    pub(super) text: Option<String>,
    pub(super) html: Option<String>,
    pub(super) template: Option<String>,
    pub(super) attachments: Vec<Attachment>,
    pub(super) reply_to: Vec<Address>,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) categories: Vec<String>,
    pub(super) custom_args: BTreeMap<String, String>,
    pub(super) send_at: Option<i64>,
    pub(super) batch: Option<String>,
    pub(super) unsubscribe_group: Option<i64>,
    pub(super) ip_pool: Option<String>,
    pub(super) sandbox: bool,
    pub(super) track_clicks: Option<bool>,
    pub(super) track_opens: Option<bool>,
}

impl Mail {
    /// Begins with the sender, whose address must be verified at SendGrid.
    pub fn from(sender: impl Into<Address>) -> Self {
        Self {
            from: sender.into(),
            personalizations: Vec::new(),
            subject: None,
            text: None,
            html: None,
            template: None,
            attachments: Vec::new(),
            reply_to: Vec::new(),
            headers: BTreeMap::new(),
            categories: Vec::new(),
            custom_args: BTreeMap::new(),
            send_at: None,
            batch: None,
            unsubscribe_group: None,
            ip_pool: None,
            sandbox: false,
            track_clicks: None,
            track_opens: None,
        }
    }

    /// Adds a mail to one recipient, who sees no other: the same as a [`Personalization`] with nothing else.
    pub fn to(self, recipient: impl Into<Address>) -> Self {
        self.personalized(Personalization::to(recipient))
    }

    /// Adds a mail to recipients of its own, with values of its own.
    pub fn personalized(mut self, personalization: Personalization) -> Self {
        self.personalizations.push(personalization);
        self
    }

    /// Sets the subject.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Sets the plain text.
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// Sets the HTML. Give a plain text too: it goes before, as SendGrid wants it.
    pub fn html(mut self, html: impl Into<String>) -> Self {
        self.html = Some(html.into());
        self
    }

    /// Uses a template; subject and texts are then its own.
    pub fn template(mut self, id: impl Into<String>) -> Self {
        self.template = Some(id.into());
        self
    }

    /// Adds a file.
    pub fn attach(mut self, attachment: Attachment) -> Self {
        self.attachments.push(attachment);
        self
    }

    /// Adds an address replies go to.
    pub fn reply_to(mut self, address: impl Into<Address>) -> Self {
        self.reply_to.push(address.into());
        self
    }

    /// Sets a header of the mail, such as `In-Reply-To`.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Adds a category for SendGrid's statistics; at most ten.
    pub fn category(mut self, category: impl Into<String>) -> Self {
        self.categories.push(category.into());
        self
    }

    /// Sets a custom argument: its events carry it back. Not for personal data: SendGrid keeps it as not personal.
    pub fn custom_arg(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.custom_args.insert(name.into(), value.into());
        self
    }

    /// Sets the product's own id of this mail: one to a hundred letters, digits and `-_.:`. After a failure with an
    /// unknown outcome it is what the mail is found by, in its events and by [`super::SendGrid::reconcile`].
    pub fn reference(self, reference: impl Into<String>) -> Self {
        self.custom_arg(REFERENCE, reference)
    }

    /// Sends it at a moment, at most 72 hours ahead.
    pub fn at(mut self, moment: Timestamp) -> Self {
        self.send_at = Some(moment.seconds());
        self
    }

    /// Makes it part of a batch that can be called back.
    pub fn batch(mut self, id: impl Into<String>) -> Self {
        self.batch = Some(id.into());
        self
    }

    /// Offers to unsubscribe from a group only.
    pub fn unsubscribe_group(mut self, group: i64) -> Self {
        self.unsubscribe_group = Some(group);
        self
    }

    /// Sends from a pool of the account's own addresses.
    pub fn ip_pool(mut self, name: impl Into<String>) -> Self {
        self.ip_pool = Some(name.into());
        self
    }

    /// Has SendGrid check the mail and not send it.
    pub fn sandbox(mut self) -> Self {
        self.sandbox = true;
        self
    }

    /// Has clicks tracked or not, whatever the account's setting.
    pub fn track_clicks(mut self, on: bool) -> Self {
        self.track_clicks = Some(on);
        self
    }

    /// Has opens tracked or not, whatever the account's setting.
    pub fn track_opens(mut self, on: bool) -> Self {
        self.track_opens = Some(on);
        self
    }

    /// Checks what can be told without SendGrid: sizes, counts, addresses, and that nothing breaks out of a header.
    ///
    /// # Errors
    /// [`palisade_core::ErrorKind::Invalid`] with one sentence for the product's user.
    pub fn check(&self) -> Result<()> {
        check::mail(self)
    }

    /// Writes the request's body.
    pub(super) fn json(&self) -> Result<Bytes> {
        self.check()?;
        let mut body = Map::new();
        let mut set = |name: &str, value: Value| {
            body.insert(name.to_owned(), value);
        };
        set("from", json!(self.from));
        set("personalizations", json!(self.personalizations));
        if let Some(subject) = &self.subject {
            set("subject", subject.as_str().into());
        }
        let contents = [("text/plain", &self.text), ("text/html", &self.html)];
        let contents = contents.iter().filter_map(|(kind, text)| Some((*kind, text.as_ref()?)));
        let contents: Vec<Value> = contents.map(|(kind, text)| json!({ "type": kind, "value": text })).collect();
        if !contents.is_empty() {
            set("content", contents.into());
        }
        if let Some(template) = &self.template {
            set("template_id", template.as_str().into());
        }
        if !self.attachments.is_empty() {
            set("attachments", self.attachments.iter().map(Attachment::json).collect());
        }
        match self.reply_to.as_slice() {
            [] => {}
            [one] => set("reply_to", json!(one)),
            many => set("reply_to_list", json!(many)),
        }
        for (name, map) in [("headers", &self.headers), ("custom_args", &self.custom_args)] {
            if !map.is_empty() {
                set(name, json!(map));
            }
        }
        if !self.categories.is_empty() {
            set("categories", json!(self.categories));
        }
        if let Some(at) = self.send_at {
            set("send_at", at.into());
        }
        if let Some(batch) = &self.batch {
            set("batch_id", batch.as_str().into());
        }
        if let Some(group) = self.unsubscribe_group {
            set("asm", json!({ "group_id": group }));
        }
        if let Some(pool) = &self.ip_pool {
            set("ip_pool_name", pool.as_str().into());
        }
        if self.sandbox {
            set("mail_settings", json!({ "sandbox_mode": { "enable": true } }));
        }
        let tracking = [("click_tracking", self.track_clicks), ("open_tracking", self.track_opens)];
        let tracking = tracking.into_iter().filter_map(|(name, on)| Some((name.to_owned(), json!({ "enable": on? }))));
        let tracking: Map<String, Value> = tracking.collect();
        if !tracking.is_empty() {
            set("tracking_settings", tracking.into());
        }
        let body = serde_json::to_vec(&body).unwrap_or_default();
        check::size(body.len())?;
        Ok(body.into())
    }
}
