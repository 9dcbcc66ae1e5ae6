//! Effects: a product's own writes to the same database, committed with the settling of a job.

use serde::{Deserialize, Serialize};

/// A write to the product's own tables in the same database.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Effect {
    /// One SQL statement with `?1`, `?2`, … placeholders.
    pub sql: String,
    /// Its values.
    pub values: Vec<Value>,
}

/// A value of a statement or a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[expect(clippy::exhaustive_enums, reason = "the types every SQL database shares")]
pub enum Value {
    /// No value.
    Null,
    /// A whole number.
    Integer(i64),
    /// A real number.
    Real(f64),
    /// A text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}
