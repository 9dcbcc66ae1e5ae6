//! `palisade doctor`: is everything in place? One line per check, with what to do where it is not.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::header::DATE;
use axum::http::{Method, Request};
use bytes::Bytes;
use clap::Args;
use palisade_core::clock::SystemClock;
use palisade_core::net::Reach;
use palisade_core::store::DestinationSpec;
use palisade_core::transport::HttpTransport;
use palisade_core::webhook::{Senders, Webhook};
use palisade_core::{Clock, Timestamp, Transport};
use palisade_store::{Examined, SqliteStore};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::out::document;
use super::serve::{Secrets, cannot_listen, folder_of, load, unreached};
use super::{Failure, runtime, say};
use crate::builtin;
use crate::config::{Config, Endpoint, process_variables};
use crate::senders::AllowFrom;
use crate::watching;

/// Free bytes on the database's disk below which the check fails.
const SPACE_FAILS: u64 = 64 << 20;
/// Free bytes below which it warns.
const SPACE_WARNS: u64 = 1 << 30;
/// How far the clock may be from a provider's before it warns. Signatures are good for 300 s.
const SKEW_WARNS: Duration = Duration::from_secs(5);
/// How far before it fails.
const SKEW_FAILS: Duration = Duration::from_secs(120);
/// How long a provider may take to answer.
const REACH_TIMEOUT: Duration = Duration::from_secs(10);
/// Before this moment (2026-01-01) the program did not exist: a clock that says so is wrong.
const CLOCK_EARLIEST: Timestamp = Timestamp(1_767_225_600_000);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "palisade.toml")]
    config: PathBuf,
    /// Leaves out what needs the network.
    #[arg(long)]
    offline: bool,
    /// Writes one JSON document on one line, for programs.
    #[arg(long)]
    json: bool,
}

/// What the help shows.
pub(super) const EXAMPLES: &str = "\
Examples:
  palisade doctor
  palisade doctor --config /etc/palisade/palisade.toml --offline --json";

/// What one check found.
enum Found {
    Ok(String),
    Warn(String),
    Fail(String),
}

/// Tells people each finding as it is made, and programs all of them at the end; remembers whether one failed.
#[derive(Default)]
struct Report {
    warned: usize,
    failed: usize,
    /// For programs.
    json: Option<Vec<Value>>,
}

