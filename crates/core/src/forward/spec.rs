//! What a destination may be, checked before it is kept.

use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use oauth2::url::Url;

use crate::error::{Error, ErrorKind, Result};
use crate::store::DestinationSpec;
use crate::worker::Pattern;

/// The most attempts under way at once at one destination.
pub const CONCURRENCY_MAX: u32 = 64;
/// The most headers of a destination's own.
pub const HEADERS_MAX: usize = 16;
/// The longest URL, in bytes.
const URL_BYTES_MAX: usize = 2_048;
/// The longest name, in characters.
const NAME_CHARS_MAX: usize = 64;
/// The most types of a filter.
const TYPES_MAX: usize = 100;
/// The longest text of a filter or header, in bytes.
const TEXT_BYTES_MAX: usize = 512;
/// How short and how long an attempt may be. Standard Webhooks recommends 15 to 30 s.
const TIMEOUTS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

/// Headers that are the message's, the connection's, or would hold a secret where it is not sealed.
const RESERVED: [&str; 14] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "host",
    "keep-alive",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

fn wrong<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::new(ErrorKind::Invalid, what.into()))
}

/// Checks the name of a destination.
pub(super) fn check_name(name: &str) -> Result<()> {
    let lawful = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(lawful) || name.starts_with('.') {
        return wrong(format!(
            "a destination's name is at most {NAME_CHARS_MAX} letters, digits, '-', '_' or '.', and does not begin with '.'"
        ));
    }
    Ok(())
}

/// Checks what a destination is.
///
/// # Errors
/// [`ErrorKind::Invalid`] saying what is wrong with it, without its values.
pub fn check(spec: &DestinationSpec) -> Result<()> {
    check_url(spec)?;
    if spec.filter.types.is_empty() || spec.filter.types.len() > TYPES_MAX {
        return wrong(format!("types is a list of 1 to {TYPES_MAX} event types, [\"*\"] for all"));
    }
    for text in &spec.filter.types {
        if text.len() > TEXT_BYTES_MAX || Pattern::parse(text).is_err() {
            return wrong("an event type is written exactly (invoice.paid), as a prefix (invoice.*) or as * for all");
        }
    }
    if !(1..=CONCURRENCY_MAX).contains(&spec.concurrency) {
        return wrong(format!("concurrency is a number from 1 to {CONCURRENCY_MAX}"));
    }
    if !TIMEOUTS.contains(&spec.timeout) {
        return wrong("timeout is from 1 s to 60 s");
    }
    if spec.headers.len() > HEADERS_MAX {
        return wrong(format!("there may be {HEADERS_MAX} more headers at most"));
    }
    for (name, value) in &spec.headers {
        check_header(name, value)?;
    }
    Ok(())
}

fn check_url(spec: &DestinationSpec) -> Result<()> {
    let url = Url::parse(&spec.url).ok().filter(|_| spec.url.len() <= URL_BYTES_MAX);
    let Some(url) = url else { return wrong("url is not an address such as https://app.example.com/hooks") };
    match url.scheme() {
        "https" => {}
        "http" if spec.reach.plain => {}
        "http" => return wrong("url is not https: allow_http lets it be, for development"),
        _ => return wrong("url is not https"),
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return wrong("url holds a user name, a password or a fragment: leave them out");
    }
    let literal = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
    if let Some(Err(refused)) = literal.map(|address| spec.reach.check(address)) {
        return wrong(format!(
            "url is refused: {refused}; allow_private or allow_networks lets it be, for development"
        ));
    }
    Ok(())
}

fn check_header(name: &str, value: &str) -> Result<()> {
    let lower = name.to_ascii_lowercase();
    let is_ours = RESERVED.contains(&lower.as_str()) || lower.starts_with("webhook-");
    if is_ours {
        return wrong(
            "a header is one that Palisade writes itself, or one for a secret: the signature shows who sends",
        );
    }
    if HeaderName::try_from(name).is_err() || HeaderValue::from_str(value).is_err() || value.len() > TEXT_BYTES_MAX {
        return wrong(format!("a header is no header: a name, and a text of at most {TEXT_BYTES_MAX} bytes"));
    }
    Ok(())
}
