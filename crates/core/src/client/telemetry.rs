//! What the pipeline counts and names: metrics resolved once per operation, spans with OpenTelemetry's names, and the
//! identifiers that travel in headers. A tenant or connection is a span field, never a metric label; a URL is only
//! ever its template.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::header::IntoHeaderName;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tracing::Span;
use tracing::field::Empty;

use super::outgoing::Outgoing;
use crate::call::{ALSO_MAX, Call, Operation, Replay, Scope};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::{Counter, Gauge, Histogram, Metrics};
use crate::random::Random;

/// The header that links all attempts and log lines of one piece of work.
pub(super) const CORRELATION: HeaderName = HeaderName::from_static("x-correlation-id");
/// The W3C trace context header (<https://www.w3.org/TR/trace-context/>).
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Statuses whose histogram is resolved once; all others are looked up each time, and are seldom.
const USUAL: [u16; 4] = [200, 201, 202, 204];

/// Metrics of the whole client.
#[derive(Debug)]
pub(super) struct ClientMeters {
    pub(super) metrics: Metrics,
    provider: &'static str,
    refreshed: Counter,
    refresh_failed: Counter,
}

/// Metrics of one operation at one host. Checked and made when the operation is first called.
#[derive(Debug)]
pub(super) struct OperationMeters {
    metrics: Metrics,
    operation: &'static Operation,
    method: String,
    host: String,
    port: String,
    pub(super) active: Gauge,
    /// The header the idempotency key stands in.
    pub(super) key: Option<HeaderName>,
    usual: [OnceLock<Histogram>; USUAL.len()],
    succeeded: Histogram,
    repeats: Counter,
    waits: Histogram,
}

impl ClientMeters {
    pub(super) fn new(metrics: Metrics, provider: &'static str) -> Self {
        let refreshes = |result| {
            let help = "Credentials refreshed after the provider refused one";
            metrics.counter("palisade_credential_refreshes", help, &[("provider", provider), ("result", result)])
        };
        let (refreshed, refresh_failed) = (refreshes("success"), refreshes("failure"));
        Self { refreshed, refresh_failed, metrics, provider }
    }

    pub(super) fn breaker(&self, host: &str) -> (Gauge, Counter) {
        let labels = [("provider", self.provider), ("host", host)];
        let state = "Breaker of a host: 0 closed, 1 half open, 2 open";
        let gauge = self.metrics.gauge("palisade_breaker_state", state, &labels);
        (gauge, self.metrics.counter("palisade_breaker_trips", "Times a breaker opened", &labels))
    }

    pub(super) fn lanes(&self) -> (Gauge, Counter) {
        let labels = [("provider", self.provider)];
        let forgotten = "Lanes forgotten before they had rested, for want of room";
        let gauge = self.metrics.gauge("palisade_lanes", "Rate-limit lanes kept", &labels);
        (gauge, self.metrics.counter("palisade_lanes_forgotten", forgotten, &labels))
    }

    pub(super) fn refresh(&self, succeeded: bool) {
        if succeeded { self.refreshed.inc() } else { self.refresh_failed.inc() }
    }
}

impl OperationMeters {
    /// Resolves the metrics of an operation, and checks what only its description can get wrong.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for an attempt timeout longer than the overall one, a timeout or cost of nothing, or a
    /// key header that is not a header name.
    pub(super) fn new(
        metrics: &Metrics,
        operation: &'static Operation,
        method: &Method,
        host: &str,
        port: u16,
    ) -> Result<Self> {
        let key = check(operation)?;
        let (port, method) = (port.to_string(), method.as_str().to_owned());
        let own = [("provider", operation.provider), ("operation", operation.name)];
        let [provider, name] = own;
        let server =
            [("http_request_method", method.as_str()), ("server_address", host), ("server_port", port.as_str())];
        Ok(Self {
            active: metrics.gauge("http_client_active_requests", "HTTP requests under way", &server),
            key,
            usual: Default::default(),
            succeeded: metrics.durations(CALLS, CALLS_HELP, &[provider, name, ("error_type", "")]),
            repeats: metrics.counter("palisade_call_repeats", "Attempts beyond the first of a call", &own),
            waits: metrics.durations(
                "palisade_call_wait_seconds",
                "Time calls waited for limits, places and backoff, where they waited",
                &own,
            ),
            metrics: metrics.clone(),
            operation,
            method,
            host: host.to_owned(),
            port,
        })
    }

