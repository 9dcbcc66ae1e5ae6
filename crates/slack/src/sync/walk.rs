//! The walk over all messages: one conversation after another, each newest first, its threads in between.
//!
//! Slack lists messages of one conversation only, so a run first lists the conversations the app is a member of, a page
//! at a time, and reads each of them before it lists further. Where a run stands is all in its cursor, as text:
//! - none: the beginning of a full run, over everything the copy holds.
//! - `from:<seconds>`: the beginning of an incremental run. It reads what was written since that time less the window
//!   ([`super::SlackSource::rescanning`]), because an edit never comes up again by the time of its message.
//! - `walk:<json>`: in the middle of either.
//!
//! A conversation or thread that is refused is read again from its beginning, because Slack may have forgotten the cursor;
//! refused again, it is gone, and the run goes on behind it.

use palisade_core::sync::{Cursor, Next};
use palisade_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::json::is_ts;

/// Conversations listed at once: their ids stand in the cursor.
pub(super) const CONVERSATIONS_MAX: u32 = 100;

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Walk {
    /// Only messages after this one are read.
    #[serde(rename = "s", skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<String>,
    /// When the run began, by the provider's clock, in seconds: where the next one begins. Not known before the first
    /// answer.
    #[serde(rename = "b", skip_serializing_if = "Option::is_none")]
    pub(super) began: Option<i64>,
    /// Where the list of conversations goes on.
    #[serde(rename = "l")]
    pub(super) list: List,
    /// The conversations listed and not read yet; the first is the one being read.
    #[serde(rename = "c", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) conversations: Vec<String>,
    /// The place in the first conversation.
    #[serde(rename = "p", default)]
    pub(super) page: Place,
    /// The threads found on the last page and not read yet; the first is the one being read.
    #[serde(rename = "t", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) threads: Vec<String>,
    /// The place in the first thread.
    #[serde(rename = "r", default)]
    pub(super) reply: Place,
}

/// Where the list of conversations goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum List {
    Start,
    At(String),
    Over,
}

/// A place in a list of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Place {
    #[default]
    Start,
    At(String),
    Over,
}

/// What a run reads next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading<'a> {
    Conversations {
        cursor: Option<&'a str>,
    },
    History {
        conversation: &'a str,
        place: &'a Place,
    },
    Thread {
        conversation: &'a str,
        root: &'a str,
        place: &'a Place,
    },
    /// Nothing is left; what was to be read last is gone.
    Nothing,
}

/// What a page says of what follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behind<'a> {
    pub(super) cursor: Option<&'a str>,
    pub(super) has_more: bool,
}

impl Walk {
    /// Begins a run of messages after `since`.
    pub(super) fn begin(since: Option<String>) -> Self {
        Self {
            since,
            began: None,
            list: List::Start,
            conversations: Vec::new(),
            page: Place::Start,
            threads: Vec::new(),
            reply: Place::Start,
        }
    }

    /// Reads a cursor. `first` and `window` are the settings of the source, in seconds.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it is not one of this stream.
    pub(super) fn read(cursor: Option<&Cursor>, first: Option<i64>, window: i64) -> Result<Self> {
        let ts = |seconds: i64| format!("{}.000000", seconds.max(0));
        let Some(cursor) = cursor else { return Ok(Self::begin(first.map(ts))) };
        let wrong = || Error::new(ErrorKind::Config, "the cursor is not one of this stream").during("slack", "sync");
        if let Some(seconds) = cursor.as_str().strip_prefix("from:") {
            let from = seconds.parse::<i64>().map_err(|_| wrong())?.saturating_sub(window);
            return Ok(Self::begin(Some(ts(first.map_or(from, |first| first.max(from))))));
        }
        let text = cursor.as_str().strip_prefix("walk:").ok_or_else(wrong)?;
        let walk: Self = serde_json::from_str(text).map_err(|_| wrong())?;
        if walk.threads.iter().chain(&walk.since).all(|ts| is_ts(ts)) { Ok(walk) } else { Err(wrong()) }
    }

