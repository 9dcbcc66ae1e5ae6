//! One attempt: the message signed with every live key, posted, redirects followed within bounds, the answer's head read.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use oauth2::url::Url;

use super::message::Message;
use super::{Inner, Live};
use crate::client::retry_after;
use crate::error::{Error, ErrorKind};
use crate::transport::DiscardBody;
use crate::webhook::standard;

/// Redirects followed in one attempt. Those that keep method and body only (307, 308): every other one would forward
/// something else than was signed, and is a failure.
pub const REDIRECTS_MAX: u32 = 3;

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the forwarder decides on each")]
pub enum Answer {
    /// The receiver has it: 2xx.
    Delivered {
        /// The status.
        status: u16,
    },
    /// The receiver wants no more events: 410.
    Gone,
    /// Anything else.
    Failed {
        /// The status, if there was an answer.
        status: Option<u16>,
        /// What happened, in one phrase that holds nothing of the answer's body.
        reason: String,
        /// How long the receiver asks to wait.
        retry_after: Option<Duration>,
    },
}

impl Answer {
    /// Returns the word for it in metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Delivered { .. } => "delivered",
            Self::Gone => "gone",
            Self::Failed { .. } => "failed",
        }
    }
}

fn failed(status: Option<StatusCode>, reason: impl Into<String>) -> Answer {
    Answer::Failed { status: status.map(|status| status.as_u16()), reason: reason.into(), retry_after: None }
}

impl Inner {
    /// Posts a message to a destination, once.
    pub(super) async fn post(&self, live: &Live, message: &Message) -> Answer {
        let timeout = live.row.spec.timeout;
        let posting = self.follow(live, message);
        tokio::time::timeout(timeout, posting).await.unwrap_or_else(|_| {
            let seconds = timeout.as_secs_f64();
            failed(None, format!("the receiver did not answer within {seconds} s"))
        })
    }

    async fn follow(&self, live: &Live, message: &Message) -> Answer {
        let Some(headers) = self.headers(live, message) else {
            return failed(None, "it has no signing key that opens: rotate its key");
        };
        let Ok(mut url) = Url::parse(&live.row.spec.url) else {
            return failed(None, "its address cannot be read");
        };
        let own = origin(&url);
        for _ in 0..=REDIRECTS_MAX {
            let Some(request) = request(live, message, &headers, &url, origin(&url) == own) else {
                return failed(None, "its address cannot be written in a request");
            };
            let response = match self.transport.send(request).await {
                Ok(response) => response,
                Err(error) => return failed(None, phrase(&error)),
            };
            let status = response.status();
            if !matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) {
                return self.judge(&response);
            }
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            match to.and_then(|to| url.join(to).ok()) {
                Some(next) => url = next,
                None => return failed(Some(status), format!("the receiver answered {status} without an address")),
            }
        }
        failed(None, format!("the receiver redirected more than {REDIRECTS_MAX} times"))
    }

    fn judge(&self, response: &Response<Bytes>) -> Answer {
        let status = response.status();
        if status.is_success() {
            return Answer::Delivered { status: status.as_u16() };
        }
        if status == StatusCode::GONE {
            return Answer::Gone;
        }
        let reason = format!("the receiver answered {}", status.as_u16());
        let retry_after = retry_after(response.headers(), self.clock.as_ref());
        Answer::Failed { status: Some(status.as_u16()), reason, retry_after }
    }

    /// Makes the headers of Standard Webhooks: signed at this moment with every key that is live. `None` when none is.
    fn headers(&self, live: &Live, message: &Message) -> Option<HeaderMap> {
        let now = self.clock.now();
        let mut headers = HeaderMap::new();
        let live_keys = live.keys.iter().filter(|(_, until)| until.is_none_or(|until| now < until));
        let signatures: Vec<String> = live_keys
            .filter_map(|(secret, _)| standard::sign(secret, &message.id, now.seconds(), &message.body))
            .collect();
        if signatures.is_empty() {
            return None;
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(standard::ID.clone(), HeaderValue::from_str(&message.id).ok()?);
        headers.insert(standard::TIMESTAMP.clone(), HeaderValue::from(now.seconds()));
        headers.insert(standard::SIGNATURE.clone(), HeaderValue::from_str(&signatures.join(" ")).ok()?);
        Some(headers)
    }
}

/// Makes the request of one hop. What the destination's owner adds goes to its own host only.
fn request(live: &Live, message: &Message, headers: &HeaderMap, url: &Url, own: bool) -> Option<Request<Bytes>> {
    let uri: Uri = url.as_str().parse().ok()?;
    let mut request = Request::new(message.body.clone());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    headers.clone_into(request.headers_mut());
    if own {
        for (name, value) in &live.row.spec.headers {
            let pair = (HeaderName::try_from(name.as_str()), HeaderValue::from_str(value));
            if let (Ok(name), Ok(value)) = pair {
                request.headers_mut().insert(name, value);
            }
        }
    }
    request.extensions_mut().insert(live.row.spec.reach.clone());
    request.extensions_mut().insert(DiscardBody);
    Some(request)
}

fn origin(url: &Url) -> (String, Option<String>, Option<u16>) {
    (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default())
}

/// The phrase of what kept a message from being sent.
fn phrase(error: &Error) -> String {
    let kind = error.kind();
    if kind == ErrorKind::Config {
        return error.message().to_owned();
    }
    let phrase = if error.message().contains("could not be resolved") {
        "its host name could not be resolved"
    } else if kind == ErrorKind::Connect {
        "no connection to the receiver could be made"
    } else {
        "the connection to the receiver broke before it answered"
    };
    phrase.to_owned()
}