    /// Counts one attempt: its status, or why there is none.
    pub(super) fn attempt(&self, status: Option<u16>, error: Option<ErrorKind>, took: Duration) {
        let usual = error.is_none().then(|| USUAL.iter().position(|usual| Some(*usual) == status)).flatten();
        if let Some(cell) = usual.and_then(|at| self.usual.get(at)) {
            cell.get_or_init(|| self.attempts(status, error)).observe(took);
        } else {
            self.attempts(status, error).observe(took);
        }
    }

    /// Counts one finished call.
    pub(super) fn call(&self, error: Option<ErrorKind>, attempts: u32, took: Duration, waited: Duration) {
        match error {
            None => self.succeeded.observe(took),
            Some(kind) => {
                let labels = [
                    ("provider", self.operation.provider),
                    ("operation", self.operation.name),
                    ("error_type", kind.as_str()),
                ];
                self.metrics.durations(CALLS, CALLS_HELP, &labels).observe(took);
            }
        }
        if attempts > 1 {
            self.repeats.add(u64::from(attempts - 1));
        }
        if !waited.is_zero() {
            self.waits.observe(waited);
        }
    }

    /// Begins the span of one attempt.
    pub(super) fn attempt_span(&self, resends: u32) -> Span {
        tracing::info_span!(
            "attempt",
            otel.name = format_args!("{} {}", self.method, self.operation.url_template),
            otel.kind = "client",
            http.request.method = self.method,
            http.request.resend_count = resends,
            http.response.status_code = Empty,
            server.address = self.host,
            server.port = self.port,
            url.template = self.operation.url_template,
            error.type = Empty,
        )
    }

    fn attempts(&self, status: Option<u16>, error: Option<ErrorKind>) -> Histogram {
        let status = status.map(|status| status.to_string()).unwrap_or_default();
        self.metrics.durations(
            "http_client_request_duration_seconds",
            "Duration of HTTP attempts, from sending to the last byte of the body",
            &[
                ("http_request_method", &self.method),
                ("server_address", &self.host),
                ("server_port", &self.port),
                ("url_template", self.operation.url_template),
                ("http_response_status_code", &status),
                ("error_type", error.map_or("", ErrorKind::as_str)),
            ],
        )
    }
}

const CALLS: &str = "palisade_call_duration_seconds";
const CALLS_HELP: &str = "Duration of calls, waits and repeats included";

/// Begins the span of a call.
pub(super) fn call_span(call: &Call, out: &Outgoing) -> Span {
    tracing::info_span!(
        "call",
        otel.name = format_args!("{} {}", call.operation.provider, call.operation.name),
        palisade.provider = call.operation.provider,
        palisade.operation = call.operation.name,
        palisade.connection = %call.connection,
        palisade.tenant = %call.tenant,
        palisade.correlation_id = out.correlation(),
        palisade.attempts = Empty,
        error.type = Empty,
    )
}

/// Checks a description and gives the header of its key.
fn check(operation: &'static Operation) -> Result<Option<HeaderName>> {
    let wrong = |what: &str| {
        Err(Error::new(ErrorKind::Config, format!("the operation's description {what}"))
            .during(operation.provider, operation.name))
    };
    if operation.attempt_timeout.is_zero() || operation.attempt_timeout > operation.overall_timeout {
        return wrong("needs an attempt timeout above zero and at most the overall timeout");
    }
    if operation.cost == 0 || operation.cost > operation.bucket.burst {
        return wrong("needs a cost of at least one unit and at most the bucket's burst");
    }
    if operation.also.len() > ALSO_MAX || operation.also.iter().any(|limit| limit.scope == Scope::Operation) {
        return wrong("may share at most four limits, each an account's or the client's");
    }
    if operation.also.iter().any(|limit| operation.cost > limit.bucket.burst) {
        return wrong("costs more than the burst of a limit it shares");
    }
    // The order in which callers take turns: one order for all, or two could wait for each other.
    if !operation.also.is_sorted_by_key(|limit| (limit.scope, limit.bucket.name)) {
        return wrong("must name shared limits by scope, then by name");
    }
    let Replay::Keyed(header) = operation.replay else { return Ok(None) };
    match HeaderName::from_bytes(header.as_bytes()) {
        Ok(name) => Ok(Some(name)),
        Err(_) => wrong("names a key header that is not a header name"),
    }
}

