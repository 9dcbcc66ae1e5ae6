//! A message to be sent. What Twilio would surely refuse is refused before it leaves, with the same code.

use std::collections::BTreeMap;
use std::time::Duration;

use palisade_core::{Error, ErrorKind, Result, Timestamp};

use super::form;
use crate::error::refusal;
use crate::sid::{ContentSid, ServiceSid};
use crate::time;
use crate::twiml::BODY_CHARS_MAX;

/// The most media a message carries (Twilio OpenAPI, `MediaUrl`).
const MEDIA_MAX: usize = 10;
/// How long a message may wait at the most (Twilio OpenAPI, `ValidityPeriod`).
const VALIDITY_MAX: Duration = Duration::from_secs(36_000);
/// The prefix that makes a number a WhatsApp address.
const WHATSAPP: &str = "whatsapp:";

/// A message to be sent.
///
/// ```
/// use palisade_twilio::client::NewMessage;
///
/// let message = NewMessage::text("+15005550006", "Your table is ready").from("+15005550001");
/// assert!(message.check().is_ok());
/// let error = NewMessage::text("+15005550006", "").from("+15005550001").check().unwrap_err();
/// assert_eq!(error.user_message(), "The message is empty. Please write something first.");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct NewMessage {
    to: String,
    from: Option<String>,
    service: Option<ServiceSid>,
    body: Option<String>,
    media: Vec<String>,
    template: Option<ContentSid>,
    variables: BTreeMap<String, String>,
    status_callback: Option<String>,
    valid_for: Option<Duration>,
    at: Option<Timestamp>,
}

impl NewMessage {
    fn new(to: impl Into<String>) -> Self {
        Self {
            to: to.into(),
            from: None,
            service: None,
            body: None,
            media: Vec::new(),
            template: None,
            variables: BTreeMap::new(),
            status_callback: None,
            valid_for: None,
            at: None,
        }
    }

    /// Begins a text to a number in E.164 form, or to an address of another channel (`whatsapp:+15005550006`).
    pub fn text(to: impl Into<String>, body: impl Into<String>) -> Self {
        Self { body: Some(body.into()), ..Self::new(to) }
    }

    /// Begins a text to a number on WhatsApp. The sender becomes a WhatsApp address too.
    pub fn whatsapp(to: &str, body: impl Into<String>) -> Self {
        Self::text(whatsapp(to), body)
    }

    /// Begins a message made of a template, the one form WhatsApp allows more than 24 hours after the recipient wrote.
    pub fn template(to: impl Into<String>, template: ContentSid) -> Self {
        Self { template: Some(template), ..Self::new(to) }
    }

    /// Sets the sender: a number, short code, alphanumeric sender or channel address of the account.
    pub fn from(mut self, sender: impl Into<String>) -> Self {
        self.from = Some(sender.into());
        self
    }

    /// Lets a messaging service choose the sender.
    pub fn via(mut self, service: ServiceSid) -> Self {
        self.service = Some(service);
        self
    }

    /// Adds media that Twilio fetches from a URL.
    pub fn media(mut self, url: impl Into<String>) -> Self {
        self.media.push(url.into());
        self
    }

    /// Sets one of the template's values.
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Sets where Twilio posts what becomes of the message: a URL of the hub's endpoint.
    pub fn status_callback(mut self, url: impl Into<String>) -> Self {
        self.status_callback = Some(url.into());
        self
    }

    /// Lets the message fail when it is not sent within this time: 1 second to 10 hours.
    pub fn valid_for(mut self, longest: Duration) -> Self {
        self.valid_for = Some(longest);
        self
    }

    /// Sends it at a moment, 5 minutes to 35 days ahead, which needs a messaging service.
    pub fn at(mut self, moment: Timestamp) -> Self {
        self.at = Some(moment);
        self
    }

