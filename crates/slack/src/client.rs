//! The typed client: slack-morphism's whole API over our transport, and the handful of calls most people want.
//!
//! Every method of [`Slack::session`] passes the pipeline with its own limits, repeats, breaker and spans. What
//! slack-morphism reads with GET is sent as Slack's own SDKs send it: as a form by POST, so that no name or text stands
//! in an address. Its own rate control belongs to its hyper client, which is left out.

use std::fmt;
use std::sync::Arc;

use palisade_core::call::Priority;
use palisade_core::{ConnectionId, Error, ErrorKind, Operation, Result, TenantId, Transport};
use serde::Serialize;
use serde::de::DeserializeOwned;
use slack_morphism::{SlackApiToken, SlackClient, SlackClientSession};
use url::form_urlencoded;

use crate::operation::{HISTORY_LIMITED, REPLIES_LIMITED, find, walk};

mod calls;
mod connector;
mod lists;
mod message;
mod multipart;

pub use calls::{Identity, Posted, Scheduled};
pub use connector::Connector;
pub use lists::{Conversation, Message, User};
pub use message::{NewMessage, escape};

/// Slack's production address.
pub const BASE_URL: &str = "https://slack.com";
pub(crate) const FORM: &str = "application/x-www-form-urlencoded";

/// How fast an app may read messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: Slack has these two rules")]
pub enum HistoryRule {
    /// 50 calls a minute: apps of the Marketplace, a company's own apps, and installations from before 2025-05-29.
    #[default]
    Full,
    /// One call a minute of at most 15 messages: commercial apps outside the Marketplace, installed since 2025-05-29.
    Limited,
}

impl HistoryRule {
    const LIMITED_PAGE_MAX: u32 = 15;

    /// Returns the size of a page of messages under this rule.
    pub(crate) fn page_size(self, wanted: u32) -> u32 {
        match self {
            Self::Full => wanted,
            Self::Limited => wanted.min(Self::LIMITED_PAGE_MAX),
        }
    }

    /// Returns the operation of a method under this rule.
    pub(crate) fn operation(self, method: &str) -> &'static Operation {
        match (self, method) {
            (Self::Limited, "conversations.history") => &HISTORY_LIMITED,
            (Self::Limited, "conversations.replies") => &REPLIES_LIMITED,
            (Self::Full | Self::Limited, _) => find(method),
        }
    }

    pub(crate) fn walk_page(self) -> &'static Operation {
        match self {
            Self::Full => &walk::PAGE,
            Self::Limited => &walk::PAGE_LIMITED,
        }
    }

    pub(crate) fn walk_thread(self) -> &'static Operation {
        match self {
            Self::Full => &walk::THREAD,
            Self::Limited => &walk::THREAD_LIMITED,
        }
    }

    pub(crate) fn fetch(self) -> &'static Operation {
        match self {
            Self::Full => &walk::MESSAGE,
            Self::Limited => &walk::MESSAGE_LIMITED,
        }
    }
}

/// Slack for one connection. Cheap to clone.
#[derive(Clone)]
pub struct Slack {
    api: Arc<Api>,
}

struct Api {
    client: SlackClient<Connector>,
    token: SlackApiToken,
}

impl fmt::Debug for Slack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.connector().fmt(f)
    }
}

impl Slack {
    /// Makes the client of a connection over a transport, normally a [`palisade_core::Client`], which adds the
    /// connection's token. Speaks to [`BASE_URL`].
    #[must_use]
    pub fn new(
        transport: Arc<dyn Transport>,
        connection: impl Into<ConnectionId>,
        tenant: impl Into<TenantId>,
    ) -> Self {
        Self::over(Connector::new(transport, connection.into(), tenant.into()))
    }

    fn over(connector: Connector) -> Self {
        // slack-morphism wants a token for a session; the real one is the pipeline's, and this one is never sent.
        let token = SlackApiToken::new("the-pipeline-adds-it".to_owned().into());
        Self { api: Arc::new(Api { client: SlackClient::new(connector), token }) }
    }

    fn with(&self, change: impl FnOnce(&mut Connector)) -> Self {
        let mut connector = self.connector().clone();
        change(&mut connector);
        Self::over(connector)
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.api.client.http_api.connector
    }

    /// Speaks to another address: an emulator, a recording proxy.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it is not an absolute URL without query.
    pub fn at(self, base_url: &str) -> Result<Self> {
        let trimmed = base_url.trim_end_matches('/');
        let uri: Option<http::Uri> = trimmed.parse().ok();
        if uri.is_none_or(|uri| uri.scheme().is_none() || uri.authority().is_none() || uri.query().is_some()) {
            return Err(Error::new(ErrorKind::Config, "the base URL is not a URL such as https://slack.com"));
        }
        Ok(self.with(|connector| connector.base_url = trimmed.into()))
    }

    /// Says how fast history may be read.
    #[must_use]
    pub fn reading(self, history: HistoryRule) -> Self {
        self.with(|connector| connector.history = history)
    }

    /// Marks this client's calls as background work, behind those a person waits for.
    #[must_use]
    pub fn in_background(self) -> Self {
        self.with(|connector| connector.priority = Priority::Background)
    }

    /// Opens slack-morphism's whole API. Turn its errors into ours with [`crate::error::of`].
    #[must_use]
    pub fn session(&self) -> SlackClientSession<'_, Connector> {
        self.api.client.open_session(&self.api.token)
    }

    /// Calls any method with a JSON body.
    ///
    /// # Errors
    /// The pipeline's; [`ErrorKind::Invalid`] when the arguments are no JSON or the name is no method's;
    /// [`ErrorKind::Decode`] when the answer does not fit `T`, with [`palisade_core::Outcome::Processed`] unless the
    /// method reads.
    pub async fn call<T: DeserializeOwned>(&self, method: &str, arguments: &(impl Serialize + Sync)) -> Result<T> {
        self.connector().call(method, arguments).await
    }

    /// Calls any method with a form, as Slack's SDKs call those that read.
    ///
    /// # Errors
    /// As [`Slack::call`].
    pub async fn ask<T: DeserializeOwned>(&self, method: &str, arguments: &[(&str, Option<&str>)]) -> Result<T> {
        self.connector().ask(method, arguments).await
    }
}

/// Writes a form; arguments without a value are left out.
pub(crate) fn form(arguments: &[(&str, Option<&str>)]) -> String {
    let given = arguments.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
    form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish()
}
