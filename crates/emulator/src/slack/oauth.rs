//! Slack's OAuth: the installation page, `oauth.v2.access` with rotation, `oauth.v2.exchange`, `auth.revoke`.
//!
//! Facts from docs.slack.dev (installing with OAuth, using token rotation, using PKCE; read November 2026) and the
//! requests of the official SDKs. Where Slack publishes no error word for a case, the nearest published one is used:
//! an expired code and a wrong PKCE verifier are both `invalid_code`.

use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::{Map, Value, json};

use super::SlackProvider;
use super::args::Args;
use super::methods::Outcome;
use super::world::{Happened, ts_text};
use crate::dice::Dice;
use crate::gate::House;
use crate::oauth::endpoint::{ClientRefusal, Unsafe, bearer, is_scope};
use crate::oauth::page::{self, Brand, Choice, Line, Page};
use crate::oauth::state::{Agreed, Bearer, Facts, Granted, Names, Pair, Redemption, Refusal, Share};
use crate::oauth::{Asked, Consent, Presented, Refresh, html, scopes_of};
use crate::params::Params;

const BRAND: Brand = Brand { name: "Slack", mark: "S", colour: "#611f69" };
const PATH: &str = "/oauth/v2/authorize";
const BOT: &str = "bot";
const USER: &str = "user";

/// How Slack's secrets look.
pub(crate) const NAMES: Names = Names {
    code: |dice| format!("{}.{}.{}", digits(dice), digits(dice), dice.name("", 64).to_ascii_lowercase()),
    access: |dice, holder, expires| {
        let prefix = if holder == BOT { "xoxb" } else { "xoxp" };
        if expires {
            dice.name(&format!("xoxe.{prefix}-1-"), 96)
        } else {
            format!("{prefix}-{}-{}-{}", digits(dice), digits(dice), dice.name("", 24))
        }
    },
    refresh: |dice| dice.name("xoxe-1-", 120),
};

fn digits(dice: &mut Dice) -> String {
    (1_000_000_000_000 + dice.below(8_999_999_999_999)).to_string()
}

/// Draws the page for a request that is not redirected.
pub(crate) fn problem(status: u16, code: &str, words: &str) -> Response<Bytes> {
    html(status, page::problem(BRAND, "Something went wrong", words, &[("Error", code)]))
}

fn unsafe_page(why: &Unsafe) -> Response<Bytes> {
    match why {
        Unsafe::Repeated(name) => problem(400, "invalid_arguments", &format!("The parameter {name} came twice.")),
        Unsafe::Client(_) => problem(400, "invalid_client_id", "Invalid client_id parameter."),
        Unsafe::Redirect(None) => problem(400, "bad_redirect_uri", "The app has no redirect URI."),
        Unsafe::Redirect(Some(uri)) => problem(
            400,
            "bad_redirect_uri",
            &format!("redirect_uri did not match any configured URIs. Passed URI: {uri}"),
        ),
    }
}

