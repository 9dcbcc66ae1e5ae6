//! Reads the sections of the configuration file, one function each: every key with its bounds and its default.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use palisade_core::store::{EVENT_ATTEMPTS_MAX, FEED_HORIZON_MIN};

use palisade_core::Environment;
use palisade_core::auth::connect::ReturnTargets;
use palisade_core::schedule::Schedule;
use palisade_core::worker::{ScheduleRule, is_event_type};
use palisade_core::{ConnectionId, StreamName};
use palisade_slack::HistoryRule;

use super::flows::read_flow;
use super::forward::{read_allow_from, read_destination, read_forwarding};
use super::reader::{Section, nearest};
use super::{
    Admin, Apps, Config, Connection, Credential, Endpoint, Known, Log, OutboxRules, SecretRef, Server, StoreAt, Sync,
    Workers,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
/// Priorities of events: nobody needs more steps.
const PRIORITIES: std::ops::RangeInclusive<i64> = -100..=100;
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn read_root(mut root: Section<'_, '_>, known: Known<'_>) -> Option<Config> {
    let server = read_server(root.section("server"));
    let store = read_store(root.section("store"));
    let master_key = read_vault(root.section("vault"));
    let log = read_log(root.section("log"));
    let workers = read_workers(root.section("workers"), known);
    let outbox = read_outbox(root.section("outbox"));
    let mut sync = read_sync(root.section("sync"));
    let apps = Apps { slack_history: read_slack(root.section("slack")) };
    let mut named = Vec::new();
    let mut connections = Vec::new();
    for section in root.sections("connection") {
        connections.extend(read_connection(section, known, &mut named));
    }
    let mut rules = Vec::new();
    for section in root.sections("schedule") {
        rules.extend(read_rule(section, known, &named));
    }
    sync.rules = rules;
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for section in root.sections("endpoint") {
        read_endpoint(section, known, &named, &mut endpoints);
    }
    let forwarding = read_forwarding(root.section("forwarding"));
    let mut destinations = Vec::new();
    for section in root.sections("destination") {
        read_destination(section, &mut destinations);
    }
    let mut flows = Vec::new();
    for section in root.sections("flow") {
        if server.as_ref().is_some_and(|server| server.origin().is_none()) {
            section.lacks("[[flow]] needs public_url in [server]: the provider sends people back to it");
        }
        read_flow(section, known, &mut flows);
    }
    root.finish();
    let (server, store, master_key) = (server?, store?, master_key?);
    Some(Config {
        server,
        store,
        master_key,
        log,
        workers,
        outbox,
        sync,
        apps,
        endpoints,
        connections,
        flows,
        destinations,
        forwarding,
    })
}

fn read_server(mut section: Section<'_, '_>) -> Option<Server> {
    let listen = match section.text("listen") {
        None => Some(SocketAddr::from(([127, 0, 0, 1], 8_080))),
        Some((offset, text)) => {
            let address = text.parse().ok();
            if address.is_none() {
                section.problem(
                    offset,
                    "listen in [server] must be an address with a port, for example \"127.0.0.1:8080\"",
                );
            }
            address
        }
    };
    let public_url = section.text("public_url").and_then(|(offset, text)| {
        let url = read_url(&text, true);
        if url.is_none() {
            section.problem(
                offset,
                "public_url in [server] must be an http or https URL, for example \"https://hooks.example.com\"",
            );
        }
        url
    });
    let admin = read_admin(&mut section, listen);
    let metrics_open = section.word("metrics", &[("token", false), ("open", true)]).is_some_and(|(_, open)| open);
    let body_bytes_max = section.number("body_bytes_max", 1_024..=64 * 1024 * 1024).unwrap_or(1024 * 1024);
    let request_timeout = section.duration("request_timeout", SECOND..=600 * SECOND).unwrap_or(30 * SECOND);
    let shutdown_grace = section.duration("shutdown_grace", SECOND..=600 * SECOND).unwrap_or(20 * SECOND);
    let connections_max = section.number("connections_max", 1..=65_536).unwrap_or(1_024);
    let trusted_proxies = section.values("trusted_proxies", "addresses or networks, for example [\"10.0.0.0/8\"]");
    let return_targets = read_return_targets(&mut section);
    section.finish();
    Some(Server {
        listen: listen?,
        public_url,
        admin: admin?,
        metrics_open,
        body_bytes_max: usize::try_from(body_bytes_max).ok()?,
        request_timeout,
        shutdown_grace,
        connections_max: usize::try_from(connections_max).ok()?,
        trusted_proxies,
        return_targets,
    })
}

fn read_return_targets(section: &mut Section<'_, '_>) -> ReturnTargets {
    let wanted = "https URLs without a query (http only to a loopback address), for example \
                  [\"https://app.example.com/integrations\"]";
    let targets: Vec<ReturnTarget> = section.values("return_targets", wanted);
    let all = targets.iter().try_fold(ReturnTargets::none(), |all, ReturnTarget(target)| all.allow(target));
    // Each was allowed by itself when it was read.
    all.unwrap_or_default()
}

/// A target that can be allowed.
struct ReturnTarget(String);

impl std::str::FromStr for ReturnTarget {
    type Err = palisade_core::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        ReturnTargets::none().allow(text).map(|_| Self(text.to_owned()))
    }
}

