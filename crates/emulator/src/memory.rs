//! What a small provider remembers over the death of its process: its whole world in one file, written anew after each
//! change and before anybody hears of it.
//!
//! Meant for worlds of some hundreds of objects; Stripe, which has tens of thousands, keeps a journal. What is set up by
//! whoever starts the provider (keys, endpoints, dials) and deliveries under way are not kept. The file is replaced as a
//! whole, so it survives `kill -9` at any moment; it is not synced, so it need not survive a power cut.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use crate::gate::{Emulated, Inner, Provider};

/// The file, and what stands in it.
#[derive(Debug)]
pub(crate) struct Memory {
    path: PathBuf,
    written: Vec<u8>,
}

impl Memory {
    fn write(&mut self, world: Vec<u8>) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        std::fs::write(&beside, &world)?;
        std::fs::rename(&beside, &self.path)?;
        self.written = world;
        Ok(())
    }
}

impl<P: Provider> Inner<P> {
    /// Writes down what has changed. Call it after a change, before anybody hears of it, and without the lock of the
    /// world.
    pub(crate) fn remember(&self) {
        let mut kept = self.house.memory().lock().unwrap_or_else(PoisonError::into_inner);
        let Some(memory) = kept.as_mut() else { return };
        let written = match self.provider.remembered() {
            Some(Ok(world)) if world == memory.written => return,
            Some(Ok(world)) => memory.write(world),
            Some(Err(error)) => Err(error.into()),
            None => return,
        };
        if let Err(error) = written {
            tracing::error!(%error, "the emulator's memory cannot be written: from here on nothing is remembered");
            *kept = None;
        }
    }
}

impl<P: Provider> Emulated<P> {
    /// Recalls what an earlier process wrote into `path`, and writes every further change there: the provider goes on as
    /// if it had never died. Tells whether there was anything to recall. For a provider nobody has used yet; keys,
    /// endpoints and dials are given again, and deliveries that were under way are lost, as with the real ones that give
    /// up.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let folder = std::env::temp_dir().join(format!("palisade-doc-memory-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// use palisade_emulator::twilio::{Twilio, TwilioConfig};
    /// let path = folder.join("twilio.json");
    /// let first = Twilio::offline(TwilioConfig::default());
    /// assert!(!first.keep_memory(&path)?);
    /// first.receive("+15005550010", "+15005550006", "Hello", &[]);
    ///
    /// let second = Twilio::offline(TwilioConfig::default());
    /// assert!(second.keep_memory(&path)?);
    /// assert_eq!(second.truth(), first.truth());
    /// # std::fs::remove_dir_all(&folder)
    /// # }
    /// ```
    ///
    /// # Errors
    /// The file's own errors; `InvalidData` when it is not this emulator's; `Unsupported` for a provider that keeps no
    /// memory this way.
    pub fn keep_memory(&self, path: &Path) -> io::Result<bool> {
        let inner = &self.inner;
        if inner.provider.remembered().is_none() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this provider keeps no memory in one file"));
        }
        let known = match std::fs::read(path) {
            Ok(kept) => {
                inner.provider.recall(&kept).map_err(|error| {
                    let what = format!("{}: not this emulator's memory: {error}", path.display());
                    io::Error::new(io::ErrorKind::InvalidData, what)
                })?;
                true
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        let memory = Memory { path: path.to_owned(), written: Vec::new() };
        *inner.house.memory().lock().unwrap_or_else(PoisonError::into_inner) = Some(memory);
        inner.remember();
        Ok(known)
    }
}

/// A map whose keys are no texts, as a list of pairs.
pub(crate) mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(crate) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// Bytes that need not be text, as base64.
pub(crate) mod bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Bytes::from).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::google::{Google, GoogleConfig};
    use crate::sendgrid::{SendGrid, SendGridConfig};
    use crate::slack::{Seed, Slack, SlackConfig};
    use crate::twilio::{Twilio, TwilioConfig};
    use serde_json::json;

    const ADA: &str = "ada@example.com";

    /// Changes a provider, lets another one take its memory up, and compares what both show; then once more, because
    /// what was recalled must be remembered too.
    #[track_caller]
    fn check<P: Provider, T: PartialEq + std::fmt::Debug>(
        make: impl Fn() -> Emulated<P>,
        change: impl Fn(&Emulated<P>, usize),
        show: impl Fn(&Emulated<P>) -> T,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory.json");
        let mut shown = None;
        for life in 0..3 {
            let provider = make();
            assert_eq!(provider.keep_memory(&path).unwrap(), life > 0);
            if let Some(shown) = &shown {
                assert_eq!(&show(&provider), shown, "life {life}");
            }
            change(&provider, life);
            let now = show(&provider);
            assert_ne!(Some(&now), shown.as_ref(), "the change shows");
            shown = Some(now);
        }
        std::fs::write(&path, "{").unwrap();
        assert_eq!(make().keep_memory(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    /// Fails when a provider leaves a part of its world out, or writes it down only now and then.
    #[test]
    fn each_small_provider_goes_on_where_it_died() {
        check(
            || Twilio::offline(TwilioConfig::default()),
            |twilio, life| {
                twilio.populate(2);
                let sid = twilio.receive("+15005550010", "+15005550006", &format!("life {life}"), &[]);
                assert!(life == 0 || twilio.delete(&sid));
            },
            Twilio::truth,
        );
        check(
            || SendGrid::offline(SendGridConfig::default()),
            |sendgrid, life| {
                sendgrid.populate("bounces", 2 + life);
                sendgrid.suppress("unsubscribes", &format!("life-{life}@example.com"));
            },
            |sendgrid| (sendgrid.truth("bounces"), sendgrid.truth("unsubscribes"), sendgrid.mails()),
        );
        check(
            || Slack::offline(SlackConfig::default()),
            |slack, life| {
                slack.populate(&Seed { users: 1, channels: 1, private_channels: 0, messages_per_channel: 3 });
                let channel = slack.create_channel(&format!("life-{life}"), false, &[&slack.bot_user()]);
                let ts = slack.post(&channel, &slack.bot_user(), "said", None).unwrap();
                assert!(slack.edit(&channel, &ts, "meant"));
            },
            |slack| ["users", "conversations", "messages"].map(|stream| slack.truth(stream)),
        );
        check(
            || Google::offline(GoogleConfig::default()),
            |google, life| {
                google.populate(ADA, 2, 1);
                let id = google.receive_raw(ADA, b"Subject: not text \xff\r\n\r\n\xfe".to_vec()).unwrap();
                assert!(google.relabel(ADA, &id, &["STARRED"], &[]));
                google
                    .event(
                        ADA,
                        None,
                        &json!({ "summary": format!("life {life}"),
                    "start": { "date": "2026-12-01" }, "end": { "date": "2026-12-02" } }),
                    )
                    .unwrap();
            },
            |google| (google.messages(ADA), google.events(ADA)),
        );
    }
}