/// Shows the installation page, or obeys what was pressed on it.
pub(crate) fn authorize(slack: &SlackProvider, house: &House, request: &Request<Bytes>) -> Response<Bytes> {
    let text = match *request.method() {
        Method::GET => request.uri().query().unwrap_or_default().as_bytes(),
        Method::POST => request.body(),
        _ => return problem(405, "method_not_allowed", "This page is visited or sent, nothing else."),
    };
    let params = match Params::parse(text) {
        Ok(params) => params,
        Err(error) => return problem(400, "invalid_arguments", error),
    };
    let asked = match Asked::read(&slack.authority, &params) {
        Ok(asked) => asked,
        Err(why) => return unsafe_page(&why),
    };
    let (bot, user) = (scopes_of(params.get("scope")), scopes_of(params.get("user_scope")));
    if bot.is_empty() && user.is_empty() {
        return problem(400, "no_scopes", "The app asks for no scopes at all.");
    }
    let known = |scope: &String| {
        is_scope(scope) && asked.client.scopes.as_ref().is_none_or(|registered| registered.contains(scope))
    };
    if !bot.iter().chain(&user).all(known) {
        return asked.answer(&[("error", "invalid_scope")]);
    }
    let challenge = match asked.challenge(&slack.authority, &params) {
        Ok(challenge) => challenge,
        Err(words) => return asked.answer(&[("error", "invalid_request"), ("error_description", words)]),
    };
    let consent = slack.authority.dials().consent;
    let decision = match (request.method() == Method::POST, consent) {
        (true, _) => params.get("decision").unwrap_or_default(),
        (false, Consent::Ask) => return show(slack, &asked, &params, &bot, &user),
        (false, Consent::Allow) => "allow",
        (false, Consent::Deny) => "deny",
    };
    match decision {
        "allow" => {}
        "deny" => {
            slack.authority.state().ledger.denied += 1;
            return asked.answer(&[("error", "access_denied")]);
        }
        _ => return problem(400, "invalid_arguments", "The form says neither allow nor deny."),
    }
    let first = slack.config.workspaces.first().map(|workspace| workspace.id.as_str());
    let place = params.get("team").or(first).unwrap_or_default();
    let Some((subject, facts)) = place_of(slack, &asked.client.id, place) else {
        return problem(400, "team_not_found", "There is no such workspace to install to.");
    };
    let shares = [Share { holder: BOT, scopes: bot }, Share { holder: USER, scopes: user }];
    let shares = shares.into_iter().filter(|share| !share.scopes.is_empty()).collect();
    let agreed = Agreed {
        client: asked.client.id.clone(),
        redirect_uri: asked.redirect_uri.clone(),
        challenge,
        subject,
        facts,
        shares,
        offline: true,
    };
    let code = slack.authority.state().agree(agreed, house.now());
    asked.answer(&[("code", &code)])
}

/// Finds where an installation goes: the person who installs and what the token replies say of the place.
fn place_of(slack: &SlackProvider, client: &str, place: &str) -> Option<(String, Facts)> {
    let mut facts = Facts::new();
    let enterprise = slack.config.enterprise.as_ref();
    if let Some((id, _)) = enterprise {
        facts.insert("enterprise", id.clone());
    }
    let user = if enterprise.is_some_and(|(id, _)| id == place) {
        slack.config.workspaces.first()?.user.clone()
    } else {
        let workspace = slack.workspace(place)?;
        facts.insert("team", workspace.id.clone());
        workspace.user.clone()
    };
    let (bot_user, bot) = slack.bot(client, place);
    facts.insert("bot_user", bot_user);
    facts.insert("bot", bot);
    Some((user, facts))
}

fn show(slack: &SlackProvider, asked: &Asked, params: &Params, bot: &[String], user: &[String]) -> Response<Bytes> {
    let wanted = params.get("team");
    let mut choices: Vec<Choice> = slack
        .config
        .workspaces
        .iter()
        .map(|workspace| Choice {
            value: workspace.id.clone(),
            label: workspace.name.clone(),
            detail: workspace.id.clone(),
            chosen: wanted == Some(&workspace.id),
        })
        .collect();
    if let Some((id, name)) = &slack.config.enterprise {
        let label = format!("{name}: the whole organisation");
        choices.push(Choice { value: id.clone(), label, detail: id.clone(), chosen: wanted == Some(id) });
    }
    if choices.iter().all(|choice| !choice.chosen)
        && let Some(first) = choices.first_mut()
    {
        first.chosen = true;
    }
    let lines = |scopes: &[String]| -> Vec<Line> {
        scopes.iter().map(|scope| Line { scope: scope.clone(), words: words(scope), optional: false }).collect()
    };
    let carried =
        ["client_id", "scope", "user_scope", "redirect_uri", "state", "code_challenge", "code_challenge_method"];
    let page = Page {
        brand: BRAND,
        app: &asked.client.name,
        title: format!("{} is requesting permission to access a Slack workspace", asked.client.name),
        intro: "All of it, or nothing: Slack grants the scopes below together.".to_owned(),
        action: PATH,
        hidden: carried.iter().filter_map(|name| params.get(name).map(|value| (*name, value))).collect(),
        chooser: Some(("Workspace", "team", choices)),
        parts: vec![("What the app may do", lines(bot)), ("What the app may do on your behalf", lines(user))],
        target: &asked.target,
    };
    html(200, page::consent(&page))
}

