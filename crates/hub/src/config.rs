//! The hub's configuration file: every key is read here, every unknown one refused with its line.
//!
//! Nothing of the file is trusted before [`Config::parse`] returned it, no value of it is repeated in a message, and
//! secrets are only places to read from ([`SecretRef`]). `docs/palisade.example.toml` documents every key; a test
//! keeps the two equal.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

pub mod flows;
mod forward;
pub mod reader;
pub mod secret;
mod sections;

use palisade_core::Environment;
use palisade_core::auth::connect::ReturnTargets;
use palisade_core::forward::ForwardSettings;
use palisade_core::net::Network;
use palisade_core::schedule::Schedule;
use palisade_core::worker::ScheduleRule;
use palisade_slack::HistoryRule;

use crate::senders::AllowFrom;
pub use flows::{Flow, Known, StandardFlow};
pub use forward::Destination;
pub(crate) use forward::{CONCURRENCY, TIMEOUT};
use reader::{Problem, Problems, Section, line_of};
pub use secret::{SecretRef, Variables, process_variables};
use sections::read_root;

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
    /// How long calls of the outbox are tried.
    pub outbox: OutboxRules,
    /// How often streams are synced.
    pub sync: Sync,
    /// What the product's apps may do at their providers.
    pub apps: Apps,
    /// The URLs providers post to.
    pub endpoints: Vec<Endpoint>,
    /// The accounts.
    pub connections: Vec<Connection>,
    /// The ways accounts are connected in a browser.
    pub flows: Vec<Flow>,
    /// The URLs events are forwarded to.
    pub destinations: Vec<Destination>,
    /// When somebody is told that one fails, and when it is given up.
    pub forwarding: ForwardSettings,
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
    /// Where a browser may be sent after connecting an account.
    pub return_targets: ReturnTargets,
}

impl Server {
    /// Returns the address browsers reach the hub at: the public one, or that of a loopback listener.
    #[must_use]
    pub fn origin(&self) -> Option<String> {
        let local =
            || (self.listen.ip().is_loopback() && self.listen.port() != 0).then(|| format!("http://{}", self.listen));
        self.public_url.clone().or_else(local)
    }
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
    /// How long handled events with their raw bodies, dead jobs and calls are kept.
    pub retention: Duration,
    /// How long deletions stay in the change feed.
    pub feed_horizon: Duration,
    /// How many bytes the inbox may keep; beyond it handled events go before their time.
    pub inbox_bytes_max: Option<u64>,
    /// How many bytes must stay free on the disk; below it deliveries are answered 503.
    pub free_bytes_min: u64,
}

/// What is logged and how.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Log {
    /// A level, or levels per target, as `tracing_subscriber::filter::Targets` reads them (`info,palisade_hub=debug`).
    pub filter: String,
    /// JSON lines instead of text.
    pub json: bool,
}

/// What the product's apps may do at their providers, where that differs from one app to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Apps {
    /// How fast Slack lets the app read messages.
    pub slack_history: HistoryRule,
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
    /// Jobs of one provider or destination under way at once per task; half of `concurrency` otherwise.
    pub group_concurrency: Option<u32>,
    /// The same for single providers.
    pub groups: BTreeMap<String, u32>,
    /// The priorities of events by type; 0 for those it does not name.
    pub priorities: BTreeMap<String, i32>,
    /// Attempts of an event before it is dead.
    pub attempts_max: u32,
    /// Time one handler may take for one event.
    pub handler_timeout: Duration,
}

/// How long calls of the outbox are tried.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct OutboxRules {
    /// Attempts of a call before it is given up; waiting for limits and reconnects is none.
    pub attempts_max: u32,
    /// How long a call may wait beyond its moment before it is given up.
    pub patience: Duration,
}

/// How often streams are synced.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Sync {
    /// When full runs of a stream come.
    pub full: Schedule,
    /// When incremental runs of a stream come.
    pub incremental: Schedule,
    /// What the interval of incremental runs grows to at most, where nothing tells of changes and none is found.
    pub idle_max: Duration,
    /// What says otherwise of some streams.
    pub rules: Vec<ScheduleRule>,
    /// Records asked for per page.
    pub page_size: u32,
    /// Whether the next page of a run is read while one commits.
    pub read_ahead: bool,
}

/// A URL a provider posts to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Endpoint {
    /// Its name, the last part of `/webhooks/{name}`.
    pub name: String,
    /// The provider.
    pub provider: String,
    /// The connection its events belong to; without one each belongs to the connections of the account it names.
    pub connection: Option<String>,
    /// The environment whose connections those are.
    pub environment: Environment,
    /// The signing secrets; several while one is rotated.
    pub secrets: Vec<SecretRef>,
    /// From where its deliveries may come; from anywhere if nothing is said.
    pub allow_from: Option<AllowFrom>,
    /// The name it had before it was renamed: its events are kept under that still.
    pub formerly: Option<String>,
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
    /// The environment it belongs to.
    pub environment: Environment,
    /// The account at the provider.
    pub account: Option<String>,
    /// Another base URL than the provider's.
    pub base_url: Option<String>,
    /// What authenticates it.
    pub credential: Credential,
}

/// What authenticates a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: each is read in one place")]
pub enum Credential {
    /// An API key.
    Key(SecretRef),
    /// A service account.
    ServiceAccount {
        /// Its key file.
        key: SecretRef,
        /// The user it acts for.
        subject: Option<String>,
        /// The scopes of its tokens.
        scopes: Vec<String>,
    },
}

impl Credential {
    /// Returns where its secret is read from, and what the configuration calls that.
    #[must_use]
    pub fn place(&self) -> (&'static str, &SecretRef) {
        match self {
            Self::Key(place) => ("credential", place),
            Self::ServiceAccount { key, .. } => ("service_account", key),
        }
    }
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
    /// Reads a configuration file. `known` says what is built in.
    ///
    /// # Errors
    /// Every problem of the file, each with its line.
    pub fn load(path: &Path, known: Known<'_>) -> Result<Self, ConfigError> {
        let cannot = |e: std::io::Error| {
            let text = if e.kind() == std::io::ErrorKind::NotFound {
                "there is no such file: name one with --config, or write one as docs/palisade.example.toml explains"
                    .to_owned()
            } else {
                format!("cannot be read ({}): check the path given with --config", e.kind())
            };
            ConfigError::one(path, text)
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
        Self::parse(&text, known).map_err(|problems| ConfigError { file: path.display().to_string(), problems })
    }

    /// Reads the text of a configuration file.
    ///
    /// # Errors
    /// Every problem of the text, each with its line.
    pub fn parse(text: &str, known: Known<'_>) -> Result<Self, Vec<Problem>> {
        read(text, known).0
    }

    /// Returns where a flow sends browsers back to: what is registered at the provider. `None` when nobody knows where
    /// the hub is reached.
    #[must_use]
    pub fn callback_url(&self, flow: &Flow) -> Option<String> {
        let origin = self.server.origin()?;
        Some(format!("{origin}/auth/{}/callback", flow.name()))
    }
}

/// Reads the text; also tells which keys were asked for, for the test that keeps the example complete.
fn read(text: &str, known: Known<'_>) -> (Result<Config, Vec<Problem>>, Vec<String>) {
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
    let config = read_root(config, known);
    let (list, asked) = problems.finish();
    match config {
        Some(config) if list.is_empty() => (Ok(config), asked),
        _ => (Err(list), asked),
    }
}

#[cfg(test)]
mod tests;