fn read_admin(section: &mut Section<'_, '_>, listen: Option<SocketAddr>) -> Option<Admin> {
    let (has_token, has_word) = (section.has("admin_token"), section.has("admin"));
    let token = section.secret("admin_token");
    let open = section.word("admin", &[("open", ())]);
    if has_token && has_word {
        section.lacks("[server] has both admin_token and admin: keep one of them");
        return None;
    }
    if !has_token && !has_word {
        section.lacks(
            "[server] says nothing about access: add admin_token = { env = \"PALISADE_ADMIN_TOKEN\" }, or \
             admin = \"open\" on a loopback address",
        );
    }
    if let Some((offset, ())) = open
        && listen.is_some_and(|address| !address.ip().is_loopback())
    {
        section.problem(
            offset,
            "admin = \"open\" in [server] is only accepted with a loopback address to listen on: use \
             admin_token = { env = \"PALISADE_ADMIN_TOKEN\" } instead",
        );
        return None;
    }
    token.map(Admin::Token).or(open.map(|_| Admin::Open))
}

fn read_store(mut section: Section<'_, '_>) -> Option<StoreAt> {
    let path = section.path("path").unwrap_or_else(|| PathBuf::from("palisade.db"));
    let retention = section.duration("retention", HOUR..=3_650 * DAY).unwrap_or(30 * DAY);
    let feed_horizon = section.duration("feed_horizon", FEED_HORIZON_MIN..=3_650 * DAY).unwrap_or(30 * DAY);
    let inbox_bytes_max = section.number("inbox_bytes_max", 1_000_000..=u64::from(u32::MAX) * 1_000);
    let free_bytes_min = section.number("free_bytes_min", 0..=u64::from(u32::MAX) * 1_000);
    section.finish();
    let free_bytes_min = free_bytes_min.unwrap_or(palisade_store::FREE_BYTES_MIN);
    Some(StoreAt { path, retention, feed_horizon, inbox_bytes_max, free_bytes_min })
}

fn read_vault(mut section: Section<'_, '_>) -> Option<SecretRef> {
    if !section.has("master_key") {
        section.lacks(
            "[vault] needs a master key to seal credentials with: make one with `openssl rand -base64 32`, keep it \
             safe, and add master_key = { env = \"PALISADE_MASTER_KEY\" }",
        );
    }
    let key = section.secret("master_key");
    section.finish();
    key
}

fn read_log(mut section: Section<'_, '_>) -> Log {
    let filter = section.text("filter").map_or_else(|| "info".to_owned(), |(_, text)| text);
    let json = section.word("format", &[("text", false), ("json", true)]).is_some_and(|(_, json)| json);
    section.finish();
    Log { filter, json }
}

fn read_slack(mut section: Section<'_, '_>) -> HistoryRule {
    let rules = [("full", HistoryRule::Full), ("limited", HistoryRule::Limited)];
    let history = section.word("history", &rules).map(|(_, rule)| rule).unwrap_or_default();
    section.finish();
    history
}

