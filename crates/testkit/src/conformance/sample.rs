//! Calls and answers an adapter is tried with.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use palisade_core::{ErrorKind, Outcome, Result, Transport};
use serde_json::Value;

use crate::fake::{Said, answer};

type Calling = Pin<Box<dyn Future<Output = Result<String>> + Send>>;

/// One call of the typed client, with the true answers the provider gives to it.
#[derive(Clone)]
pub struct Sample {
    pub(super) operation: &'static str,
    run: Arc<dyn Fn(Arc<dyn Transport>) -> Calling + Send + Sync>,
    pub(super) answers: Vec<Response<Bytes>>,
    pub(super) recorded: Option<Value>,
    pub(super) differs: Vec<&'static str>,
    pub(super) why: Option<&'static str>,
    pub(super) refused: bool,
}

impl Sample {
    /// Begins a call of the operation of this name: `run` makes the typed client over the transport it is given, and
    /// calls it once.
    #[must_use]
    pub fn new<T, F>(operation: &'static str, run: impl Fn(Arc<dyn Transport>) -> F + Send + Sync + 'static) -> Self
    where
        T: fmt::Debug,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let run = move |transport| -> Calling {
            let calling = run(transport);
            Box::pin(async move { calling.await.map(|value| format!("{value:?}")) })
        };
        Self {
            operation,
            run: Arc::new(run),
            answers: Vec::new(),
            recorded: None,
            differs: Vec::new(),
            why: None,
            refused: false,
        }
    }

    /// Sets what is called, keeping all else.
    #[must_use]
    pub fn calling<T, F>(self, run: impl Fn(Arc<dyn Transport>) -> F + Send + Sync + 'static) -> Self
    where
        T: fmt::Debug,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        Self { run: Self::new(self.operation, run).run, ..self }
    }

    /// Adds the true answer to the call's next request: a documented or captured one.
    #[must_use]
    pub fn answered(self, status: u16, body: impl AsRef<[u8]>) -> Self {
        self.answered_by(answer(status, body))
    }

    /// Adds a true answer with its headers.
    #[must_use]
    pub fn answered_by(mut self, response: Response<Bytes>) -> Self {
        self.answers.push(response);
        self
    }

    /// Gives the request an official SDK sent for the same call (`method`, `path` with query, `headers`, `body`): the
    /// call's last request must be it.
    #[must_use]
    pub fn recorded(mut self, wire: &Value) -> Self {
        self.recorded = Some(wire.clone());
        self
    }

    /// Names headers, parameters and fields in which the request differs from the recorded one on purpose, and why.
    #[must_use]
    pub fn differing_in(mut self, names: &[&'static str], why: &'static str) -> Self {
        (self.differs, self.why) = (names.to_vec(), Some(why));
        self
    }

    /// Says that the provider refuses the call: only its request is looked at.
    #[must_use]
    pub fn refused(mut self) -> Self {
        self.refused = true;
        self
    }

    /// Makes the call; the result is what the client printed of it.
    pub(super) async fn run(&self, transport: Arc<dyn Transport>) -> Result<String> {
        (self.run)(transport).await
    }
}

impl fmt::Debug for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sample").field("operation", &self.operation).finish_non_exhaustive()
    }
}

/// A text to put into the bodies of refusals where a provider repeats what it was sent: no error may show it.
pub const PERSON: &str = "ada@example.com";

/// One answer and what it means.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Meaning {
    /// The operation it answers; the first of the table when nothing is said.
    pub operation: Option<&'static str>,
    /// The answer.
    pub answer: Response<Bytes>,
    /// What it comes down to for the pipeline.
    pub said: Said,
    /// The error's kind.
    pub kind: ErrorKind,
    /// What the provider may have done.
    pub outcome: Outcome,
    /// The provider's own code, which the error keeps.
    pub code: Option<String>,
}

impl Meaning {
    /// States what a refusal means: the provider did nothing.
    #[must_use]
    pub fn new(status: u16, body: impl AsRef<[u8]>, said: Said, kind: ErrorKind) -> Self {
        let answer = answer(status, body);
        Self { operation: None, answer, said, kind, outcome: Outcome::Rejected, code: None }
    }

    /// Sets the code the error keeps.
    #[must_use]
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// Sets what the provider may have done.
    #[must_use]
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// Sets the operation it answers.
    #[must_use]
    pub fn of(mut self, operation: &'static str) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Adds a header to the answer.
    ///
    /// # Panics
    /// When it is none: a sample that is written wrongly would prove nothing.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.answer.headers_mut().insert(name, http::HeaderValue::from_static(value));
        self
    }
}
