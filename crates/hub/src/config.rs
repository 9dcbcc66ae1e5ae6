//! The hub's configuration file: every key is read here, every unknown one refused with its line.
//!
//! Nothing of the file is trusted before [`Config::parse`] returned it, no value of it is repeated in a message, and
//! secrets are only places to read from ([`SecretRef`]). `docs/palisade.example.toml` documents every key; a test
//! keeps the two equal.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use palisade_core::store::EVENT_ATTEMPTS_MAX;
use toml::de::DeTable;

pub mod reader;
pub mod secret;

use crate::gate::Network;
use reader::{Problem, Problems, Section, line_of, nearest};
pub use secret::{Environment, SecretRef, process_environment};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// The largest configuration file read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The whole configuration.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Config {
    /// Addresses, access and caps.
    pub server: Server,
    /// Where everything is kept.
    pub store: StoreAt,
    /// Where the vault's master key comes from.
    pub master_key: SecretRef,
    /// What is logged and how.
    pub log: Log,
    /// How much is done at once.
    pub workers: Workers,
    /// How often streams are synced.
    pub sync: Sync,
    /// The URLs providers post to.
    pub endpoints: Vec<Endpoint>,
    /// The accounts.
    pub connections: Vec<Connection>,
}

/// Addresses, access and caps.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Server {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The address the world reaches the hub at, without a trailing slash.
    pub public_url: Option<String>,
    /// Who may see the operations page and the API.
    pub admin: Admin,
    /// Whether `/metrics` answers without the admin token.
    pub metrics_open: bool,
    /// The largest body of a delivery, in bytes.
    pub body_bytes_max: usize,
    /// How long a request may take, from its first byte to the answer.
    pub request_timeout: Duration,
    /// How long a shutdown waits for what is under way.
    pub shutdown_grace: Duration,
    /// Connections open at once; more wait to be accepted.
    pub connections_max: usize,
    /// Proxies that are believed when they say for whom they ask.
    pub trusted_proxies: Vec<Network>,
}

/// Who may see the operations page and the API.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: each is decided on")]
pub enum Admin {
    /// Whoever has the token.
    Token(SecretRef),
    /// Everybody who reaches the loopback address.
    Open,
}

/// Where everything is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct StoreAt {
    /// The SQLite file; its folder must exist.
    pub path: PathBuf,
    /// How long handled events with their raw bodies, finished jobs and calls are kept.
    pub retention: Duration,
}

/// What is logged and how.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Log {
    /// Directives as of `tracing_subscriber::EnvFilter` (`info,palisade_hub=debug`).
    pub filter: String,
    /// JSON lines instead of text.
    pub json: bool,
}

/// How much is done at once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Workers {
    /// Tasks that handle events.
    pub events: usize,
    /// Tasks that run syncs and chores.
    pub background: usize,
    /// Jobs under way at once per task.
    pub concurrency: u32,
    /// Attempts of an event before it is dead.
    pub attempts_max: u32,
    /// Time one handler may take for one event.
    pub handler_timeout: Duration,
}

/// How often streams are synced.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Sync {
    /// Time from one full run of a stream to the next.
    pub full_every: Duration,
    /// Time from one incremental run of a stream to the next.
    pub incremental_every: Duration,
    /// Records asked for per page.
    pub page_size: u32,
}

/// A URL a provider posts to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Endpoint {
    /// Its name, the last part of `/webhooks/{name}`.
    pub name: String,
    /// The provider.
    pub provider: String,
    /// The connection its events belong to.
    pub connection: String,
    /// The signing secrets; several while one is rotated.
    pub secrets: Vec<SecretRef>,
}

/// One tenant's account at a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Connection {
    /// Its identifier.
    pub id: String,
    /// Its tenant.
    pub tenant: String,
    /// The provider.
    pub provider: String,
    /// The account at the provider.
    pub account: Option<String>,
    /// Another base URL than the provider's.
    pub base_url: Option<String>,
    /// Where the API key is read from.
    pub credential: SecretRef,
}

/// Says everything that is wrong with a configuration file.
#[derive(Debug)]
pub struct ConfigError {
    file: String,
    problems: Vec<Problem>,
}

impl ConfigError {
    fn one(path: &Path, text: impl Into<String>) -> Self {
        Self { file: path.display().to_string(), problems: vec![Problem { line: None, text: text.into() }] }
    }

