//! All messages of an account as a stream that pages by itself.

use futures_util::stream::{self, Stream};
use http::Method;
use palisade_core::{Error, ErrorKind, Result, Timestamp};
use serde::Deserialize;

use super::{Message, Twilio, form};
use crate::operation;
use crate::sid::AccountSid;
use crate::time;

/// The largest page Twilio gives (Twilio OpenAPI, `PageSize`).
pub(crate) const PAGE_MAX: u32 = 1_000;
/// Pages of one list before it is taken for one that never ends: a hundred million messages.
const PAGES_MAX: u32 = 100_000;

/// Which messages to list. Newest first, as Twilio gives them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct ListMessages {
    to: Option<String>,
    from: Option<String>,
    sent_from: Option<Timestamp>,
    sent_until: Option<Timestamp>,
    page_size: Option<u32>,
}

impl ListMessages {
    /// Lists all messages, in pages of 1,000.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only messages to this address.
    pub fn to(mut self, address: impl Into<String>) -> Self {
        self.to = Some(address.into());
        self
    }

    /// Only messages from this address.
    pub fn from(mut self, address: impl Into<String>) -> Self {
        self.from = Some(address.into());
        self
    }

    /// Only messages sent at or after a moment. Twilio's precision may be as coarse as the day, and messages that still
    /// wait to be sent have no such moment.
    pub fn sent_from(mut self, moment: Timestamp) -> Self {
        self.sent_from = Some(moment);
        self
    }

    /// Only messages sent at or before a moment.
    pub fn sent_until(mut self, moment: Timestamp) -> Self {
        self.sent_until = Some(moment);
        self
    }

    /// Sets how many messages a page holds, at the most 1,000.
    pub fn page_size(mut self, messages: u32) -> Self {
        self.page_size = Some(messages);
        self
    }

    fn query(&self) -> String {
        let from = self.sent_from.map(time::to_rfc3339);
        let until = self.sent_until.map(time::to_rfc3339);
        let size = self.page_size.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX).to_string();
        let named = [
            ("To", self.to.as_deref()),
            ("From", self.from.as_deref()),
            ("DateSent<", until.as_deref()),
            ("DateSent>", from.as_deref()),
            ("PageSize", Some(&size)),
        ];
        let pairs: Vec<(&str, &str)> = named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        form(&pairs)
    }
}

/// A page of messages.
#[derive(Deserialize)]
struct Page {
    messages: Vec<Message>,
    next_page_uri: Option<String>,
}

/// Takes the query of a `next_page_uri`, and nothing else of it: the next request goes to the same account's messages
/// whatever an answer says.
///
/// # Errors
/// [`ErrorKind::Decode`] when it names another path.
pub(crate) fn next_query<'a>(account: &AccountSid, next: Option<&'a str>) -> Result<Option<&'a str>> {
    let Some(next) = next.filter(|next| !next.is_empty()) else { return Ok(None) };
    let query = next.strip_prefix(&super::messages_path(account)).and_then(|rest| rest.strip_prefix('?'));
    let plain = |query: &&str| !query.is_empty() && query.bytes().all(|c| c.is_ascii_graphic() && c != b'#');
    query.filter(plain).map(Some).ok_or_else(|| {
        Error::new(ErrorKind::Decode, "the next page is not one of this account's messages")
            .during("twilio", "messages.list")
    })
}

impl Twilio {
    /// Lists messages, newest first. Asks for the next page when the last one is used up, and ends with the first
    /// error.
    pub fn list_messages(&self, filter: &ListMessages) -> impl Stream<Item = Result<Message>> + Send + use<'_> {
        let begin = Some((filter.query(), 0_u32));
        let pages = stream::try_unfold(begin, move |at| async move {
            let Some((query, pages)) = at else { return Ok::<_, Error>(None) };
            let (messages, next) = self.page(&query).await?;
            let next = match next {
                // A page that leads to itself, or a list that never ends, would be read for ever.
                Some(next) if next == query || pages >= PAGES_MAX => {
                    return Err(Error::new(ErrorKind::Decode, "the list of messages does not end")
                        .during("twilio", "messages.list"));
                }
                Some(next) => Some((next, pages + 1)),
                None => None,
            };
            Ok(Some((stream::iter(messages.into_iter().map(Ok)), next)))
        });
        futures_util::TryStreamExt::try_flatten(pages)
    }

    /// Reads one page, and the query of the next.
    pub(super) async fn page(&self, query: &str) -> Result<(Vec<Message>, Option<String>)> {
        let path = format!("{}?{query}", self.messages());
        let page: Page = self.ask(&operation::LIST_MESSAGES, Method::GET, &path, None).await?;
        let next = next_query(&self.account, page.next_page_uri.as_deref())?.map(str::to_owned);
        Ok((page.messages, next))
    }
}

pub(super) fn first_query(filter: &ListMessages) -> String {
    filter.query()
}