/// Gives a scope in plain words.
fn words(scope: &str) -> String {
    let known = match scope {
        "chat:write" => "Send messages as the app",
        "chat:write.public" => "Send messages to channels it is not a member of",
        "channels:read" => "See the names and topics of public channels",
        "channels:history" => "Read messages in public channels it was added to",
        "groups:read" => "See the names and topics of private channels it was added to",
        "groups:history" => "Read messages in private channels it was added to",
        "im:read" => "See direct messages it takes part in",
        "im:history" => "Read direct messages it takes part in",
        "mpim:read" => "See group messages it takes part in",
        "mpim:history" => "Read group messages it takes part in",
        "users:read" => "See the people of the workspace",
        "users:read.email" => "See their e-mail addresses",
        "commands" => "Add slash commands",
        _ => return format!("Use {scope}"),
    };
    known.to_owned()
}

fn client_error(refusal: ClientRefusal) -> String {
    match refusal {
        ClientRefusal::Unknown => "invalid_client_id",
        ClientRefusal::Secret => "bad_client_secret",
        ClientRefusal::Twice => "invalid_arguments",
    }
    .to_owned()
}

fn client(slack: &SlackProvider, request: &Request<Bytes>, args: &Args) -> Result<String, String> {
    let found = Presented::read(request.headers(), &args.0).and_then(|presented| presented.client(&slack.authority));
    found.map(|client| client.id).map_err(|refusal| {
        slack.authority.state().ledger.client_refusals += 1;
        client_error(refusal)
    })
}

fn refusal(refusal: Refusal) -> String {
    match refusal {
        Refusal::CodeUsed => "code_already_used",
        Refusal::CodeUnknown
        | Refusal::CodeExpired
        | Refusal::CodeOfOtherClient
        | Refusal::VerifierMissing
        | Refusal::VerifierWrong
        | Refusal::VerifierUnexpected => "invalid_code",
        Refusal::RedirectMismatch => "bad_redirect_uri",
        Refusal::TokenUnknown
        | Refusal::TokenExpired
        | Refusal::TokenRevoked
        | Refusal::TokenReplayed
        | Refusal::TokenOfOtherClient => "invalid_refresh_token",
        Refusal::ScopeWidened => "invalid_scope",
    }
    .to_owned()
}

/// Answers `oauth.v2.access`: a code, or a refresh token, for tokens.
pub(crate) fn access(
    slack: &SlackProvider,
    house: &House,
    request: &Request<Bytes>,
    args: &Args,
) -> Result<Value, String> {
    let client = client(slack, request, args)?;
    let now = house.now();
    let granted = match args.get("grant_type").unwrap_or("authorization_code") {
        "authorization_code" => {
            let code = args.get("code").ok_or("invalid_code")?;
            let (redirect_uri, verifier) = (args.get("redirect_uri"), args.get("code_verifier"));
            let asked = Redemption { client: &client, code, redirect_uri, verifier };
            slack.authority.state().redeem(asked, now)
        }
        "refresh_token" => {
            let token = args.get("refresh_token").ok_or("invalid_refresh_token")?;
            slack.authority.state().refresh(&client, token, None, now)
        }
        _ => return Err("invalid_grant_type".to_owned()),
    };
    let granted = granted.map_err(refusal)?;
    let refreshed = args.get("grant_type") == Some("refresh_token");
    Ok(reply(slack, &granted, refreshed))
}

/// Writes a token reply: the bot's token at the top, the user's under `authed_user`; a refreshed user token stands
/// at the top, told by its `token_type`.
fn reply(slack: &SlackProvider, granted: &Granted, refreshed: bool) -> Value {
    let fact = |name: &str| granted.facts.get(name).cloned();
    let mut out = Map::new();
    out.insert("ok".to_owned(), json!(true));
    out.insert("app_id".to_owned(), json!(slack.config.app_id));
    let mut user = Map::new();
    user.insert("id".to_owned(), json!(granted.subject));
    for pair in &granted.pairs {
        let to = if pair.holder == BOT || refreshed { &mut out } else { &mut user };
        put(to, pair);
        if pair.holder == BOT {
            out.insert("bot_user_id".to_owned(), json!(fact("bot_user")));
        }
    }
    out.insert("authed_user".to_owned(), Value::Object(user));
    let team = fact("team").map(|id| json!({ "id": id, "name": slack.workspace(&id).map(|team| team.name.clone()) }));
    out.insert("is_enterprise_install".to_owned(), json!(team.is_none()));
    out.insert("team".to_owned(), json!(team));
    let enterprise = slack.config.enterprise.as_ref().filter(|_| fact("enterprise").is_some());
    out.insert("enterprise".to_owned(), json!(enterprise.map(|(id, name)| json!({ "id": id, "name": name }))));
    Value::Object(out)
}

