//! What a token out of memory and a seal cost: `cargo run --release -p palisade-core --example auth_cost`.
//!
//! Time is the thread's processor time, the best of many rounds, so that a busy machine spoils it less. Sealing is
//! compared with the bare cipher on buffers that are there already, with associated data of the same length.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement at the console"
)]

use std::hint::black_box;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use palisade_core::auth::token_source::TokenSource;
use palisade_core::auth::vault::{LocalMasterKey, Place, Vault};
use palisade_core::auth::{CredentialSource, Scheme};
use palisade_core::clock::SystemClock;
use palisade_core::random::SystemRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{Connection, ConnectionState, Connections};
use palisade_core::{ConnectionId, TenantId, Timestamp};

const SECRET_BYTES: usize = 300;
const TURNS: u32 = 20_000;
const ROUNDS: u32 = 25;

/// Nanoseconds this thread has run, as Linux counts them.
fn processor_nanos() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Gives the best nanoseconds of a turn.
fn measure(runtime: &tokio::runtime::Runtime, mut once: impl AsyncFnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let before = processor_nanos();
        runtime.block_on(async {
            for _ in 0..TURNS {
                once().await;
            }
        });
        best = best.min((processor_nanos() - before) as f64 / f64::from(TURNS));
    }
    best
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (store, random) = (Arc::new(MemoryStore::new()), Arc::new(SystemRandom));
    let master = LocalMasterKey::parse(&(0..32).collect::<Vec<u8>>(), random.clone()).unwrap();
    let vault = Arc::new(Vault::new(store.clone(), Arc::new(master), random.clone()));
    let source = TokenSource::builder(store.clone(), vault.clone(), Arc::new(SystemClock), random).build().unwrap();
    let id = ConnectionId::new("con_0123456789abcdef0123456789abcdef");
    runtime.block_on(async {
        let connection = Connection {
            id: id.clone(),
            tenant: "tenant-1".into(),
            provider: "acme".to_owned(),
            environment: Default::default(),
            account: None,
            base_url: None,
            state: ConnectionState::Active,
            created_at: Timestamp(0),
        };
        store.put_connection(connection).await.unwrap();
        source.keys().store_credential(&id, &Scheme::Bearer("sk_test_1".into())).await.unwrap();
        source.credential(id.clone()).await.unwrap();
    });
    let hit = measure(&runtime, async || drop(black_box(source.credential(id.clone()).await.unwrap())));
    println!("token out of memory             {hit:>7.1} ns   (at most 100)");

    let secret = [7_u8; SECRET_BYTES];
    let tenant = TenantId::new("tenant-1");
    let place = Place { tenant: &tenant, connection: &id, field: "grant/main", generation: 7 };
    let ours = measure(&runtime, async || {
        let blob = vault.seal(place, &secret).await.unwrap();
        black_box(vault.open(place, &blob).await.unwrap());
    });
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[9; 32]).unwrap());
    let aad = vec![3_u8; 4 * 6 + 18 + tenant.as_str().len() + id.as_str().len() + 10 + 16];
    let mut buffer = secret;
    let mut number = 0_u64;
    let bare = measure(&runtime, async || {
        number += 1;
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&number.to_be_bytes());
        let sealing = Nonce::assume_unique_for_key(nonce);
        let tag = key.seal_in_place_separate_tag(sealing, Aad::from(&aad), &mut buffer).unwrap();
        let opening = Nonce::assume_unique_for_key(nonce);
        let open = key.open_separate_gather(opening, Aad::from(&aad), &buffer.clone(), tag.as_ref(), &mut buffer);
        open.unwrap();
        black_box(&buffer);
    });
    println!(
        "seal and open of {SECRET_BYTES} bytes       {ours:>7.1} ns   {:.2} x bare ({bare:.1} ns)   (at most 1.5)",
        ours / bare
    );
}
