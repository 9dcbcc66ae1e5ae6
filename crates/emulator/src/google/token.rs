//! Google's token endpoint and what stands beside it: revoke, tokeninfo, userinfo, ID tokens.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::consent::reported;
use super::jwt::Unverified;
use super::service_account::{judge, self_signed};
use super::{GoogleProvider, Person};
use crate::gate::{self, House};
use crate::oauth::endpoint::{ClientRefusal, bearer};
use crate::oauth::state::{Facts, Granted, Names, Redemption, Refusal, Share};
use crate::oauth::{Presented, scopes_of};
use crate::params::Params;

/// The one who holds a Google token.
pub(crate) const USER: &str = "user";

/// How Google's secrets look.
pub(crate) const NAMES: Names = Names {
    code: |dice| dice.name("4/0A", 70),
    access: |dice, _, _| dice.name("ya29.a0", 180),
    refresh: |dice| dice.name("1//0", 96),
};

/// Words an error of an OAuth endpoint: `invalid_client` is 401, everything else 400.
pub(crate) fn error(code: &str, words: &str) -> Response<Bytes> {
    let status = if code == "invalid_client" || code == "unauthorized_client" { 401 } else { 400 };
    fail(status, code, words)
}

fn fail(status: u16, code: &str, words: &str) -> Response<Bytes> {
    gate::json(status, &json!({ "error": code, "error_description": words }))
}

fn of_refusal(refusal: Refusal) -> Response<Bytes> {
    match refusal {
        Refusal::CodeUnknown | Refusal::CodeUsed | Refusal::CodeExpired | Refusal::CodeOfOtherClient => {
            error("invalid_grant", "Bad Request")
        }
        Refusal::RedirectMismatch => error("redirect_uri_mismatch", "Bad Request"),
        Refusal::VerifierMissing => error("invalid_grant", "Missing code verifier."),
        Refusal::VerifierWrong => error("invalid_grant", "Invalid code verifier."),
        Refusal::VerifierUnexpected => error("invalid_grant", "code_verifier or verifier is not needed."),
        Refusal::TokenUnknown
        | Refusal::TokenExpired
        | Refusal::TokenRevoked
        | Refusal::TokenReplayed
        | Refusal::TokenOfOtherClient => error("invalid_grant", "Token has been expired or revoked."),
        Refusal::ScopeWidened => error("invalid_scope", "Some requested scopes were invalid."),
    }
}

/// Answers `POST /token`.
pub(crate) fn token(google: &GoogleProvider, house: &House, request: &Request<Bytes>) -> Response<Bytes> {
    let params = match Params::parse(request.body()) {
        Ok(params) => params,
        Err(words) => return error("invalid_request", words),
    };
    if let Some(name) = params.repeated() {
        return error("invalid_request", &format!("Parameter not allowed more than once: {name}"));
    }
    let kind = match params.get("grant_type") {
        Some("urn:ietf:params:oauth:grant-type:jwt-bearer") => return assertion(google, house, &params),
        Some(kind @ ("authorization_code" | "refresh_token")) => kind,
        Some(other) => return error("unsupported_grant_type", &format!("Invalid grant_type: {other}")),
        None => return error("invalid_request", "Required parameter is missing: grant_type"),
    };
    let client = Presented::read(request.headers(), &params).and_then(|shown| shown.client(&google.authority));
    let client = match client {
        Ok(client) => client.id,
        Err(refusal) => {
            google.authority.state().ledger.client_refusals += 1;
            return match refusal {
                ClientRefusal::Unknown => error("invalid_client", "The OAuth client was not found."),
                ClientRefusal::Secret => error("invalid_client", "Unauthorized"),
                ClientRefusal::Twice => error("invalid_request", "Credentials came twice and differ."),
            };
        }
    };
    let now = house.now();
    let granted = if kind == "authorization_code" {
        let Some(code) = params.get("code") else { return missing("code") };
        let (redirect_uri, verifier) = (params.get("redirect_uri"), params.get("code_verifier"));
        google.authority.state().redeem(Redemption { client: &client, code, redirect_uri, verifier }, now)
    } else {
        let Some(token) = params.get("refresh_token") else { return missing("refresh_token") };
        let scopes = params.get("scope").map(|scope| reported(scopes_of(Some(scope))));
        google.authority.state().refresh(&client, token, scopes.as_deref(), now)
    };
    match granted {
        Ok(granted) => reply(google, house, &client, &granted),
        Err(refusal) => of_refusal(refusal),
    }
}