fn put(map: &mut Map<String, Value>, pair: &Pair) {
    map.insert("access_token".to_owned(), json!(pair.access));
    map.insert("token_type".to_owned(), json!(pair.holder));
    map.insert("scope".to_owned(), json!(pair.scopes.join(",")));
    if let Some(refresh) = &pair.refresh {
        map.insert("refresh_token".to_owned(), json!(refresh));
    }
    if let Some(seconds) = pair.expires_in {
        map.insert("expires_in".to_owned(), json!(seconds));
    }
}

/// Answers `oauth.v2.exchange`: a token that never expires for a pair that rotates.
pub(crate) fn exchange(
    slack: &SlackProvider,
    house: &House,
    request: &Request<Bytes>,
    args: &Args,
) -> Result<Value, String> {
    let client = client(slack, request, args)?;
    let token = token_of(request, args).ok_or("invalid_token")?.to_owned();
    let now = house.now();
    let mut state = slack.authority.state();
    if !matches!(state.rules.refresh, Refresh::Rotating { .. }) {
        return Err("token_rotation_not_enabled".to_owned());
    }
    let held = match state.peek(&token, now) {
        Ok(held) if held.client == client => held,
        Err(Refusal::TokenRevoked) => return Err("token_already_exchanged".to_owned()),
        Ok(_) | Err(_) => return Err("invalid_token".to_owned()),
    };
    if held.expires.is_some() {
        return Err("token_already_exchanged".to_owned());
    }
    let _ = state.revoke(&token);
    let share = Share { holder: held.holder, scopes: held.scopes };
    let granted = state.give(&client, &held.subject, held.facts, share, now);
    drop(state);
    Ok(reply(slack, &granted, true))
}

/// Answers `auth.revoke`: this token and what refreshes it are gone.
pub(crate) fn revoke(
    slack: &SlackProvider,
    house: &House,
    request: &Request<Bytes>,
    args: &Args,
) -> Result<Value, String> {
    let token = token_of(request, args).ok_or("not_authed")?;
    let mut state = slack.authority.state();
    let held = state.look(token, house.now()).map_err(token_error)?;
    let revoked = !args.flag("test") && state.revoke(token);
    drop(state);
    if revoked {
        part(slack, house, &held, &[]);
    }
    Ok(json!({ "ok": true, "revoked": revoked }))
}

/// Answers `apps.uninstall`: everything the app was given in this workspace is gone.
pub(crate) fn uninstall(
    slack: &SlackProvider,
    house: &House,
    request: &Request<Bytes>,
    args: &Args,
) -> Result<Value, String> {
    let token = token_of(request, args).ok_or("not_authed")?;
    let held = slack.authority.state().look(token, house.now()).map_err(token_error)?;
    let client = client(slack, request, args)?;
    if client != held.client {
        return Err("client_id_token_mismatch".to_owned());
    }
    let place = |facts: &Facts| (facts.get("enterprise").cloned(), facts.get("team").cloned());
    let here = place(&held.facts);
    slack.authority.state().revoke_grants(|id, _, facts| id == client && place(facts) == here);
    part(slack, house, &held, &["app_uninstalled"]);
    Ok(json!({ "ok": true }))
}

/// Tells the app that tokens are gone; the order in which it hears of them is not promised.
fn part(slack: &SlackProvider, house: &House, held: &Bearer, more: &[&str]) {
    let team = held.facts.get("team").cloned().unwrap_or_default();
    let (mut users, mut bots) = (Vec::new(), Vec::new());
    let whole = !more.is_empty();
    if whole || held.holder == BOT {
        bots.extend(held.facts.get("bot_user").cloned());
    }
    if whole || held.holder == USER {
        users.push(held.subject.clone());
    }
    let mut world = slack.world();
    let at = ts_text(world.stamp(house.now()));
    let revoked = json!({ "type": "tokens_revoked", "tokens": { "oauth": users, "bot": bots }, "event_ts": at });
    let mut news = vec![("tokens_revoked", revoked)];
    news.extend(more.iter().map(|kind| (*kind, json!({ "type": kind, "event_ts": at }))));
    for (kind, event) in news {
        let (team, kind) = (team.clone(), kind.to_owned());
        world.happened.push(Happened { team, kind, event, members: None, parting: true });
    }
}