    /// Returns the problems in order of their lines.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            match problem.line {
                Some(line) => write!(f, "{}:{line}: {}", self.file, problem.text)?,
                None => write!(f, "{}: {}", self.file, problem.text)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads a configuration file. `providers` are the names of the adapters that are built in.
    ///
    /// # Errors
    /// Every problem of the file, each with its line.
    pub fn load(path: &Path, providers: &[&str]) -> Result<Self, ConfigError> {
        let cannot = |e: std::io::Error| {
            ConfigError::one(path, format!("cannot be read ({}): check the path given with --config", e.kind()))
        };
        let size = std::fs::metadata(path).map_err(cannot)?.len();
        if size > FILE_BYTES_MAX {
            return Err(ConfigError::one(
                path,
                format!("is larger than {FILE_BYTES_MAX} bytes: is it the right file?"),
            ));
        }
        let bytes = std::fs::read(path).map_err(cannot)?;
        let Ok(text) = String::from_utf8(bytes) else {
            return Err(ConfigError::one(path, "is not UTF-8 text: save it as UTF-8"));
        };
        Self::parse(&text, providers).map_err(|problems| ConfigError { file: path.display().to_string(), problems })
    }

    /// Reads the text of a configuration file.
    ///
    /// # Errors
    /// Every problem of the text, each with its line.
    pub fn parse(text: &str, providers: &[&str]) -> Result<Self, Vec<Problem>> {
        read(text, providers).0
    }
}

/// Reads the text; also tells which keys were asked for, for the test that keeps the example complete.
fn read(text: &str, providers: &[&str]) -> (Result<Config, Vec<Problem>>, Vec<String>) {
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(e) => {
            // The message of the parser is used, its excerpt of the file is not: it could hold a secret.
            let line = e.span().map(|span| line_of(text, span.start));
            let text = format!("this is not TOML: {}", e.message().replace('\n', ", "));
            return (Err(vec![Problem { line, text }]), Vec::new());
        }
    };
    let problems = Problems::new(text);
    let config = Section::root(table, &problems);
    let config = read_root(config, providers);
    let (list, asked) = problems.finish();
    match config {
        Some(config) if list.is_empty() => (Ok(config), asked),
        _ => (Err(list), asked),
    }
}

fn read_root(mut root: Section<'_, '_>, providers: &[&str]) -> Option<Config> {
    let server = read_server(root.section("server"));
    let store = read_store(root.section("store"));
    let master_key = read_vault(root.section("vault"));
    let log = read_log(root.section("log"));
    let workers = read_workers(root.section("workers"));
    let sync = read_sync(root.section("sync"));
    let mut named = Vec::new();
    let mut connections = Vec::new();
    for section in root.sections("connection") {
        connections.extend(read_connection(section, providers, &mut named));
    }
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for section in root.sections("endpoint") {
        read_endpoint(section, providers, &named, &mut endpoints);
    }
    root.finish();
    Some(Config { server: server?, store: store?, master_key: master_key?, log, workers, sync, endpoints, connections })
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
    })
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
    section.finish();
    Some(StoreAt { path, retention })
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

fn read_workers(mut section: Section<'_, '_>) -> Workers {
    let count = |number: Option<u64>| number.and_then(|n| usize::try_from(n).ok()).unwrap_or(2);
    let events = count(section.number("events", 1..=64));
    let background = count(section.number("background", 1..=64));
    let concurrency = small(section.number("concurrency", 1..=1_024), 64);
    let attempts_max = small(section.number("attempts_max", 1..=u64::from(EVENT_ATTEMPTS_MAX)), EVENT_ATTEMPTS_MAX);
    let handler_timeout = section.duration("handler_timeout", SECOND..=HOUR).unwrap_or(30 * SECOND);
    section.finish();
    Workers { events, background, concurrency, attempts_max, handler_timeout }
}

fn read_sync(mut section: Section<'_, '_>) -> Sync {
    let full_every = section.duration("full_every", 60 * SECOND..=3_650 * DAY).unwrap_or(7 * DAY);
    let incremental_every = section.duration("incremental_every", SECOND..=365 * DAY).unwrap_or(900 * SECOND);
    let page_size = small(section.number("page_size", 1..=10_000), 100);
    section.finish();
    Sync { full_every, incremental_every, page_size }
}

fn small(number: Option<u64>, otherwise: u32) -> u32 {
    number.and_then(|n| u32::try_from(n).ok()).unwrap_or(otherwise)
}

/// The longest name of an endpoint, connection or tenant, in characters.
const NAME_CHARS_MAX: usize = 128;

