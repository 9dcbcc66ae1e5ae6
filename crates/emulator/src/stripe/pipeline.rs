//! The way of one request: count, judge, authenticate, claim its key, run, answer or fail as the dials ask.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, request::Parts};
use serde_json::Value;
use tokio::time::Instant;

use super::desk::{Desk, Origin, bytes_of};
use super::error::Failure;
use super::faults::{Fault, RetryAfter, Verdict};
use super::idempotency::{self, Claim, Stored};
use super::journal::Key;
use super::oauth::Held;
use super::{Inner, Stripe, control, form, oauth, routes, shape};
use crate::ledger::Breach;
use crate::params::Params;
use crate::wire::{Answer, Cut, Door, Served};

/// One request on its way.
#[derive(Debug)]
struct Way {
    parts: Parts,
    body: Bytes,
    route: String,
    request: String,
    version: String,
    account: String,
    key: Option<String>,
    fault: Option<Fault>,
}

impl Way {
    /// Gives the answer as the journal keeps it, if its key makes the next request get the same one.
    fn key_to_keep(&self, ran: &Ran, at: i64) -> Option<Key> {
        let key = self.key.clone().filter(|_| ran.began)?;
        Some(Key {
            account: self.account.clone(),
            key,
            fingerprint: idempotency::fingerprint(self.parts.method.as_str(), self.parts.uri.path(), &self.body),
            at,
            status: ran.status,
            body: String::from_utf8_lossy(&ran.body).into_owned(),
            request: self.request.clone(),
        })
    }
}

/// What came of an operation.
struct Ran {
    status: u16,
    body: Bytes,
    /// Whether it got as far as doing something, so that its key is used.
    began: bool,
    headers: Vec<(&'static str, String)>,
}

impl Ran {
    fn new(result: Result<Bytes, Failure>, fault: Option<&Fault>) -> Self {
        let ran = match result {
            Ok(body) => Self { status: 200, body, began: true, headers: Vec::new() },
            Err(failure) => Self {
                status: failure.status,
                body: bytes_of(&failure.body()),
                began: failure.began,
                headers: vec![("stripe-should-retry", "false".to_owned())],
            },
        };
        let Some(Fault::StatusAfter(status)) = fault.filter(|_| ran.status < 400) else { return ran };
        let failure =
            Failure::new(*status, "api_error", "Something went wrong on our side after your request was processed.");
        Self { status: *status, body: bytes_of(&failure.body()), headers: Vec::new(), ..ran }
    }
}

impl Stripe {
    /// Answers a request in memory, exactly as the socket would.
    ///
    /// Runs without waiting unless a latency was dialled; then it waits with tokio's clock, and the provider goes on
    /// even if the caller drops the future, as a real one would.
    ///
    /// # Errors
    /// Gives what the connection did instead of answering.
    pub async fn handle(&self, request: Request<Bytes>) -> Answer {
        if oauth::is_page(request.uri().path()) {
            return Ok(oauth::authorize(self, &request));
        }
        let (parts, body) = request.into_parts();
        if self.inner.config.control && parts.uri.path().starts_with("/_emulator/") {
            return Ok(control::answer(self, &parts, &body));
        }
        let flight = oauth::arrived(&self.inner.oauth, parts.uri.path(), &body);
        let route = routes::route(&parts.method, parts.uri.path());
        let key = (parts.method == Method::POST).then(|| text(&parts.headers, "idempotency-key")).flatten();
        let now = Instant::now();
        let early = self.inner.book().arrived(&route, key.as_deref(), now);
        if early {
            self.inner.breach(Breach::Early);
        }
        let verdict = {
            let mut dice = self.inner.dice.lock().unwrap_or_else(PoisonError::into_inner);
            self.inner.faults.judge(&route, now, &mut dice)
        };
        if let Some(fault) = verdict.fault.as_ref().filter(|fault| **fault != Fault::Pass) {
            self.inner.book().fault(fault.name());
        }
        let (before, after) = (verdict.latency, verdict.latency_after);
        let prepared = self.inner.prepare(parts, body, route, key, verdict);
        if before.is_zero() && after.is_zero() {
            return self.inner.finish(prepared);
        }
        let inner = self.inner.clone();
        let work = tokio::spawn(async move {
            wait(before).await;
            let answer = inner.finish(prepared);
            wait(after).await;
            drop(flight);
            answer
        });
        work.await.unwrap_or(Err(Cut::Reset))
    }
}

#[allow(clippy::disallowed_methods, reason = "a dialled latency is a wait on tokio's clock and nothing else")]
async fn wait(latency: Duration) {
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
}

impl Served for Inner {
    fn door(&self) -> &Door {
        &self.door
    }

