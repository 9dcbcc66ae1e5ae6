//! The text form of a position: a word and its parts, so that a part may hold anything Google puts in a token.

use palisade_core::Result;
use palisade_core::sync::Cursor;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::decode;

/// Writes `word:part:part`.
pub(super) fn write(word: &str, parts: &[&str]) -> Cursor {
    let mut out = word.to_owned();
    for part in parts {
        out.push(':');
        out.extend(utf8_percent_encode(part, NON_ALPHANUMERIC));
    }
    Cursor::new(out)
}

/// Reads the word and its parts; a part that is not there is empty.
///
/// # Errors
/// [`palisade_core::ErrorKind::Decode`] when it is not one of ours.
pub(super) fn read(cursor: &Cursor) -> Result<(&str, [String; 2])> {
    let mut parts = cursor.as_str().split(':');
    let word = parts.next().unwrap_or_default();
    let mut next = || -> Result<String> {
        let part = percent_decode_str(parts.next().unwrap_or_default()).decode_utf8();
        Ok(part.map_err(|_| decode("the cursor is not one of this adapter's"))?.into_owned())
    };
    let read = [next()?, next()?];
    if parts.next().is_some() {
        return Err(decode("the cursor is not one of this adapter's"));
    }
    Ok((word, read))
}
