//! Why a flow was refused: what happened and what to press, in plain words, and a reason for the log.

use std::borrow::Cow;
use std::fmt;

use crate::error::Error;

/// Why a flow was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusedKind {
    /// The person, or the provider for them, said no.
    Denied,
    /// No flow with this `state` is under way: it is forged, was used already, or is of another flow.
    UnknownState,
    /// The flow was begun too long ago.
    Expired,
    /// The flow was begun in another browser, or its cookie is gone.
    OtherBrowser,
    /// The callback names another issuer than the provider's, or none.
    WrongIssuer,
    /// The callback is none.
    Malformed,
    /// The provider does not take the code: it was used, is too old, or is of another session.
    CodeRefused,
    /// The provider is not working right now.
    ProviderFailed,
    /// The provider's answer to the code was lost: a new try is needed.
    AnswerLost,
    /// The provider refuses our client or its settings.
    Misconfigured,
    /// Nothing that was asked for was allowed.
    NothingGranted,
    /// A reconnect came back with another account than the connection's.
    OtherAccount,
    /// The link was used already, or is none.
    LinkUsed,
    /// The link is too old.
    LinkExpired,
    /// The connection was removed or changed meanwhile.
    Gone,
    /// Something of our own failed.
    Failed,
}

impl RefusedKind {
    /// Returns the reason as it is written in logs and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.words().0
    }

    /// Returns the status a page about it is served with.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Denied | Self::NothingGranted | Self::OtherAccount => 200,
            Self::UnknownState | Self::WrongIssuer | Self::Malformed | Self::CodeRefused => 400,
            Self::OtherBrowser => 403,
            Self::Expired | Self::LinkUsed | Self::LinkExpired | Self::Gone => 410,
            Self::ProviderFailed | Self::AnswerLost => 502,
            Self::Misconfigured | Self::Failed => 500,
        }
    }

    /// The reason, a title, what happened, and what to press.
    fn words(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Denied => (
                "denied",
                "Not connected",
                "You chose not to allow access, so nothing was connected and nothing was changed.",
                "Connect again",
            ),
            Self::UnknownState => (
                "unknown_state",
                "This page cannot be used",
                "This address belongs to no connection that is being made. It may have been opened twice, or \
                 somebody sent it to you. Nothing was connected.",
                "Start again",
            ),
            Self::Expired => (
                "expired",
                "That took too long",
                "For your safety a connection must be finished within ten minutes. Nothing was connected.",
                "Start again",
            ),
            Self::OtherBrowser => (
                "other_browser",
                "Started somewhere else",
                "This connection was started in another browser or window, or cookies are blocked here. Nothing was \
                 connected.",
                "Start again here",
            ),
            Self::WrongIssuer => (
                "wrong_issuer",
                "This page cannot be used",
                "The answer did not come from the service you were connecting. Nothing was connected.",
                "Start again",
            ),
            Self::Malformed => (
                "malformed",
                "This page cannot be used",
                "The service sent you back with an answer that cannot be read. Nothing was connected.",
                "Start again",
            ),
            Self::CodeRefused => (
                "code_refused",
                "Please try once more",
                "The service did not accept its own answer: it may have been used already. Nothing was connected.",
                "Connect again",
            ),
            Self::ProviderFailed => (
                "provider_failed",
                "The service is not answering",
                "The service is not working properly right now. Nothing was connected. Please try again in a few \
                 minutes.",
                "Try again",
            ),
            Self::AnswerLost => (
                "answer_lost",
                "Please try once more",
                "You allowed access, but the answer of the service was lost on its way to us. Connecting again sets \
                 it right.",
                "Connect again",
            ),
            Self::Misconfigured => (
                "misconfigured",
                "This is on our side",
                "The service refused the way we asked. Nothing was connected, and pressing again will not help until \
                 we have set it right.",
                "Go back",
            ),
            Self::NothingGranted => (
                "nothing_granted",
                "Nothing was allowed",
                "Every permission was left out, so there is nothing we could do with this connection. Please leave \
                 the boxes ticked that you want to allow.",
                "Connect again",
            ),
            Self::OtherAccount => (
                "other_account",
                "That is another account",
                "You signed in with another account than the one that is connected here. The connection was not \
                 changed.",
                "Try again with the same account",
            ),
            Self::LinkUsed => (
                "link_used",
                "This link was used already",
                "Each link works once. Please ask for a new one where you found it.",
                "Go back",
            ),
            Self::LinkExpired => (
                "link_expired",
                "This link is too old",
                "A link works for thirty minutes. Please ask for a new one where you found it.",
                "Go back",
            ),
            Self::Gone => (
                "gone",
                "This connection has changed",
                "The connection was removed or changed while you were away. Nothing was connected.",
                "Go back",
            ),
            Self::Failed => (
                "failed",
                "Something went wrong on our side",
                "We could not store the connection. Please try again in a moment.",
                "Connect again",
            ),
        }
    }
}

/// A flow that was refused.
#[derive(Debug)]
pub struct Refused {
    kind: RefusedKind,
    return_to: Option<String>,
    clear_cookie: Option<String>,
    source: Option<Error>,
}

impl Refused {
    pub(super) fn new(kind: RefusedKind) -> Self {
        Self { kind, return_to: None, clear_cookie: None, source: None }
    }

    pub(super) fn returning(mut self, to: Option<&str>, clear_cookie: Option<String>) -> Self {
        self.return_to = to.map(str::to_owned);
        self.clear_cookie = clear_cookie;
        self
    }

    /// Returns why.
    #[must_use]
    pub fn kind(&self) -> RefusedKind {
        self.kind
    }

    /// Returns the title of the page.
    #[must_use]
    pub fn title(&self) -> &'static str {
        self.kind.words().1
    }

    /// Says what happened, in words for the person in front of the browser.
    #[must_use]
    pub fn happened(&self) -> Cow<'static, str> {
        Cow::Borrowed(self.kind.words().2)
    }

    /// Says what stands on the button.
    #[must_use]
    pub fn press(&self) -> &'static str {
        self.kind.words().3
    }

    /// Returns where the flow would have ended; on the allow-list.
    #[must_use]
    pub fn return_to(&self) -> Option<&str> {
        self.return_to.as_deref()
    }

    /// Returns the `Set-Cookie` header that removes the flow's cookie, where one is known.
    #[must_use]
    pub fn clear_cookie(&self) -> Option<&str> {
        self.clear_cookie.as_deref()
    }

    pub(super) fn into_source(self) -> Option<Error> {
        self.source
    }

    /// Returns our own failure behind it.
    #[must_use]
    pub fn source_error(&self) -> Option<&Error> {
        self.source.as_ref()
    }
}

impl From<RefusedKind> for Refused {
    fn from(kind: RefusedKind) -> Self {
        Self::new(kind)
    }
}

impl From<Error> for Refused {
    /// Something of our own failed.
    fn from(error: Error) -> Self {
        Self { source: Some(error), ..Self::new(RefusedKind::Failed) }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the connection was refused ({})", self.kind.as_str())
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}
