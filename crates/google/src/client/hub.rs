//! Google's whole generated clients over the pipeline: every method of Gmail and Calendar with our limits, repeats,
//! breaker, token and logs.
//!
//! The generated hubs are typed on a connection, not on a request, so a "connection" here is a pipe in memory whose other
//! end reads each request and sends it through the transport. It opens no socket. One task lives as long as its pipe;
//! dropping the hub ends them.
//!
//! - **Encode ids yourself** with [`super::segment`]: the generated code puts them into the path as they are.
//! - Delegates' own repeats should stay off (they are by default): repeating is the pipeline's business.
//! - A failure comes back as Google's own form of error; [`PipelineConnector::explain`] gives ours with kind and outcome.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use google_apis_common::{Body as HubBody, NoToken};
use google_calendar3::CalendarHub;
use google_gmail1::Gmail;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use palisade_core::call::Call;
use palisade_core::{Error, ErrorKind, Outcome, Result};
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tower_service::Service;

use super::{Google, address};
use crate::operation;

/// What the pipe holds between its ends, in bytes.
const PIPE_BYTES: usize = 256 << 10;
/// The largest request taken: Gmail's largest upload with room for its parts.
const REQUEST_BYTES_MAX: usize = 40 << 20;
/// Failures kept to be explained; older ones are forgotten.
const FAILURES_MAX: usize = 256;
/// Stands for a failure without an answer of Google's. No server sends it.
const NO_ANSWER: u16 = 599;

/// Gmail's whole generated client over the pipeline.
pub type GmailHub = Gmail<PipelineConnector>;
/// Calendar's whole generated client over the pipeline.
pub type CalendarsHub = CalendarHub<PipelineConnector>;

impl Google {
    /// Makes Gmail's generated client, and the connector that explains its failures.
    #[must_use]
    pub fn gmail_hub(&self) -> (GmailHub, PipelineConnector) {
        let connector = PipelineConnector::new(self);
        let mut hub = Gmail::new(connector.client(), NoToken);
        hub.base_url(format!("{}/gmail/v1/", address::base_of(&self.base_url, "/gmail/")));
        hub.root_url(format!("{}/", address::base_of(&self.base_url, "/gmail/")));
        (hub, connector)
    }

    /// Makes Calendar's generated client, and the connector that explains its failures.
    #[must_use]
    pub fn calendar_hub(&self) -> (CalendarsHub, PipelineConnector) {
        let connector = PipelineConnector::new(self);
        let mut hub = CalendarHub::new(connector.client(), NoToken);
        hub.base_url(format!("{}/calendar/v3/", self.base_url));
        hub.root_url(format!("{}/", self.base_url));
        (hub, connector)
    }
}

/// Connects a generated client to the pipeline.
#[derive(Clone)]
pub struct PipelineConnector {
    google: Google,
    failures: Arc<Mutex<Failures>>,
}

#[derive(Default)]
struct Failures {
    next: u64,
    kept: VecDeque<(u64, Error)>,
}

impl fmt::Debug for PipelineConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineConnector").field("google", &self.google).finish_non_exhaustive()
    }
}

impl PipelineConnector {
    fn new(google: &Google) -> Self {
        Self { google: google.clone(), failures: Arc::default() }
    }

    fn client(&self) -> Client<Self, HubBody> {
        Client::builder(TokioExecutor::new()).build(self.clone())
    }

