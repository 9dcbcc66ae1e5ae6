//! `cargo xtask new-adapter acme`: makes the tree of an adapter, its emulator's room, and a conformance run that fails
//! with a list of what to fill in. What is made compiles, refuses everything, and says of itself what it lacks.

use std::fs;
use std::path::{Path, PathBuf};

use crate::steps::{Step, root};

/// Makes the adapter of this name.
pub(crate) fn command(args: &[String]) -> Step {
    let [name] = args else { return Err("give one name: cargo xtask new-adapter acme".to_owned()) };
    let good = name.len() <= 30
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if !good {
        return Err("a name is of small letters and digits, as in rows and metrics: acme".to_owned());
    }
    make(&root(), name)?;
    println!(
        "made crates/{name} and crates/emulator/src/{name}.rs\n\n\
         Now run:  cargo test -p palisade-{name} --test it -- --nocapture\n\n\
         Each BROKEN line says what to fill in next. docs/adapters.md leads through a whole adapter; read it beside.\n\
         At the end: `cargo xtask conformance` writes the table, and one line in crates/hub/src/builtin.rs and one in\n\
         xtask/src/tidy.rs (MAY_DEPEND of the hub) put it into the binary."
    );
    Ok(())
}

/// Writes the files below `root` and the lines that name them elsewhere.
fn make(root: &Path, name: &str) -> Step {
    let folder = root.join("crates").join(name);
    if folder.exists() {
        return Err(format!("crates/{name} is there already"));
    }
    for (path, template) in files(name) {
        write(&root.join(path), &filled(template, name))?;
    }
    for (path, before, line) in edits(name) {
        let path = root.join(path);
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let edited = inserted(&text, before, &line)
            .ok_or_else(|| format!("{}: `{before}` is not there; add `{}` by hand", path.display(), line.trim()))?;
        write(&path, &edited)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Step {
    let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
    fs::create_dir_all(folder).and_then(|()| fs::write(path, text)).map_err(|e| format!("{}: {e}", path.display()))
}

/// Puts a line before the first place where a text stands.
fn inserted(text: &str, before: &str, line: &str) -> Option<String> {
    let (head, tail) = text.split_once(before)?;
    Some(format!("{head}{line}{before}{tail}"))
}

fn filled(template: &str, name: &str) -> String {
    let mut title = name.to_owned();
    title.get_mut(..1).into_iter().for_each(str::make_ascii_uppercase);
    template.trim_start_matches('\n').replace("{name}", name).replace("{Name}", &title)
}

/// The files of an adapter, each with its template.
fn files(name: &str) -> Vec<(PathBuf, &'static str)> {
    let inside = |file: &str| Path::new("crates").join(name).join(file);
    vec![
        (inside("Cargo.toml"), CARGO),
        (inside("README.md"), README),
        (inside("src/lib.rs"), LIB),
        (inside("src/auth.rs"), AUTH),
        (inside("src/client.rs"), CLIENT),
        (inside("src/error.rs"), ERROR),
        (inside("src/sync.rs"), SYNC),
        (inside("src/webhook.rs"), WEBHOOK),
        (inside("tests/it.rs"), TESTS),
        (inside("tests/it/conformance.rs"), CONFORMANCE),
        (inside("tests/fixtures/webhooks.json"), VECTORS),
        (Path::new("crates").join("emulator").join("src").join(format!("{name}.rs")), EMULATOR),
    ]
}

/// The lines that name an adapter elsewhere: file, what they stand before, line.
fn edits(name: &str) -> Vec<(&'static str, &'static str, String)> {
    let upper = filled("{Name}", name);
    vec![
        ("Cargo.toml", "palisade-core = {", format!("palisade-{name} = {{ path = \"crates/{name}\" }}\n")),
        ("crates/emulator/src/lib.rs", "pub mod google;", format!("pub mod {name};\n")),
        (
            "crates/testkit/src/transport.rs",
            "emulators!(",
            format!("emulators!(palisade_emulator::{name}::{upper});\n"),
        ),
        (
            "xtask/src/tidy.rs",
            "    (\"palisade-google\", &[\"palisade-core\"]),",
            format!("    (\"palisade-{name}\", &[\"palisade-core\"]),\n"),
        ),
        ("xtask/src/tidy.rs", "\"google\", \"sendgrid\"", format!("\"{name}\", ")),
    ]
}

const CARGO: &str = r#"
[package]
name = "palisade-{name}"
version.workspace = true
edition.workspace = true
rust-version.workspace = true
license.workspace = true
repository.workspace = true
authors.workspace = true

[lints]
workspace = true

[dependencies]
palisade-core = { workspace = true }
bytes = { workspace = true }
http = { workspace = true }
serde_json = { workspace = true }

[dev-dependencies]
palisade-emulator = { workspace = true }
palisade-testkit = { workspace = true }
tokio = { workspace = true, features = ["test-util"] }
"#;

const README: &str = r#"
# {Name} for Palisade

Covered: nothing yet. Not covered: everything.

**Credentials.** Say which there are and where a person finds them.

**Limits.** Say what {Name} publishes, with the page and the day you read it.

**Sources.** Link the documents every fact of this crate comes from.
"#;

const LIB: &str = r#"
#![doc = include_str!("../README.md")]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")
)]

