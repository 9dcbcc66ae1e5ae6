//! What an endpoint trusts, as the texts its secrets are.

use std::borrow::Cow;
use std::fmt;

use palisade_core::{Error, ErrorKind, Result, Secret};
use serde::Deserialize;
use serde_json::json;

use crate::sync::check_topic;

/// A shorter key could be guessed.
const KEY_CHARS_MIN: usize = 16;

/// One secret of an endpoint, read.
///
/// - `{"audience": "https://hooks.example/…", "email": "push@project.iam.gserviceaccount.com"}`: a Pub/Sub push
///   subscription with authentication. With `"topic": "projects/P/topics/T"`, which the subscription reads, mailboxes
///   are watched through it.
/// - any text of 16 characters or more: the key from which the tokens of Calendar's channels are derived
///   ([`super::channel::token`]). Nothing has to be remembered per channel, and the first notification may come before
///   the answer to the watch is read.
/// - `{"channel_id": …, "resource_id": …, "token": …}`: one channel that was opened elsewhere.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: each is checked in one place")]
pub enum Trust {
    /// A push subscription.
    Push(PushTrust),
    /// One channel.
    Channel(ChannelTrust),
    /// The key of all channels opened with it.
    ChannelKey(Secret),
}

/// What the token of a push must say. Nothing of it is secret: Google's signature is the proof.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain value; any value is valid")]
pub struct PushTrust {
    /// The audience the subscription was made with; Pub/Sub's default is the push URL.
    pub audience: String,
    /// The service account the subscription pushes as. Any Google account may be given tokens of any audience, so the
    /// audience alone proves nothing.
    pub email: String,
    /// The topic the subscription reads, where mailboxes are to be watched through it. No part of the check.
    pub topic: Option<String>,
}

/// One channel that was opened elsewhere.
#[derive(Clone)]
#[expect(clippy::exhaustive_structs, reason = "a plain value; any value is valid")]
pub struct ChannelTrust {
    /// The id it was opened with.
    pub channel_id: String,
    /// The resource id Google answered.
    pub resource_id: String,
    /// The token it was opened with.
    pub token: Secret,
}

impl fmt::Debug for ChannelTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelTrust")
            .field("channel_id", &self.channel_id)
            .field("resource_id", &self.resource_id)
            .finish_non_exhaustive()
    }
}

/// A secret that is a JSON object.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    audience: Option<Cow<'a, str>>,
    #[serde(borrow)]
    email: Option<Cow<'a, str>>,
    #[serde(borrow)]
    topic: Option<Cow<'a, str>>,
    #[serde(borrow)]
    channel_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    resource_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    token: Option<Cow<'a, str>>,
}

impl Written<'_> {
    /// Counts an empty text as none.
    fn without_empty(mut self) -> Self {
        let Self { audience, email, topic, channel_id, resource_id, token } = &mut self;
        for text in [audience, email, topic, channel_id, resource_id, token] {
            text.take_if(|text| text.is_empty());
        }
        self
    }
}

impl Trust {
    /// Reads the text of a secret.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] saying what is wrong with it, never what it holds.
    pub fn read(secret: &Secret) -> Result<Self> {
        let wrong = |why: &'static str| Error::new(ErrorKind::Config, why).during("google", "webhook");
        let text = secret.expose().trim();
        if !text.starts_with('{') {
            if text.len() < KEY_CHARS_MIN {
                return Err(wrong("the key of Calendar's channels must have 16 characters or more"));
            }
            return Ok(Self::ChannelKey(secret.clone()));
        }
        let written: Written<'_> =
            serde_json::from_str(text).map_err(|_| wrong("the endpoint's secret is not a JSON object of texts"))?;
        let Written { audience, email, topic, channel_id, resource_id, token } = written.without_empty();
        match (audience, email, channel_id, resource_id, token) {
            (Some(audience), Some(email), None, None, None) => {
                if let Some(topic) = &topic {
                    check_topic(topic)?;
                }
                let topic = topic.map(Cow::into_owned);
                Ok(Self::Push(PushTrust { audience: audience.into_owned(), email: email.into_owned(), topic }))
            }
            (None, None, Some(channel), Some(resource), Some(token)) => Ok(Self::Channel(ChannelTrust {
                channel_id: channel.into_owned(),
                resource_id: resource.into_owned(),
                token: Secret::new(&*token),
            })),
            _ => Err(wrong(
                "the endpoint's secret needs audience and email (a Pub/Sub subscription), or channel_id, resource_id \
                 and token (one Calendar channel)",
            )),
        }
    }

    /// Writes it as the text of a secret.
    #[must_use]
    pub fn to_secret(&self) -> Secret {
        match self {
            Self::Push(push) => {
                let mut value = json!({ "audience": push.audience, "email": push.email });
                if let (Some(topic), Some(fields)) = (&push.topic, value.as_object_mut()) {
                    fields.insert("topic".to_owned(), topic.as_str().into());
                }
                Secret::new(value.to_string())
            }
            Self::Channel(channel) => Secret::new(
                json!({
                    "channel_id": channel.channel_id,
                    "resource_id": channel.resource_id,
                    "token": channel.token.expose(),
                })
                .to_string(),
            ),
            Self::ChannelKey(key) => key.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, kind: Option<&str>) {
        let read = Trust::read(&text.into());
        let told = format!("{read:?}");
        let found = read.as_ref().ok().map(|trust| match trust {
            Trust::Push(_) => "push",
            Trust::Channel(_) => "channel",
            Trust::ChannelKey(_) => "key",
        });
        assert_eq!(found, kind, "{text}");
        assert!(!told.contains("swordfish"), "{told}");
        if let Ok(trust) = read {
            assert_eq!(format!("{:?}", Trust::read(&trust.to_secret())), told);
        }
    }

    #[test]
    fn a_secret_is_a_subscription_a_channel_or_a_key_and_is_never_told() {
        check(r#"{"audience":"https://h.example/x","email":"a@b.iam.gserviceaccount.com"}"#, Some("push"));
        let topic = r#"{"audience":"https://h.example/x","email":"a@b.example","topic":"projects/p/topics/t"}"#;
        check(topic, Some("push"));
        check(&topic.replace("topics/", ""), None);
        check(r#" {"channel_id":"c","resource_id":"r","token":"swordfish"} "#, Some("channel"));
        check("swordfish-swordfish", Some("key"));
        check("swordfish", None);
        check(r#"{"audience":"https://h.example/x"}"#, None);
        check(r#"{"audience":"a","email":""}"#, None);
        check(r#"{"channel_id":"c","token":"swordfish"}"#, None);
        check(r#"{"audience":"a","email":"e","channel_id":"c","resource_id":"r","token":"swordfish"}"#, None);
        check(r#"{"swordfish"#, None);
    }
}
