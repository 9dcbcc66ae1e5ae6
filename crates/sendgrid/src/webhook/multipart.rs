//! A form with parts (RFC 7578), as much of it as inbound mail needs: split in memory, bounded, and never guessed at.

use std::ops::Range;

/// The most parts of one delivery: a mail's fields and its attachments.
const PARTS_MAX: usize = 1_000;
/// The longest head of a part.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// The longest boundary (RFC 2046).
const BOUNDARY_BYTES_MAX: usize = 70;

/// One part.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part<'a> {
    /// The field's name.
    pub(super) name: String,
    /// The file's name, when it is a file.
    pub(super) filename: Option<String>,
    /// The content type, when it names one.
    pub(super) content_type: Option<String>,
    /// The bytes.
    pub(super) content: &'a [u8],
}

/// Finds the boundary in a content type.
pub(super) fn boundary(content_type: &str) -> Option<&str> {
    let (_, parameters) = content_type.split_once(';')?;
    let mut found = None;
    for parameter in parameters.split(';') {
        let (name, value) = parameter.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("boundary") {
            let value = value.trim();
            let value = value.strip_prefix('"').map_or(Some(value), |rest| rest.strip_suffix('"'))?;
            // Two boundaries would let two readers see two different mails.
            if found.replace(value).is_some() {
                return None;
            }
        }
    }
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&c);
    found.filter(|text| {
        (1..=BOUNDARY_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain) && !text.ends_with(' ')
    })
}

/// Splits a body. `None` when it is not whole: no first boundary, no last one, or a part without head or name.
pub(super) fn parts<'a>(body: &'a [u8], boundary: &str) -> Option<Vec<Part<'a>>> {
    let delimiter = format!("--{boundary}");
    let mut at = skip(body, 0, delimiter.as_bytes())?;
    let inner = format!("\r\n--{boundary}");
    let mut parts = Vec::new();
    loop {
        if body.get(at..)?.starts_with(b"--") {
            return Some(parts);
        }
        at = skip(body, at, b"\r\n")?;
        let end = at + find(body.get(at..)?, inner.as_bytes())?;
        if parts.len() == PARTS_MAX {
            return None;
        }
        parts.push(part(body, at..end)?);
        at = end + inner.len();
    }
}

fn skip(body: &[u8], at: usize, expected: &[u8]) -> Option<usize> {
    body.get(at..)?.starts_with(expected).then_some(at + expected.len())
}

fn part(body: &[u8], range: Range<usize>) -> Option<Part<'_>> {
    let bytes = body.get(range)?;
    let (head, content) = match bytes.strip_prefix(b"\r\n") {
        Some(content) => (&b""[..], content),
        None => {
            let end = find(bytes.get(..bytes.len().min(HEAD_BYTES_MAX))?, b"\r\n\r\n")?;
            (bytes.get(..end)?, bytes.get(end + 4..)?)
        }
    };
    let (mut name, mut filename, mut content_type) = (None, None, None);
    for line in String::from_utf8_lossy(head).split("\r\n") {
        let (field, value) = line.split_once(':')?;
        if field.eq_ignore_ascii_case("content-disposition") {
            let (kind, parameters) = value.split_once(';')?;
            if !kind.trim().eq_ignore_ascii_case("form-data") || name.is_some() {
                return None;
            }
            (name, filename) = disposition(parameters)?;
        } else if field.eq_ignore_ascii_case("content-type") {
            content_type = Some(value.trim().to_owned());
        }
    }
    Some(Part { name: name?, filename, content_type, content })
}

/// Reads `name="x"; filename="a \"b\".txt"`: quoted texts, where a backslash takes the quote or backslash behind it.
fn disposition(text: &str) -> Option<(Option<String>, Option<String>)> {
    let (mut name, mut filename) = (None, None);
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (field, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted_text(quoted)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                let (value, after) = after.split_at_checked(end)?;
                (value.trim().to_owned(), after)
            }
        };
        let slot = match field.trim().to_ascii_lowercase().as_str() {
            "name" => Some(&mut name),
            "filename" => Some(&mut filename),
            _ => None,
        };
        if let Some(slot) = slot
            && slot.replace(value).is_some()
        {
            return None;
        }
        let after = after.trim_start();
        rest = if after.is_empty() { after } else { after.strip_prefix(';')?.trim_start() };
    }
    Some((name, filename))
}

