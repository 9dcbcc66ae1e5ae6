//! Stripe Connect's OAuth: authorise on a page, trade a code, refresh, disconnect. Errors are flat, as Connect's are.
//!
//! Facts from docs.stripe.com (Connect OAuth reference, read November 2026) and the official SDKs. Stripe documents no
//! PKCE; a challenge that is sent is checked all the same.

#![allow(clippy::indexing_slicing, reason = "reading a JSON value by name never panics")]

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::{Value, json};

use super::desk::Desk;
use super::error::Failure;
use super::{Stripe, form};
use crate::oauth::endpoint::Unsafe;
use crate::oauth::page::{self, Brand, Choice, Line, Page};
use crate::oauth::state::{Agreed, Facts, Granted, Names, Redemption, Refusal, Share};
use crate::oauth::{Asked, Authority, Client, Consent, Flight, Rules, html};
use crate::params::Params;

const BRAND: Brand = Brand { name: "Stripe", mark: "S", colour: "#533afd" };
const NEW: &str = "new";
/// The account a grant connects, among its facts.
const ACCOUNT: &str = "account";
/// The one who holds a Connect token.
const PLATFORM: &str = "platform";

/// How Connect's secrets look.
const NAMES: Names = Names {
    code: |dice| dice.name("ac_", 32),
    access: |dice, _, _| dice.name("sk_test_", 99),
    refresh: |dice| dice.name("rt_", 32),
};

/// Gives Connect's rules: access tokens never expire, refresh tokens stay, the token request repeats no redirect URI.
fn rules() -> Rules {
    Rules { code_life: Duration::from_secs(300), access_life: None, redirect_repeated: false, ..Rules::default() }
}

/// Makes Connect's authorisation server for one platform.
pub(crate) fn authority(seed: u64, platform: Client) -> Authority {
    Authority::new(seed, NAMES, rules(), vec![platform])
}

/// Makes a flat OAuth error.
pub(crate) fn refused(status: u16, code: &str, text: impl Into<String>) -> Failure {
    let mut failure = Failure::new(status, code, "");
    failure.error = json!({ "error": code, "error_description": text.into() });
    failure
}

/// Tells whether a path is Connect's page, for standard or express accounts.
pub(crate) fn is_page(path: &str) -> bool {
    path == "/oauth/authorize" || path == "/express/oauth/authorize"
}

/// Counts a code or refresh token as it arrives.
pub(crate) fn arrived(authority: &Authority, path: &str, body: &[u8]) -> Option<Flight> {
    if path != "/oauth/token" {
        return None;
    }
    let params = Params::parse(body).ok()?;
    authority.arrived(params.get("refresh_token").or_else(|| params.get("code"))?)
}

fn problem(code: &str, words: &str) -> Response<Bytes> {
    html(400, page::problem(BRAND, "The account could not be connected", words, &[("Error", code)]))
}

fn unsafe_page(why: &Unsafe) -> Response<Bytes> {
    match why {
        Unsafe::Repeated(name) => problem("invalid_request", &format!("The parameter {name} came twice.")),
        Unsafe::Client(_) => problem("invalid_client", "No application matches the supplied client identifier."),
        Unsafe::Redirect(None) => problem("invalid_redirect_uri", "The platform has no redirect URI."),
        Unsafe::Redirect(Some(uri)) => problem(
            "invalid_redirect_uri",
            &format!(
                "Invalid redirect URI '{uri}'. Ensure this uri exactly matches one of the uris specified in your application settings."
            ),
        ),
    }
}

/// Answers the browser: shows Connect's page, or obeys what was pressed on it.
pub(crate) fn authorize(stripe: &Stripe, request: &Request<Bytes>) -> Response<Bytes> {
    let text = match *request.method() {
        Method::GET => request.uri().query().unwrap_or_default().as_bytes(),
        Method::POST => request.body(),
        _ => return problem("invalid_request", "This page is visited or sent, nothing else."),
    };
    let params = match Params::parse(text) {
        Ok(params) => params,
        Err(words) => return problem("invalid_request", words),
    };
    let authority = &stripe.inner.oauth;
    let asked = match Asked::read(authority, &params) {
        Ok(asked) => asked,
        Err(why) => return unsafe_page(&why),
    };
    let back = |code: &str, words: &str| asked.answer(&[("error", code), ("error_description", words)]);
    match params.get("response_type") {
        Some("code") => {}
        _ => return back("unsupported_response_type", "response_type must be code"),
    }
    let scope = params.get("scope").unwrap_or("read_only");
    if !["read_write", "read_only"].contains(&scope) {
        return back("invalid_scope", "Only one of the following scopes can be provided: 'read_write', 'read_only'.");
    }
    if let Err(words) = asked.challenge(authority, &params) {
        return back("invalid_request", words);
    }
    let consent = authority.dials().consent;
    let decision = match (request.method() == Method::POST, consent) {
        (true, _) => params.get("decision").unwrap_or_default(),
        (false, Consent::Ask) => return show(stripe, &asked, &params, scope, request.uri().path()),
        (false, Consent::Allow) => "allow",
        (false, Consent::Deny) => "deny",
    };
    match decision {
        "allow" => allow(stripe, &asked, &params, scope),
        "deny" => {
            authority.state().ledger.denied += 1;
            back("access_denied", "The user denied your request")
        }
        _ => problem("invalid_request", "The form says neither allow nor deny."),
    }
}

