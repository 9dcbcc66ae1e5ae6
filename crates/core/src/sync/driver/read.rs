//! Reading from the provider: pages and single records, and the commit of a page with what it must fetch first.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::{
    Driver, Ears, FETCH_ROUNDS_MAX, FETCHES_AT_ONCE, PROVIDER_SKEW_MAX, Read, Task, decode, passes, unsure_span,
};
use crate::call::{Call, Priority};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::RecordId;
use crate::store::{FetchedRecord, Merge, MergeCounts, PageCommit, RunId, StreamKey};
use crate::sync::{BadRecord, Change, Cursor, Span, State};

/// How long a page may take to be read, all waits for its turn included. The pipeline's own deadlines are far shorter;
/// this is for a transport that has none: a run must not hang for ever while its lease is renewed.
const READ_PATIENCE: Duration = Duration::from_secs(30 * 60);

/// What fetching one record came to.
enum Fetched {
    Read(FetchedRecord),
    Unreadable(BadRecord),
}

impl Driver<'_> {
    /// Reads the page at a cursor, or, where the provider refuses that as expired, the one before it that is left.
    pub(in crate::sync) async fn read(&self, key: &StreamKey, mut cursor: Option<Cursor>) -> Result<Read> {
        loop {
            // Before the request leaves: what is committed later may be newer than what the page shows.
            let status = self.store.stream(key.clone()).await?;
            let request = self.source.request(self.site, &key.stream, cursor.as_ref())?;
            let sent = tokio::time::timeout(READ_PATIENCE, self.send(request)).await;
            let sent = sent.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "no page came in half an hour")));
            let (response, span) = match sent {
                Ok(answered) => answered,
                Err(error) if error.kind() == ErrorKind::CursorExpired => {
                    let back = cursor.as_ref().and_then(|at| self.source.step_back(&key.stream, at));
                    cursor = Some(back.ok_or(error)?);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let page = self.source.page(&key.stream, cursor.as_ref(), &response, span)?;
            if page.changes.iter().any(|change| change.stream != key.stream) {
                return Err(decode("the page holds records of another stream"));
            }
            return Ok(Read { status, cursor, page, span });
        }
    }

    /// Commits a page and returns what it did; records that cannot be ordered are fetched, which orders them. One that
    /// cannot be read is set aside with its page.
    pub(super) async fn commit(&self, task: &Task<'_>, ears: &Ears, mut page: PageCommit) -> Result<Committed> {
        let key = &task.key;
        for _ in 0..=FETCH_ROUNDS_MAX {
            let mut with_missed = page.clone();
            self.missed(ears, key, &page).await?.into_page(task, ears, &mut with_missed);
            let committed = self.store.commit_page(with_missed).await?;
            if committed.fetch.is_empty() {
                return Ok(Committed { counts: committed.counts, bad: page.bad.len() as u64 });
            }
            let open: BTreeSet<_> = committed.fetch.into_iter().collect();
            page.changes.retain(|change| !open.contains(&change.id));
            page.fetched.retain(|one| !open.contains(&one.change.id));
            let open: Vec<_> = open.into_iter().map(|id| (key.clone(), id)).collect();
            for fetched in self.fetch_all(&open).await? {
                match fetched {
                    Fetched::Read(one) => page.fetched.push(one),
                    Fetched::Unreadable(bad) => page.bad.push(bad),
                }
            }
            page.now = self.clock.now();
        }
        Err(Error::new(ErrorKind::Conflict, "records kept changing while they were fetched"))
    }

    /// Asks once more for records that were set aside by earlier runs and say their names, those first that were met
    /// longest ago. What comes is merged, which takes them from what is set aside; what still cannot be read is set
    /// aside again, behind the others. No error of the provider stops a run here: one that passes ends the asking.
    pub(super) async fn retry_bad(&self, task: &Task<'_>, run: RunId) -> Result<MergeCounts> {
        /// Records asked for again in one run: each costs a call.
        const RETRIED_MAX: u32 = 20;
        let (mut merges, mut still) = (Vec::new(), Vec::new());
        for aside in self.store.bad_to_retry(task.key.clone(), run, RETRIED_MAX).await? {
            let Some(id) = aside.record.id.clone() else { continue };
            match self.fetch_one(&task.key, &id).await {
                Ok(Fetched::Read(one)) => merges.push(one.into_merge(&task.key)),
                Ok(Fetched::Unreadable(bad)) => still.push(bad),
                Err(error) if passes(error.kind()) => break,
                // What is known of it stays, but for why it cannot be read.
                Err(error) => still.push(BadRecord { why: error.message().to_owned(), ..aside.record }),
            }
        }
        if !still.is_empty() {
            self.store.set_aside(task.lease, run, still, self.clock.now()).await?;
        }
        if merges.is_empty() {
            return Ok(MergeCounts::default());
        }
        Ok(self.store.merge(merges, self.clock.now()).await?.0)
    }

    /// Fetches records, each as a merge that knows when its read started. What the provider no longer has is
    /// deleted.
    pub(crate) async fn fetch(&self, ids: &[(StreamKey, RecordId)]) -> Result<Vec<Merge>> {
        let fetched = self.fetch_all(ids).await?.into_iter().zip(ids).map(|(fetched, (key, _))| match fetched {
            Fetched::Read(one) => Ok(one.into_merge(key)),
            Fetched::Unreadable(bad) => Err(decode(bad.why)),
        });
        fetched.collect()
    }

    async fn fetch_all(&self, ids: &[(StreamKey, RecordId)]) -> Result<Vec<Fetched>> {
        let mut all = Vec::with_capacity(ids.len());
        for some in ids.chunks(FETCHES_AT_ONCE) {
            for fetched in join_all(some.iter().map(|(key, id)| self.fetch_one(key, id))).await {
                all.push(fetched?);
            }
        }
        Ok(all)
    }

    async fn fetch_one(&self, key: &StreamKey, id: &RecordId) -> Result<Fetched> {
        let read_since = self.store.stream(key.clone()).await?.commits;
        let request = self.source.fetch(self.site, &key.stream, id)?;
        let change = match self.send(request).await {
            Ok((response, span)) => match self.source.fetched(&key.stream, id, &response, span) {
                Err(error) if error.kind() == ErrorKind::Decode => {
                    let bad = BadRecord::new(Some(id.as_str()), response.body(), error.message());
                    return Ok(Fetched::Unreadable(bad));
                }
                read => read?,
            },
            // Nothing of it is here; the next one of its kind would stop the page for good.
            Err(error) if error.kind() == ErrorKind::BodyTooLarge => {
                return Ok(Fetched::Unreadable(BadRecord::new(Some(id.as_str()), &[], error.message())));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let span = unsure_span(self.clock.now());
                Change { stream: key.stream.clone(), id: id.clone(), span, state: State::Deleted }
            }
            Err(error) => return Err(error),
        };
        if change.id != *id || change.stream != key.stream || change.state == State::Unclear {
            return Err(decode("the fetched record is not the one asked for"));
        }
        Ok(Fetched::Read(FetchedRecord { read_since, change }))
    }

    pub(crate) async fn send(&self, mut request: http::Request<Bytes>) -> Result<(http::Response<Bytes>, Span)> {
        if let Some(call) = request.extensions_mut().get_mut::<Call>() {
            call.priority = Priority::Background;
        }
        let sent = Instant::now();
        let response = self.transport.send(request).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(
                Error::new(refused(status), "the provider answered with an error status").with_status(status.as_u16())
            );
        }
        let span = read_span(&response, sent.elapsed(), self.clock.now());
        Ok((response, span))
    }
}

