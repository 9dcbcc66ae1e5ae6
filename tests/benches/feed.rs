//! Reading the change feed to its end: as a product in Rust follows it, as one in another language asks for it, and as an
//! export; beside a bare SELECT over the same rows.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::{Body, Bytes, to_bytes};
use futures_util::StreamExt;
use palisade_core::auth::vault::LocalMasterKey;
use palisade_core::clock::SystemClock;
use palisade_core::random::SystemRandom;
use palisade_core::store::{Connection, ConnectionState, Connections, Merge, Records, StreamKey};
use palisade_core::sync::{Change, Span, State};
use palisade_core::{Clock, Error, ErrorKind, Transport};
use palisade_hub::export::{Format, Options, export};
use palisade_hub::{Access, Hub, Settings};
use palisade_store::{SqliteConfig, SqliteStore};
use palisade_stripe::StripeProvider;
use tower::ServiceExt;

use crate::harness::{Spread, process_cpu, rounds, runtime};
use crate::report::{Row, Target};

/// The changes in the feed.
const CHANGES: usize = 100_000;
/// The size of each record.
const RECORD_BYTES: usize = 1_024;
/// Changes of a page.
const PAGE: usize = 1_000;

/// Nothing is called.
#[derive(Debug)]
struct Nowhere;

#[async_trait]
impl Transport for Nowhere {
    async fn send(&self, _: http::Request<Bytes>) -> palisade_core::Result<http::Response<Bytes>> {
        Err(Error::new(ErrorKind::Connect, "nothing is called here"))
    }
}

/// Measures the ways to read a feed beside the rows themselves.
pub(crate) fn run(count: usize) -> Vec<Row> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder beside the build");
    let path = folder.path().join("feed.db");
    let runtime = runtime();
    let hub = runtime.block_on(filled(&path));
    let key = key();
    let mut follow = || {
        each(|| {
            let seen = runtime.block_on(hub.changes_so_far(&key.connection, &key.stream, None).count());
            assert_eq!(seen, CHANGES, "every change is told");
        })
    };
    let mut bare = || each(|| assert_eq!(select(&path), CHANGES));
    let mut ask = || each(|| assert_eq!(runtime.block_on(asked(&hub)), CHANGES));
    let mut write = || {
        each(|| {
            let options = Options::of(Format::JsonLines);
            let written = export(&**hub.store(), key.clone(), options, std::io::sink(), |_, _| {});
            assert_eq!(runtime.block_on(written).expect("an export").records, CHANGES as u64);
        })
    };
    let measured = rounds(count, &mut [&mut follow, &mut bare, &mut ask, &mut write]);
    let [follow, bare, ask, write] = measured.as_slice() else { return Vec::new() };
    let per_second = |each: &[f64]| Spread::of(each.iter().map(|ns| 1e9 / ns).collect());
    let peer = format!("bare SELECT of the same rows, {PAGE} at once: {:.0}/s", per_second(bare).median);
    vec![
        Row::new("feed", "changes per CPU second, followed in Rust, records of 1 KiB", per_second(follow), "")
            .against(peer.clone(), Spread::ratio(bare, follow))
            .figure_target(Target::AtLeast(200_000.0)),
        Row::new("feed", "changes per CPU second, asked for as JSON", per_second(ask), "")
            .against(peer.clone(), Spread::ratio(bare, ask)),
        Row::new("feed", "records per CPU second, exported as JSON Lines", per_second(write), "")
            .against(peer, Spread::ratio(bare, write)),
    ]
}

/// Gives the nanoseconds of all threads for one change.
fn each(work: impl FnOnce()) -> f64 {
    let start = process_cpu();
    work();
    (process_cpu() - start).as_nanos() as f64 / CHANGES as f64
}

fn key() -> StreamKey {
    StreamKey { connection: "acme".into(), stream: "customers".into() }
}