use std::sync::Arc;

use palisade_core::client::Profile;
use palisade_core::sync::Source;
use palisade_core::webhook::Webhook;
use palisade_core::{Manifest, Provider};

pub mod auth;
pub mod client;
pub mod error;
pub mod sync;
pub mod webhook;

pub use client::{BASE_URL, {Name}};
pub use sync::{Name}Source;
pub use webhook::{Name}Webhook;

/// What this adapter covers.
pub static MANIFEST: Manifest = Manifest {
    name: "{name}",
    title: "{Name}",
    base_url: BASE_URL,
    // Every host a credential may go to, and no other.
    hosts: &["api.{name}.example"],
    api_version: None,
};

/// {Name}, as the drivers and the hub see it.
#[derive(Clone, Debug, Default)]
pub struct {Name}Provider {
    base_urls: Vec<String>,
}

impl {Name}Provider {
    /// Makes the provider with {Name}'s own address only.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets credentials go to another address too: an emulator, a recording proxy.
    #[must_use]
    pub fn allowing(mut self, base_url: impl Into<String>) -> Self {
        self.base_urls.push(base_url.into());
        self
    }
}

impl Provider for {Name}Provider {
    fn manifest(&self) -> &'static Manifest {
        &MANIFEST
    }

    fn profile(&self) -> Profile {
        let profile = Profile::new(MANIFEST.name, MANIFEST.hosts, Arc::new(error::{Name}Classifier));
        self.base_urls.iter().fold(profile, |profile, base_url| profile.allowing(base_url))
    }

    fn webhook(&self) -> Option<&dyn Webhook> {
        Some(&{Name}Webhook)
    }

    fn source(&self) -> Option<&dyn Source> {
        Some(&{Name}Source)
    }
}
"#;

const AUTH: &str = r#"
//! What a credential of {Name} looks like.

use palisade_core::auth::Scheme;
use palisade_core::{Error, ErrorKind, Result, Secret};

/// Checks an API key and says how it is sent.
///
/// # Errors
/// [`ErrorKind::Config`] when the text cannot be a key: say what a key looks like, never what was given.
pub fn api_key(key: Secret) -> Result<Scheme> {
    if key.is_empty() {
        return Err(Error::new(ErrorKind::Config, "the API key is empty").during("{name}", "api_key"));
    }
    Ok(Scheme::Bearer(key))
}
"#;

const CLIENT: &str = r#"
//! The typed client over any transport, and the operation table.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use palisade_core::call::Bucket;
use palisade_core::{Call, ConnectionId, Error, ErrorKind, Operation, Replay, Result, TenantId, Transport};

/// {Name}'s own address.
pub const BASE_URL: &str = "https://api.{name}.example";

