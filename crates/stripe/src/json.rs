//! Reading just enough of Stripe's JSON: a record's id without building a tree, and one spelling of equal objects.
//!
//! A sync moves hundreds of thousands of objects of which only the id matters here, so a page is split into slices of
//! the answer's own bytes, and one pass over each slice finds the id and says whether it is already compact.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

/// What one pass over an object tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Glance<'a> {
    /// The value of the object's own `id`.
    pub(crate) id: Option<Cow<'a, str>>,
    /// The value of the object's own `object`, its type.
    pub(crate) object: Option<Cow<'a, str>>,
    /// Whether the object says `"deleted": true` of itself.
    pub(crate) deleted: bool,
    /// Whether no white space stands between its parts.
    pub(crate) compact: bool,
}

/// Looks over a JSON text that serde_json has found valid ([`RawValue`] is). Of repeated names the first counts.
pub(crate) fn glance(raw: &RawValue) -> Glance<'_> {
    let text = raw.get();
    let bytes = text.as_bytes();
    let mut found = Glance { compact: true, ..Glance::default() };
    let mut depth = 0_usize;
    let mut name: Option<(usize, usize)> = None;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let end = string_end(bytes, at);
                if depth == 1 {
                    // At the top level strings alternate: a name stands before a colon, a value after one.
                    match name.take() {
                        None => name = Some((at, end)),
                        Some((from, to)) => match text.get(from..to) {
                            Some("\"id\"") if found.id.is_none() => found.id = text.get(at..end).and_then(unquote),
                            Some("\"object\"") if found.object.is_none() => {
                                found.object = text.get(at..end).and_then(unquote);
                            }
                            _ => {}
                        },
                    }
                }
                at = end;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' if depth == 1 => name = None,
            b't' if depth == 1 => {
                found.deleted |= name.is_some_and(|(from, to)| text.get(from..to) == Some("\"deleted\""));
            }
            b' ' | b'\n' | b'\r' | b'\t' => found.compact = false,
            _ => {}
        }
        at += 1;
    }
    found
}

/// Returns the index after the closing quote of the string that opens at `at`.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn unquote(text: &str) -> Option<Cow<'_, str>> {
    if text.contains('\\') {
        return serde_json::from_str::<String>(text).ok().map(Cow::Owned);
    }
    text.strip_prefix('"')?.strip_suffix('"').map(Cow::Borrowed)
}

/// Returns an object's bytes without white space between its parts, so that the same object read from a list, from an
/// event and by its id is the same bytes: Stripe indents each by where it stands. Names keep their order. Bytes that
/// are compact already are shared with `body`, not copied.
pub(crate) fn compact(raw: &RawValue, is_compact: bool, body: &Bytes) -> Bytes {
    let bytes = raw.get().as_bytes();
    if is_compact {
        return share(bytes, body);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let end = string_end(bytes, at);
                out.extend_from_slice(bytes.get(at..end).unwrap_or_default());
                at = end;
            }
            b' ' | b'\n' | b'\r' | b'\t' => at += 1,
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Bytes::from(out)
}

/// Returns `part` of `body` without copying it.
pub(crate) fn share(part: &[u8], body: &Bytes) -> Bytes {
    let range = body.as_ptr_range();
    // `slice_ref` panics for a foreign slice; this one is ours unless a caller mixes up two bodies.
    let ours = part.is_empty() || (range.contains(&part.as_ptr()) && part.as_ptr_range().end <= range.end);
    if ours { body.slice_ref(part) } else { Bytes::copy_from_slice(part) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    #[track_caller]
    fn check(text: &str, id: Option<&str>, deleted: bool, is_compact: bool) {
        let raw = raw(text);
        let seen = glance(&raw);
        assert_eq!((seen.id.as_deref(), seen.deleted, seen.compact), (id, deleted, is_compact), "{text}");
        let body = Bytes::copy_from_slice(raw.get().as_bytes());
        let packed = compact(&raw, seen.compact, &body);
        let plain: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&packed).unwrap(), plain, "{text}");
        assert!(glance(&serde_json::from_slice::<Box<RawValue>>(&packed).unwrap()).compact, "{text}");
    }

    #[test]
    fn a_glance_finds_the_objects_own_id_only() {
        check(r#"{"id":"cus_1","object":"customer"}"#, Some("cus_1"), false, true);
        check(r#"{"a":{"id":"no"},"b":["id","no"],"id":"cus_1"}"#, Some("cus_1"), false, true);
        check(r#"{"name":"id","x":"\"id\":\"no\"","id":"yes"}"#, Some("yes"), false, true);
        check(r#"{"id":"cus_1","deleted":true}"#, Some("cus_1"), true, true);
        check(r#"{"id":"cus_1","deleted":false,"x":true}"#, Some("cus_1"), false, true);
        check(r#"{"x":{"deleted":true},"y":"deleted","id":"c"}"#, Some("c"), false, true);
        check(r#"{"id":null,"n":-1.5e3}"#, None, false, true);
        check(r#"{"id":7}"#, None, false, true);
        check(r#"{"id":"a\u0062\\"}"#, Some("ab\\"), false, true);
        check("{\n  \"id\": \"c\",\n  \"t\": \"a  b\\n\"\n}", Some("c"), false, false);
        check(r#"[{"id":"c"}]"#, None, false, true);
        check("{}", None, false, true);
        check("null", None, false, true);
        check("true", None, false, true);
    }

    #[test]
    fn foreign_slices_are_copied() {
        let body = Bytes::from_static(b"{}");
        assert_eq!(share(b"elsewhere", &body), Bytes::from_static(b"elsewhere"));
    }
}
