//! Suppressed addresses: all of a list as a stream that pages by itself, one by its address, on and off.

use bytes::Bytes;
use futures_util::stream::{self, Stream, TryStreamExt};
use http::Method;
use http::header::DATE;
use palisade_core::{Error, ErrorKind, Result, Timestamp};
use serde_json::json;

use super::{SendGrid, encode, unreadable};
use crate::operation;
use crate::paging::{PAGE_MAX, Step, Walk};
use crate::suppression::{List, Suppression, id};

/// Pages of one list before it is taken for one that never ends: fifty million addresses.
const PAGES_MAX: u32 = 100_000;

/// Which suppressed addresses to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct ListSuppressions {
    list: List,
    since: Option<Timestamp>,
    page_size: u32,
}

impl ListSuppressions {
    /// All addresses of a list, in pages of 499.
    pub fn of(list: List) -> Self {
        Self { list, since: None, page_size: PAGE_MAX }
    }

    /// Only addresses added at or after a moment, to the second.
    pub fn since(mut self, moment: Timestamp) -> Self {
        self.since = Some(moment);
        self
    }

    /// Sets how many addresses a page holds, at the most 499.
    pub fn page_size(mut self, addresses: u32) -> Self {
        self.page_size = addresses;
        self
    }
}

/// The path of a list.
pub(crate) fn list_path(list: List, query: &str) -> String {
    format!("/v3/suppression/{}?{query}", list.name())
}

/// The path that reads one address: an answer of a list with it alone, or with none.
pub(crate) fn one_path(list: List, email: &str) -> String {
    match list {
        // The filter takes what begins alike; what else it gives is left out by whoever reads it.
        List::Unsubscribes => format!("/v3/suppression/unsubscribes?email={}&limit=100", encode(email)),
        List::Bounces | List::Blocks | List::SpamReports | List::InvalidEmails => {
            format!("/v3/suppression/{}/{}", list.name(), encode(email))
        }
    }
}

impl SendGrid {
    /// Lists suppressed addresses. Asks for the next page when the last one is used up, and ends with the first error.
    /// Addresses that are taken off meanwhile make it pass over none.
    pub fn list_suppressions(
        &self,
        filter: ListSuppressions,
    ) -> impl Stream<Item = Result<Suppression>> + Send + use<'_> {
        let ListSuppressions { list, since, page_size } = filter;
        let begin = Some((Walk::begin(since.map(Timestamp::seconds)), 0_u32));
        let pages = stream::try_unfold(begin, move |at| async move {
            let Some((walk, pages)) = at else { return Ok::<_, Error>(None) };
            let operation = &list.operations().list;
            let response = self.call(operation, Method::GET, &list_path(list, &walk.query(page_size)), None).await?;
            let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
            let read_at = date.and_then(|date| httpdate::parse_http_date(date).ok()).map(Timestamp::from);
            let page: Vec<Suppression> =
                serde_json::from_slice(response.body()).map_err(|_| unreadable(operation, response.status()))?;
            let ids: Vec<String> = page.iter().map(|one| id(&one.email)).collect();
            let (known, step) = walk.advance(&ids, read_at.map(Timestamp::seconds));
            let next = match step {
                Step::More(next) if next != walk && pages < PAGES_MAX => Some((next, pages + 1)),
                Step::More(_) => {
                    return Err(Error::new(ErrorKind::Decode, "the list of suppressed addresses does not end")
                        .during("sendgrid", operation.name));
                }
                Step::Done { .. } => None,
            };
            Ok(Some((stream::iter(page.into_iter().skip(known).map(Ok)), next)))
        });
        pages.try_flatten()
    }

    /// Reads one suppressed address; `None` when it is not on the list.
    ///
    /// # Errors
    /// The pipeline's.
    pub async fn suppression(&self, list: List, email: &str) -> Result<Option<Suppression>> {
        let email = checked(email)?;
        let path = one_path(list, email);
        let asked = self.ask(&list.operations().retrieve, Method::GET, &path, None).await;
        let found: Vec<Suppression> = match asked {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(found.into_iter().find(|one| id(&one.email) == id(email)))
    }

    /// Takes an address off a list, so that mail goes to it again. Do so at its owner's wish only.
    ///
    /// # Errors
    /// The pipeline's; [`ErrorKind::NotFound`] when it is not on the list.
    pub async fn unsuppress(&self, list: List, email: &str) -> Result<()> {
        let email = encode(checked(email)?);
        let path = match list {
            List::Unsubscribes => format!("/v3/asm/suppressions/global/{email}"),
            List::Bounces | List::Blocks | List::SpamReports | List::InvalidEmails => {
                format!("/v3/suppression/{}/{email}", list.name())
            }
        };
        self.call(&list.operations().delete, Method::DELETE, &path, None).await?;
        Ok(())
    }

    /// Puts addresses on the list of those who want no mail of this account at all.
    ///
    /// # Errors
    /// The pipeline's.
    pub async fn unsubscribe(&self, emails: &[&str]) -> Result<()> {
        let emails = emails.iter().map(|email| checked(email)).collect::<Result<Vec<_>>>()?;
        let body = serde_json::to_vec(&json!({ "recipient_emails": emails })).unwrap_or_default();
        let path = "/v3/asm/suppressions/global";
        self.call(&operation::ADD_UNSUBSCRIBES, Method::POST, path, Some(Bytes::from(body))).await?;
        Ok(())
    }
}

/// Takes an address for a path: an empty one would name the whole list.
fn checked(email: &str) -> Result<&str> {
    let plain = !email.trim().is_empty() && !matches!(email, "." | "..") && !email.chars().any(char::is_control);
    if plain {
        Ok(email)
    } else {
        Err(Error::new(ErrorKind::Invalid, "this is no address").during("sendgrid", "suppressions"))
    }
}
