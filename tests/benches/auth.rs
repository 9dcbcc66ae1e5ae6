//! What credentials cost: a token out of memory, sealing and opening a secret, and a rotation of the master key.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use palisade_core::auth::vault::{
    LocalMasterKey, MasterKey, MasterKeyRing, Place, PlainKey, Progress, Rotation, Vault,
};
use palisade_core::random::SystemRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{Keys, WrappedKey};
use palisade_core::{ConnectionId, Random, TenantId};
use palisade_store::{SqliteConfig, SqliteStore};
use rusqlite::params;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::harness::{Spread, process_cpu, rounds, runtime, thread_cpu};
use crate::report::{Row, Target};
use crate::{allocations, tokens};

/// Tokens asked for, and secrets sealed and opened, by one contender in one round.
const CALLS: usize = 50_000;
/// The length of a secret: a token with its refresh token and their frame.
const SECRET_BYTES: usize = 300;
/// Data keys a rotation wraps anew, each of a tenant of its own.
const ROWS: usize = 20_000;
/// Data keys in one commit, as the hub's own rotation takes them.
const STEP: u32 = 500;
/// What a wrapping adds to a data key: its version, a nonce and a tag.
const WRAPPED_BYTES: usize = 1 + NONCE_LEN + 32 + 16;

/// Measures the three beside their peers.
pub(crate) fn run(count: usize) -> Vec<Row> {
    let runtime = runtime();
    let mut rows = hits(count, &runtime);
    rows.push(seals(count, &runtime));
    rows.push(rotations(count, &runtime));
    rows
}

// ------------------------------------------------------------------------------------------------ tokens

fn hits(count: usize, runtime: &Runtime) -> Vec<Row> {
    let askers: Vec<_> = tokens::NAMES.iter().map(|name| runtime.block_on(tokens::asker(name))).collect();
    let mut timed: Vec<_> = askers.iter().map(|ask| || each(CALLS, || runtime.block_on(ask(CALLS)))).collect();
    let mut contenders: Vec<&mut dyn FnMut() -> f64> =
        timed.iter_mut().map(|measure| measure as &mut dyn FnMut() -> f64).collect();
    let took = rounds(count, &mut contenders);
    // Less what a batch costs by itself, which the swap has as well.
    let [ours, swap] = [0, 1].map(|at| (allocations(tokens::NAMES[at]) * CALLS as f64).round());
    let peer = format!("ArcSwap load + clone: {:.0} ns", Spread::of(took[1].clone()).median);
    vec![
        Row::new("auth", "TokenSource, a token out of memory", Spread::of(took[0].clone()), "ns")
            .against(peer, Spread::ratio(&took[0], &took[1]))
            .figure_target(Target::AtMost(100.0)),
        Row::new(
            "auth",
            "TokenSource, allocations of a token out of memory",
            Spread::exact((ours - swap) / CALLS as f64),
            "",
        )
        .figure_target(Target::AtMost(1.0)),
    ]
}

// ------------------------------------------------------------------------------------------------ vault

fn seals(count: usize, runtime: &Runtime) -> Row {
    let (tenant, connection) = (TenantId::new("tenant-1"), ConnectionId::new("con_0123456789abcdef0123456789abcdef"));
    let place = Place { tenant: &tenant, connection: &connection, field: "grant/main", generation: 7 };
    let secret = [7_u8; SECRET_BYTES];
    let master = master_key();
    let vault = Vault::new(Arc::new(MemoryStore::new()), Arc::new(master), Arc::new(SystemRandom));
    let key = aead(&[9; 32]);
    // Associated data as long as the vault's: six items behind their lengths.
    let aad = vec![3_u8; 6 * 4 + 18 + tenant.as_str().len() + connection.as_str().len() + place.field.len() + 8 + 8];
    let mut number = 0_u64;
    let mut bare = || {
        each(CALLS, || {
            let (mut sealed, mut opened) = (secret, [0_u8; SECRET_BYTES]);
            for _ in 0..CALLS {
                number += 1;
                let tag = key.seal_in_place_separate_tag(nonce(number), Aad::from(&aad), black_box(&mut sealed));
                let tag = tag.expect("it is short enough");
                let open = key.open_separate_gather(nonce(number), Aad::from(&aad), &sealed, tag.as_ref(), &mut opened);
                open.expect("it is what was sealed");
                black_box(&opened);
            }
        })
    };
    let mut ours = || {
        each(CALLS, || {
            runtime.block_on(async {
                for _ in 0..CALLS {
                    let blob = vault.seal(place, black_box(&secret)).await.expect("it is short enough");
                    black_box(vault.open(place, &blob).await.expect("it is what was sealed"));
                }
            });
        })
    };
    let took = rounds(count, &mut [&mut bare, &mut ours]);
    Row::new("auth", "seal and open 300 bytes under a cached data key", Spread::of(took[1].clone()), "ns")
        .against(
            format!("bare AES-256-GCM in place: {:.0} ns", Spread::of(took[0].clone()).median),
            Spread::ratio(&took[1], &took[0]),
        )
        .target(Target::AtMost(1.5))
}

