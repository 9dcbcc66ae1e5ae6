//! The peers: bare axum handlers that verify nothing, look at no body and only store the row; and one that does check the
//! signature and read the id and type, with nothing else around it.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, StatusCode};
use palisade_core::{Clock, clock::SystemClock};
use rusqlite::{Connection, params};
use sha2::Sha256;
use tokio::sync::oneshot;

use super::load::{ID_HEADER, PATH, SECRET, WANTED};

/// Most rows in one commit, as the hub's writer has it.
const BATCH_MAX: usize = 512;

/// The columns of the hub's own tables, with a unique index for the key that events are told apart by and one that jobs
/// are claimed by, as anybody would write them.
const SCHEMA: &str = "
    CREATE TABLE event (id INTEGER PRIMARY KEY, state INTEGER NOT NULL, received_at INTEGER NOT NULL,
        created INTEGER, delivery INTEGER, endpoint TEXT NOT NULL, event_id TEXT NOT NULL, connection TEXT NOT NULL,
        provider TEXT NOT NULL, kind TEXT NOT NULL, account TEXT, ordering_key TEXT, reason TEXT, headers TEXT,
        payload BLOB) STRICT;
    CREATE UNIQUE INDEX event_key ON event (endpoint, event_id);
    CREATE TABLE job (id INTEGER PRIMARY KEY, state INTEGER NOT NULL, queue INTEGER NOT NULL,
        priority INTEGER NOT NULL, run_at INTEGER NOT NULL, attempt INTEGER NOT NULL, attempts_max INTEGER NOT NULL,
        fence INTEGER NOT NULL, lease_until INTEGER, finished_at INTEGER, event INTEGER, lane TEXT, unique_key TEXT,
        work TEXT, reason TEXT) STRICT;
    CREATE INDEX job_ready ON job (queue, priority DESC, run_at, id) WHERE state = 0;";
const PRAGMAS: &str = "PRAGMA page_size = 16384; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
    PRAGMA wal_autocheckpoint = 1000; PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY;";
const EVENT: &str = "INSERT INTO event (state, received_at, created, endpoint, event_id, connection, provider, kind,
    ordering_key, headers, payload) VALUES (0, ?1, ?1, 'stripe', ?2, 'stripe', 'stripe', ?3, ?2, ?4, ?5)";
const JOB: &str = "INSERT INTO job (state, queue, priority, run_at, attempt, attempts_max, fence, event, lane)
    VALUES (0, 0, 0, ?1, 0, 20, 0, ?2, 'event/stripe/' || ?3)";

struct NewRow {
    id: String,
    headers: String,
    body: Bytes,
    stored: oneshot::Sender<()>,
}

/// Starts a peer on a free port; the answer is its address.
pub(super) async fn start(name: &str, file: &Path) -> String {
    let (batch_max, with_job) = match name {
        "grouped" => (BATCH_MAX, false),
        "grouped-with-job" | "checked-with-job" => (BATCH_MAX, true),
        "each" => (1, false),
        other => panic!("{other} is no peer"),
    };
    let connection = Connection::open(file).expect("a database");
    connection.execute_batch(PRAGMAS).expect("the pragmas");
    connection.execute_batch(SCHEMA).expect("the tables");
    let (queue, waiting) = sync_channel(4_096);
    std::thread::spawn(move || write(&connection, &waiting, batch_max, with_job));
    let handler = if name == "checked-with-job" { axum::routing::post(check) } else { axum::routing::post(accept) };
    let app = Router::new().route(PATH, handler).with_state(queue);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let listener =
        axum::serve::ListenerExt::tap_io(listener, |stream| stream.set_nodelay(true).expect("a socket option"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn accept(State(queue): State<SyncSender<NewRow>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (stored, is_stored) = oneshot::channel();
    let row = NewRow { id: text(ID_HEADER), headers: kept(&headers), body, stored };
    if queue.try_send(row).is_err() {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    if is_stored.await.is_ok() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }
}

/// What is read of an event.
#[derive(serde::Deserialize)]
struct Read<'e> {
    id: &'e str,
    #[serde(rename = "type")]
    kind: &'e str,
}

/// As `accept`, after the signature was checked and the id and type read.
async fn check(state: State<SyncSender<NewRow>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let signature = headers.get("stripe-signature").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some((time, code)) = signature.split_once(",v1=") else { return StatusCode::UNAUTHORIZED };
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("a key of any length");
    mac.update(time.trim_start_matches("t=").as_bytes());
    mac.update(b".");
    mac.update(&body);
    let code: Option<Vec<u8>> = (0..code.len() / 2)
        .map(|at| code.get(2 * at..2 * at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect();
    if code.is_none_or(|code| mac.verify_slice(&code).is_err()) {
        return StatusCode::UNAUTHORIZED;
    }
    match serde_json::from_slice::<Read<'_>>(&body) {
        Ok(read) if read.kind == WANTED && !read.id.is_empty() => accept(state, headers, body).await,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// The headers as the hub keeps them.
fn kept(headers: &HeaderMap) -> String {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    format!(r#"[["content-type","{}"],["user-agent","{}"]]"#, text("content-type"), text("user-agent"))
}

/// The writer: commits everything queued while its last commit ran.
fn write(connection: &Connection, waiting: &Receiver<NewRow>, batch_max: usize, with_job: bool) {
    while let Ok(first) = waiting.recv() {
        let mut batch = vec![first];
        while batch.len() < batch_max
            && let Ok(next) = waiting.try_recv()
        {
            batch.push(next);
        }
        let run = |sql: &str| connection.prepare_cached(sql).unwrap().execute([]).unwrap();
        run("BEGIN IMMEDIATE");
        let now = SystemClock.now().millis();
        for row in &batch {
            let mut insert = connection.prepare_cached(EVENT).unwrap();
            insert.execute(params![now, row.id, WANTED, row.headers, &row.body[..]]).unwrap();
            if with_job {
                let mut insert = connection.prepare_cached(JOB).unwrap();
                insert.execute(params![now, connection.last_insert_rowid(), row.id]).unwrap();
            }
        }
        run("COMMIT");
        for row in batch {
            let _ = row.stored.send(());
        }
    }
}
