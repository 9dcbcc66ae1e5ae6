//! What authenticates a Twilio account: HTTP Basic with the account's own token, or with an API key and its secret.
//!
//! With an API key the account stands in the path only, so a connection names its account besides. Webhooks are signed
//! with the account's primary auth token (or a shared key) whichever of the two is used for calls (twilio-python 9.13,
//! twilio-node 6.2).

use palisade_core::auth::Scheme;
use palisade_core::{Error, ErrorKind, Result, Secret};

use crate::sid::AccountSid;

/// The length of SIDs of API keys (`SK…`).
const KEY_SID_BYTES: usize = 34;

fn wrong<T>(why: &'static str) -> Result<T> {
    Err(Error::new(ErrorKind::Config, why).during("twilio", "auth"))
}

/// Takes the account and its auth token as the credential of a connection.
///
/// # Errors
/// [`ErrorKind::Config`] when the token holds a blank or line break, or is empty.
pub fn auth_token(account: &AccountSid, token: Secret) -> Result<Scheme> {
    basic(account.as_str(), token)
}

/// Takes an API key (`SK…`) and its secret as the credential of a connection.
///
/// # Errors
/// [`ErrorKind::Config`] when the first is no API key's SID, or the secret holds a blank or line break, or is empty.
pub fn api_key(key: &str, secret: Secret) -> Result<Scheme> {
    let is_key = key.len() == KEY_SID_BYTES
        && key.strip_prefix("SK").is_some_and(|digits| digits.bytes().all(|c| c.is_ascii_hexdigit()));
    if !is_key {
        return wrong("the user of an API key is its SID: SK and 32 hexadecimal digits");
    }
    basic(key, secret)
}

/// Takes one text of both halves, as the hub's configuration has it: `AC…:auth token` or `SK…:secret`.
///
/// ```
/// use palisade_twilio::auth::credential;
///
/// assert!(credential("SK00000000000000000000000000000000:NotARealSecret".into()).is_ok());
/// assert!(credential("NotARealToken".into()).is_err(), "the account or key that it belongs to is missing");
/// ```
///
/// # Errors
/// [`ErrorKind::Config`] with what is missing. The message never holds a part of the text.
pub fn credential(text: Secret) -> Result<Scheme> {
    let Some((user, password)) = text.expose().split_once(':') else {
        return wrong(
            "this is half a credential: Twilio's is AC…:auth token, or SK…:secret of an API key, with the colon between",
        );
    };
    match (AccountSid::parse(user), user.get(..2)) {
        (Ok(account), _) => auth_token(&account, Secret::from(password)),
        (Err(_), Some("SK")) => api_key(user, Secret::from(password)),
        (Err(_), _) => wrong("what stands before the colon is neither an Account SID (AC…) nor an API key's SID (SK…)"),
    }
}

fn basic(user: &str, password: Secret) -> Result<Scheme> {
    if password.is_empty() {
        return wrong("the auth token or secret is empty");
    }
    if password.expose().bytes().any(|c| !c.is_ascii_graphic()) {
        return wrong("the auth token or secret holds a blank or line break: was something copied with it?");
    }
    Ok(Scheme::Basic { user: user.to_owned(), password })
}

/// Returns the address of a region, by its edge (`ashburn`, `sydney`) and region (`us1`, `au1`): an edge without a
/// region means `us1` (twilio-python 9.13, `client_base`).
///
/// # Errors
/// [`ErrorKind::Config`] when a name is not made of lower-case letters, digits and hyphens.
pub fn regional_base_url(edge: Option<&str>, region: Option<&str>) -> Result<String> {
    let plain = |name: &str| {
        !name.is_empty() && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
    };
    if ![edge, region].into_iter().flatten().all(plain) {
        return wrong("an edge or region is named by lower-case letters, digits and hyphens, such as sydney and au1");
    }
    let region = region.or(edge.map(|_| "us1"));
    let names: Vec<&str> = ["https://api"].into_iter().chain(edge).chain(region).chain(["twilio.com"]).collect();
    Ok(names.join("."))
}

#[cfg(test)]
mod tests {
    //! Each wrong form is refused with a sentence, and none is told.
    use super::*;

    const ACCOUNT: &str = "AC00000000000000000000000000000000";
    const KEY: &str = "SK11111111111111111111111111111111";

    #[test]
    fn both_kinds_of_credential_are_taken_and_no_other_and_none_is_told() {
        for (text, user) in [
            (format!("{ACCOUNT}:NotARealToken"), Some(ACCOUNT)),
            (format!("{KEY}:NotARealToken"), Some(KEY)),
            ("NotARealToken".to_owned(), None),
            (format!("{ACCOUNT}:"), None),
            (format!("{ACCOUNT}:NotARealToken\n"), None),
            (format!("{ACCOUNT}: NotARealToken"), None),
            (format!("{ACCOUNT}x:NotARealToken"), None),
            (format!("{}:NotARealToken", &KEY[1..]), None),
            ("SK1:NotARealToken".to_owned(), None),
            ("SK\u{e9}:NotARealToken".to_owned(), None),
            (":NotARealToken".to_owned(), None),
            (String::new(), None),
        ] {
            let said = match credential(text.as_str().into()) {
                Ok(Scheme::Basic { user: taken, password }) => {
                    assert_eq!(Some(taken.as_str()), user, "{text:?}");
                    assert_eq!(password.expose(), "NotARealToken");
                    format!("{password:?}")
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => {
                    assert_eq!(user, None, "{text:?}");
                    assert_eq!(error.kind(), ErrorKind::Config);
                    format!("{error} {error:?} {}", error.user_message())
                }
            };
            assert!(!said.contains("NotARealToken"), "{said}");
        }
    }

    #[test]
    fn regions_have_addresses_of_their_own() {
        let url = |edge, region| regional_base_url(edge, region).unwrap();
        assert_eq!(url(None, None), "https://api.twilio.com");
        assert_eq!(url(Some("sydney"), Some("au1")), "https://api.sydney.au1.twilio.com");
        assert_eq!(url(Some("sydney"), None), "https://api.sydney.us1.twilio.com");
        assert_eq!(url(None, Some("ie1")), "https://api.ie1.twilio.com");
        for bad in ["", "a.b", "A", "evil/", "a@b"] {
            assert!(regional_base_url(Some(bad), None).is_err(), "{bad}");
        }
    }
}