impl FetchedRecord {
    /// Makes a merge of it.
    fn into_merge(self, key: &StreamKey) -> Merge {
        Merge { key: key.clone(), read_since: Some(self.read_since), changes: vec![self.change] }
    }
}

/// What a page's commit came to.
pub(super) struct Committed {
    pub(super) counts: MergeCounts,
    pub(super) bad: u64,
}

/// Says what a status means when no pipeline has said it: the pipeline makes errors of these, and this is for a bare
/// transport. A refusal must never look like something that passes, nor like an answer.
fn refused(status: http::StatusCode) -> ErrorKind {
    match status.as_u16() {
        401 => ErrorKind::Auth,
        403 => ErrorKind::Permission,
        404 => ErrorKind::NotFound,
        408 => ErrorKind::Timeout,
        409 => ErrorKind::Conflict,
        429 => ErrorKind::Throttled,
        400..=499 => ErrorKind::Invalid,
        _ => ErrorKind::Provider,
    }
}

/// Tells when the states of an answer were true: by its `Date`, or by our clock where it has none.
fn read_span(response: &http::Response<Bytes>, took: Duration, now: Timestamp) -> Span {
    let date = response.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
    match date.and_then(|date| httpdate::parse_http_date(date).ok()) {
        Some(date) => Span::read(date.into(), took).widened(PROVIDER_SKEW_MAX),
        None => unsure_span(now.minus(took)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a bare transport's 401 is waited out, or a status is taken for an answer.
    #[test]
    fn a_status_without_a_pipeline_says_what_it_means() {
        for (status, kind) in [
            (301, ErrorKind::Provider),
            (401, ErrorKind::Auth),
            (403, ErrorKind::Permission),
            (404, ErrorKind::NotFound),
            (422, ErrorKind::Invalid),
            (429, ErrorKind::Throttled),
            (503, ErrorKind::Provider),
        ] {
            assert_eq!(refused(http::StatusCode::from_u16(status).unwrap()), kind, "{status}");
        }
    }
}