fn read_workers(mut section: Section<'_, '_>, known: Known<'_>) -> Workers {
    let count = |number: Option<u64>| number.and_then(|n| usize::try_from(n).ok()).unwrap_or(2);
    let events = count(section.number("events", 1..=64));
    let background = count(section.number("background", 1..=64));
    let concurrency = small(section.number("concurrency", 1..=1_024), 64);
    let group = section.number("group_concurrency", 1..=1_024);
    let group_concurrency = group.map(|number| small(Some(number), 1));
    let mut groups = BTreeMap::new();
    for (offset, name, number) in section.numbers("groups", 1..=1_024) {
        if !known.providers.contains(&name.as_str()) {
            let providers = known.providers.join(", ");
            section.problem(offset, format!("groups in [workers] names no provider: this program has {providers}"));
        }
        groups.insert(name, u32::try_from(number).unwrap_or(1));
    }
    let mut priorities = BTreeMap::new();
    for (offset, kind, number) in section.numbers("priorities", PRIORITIES) {
        if !is_event_type(&kind) {
            section.problem(
                offset,
                "priorities in [workers] names no event type: write it exactly (invoice.paid), as a prefix (invoice.*) or \
                 as * for all",
            );
        }
        priorities.insert(kind, i32::try_from(number).unwrap_or(0));
    }
    let attempts_max = small(section.number("attempts_max", 1..=u64::from(EVENT_ATTEMPTS_MAX)), EVENT_ATTEMPTS_MAX);
    let handler_timeout = section.duration("handler_timeout", SECOND..=HOUR).unwrap_or(30 * SECOND);
    section.finish();
    Workers { events, background, concurrency, group_concurrency, groups, priorities, attempts_max, handler_timeout }
}

fn read_outbox(mut section: Section<'_, '_>) -> OutboxRules {
    let attempts_max = small(section.number("attempts_max", 1..=100), 12);
    let patience = section.duration("patience", SECOND..=365 * DAY).unwrap_or(3 * DAY);
    section.finish();
    OutboxRules { attempts_max, patience }
}

fn read_sync(mut section: Section<'_, '_>) -> Sync {
    let full = read_schedule(&mut section, "full").unwrap_or_else(|| Schedule::every(7 * DAY));
    let incremental = read_schedule(&mut section, "incremental").unwrap_or_else(|| Schedule::every(900 * SECOND));
    let idle_max = section.duration("idle_max", SECOND..=365 * DAY).unwrap_or(HOUR);
    let page_size = small(section.number("page_size", 1..=10_000), 100);
    let read_ahead = section.flag("read_ahead").unwrap_or(false);
    section.finish();
    Sync { full, incremental, idle_max, rules: Vec::new(), page_size, read_ahead }
}

/// Takes a schedule.
fn read_schedule(section: &mut Section<'_, '_>, key: &'static str) -> Option<Schedule> {
    let (offset, text) = section.text(key)?;
    let schedule = text.parse().ok();
    if schedule.is_none() {
        section.problem(
            offset,
            format!(
                "{key} must be an interval (\"15m\") or a cron expression of five fields, perhaps with a time zone and a \
                 window (\"0 3 * * * Europe/London ~30m\")"
            ),
        );
    }
    schedule
}

/// Takes one of `[[schedule]]`: which streams it is of, and how often their runs come.
fn read_rule(mut section: Section<'_, '_>, known: Known<'_>, named: &[Named]) -> Option<ScheduleRule> {
    let provider = if section.has("provider") {
        Some(read_provider(&mut section, known.providers)?)
    } else {
        section.text("provider").map(|(_, text)| text)
    };
    let connection = section.text("connection");
    if let Some((offset, id)) = &connection
        && !named.iter().any(|(known, _)| known == id)
        && !id.starts_with(CONNECTED)
    {
        section.problem(*offset, "no [[connection]] has this id, and none is made by a flow with it (con_…)");
    }
    let stream = section.text("stream");
    let of = provider.as_deref().or_else(|| {
        let (_, id) = connection.as_ref()?;
        named.iter().find(|(known, _)| known == id)?.1.as_deref()
    });
    let walk = known.walks.iter().find(|(provider, _)| Some(*provider) == of);
    let without =
        stream.as_ref().zip(walk).filter(|((_, stream), (_, walk))| stream != walk && section.has("incremental"));
    if let Some(((offset, stream), (_, walk))) = without {
        section.problem(
            *offset,
            format!("changes of {stream} are found with those of all streams: write stream = \"{walk}\", or full for this one"),
        );
    }
    let stream = stream.map(|(_, text)| StreamName::from(text));
    let incremental = read_schedule(&mut section, "incremental");
    let full = read_schedule(&mut section, "full");
    if incremental.is_none() && full.is_none() {
        section.lacks("[[schedule]] needs incremental or full, for example incremental = \"1h\"");
    }
    if provider.is_none() && connection.is_none() {
        section.lacks("[[schedule]] needs a provider or a connection: for every stream write it into [sync]");
    }
    section.finish();
    let connection = connection.map(|(_, id)| ConnectionId::from(id));
    Some(ScheduleRule { connection, provider, stream, incremental, full })
}