fn missing(name: &str) -> Response<Bytes> {
    error("invalid_request", &format!("Missing required parameter: {name}"))
}

fn reply(google: &GoogleProvider, house: &House, client: &str, granted: &Granted) -> Response<Bytes> {
    let Some(pair) = granted.pairs.first() else { return error("invalid_grant", "Bad Request") };
    let mut out = Map::new();
    out.insert("access_token".to_owned(), json!(pair.access));
    if let Some(seconds) = pair.expires_in {
        out.insert("expires_in".to_owned(), json!(seconds));
    }
    if let Some(refresh) = &pair.refresh {
        out.insert("refresh_token".to_owned(), json!(refresh));
        if let Some(life) = google.authority.rules().refresh_life {
            out.insert("refresh_token_expires_in".to_owned(), json!(life.as_secs()));
        }
    }
    out.insert("scope".to_owned(), json!(pair.scopes.join(" ")));
    out.insert("token_type".to_owned(), json!("Bearer"));
    if pair.scopes.iter().any(|scope| scope == "openid")
        && let Some(person) = google.person(&granted.subject)
    {
        let nonce = granted.facts.get("nonce").map(String::as_str);
        let token = id_token(google, house, client, person, &pair.access, &pair.scopes, nonce);
        out.insert("id_token".to_owned(), json!(token));
    }
    let mut response = gate::json(200, &Value::Object(out));
    response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
    response
}

fn id_token(
    google: &GoogleProvider,
    house: &House,
    client: &str,
    person: &Person,
    access: &str,
    scopes: &[String],
    nonce: Option<&str>,
) -> String {
    let now = house.now() / 1000;
    let digest = Sha256::digest(access.as_bytes());
    let half = digest.get(..16).unwrap_or_default();
    let mut claims = json!({
        "iss": google.issuer(), "azp": client, "aud": client, "sub": person.sub,
        "at_hash": URL_SAFE_NO_PAD.encode(half), "iat": now, "exp": now + 3600,
    });
    if let Value::Object(map) = &mut claims {
        identity(map, person, scopes);
        if let Some(nonce) = nonce {
            map.insert("nonce".to_owned(), json!(nonce));
        }
    }
    google.signer.sign(&claims)
}

/// Adds what the scopes let an app know of a person.
fn identity(map: &mut Map<String, Value>, person: &Person, scopes: &[String]) {
    if scopes.iter().any(|scope| scope.ends_with("/userinfo.email")) {
        map.insert("email".to_owned(), json!(person.email));
        map.insert("email_verified".to_owned(), json!(true));
    }
    if scopes.iter().any(|scope| scope.ends_with("/userinfo.profile")) {
        map.insert("name".to_owned(), json!(person.name));
        map.insert("given_name".to_owned(), json!(person.name.split(' ').next()));
    }
}

fn assertion(google: &GoogleProvider, house: &House, params: &Params) -> Response<Bytes> {
    let Some(assertion) = params.get("assertion") else { return missing("assertion") };
    match judge(google, house, assertion) {
        Ok(asserted) => {
            let facts = Facts::from([("service_account", asserted.account.clone())]);
            let share = Share { holder: USER, scopes: reported(asserted.scopes) };
            let mut state = google.authority.state();
            state.ledger.minted += 1;
            let pair = state.mint(&asserted.account, &asserted.subject, facts, share, house.now());
            drop(state);
            gate::json(
                200,
                &json!({ "access_token": pair.access, "expires_in": pair.expires_in, "token_type": "Bearer" }),
            )
        }
        Err((status, code, words)) => fail(status, code, words),
    }
}