/// The published limit of each endpoint: write the number, the page it stands on and the day you read it.
static READS: Bucket = Bucket { name: "reads", units: 10, per: Duration::from_secs(1), burst: 1 };

/// Whose account it is: the call to try a credential with.
///
/// `replay` is the one decision that costs money when wrong: `Safe` for reads, `Keyed(header)` where {Name}
/// deduplicates, `Idempotent` where a repetition has the same effect, else `Never`.
pub static ACCOUNT: Operation = Operation {
    provider: "{name}",
    name: "account.retrieve",
    url_template: "/v1/account",
    replay: Replay::Safe,
    bucket: &READS,
    also: &[],
    cost: 1,
    attempt_timeout: Duration::from_secs(30),
    overall_timeout: Duration::from_secs(90),
    body_bytes_max: 1024 * 1024,
};

/// Every operation.
pub static OPERATIONS: [&Operation; 1] = [&ACCOUNT];

/// The typed client.
#[derive(Clone)]
pub struct {Name} {
    transport: Arc<dyn Transport>,
    connection: ConnectionId,
    tenant: TenantId,
}

impl {Name} {
    /// Makes the client over a transport: the pipeline in production, anything in a test.
    #[must_use]
    pub fn new(
        transport: Arc<dyn Transport>,
        connection: impl Into<ConnectionId>,
        tenant: impl Into<TenantId>,
    ) -> Self {
        Self { transport, connection: connection.into(), tenant: tenant.into() }
    }

    /// Reads whose account it is.
    ///
    /// # Errors
    /// What the pipeline says; [`ErrorKind::Decode`] when the answer is not an account.
    pub async fn account(&self) -> Result<String> {
        let call = Call::new(&ACCOUNT, self.connection.clone(), self.tenant.clone());
        let request = Request::builder()
            .method(Method::GET)
            .uri(format!("{BASE_URL}/v1/account"))
            .extension(call)
            .body(bytes::Bytes::new())
            .map_err(|_| Error::new(ErrorKind::Config, "the address is none"))?;
        let response = self.transport.send(request).await?;
        let account: Option<serde_json::Value> = serde_json::from_slice(response.body()).ok();
        let name = account.and_then(|account| account.get("name")?.as_str().map(str::to_owned));
        name.ok_or_else(|| Error::new(ErrorKind::Decode, "the answer is no account").during("{name}", ACCOUNT.name))
    }
}

impl fmt::Debug for {Name} {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("{Name}").field("connection", &self.connection).finish_non_exhaustive()
    }
}
"#;

const ERROR: &str = r#"
//! Status and {Name}'s own code to kind, outcome and repeat: one table, pure.

use bytes::Bytes;
use http::Response;
use palisade_core::Operation;
use palisade_core::client::{Classifier, StatusClassifier, Verdict};

/// Reads {Name}'s answers. By their status alone until its codes are written down here.
#[derive(Clone, Copy, Debug)]
pub struct {Name}Classifier;

impl Classifier for {Name}Classifier {
    fn classify(&self, operation: &'static Operation, response: &Response<Bytes>) -> Verdict {
        StatusClassifier.classify(operation, response)
    }
}
"#;

const WEBHOOK: &str = r#"
//! {Name}'s deliveries: `verify` and `events`, pure.

use palisade_core::webhook::{Parsed, RawDelivery, Refusal, Verified, Webhook, unreadable};
use palisade_core::{Result, Secret, Timestamp};

/// {Name}'s deliveries. Refuses every one until its scheme is written down here.
#[derive(Clone, Copy, Debug)]
pub struct {Name}Webhook;

impl Webhook for {Name}Webhook {
    fn verify(
        &self,
        _delivery: &RawDelivery,
        _secrets: &[Secret],
        _now: Timestamp,
    ) -> std::result::Result<(), Refusal> {
        Err(Refusal::UnknownScheme)
    }

