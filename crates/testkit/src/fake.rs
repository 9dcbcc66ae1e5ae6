//! A transport that answers from a list and keeps what it was sent, and what tests read requests with.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use palisade_core::client::{Repeat, Verdict};
use palisade_core::{Call, Error, ErrorKind, Result, Transport};

/// Answers requests one by one from a list, or all of them alike, whatever they ask for, and keeps them.
pub struct Fake {
    answers: Mutex<VecDeque<Result<Response<Bytes>>>>,
    /// What is answered when the list is over.
    ever: Option<Response<Bytes>>,
    seen: Mutex<Vec<Request<Bytes>>>,
}

impl Fake {
    /// Answers with these bodies, each with status 200.
    #[must_use]
    pub fn answering(bodies: &[&str]) -> Arc<Self> {
        Self::with(bodies.iter().map(|body| Ok(answer(200, body))))
    }

    /// Answers with these, in order; then fails as a network that cannot be reached.
    #[must_use]
    pub fn with(answers: impl IntoIterator<Item = Result<Response<Bytes>>>) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers.into_iter().collect()), ever: None, seen: Mutex::default() })
    }

    /// Gives one answer to everything.
    #[must_use]
    pub fn always(answer: Response<Bytes>) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::default(), ever: Some(answer), seen: Mutex::default() })
    }

    /// Returns what was sent, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<Request<Bytes>> {
        locked(&self.seen).clone()
    }

    /// Returns the one request that was sent.
    ///
    /// # Panics
    /// When it was not one.
    #[must_use]
    #[track_caller]
    pub fn only(&self) -> Request<Bytes> {
        match <[Request<Bytes>; 1]>::try_from(self.seen()) {
            Ok([request]) => request,
            Err(seen) => panic!("one request was expected, not {}", seen.len()),
        }
    }
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fake").field("seen", &locked(&self.seen).len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Transport for Fake {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        locked(&self.seen).push(request);
        let next = locked(&self.answers).pop_front().or_else(|| self.ever.clone().map(Ok));
        next.unwrap_or_else(|| Err(Error::new(ErrorKind::Connect, "the fake has no further answer")))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes an answer of a status and a body.
#[must_use]
pub fn answer(status: u16, body: impl AsRef<[u8]>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::copy_from_slice(body.as_ref()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// Returns the call a request carries.
///
/// # Panics
/// When it carries none.
#[must_use]
#[track_caller]
pub fn call(request: &Request<Bytes>) -> &Call {
    match request.extensions().get::<Call>() {
        Some(call) => call,
        None => panic!("every request carries its call"),
    }
}

/// Reads a form or a query into its pairs, decoded and sorted: two spellings of the same parameters are equal.
#[must_use]
pub fn pairs(form: impl AsRef<[u8]>) -> Vec<(String, String)> {
    let mut pairs: Vec<_> = url::form_urlencoded::parse(form.as_ref())
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    pairs.sort();
    pairs
}

/// What a [`Verdict`] comes down to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the verdicts of the pipeline, without what they carry")]
pub enum Said {
    /// The call succeeded.
    Success,
    /// The credential was refused.
    Unauthorized,
    /// The provider asks to wait.
    Throttled,
    /// The call failed.
    Failed(Repeat),
}

impl Said {
    /// Splits a verdict into what it says and the error it carries.
    #[must_use]
    pub fn of(verdict: Verdict) -> (Self, Option<Error>) {
        match verdict {
            Verdict::Success => (Self::Success, None),
            Verdict::Unauthorized(error) => (Self::Unauthorized, Some(error)),
            Verdict::Throttled { error, .. } => (Self::Throttled, Some(error)),
            Verdict::Failed { error, repeat } => (Self::Failed(repeat), Some(error)),
        }
    }
}
