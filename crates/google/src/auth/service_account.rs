//! The key file of a service account, and the sentence for each file that is often given in its place.

use palisade_core::auth::jwt::ServiceAccountKey;
use palisade_core::{Error, ErrorKind, Result, Secret};
use serde_json::Value;

/// Reads a service account's key file (JSON) as the console gives it, and tries its key: a wrong file is told when it is
/// configured and not by the first call. Nothing is asked of Google.
///
/// ```
/// use palisade_google::auth::service_account_key;
///
/// let error = service_account_key(&"AIza-not-a-key-file".into()).unwrap_err();
/// assert!(error.message().contains("API key"));
/// ```
///
/// # Errors
/// [`ErrorKind::Config`] saying which file this seems to be and which is needed. Nothing of it is in the message.
pub fn service_account_key(file: &Secret) -> Result<ServiceAccountKey> {
    let text = file.expose().trim();
    let wrong = |why: &'static str| Error::new(ErrorKind::Config, why).during("google", "auth");
    if !text.starts_with('{') {
        return Err(wrong(of_text(text)));
    }
    let value: Value = serde_json::from_str(text)
        .map_err(|_| wrong("the service account's key file is not whole: it begins as JSON and does not end so"))?;
    if let Some(why) = of_kind(&value) {
        return Err(wrong(why));
    }
    ServiceAccountKey::parse(file).map_err(|error| {
        let cause = error.message().to_owned();
        Error::new(ErrorKind::Config, format!("the service account's key file cannot be used: {cause}"))
            .during("google", "auth")
    })
}

/// What a text that is no JSON seems to be.
fn of_text(text: &str) -> &'static str {
    match text {
        "" => "the service account's key file is empty",
        text if text.starts_with("-----BEGIN") => {
            "this is a private key alone: give the whole JSON file that the console made (type service_account)"
        }
        text if text.starts_with("AIza") => {
            "this is an API key (AIza…): a service account needs the JSON file of its key"
        }
        text if text.starts_with("ya29.") => {
            "this is an access token (ya29.…), which lives an hour: a service account needs the JSON file of its key"
        }
        text if text.contains('@') && !text.contains(char::is_whitespace) => {
            "this is an address: a service account needs the JSON file of its key"
        }
        _ => "this is no service account's key file: make a key of the type JSON in the console and give that file",
    }
}

/// What a JSON file seems to be that is no service account's key.
fn of_kind(value: &Value) -> Option<&'static str> {
    if value.get("web").is_some() || value.get("installed").is_some() {
        return Some(
            "this is the file of an OAuth client, for [[flow]]: a service account needs the JSON file of its own key",
        );
    }
    match value.get("type").and_then(Value::as_str) {
        Some("service_account") => None,
        Some("authorized_user") => Some(
            "these are a person's credentials, as gcloud keeps them: a service account needs the JSON file of its key",
        ),
        Some("external_account" | "impersonated_service_account" | "external_account_authorized_user") => Some(
            "this file names credentials of another system (workload identity), which Palisade does not trade: make a \
             key of the type JSON for the service account",
        ),
        Some(_) | None => {
            Some("the file is of another kind than service_account: give the JSON file of the account's key")
        }
    }
}

#[cfg(test)]
mod tests {
    //! Each wrong file is told by its own sentence, and nothing of it is in any.
    use serde_json::json;

    use super::*;

    const CANARY: &str = "NotARealKey0000000000000";

    #[test]
    fn each_wrong_file_is_told_what_it_is_and_none_is_repeated() {
        let account = |key: &str| json!({ "type": "service_account", "client_email": "a@x.iam.gserviceaccount.com", "private_key": key });
        let pem = |name: &str| format!("-----BEGIN {name}-----\n{CANARY}\n-----END {name}-----\n");
        for (file, says) in [
            (String::new(), "empty"),
            (format!("AIza{CANARY}"), "API key"),
            (format!("ya29.{CANARY}"), "access token"),
            (format!("{CANARY}@x.iam.gserviceaccount.com"), "address"),
            (pem("PRIVATE KEY"), "private key alone"),
            (format!("MII{CANARY}=="), "type JSON"),
            (format!("{{\"type\":\"service_account\",\"private_key\":\"{CANARY}"), "not whole"),
            (json!({ "web": { "client_secret": CANARY } }).to_string(), "[[flow]]"),
            (json!({ "installed": { "client_secret": CANARY } }).to_string(), "[[flow]]"),
            (json!({ "type": "authorized_user", "refresh_token": CANARY }).to_string(), "a person's"),
            (json!({ "type": "external_account", "token_url": CANARY }).to_string(), "workload identity"),
            (json!({ "type": CANARY }).to_string(), "another kind"),
            (json!({ "private_key": CANARY }).to_string(), "another kind"),
            (json!({ "type": "service_account" }).to_string(), "client_email and private_key"),
            (account(CANARY).to_string(), "RSA private key in PEM"),
            (account(&pem("RSA PRIVATE KEY")).to_string(), "RSA private key in PEM"),
            (account(&pem("EC PRIVATE KEY")).to_string(), "RSA private key in PEM"),
        ] {
            let error = service_account_key(&Secret::new(file.clone())).expect_err(&file);
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
            assert!(error.message().contains(says), "{says} in {error} for {file}");
            let told = format!("{error} {error:?} {}", error.user_message());
            assert!(!told.contains(CANARY), "{told}");
        }
    }
}