/// Takes a name that can stand in a URL.
fn read_name(section: &mut Section<'_, '_>, key: &'static str, example: &str) -> Option<(usize, String)> {
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

/// The id and provider of a connection, kept even when the rest of it is wrong, so that one mistake is told once.
type Named = (String, Option<String>);

fn read_connection(mut section: Section<'_, '_>, providers: &[&str], named: &mut Vec<Named>) -> Option<Connection> {
    let id = read_name(&mut section, "id", "\"acme-stripe\"");
    let tenant = read_name(&mut section, "tenant", "\"acme\"");
    let provider = read_provider(&mut section, providers);
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
    if !section.has("credential") {
        section.lacks("[[connection]] needs credential = { env = \"NAME\" } or { file = \"path\" }");
    }
    let credential = section.secret("credential");
    if let Some((offset, id)) = &id
        && named.iter().any(|(other, _)| other == id)
    {
        section.problem(*offset, "this connection id stands twice: give each connection its own");
    }
    section.finish();
    let (_, id) = id?;
    named.push((id.clone(), provider.clone()));
    Some(Connection { id, tenant: tenant?.1, provider: provider?, account, base_url, credential: credential? })
}

fn read_endpoint(mut section: Section<'_, '_>, providers: &[&str], named: &[Named], into: &mut Vec<Endpoint>) {
    let name = read_name(&mut section, "name", "\"stripe-acme\"");
    let provider = read_provider(&mut section, providers);
    let connection = section.needed("connection", "\"acme-stripe\"");
    let secrets = section.secrets("secrets");
    if let Some((offset, name)) = &name
        && into.iter().any(|other| other.name == *name)
    {
        section.problem(*offset, "this endpoint name stands twice: give each endpoint its own");
    }
    if let Some((offset, id)) = &connection {
        match named.iter().find(|(other, _)| other == id) {
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
    if let (Some((_, name)), Some(provider), Some((_, connection))) = (name, provider, connection) {
        into.push(Endpoint { name, provider, connection, secrets });
    }
}

/// Reads a base URL: scheme, host, perhaps a path, nothing else; the trailing slash goes. Plain http is lawful to
/// loopback, and anywhere where `plain` says so.
fn read_url(text: &str, plain: bool) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[server]
admin = "open"
[vault]
master_key = { env = "MASTER" }
[[connection]]
id = "acme-stripe"
tenant = "acme"
provider = "stripe"
credential = { env = "KEY" }
[[endpoint]]
name = "stripe"
provider = "stripe"
connection = "acme-stripe"
secrets = [{ env = "HOOK" }]
"#;

    #[track_caller]
    fn check(from: &str, to: &str, line: Option<usize>, expected: &[&str]) {
        assert!(GOOD.contains(from), "the case does not apply");
        let text = GOOD.replacen(from, to, 1);
        let problems = Config::parse(&text, &["stripe"]).expect_err("it must be refused");
        let all: Vec<String> = problems.iter().map(|p| format!("{:?} {}", p.line, p.text)).collect();
        assert_eq!(problems.len(), 1, "one problem is told once: {all:#?}");
        assert_eq!(problems[0].line, line, "{all:#?}");
        for word in expected {
            assert!(problems[0].text.contains(word), "{word} in {all:#?}");
        }
        assert!(!problems[0].text.contains("sk_live_canary"), "a value of the file is repeated: {all:#?}");
    }

    #[test]
    fn a_good_file_is_read() {
        let config = Config::parse(GOOD, &["stripe"]).unwrap();
        assert_eq!(config.server.admin, Admin::Open);
        assert_eq!(config.endpoints[0].secrets, [SecretRef::Env("HOOK".to_owned())]);
        assert_eq!(config.connections[0].credential, SecretRef::Env("KEY".to_owned()));
    }

    // Fails when a key is not asked to be known, when a line is off by one, or when a value is put into a message.
    #[test]
    fn each_mistake_is_one_sentence_with_its_line() {
        check(
            "admin = \"open\"",
            "lisen = \"127.0.0.1:1\"\nadmin = \"open\"",
            Some(3),
            &["unknown key \"lisen\" in [server]", "did you mean \"listen\"?"],
        );
        check("[vault]", "[valut]\na = 1\n[vault]", Some(4), &["unknown key \"valut\"", "\"vault\""]);
        check("admin = \"open\"", "", Some(2), &["says nothing about access", "admin_token"]);
        check("admin = \"open\"", "admin = \"sk_live_canary\"", Some(3), &["\"open\""]);
        check("admin = \"open\"", "admin_token = \"sk_live_canary\"", Some(3), &["literal value", "{ env = "]);
        check("admin = \"open\"", "admin = \"open\"\nlisten = \"0.0.0.0:80\"", Some(3), &["loopback"]);
        check("admin = \"open\"", "admin = \"open\"\nlisten = \"8080\"", Some(4), &["127.0.0.1:8080"]);
        check("admin = \"open\"", "admin = \"open\"\nadmin_token = { env = \"A\" }", Some(2), &["keep one"]);
        check("admin = \"open\"", "admin = \"open\"\nbody_bytes_max = 5", Some(4), &["whole number from 1024"]);
        check("admin = \"open\"", "admin = \"open\"\nrequest_timeout = 5", Some(4), &["\"30s\""]);
        check("admin = \"open\"", "admin = \"open\"\ntrusted_proxies = \"10.0.0.1\"", Some(4), &["10.0.0.0/8"]);
        check(
            "admin = \"open\"",
            "admin = \"open\"\ntrusted_proxies = [\"10.0.0.1\", \"x\"]",
            Some(4),
            &["10.0.0.0/8"],
        );
        check("master_key = { env = \"MASTER\" }", "", Some(4), &["openssl rand -base64 32"]);
        check("{ env = \"KEY\" }", "\"sk_live_canary\"", Some(10), &["must not stand in this file"]);
        check("{ env = \"KEY\" }", "1234", Some(10), &["must not stand in this file"]);
        check("{ env = \"KEY\" }", "{ value = \"sk_live_canary\" }", Some(10), &["exactly"]);
        check("{ env = \"KEY\" }", "{ env = \"A\", file = \"b\" }", Some(10), &["exactly"]);
        check("[{ env = \"HOOK\" }]", "[\"sk_live_canary\"]", Some(15), &["literal value"]);
        check(
            "credential = { env = \"KEY\" }",
            "api_key = \"sk_live_canary\"\ncredential = { env = \"KEY\" }",
            Some(10),
            &["unknown key \"api_key\""],
        );
        check("provider = \"stripe\"", "provider = \"stirpe\"", Some(9), &["no such provider"]);
        check(
            "connection = \"acme-stripe\"",
            "connection = \"acme-stirpe\"",
            Some(14),
            &["did you mean \"acme-stripe\"?"],
        );
        check("tenant = \"acme\"", "tenant = \"a/b\"", Some(8), &["letters"]);
        check("credential", "base_url = \"http://example.com\"\ncredential", Some(10), &["https"]);
        check("credential", "base_url = \"https://u:p@example.com\"\ncredential", Some(10), &["https"]);
        check("[[endpoint]]", "[[endpoint", Some(11), &["not TOML"]);
        check("\"MASTER\"", "\"sk_live_canary", Some(6), &["not TOML"]);
    }

    #[test]
    fn a_base_url_loses_its_slash_and_loopback_may_be_plain() {
        for (text, expected) in [
            ("https://api.stripe.com/", Some("https://api.stripe.com")),
            ("http://127.0.0.1:9/x/", Some("http://127.0.0.1:9/x")),
            ("http://[::1]:9", Some("http://[::1]:9")),
            ("http://localhost:9", Some("http://localhost:9")),
            ("http://10.0.0.1", None),
            ("ftp://127.0.0.1", None),
            ("https://a?b=c", None),
            ("/path", None),
            ("", None),
        ] {
            assert_eq!(read_url(text, false).as_deref(), expected, "{text}");
        }
    }

    // Fails when a key is added without a word in the example, or stays there after it is gone.
    #[test]
    fn the_example_documents_every_key_and_is_accepted() {
        let example = include_str!("../../../docs/palisade.example.toml");
        let (config, asked) = read(example, &["stripe"]);
        config.expect("the example is accepted as it is");
        // Every optional key stands in the example behind one '#': uncommented it must still be read.
        let full: String = example
            .lines()
            .map(|line| match line.strip_prefix("#") {
                Some(key)
                    if key.split('=').next().is_some_and(|k| {
                        k.trim().chars().all(|c| c.is_ascii_lowercase() || c == '_')
                            && k.ends_with(' ')
                            && !k.starts_with(' ')
                    }) =>
                {
                    key
                }
                _ => line,
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        for key in &asked {
            let (_, last) = key.rsplit_once('.').unwrap_or(("", key));
            let stands = full.lines().any(|line| {
                line.starts_with(&format!("{last} =")) || line == format!("[{last}]") || line == format!("[[{last}]]")
            });
            assert!(stands, "{key} is missing in docs/palisade.example.toml");
        }
        let only_known = read(&full.replace("admin = \"open\"", ""), &["stripe"]);
        only_known.0.expect("every documented key is known");
    }
}
