//! What a credential of Blank looks like.

use palisade_core::auth::Scheme;
use palisade_core::{Error, ErrorKind, Result, Secret};

/// Checks an API key and says how it is sent.
///
/// # Errors
/// [`ErrorKind::Config`] when the text cannot be a key: say what a key looks like, never what was given.
pub fn api_key(key: Secret) -> Result<Scheme> {
    if key.is_empty() {
        return Err(Error::new(ErrorKind::Config, "the API key is empty").during("blank", "api_key"));
    }
    Ok(Scheme::Bearer(key))
}