impl Report {
    fn add(&mut self, what: &str, found: Found) {
        let (word, text) = match found {
            Found::Ok(text) => ("ok", text),
            Found::Warn(text) => {
                self.warned += 1;
                ("warn", text)
            }
            Found::Fail(text) => {
                self.failed += 1;
                ("fail", text)
            }
        };
        match &mut self.json {
            Some(list) => list.push(json!({ "check": what, "found": word, "text": text })),
            None => say(format_args!("{word:4}  {what}: {text}")),
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut report = Report { json: arguments.json.then(Vec::new), ..Report::default() };
    match load(&arguments.config) {
        Err(failure) => {
            for line in failure.to_string().lines() {
                report.add("configuration", Found::Fail(line.to_owned()));
            }
        }
        Ok(config) => {
            let shown = arguments.config.display();
            report.add("configuration", Found::Ok(format!("{shown} is complete")));
            runtime()?.block_on(check(&config, arguments, &mut report));
        }
    }
    let Report { warned, failed, json } = report;
    let sound = if failed == 0 { Ok(()) } else { Err(Failure::negative()) };
    if let Some(checks) = json {
        document(&json!({ "ok": failed == 0, "warned": warned, "failed": failed, "checks": checks }))?;
        return sound;
    }
    say(match (failed, warned) {
        (0, 0) => "everything is in place".to_owned(),
        (0, _) => format!("the hub can start; {warned} to look at"),
        _ => format!("the hub cannot work like this: {failed} to mend"),
    });
    sound
}

async fn check(config: &Config, arguments: &Arguments, report: &mut Report) {
    let folder = folder_of(&arguments.config);
    match Secrets::read(config, folder, &process_variables) {
        Ok(secrets) => {
            report.add("secrets", Found::Ok("all can be read".to_owned()));
            for (endpoint, secrets) in config.endpoints.iter().zip(secrets.endpoints()) {
                let provider = builtin::find(&endpoint.provider).map(|one| (one.provider)(&config.apps));
                let streams = provider.map(|provider| watching::streams(provider.as_ref(), secrets));
                if let Some(streams) = streams.filter(|streams| !streams.is_empty()) {
                    let found = notified(config.server.public_url.as_deref(), &endpoint.name, &streams);
                    let whose = endpoint.connection.as_deref().unwrap_or(&endpoint.name);
                    report.add(&format!("notifications of {whose}"), found);
                }
            }
            for (connection, text) in secrets.service_accounts(config) {
                report.add(&format!("service account of connection {connection}"), Found::Ok(text));
            }
        }
        Err(problems) => {
            for problem in problems {
                report.add("secrets", Found::Fail(problem));
            }
        }
    }
    for endpoint in config.endpoints.iter().filter(|endpoint| endpoint.secrets.is_empty()) {
        let text = "it has no secret, so every delivery is answered 503: add one".to_owned();
        report.add(&format!("endpoint {}", endpoint.name), Found::Warn(text));
    }
    for endpoint in &config.endpoints {
        for found in senders(config, endpoint) {
            report.add(&format!("senders of endpoint {}", endpoint.name), found);
        }
    }
    for destination in &config.destinations {
        report.add(&format!("destination {}", destination.name), forwarded(&destination.spec));
    }
    for (endpoint, text) in unreached(config) {
        report.add(&format!("endpoint {endpoint}"), Found::Warn(text));
    }
    for flow in &config.flows {
        let callback = config.callback_url(flow).unwrap_or_default();
        let text = format!("register {callback} at the provider as the address people are sent back to");
        report.add(&format!("flow {}", flow.name()), Found::Ok(text));
    }
    let database = folder.join(&config.store.path);
    let place = match database.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    report.add("folder", writable(place));
    report.add("disk", space(place));
    report.add("database", database_state(&database).await);
    report.add("port", port(config).await);
    report.add("clock", clock(SystemClock.now()));
    if arguments.offline {
        return;
    }
    for connection in &config.connections {
        let base_url = match (&connection.base_url, builtin::find(&connection.provider)) {
            (Some(base_url), _) => base_url.clone(),
            (None, Some(one)) => (one.provider)(&config.apps).manifest().base_url.to_owned(),
            (None, None) => continue,
        };
        report.add(&format!("provider of connection {}", connection.id), reachable(&base_url).await);
    }
}

/// Says from where an endpoint's deliveries are taken, and what could keep that from working.
fn senders(config: &Config, endpoint: &Endpoint) -> Vec<Found> {
    let Some(from) = &endpoint.allow_from else { return Vec::new() };
    let provider = builtin::find(&endpoint.provider).map(|one| (one.provider)(&config.apps));
    let said = provider.as_ref().and_then(|provider| provider.webhook()).map(Webhook::senders);
    let mut found = vec![match (from, said) {
        (AllowFrom::Networks(networks), _) if networks.is_empty() => {
            Found::Warn("allow_from names nothing, so every delivery is answered 403: name networks".to_owned())
        }
        (AllowFrom::Networks(networks), _) => {
            Found::Ok(format!("deliveries are taken from {} networks only", networks.len()))
        }
        (AllowFrom::Published, Some(Senders::Published { networks, source, read_on })) => Found::Ok(format!(
            "deliveries are taken from the {} addresses of {source} only, as they were on {read_on}: compare them",
            networks.len()
        )),
        (AllowFrom::Published, Some(Senders::Unpublished { why })) => {
            Found::Fail(format!("allow_from = \"published\" cannot be: {why}; leave it out, or name networks"))
        }
        (AllowFrom::Published, None) => Found::Fail("its provider has no webhooks".to_owned()),
    }];
    let server = &config.server;
    if server.trusted_proxies.is_empty() && (server.listen.ip().is_loopback() || server.public_url.is_some()) {
        found.push(Found::Warn(
            "behind a proxy every delivery comes from the proxy's address and is refused: name it in \
             server.trusted_proxies"
                .to_owned(),
        ));
    }
    found
}

/// Says what a destination may be reached at.
fn forwarded(spec: &DestinationSpec) -> Found {
    let Reach { private, networks, plain } = &spec.reach;
    if *private || *plain || !networks.is_empty() {
        return Found::Warn(
            "its address may be private or plain http: fine for development, not for production".to_owned(),
        );
    }
    Found::Ok(format!("events of {} are forwarded", spec.filter.types.join(", ")))
}

/// Says whether the provider can be asked to tell of changes.
fn notified(public_url: Option<&str>, endpoint: &str, streams: &[&str]) -> Found {
    let streams = streams.join(" and ");
    match watching::address(public_url, endpoint) {
        Some(address) => Found::Ok(format!("changes of {streams} are told to {address}")),
        None => Found::Warn(format!(
            "nobody tells of changes of {streams}, which are read by schedule only: set server.public_url to the \
             https address of this hub"
        )),
    }
}

fn writable(folder: &Path) -> Found {
    let shown = folder.display();
    let trial = folder.join(format!(".palisade-doctor-{}", std::process::id()));
    let made = fs::OpenOptions::new().write(true).create_new(true).open(&trial);
    let _ = fs::remove_file(&trial);
    match made {
        Ok(_) => Found::Ok(format!("{shown} can be written")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Found::Fail(format!("{shown} does not exist: make it, or change store.path"))
        }
        Err(error) => Found::Fail(format!("{shown} cannot be written ({}): give this user the right to", error.kind())),
    }
}

#[cfg(unix)]
fn space(folder: &Path) -> Found {
    let Ok(stat) = rustix::fs::statvfs(folder) else {
        return Found::Warn("the free space cannot be told".to_owned());
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let text = format!("{} MiB free", free >> 20);
    match free {
        free if free < SPACE_FAILS => Found::Fail(format!("only {text}: free some space")),
        free if free < SPACE_WARNS => Found::Warn(format!("only {text}: events with their bodies need room")),
        _ => Found::Ok(text),
    }
}

#[cfg(not(unix))]
fn space(_folder: &Path) -> Found {
    Found::Warn("the free space cannot be told on this system".to_owned())
}

/// Looks at the database without changing it: its version, and the whole file.
async fn database_state(path: &Path) -> Found {
    let shown = path.display();
    if !path.exists() {
        return Found::Ok(format!("{shown} is not there yet; `serve` makes it"));
    }
    let examine = {
        let path = path.to_owned();
        move || SqliteStore::examine(&path)
    };
    let examined = match tokio::task::spawn_blocking(examine).await {
        Ok(Ok(examined)) => examined,
        Ok(Err(error)) => return Found::Fail(error.message().to_owned()),
        Err(_) => return Found::Fail(format!("{shown} could not be read: the thread that reads it died")),
    };
    let Examined { found, wanted, findings, .. } = examined;
    if !findings.is_empty() {
        return Found::Fail(format!(
            "{shown} is damaged ({} findings): stop every process that uses it, keep it, and restore a backup",
            findings.len()
        ));
    }
    let versions = format!("{shown} is sound; its schema is version {found}, this program wants {wanted}");
    match found.cmp(&wanted) {
        Ordering::Equal => Found::Ok(versions),
        Ordering::Less => Found::Warn(format!("{versions}: `serve` upgrades it when it starts, so back it up first")),
        Ordering::Greater => {
            Found::Fail(format!("{versions}: run the newer program, or restore a backup made before the upgrade"))
        }
    }
}

async fn port(config: &Config) -> Found {
    let address = config.server.listen;
    match TcpListener::bind(address).await {
        Ok(_) => Found::Ok(format!("{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Found::Warn(format!(
            "{address} is in use: fine if that is this hub, else stop the other program or change server.listen"
        )),
        Err(error) => Found::Fail(cannot_listen(address, "server.listen", &error).to_string()),
    }
}

fn clock(now: Timestamp) -> Found {
    let text = crate::time::rfc3339(now);
    if now < CLOCK_EARLIEST {
        return Found::Fail(format!("it says {text}, which is past: set it, or signatures and certificates fail"));
    }
    Found::Ok(text)
}

/// Sends one request without a credential: any answer will do, and its date tells how far the clock is off.
async fn reachable(base_url: &str) -> Found {
    let again = "check the network, the proxy and base_url; --offline leaves this out";
    let request = Request::builder().method(Method::GET).uri(format!("{base_url}/")).body(Bytes::new());
    let (Ok(request), Ok(transport)) = (request, HttpTransport::builder().build()) else {
        return Found::Fail(format!("{base_url} is not an address: check base_url"));
    };
    match tokio::time::timeout(REACH_TIMEOUT, transport.send(request)).await {
        Err(_) => Found::Fail(format!("{base_url} did not answer in {} s: {again}", REACH_TIMEOUT.as_secs())),
        Ok(Err(error)) => Found::Fail(format!("{base_url} cannot be reached ({}): {again}", error.kind().as_str())),
        Ok(Ok(response)) => {
            let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
            let theirs = date.and_then(|date| httpdate::parse_http_date(date).ok()).map(Timestamp::from);
            skew(base_url, theirs, SystemClock.now())
        }
    }
}

fn skew(base_url: &str, theirs: Option<Timestamp>, ours: Timestamp) -> Found {
    let Some(theirs) = theirs else { return Found::Ok(format!("{base_url} answers")) };
    let apart = ours.since(theirs).max(theirs.since(ours));
    let text = format!("{base_url} answers; its clock and ours are {} s apart", apart.as_secs());
    match apart {
        apart if apart >= SKEW_FAILS => Found::Fail(format!("{text}: set this machine's clock")),
        apart if apart >= SKEW_WARNS => Found::Warn(format!("{text}: synchronise this machine's clock")),
        _ => Found::Ok(text),
    }
}