/// The identifiers made once per call, as texts. An attempt gets all of them in one buffer: one allocation.
pub(super) struct Identifiers {
    /// Where the operation takes one.
    key: Option<[u8; UUID]>,
    correlation: [u8; UUID],
    trace: [u8; TRACE],
}

const UUID: usize = 36;
const TRACE: usize = 32;
const PARENT: usize = 55;

impl Identifiers {
    /// Makes a correlation id and, where wanted, a key (uuid v4 each) and a trace of the correlation id's bits, so that
    /// a log line and a trace are found by the same digits.
    pub(super) fn new(random: &dyn Random, keyed: bool) -> Self {
        // Drawn in this order whether or not there is a key: a seed gives every operation the same run.
        let (trace, key) = (hex(uuid_bits(random)), uuid_bits(random));
        Self { key: keyed.then(|| uuid(&hex(key))), correlation: uuid(&trace), trace }
    }

    /// Writes an attempt's headers, with a span of its own in the trace; the key under its name, where it has one.
    pub(super) fn write(&self, headers: &mut HeaderMap, key: Option<&HeaderName>, random: &dyn Random) {
        let mut text = [0_u8; UUID + PARENT + UUID];
        text[..UUID].copy_from_slice(&self.correlation);
        text[UUID..UUID + PARENT].copy_from_slice(&traceparent(&self.trace, random));
        if let Some(key) = &self.key {
            text[UUID + PARENT..].copy_from_slice(key);
        }
        let mut text = Bytes::from_owner(text);
        put(headers, CORRELATION, text.split_to(UUID));
        put(headers, TRACEPARENT, text.split_to(PARENT));
        if let (Some(_), Some(name)) = (&self.key, key) {
            put(headers, name, text);
        }
    }

    /// Returns the idempotency key, if there is one.
    pub(super) fn key(&self) -> Option<&str> {
        self.key.as_ref().map(|key| text(key))
    }

    /// Returns the correlation id.
    pub(super) fn correlation(&self) -> &str {
        text(&self.correlation)
    }

    /// Goes on with the trace of a caller's `traceparent`, if it is one.
    pub(super) fn follow(&mut self, parent: &HeaderValue) {
        let bytes = parent.as_bytes();
        let hex = |text: &[u8]| {
            text.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) && text.iter().any(|b| *b != b'0')
        };
        if bytes.len() == PARENT
            && bytes.starts_with(b"00-")
            && let Some(trace) = bytes.get(3..3 + TRACE).filter(|trace| hex(trace))
        {
            self.trace.copy_from_slice(trace);
        }
    }
}

impl fmt::Debug for Identifiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identifiers({})", self.correlation())
    }
}

/// Only ASCII is ever written.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Puts a header where it belongs at once: every move of a value on its way costs more than writing it. Only ASCII is ever
/// written, so the value is always a good one.
fn put(headers: &mut HeaderMap, name: impl IntoHeaderName, text: Bytes) {
    if let Ok(value) = HeaderValue::from_maybe_shared(text) {
        headers.insert(name, value);
    }
}

/// 122 random bits with the version (4) and the variant of RFC 9562.
fn uuid_bits(random: &dyn Random) -> u128 {
    const FIXED: u128 = 0xf000_c000_0000_0000_0000;
    const VERSION: u128 = 0x4000_8000_0000_0000_0000;
    let bits = u128::from(random.bits()) << 64 | u128::from(random.bits());
    bits & !FIXED | VERSION
}