fn nonce(number: u64) -> Nonce {
    Nonce::assume_unique_for_key(nonce_bytes(number))
}

fn nonce_bytes(number: u64) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[..8].copy_from_slice(&number.to_be_bytes());
    nonce
}

fn aead(key: &[u8]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("a key of the right length"))
}

// ------------------------------------------------------------------------------------------------ rotation

/// Rotates back and forth between two keys: every round wraps every data key anew.
fn rotations(count: usize, runtime: &Runtime) -> Row {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder beside the build");
    let store = Arc::new(SqliteStore::open(SqliteConfig::at(folder.path().join("ours.db"))).expect("a store"));
    let keys = [master_key(), master_key()];
    let names = [keys[0].id(), keys[1].id()];
    runtime.block_on(fill(&store, &keys[0]));
    let rotation = Rotation::new(store.clone(), Arc::new(MasterKeyRing::new(keys).expect("two keys")));
    let mut turn = 0;
    let mut ours = || {
        turn += 1;
        each_cpu(ROWS, || {
            runtime.block_on(async {
                rotation.activate(&names[turn % 2]).await.expect("a key of the ring");
                let mut progress = Progress::default();
                while !progress.over {
                    rotation.step(&mut progress, STEP).await.expect("nothing fails");
                }
                assert_eq!((progress.done, progress.stuck), (ROWS as u64, 0), "every data key is wrapped anew");
            });
        })
    };
    let bare_keys = Bare::fill(&folder.path().join("bare.db"));
    let mut active = 0;
    let mut bare = || {
        active = 1 - active;
        each_cpu(ROWS, || bare_keys.rotate(active))
    };
    let took = rounds(count.min(5), &mut [&mut ours, &mut bare]);
    runtime.block_on(store.close()).expect("the store closes");
    Row::new(
        "auth",
        "data keys wrapped anew per CPU second",
        Spread::of(took[0].iter().map(|nanos| 1e9 / nanos).collect()),
        "",
    )
    .against(
        format!("bare AES-256-GCM + bare rows in SQLite: {:.0}", 1e9 / Spread::of(took[1].clone()).median),
        Spread::ratio(&took[1], &took[0]),
    )
    .figure_target(Target::AtLeast(20_000.0))
}

fn master_key() -> LocalMasterKey {
    let random = Arc::new(SystemRandom);
    LocalMasterKey::parse(LocalMasterKey::generate(&SystemRandom).as_bytes(), random).expect("a key of ours")
}

/// Adds a data key for each tenant. What is wrapped is bound to its place as docs/security.md has it.
async fn fill(store: &Arc<SqliteStore>, master: &LocalMasterKey) {
    let mut adding = JoinSet::new();
    for n in 0..ROWS {
        let (tenant, id) = (tenant(n), master.id());
        let number = 1_u64.to_be_bytes();
        let items: [&[u8]; 4] = [b"palisade.data-key.v1", tenant.as_bytes(), &number, id.as_bytes()];
        let aad: Vec<u8> =
            items.iter().flat_map(|item| [&(item.len() as u32).to_be_bytes()[..], item].concat()).collect();
        let mut plain = PlainKey::default();
        SystemRandom.fill(plain.as_mut_slice());
        let wrapped = master.wrap(&id, &plain, &aad).await.expect("it wraps");
        let key = WrappedKey { id: 1, master: id, wrapped };
        let store = Arc::clone(store);
        adding.spawn(async move { store.add_data_key(tenant.into(), key).await.expect("a row") });
        // As many under way as the writer's queue takes.
        if adding.len() >= 1_000 {
            while adding.join_next().await.is_some() {}
        }
    }
    while adding.join_next().await.is_some() {}
}