/// Gives the token of the header, or of the argument `token`.
pub(crate) fn token_of<'a>(request: &'a Request<Bytes>, args: &'a Args) -> Option<&'a str> {
    bearer(request.headers()).or_else(|| args.get("token"))
}

fn token_error(refusal: Refusal) -> String {
    match refusal {
        Refusal::TokenExpired => "token_expired",
        Refusal::TokenRevoked => "token_revoked",
        Refusal::CodeUnknown
        | Refusal::CodeUsed
        | Refusal::CodeExpired
        | Refusal::CodeOfOtherClient
        | Refusal::RedirectMismatch
        | Refusal::VerifierMissing
        | Refusal::VerifierWrong
        | Refusal::VerifierUnexpected
        | Refusal::TokenUnknown
        | Refusal::TokenReplayed
        | Refusal::TokenOfOtherClient
        | Refusal::ScopeWidened => "invalid_auth",
    }
    .to_owned()
}

/// Runs a method that needs a token; gives the token's scopes for `X-OAuth-Scopes` beside the answer.
pub(crate) fn with_token(
    slack: &SlackProvider,
    house: &House,
    request: &Request<Bytes>,
    args: &Args,
    run: impl FnOnce(&Bearer) -> Outcome,
) -> (Outcome, Option<String>) {
    let Some(token) = token_of(request, args) else { return (Err("not_authed".into()), None) };
    let held = slack.authority.state().look(token, house.now());
    match held {
        Ok(held) => (run(&held), Some(held.scopes.join(","))),
        Err(refusal) => (Err(token_error(refusal).into()), None),
    }
}

/// Answers `auth.test`.
pub(crate) fn test(slack: &SlackProvider, house: &House, held: &Bearer) -> Result<Value, String> {
    let fact = |name: &str| held.facts.get(name).cloned();
    let team = fact("team").and_then(|id| slack.workspace(&id).cloned());
    let enterprise = slack.config.enterprise.as_ref().filter(|_| fact("enterprise").is_some());
    let of_bot = held.holder == BOT;
    let mut out = json!({
        "ok": true,
        "url": format!("{}/", house.base_url()),
        "team": team.as_ref().map(|team| team.name.clone()).or_else(|| enterprise.map(|(_, name)| name.clone())),
        "user": if of_bot { "emulated_app" } else { "ada" },
        "team_id": team.map(|team| team.id).or_else(|| enterprise.map(|(id, _)| id.clone())),
        "user_id": if of_bot { fact("bot_user") } else { Some(held.subject.clone()) },
        "is_enterprise_install": fact("team").is_none(),
    });
    if let Value::Object(map) = &mut out {
        if of_bot {
            map.insert("bot_id".to_owned(), json!(fact("bot")));
        }
        if let Some((id, _)) = enterprise {
            map.insert("enterprise_id".to_owned(), json!(id));
        }
        if let Some(expires) = held.expires {
            map.insert("expires_in".to_owned(), json!(expires.saturating_sub(house.now()) / 1000));
        }
    }
    Ok(out)
}

/// Installs without page and code, into the first workspace, a bot token that never expires.
pub(crate) fn install_forever(slack: &SlackProvider, now: i64, scopes: &[&str]) -> String {
    let client = slack.config.clients.first().map(|client| client.id.clone()).unwrap_or_default();
    let place = slack.config.workspaces.first().map(|workspace| workspace.id.clone()).unwrap_or_default();
    let Some((subject, facts)) = place_of(slack, &client, &place) else { return String::new() };
    let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    let agreed = Agreed {
        client,
        redirect_uri: None,
        challenge: None,
        subject,
        facts,
        shares: vec![Share { holder: BOT, scopes }],
        offline: false,
    };
    let granted = slack.authority.state().mint_forever(agreed, now);
    granted.pairs.into_iter().next().map(|pair| pair.access).unwrap_or_default()
}
