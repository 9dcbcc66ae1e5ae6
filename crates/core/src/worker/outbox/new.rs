//! A call as it is asked for, and how it becomes one to keep: checked, with its key, and a digest of its content.

use std::fmt;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, Method, Request, Response, Uri};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::call::{Call, Operation, Priority, Replay};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ConnectionId, GrantName};
use crate::store::{CallRequest, KeptCall};
use crate::transport::Transport;

use super::super::Inner;
use super::super::job::Place;
use super::unknown_connection;

/// The largest body of a call, in bytes: SendGrid takes mails of 30 MB, and nobody takes more.
const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The longest key, in bytes: what Stripe takes.
const KEY_BYTES_MAX: usize = 255;
/// The longest address, in bytes.
const TARGET_BYTES_MAX: usize = 8 * 1024;
/// The most headers.
const HEADERS_MAX: usize = 64;
/// How the store puts a call a person waits for before the others.
const INTERACTIVE: i32 = 10;

/// What authenticates: the pipeline adds it to each attempt, and the outbox must not hold it.
const SECRET: [HeaderName; 3] = [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE];
/// What belongs to one attempt or one connection between hosts: left out.
const OF_ONE_ATTEMPT: [HeaderName; 7] = [HOST, CONTENT_LENGTH, CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// A call to put into the outbox. Made by [`draft`] of whatever an adapter or a typed client sends, by
/// [`NewCall::of`] of a request, or by hand.
#[derive(Clone)]
#[expect(clippy::exhaustive_structs, reason = "made by `NewCall::new` and changed field by field")]
pub struct NewCall {
    /// The connection it is made for.
    pub connection: ConnectionId,
    /// The operation's name in the adapter's table; `None` takes the one of method and path that repeats the least.
    pub operation: Option<String>,
    /// Which of the operations of that name, where there are several.
    pub replay: Option<Replay>,
    /// The HTTP method.
    pub method: Method,
    /// Path and query under the connection's base URL, or a whole URL of the provider.
    pub target: String,
    /// Headers, without what authenticates.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Which of the connection's grants authenticates it; `None` is the main one.
    pub grant: Option<GrantName>,
    /// Part of its limit lane's key besides account and bucket ([`Call::lane`]).
    pub lane: Option<String>,
    /// Who waits. Background unless asked otherwise.
    pub priority: Priority,
    /// The key every attempt carries; made when there is none.
    pub idempotency_key: Option<String>,
    /// A key of the caller's: a connection has one call of it, however often it is put here, until its retention has
    /// passed.
    pub unique: Option<String>,
    /// Not before this moment; at once otherwise.
    pub due: Option<Timestamp>,
}

impl NewCall {
    /// Makes a call without headers and body.
    #[must_use]
    pub fn new(connection: impl Into<ConnectionId>, method: Method, target: impl Into<String>) -> Self {
        Self {
            connection: connection.into(),
            operation: None,
            replay: None,
            method,
            target: target.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            grant: None,
            lane: None,
            priority: Priority::Background,
            idempotency_key: None,
            unique: None,
            due: None,
        }
    }

    /// Makes it of a request that carries its [`Call`], as every request of an adapter does. The deadline of the call
    /// and who waits for it are not taken over: nobody does any more.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the request carries no call.
    pub fn of(request: Request<Bytes>) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let Some(call) = parts.extensions.get::<Call>() else {
            return Err(Error::new(ErrorKind::Config, "the request carries no `Call`: nothing says what it does"));
        };
        let mut new = Self::new(call.connection.clone(), parts.method, parts.uri.to_string());
        new.operation = Some(call.operation.name.to_owned());
        new.replay = Some(call.operation.replay);
        new.grant.clone_from(&call.grant);
        new.lane = call.lane.as_deref().map(str::to_owned);
        new.idempotency_key = call.idempotency_key.as_deref().map(str::to_owned);
        new.headers = parts.headers;
        new.body = body;
        Ok(new)
    }

    /// Sets the caller's own key.
    #[must_use]
    pub fn unique(mut self, key: impl Into<String>) -> Self {
        self.unique = Some(key.into());
        self
    }

    /// Sets the moment before which it is not made.
    #[must_use]
    pub fn due(mut self, at: Timestamp) -> Self {
        self.due = Some(at);
        self
    }

    /// Says that a person waits for it.
    #[must_use]
    pub fn interactive(mut self) -> Self {
        self.priority = Priority::Interactive;
        self
    }

    /// Sets the key every attempt carries.
    #[must_use]
    pub fn with_idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }
}

impl fmt::Debug for NewCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewCall")
            .field("connection", &self.connection)
            .field("operation", &self.operation)
            .field("method", &self.method)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// Takes the first request that leaves, and lets nobody know what becomes of it.
#[derive(Default)]
struct Pen {
    written: Mutex<Option<Request<Bytes>>>,
    done: Notify,
}

#[async_trait]
impl Transport for Pen {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(request);
        self.done.notify_one();
        pending().await
    }
}

