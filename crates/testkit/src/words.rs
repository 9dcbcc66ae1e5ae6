//! What an error must look like that a product shows to its user: the table behind each adapter's tests of bad input.

use std::fmt::Debug;

use palisade_core::{Error, ErrorKind, Outcome, Result};

/// What is expected of an error: kind, the provider's code, outcome, and a part of its words.
pub type Expected<'a> = (ErrorKind, Option<&'a str>, Outcome, &'a str);

/// Compares an error, and asks of its words what every one of ours has: they are a sentence for people, and neither they
/// nor the log's text hold any of `hidden`, which was sent.
///
/// # Panics
/// When there is no error, another one, or one with other words.
#[track_caller]
pub fn clear_error<T: Debug>(name: &str, result: Result<T>, expected: Expected<'_>, hidden: &[&str]) -> Error {
    let (kind, code, outcome, said) = expected;
    let error = match result {
        Err(error) => error,
        Ok(value) => panic!("{name}: no error but {value:?}"),
    };
    assert_eq!((error.kind(), error.code(), error.outcome()), (kind, code, outcome), "{name}: {error}");
    let words = error.user_message();
    assert!(words.contains(said), "{name}: {words}");
    assert!(words.ends_with('.') && words.len() > 20 && !words.contains("API"), "{name}: {words}");
    assert!(code.is_none_or(|code| !words.contains(code)), "{name}: {words}");
    for text in [words.to_string(), error.to_string(), format!("{error:?}")] {
        assert!(!hidden.iter().any(|hidden| text.contains(hidden)), "{name}: {text}");
    }
    error
}
