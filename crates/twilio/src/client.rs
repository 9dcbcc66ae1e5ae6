//! The typed client: the handful of calls most people want, over our transport.
//!
//! No well-kept Rust crate for Twilio exists, so the calls are our own: form in, JSON out (Twilio OpenAPI, 2026-04;
//! requests compared with those of twilio-python 9.13).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response};
use palisade_core::call::{Call, Priority};
use palisade_core::{
    ConnectionId, Error, ErrorKind, Operation, Outcome, Replay, Result, TenantId, Timestamp, Transport,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::code::Advice;
use crate::error::request_id;
use crate::operation;
use crate::sid::{AccountSid, MessageSid, ServiceSid};
use crate::status::MessageStatus;
use crate::time;

mod lists;
mod new;
mod reconcile;

pub use lists::ListMessages;
pub(crate) use lists::{PAGE_MAX, next_query};
pub use new::NewMessage;
pub use reconcile::{RECONCILE_AFTER, Reconciled};

/// Twilio's production address in its first region.
pub const BASE_URL: &str = "https://api.twilio.com";
/// The version of the API that has messages; it has been the only one since 2010.
pub const API_VERSION: &str = "2010-04-01";

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Twilio for one account of one connection. Cheap to clone.
#[derive(Clone)]
pub struct Twilio {
    transport: Arc<dyn Transport>,
    base_url: Arc<str>,
    connection: ConnectionId,
    tenant: TenantId,
    account: AccountSid,
    priority: Priority,
}

impl fmt::Debug for Twilio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Twilio")
            .field("base_url", &self.base_url)
            .field("connection", &self.connection)
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}

/// A message as Twilio keeps it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Its SID.
    pub sid: MessageSid,
    /// The recipient.
    #[serde(default)]
    pub to: Option<String>,
    /// The sender; absent until the messaging service has chosen one.
    #[serde(default)]
    pub from: Option<String>,
    /// The messaging service it was sent with.
    #[serde(default)]
    pub messaging_service_sid: Option<ServiceSid>,
    /// The text; empty after a redaction.
    #[serde(default)]
    pub body: Option<String>,
    /// How far it has come.
    pub status: MessageStatus,
    /// `inbound`, `outbound-api`, `outbound-call` or `outbound-reply`.
    #[serde(default)]
    pub direction: Option<String>,
    /// How many parts it is charged as; 0 until the messaging service has chosen a sender.
    #[serde(default, deserialize_with = "number")]
    pub num_segments: Option<u32>,
    /// How many media it carries.
    #[serde(default, deserialize_with = "number")]
    pub num_media: Option<u32>,
    /// The price as decimal text, once it is known; negative for what was charged.
    #[serde(default)]
    pub price: Option<String>,
    /// The currency of the price.
    #[serde(default)]
    pub price_unit: Option<String>,
    /// Why it failed ([`Message::advice`]).
    #[serde(default)]
    pub error_code: Option<u32>,
    /// When it was made.
    #[serde(default, deserialize_with = "moment")]
    pub date_created: Option<Timestamp>,
    /// When it was sent to the carrier; absent while it waits.
    #[serde(default, deserialize_with = "moment")]
    pub date_sent: Option<Timestamp>,
    /// When its record changed last.
    #[serde(default, deserialize_with = "moment")]
    pub date_updated: Option<Timestamp>,
}

impl Message {
    /// Returns what the code of a failed message means, where it has one that is known.
    #[must_use]
    pub fn advice(&self) -> Option<&'static Advice> {
        Advice::of(self.error_code?)
    }
}

/// An account or subaccount.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Account {
    /// Its SID.
    pub sid: AccountSid,
    /// Its name.
    #[serde(default)]
    pub friendly_name: Option<String>,
    /// `active`, `suspended` or `closed`.
    #[serde(default)]
    pub status: Option<String>,
}

/// Reads a number that Twilio writes as text.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Number(u32),
    }
    Ok(match Option::<Written>::deserialize(deserializer)? {
        Some(Written::Text(text)) => text.parse().ok(),
        Some(Written::Number(number)) => Some(number),
        None => None,
    })
}

fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.and_then(|text| time::from_rfc2822(&text)))
}

impl Twilio {
    /// Makes the client of an account over a transport, normally a [`palisade_core::Client`], which adds the
    /// connection's credential. Speaks to [`BASE_URL`].
    #[must_use]
    pub fn new(
        transport: Arc<dyn Transport>,
        connection: impl Into<ConnectionId>,
        tenant: impl Into<TenantId>,
        account: AccountSid,
    ) -> Self {
        Self {
            transport,
            base_url: BASE_URL.into(),
            connection: connection.into(),
            tenant: tenant.into(),
            account,
            priority: Priority::Interactive,
        }
    }

    /// Speaks to another address: a region ([`crate::auth::regional_base_url`]), an emulator, a recording proxy.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it is not an absolute URL without query.
    pub fn at(mut self, base_url: &str) -> Result<Self> {
        let trimmed = base_url.trim_end_matches('/');
        let uri: Option<http::Uri> = trimmed.parse().ok();
        if uri.is_none_or(|uri| uri.scheme().is_none() || uri.authority().is_none() || uri.query().is_some()) {
            return Err(Error::new(ErrorKind::Config, "the base URL is not a URL such as https://api.twilio.com"));
        }
        self.base_url = trimmed.into();
        Ok(self)
    }