/// Writes a call down in place of sending it: `write` is given a transport, makes the client of an adapter over it and
/// sends whatever it wants to, typed and checked as ever. The request it would have sent becomes the call; nothing
/// leaves. Of a method that makes several requests, that is the first one.
///
/// ```
/// # #[cfg(feature = "mock")] {}
/// use palisade_core::worker::draft;
/// # use palisade_core::{Call, Operation, Replay, Result, Transport, call::Bucket};
/// # use std::{sync::Arc, time::Duration};
/// # static BUCKET: Bucket = Bucket { name: "all", units: 10, per: Duration::from_secs(1), burst: 10 };
/// # static SEND: Operation = Operation {
/// #     provider: "acme", name: "letters.send", url_template: "/letters", replay: Replay::Never, bucket: &BUCKET,
/// #     also: &[], cost: 1, attempt_timeout: Duration::from_secs(10), overall_timeout: Duration::from_secs(30),
/// #     body_bytes_max: 1024,
/// # };
/// # struct Acme(Arc<dyn Transport>);
/// # impl Acme {
/// #     async fn send(&self, text: &str) -> Result<()> {
/// #         let call = Call::new(&SEND, "conn".into(), "tenant".into());
/// #         let request = http::Request::post("https://api.acme.test/letters").extension(call);
/// #         self.0.send(request.body(text.to_owned().into()).unwrap()).await.map(drop)
/// #     }
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let call = draft(|transport| async move { Acme(transport).send("hello").await }).await.unwrap();
/// assert_eq!(call.operation.as_deref(), Some("letters.send"));
/// let call = call.unique("letter-17"); // and then `hub.enqueue(call)`
/// # assert_eq!(call.body, "hello");
/// # });
/// ```
///
/// # Errors
/// What `write` fails with before it sends anything; [`ErrorKind::Invalid`] when it sends nothing.
pub async fn draft<T, E, F>(write: impl FnOnce(Arc<dyn Transport>) -> F) -> Result<NewCall>
where
    F: Future<Output = std::result::Result<T, E>>,
    E: Into<Error>,
{
    let pen = Arc::new(Pen::default());
    let writing = write(Arc::clone(&pen) as Arc<dyn Transport>);
    tokio::select! {
        biased;
        () = pen.done.notified() => {}
        ended = writing => {
            ended.map_err(Into::into)?;
        }
    }
    let written = pen.written.lock().unwrap_or_else(PoisonError::into_inner).take();
    written.map_or_else(|| Err(invalid("nothing was sent, so there is no call to keep")), NewCall::of)
}

fn invalid(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Invalid, why)
}

/// Returns the whole URL of a target.
pub(super) fn url_of(target: &str, base_url: &str) -> String {
    if target.starts_with('/') { format!("{base_url}{target}") } else { target.to_owned() }
}

/// Returns the path of a target as the provider's documents write it: under the base URL, without a query.
fn path_of(target: &str) -> Option<String> {
    if target.starts_with('/') {
        return Some(target.split(['?', '#']).next().unwrap_or_default().to_owned());
    }
    let uri: Uri = target.parse().ok()?;
    Some(uri.path().to_owned())
}

