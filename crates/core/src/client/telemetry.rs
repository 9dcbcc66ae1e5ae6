//! What the pipeline counts and names: metrics resolved once per operation, spans with OpenTelemetry's names, and the
//! identifiers that travel in headers. A tenant or connection is a span field, never a metric label; a URL is only
//! ever its template.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method};
use tracing::Span;
use tracing::field::Empty;

use crate::call::{Call, Operation, Replay};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::{Counter, Gauge, Histogram, Metrics};
use crate::random::Random;

/// The header that links all attempts and log lines of one piece of work.
pub(super) const CORRELATION_HEADER: &str = "x-correlation-id";
/// The W3C trace context header (<https://www.w3.org/TR/trace-context/>).
pub(super) const TRACE_HEADER: &str = "traceparent";

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
        check(operation)?;
        let (port, method) = (port.to_string(), method.as_str().to_owned());
        let own = [("provider", operation.provider), ("operation", operation.name)];
        let [provider, name] = own;
        let server =
            [("http_request_method", method.as_str()), ("server_address", host), ("server_port", port.as_str())];
        Ok(Self {
            active: metrics.gauge("http_client_active_requests", "HTTP requests under way", &server),
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
pub(super) fn call_span(call: &Call, correlation: &HeaderValue) -> Span {
    tracing::info_span!(
        "call",
        otel.name = format_args!("{} {}", call.operation.provider, call.operation.name),
        palisade.provider = call.operation.provider,
        palisade.operation = call.operation.name,
        palisade.connection = %call.connection,
        palisade.tenant = %call.tenant,
        palisade.correlation_id = correlation.to_str().unwrap_or_default(),
        palisade.attempts = Empty,
        error.type = Empty,
    )
}

fn check(operation: &'static Operation) -> Result<()> {
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
    if let Replay::Keyed(header) = operation.replay
        && http::HeaderName::from_bytes(header.as_bytes()).is_err()
    {
        return wrong("names a key header that is not a header name");
    }
    Ok(())
}

/// The identifiers made once per call. One buffer holds the texts of all of them, so they cost one allocation.
pub(super) struct Identifiers {
    pub(super) key: HeaderValue,
    pub(super) correlation: HeaderValue,
    pub(super) traceparent: HeaderValue,
    trace: [u8; TRACE],
}

const UUID: usize = 36;
const TRACE: usize = 32;
const PARENT: usize = 55;

impl Identifiers {
    /// Makes a key and a correlation id (uuid v4 each) and a trace of the correlation id's bits, so that a log line
    /// and a trace are found by the same digits.
    pub(super) fn new(random: &dyn Random) -> Self {
        let mut text = [0_u8; UUID + UUID + PARENT];
        let mut bits = [0_u8; 16];
        let (key, rest) = text.split_at_mut(UUID);
        let (correlation, traceparent) = rest.split_at_mut(UUID);
        uuid_bits(&mut bits, random);
        write_uuid(key, &bits);
        uuid_bits(&mut bits, random);
        write_uuid(correlation, &bits);
        let mut trace = [0_u8; TRACE];
        write_hex(&mut trace, &bits);
        write_traceparent(traceparent, &trace, random);
        let text = Bytes::from_owner(text);
        Self {
            key: header(text.slice(..UUID)),
            correlation: header(text.slice(UUID..2 * UUID)),
            traceparent: header(text.slice(2 * UUID..)),
            trace,
        }
    }

    /// Makes the next attempt's `traceparent`: the same trace, a span of its own.
    pub(super) fn next_traceparent(&mut self, random: &dyn Random) {
        let mut text = [0_u8; PARENT];
        write_traceparent(&mut text, &self.trace, random);
        self.traceparent = header(Bytes::from_owner(text));
    }

    /// Goes on with the trace of a caller's `traceparent`, if it is one.
    pub(super) fn follow(&mut self, parent: &HeaderValue, random: &dyn Random) {
        let bytes = parent.as_bytes();
        let hex = |text: &[u8]| {
            text.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) && text.iter().any(|b| *b != b'0')
        };
        if bytes.len() == PARENT
            && bytes.starts_with(b"00-")
            && let Some(trace) = bytes.get(3..3 + TRACE).filter(|trace| hex(trace))
        {
            self.trace.copy_from_slice(trace);
            self.next_traceparent(random);
        }
    }
}

impl fmt::Debug for Identifiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identifiers({:?})", self.correlation)
    }
}

/// Only ASCII is ever written, so the value is always valid.
fn header(text: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn uuid_bits(bits: &mut [u8; 16], random: &dyn Random) {
    random.fill(bits);
    bits[6] = (bits[6] & 0x0f) | 0x40;
    bits[8] = (bits[8] & 0x3f) | 0x80;
}

fn write_hex(to: &mut [u8], bits: &[u8]) {
    for (pair, byte) in to.chunks_exact_mut(2).zip(bits) {
        if let [high, low] = pair {
            *high = digit(byte >> 4);
            *low = digit(byte & 0x0f);
        }
    }
}

fn digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

fn write_uuid(to: &mut [u8], bits: &[u8; 16]) {
    let mut hex = [0_u8; TRACE];
    write_hex(&mut hex, bits);
    let mut digits = hex.iter();
    for (at, cell) in to.iter_mut().enumerate() {
        *cell = if matches!(at, 8 | 13 | 18 | 23) { b'-' } else { digits.next().copied().unwrap_or(b'0') };
    }
}

/// Version 00, trace, a random span that is not zero, sampled.
fn write_traceparent(to: &mut [u8], trace: &[u8; TRACE], random: &dyn Random) {
    let mut span = [0_u8; 16];
    write_hex(&mut span, &(random.bits() | 1).to_be_bytes());
    let parts: [&[u8]; 5] = [b"00-", trace, b"-", &span, b"-01"];
    for (cell, byte) in to.iter_mut().zip(parts.iter().flat_map(|part| part.iter())) {
        *cell = *byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    #[test]
    fn identifiers_have_their_forms_and_share_the_trace() {
        let random = SeededRandom::new(7);
        let mut ids = Identifiers::new(&random);
        let key = ids.key.to_str().unwrap().to_owned();
        let correlation = ids.correlation.to_str().unwrap().to_owned();
        assert_ne!(key, correlation);
        for uuid in [&key, &correlation] {
            assert_eq!(uuid.len(), 36);
            assert_eq!(uuid.as_bytes()[14], b'4');
            assert!(matches!(uuid.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
            assert_eq!(uuid.matches('-').count(), 4);
        }
        let first = ids.traceparent.to_str().unwrap().to_owned();
        assert_eq!(first.len(), 55);
        assert_eq!(&first[3..35], correlation.replace('-', ""));
        ids.next_traceparent(&random);
        let second = ids.traceparent.to_str().unwrap();
        assert_eq!(second[..35], first[..35]);
        assert_ne!(second[36..52], first[36..52]);
    }

    #[test]
    fn a_callers_trace_is_followed_and_a_broken_one_is_not() {
        let random = SeededRandom::new(7);
        let mut ids = Identifiers::new(&random);
        let own = ids.trace;
        for broken in ["", "00-x", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] {
            ids.follow(&HeaderValue::from_str(broken).unwrap(), &random);
            assert_eq!(ids.trace, own);
        }
        ids.follow(&HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), &random);
        assert_eq!(&ids.trace, b"0af7651916cd43dd8448eb211c80319c");
        assert!(ids.traceparent.to_str().unwrap().starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
    }
}
