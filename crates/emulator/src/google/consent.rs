//! Google's authorisation page: each scope by itself, identity scopes apart, consent remembered.
//!
//! Facts from developers.google.com (using OAuth 2.0 for web server applications, read November 2026). That the answer
//! carries `iss` is not documented but seen since 2025. Unlike Google's, the boxes are ticked when the page opens.

use bytes::Bytes;
use http::{Method, Request, Response};

use super::token::USER;
use super::{GoogleProvider, Person};
use crate::gate::House;
use crate::oauth::endpoint::{Unsafe, is_scope};
use crate::oauth::page::{self, Brand, Choice, Line, Page};
use crate::oauth::state::{Agreed, Facts, Share};
use crate::oauth::{Asked, Consent, html, scopes_of};
use crate::params::Params;

/// Where the page stands.
pub(crate) const PATH: &str = "/o/oauth2/v2/auth";
const BRAND: Brand = Brand { name: "Google", mark: "G", colour: "#1a56b8" };
/// Scopes that a user grants by signing in; the page does not let them be unticked.
const IDENTITY: [&str; 5] = [
    "openid",
    "email",
    "profile",
    "https://www.googleapis.com/auth/userinfo.email",
    "https://www.googleapis.com/auth/userinfo.profile",
];

/// Draws the page for a request that is not redirected.
pub(crate) fn problem(code: &str, words: &str) -> Response<Bytes> {
    let status = if code == "invalid_client" { 401 } else { 400 };
    let title = "Access blocked: authorization error";
    html(status, page::problem(BRAND, title, words, &[("Error", &format!("{status}: {code}"))]))
}

fn unsafe_page(why: &Unsafe) -> Response<Bytes> {
    match why {
        Unsafe::Repeated(name) => problem("invalid_request", &format!("Parameter not allowed more than once: {name}")),
        Unsafe::Client(None) => problem("invalid_request", "Missing required parameter: client_id"),
        Unsafe::Client(Some(_)) => problem("invalid_client", "The OAuth client was not found."),
        Unsafe::Redirect(None) => problem("invalid_request", "Missing required parameter: redirect_uri"),
        Unsafe::Redirect(Some(uri)) => problem(
            "redirect_uri_mismatch",
            &format!(
                "The redirect URI in the request, {uri}, does not match the ones authorized for the OAuth client."
            ),
        ),
    }
}

/// Shows the page, or obeys what was pressed on it, or answers at once where nothing is to be asked.
pub(crate) fn authorize(google: &GoogleProvider, house: &House, request: &Request<Bytes>) -> Response<Bytes> {
    let text = match *request.method() {
        Method::GET => request.uri().query().unwrap_or_default().as_bytes(),
        Method::POST => request.body(),
        _ => return problem("invalid_request", "This page is visited or sent, nothing else."),
    };
    let params = match Params::parse(text) {
        Ok(params) => params,
        Err(words) => return problem("invalid_request", words),
    };
    let asked = match Asked::read(&google.authority, &params) {
        Ok(asked) => asked,
        Err(why) => return unsafe_page(&why),
    };
    if asked.redirect_uri.is_none() {
        return unsafe_page(&Unsafe::Redirect(None));
    }
    match params.get("response_type") {
        Some("code") => {}
        None => return problem("invalid_request", "Missing required parameter: response_type"),
        Some(other) => return problem("unsupported_response_type", &format!("Unsupported response_type: {other}")),
    }
    let scopes = scopes_of(params.get("scope"));
    if scopes.is_empty() {
        return problem("invalid_request", "Missing required parameter: scope");
    }
    let registered = |scope: &String| asked.client.scopes.as_ref().is_none_or(|known| known.contains(scope));
    let plausible = |scope: &String| is_scope(scope) && (scope.starts_with("https://") || is_identity(scope));
    if let Some(bad) = scopes.iter().find(|scope| !plausible(scope) || !registered(scope)) {
        return problem("invalid_scope", &format!("Some requested scopes were invalid: {bad}"));
    }
    if let Err(words) = asked.challenge(&google.authority, &params) {
        return problem("invalid_request", words);
    }
    let visit = Visit { google, house, asked: &asked, params: &params, scopes: &scopes };
    if request.method() == Method::POST { visit.pressed() } else { visit.arrived() }
}