async fn filled(path: &Path) -> Hub {
    let store = SqliteStore::open(SqliteConfig::at(path)).expect("a store");
    let master = LocalMasterKey::parse("0123456789abcdef".repeat(4).as_bytes(), Arc::new(SystemRandom));
    let connection = Connection {
        id: "acme".into(),
        tenant: "acme".into(),
        provider: "stripe".to_owned(),
        environment: Default::default(),
        account: None,
        base_url: None,
        state: ConnectionState::Active,
        created_at: SystemClock.now(),
    };
    store.put_connection(connection).await.expect("a connection");
    let frame = r#"{"id":"cus_0000000000000000","filling":""}"#.len();
    let filling = "x".repeat(RECORD_BYTES - frame);
    for page in 0..CHANGES / PAGE {
        let changes = (page * PAGE..(page + 1) * PAGE).map(|number| {
            // Ids in no order, as a provider's are.
            let id = format!("cus_{:016x}", (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let data = format!(r#"{{"id":"{id}","filling":"{filling}"}}"#);
            Change {
                stream: "customers".into(),
                id: id.into(),
                span: Span::exact(1),
                state: State::Present(data.into()),
            }
        });
        let merge = Merge { key: key(), read_since: Some(0), changes: changes.collect() };
        store.merge(vec![merge], SystemClock.now()).await.expect("a commit");
    }
    Hub::builder()
        .provider(StripeProvider::new())
        .store(Arc::new(store))
        .transport(Arc::new(Nowhere))
        .master_key(Arc::new(master.expect("a key")))
        .settings(Settings { access: Access::Trusted, ..Settings::default() })
        .build()
        .expect("a hub")
}

/// Reads the same columns of the same rows, a page at a time, and does nothing with them.
fn select(path: &Path) -> usize {
    let connection = rusqlite::Connection::open(path).expect("the database");
    connection.execute_batch("PRAGMA cache_size = -16384").expect("the cache");
    let mut statement = connection
        .prepare(
            "SELECT ext_id, data, f.seq, first_seen, changed_at, deleted, revised FROM palisade_feed f \
             CROSS JOIN palisade_record r ON r.id = f.id WHERE f.stream = 1 AND f.seq > ?1 ORDER BY f.seq LIMIT ?2",
        )
        .expect("a statement");
    let (mut after, mut seen) = (0_i64, 0);
    loop {
        let rows = statement.query_map((after, PAGE as i64), |row| {
            let text: String = row.get(0)?;
            let data: Option<Vec<u8>> = row.get(1)?;
            let times: (i64, i64) = (row.get(3)?, row.get(4)?);
            let kinds: (bool, bool) = (row.get(5)?, row.get(6)?);
            Ok((row.get::<_, i64>(2)?, text, data, times, kinds))
        });
        let rows: Vec<_> = rows.expect("rows").map(|row| row.expect("a row")).collect();
        let Some(last) = rows.last() else { return seen };
        after = last.0;
        seen += rows.len();
        black_box(rows);
    }
}

/// Asks for page after page as a consumer in another language does, without a socket.
async fn asked(hub: &Hub) -> usize {
    let router = hub.router();
    let (mut cursor, mut seen) = (String::new(), 0);
    loop {
        let path = format!("/api/v1/records/acme/customers?limit={PAGE}{cursor}");
        let request = http::Request::get(path).body(Body::empty()).expect("a request");
        let answer = router.clone().oneshot(request).await.expect("an answer");
        let body = to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
        // Counted once: looking for it costs as much as what is measured, and every page is as full.
        if seen == 0 {
            assert_eq!(body.windows(12).filter(|part| part == b"\"changed_at\"").count(), PAGE, "a page is full");
        }
        seen += PAGE;
        // The cursor stands behind the records' own bytes.
        let end = &body[body.len().saturating_sub(400)..];
        let text = std::str::from_utf8(end).expect("text");
        let field = |name: &str| {
            let at = text.rfind(name).expect("the field") + name.len();
            text[at..].trim_start_matches(['"', ':']).split(['"', ',', '}']).next().expect("a value")
        };
        cursor = format!("&cursor={}", field("\"next_cursor"));
        if field("\"has_more") != "true" {
            return seen;
        }
    }
}
