//! Records that cannot be read: set aside and named, so that one of them neither stops a page nor is lost without a
//! word.

use bytes::Bytes;

use super::Change;
use crate::id::RecordId;

/// Bytes kept of a record that could not be read: enough to see what is wrong with it.
pub const BAD_RAW_BYTES_MAX: usize = 16 * 1024;

/// A record of a page that could not be read.
///
/// It is kept with its stream, shown, and no full run takes it for deleted. It is forgotten when the record is read
/// after all, or when a full run no longer meets it. One that says its name is asked for again by every later run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct BadRecord {
    /// Its id, where that much could be read. What a page holds beside it cannot be told from a record that was
    /// deleted, so after one without a name nothing is deleted without a review.
    pub id: Option<RecordId>,
    /// The record as it came, cut off behind [`BAD_RAW_BYTES_MAX`].
    pub raw: Bytes,
    /// Its length as it came.
    pub bytes: u64,
    /// What is wrong with it: a phrase without any of its content.
    pub why: String,
}

impl BadRecord {
    /// Sets a record aside; `raw` is cut off where it is too long.
    #[must_use]
    pub fn new(id: Option<&str>, raw: &[u8], why: impl Into<String>) -> Self {
        let kept = raw.get(..BAD_RAW_BYTES_MAX).unwrap_or(raw);
        Self {
            id: id.filter(|id| !id.is_empty()).map(RecordId::new),
            raw: Bytes::copy_from_slice(kept),
            bytes: raw.len() as u64,
            why: why.into(),
        }
    }

    /// Sets a record aside that was parsed, as the JSON it says.
    #[must_use]
    pub fn of_json(id: Option<&str>, value: &serde_json::Value, why: impl Into<String>) -> Self {
        Self::new(id, value.to_string().as_bytes(), why)
    }

    /// Returns the name under which it is kept: its id, or the hash of what came.
    #[must_use]
    pub fn key(&self) -> String {
        match &self.id {
            Some(id) => format!("={id}"),
            None => format!("#{:016x}", super::merge::content_hash(&self.raw)),
        }
    }
}

/// Sorts what was read of a page's records from what could not be, each in the page's order.
#[must_use]
pub fn sorted(read: impl IntoIterator<Item = Result<Change, BadRecord>>) -> (Vec<Change>, Vec<BadRecord>) {
    let (mut changes, mut bad) = (Vec::new(), Vec::new());
    for one in read {
        match one {
            Ok(change) => changes.push(change),
            Err(one) => bad.push(one),
        }
    }
    (changes, bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a record of any size is kept whole, or two of them share a name.
    #[test]
    fn a_record_set_aside_is_bounded_and_has_a_name_of_its_own() {
        let long = vec![b'x'; BAD_RAW_BYTES_MAX + 1];
        let bad = BadRecord::new(None, &long, "too long");
        assert_eq!((bad.raw.len(), bad.bytes), (BAD_RAW_BYTES_MAX, BAD_RAW_BYTES_MAX as u64 + 1));
        let names = [
            bad.key(),
            BadRecord::new(None, b"{}", "no id").key(),
            BadRecord::new(Some(""), b"[]", "no id").key(),
            BadRecord::new(Some("a"), b"{}", "no id").key(),
            BadRecord::new(Some("#"), b"{}", "no id").key(),
        ];
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        assert_eq!(names[3], "=a");
    }
}