fn is_identity(scope: &str) -> bool {
    IDENTITY.contains(&scope)
}

/// Gives scopes as Google reports them: the short names of two stand for long ones.
pub(crate) fn reported(scopes: Vec<String>) -> Vec<String> {
    let long = |scope: String| match scope.as_str() {
        "email" => "https://www.googleapis.com/auth/userinfo.email".to_owned(),
        "profile" => "https://www.googleapis.com/auth/userinfo.profile".to_owned(),
        _ => scope,
    };
    let mut out: Vec<String> = Vec::with_capacity(scopes.len());
    for scope in scopes.into_iter().map(long) {
        if !out.contains(&scope) {
            out.push(scope);
        }
    }
    out
}

/// One request to the page, checked.
struct Visit<'a> {
    google: &'a GoogleProvider,
    house: &'a House,
    asked: &'a Asked,
    params: &'a Params,
    scopes: &'a [String],
}

impl Visit<'_> {
    fn prompts(&self, wanted: &str) -> bool {
        self.params.get("prompt").is_some_and(|prompt| prompt.split(' ').any(|word| word == wanted))
    }

    /// Gives the person that the request itself names: by hint, or as the only one there is.
    fn person(&self) -> Option<&Person> {
        match (self.params.get("login_hint"), self.google.config.people.as_slice()) {
            (Some(hint), _) => self.google.person(hint),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }

    fn consented(&self, person: &Person) -> bool {
        let held = self.google.authority.state().consented(&self.asked.client.id, &person.sub);
        reported(self.scopes.to_vec()).iter().all(|scope| held.contains(scope))
    }

    fn arrived(&self) -> Response<Bytes> {
        let known = self.person().filter(|person| self.consented(person));
        let asks_again = self.prompts("consent") || self.prompts("select_account");
        if self.prompts("none") {
            return match known {
                Some(person) => self.grant(person, self.scopes.to_vec(), false),
                None => self.back("interaction_required"),
            };
        }
        match self.google.authority.dials().consent {
            Consent::Deny => self.denied(),
            Consent::Allow => match self.person().or(self.google.config.people.first()) {
                Some(person) => {
                    let silent = self.consented(person) && !self.prompts("consent");
                    self.grant(person, self.scopes.to_vec(), !silent)
                }
                None => problem("invalid_request", "Nobody has an account here."),
            },
            Consent::Ask => match known.filter(|_| !asks_again) {
                // Consent that covers the request is not asked for twice, and gives no second refresh token.
                Some(person) => self.grant(person, self.scopes.to_vec(), false),
                None => self.show(),
            },
        }
    }

    fn pressed(&self) -> Response<Bytes> {
        match self.params.get("decision") {
            Some("deny") => return self.denied(),
            Some("allow") => {}
            _ => return problem("invalid_request", "The form says neither allow nor deny."),
        }
        let Some(person) = self.params.get("account").and_then(|account| self.google.person(account)) else {
            return problem("invalid_request", "There is no such account.");
        };
        let ticked: Vec<&str> = self.params.all("grant").collect();
        if let Some(strange) = ticked.iter().find(|scope| self.scopes.iter().all(|asked| asked != *scope)) {
            return problem("invalid_scope", &format!("The form grants what was not asked for: {strange}"));
        }
        let granted: Vec<String> = self
            .scopes
            .iter()
            .filter(|scope| is_identity(scope) || ticked.contains(&scope.as_str()))
            .cloned()
            .collect();
        if granted.is_empty() { self.denied() } else { self.grant(person, granted, true) }
    }

    fn denied(&self) -> Response<Bytes> {
        self.google.authority.state().ledger.denied += 1;
        self.back("access_denied")
    }

    fn back(&self, error: &str) -> Response<Bytes> {
        self.asked.answer(&[("iss", self.google.issuer()), ("error", error)])
    }

    /// Writes the grant down and sends the browser back. A refresh token comes only with a consent that was shown.
    fn grant(&self, person: &Person, scopes: Vec<String>, shown: bool) -> Response<Bytes> {
        let (google, params) = (self.google, self.params);
        let mut scopes = reported(scopes);
        let mut state = google.authority.state();
        if params.get("include_granted_scopes") == Some("true") {
            let held = state.consented(&self.asked.client.id, &person.sub);
            scopes.extend(held);
            scopes = reported(scopes);
        }
        let mut facts = Facts::new();
        if let Some(nonce) = params.get("nonce") {
            facts.insert("nonce", nonce.to_owned());
        }
        drop(state);
        let Ok(challenge) = self.asked.challenge(&google.authority, params) else {
            return problem("invalid_request", "code_challenge is not what it was");
        };
        let withheld = google.authority.dials().withhold;
        scopes.retain(|scope| !withheld.contains(scope));
        let agreed = Agreed {
            client: self.asked.client.id.clone(),
            redirect_uri: self.asked.redirect_uri.clone(),
            challenge,
            subject: person.sub.clone(),
            facts,
            shares: vec![Share { holder: USER, scopes: scopes.clone() }],
            offline: shown && params.get("access_type") == Some("offline"),
        };
        state = google.authority.state();
        let code = state.agree(agreed, self.house.now());
        drop(state);
        let mut answer = vec![("iss", google.issuer()), ("code", code.as_str())];
        let scope = scopes.join(" ");
        answer.push(("scope", &scope));
        answer.push(("authuser", "0"));
        answer.push(("prompt", if shown { "consent" } else { "none" }));
        self.asked.answer(&answer)
    }

    fn show(&self) -> Response<Bytes> {
        let hinted = self.person().map(|person| person.sub.clone());
        let people = self.google.config.people.iter().enumerate();
        let choices = people
            .map(|(at, person)| Choice {
                value: person.sub.clone(),
                label: person.name.clone(),
                detail: person.email.clone(),
                chosen: hinted.as_ref().map_or(at == 0, |sub| *sub == person.sub),
            })
            .collect();
        let lines = |identity: bool| -> Vec<Line> {
            let of_kind = self.scopes.iter().filter(|scope| is_identity(scope) == identity);
            of_kind.map(|scope| Line { scope: scope.clone(), words: words(scope), optional: !identity }).collect()
        };
        let carried = [
            "client_id",
            "redirect_uri",
            "response_type",
            "scope",
            "state",
            "access_type",
            "prompt",
            "include_granted_scopes",
            "nonce",
            "code_challenge",
            "code_challenge_method",
        ];
        let page = Page {
            brand: BRAND,
            app: &self.asked.client.name,
            title: format!("{} wants access to your Google Account", self.asked.client.name),
            intro: "Choose what it may do. Each permission stands by itself.".to_owned(),
            action: PATH,
            hidden: carried.iter().filter_map(|name| self.params.get(name).map(|value| (*name, value))).collect(),
            chooser: Some(("Account", "account", choices)),
            parts: vec![("It will know who you are", lines(true)), ("It may", lines(false))],
            target: &self.asked.target,
        };
        html(200, page::consent(&page))
    }
}

/// Gives a scope in plain words.
fn words(scope: &str) -> String {
    let known = match scope {
        "openid" => "Know which account you use",
        "email" | "https://www.googleapis.com/auth/userinfo.email" => "See your e-mail address",
        "profile" | "https://www.googleapis.com/auth/userinfo.profile" => "See your name",
        "https://mail.google.com/" => "Read, write, send and permanently delete all your mail",
        "https://www.googleapis.com/auth/gmail.send" => "Send mail on your behalf",
        "https://www.googleapis.com/auth/gmail.readonly" => "Read your mail",
        "https://www.googleapis.com/auth/gmail.modify" => "Read, write and send mail",
        "https://www.googleapis.com/auth/gmail.metadata" => "See the headers of your mail, not its text",
        "https://www.googleapis.com/auth/calendar" => "See, change, share and delete your calendars",
        "https://www.googleapis.com/auth/calendar.readonly" => "See your calendars",
        "https://www.googleapis.com/auth/calendar.events" => "See and change events in your calendars",
        "https://www.googleapis.com/auth/calendar.events.readonly" => "See events in your calendars",
        _ => return format!("Use {scope}"),
    };
    known.to_owned()
}
