//! What authenticates a Slack workspace: the token of a bot or of a person, sent as bearer.
//!
//! Slack's secrets are told apart by their prefix (docs.slack.dev, tokens; read 2026-11), so that the wrong one is
//! refused here, with a sentence that says which one is needed, instead of as `invalid_auth` later.

use palisade_core::auth::Scheme;
use palisade_core::{Error, ErrorKind, Result, Secret};

/// Takes a bot's or a person's token as the credential of a connection.
///
/// ```
/// use palisade_slack::auth::token;
///
/// assert!(token("xoxb-not-a-real-token".into()).is_ok());
/// assert!(token("xapp-not-a-real-token".into()).is_err(), "an app-level token calls no method of a workspace");
/// ```
///
/// # Errors
/// [`ErrorKind::Config`] for an app-level or refresh token, a webhook's address, a signing secret, a text with blanks
/// or line breaks, and anything else that is no token of Slack's. The message never holds the token.
pub fn token(token: Secret) -> Result<Scheme> {
    let text = token.expose();
    let wrong = |why: &'static str| Err(Error::new(ErrorKind::Config, why).during("slack", "auth"));
    if text.is_empty() {
        return wrong("the token is empty");
    }
    if text.bytes().any(|c| !c.is_ascii_graphic()) {
        return wrong("the token holds a blank or line break: was something copied with it?");
    }
    // A token that expires has the same kinds behind a prefix of its own.
    let kind = text.strip_prefix("xoxe.").unwrap_or(text);
    let begins = |prefix| kind.starts_with(prefix);
    if begins("xoxb-") || begins("xoxp-") {
        return Ok(Scheme::Bearer(token));
    }
    if begins("xapp-") {
        return wrong(
            "this is an app-level token (xapp-…): the connection needs the bot's (xoxb-…) or a person's (xoxp-…)",
        );
    }
    if begins("xoxe-") {
        return wrong("this is a refresh token (xoxe-…): connect the workspace instead, so that it can be renewed");
    }
    if begins("https://") {
        return wrong("this is an address: the connection needs the bot's token (xoxb-…)");
    }
    if text.len() == 32 && text.bytes().all(|c| c.is_ascii_hexdigit()) {
        return wrong(
            "this looks like the app's signing secret, which belongs to the endpoint: the connection needs the bot's token (xoxb-…)",
        );
    }
    wrong("this is no Slack token: the bot's begins with xoxb-, a person's with xoxp-")
}

#[cfg(test)]
mod tests {
    //! Each wrong kind of secret is refused, and none is told.
    use super::*;

    #[test]
    fn only_tokens_of_bots_and_people_are_taken_and_none_is_told() {
        for (text, taken) in [
            ("xoxb-NotARealToken", true),
            ("xoxp-NotARealToken", true),
            ("xoxe.xoxb-1-NotARealToken", true),
            ("xoxe.xoxp-1-NotARealToken", true),
            ("xapp-1-NotARealToken", false),
            ("xoxe-1-NotARealToken", false),
            ("xoxc-NotARealToken", false),
            ("xoxb-NotARealToken\n", false),
            ("xoxb-Not ARealToken", false),
            ("https://hooks.slack.com/services/NotARealToken", false),
            ("0123456789abcdef0123456789abcdef", false),
            ("NotARealToken", false),
            ("", false),
        ] {
            let said = match token(text.into()) {
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
            assert!(!said.contains("NotARealToken") && !said.contains("0123456789abcdef"), "{said}");
        }
    }
}