    /// Tells what is read next.
    pub(super) fn reading(&self) -> Reading<'_> {
        match (self.conversations.first(), self.threads.first(), &self.list) {
            (Some(conversation), Some(root), _) => Reading::Thread { conversation, root, place: &self.reply },
            (Some(conversation), None, _) => Reading::History { conversation, place: &self.page },
            (None, _, List::Start) => Reading::Conversations { cursor: None },
            (None, _, List::At(cursor)) => Reading::Conversations { cursor: Some(cursor) },
            (None, _, List::Over) => Reading::Nothing,
        }
    }

    /// Goes on behind a page of conversations.
    pub(super) fn listed(&mut self, conversations: Vec<String>, cursor: Option<&str>, read_at: i64) {
        self.began.get_or_insert(read_at);
        self.conversations = conversations;
        self.list = cursor.map_or(List::Over, |cursor| List::At(cursor.to_owned()));
    }

    /// Goes on behind a page of a conversation on which these threads begin.
    ///
    /// # Errors
    /// As [`Place::advance`].
    pub(super) fn read_page(&mut self, behind: Behind<'_>, threads: Vec<String>) -> Result<()> {
        self.page.advance(behind)?;
        self.threads = threads;
        self.settle();
        Ok(())
    }

    /// Goes on behind a page of a thread.
    ///
    /// # Errors
    /// As [`Place::advance`].
    pub(super) fn read_replies(&mut self, behind: Behind<'_>) -> Result<()> {
        self.reply.advance(behind)?;
        self.settle();
        Ok(())
    }

    /// Gives the place to go on at when Slack refused this one: the beginning of the conversation or thread, or behind
    /// it when that was refused. `None` when the list of conversations itself cannot go on.
    pub(super) fn step_back(mut self) -> Option<Self> {
        let in_thread = match self.reading() {
            Reading::Thread { .. } => true,
            Reading::History { .. } => false,
            Reading::Conversations { .. } | Reading::Nothing => return None,
        };
        let place = if in_thread { &mut self.reply } else { &mut self.page };
        *place = if matches!(place, Place::At(_)) { Place::Start } else { Place::Over };
        self.settle();
        Some(self)
    }

    /// Leaves behind what is over.
    fn settle(&mut self) {
        if self.reply == Place::Over {
            self.reply = Place::Start;
            if !self.threads.is_empty() {
                self.threads.remove(0);
            }
        }
        if self.threads.is_empty() && self.page == Place::Over {
            self.page = Place::Start;
            if !self.conversations.is_empty() {
                self.conversations.remove(0);
            }
        }
    }

    /// Writes where the run goes on, or where the next one begins.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`], never in practice: it is our own text.
    pub(super) fn next(&self) -> Result<Next> {
        if self.reading() == Reading::Nothing {
            let resume = self.began.map(|seconds| Cursor::new(format!("from:{seconds}")));
            return Ok(Next::Done { resume });
        }
        self.cursor().map(Next::More)
    }

    /// Writes the cursor.
    ///
    /// # Errors
    /// As [`Walk::next`].
    pub(super) fn cursor(&self) -> Result<Cursor> {
        let text = serde_json::to_string(self);
        let text = text.map_err(|_| Error::new(ErrorKind::Decode, "the place of the walk cannot be written"))?;
        Ok(Cursor::new(format!("walk:{text}")))
    }
}

impl Place {
    /// Returns the cursor to ask with.
    pub(super) fn cursor(&self) -> Option<&str> {
        match self {
            Self::At(cursor) => Some(cursor),
            Self::Start | Self::Over => None,
        }
    }