/// Writes eight digits at once: spreads the nibbles over the bytes of a word, then lifts those above nine to letters.
fn hex8(bits: u32) -> [u8; 8] {
    let mut word = u64::from(bits);
    word = (word << 16 | word) & 0x0000_ffff_0000_ffff;
    word = (word << 8 | word) & 0x00ff_00ff_00ff_00ff;
    word = (word << 4 | word) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = ((word + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    (word + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'0' - 10)).to_be_bytes()
}

fn hex(bits: u128) -> [u8; TRACE] {
    let mut text = [0; TRACE];
    text[..8].copy_from_slice(&hex8((bits >> 96) as u32));
    text[8..16].copy_from_slice(&hex8((bits >> 64) as u32));
    text[16..24].copy_from_slice(&hex8((bits >> 32) as u32));
    text[24..].copy_from_slice(&hex8(bits as u32));
    text
}

fn uuid(digits: &[u8; TRACE]) -> [u8; UUID] {
    let mut text = [b'-'; UUID];
    text[..8].copy_from_slice(&digits[..8]);
    text[9..13].copy_from_slice(&digits[8..12]);
    text[14..18].copy_from_slice(&digits[12..16]);
    text[19..23].copy_from_slice(&digits[16..20]);
    text[24..].copy_from_slice(&digits[20..]);
    text
}

/// Version 00, trace, a random span that is not zero, sampled.
fn traceparent(trace: &[u8; TRACE], random: &dyn Random) -> [u8; PARENT] {
    let span = random.bits() | 1;
    let mut text = [b'-'; PARENT];
    text[..2].copy_from_slice(b"00");
    text[3..35].copy_from_slice(trace);
    text[36..44].copy_from_slice(&hex8((span >> 32) as u32));
    text[44..52].copy_from_slice(&hex8(span as u32));
    text[53..].copy_from_slice(b"01");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    #[test]
    fn digits_are_those_of_the_formatter() {
        for bits in [0, 1, 0x1234_5678, 0x9abc_def0, 0x0a0a_9999, u32::MAX] {
            assert_eq!(hex8(bits), format!("{bits:08x}").as_bytes());
        }
    }

    #[test]
    fn identifiers_have_their_forms_and_share_the_trace() {
        let random = SeededRandom::new(7);
        let ids = Identifiers::new(&random, true);
        let key = ids.key().unwrap();
        assert_ne!(key, ids.correlation());
        for uuid in [key, ids.correlation()] {
            assert_eq!(uuid.len(), 36);
            assert_eq!(uuid.as_bytes()[14], b'4');
            assert!(matches!(uuid.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
            assert_eq!(uuid.matches('-').count(), 4);
        }
        let name = HeaderName::from_static("idempotency-key");
        let written = |ids: &Identifiers| {
            let mut headers = HeaderMap::new();
            ids.write(&mut headers, Some(&name), &random);
            headers
        };
        let (first, second) = (written(&ids), written(&ids));
        assert_eq!((&first[&name], &first[CORRELATION]), (&key.parse().unwrap(), &ids.correlation().parse().unwrap()));
        assert!(!written(&Identifiers::new(&random, false)).contains_key(&name));
        assert_eq!(first[&name], second[&name]);
        let (first, second) = (first[TRACEPARENT].to_str().unwrap(), second[TRACEPARENT].to_str().unwrap());
        assert_eq!((first.len(), &first[3..35]), (55, ids.correlation().replace('-', "").as_str()));
        assert_eq!(second[..36], first[..36]);
        assert_ne!(second[36..52], first[36..52]);
    }

    #[test]
    fn a_callers_trace_is_followed_and_a_broken_one_is_not() {
        let random = SeededRandom::new(7);
        let mut ids = Identifiers::new(&random, false);
        let own = ids.trace;
        for broken in ["", "00-x", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] {
            ids.follow(&HeaderValue::from_str(broken).unwrap());
            assert_eq!(ids.trace, own);
        }
        ids.follow(&HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        let mut headers = HeaderMap::new();
        ids.write(&mut headers, None, &random);
        assert!(headers[TRACEPARENT].to_str().unwrap().starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
    }
}
