//! Making addresses: Google's two hosts, ids in paths, parameters.
//!
//! Ids are percent-encoded here and nowhere else. The generated clients put them into the path as they are, so that
//! `en.usa#holiday@group.v.calendar.google.com` calls another calendar (google-apis-rs #308).

use http::HeaderValue;
use palisade_core::{Error, ErrorKind, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Gmail's address; `www.googleapis.com` answers for it too, which is not documented any more.
pub const GMAIL_URL: &str = "https://gmail.googleapis.com";
/// Calendar's address, and the one the manifest names.
pub const BASE_URL: &str = "https://www.googleapis.com";

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What RFC 3986 leaves as it is.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Percent-encodes an id for a path.
///
/// # Errors
/// [`ErrorKind::Invalid`] for an empty id and for `.` and `..`, which whoever tidies a path takes out of it, encoded or
/// not: the call would go to another endpoint.
pub fn segment(id: &str) -> Result<String> {
    if matches!(id, "" | "." | "..") {
        return Err(Error::new(ErrorKind::Invalid, "an id in the path is empty or made of dots"));
    }
    Ok(utf8_percent_encode(id, KEPT).to_string())
}

/// Writes parameters as a query with its question mark, or nothing.
pub(crate) fn query<'a>(parameters: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (name, value) in parameters {
        out.push(if out.is_empty() { '?' } else { '&' });
        out.push_str(name);
        out.push('=');
        out.extend(utf8_percent_encode(value, KEPT));
    }
    out
}

/// Returns the base of a path, where the base given is that of both: Gmail has a host of its own at Google, and one
/// address serves both elsewhere.
pub(crate) fn base_of<'a>(base_url: &'a str, path: &str) -> &'a str {
    let base_url = base_url.trim_end_matches('/');
    let of_gmail = path.starts_with("/gmail/") || path.starts_with("/upload/gmail/");
    if base_url == BASE_URL && of_gmail { GMAIL_URL } else { base_url }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_within_their_segment() {
        for (id, encoded) in [
            ("primary", "primary"),
            ("en.usa#holiday@group.v.calendar.google.com", "en.usa%23holiday%40group.v.calendar.google.com"),
            ("a/b?c=d&e", "a%2Fb%3Fc%3Dd%26e"),
            ("...", "..."),
            ("%2e%2e", "%252e%252e"),
            ("é ", "%C3%A9%20"),
        ] {
            assert_eq!(segment(id).unwrap(), encoded);
        }
        for id in ["", ".", ".."] {
            assert_eq!(segment(id).unwrap_err().kind(), ErrorKind::Invalid, "{id:?}");
        }
    }

    #[test]
    fn gmail_has_a_host_of_its_own_at_google_only() {
        assert_eq!(base_of(BASE_URL, "/gmail/v1/users/me/profile"), GMAIL_URL);
        assert_eq!(base_of(BASE_URL, "/upload/gmail/v1/users/me/messages/send"), GMAIL_URL);
        assert_eq!(base_of(BASE_URL, "/calendar/v3/colors"), BASE_URL);
        assert_eq!(base_of("http://127.0.0.1:1/", "/gmail/v1/users/me/profile"), "http://127.0.0.1:1");
        assert_eq!(query([("q", "a b&c"), ("x", "1")].into_iter()), "?q=a%20b%26c&x=1");
        assert_eq!(query(std::iter::empty()), "");
    }
}