    async fn serve(self: Arc<Self>, request: Request<Bytes>) -> Answer {
        Stripe { inner: self }.handle(request).await
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty()).map(str::to_owned)
}

/// A request that may run, or what it gets instead.
enum Prepared {
    Run(Box<Way>, Value),
    Replay(Box<Way>, Stored),
    Refuse(Box<Way>, Failure, Vec<(&'static str, String)>),
    Cut(Cut),
}

impl Inner {
    /// Decides everything that comes before the operation.
    fn prepare(&self, parts: Parts, body: Bytes, route: String, key: Option<String>, verdict: Verdict) -> Prepared {
        let request = self.world().request_id();
        let version = text(&parts.headers, "stripe-version").unwrap_or_else(|| self.config.api_version.clone());
        let account = self.config.account.clone();
        let mut way =
            Box::new(Way { parts, body, route, request, version, account, key, fault: verdict.fault.clone() });
        match verdict.fault {
            Some(Fault::ResetBefore) => return Prepared::Cut(Cut::Reset),
            Some(Fault::HangBefore) => return Prepared::Cut(Cut::Hang),
            Some(Fault::Status(status)) => {
                let failure =
                    Failure::new(status, "api_error", "An unknown error occurred. If you keep seeing it, contact us.");
                return Prepared::Refuse(way, failure, Vec::new());
            }
            Some(Fault::Outage) => {
                let failure = Failure::new(503, "api_error", "Stripe is temporarily unavailable.");
                return Prepared::Refuse(way, failure, Vec::new());
            }
            Some(Fault::Throttle(after)) => return self.throttle(way, "global-rate", after),
            Some(Fault::LockTimeout) => {
                self.book().throttled(&way.route, "lock_timeout", None, Instant::now());
                let message = "This object cannot be accessed right now because another API request or Stripe process is currently accessing it.";
                let failure = Failure::new(429, "invalid_request_error", message).code("lock_timeout");
                return Prepared::Refuse(way, failure, vec![("stripe-should-retry", "true".to_owned())]);
            }
            Some(Fault::Refuse(code)) => {
                let words = "The request was refused by a fault dial.";
                let failure = if is_oauth(&way) {
                    oauth::refused(if code == "invalid_client" { 401 } else { 400 }, &code, words)
                } else {
                    Failure::invalid(words).code(&code)
                };
                return Prepared::Refuse(way, failure, Vec::new());
            }
            Some(
                Fault::Pass
                | Fault::Latency(_)
                | Fault::LatencyAfter(_)
                | Fault::StatusAfter(_)
                | Fault::ResetAfter
                | Fault::CutBody
                | Fault::Garbage
                | Fault::Html
                | Fault::HangAfter,
            )
            | None => {}
        }
        if let Err(mut failure) = self.authenticate(&mut way) {
            self.book().ledger.auth_failures += 1;
            if is_oauth(&way) {
                self.oauth.state().ledger.client_refusals += 1;
                failure = oauth::refused(401, "invalid_client", failure.field("message"));
            }
            return Prepared::Refuse(way, failure, Vec::new());
        }
        if let Some((reason, after)) = verdict.over {
            return self.throttle(way, reason, after);
        }
        let params = match self.params(&way) {
            Ok(params) => params,
            Err(failure) => return Prepared::Refuse(way, failure, Vec::new()),
        };
        let Some(key) = way.key.clone() else { return Prepared::Run(way, params) };
        let digest = idempotency::fingerprint(way.parts.method.as_str(), way.parts.uri.path(), &way.body);
        let now = self.now();
        let claim = self.keys.lock().unwrap_or_else(PoisonError::into_inner).claim(&way.account, &key, digest, now);
        match claim {
            Ok(Claim::Run) => Prepared::Run(way, params),
            Ok(Claim::Replay(stored)) => {
                self.book().ledger.replays += 1;
                Prepared::Replay(way, stored)
            }
            Err(failure) => {
                self.book().ledger.keys_in_use += u64::from(failure.status == 409);
                if failure.status == 400 {
                    self.breach(Breach::KeyReused);
                }
                // Its key belongs to another request: nothing may be settled under it.
                way.key = None;
                let retry = failure.status == 409;
                Prepared::Refuse(way, failure, vec![("stripe-should-retry", retry.to_string())])
            }
        }
    }

    fn throttle(&self, way: Box<Way>, reason: &'static str, after: RetryAfter) -> Prepared {
        self.book().throttled(&way.route, reason, after.wait(), Instant::now());
        let mut headers = vec![("stripe-rate-limited-reason", reason.to_owned())];
        match after {
            RetryAfter::None => {}
            RetryAfter::Seconds(seconds) => headers.push(("retry-after", seconds.to_string())),
            RetryAfter::Date(seconds) => headers.push(("retry-after", self.date(i64::try_from(seconds).unwrap_or(0)))),
        }
        let failure = Failure::new(429, "invalid_request_error", "Request rate limit exceeded. You can learn more about rate limits here https://stripe.com/docs/rate-limits.")
            .code("rate_limit");
        Prepared::Refuse(way, failure, headers)
    }

    fn date(&self, ahead: i64) -> String {
        let seconds = u64::try_from(self.now() + ahead).unwrap_or(0);
        httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    /// Checks credential, account and version.
    fn authenticate(&self, way: &mut Way) -> Result<(), Failure> {
        let form = is_oauth(way).then(|| Params::parse(&way.body).unwrap_or_default());
        let secret = form.as_ref().and_then(|form| form.get("client_secret"));
        let key = secret.map(str::to_owned).or_else(|| credential(&way.parts.headers)).ok_or_else(|| {
            let message = "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See https://stripe.com/docs/api#authentication for details, or we can help at https://support.stripe.com/.";
            Failure::new(401, "invalid_request_error", message)
        })?;
        let world = self.world();
        if key.starts_with("pk_") {
            let message = "This API call cannot be made with a publishable API key. Please use a secret API key. You can find a list of your API keys at https://dashboard.stripe.com/account/apikeys.";
            return Err(Failure::new(401, "invalid_request_error", message).code("secret_key_required"));
        }
        if world.expired_keys.contains(&key) {
            return Err(expired(&key));
        }
        if !world.keys.contains(&key) {
            let invalid = || {
                let words = format!("Invalid API Key provided: {}", masked(&key));
                Failure::new(401, "invalid_request_error", words)
            };
            match oauth::held(&self.oauth, &key, (self.clock() + world.skew).saturating_mul(1000)) {
                _ if form.is_some() => return Err(invalid()),
                Held::Account(_, true) if way.parts.method != Method::GET => {
                    let words = format!(
                        "The provided key '{}' does not have the required permissions for this endpoint.",
                        masked(&key)
                    );
                    return Err(Failure::new(403, "invalid_request_error", words));
                }
                Held::Account(account, _) => way.account = account,
                Held::Expired => return Err(expired(&key)),
                Held::Nothing => return Err(invalid()),
            }
        }
        // v2 names the account in a context, the last part of which it is.
        let context = text(&way.parts.headers, "stripe-context");
        let context = context.as_deref().and_then(|context| context.rsplit('/').next()).map(str::to_owned);
        let account = text(&way.parts.headers, "stripe-account");
        if account.is_some() && context.is_some() {
            return Err(Failure::invalid("Stripe-Account and Stripe-Context cannot be given together."));
        }
        if let Some(account) = account.or(context) {
            if account != world.own && !world.connected.contains(&account) {
                let message = format!(
                    "The provided key '{}' does not have access to account '{account}' (or that account does not exist). Application access may have been revoked.",
                    masked(&key)
                );
                return Err(Failure::new(403, "invalid_request_error", message).code("account_invalid"));
            }
            way.account = account;
        }
        if !shape::is_version(&way.version) {
            return Err(Failure::invalid(format!("Invalid Stripe API version: {}", way.version)));
        }
        Ok(())
    }

    /// Reads the parameters from query and form.
    fn params(&self, way: &Way) -> Result<Value, Failure> {
        let query = way.parts.uri.query().unwrap_or_default();
        if way.body.is_empty() {
            return form::parse(query);
        }
        let kind = text(&way.parts.headers, "content-type").unwrap_or_default();
        if way.parts.uri.path().starts_with("/v2/") {
            let read = serde_json::from_slice(&way.body).ok().filter(|_| kind.starts_with("application/json"));
            return read.ok_or_else(|| Failure::invalid("Invalid request: v2 endpoints take a body of JSON."));
        }
        if kind.starts_with("application/json") {
            return Err(Failure::invalid(
                "Invalid request: this endpoint takes application/x-www-form-urlencoded, not JSON.",
            ));
        }
        let body =
            std::str::from_utf8(&way.body).map_err(|_| Failure::invalid("Invalid request: the body is not UTF-8."))?;
        if query.is_empty() { form::parse(body) } else { form::parse(&format!("{query}&{body}")) }
    }

    /// Runs what was prepared and answers.
    fn finish(self: &Arc<Self>, prepared: Prepared) -> Answer {
        let answer = match prepared {
            Prepared::Cut(cut) => Err(cut),
            Prepared::Refuse(way, failure, headers) => {
                Ok(self.respond(&way, failure.status, bytes_of(&failure.body()), None, &headers))
            }
            Prepared::Replay(way, stored) => {
                let answer = self.respond(
                    &way,
                    stored.status,
                    stored.body.clone(),
                    Some(&stored.request),
                    &[("idempotent-replayed", "true".to_owned())],
                );
                crate::gate::after(way.fault.as_ref(), answer)
            }
            Prepared::Run(way, params) => self.run(*way, &params),
        };
        self.book().answered(match &answer {
            Ok(response) => Some(response.status().as_u16()),
            Err(Cut::CutBody { status, .. }) => Some(status.as_u16()),
            Err(Cut::Reset | Cut::Hang) => None,
        });
        answer
    }

    fn run(self: &Arc<Self>, way: Way, params: &Value) -> Answer {
        let clock = self.clock();
        let (ran, outbox) = {
            let mut world = self.world();
            let now = world.frozen.unwrap_or(clock + world.skew);
            let mut desk = Desk {
                account: way.account.clone(),
                now,
                era: shape::era(&way.version),
                origin: Origin { request: Some(way.request.clone()), key: way.key.clone() },
                emitted: Vec::new(),
                world: &mut world,
            };
            let result = routes::run(&mut desk, &way.parts.method, way.parts.uri.path(), params);
            let ran = Ran::new(result, way.fault.as_ref());
            self.remember(&mut world, way.key_to_keep(&ran, now));
            (ran, std::mem::take(&mut world.outbox))
        };
        self.dispatch(outbox);
        let Ran { status, body, began, headers } = ran;
        if let Some(key) = &way.key {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            if began {
                keys.settle(&way.account, key, Stored { status, body: body.clone(), request: way.request.clone() });
            } else {
                keys.release(&way.account, key);
            }
        }
        let answer = self.respond(&way, status, body, Some(&way.request), &headers);
        crate::gate::after(way.fault.as_ref(), answer)
    }

    fn respond(
        &self,
        way: &Way,
        status: u16,
        body: Bytes,
        original: Option<&str>,
        extra: &[(&'static str, String)],
    ) -> Response<Bytes> {
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let length = response.body().len();
        let headers = response.headers_mut();
        let mut set = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        set("content-type", "application/json");
        set("content-length", &length.to_string());
        set("request-id", &way.request);
        set("date", &self.date(0));
        if shape::is_version(&way.version) {
            set("stripe-version", &way.version);
        }
        if status == 401 {
            set("www-authenticate", "Basic realm=\"Stripe\"");
        }
        if way.account != self.config.account {
            set("stripe-account", &way.account);
        }
        if let Some(key) = &way.key {
            set("idempotency-key", key);
            if let Some(original) = original {
                set("original-request", original);
            }
        }
        for (name, value) in extra {
            set(name, value);
        }
        response
    }
}

/// Tells whether a request is Connect's, whose errors are flat and whose key may stand in the form.
fn is_oauth(way: &Way) -> bool {
    way.parts.uri.path().starts_with("/oauth/")
}

fn expired(key: &str) -> Failure {
    Failure::new(401, "invalid_request_error", format!("Expired API Key provided: {}", masked(key)))
        .code("api_key_expired")
}

fn credential(headers: &HeaderMap) -> Option<String> {
    let value = text(headers, "authorization")?;
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    let decoded = STANDARD.decode(rest.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let pair = String::from_utf8(decoded).ok()?;
    Some(pair.split_once(':').map_or(pair.as_str(), |(user, _)| user).to_owned())
}

/// Hides the middle of a key, as Stripe's messages do.
fn masked(key: &str) -> String {
    let (head, tail) = (key.get(..8).unwrap_or_default(), key.get(key.len().saturating_sub(4)..).unwrap_or_default());
    format!("{head}{}{tail}", "*".repeat(key.len().saturating_sub(12)))
}