    /// Turns a failure of a generated client into ours. A failure can be explained once, and not after hundreds of
    /// others.
    #[must_use]
    pub fn explain(&self, error: google_apis_common::Error) -> Error {
        use google_apis_common::Error as Theirs;
        let unknown = |kind, why| Error::new(kind, why).during("google", "hub");
        match error {
            Theirs::BadRequest(body) => self
                .take(&body)
                .unwrap_or_else(|| unknown(ErrorKind::Provider, "the failure was explained before, or is too old")),
            Theirs::MissingToken(_) => {
                unknown(ErrorKind::Auth, "the hub was given a token source of its own that failed")
            }
            Theirs::UploadSizeLimitExceeded(..) => {
                unknown(ErrorKind::Invalid, "the upload is larger than the method takes")
            }
            Theirs::FieldClash(_) | Theirs::MissingAPIKey => {
                unknown(ErrorKind::Invalid, "the request was built wrongly")
            }
            Theirs::Cancelled => unknown(ErrorKind::Cancelled, "the delegate cancelled the upload"),
            // Both hold parts of a body, which ends here.
            Theirs::JsonDecodeError(..) => unknown(ErrorKind::Decode, "the answer does not fit the generated type")
                .with_outcome(Outcome::Processed),
            Theirs::HttpError(_) | Theirs::Failure(_) | Theirs::Io(_) => {
                unknown(ErrorKind::Transport, "the pipe to the pipeline broke").with_outcome(Outcome::Unknown)
            }
        }
    }

    fn take(&self, body: &Value) -> Option<Error> {
        let id = body.get("palisade")?.as_u64()?;
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let at = failures.kept.iter().position(|(known, _)| *known == id)?;
        failures.kept.remove(at).map(|(_, error)| error)
    }

    /// Keeps a failure and answers in Google's form of one, so that code that reads reasons finds them.
    fn refuse(&self, error: Error) -> Response<Full<Bytes>> {
        let status = error.status().filter(|status| *status >= 400).unwrap_or(NO_ANSWER);
        let code = error.code().unwrap_or(error.kind().as_str()).to_owned();
        let message = error.message().to_owned();
        let id = {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            failures.next += 1;
            let id = failures.next;
            failures.kept.push_back((id, error));
            if failures.kept.len() > FAILURES_MAX {
                failures.kept.pop_front();
            }
            id
        };
        let body = json!({
            "error": { "code": status, "message": message, "errors": [{ "domain": "palisade", "reason": code, "message": message }] },
            "palisade": id,
        });
        let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(CONTENT_TYPE, address::JSON);
        response
    }

    async fn serve(self, to: Uri, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        Ok(match self.forward(&to, request).await {
            Ok(response) => response.map(Full::new),
            Err(error) => self.refuse(error),
        })
    }

    async fn forward(&self, to: &Uri, request: Request<Incoming>) -> Result<Response<Bytes>> {
        let wrong = |why: &'static str| Error::new(ErrorKind::Invalid, why).during("google", "hub");
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri =
            format!("{}://{}{path}", to.scheme_str().unwrap_or("https"), to.authority().map_or("", |a| a.as_str()));
        parts.uri = uri.parse().map_err(|_| wrong("the request's address is not a URL"))?;
        // The pipe's own headers, and any token but the connection's.
        for name in [HOST, CONNECTION, TRANSFER_ENCODING, AUTHORIZATION] {
            parts.headers.remove(name);
        }
        let body = Limited::new(body, REQUEST_BYTES_MAX).collect().await;
        let body = body.map_err(|_| wrong("the request is larger than any Google takes, or broke off"))?.to_bytes();
        let operation = operation::find(&parts.method, parts.uri.path());
        let mut call = Call::new(operation, self.google.connection.clone(), self.google.tenant.clone());
        call.priority = self.google.priority;
        parts.extensions.clear();
        parts.extensions.insert(call);
        let answered = self.google.transport.send(Request::from_parts(parts, body)).await;
        let mut response = answered.map_err(|error| error.during("google", operation.name))?;
        response.headers_mut().remove(TRANSFER_ENCODING);
        response.headers_mut().remove(CONNECTION);
        response.headers_mut().remove(http::header::CONTENT_LENGTH);
        Ok(response)
    }
}

impl Service<Uri> for PipelineConnector {
    type Response = Pipe;
    type Error = io::Error;
    type Future = Ready<io::Result<Pipe>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let connector = self.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| connector.clone().serve(to.clone(), request));
            // It ends when the client drops its end.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(theirs), service).await;
        });
        ready(Ok(Pipe(TokioIo::new(ours))))
    }
}

/// The client's end of a pipe.
#[derive(Debug)]
pub struct Pipe(TokioIo<DuplexStream>);

impl Connection for Pipe {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