fn small(number: Option<u64>, otherwise: u32) -> u32 {
    number.and_then(|n| u32::try_from(n).ok()).unwrap_or(otherwise)
}

/// The longest name of an endpoint, connection or tenant, in characters.
const NAME_CHARS_MAX: usize = 128;

/// Takes a name that can stand in a URL.
pub(super) fn read_name(section: &mut Section<'_, '_>, key: &'static str, example: &str) -> Option<(usize, String)> {
    let (offset, name) = section.needed(key, example)?;
    let lawful = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if name.len() > NAME_CHARS_MAX || !name.chars().all(lawful) || name.starts_with('.') {
        section.problem(
            offset,
            format!(
                "{key} must be at most {NAME_CHARS_MAX} letters, digits, '-', '_', '.' or ':', and not begin with '.'"
            ),
        );
        return None;
    }
    Some((offset, name))
}

fn read_provider(section: &mut Section<'_, '_>, providers: &[&str]) -> Option<String> {
    let (offset, provider) = section.needed("provider", "\"stripe\"")?;
    if providers.contains(&provider.as_str()) {
        return Some(provider);
    }
    section.problem(offset, format!("no such provider: this program has {}", providers.join(", ")));
    None
}

/// The longest name of an environment, in characters.
const ENVIRONMENT_CHARS_MAX: usize = 32;

/// Takes the name of an environment; production when none is given.
pub(super) fn read_environment(section: &mut Section<'_, '_>) -> Option<Environment> {
    let (offset, name) = match section.has("environment") {
        true => section.text("environment")?,
        false => {
            let _absent = section.text("environment");
            return Some(Environment::default());
        }
    };
    let lawful = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if name.len() > ENVIRONMENT_CHARS_MAX || !name.chars().all(lawful) {
        section.problem(
            offset,
            format!("environment must be at most {ENVIRONMENT_CHARS_MAX} small letters, digits, '-' or '_'"),
        );
        return None;
    }
    Some(Environment::new(name))
}

/// How the ids of connections begin that were made by a flow.
const CONNECTED: &str = "con_";

/// The id and provider of a connection, kept even when the rest of it is wrong, so that one mistake is told once.
type Named = (String, Option<String>);

fn read_connection(mut section: Section<'_, '_>, known: Known<'_>, named: &mut Vec<Named>) -> Option<Connection> {
    let id = read_name(&mut section, "id", "\"acme-stripe\"");
    let tenant = read_name(&mut section, "tenant", "\"acme\"");
    let provider = read_provider(&mut section, known.providers);
    let environment = read_environment(&mut section);
    let account = section.text("account").map(|(_, text)| text);
    let base_url = section.text("base_url").and_then(|(offset, text)| {
        let url = read_url(&text, false);
        if url.is_none() {
            section.problem(
                offset,
                "base_url in [[connection]] must be an https URL without a query (http only to a loopback address)",
            );
        }
        url
    });
    let credential = read_credential(&mut section, known, provider.as_deref());
    if let Some((offset, id)) = &id
        && named.iter().any(|(other, _)| other == id)
    {
        section.problem(*offset, "this connection id stands twice: give each connection its own");
    }
    section.finish();
    let (_, id) = id?;
    named.push((id.clone(), provider.clone()));
    let (_, tenant) = tenant?;
    let (provider, environment, credential) = (provider?, environment?, credential?);
    Some(Connection { id, tenant, provider, environment, account, base_url, credential })
}