    /// Goes on behind a page. A short or empty page is not the end; only the lack of a cursor is.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when the page says that more follows and not where, or where it was asked for itself.
    fn advance(&mut self, behind: Behind<'_>) -> Result<()> {
        let wrong = |why| Err(Error::new(ErrorKind::Decode, why).during("slack", "sync"));
        *self = match behind.cursor {
            Some(cursor) if self.cursor() == Some(cursor) => {
                return wrong("the page goes on where it was asked for itself");
            }
            Some(cursor) => Self::At(cursor.to_owned()),
            None if behind.has_more => return wrong("the page says that more follows and not where"),
            None => Self::Over,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk() -> Walk {
        let mut walk = Walk::begin(None);
        walk.listed(vec!["C1".into(), "C2".into()], None, 1_000);
        walk
    }

    fn behind(cursor: Option<&str>, has_more: bool) -> Behind<'_> {
        Behind { cursor, has_more }
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_nothing_else_is_one() {
        let mut walk = walk();
        walk.read_page(behind(Some("c=="), true), vec!["5.000001".into()]).unwrap();
        let cursor = walk.cursor().unwrap();
        assert_eq!(Walk::read(Some(&cursor), None, 60).unwrap(), walk);
        for text in ["", "walk:", "walk:{}", "from:", "from:x", "again", r#"walk:{"l":"over","t":["C1"]}"#] {
            assert_eq!(Walk::read(Some(&Cursor::new(text)), None, 60).unwrap_err().kind(), ErrorKind::Config, "{text}");
        }
        let since = |text: &str, first| Walk::read(Some(&Cursor::new(text)), first, 60).unwrap().since.unwrap();
        assert_eq!(since("from:1000", None), "940.000000");
        assert_eq!(since("from:1000", Some(990)), "990.000000", "never before the copy begins");
        assert_eq!(since("from:10", None), "0.000000");
        assert_eq!(since(&format!("from:{}", i64::MIN), None), "0.000000");
    }

    /// Fails when a refused place is asked for for ever, or something is left out that is not gone.
    #[test]
    fn a_refused_place_is_left_step_by_step() {
        let mut walk = walk();
        walk.read_page(behind(Some("c"), true), vec!["5.000001".into()]).unwrap();
        let walk = walk.step_back().unwrap();
        assert_eq!(walk.reading(), Reading::History { conversation: "C1", place: &Place::At("c".into()) });
        let walk = walk.step_back().unwrap();
        assert_eq!(walk.reading(), Reading::History { conversation: "C1", place: &Place::Start });
        let walk = walk.step_back().unwrap();
        assert_eq!(walk.reading(), Reading::History { conversation: "C2", place: &Place::Start });
        let walk = walk.step_back().unwrap();
        assert_eq!(walk.reading(), Reading::Nothing);
        assert!(walk.step_back().is_none());
    }

    /// Fails when an empty page ends a list that goes on, or one that contradicts itself is believed.
    #[test]
    fn pages_lead_on_until_they_do_not() {
        let mut walk = walk();
        walk.read_page(behind(Some("c1"), false), vec![]).unwrap();
        assert_eq!(walk.clone().read_page(behind(Some("c1"), true), vec![]).unwrap_err().kind(), ErrorKind::Decode);
        assert_eq!(walk.clone().read_page(behind(None, true), vec![]).unwrap_err().kind(), ErrorKind::Decode);
        walk.read_page(behind(None, false), vec![]).unwrap();
        assert_eq!(walk.reading(), Reading::History { conversation: "C2", place: &Place::Start });
        walk.read_page(behind(None, false), vec!["1.000000".into(), "2.000000".into()]).unwrap();
        walk.read_replies(behind(Some("r"), true)).unwrap();
        assert_eq!(walk.reply, Place::At("r".into()));
        walk.read_replies(behind(None, false)).unwrap();
        assert!(matches!(walk.reading(), Reading::Thread { root: "2.000000", place: Place::Start, .. }));
        walk.read_replies(behind(None, false)).unwrap();
        assert_eq!(walk.next().unwrap(), Next::Done { resume: Some(Cursor::new("from:1000")) });
    }
}