    /// Marks this client's calls as background work, behind those a person waits for.
    #[must_use]
    pub fn in_background(mut self) -> Self {
        self.priority = Priority::Background;
        self
    }

    /// Sends a message. Twilio cannot tell a repetition from a second message, so nothing that may have happened is
    /// repeated: such an error has [`Outcome::Unknown`], and [`Twilio::reconcile`] finds out.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with Twilio's own code and a text for the product's user, before anything is sent where
    /// that can be told here; otherwise the pipeline's.
    pub async fn send(&self, message: &NewMessage) -> Result<Message> {
        let form = message.form()?;
        self.ask(&operation::CREATE_MESSAGE, Method::POST, &self.messages(), Some(form)).await
    }

    /// Reads a message.
    ///
    /// # Errors
    /// The pipeline's; [`ErrorKind::NotFound`] when there is none, or it was deleted.
    pub async fn message(&self, sid: &MessageSid) -> Result<Message> {
        self.ask(&operation::FETCH_MESSAGE, Method::GET, &self.of(sid), None).await
    }

    /// Calls a scheduled message back.
    ///
    /// # Errors
    /// The pipeline's; [`ErrorKind::Invalid`] when it has left already.
    pub async fn cancel(&self, sid: &MessageSid) -> Result<Message> {
        let form = form(&[("Status", "canceled")]);
        self.ask(&operation::UPDATE_MESSAGE, Method::POST, &self.of(sid), Some(form)).await
    }

    /// Empties a message's text at Twilio; its record stays.
    ///
    /// # Errors
    /// The pipeline's.
    pub async fn redact(&self, sid: &MessageSid) -> Result<Message> {
        self.ask(&operation::UPDATE_MESSAGE, Method::POST, &self.of(sid), Some(form(&[("Body", "")]))).await
    }

    /// Deletes a message's record at Twilio. No event tells of it.
    ///
    /// # Errors
    /// The pipeline's; [`ErrorKind::NotFound`] when there is none.
    pub async fn delete(&self, sid: &MessageSid) -> Result<()> {
        self.call(&operation::DELETE_MESSAGE, Method::DELETE, &self.of(sid), None).await?;
        Ok(())
    }

    /// Reads the account itself: cheap, and it proves that the credential works.
    ///
    /// # Errors
    /// The pipeline's.
    pub async fn account(&self) -> Result<Account> {
        let path = format!("/{API_VERSION}/Accounts/{}.json", self.account);
        self.ask(&operation::FETCH_ACCOUNT, Method::GET, &path, None).await
    }

    fn messages(&self) -> String {
        messages_path(&self.account)
    }

    fn of(&self, sid: &MessageSid) -> String {
        message_path(&self.account, sid)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        operation: &'static Operation,
        method: Method,
        path: &str,
        form: Option<String>,
    ) -> Result<T> {
        let response = self.call(operation, method, path, form).await?;
        serde_json::from_slice(response.body()).map_err(|_| unreadable(operation, &response))
    }

    async fn call(
        &self,
        operation: &'static Operation,
        method: Method,
        path: &str,
        form: Option<String>,
    ) -> Result<Response<Bytes>> {
        let mut call = Call::new(operation, self.connection.clone(), self.tenant.clone());
        call.priority = self.priority;
        let request = request(&self.base_url, call, method, path, form)?;
        self.transport.send(request).await.map_err(|error| error.during("twilio", operation.name))
    }
}

/// The path of an account's messages.
pub(crate) fn messages_path(account: &AccountSid) -> String {
    format!("/{API_VERSION}/Accounts/{account}/Messages.json")
}

/// The path of one message.
pub(crate) fn message_path(account: &AccountSid, sid: &MessageSid) -> String {
    format!("/{API_VERSION}/Accounts/{account}/Messages/{sid}.json")
}

/// Makes a request that carries its call.
pub(crate) fn request(
    base_url: &str,
    call: Call,
    method: Method,
    path: &str,
    form: Option<String>,
) -> Result<Request<Bytes>> {
    let operation = call.operation;
    let has_form = form.is_some();
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{}{path}", base_url.trim_end_matches('/')))
        .body(form.map_or_else(Bytes::new, Bytes::from))
        .map_err(|_| {
            Error::new(ErrorKind::Config, "the base URL is not a URL such as https://api.twilio.com")
                .during("twilio", operation.name)
        })?;
    request.headers_mut().insert(ACCEPT, JSON);
    if has_form {
        request.headers_mut().insert(CONTENT_TYPE, FORM);
    }
    request.extensions_mut().insert(call);
    Ok(request)
}

/// The error of an answer that came and does not fit: a write has happened.
fn unreadable(operation: &'static Operation, response: &Response<Bytes>) -> Error {
    let outcome = if operation.replay == Replay::Safe { Outcome::Rejected } else { Outcome::Processed };
    let error = Error::new(ErrorKind::Decode, "the answer does not have the shape Twilio documents")
        .during("twilio", operation.name)
        .with_status(response.status().as_u16())
        .with_outcome(outcome);
    match request_id(response.headers()) {
        Some(id) => error.with_request_id(id),
        None => error,
    }
}

/// What a form leaves as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Encodes a form or query.
pub(crate) fn form(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        text.extend(utf8_percent_encode(name, PLAIN));
        text.push('=');
        text.extend(utf8_percent_encode(value, PLAIN));
    }
    text
}