/// Answers `/revoke`: a token of either kind takes the user's whole grant to the app with it.
pub(crate) fn revoke(google: &GoogleProvider, house: &House, request: &Request<Bytes>) -> Response<Bytes> {
    let Some(token) = given(request, "token") else { return missing("token") };
    let mut state = google.authority.state();
    let expired = matches!(state.peek(&token, house.now()), Err(Refusal::TokenExpired));
    let Some((client, subject)) = state.owner(&token).filter(|_| !expired) else {
        return error("invalid_token", "Token expired or revoked");
    };
    state.revoke_grants(|of, by, _| of == client && by == subject);
    gate::json(200, &json!({}))
}

fn given(request: &Request<Bytes>, name: &str) -> Option<String> {
    let query = Params::parse(request.uri().query().unwrap_or_default().as_bytes()).ok()?;
    let body = Params::parse(request.body()).ok()?;
    query.get(name).or_else(|| body.get(name)).map(str::to_owned)
}

/// Answers `/tokeninfo` for an access token or an ID token.
pub(crate) fn info(google: &GoogleProvider, house: &House, request: &Request<Bytes>) -> Response<Bytes> {
    let invalid = || error("invalid_token", "Invalid Value");
    let now = house.now();
    if let Some(token) = given(request, "id_token") {
        let read = Unverified::read(&token).filter(|token| token.is_signed_by(SIGNER_PUBLIC));
        let live = read.filter(|token| token.seconds("exp").is_some_and(|exp| exp > now / 1000));
        return live.map_or_else(invalid, |token| gate::json(200, &token.claims));
    }
    let Some(token) = given(request, "access_token") else { return invalid() };
    let Ok(held) = google.authority.state().peek(&token, now) else { return invalid() };
    let left = held.expires.map(|at| at.saturating_sub(now) / 1000);
    let mut out = json!({
        "azp": held.client, "aud": held.client, "sub": held.subject, "scope": held.scopes.join(" "),
        "exp": held.expires.map(|at| (at / 1000).to_string()), "expires_in": left.map(|left| left.to_string()),
        "access_type": "offline",
    });
    if let (Some(person), Value::Object(map)) = (google.person(&held.subject), &mut out)
        && held.scopes.iter().any(|scope| scope.ends_with("/userinfo.email"))
    {
        map.insert("email".to_owned(), json!(person.email));
        map.insert("email_verified".to_owned(), json!("true"));
    }
    gate::json(200, &out)
}

const SIGNER_PUBLIC: &str = include_str!("keys/signer.pub.pem");

/// Who an API call speaks for.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) subject: String,
    pub(crate) scopes: Vec<String>,
}

/// Finds who calls: by access token, or by a token that a service account signed itself.
pub(crate) fn caller(google: &GoogleProvider, house: &House, request: &Request<Bytes>) -> Option<Caller> {
    let token = bearer(request.headers())?;
    if let Some(own) = self_signed(google, house, token) {
        return Some(Caller { subject: own.subject, scopes: own.scopes });
    }
    let held = google.authority.state().look(token, house.now()).ok()?;
    Some(Caller { subject: held.subject, scopes: held.scopes })
}

/// Answers `/oauth2/v3/userinfo`.
pub(crate) fn userinfo(google: &GoogleProvider, house: &House, request: &Request<Bytes>) -> Response<Bytes> {
    let Some(caller) = caller(google, house, request) else {
        let mut response = fail(401, "invalid_request", "Invalid Credentials");
        let challenge = "Bearer realm=\"https://accounts.google.com/\", error=\"invalid_token\"";
        response.headers_mut().insert("www-authenticate", HeaderValue::from_static(challenge));
        return response;
    };
    let mut out = Map::new();
    out.insert("sub".to_owned(), json!(caller.subject));
    match google.person(&caller.subject) {
        Some(person) => identity(&mut out, person, &caller.scopes),
        // A service account speaks for itself and has nothing but its address.
        None => {
            out.insert("email".to_owned(), json!(caller.subject));
            out.insert("email_verified".to_owned(), json!(true));
        }
    }
    gate::json(200, &Value::Object(out))
}