/// Lists the accounts that exist beside the platform's own.
fn accounts(stripe: &Stripe) -> BTreeSet<String> {
    let world = stripe.inner.world();
    let known = stripe.inner.config.connected.iter().chain(&world.connected).chain(world.accounts.keys());
    known.filter(|account| **account != world.own).cloned().collect()
}

fn allow(stripe: &Stripe, asked: &Asked, params: &Params, scope: &str) -> Response<Bytes> {
    let authority = &stripe.inner.oauth;
    let account = match params.get("account").unwrap_or(NEW) {
        NEW => stripe.inner.world().id("acct_1"),
        chosen if accounts(stripe).contains(chosen) => chosen.to_owned(),
        _ => return problem("invalid_request", "There is no such account."),
    };
    stripe.inner.world().connected.insert(account.clone());
    let Ok(challenge) = asked.challenge(authority, params) else {
        return problem("invalid_request", "code_challenge is not what it was");
    };
    // Writing includes reading: a refresh may narrow the scope.
    let scopes = if scope == "read_write" { vec!["read_write", "read_only"] } else { vec!["read_only"] };
    let agreed = Agreed {
        client: asked.client.id.clone(),
        redirect_uri: asked.redirect_uri.clone(),
        challenge,
        subject: account.clone(),
        facts: Facts::from([(ACCOUNT, account)]),
        shares: vec![Share { holder: PLATFORM, scopes: scopes.into_iter().map(str::to_owned).collect() }],
        offline: true,
    };
    // The clock needs the world's lock, which always comes before the authority's.
    let now = stripe.inner.millis();
    let code = authority.state().agree(agreed, now);
    asked.answer(&[("scope", scope), ("code", &code)])
}

fn show(stripe: &Stripe, asked: &Asked, params: &Params, scope: &str, path: &str) -> Response<Bytes> {
    let mut choices: Vec<Choice> = accounts(stripe)
        .into_iter()
        .map(|account| Choice {
            label: "Existing account".to_owned(),
            detail: account.clone(),
            value: account,
            chosen: false,
        })
        .collect();
    choices.push(Choice {
        value: NEW.to_owned(),
        label: "A new account".to_owned(),
        detail: "made when you allow".to_owned(),
        chosen: false,
    });
    if let Some(first) = choices.first_mut() {
        first.chosen = true;
    }
    let words =
        if scope == "read_write" { "See and change all of the account's data" } else { "See the account's data" };
    let carried =
        ["client_id", "redirect_uri", "response_type", "scope", "state", "code_challenge", "code_challenge_method"];
    let page = Page {
        brand: BRAND,
        app: &asked.client.name,
        title: format!("Connect your Stripe account to {}", asked.client.name),
        intro: format!("{} will be able to use your Stripe account until you disconnect it.", asked.client.name),
        action: path,
        hidden: carried.iter().filter_map(|name| params.get(name).map(|value| (*name, value))).collect(),
        chooser: Some(("Account", "account", choices)),
        parts: vec![(
            "What the platform may do",
            vec![Line { scope: scope.to_owned(), words: words.to_owned(), optional: false }],
        )],
        target: &asked.target,
    };
    html(200, page::consent(&page))
}

fn of_refusal(refusal: Refusal, given: &str) -> Failure {
    let (code, words) = match refusal {
        Refusal::CodeUsed => (
            "invalid_grant",
            "This authorization code has already been used. All tokens issued with this code have been revoked."
                .to_owned(),
        ),
        Refusal::CodeExpired => ("invalid_grant", format!("Authorization code expired: {given}")),
        Refusal::CodeUnknown => ("invalid_grant", format!("Authorization code does not exist: {given}")),
        Refusal::CodeOfOtherClient => {
            ("invalid_grant", format!("Authorization code provided does not belong to you: {given}"))
        }
        Refusal::RedirectMismatch => ("invalid_grant", "redirect_uri does not match.".to_owned()),
        Refusal::VerifierMissing | Refusal::VerifierWrong | Refusal::VerifierUnexpected => {
            ("invalid_grant", "code_verifier does not match.".to_owned())
        }
        Refusal::TokenOfOtherClient => {
            ("invalid_grant", format!("Refresh token provided does not belong to you: {given}"))
        }
        Refusal::TokenUnknown | Refusal::TokenExpired | Refusal::TokenRevoked | Refusal::TokenReplayed => {
            ("invalid_grant", format!("Refresh token does not exist: {given}"))
        }
        Refusal::ScopeWidened => ("invalid_scope", "The scope may not be wider than what was granted.".to_owned()),
    };
    refused(400, code, words)
}