/// Returns the operation a kept call is.
pub(super) fn operation_of(place: &Place<'_>, call: &KeptCall, url: &str) -> Option<&'static Operation> {
    let method = Method::from_bytes(call.request.method.as_bytes()).ok()?;
    let path = path_of(&call.request.target).or_else(|| path_of(url))?;
    let fitting = place.plugged.provider.operations(&method, &path);
    let mut named = fitting.into_iter().filter(|one| one.name == call.operation);
    let first = named.clone().next();
    // What the adapter has learned to repeat less since then is repeated less.
    named.find(|one| one.replay.word() == call.replay).or(first)
}

impl Inner {
    /// Checks a call and completes it.
    pub(crate) async fn keep(&self, new: NewCall) -> Result<KeptCall> {
        let Some(connection) = self.store.connection(new.connection.clone()).await? else {
            return Err(unknown_connection(&new.connection));
        };
        let Some(plugged) = self.providers.get(connection.provider.as_str()) else {
            let why = format!("the provider {} is not built in", connection.provider);
            return Err(Error::new(ErrorKind::Config, why));
        };
        let manifest = plugged.provider.manifest();
        let base_url = connection.base_url.as_deref().unwrap_or(manifest.base_url);
        let target = target(&new.target, [base_url, manifest.base_url], manifest.hosts)?;
        let path = path_of(&target).ok_or_else(|| invalid("the address of the call cannot be read"))?;
        let fitting = plugged.provider.operations(&new.method, &path);
        let operation = choose(&new, &fitting)?;
        let (headers, given_key) = headers(&new.headers, operation)?;
        if new.body.len() > BODY_BYTES_MAX {
            return Err(invalid(format!("the body is larger than {BODY_BYTES_MAX} bytes")));
        }
        for (key, what) in [(&new.idempotency_key, "the idempotency key"), (&new.unique, "the unique key")] {
            if key.as_deref().is_some_and(|key| !is_key(key)) {
                return Err(invalid(format!("{what} must be 1 to {KEY_BYTES_MAX} printable ASCII characters")));
            }
        }
        let request = CallRequest {
            method: new.method.as_str().to_owned(),
            target,
            headers,
            body: new.body,
            grant: new.grant,
            lane: new.lane,
        };
        let now = self.clock.now();
        Ok(KeptCall {
            content: digest(&request, operation),
            connection: connection.id,
            tenant: connection.tenant,
            provider: connection.provider,
            operation: operation.name.to_owned(),
            replay: operation.replay.word().to_owned(),
            request,
            idempotency_key: new.idempotency_key.or(given_key).unwrap_or_else(|| self.fresh_key()),
            unique: new.unique,
            priority: if new.priority == Priority::Interactive { INTERACTIVE } else { 0 },
            created_at: now,
            run_at: new.due.unwrap_or(now),
        })
    }

    fn fresh_key(&self) -> String {
        let mut bytes = [0; 16];
        self.random.fill(&mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("palisade-{hex}")
    }
}

fn is_key(key: &str) -> bool {
    (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|c| c.is_ascii_graphic())
}

/// Writes the address of a call as it is kept: as a path where it lies under a base URL, so that it follows the
/// connection wherever that moves.
fn target(given: &str, bases: [&str; 2], hosts: &[&str]) -> Result<String> {
    if given.len() > TARGET_BYTES_MAX {
        return Err(invalid(format!("the address is longer than {TARGET_BYTES_MAX} bytes")));
    }
    let under = bases.iter().find_map(|base| {
        let rest = given.strip_prefix(base.trim_end_matches('/'))?;
        rest.starts_with('/').then_some(rest)
    });
    let target = under.unwrap_or(given);
    let uri: Uri = target.parse().map_err(|_| invalid("the address is neither a path nor a URL"))?;
    if target.starts_with('/') && uri.authority().is_none() {
        // No base URL may be left by it.
        let climbs = uri.path().split('/').any(|part| matches!(part, "." | ".."));
        return if climbs { Err(invalid("the path must not hold . or .. as a part")) } else { Ok(target.to_owned()) };
    }
    let known = uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| hosts.contains(&host));
    if known { Ok(target.to_owned()) } else { Err(invalid("the address is of another host than the connection's")) }
}

/// Chooses the operation of a call among those that fit its method and path.
fn choose(new: &NewCall, fitting: &[&'static Operation]) -> Result<&'static Operation> {
    let Some(first) = fitting.first() else {
        return Err(invalid("the adapter knows no operation of this method and path"));
    };
    let Some(name) = &new.operation else { return Ok(first) };
    let mut named = fitting.iter().filter(|one| one.name == name);
    let Some(first) = named.clone().next() else {
        let of: Vec<&str> = fitting.iter().map(|one| one.name).collect();
        return Err(invalid(format!("this method and path is the operation {}, not the one named", of.join(" or "))));
    };
    Ok(named.find(|one| new.replay == Some(one.replay)).unwrap_or(first))
}

type Headers = Vec<(String, String)>;

/// Takes the headers that are kept, and the idempotency key if it stands among them.
fn headers(given: &HeaderMap, operation: &Operation) -> Result<(Headers, Option<String>)> {
    if given.len() > HEADERS_MAX {
        return Err(invalid(format!("there are more than {HEADERS_MAX} headers")));
    }
    let (mut kept, mut key) = (Vec::with_capacity(given.len()), None);
    for (name, value) in given {
        if SECRET.contains(name) || value.is_sensitive() {
            let why = format!("the header {name} authenticates: the connection's credential is added to each attempt");
            return Err(invalid(why));
        }
        if OF_ONE_ATTEMPT.contains(name) {
            continue;
        }
        let text = value.to_str().map_err(|_| invalid(format!("the header {name} is not printable ASCII")))?;
        match operation.replay {
            Replay::Keyed(of_key) if name.as_str().eq_ignore_ascii_case(of_key) => key = Some(text.to_owned()),
            Replay::Keyed(_) | Replay::Safe | Replay::Idempotent | Replay::Never => {
                kept.push((name.as_str().to_owned(), text.to_owned()));
            }
        }
    }
    if key.as_deref().is_some_and(|key| !is_key(key)) {
        return Err(invalid(format!("the idempotency key must be 1 to {KEY_BYTES_MAX} printable ASCII characters")));
    }
    Ok((kept, key))
}

/// Says what is asked for in 32 bytes. Neither keys nor moments are part of it.
fn digest(request: &CallRequest, operation: &Operation) -> Vec<u8> {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    for text in [operation.name, operation.replay.word(), &request.method, &request.target] {
        part(text.as_bytes());
    }
    part(request.grant.as_ref().map_or("", |grant| grant.as_str()).as_bytes());
    part(request.lane.as_deref().unwrap_or_default().as_bytes());
    for (name, value) in &request.headers {
        part(name.as_bytes());
        part(value.as_bytes());
    }
    part(&request.body);
    hash.finalize().to_vec()
}