fn tenant(n: usize) -> String {
    format!("tenant-{n:08}")
}

/// The same rows and the same cipher, and nothing else: no check, no queue, no associated data to make.
struct Bare {
    connection: rusqlite::Connection,
    masters: [LessSafeKey; 2],
}

impl Bare {
    fn fill(file: &Path) -> Self {
        let connection = rusqlite::Connection::open(file).expect("a database");
        connection
            .execute_batch(
                "PRAGMA page_size = 16384; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
                 PRAGMA wal_autocheckpoint = 1000; PRAGMA cache_size = -16384;
                 CREATE TABLE data_key (tenant TEXT NOT NULL, id INTEGER NOT NULL, master TEXT NOT NULL,
                     wrapped BLOB NOT NULL, PRIMARY KEY (tenant, id)) STRICT;
                 CREATE INDEX data_key_master ON data_key (master, tenant, id);
                 BEGIN;",
            )
            .expect("the table");
        let masters = [aead(&[1; 32]), aead(&[2; 32])];
        for n in 0..ROWS {
            let wrapped = wrap(&masters[0], n as u64, &[7; 32]);
            connection
                .prepare_cached("INSERT INTO data_key VALUES (?1, 1, 'local-0123456789abcdef-0', ?2)")
                .and_then(|mut insert| insert.execute(params![tenant(n), wrapped]))
                .expect("a row");
        }
        connection.execute_batch("COMMIT").expect("a commit");
        Self { connection, masters }
    }

    fn rotate(&self, active: usize) {
        let mut after = String::new();
        let mut done = 0;
        while done < ROWS {
            let page = "SELECT tenant, wrapped FROM data_key WHERE (tenant, id) > (?1, 1) ORDER BY tenant, id LIMIT ?2";
            let mut select = self.connection.prepare_cached(page).expect("a statement");
            let rows: Vec<(String, Vec<u8>)> = select
                .query_map(params![after, STEP], |row| Ok((row.get(0)?, row.get(1)?)))
                .and_then(Iterator::collect)
                .expect("the rows");
            drop(select);
            self.connection.execute_batch("BEGIN IMMEDIATE").expect("a transaction");
            for (tenant, wrapped) in &rows {
                let mut plain = wrapped[1 + NONCE_LEN..].to_vec();
                let nonce = Nonce::try_assume_unique_for_key(&wrapped[1..=NONCE_LEN]).expect("a nonce");
                let opened = self.masters[1 - active].open_in_place(nonce, Aad::empty(), &mut plain);
                let wrapped = wrap(&self.masters[active], done as u64, opened.expect("it opens"));
                self.connection
                    .prepare_cached("UPDATE data_key SET master = ?2, wrapped = ?3 WHERE tenant = ?1 AND id = 1")
                    .and_then(|mut update| {
                        update.execute(params![tenant, format!("local-0123456789abcdef-{active}"), wrapped])
                    })
                    .expect("a row");
                done += 1;
            }
            self.connection.execute_batch("COMMIT").expect("a commit");
            after.clone_from(&rows.last().expect("there are rows left").0);
        }
    }
}

fn wrap(master: &LessSafeKey, number: u64, plain: &[u8]) -> Vec<u8> {
    let mut wrapped = Vec::with_capacity(WRAPPED_BYTES);
    wrapped.push(1);
    wrapped.extend_from_slice(&nonce_bytes(number));
    wrapped.extend_from_slice(plain);
    let tag = master.seal_in_place_separate_tag(nonce(number), Aad::empty(), &mut wrapped[1 + NONCE_LEN..]);
    wrapped.extend_from_slice(tag.expect("it is short enough").as_ref());
    wrapped
}

// ------------------------------------------------------------------------------------------------ clocks

/// Gives the nanoseconds of this thread for one of `count`.
fn each(count: usize, work: impl FnOnce()) -> f64 {
    let start = thread_cpu();
    work();
    (thread_cpu() - start).as_nanos() as f64 / count as f64
}

/// Gives the nanoseconds of all threads for one of `count`.
fn each_cpu(count: usize, work: impl FnOnce()) -> f64 {
    let start = process_cpu();
    work();
    (process_cpu() - start).as_nanos() as f64 / count as f64
}