/// Answers `POST /oauth/token`; the platform's key was checked before.
pub(crate) fn token(desk: &mut Desk<'_>, params: &Value) -> Result<Value, Failure> {
    let name = match form::text(params, "grant_type") {
        Some("authorization_code") => "code",
        Some("refresh_token") => "refresh_token",
        Some(other) => {
            return Err(refused(400, "unsupported_grant_type", format!("Grant type is not supported: {other}")));
        }
        None => return Err(refused(400, "invalid_request", "No grant type specified")),
    };
    let given =
        form::text(params, name).ok_or_else(|| refused(400, "invalid_request", format!("No {name} provided")))?;
    let narrowed = match form::text(params, "scope") {
        Some("read_only") => Some(vec!["read_only".to_owned()]),
        Some("read_write") | None => None,
        Some(other) => return Err(refused(400, "invalid_scope", format!("Invalid scope: {other}"))),
    };
    let (now, authority) = (desk.now.saturating_mul(1000), desk.world.oauth.clone());
    let mut state = authority.state();
    let platform = state.clients.keys().next().cloned().unwrap_or_default();
    let granted = if name == "code" {
        let verifier = form::text(params, "code_verifier");
        state.redeem(Redemption { client: &platform, code: given, redirect_uri: None, verifier }, now)
    } else {
        state.refresh(&platform, given, narrowed.as_deref(), now)
    };
    drop(state);
    let granted = granted.map_err(|refusal| of_refusal(refusal, given))?;
    let public = desk.id("pk_test_");
    // A reusable refresh token is not given again by the engine; Connect repeats it.
    Ok(reply(&granted, &public, (name == "refresh_token").then_some(given)))
}

fn reply(granted: &Granted, public: &str, refresh: Option<&str>) -> Value {
    let pair = granted.pairs.first();
    let refresh = pair.and_then(|pair| pair.refresh.as_deref()).or(refresh);
    let mut out = json!({
        "access_token": pair.map(|pair| &pair.access), "livemode": false, "refresh_token": refresh,
        "scope": pair.and_then(|pair| pair.scopes.first()), "stripe_publishable_key": public,
        "stripe_user_id": granted.facts.get(ACCOUNT), "token_type": "bearer",
    });
    if let (Some(seconds), Value::Object(map)) = (pair.and_then(|pair| pair.expires_in), &mut out) {
        map.insert("expires_in".to_owned(), json!(seconds));
    }
    out
}

/// What a key that is not the platform's own stands for.
#[derive(Debug)]
pub(crate) enum Held {
    /// A connected account, and whether it may only be read.
    Account(String, bool),
    /// An access token that has expired.
    Expired,
    /// Nothing that is honoured.
    Nothing,
}

/// Looks a key up among the access tokens.
pub(crate) fn held(authority: &Authority, key: &str, now: i64) -> Held {
    match authority.state().look(key, now) {
        Ok(bearer) => Held::Account(bearer.subject, bearer.scopes.iter().all(|scope| scope == "read_only")),
        Err(Refusal::TokenExpired) => Held::Expired,
        Err(_) => Held::Nothing,
    }
}

/// Answers `POST /oauth/deauthorize`: the account and its tokens are gone, and connected endpoints hear of it.
pub(crate) fn deauthorize(desk: &mut Desk<'_>, params: &Value) -> Result<Value, Failure> {
    let platform = desk.world.oauth.state().clients.keys().next().cloned().unwrap_or_default();
    let application = form::text(params, "client_id").unwrap_or(&platform);
    if application != platform {
        return Err(refused(401, "invalid_client", format!("No such application: {application}")));
    }
    let account = form::text(params, "stripe_user_id")
        .ok_or_else(|| refused(400, "invalid_request", "No stripe_user_id provided"))?;
    if !desk.world.connected.remove(account) {
        return Err(refused(
            401,
            "invalid_client",
            format!("This application is not connected to stripe account {account}, or that account does not exist."),
        ));
    }
    desk.world.oauth.state().revoke_grants(|_, subject, _| subject == account);
    let own = std::mem::replace(&mut desk.account, account.to_owned());
    desk.emit_row(
        "account.application.deauthorized",
        &json!({ "id": application, "object": "application", "name": "Emulated" }),
        &super::state::Links::new(),
        None,
    );
    desk.account = own;
    Ok(json!({ "stripe_user_id": account }))
}