fn quoted_text(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match chars.clone().next() {
                Some((_, escaped @ ('"' | '\\'))) => {
                    chars.next();
                    value.push(escaped);
                }
                // A path of an old Windows client.
                Some(_) | None => value.push('\\'),
            },
            c => value.push(c),
        }
    }
    None
}

/// Finds a piece in linear time for boundaries: it looks for the first byte and compares there.
fn find(bytes: &[u8], piece: &[u8]) -> Option<usize> {
    let first = *piece.first()?;
    let mut at = 0;
    while let Some(step) = bytes.get(at..)?.iter().position(|byte| *byte == first) {
        at += step;
        if bytes.get(at..)?.starts_with(piece) {
            return Some(at);
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "--xYz\r\nContent-Disposition: form-data; name=\"subject\"\r\n\r\nHello\r\nthere\r\n--xYz\r\n\
        content-disposition: form-data; name=\"attachment1\"; filename=\"a \\\"b\\\"; c.txt\"\r\nContent-Type: text/plain\r\n\r\n\
        \u{0}\r\n--xY\r\n\r\n--xYz\r\nContent-Disposition: form-data; name=empty\r\n\r\n\r\n--xYz--\r\n";

    #[test]
    fn parts_are_split_where_the_boundary_stands_and_nowhere_else() {
        let parts = parts(BODY.as_bytes(), "xYz").unwrap();
        let names: Vec<_> = parts.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, ["subject", "attachment1", "empty"]);
        assert_eq!(parts[0].content, b"Hello\r\nthere");
        assert_eq!(parts[1].filename.as_deref(), Some("a \"b\"; c.txt"));
        assert_eq!(parts[1].content_type.as_deref(), Some("text/plain"));
        assert_eq!(parts[1].content, b"\0\r\n--xY\r\n");
        assert_eq!(parts[2].content, b"");
    }

    #[test]
    fn a_body_that_is_not_whole_is_refused() {
        for end in 0..BODY.len() - 4 {
            assert_eq!(parts(&BODY.as_bytes()[..end], "xYz"), None, "cut at {end}");
        }
        for bad in [
            "preamble\r\n--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--b--",
            "--b\nContent-Disposition: form-data; name=\"a\"\n\n1\n--b--",
            "--b\r\nContent-Type: text/plain\r\n\r\n1\r\n--b--",
            "--b\r\n\r\n1\r\n--b--",
            "--b\r\nContent-Disposition: attachment; name=\"a\"\r\n\r\n1\r\n--b--",
            "--b\r\nContent-Disposition: form-data; name=\"a\"; name=\"b\"\r\n\r\n1\r\n--b--",
            "--b\r\nContent-Disposition: form-data; name=\"a\r\n\r\n1\r\n--b--",
        ] {
            assert_eq!(parts(bad.as_bytes(), "b"), None, "{bad}");
        }
        assert_eq!(parts(b"--b--\r\n", "b").map(|parts| parts.len()), Some(0));
    }

    #[test]
    fn boundaries_are_read_with_and_without_quotes() {
        assert_eq!(boundary("multipart/form-data; boundary=xYz"), Some("xYz"));
        assert_eq!(boundary("multipart/form-data; charset=utf-8; Boundary=\"x Y'z\""), Some("x Y'z"));
        for bad in [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"x",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/form-data; boundary=a\u{e9}",
            "multipart/form-data; boundary",
        ] {
            assert_eq!(boundary(bad), None, "{bad}");
        }
        assert_eq!(boundary(&format!("m/f; boundary={}", "x".repeat(71))), None);
    }
}