    fn events(&self, _verified: &Verified) -> Result<Parsed> {
        Err(unreadable("{name}", "no kind of delivery is known"))
    }
}
"#;

const SYNC: &str = r#"
//! {Name}'s streams: requests out, answers in; pure.

use bytes::Bytes;
use http::{Request, Response};
use palisade_core::sync::{Change, Cursor, Page, Site, Source, Span, StreamKind, StreamSpec};
use palisade_core::webhook::Event;
use palisade_core::{Error, ErrorKind, RecordId, Result, StreamName};

static STREAMS: [StreamSpec; 1] = [StreamSpec { name: "things", kind: StreamKind::Records }];

/// {Name}'s streams. Reads none until their pages are written down here.
#[derive(Clone, Copy, Debug)]
pub struct {Name}Source;

fn unwritten(what: &'static str) -> Error {
    Error::new(ErrorKind::Config, what).during("{name}", "sync")
}

impl Source for {Name}Source {
    fn streams(&self) -> &'static [StreamSpec] {
        &STREAMS
    }

    fn request(&self, _: &Site, _: &StreamName, _: Option<&Cursor>) -> Result<Request<Bytes>> {
        Err(unwritten("no request is written for a page"))
    }

    fn page(&self, _: &StreamName, _: Option<&Cursor>, _: &Response<Bytes>, _: Span) -> Result<Page> {
        Err(unwritten("no page can be read"))
    }

    fn fetch(&self, _: &Site, _: &StreamName, _: &RecordId) -> Result<Request<Bytes>> {
        Err(unwritten("no request is written for one record"))
    }

    fn fetched(&self, _: &StreamName, _: &RecordId, _: &Response<Bytes>, _: Span) -> Result<Change> {
        Err(unwritten("no record can be read"))
    }

    fn concerns(&self, _kind: &str) -> bool {
        false
    }

    fn apply(&self, _event: &Event) -> Result<Vec<Change>> {
        Ok(Vec::new())
    }
}
"#;

const TESTS: &str = r#"
//! The adapter's promises.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    reason = "a test may panic"
)]

mod it {
    pub(crate) mod conformance;
}
"#;

const CONFORMANCE: &str = r##"
//! {Name} as a subject of the kit: fill in what the BROKEN lines ask for, from the top.

use palisade_{name}::client::OPERATIONS;
use palisade_{name}::{{Name}, {Name}Provider, auth};
use palisade_testkit::conformance::{self, Sample, Subject};

#[tokio::test(start_paused = true)]
async fn keeps_every_promise_of_the_kit() {
    conformance::prove(&subject(), option_env!("CARGO_TARGET_TMPDIR")).await;
}

fn subject() -> Subject {
    let account = Sample::new("account.retrieve", |transport| async move {
        {Name}::new(transport, "conn_1", "tenant_1").account().await
    });
    Subject::new({Name}Provider::new, auth::api_key("a key".into()).unwrap())
        .operations(OPERATIONS)
        .call(account.answered(200, r#"{"name":"Ada"}"#))
}
"##;

const VECTORS: &str = r#"
{
  "_source": "say which document or official SDK, and which version, these come from",
  "vectors": []
}
"#;

const EMULATOR: &str = r#"
//! The emulated {Name}: written from its documentation and official SDKs, never from the adapter.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};

use crate::gate::{self, Barred, Emulated, House, Provider, Setup};
use crate::oauth::{Authority, Flight};
use crate::{Clock, Poster};

/// How it is set up.
#[derive(Clone)]
pub struct {Name}Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// All identifiers and fault draws follow from this.
    pub seed: u64,
    /// The key that is accepted.
    pub api_key: String,
    /// Posts webhooks; a plain HTTP client when absent.
    pub poster: Option<Poster>,
    /// Gives the time of day; waits use tokio's clock.
    pub clock: Clock,
    /// Whether `/_emulator/…` is served. It asks for no key: keep the emulator on loopback.
    pub control: bool,
}

impl Default for {Name}Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            seed: 0,
            api_key: "{name}_key".to_owned(),
            poster: None,
            clock: crate::system_clock(),
            control: true,
        }
    }
}

