//! What authenticates a Google connection: an access token, sent as bearer.

use palisade_core::auth::Scheme;
use palisade_core::{Error, ErrorKind, Result, Secret};

/// Takes an access token as the credential of a connection. It lives an hour: for tests, scripts and the emulator.
///
/// # Errors
/// [`ErrorKind::Config`] for an API key, a client secret, a refresh token, a service account's key file, and anything
/// with blanks or line breaks in it. The message never holds the token.
pub fn access_token(token: Secret) -> Result<Scheme> {
    let text = token.expose();
    let wrong = |why: &'static str| Err(Error::new(ErrorKind::Config, why).during("google", "auth"));
    if text.is_empty() {
        return wrong("the access token is empty");
    }
    if text.trim_start().starts_with('{') {
        return wrong("this is a key file of a service account or client: connect with it, it is no access token");
    }
    if text.bytes().any(|c| !c.is_ascii_graphic()) {
        return wrong("the access token holds a blank or line break: was something copied with it?");
    }
    if text.starts_with("AIza") {
        return wrong("this is an API key (AIza…): mail and calendars need a user's access token");
    }
    if text.starts_with("GOCSPX-") {
        return wrong("this is a client secret (GOCSPX-…): connect with it, it is no access token");
    }
    if text.starts_with("1//") {
        return wrong("this is a refresh token (1//…): connect with it, it is no access token");
    }
    Ok(Scheme::Bearer(token))
}

#[cfg(test)]
mod tests {
    //! Each wrong kind of secret is refused, and none is told.
    use super::*;

    #[test]
    fn only_access_tokens_are_taken_and_none_is_told() {
        for (text, taken) in [
            ("ya29.NotARealToken0000000000000", true),
            ("opaque-token-of-the-emulator-NotARealToken0000000000000", true),
            ("AIzaNotARealToken0000000000000", false),
            ("GOCSPX-NotARealToken0000000000000", false),
            ("1//NotARealToken0000000000000", false),
            ("{\"type\":\"service_account\",\"private_key\":\"NotARealToken0000000000000\"}", false),
            ("ya29.NotARealToken0000000000000\n", false),
            ("", false),
        ] {
            let said = match access_token(text.into()) {
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
            assert!(!said.contains("NotARealToken0000000000000"), "{said}");
        }
    }
}
