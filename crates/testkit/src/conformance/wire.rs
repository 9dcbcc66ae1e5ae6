//! The way between a client and nothing: answers by a script, notes what was sent and when.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::auth::FixedCredential;
use palisade_core::client::Observer;
use palisade_core::clock::TokioClock;
use palisade_core::random::SeededRandom;
use palisade_core::{Client, Error, ErrorKind, Outcome, Result, Transport};
use tokio::time::Instant;

use super::{Broken, NOW, Subject};

/// What happens to one request.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// It is answered.
    Answer(Response<Bytes>),
    /// No connection could be made.
    Refused,
    /// The connection broke after the request may have left.
    Lost,
    /// No answer ever comes.
    Hang,
}

/// One request that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) at: Instant,
    pub(crate) request: Request<Bytes>,
}

/// A scripted transport.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    script: Mutex<VecDeque<Step>>,
    /// What happens when the script is over; a refused connection when nothing is said.
    ever: Option<Step>,
    sent: Mutex<Vec<Sent>>,
}

impl Wire {
    /// Does these things in order.
    pub(crate) fn script(steps: impl IntoIterator<Item = Step>) -> Arc<Self> {
        Arc::new(Self { script: Mutex::new(steps.into_iter().collect()), ..Self::default() })
    }

    /// Does these things in order, and the last one for ever.
    pub(crate) fn ending_in(steps: impl IntoIterator<Item = Step>, ever: Step) -> Arc<Self> {
        Arc::new(Self { script: Mutex::new(steps.into_iter().collect()), ever: Some(ever), ..Self::default() })
    }

    pub(crate) fn sent(&self) -> Vec<Sent> {
        locked(&self.sent).clone()
    }
}

#[async_trait]
impl Transport for Wire {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        locked(&self.sent).push(Sent { at: Instant::now(), request });
        let step = locked(&self.script).pop_front().or_else(|| self.ever.clone());
        match step {
            Some(Step::Answer(response)) => Ok(response),
            Some(Step::Refused) | None => {
                Err(Error::new(ErrorKind::Connect, "the connection was refused").with_outcome(Outcome::NotSent))
            }
            Some(Step::Lost) => {
                Err(Error::new(ErrorKind::Transport, "the connection broke").with_outcome(Outcome::Unknown))
            }
            Some(Step::Hang) => std::future::pending().await,
        }
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts the real pipeline before a transport: the subject's profile and credential, simulated time, fixed chance.
pub(crate) fn client(subject: &Subject, transport: Arc<dyn Transport>) -> std::result::Result<Client, Broken> {
    watched(subject, transport, None)
}

/// As [`client`], with somebody who sees finished calls.
pub(crate) fn watched(
    subject: &Subject,
    transport: Arc<dyn Transport>,
    observer: Option<Arc<dyn Observer>>,
) -> std::result::Result<Client, Broken> {
    let credential = FixedCredential::new(&subject.credential);
    let credential = credential.map_err(|error| Broken::new(format!("the credential cannot be used: {error}")))?;
    let profile = subject.provider().profile();
    let mut builder = Client::builder(profile, transport, Arc::new(credential))
        .clock(Arc::new(TokioClock::starting_at(NOW)))
        .random(Arc::new(SeededRandom::new(7)));
    if let Some(observer) = observer {
        builder = builder.observer(observer);
    }
    builder.build().map_err(|error| Broken::new(format!("`Provider::profile` makes no client: {error}")))
}