impl std::fmt::Debug for {Name}Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("{Name}Config").field("listen", &self.listen).field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// An emulated {Name}. Clones are handles to the same one.
pub type {Name} = Emulated<{Name}Provider>;

/// What is particular to {Name}.
#[derive(Debug)]
pub struct {Name}Provider {
    config: {Name}Config,
    authority: Authority,
}

impl Provider for {Name}Provider {
    type Config = {Name}Config;

    const NAME: &'static str = "{name}";

    fn build(config: {Name}Config) -> (Self, Setup) {
        let setup = Setup {
            listen: config.listen,
            seed: config.seed,
            clock: config.clock.clone(),
            control: config.control,
            poster: config.poster.clone(),
            patience: Duration::from_secs(10),
        };
        (Self { authority: Authority::none(), config }, setup)
    }

    fn route(&self, request: &Request<Bytes>) -> String {
        format!("{} {}", request.method(), request.uri().path())
    }

    fn arrived(&self, _request: &Request<Bytes>) -> Option<Flight> {
        None
    }

    fn answer(&self, house: &House, request: &Request<Bytes>) -> Response<Bytes> {
        let wanted = format!("Bearer {}", self.config.api_key);
        let key = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        if key != Some(wanted.as_str()) {
            house.book().ledger.auth_failures += 1;
            return gate::json(401, &json!({ "code": "key_unknown" }));
        }
        match request.uri().path() {
            "/v1/account" => gate::json(200, &json!({ "name": "Ada" })),
            _ => gate::json(404, &json!({ "code": "not_found" })),
        }
    }

    fn barred(&self, _request: &Request<Bytes>, why: &Barred) -> Response<Bytes> {
        match why {
            Barred::Throttled => gate::json(429, &json!({ "code": "slow_down" })),
            Barred::Code(code) => gate::json(400, &json!({ "code": code })),
            Barred::Status(status) => gate::front(*status),
        }
    }

    fn authority(&self) -> &Authority {
        &self.authority
    }

    fn control(&self, _: &House, _: &str, _: &str, _: &Bytes) -> Option<Result<Value, String>> {
        None
    }
}
"#;

#[cfg(test)]
mod cases {
    //! What is made is whole.
    use super::*;

    #[test]
    fn every_room_is_made_and_nothing_is_left_to_fill_in() {
        for (path, template) in files("acme") {
            let text = filled(template, "acme");
            assert!(!text.contains("{name}") && !text.contains("{Name}"), "{}", path.display());
            assert!(text.contains("cme") || path.ends_with("webhooks.json") || path.ends_with("it.rs"));
        }
        let made: Vec<String> = files("acme").iter().map(|(path, _)| path.display().to_string()).collect();
        for room in [
            "README.md",
            "src/lib.rs",
            "src/auth.rs",
            "src/client.rs",
            "src/error.rs",
            "src/sync.rs",
            "src/webhook.rs",
            "tests/it.rs",
        ] {
            assert!(made.contains(&format!("crates/acme/{room}")), "{room}");
        }
    }

    /// Fails when a line is put where it breaks a list, or a file has moved on and nobody is told.
    #[test]
    fn a_line_is_put_before_its_place_or_the_place_is_named() {
        assert_eq!(inserted("a\nb\n", "b", "x\n").as_deref(), Some("a\nx\nb\n"));
        assert_eq!(inserted("a\n", "b", "x\n"), None);
        for (path, before, _) in edits("acme") {
            let text = fs::read_to_string(root().join(path)).unwrap_or_default();
            assert!(text.contains(before), "{path} has no `{before}` any more");
        }
    }

    #[test]
    fn a_name_that_is_none_makes_nothing() {
        for bad in ["", "Acme", "a-b", "9a", "slack", "../x"] {
            assert!(command(&[bad.to_owned()]).is_err(), "{bad}");
        }
        assert!(command(&[]).is_err());
    }
}