    /// Checks what can be told without Twilio. Whether a number exists is Twilio's to say.
    ///
    /// # Errors
    /// [`palisade_core::ErrorKind::Invalid`] with the code Twilio would give and a text for the product's user.
    pub fn check(&self) -> Result<()> {
        let unplain = |text: &str| text.trim().is_empty() || text.chars().any(char::is_control);
        let refused = if unplain(&self.to) || self.to == WHATSAPP {
            Some(if self.to.trim().is_empty() { 21_604 } else { 21_211 })
        } else if self.from.is_none() && self.service.is_none() {
            Some(21_603)
        } else if self.from.as_deref().is_some_and(unplain) {
            Some(21_212)
        } else if self.body.as_deref().is_some_and(|body| body.chars().count() > BODY_CHARS_MAX) {
            Some(21_617)
        } else if self.body.as_deref().unwrap_or_default().is_empty()
            && self.media.is_empty()
            && self.template.is_none()
        {
            Some(21_619)
        } else if self.media.len() > MEDIA_MAX {
            Some(21_623)
        } else if self.media.iter().any(|url| !is_url(url)) {
            Some(21_620)
        } else if self.status_callback.as_deref().is_some_and(|url| !is_url(url)) {
            Some(21_609)
        } else if self.at.is_some() && self.service.is_none() {
            Some(35_118)
        } else {
            None
        };
        if self.valid_for.is_some_and(|longest| longest.as_secs() == 0 || longest > VALIDITY_MAX) {
            let reason = "a message may wait for one second to ten hours";
            return Err(Error::new(ErrorKind::Invalid, reason).during("twilio", "messages.create"));
        }
        refused.map_or(Ok(()), |code| Err(refusal(code)))
    }

    /// Writes the parameters.
    pub(crate) fn form(&self) -> Result<String> {
        self.check()?;
        let validity = self.valid_for.map(|longest| longest.as_secs().to_string());
        let at = self.at.map(time::to_rfc3339);
        let variables = serde_json::to_string(&self.variables).unwrap_or_default();
        let sender = self.sender();
        let single = [
            ("To", Some(self.to.as_str())),
            ("StatusCallback", self.status_callback.as_deref()),
            ("From", sender.as_deref()),
            ("MessagingServiceSid", self.service.as_ref().map(ServiceSid::as_str)),
            ("Body", self.body()),
            ("ContentSid", self.template.as_ref().map(ContentSid::as_str)),
            ("ContentVariables", (!self.variables.is_empty()).then_some(variables.as_str())),
            ("ValidityPeriod", validity.as_deref()),
            ("SendAt", at.as_deref()),
            ("ScheduleType", at.is_some().then_some("fixed")),
        ];
        let media = self.media.iter().map(|url| ("MediaUrl", url.as_str()));
        let pairs: Vec<(&str, &str)> =
            single.into_iter().filter_map(|(name, value)| Some((name, value?))).chain(media).collect();
        Ok(form(&pairs))
    }

    /// Reads back the parameters of a message that was to be sent, as far as it can be looked for.
    pub(crate) fn of_form(form: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(form).ok()?.replace('+', " ");
        let mut message = Self::new(String::new());
        for pair in text.split('&') {
            let (name, value) = pair.split_once('=')?;
            let value = percent_encoding::percent_decode_str(value).decode_utf8().ok()?.into_owned();
            match name {
                "To" => message.to = value,
                "From" => message.from = Some(value),
                "MessagingServiceSid" => message.service = Some(ServiceSid::parse(&value).ok()?),
                "Body" => message.body = Some(value),
                "MediaUrl" => message.media.push(value),
                "ContentSid" => message.template = Some(ContentSid::parse(&value).ok()?),
                _ => {}
            }
        }
        (!message.to.is_empty()).then_some(message)
    }

    /// The sender as it is sent: on the recipient's channel.
    pub(super) fn sender(&self) -> Option<String> {
        let sender = self.from.as_deref()?;
        Some(if self.to.starts_with(WHATSAPP) { whatsapp(sender) } else { sender.to_owned() })
    }

    pub(super) fn recipient(&self) -> &str {
        &self.to
    }

    pub(super) fn service(&self) -> Option<&ServiceSid> {
        self.service.as_ref()
    }

    pub(super) fn body(&self) -> Option<&str> {
        self.body.as_deref().filter(|body| !body.is_empty())
    }

    pub(super) fn media_count(&self) -> usize {
        self.media.len()
    }
}

fn whatsapp(number: &str) -> String {
    if number.starts_with(WHATSAPP) { number.to_owned() } else { format!("{WHATSAPP}{number}") }
}

fn is_url(text: &str) -> bool {
    let uri: Option<http::Uri> = text.parse().ok();
    uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("https" | "http")) && uri.authority().is_some())
}