/// Takes what authenticates a connection: an API key, or a service account where the provider has them.
fn read_credential(section: &mut Section<'_, '_>, known: Known<'_>, provider: Option<&str>) -> Option<Credential> {
    let (has_key, has_account) = (section.has("credential"), section.has("service_account"));
    let own_keys: Vec<_> = ["subject", "scopes"].into_iter().filter(|key| section.has(key)).collect();
    let key = section.secret("credential");
    let account = section.secret("service_account");
    let subject = section.text("subject").map(|(_, text)| text);
    let scopes: Vec<String> = section.values("scopes", "a list of texts, each a scope of the provider");
    let knows_accounts = provider.is_none_or(|provider| known.service_accounts.contains(&provider));
    match (has_key, has_account) {
        (true, true) => section.lacks("[[connection]] has both credential and service_account: keep one of them"),
        (false, false) => {
            section.lacks("[[connection]] needs credential = { env = \"NAME\" } or { file = \"path\" }");
        }
        (false, true) if !knows_accounts => section.lacks(format!(
            "this provider has no service accounts (only {} has): give credential instead of service_account",
            known.service_accounts.join(", ")
        )),
        (false, true) if !own_keys.contains(&"scopes") => section.lacks(
            "service_account in [[connection]] needs scopes: the permissions its tokens are asked for, for example \
             scopes = [\"https://www.googleapis.com/auth/calendar.readonly\"]",
        ),
        (true, false) if !own_keys.is_empty() => section.lacks(format!(
            "{} in [[connection]] belongs to service_account: leave it out beside credential",
            own_keys.join(" and ")
        )),
        (true, false) | (false, true) => {}
    }
    match (key, account) {
        (Some(key), None) => Some(Credential::Key(key)),
        (None, Some(key)) => Some(Credential::ServiceAccount { key, subject, scopes }),
        (Some(_), Some(_)) | (None, None) => None,
    }
}

fn read_endpoint(mut section: Section<'_, '_>, known: Known<'_>, named: &[Named], into: &mut Vec<Endpoint>) {
    let name = read_name(&mut section, "name", "\"stripe-acme\"");
    let provider = read_provider(&mut section, known.providers);
    let has_environment = section.has("environment");
    let environment = read_environment(&mut section);
    let has_connection = section.has("connection");
    let connection = section.text("connection");
    match &provider {
        _ if has_connection && has_environment => section.lacks(
            "environment in [[endpoint]] is for one without a connection: leave it out, the connection has its own",
        ),
        Some(provider) if !has_connection && !known.accounts.contains(&provider.as_str()) => {
            section.lacks(format!(
                "[[endpoint]] needs connection, for example connection = \"acme-stripe\": events of {provider} cannot \
                 be given to connections by the account they name"
            ));
        }
        Some(_) | None => {}
    }
    let secrets = section.secrets("secrets");
    let allow_from = read_allow_from(&mut section);
    let formerly = section.text("formerly");
    if let Some((offset, name)) = &name
        && into.iter().any(|other| other.name == *name)
    {
        section.problem(*offset, "this endpoint name stands twice: give each endpoint its own");
    }
    let formerly = formerly.map(|(offset, before)| {
        if before.is_empty() || name.as_ref().is_some_and(|(_, name)| *name == before) {
            section.problem(offset, "formerly is the name that the endpoint had before: leave it out if it had none");
        }
        before
    });
    if let Some((offset, id)) = &connection {
        match named.iter().find(|(other, _)| other == id) {
            // One that was connected in a browser: the file cannot know it.
            None if id.starts_with(CONNECTED) => {}
            None => {
                let near = nearest(id, named.iter().map(|(other, _)| other.as_str()));
                let hint = near.map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"));
                section.problem(*offset, format!("no [[connection]] of this file has that id{hint}"));
            }
            Some((_, Some(other))) if provider.as_ref().is_some_and(|provider| provider != other) => {
                section.problem(*offset, format!("that connection belongs to the provider {other}"));
            }
            Some(_) => {}
        }
    }
    section.finish();
    if let (Some((_, name)), Some(provider), Some(environment)) = (name, provider, environment) {
        let connection = connection.map(|(_, id)| id);
        into.push(Endpoint { name, provider, connection, environment, secrets, allow_from, formerly });
    }
}

/// Reads a base URL: scheme, host, perhaps a path, nothing else; the trailing slash goes. Plain http is lawful to
/// loopback, and anywhere where `plain` says so.
pub(super) fn read_url(text: &str, plain: bool) -> Option<String> {
    let uri: http::Uri = text.parse().ok()?;
    let host = uri.host().filter(|host| !host.is_empty())?;
    let authority = uri.authority()?;
    let loopback = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let scheme = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => plain || loopback,
        _ => false,
    };
    let clean = scheme && uri.query().is_none() && !text.contains('#') && !authority.as_str().contains('@');
    clean.then(|| text.trim_end_matches('/').to_owned())
}
