//! What authenticates a SendGrid account: an API key, sent as bearer.

use palisade_core::auth::Scheme;
use palisade_core::{Error, ErrorKind, Result, Secret};

/// Takes an API key as the credential of a connection.
///
/// ```
/// use palisade_sendgrid::auth::api_key;
///
/// assert!(api_key("SG.NotARealKey".into()).is_ok());
/// assert!(api_key("NotARealKey".into()).is_err(), "the id of a key is not the key");
/// ```
///
/// # Errors
/// [`ErrorKind::Config`] for a text with blanks or line breaks, and anything else that is no key of SendGrid's. The
/// message never holds the key.
pub fn api_key(key: Secret) -> Result<Scheme> {
    let wrong = |why: &'static str| Err(Error::new(ErrorKind::Config, why).during("sendgrid", "auth"));
    let text = key.expose();
    if text.is_empty() {
        return wrong("the API key is empty");
    }
    if text.bytes().any(|c| !c.is_ascii_graphic()) {
        return wrong("the API key holds a blank or line break: was something copied with it?");
    }
    if text.len() <= 3 || !text.starts_with("SG.") {
        return wrong("this is no SendGrid API key: it begins with SG. and is shown once, when it is made");
    }
    Ok(Scheme::Bearer(key))
}

#[cfg(test)]
mod tests {
    //! Each wrong form is refused, and none is told.
    use super::*;

    #[test]
    fn only_keys_are_taken_and_none_is_told() {
        for (text, taken) in [
            ("SG.NotARealKey000000000000.NotARealKey0000000000000000000000000000000", true),
            ("SG.", false),
            ("sg.NotARealKey", false),
            ("NotARealKey", false),
            ("SG.NotARealKey\n", false),
            ("SG.Not ARealKey", false),
            ("", false),
        ] {
            let said = match api_key(text.into()) {
                Ok(scheme) => {
                    assert!(taken, "{text:?}");
                    format!("{scheme:?}")
                }
                Err(error) => {
                    assert!(!taken, "{text:?}");
                    assert_eq!(error.kind(), ErrorKind::Config);
                    format!("{error} {error:?} {}", error.user_message())
                }
            };
            assert!(!said.contains("NotARealKey"), "{said}");
        }
    }
}
