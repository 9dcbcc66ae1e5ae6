//! The cache of published keys: fetched when due, kept as told, never hammered. And a key of the tests' own to sign with.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use palisade_core::webhook::{KeysWanted, PublishedKeys};
use palisade_core::{Error, ErrorKind, Timestamp, Transport};
use palisade_google::webhook::{Jwks, KeyCache};
use serde_json::{Value, json};

/// A signing key, made once for all tests.
fn signer() -> &'static RsaKeyPair {
    static KEY: OnceLock<RsaKeyPair> = OnceLock::new();
    KEY.get_or_init(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
}

pub(crate) fn jwks_document(kid: &str) -> Value {
    let public = signer().public_key();
    let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    json!({ "keys": [{
        "kty": "RSA", "alg": "RS256", "use": "sig", "kid": kid,
        "n": number(public.modulus().big_endian_without_leading_zero()),
        "e": number(public.exponent().big_endian_without_leading_zero()),
    }] })
}

pub(crate) fn jwks(kid: &str) -> Jwks {
    Jwks::parse(jwks_document(kid).to_string().as_bytes()).unwrap()
}

/// Signs a token with any header and claims.
pub(crate) fn token(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let mut signature = vec![0; signer().public_modulus_len()];
    signer().sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Serves a key set, or fails, and counts.
struct Server {
    answer: Mutex<Result<(&'static str, &'static str), ErrorKind>>,
    fetches: AtomicUsize,
    takes: Duration,
}

impl Server {
    fn new(kid: &'static str) -> Arc<Self> {
        let answer = Mutex::new(Ok((kid, "public, max-age=22149, must-revalidate")));
        Arc::new(Self { answer, fetches: AtomicUsize::new(0), takes: Duration::from_millis(50) })
    }

    fn answering(&self, answer: Result<(&'static str, &'static str), ErrorKind>) {
        *self.answer.lock().unwrap() = answer;
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Transport for Server {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        assert_eq!(request.uri(), "https://www.googleapis.com/oauth2/v3/certs");
        assert!(!request.headers().contains_key("authorization"), "public keys need no credential");
        self.fetches.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(self.takes).await;
        let answer = *self.answer.lock().unwrap();
        let (kid, kept) = answer.map_err(|kind| Error::new(kind, "down"))?;
        let body = if kid == "html" { "<html>".to_owned() } else { jwks_document(kid).to_string() };
        let status = if kid == "status" { 503 } else { 200 };
        Ok(Response::builder().status(status).header("cache-control", kept).body(body.into()).unwrap())
    }
}

const NOW: Timestamp = Timestamp(1_767_225_600_000);

fn after(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

/// Fails when keys are fetched before their time, or kept beyond it.
#[tokio::test(start_paused = true)]
async fn keys_are_fetched_once_and_again_when_their_time_is_over() {
    let (server, cache) = (Server::new("k1"), KeyCache::default());
    assert!(cache.stale(NOW) && !cache.at_hand(NOW).has("k1"));
    assert!(cache.refresh(&*server, NOW, KeysWanted::Stale).await.unwrap());
    assert!(cache.at_hand(NOW).has("k1"));
    for seconds in [0, 1, 22_148] {
        assert!(!cache.stale(after(seconds)), "{seconds}");
        assert!(!cache.refresh(&*server, after(seconds), KeysWanted::Stale).await.unwrap());
    }
    assert_eq!(server.fetches(), 1);
    server.answering(Ok(("k2", "max-age=600")));
    assert!(cache.stale(after(22_149)));
    assert!(cache.refresh(&*server, after(22_149), KeysWanted::Stale).await.unwrap());
    assert!(cache.at_hand(after(22_149)).has("k2") && !cache.at_hand(after(22_149)).has("k1"));
    assert!(cache.refresh(&*server, after(23_000), KeysWanted::Stale).await.is_ok_and(|changed| !changed));
    assert_eq!(server.fetches(), 3, "the same keys again are no change");
}

/// Fails when each forged token with a key of its own invention causes a fetch.
#[tokio::test(start_paused = true)]
async fn a_missing_key_is_fetched_once_with_a_floor_between() {
    let (server, cache) = (Server::new("k1"), KeyCache::default());
    cache.refresh(&*server, NOW, KeysWanted::Stale).await.unwrap();
    server.answering(Ok(("k2", "max-age=600")));
    for seconds in 0..60 {
        assert!(!cache.refresh(&*server, after(seconds), KeysWanted::Missing).await.unwrap());
    }
    assert_eq!(server.fetches(), 1, "a fetch has just been made");
    assert!(cache.refresh(&*server, after(60), KeysWanted::Missing).await.unwrap());
    for seconds in 61..119 {
        assert!(!cache.refresh(&*server, after(seconds), KeysWanted::Missing).await.unwrap());
    }
    assert_eq!(server.fetches(), 2);
    assert!(!cache.refresh(&*server, NOW.minus(Duration::from_secs(9)), KeysWanted::Missing).await.unwrap());
    assert_eq!(server.fetches(), 3, "a clock that goes backwards is no reason to wait");
}

/// Fails when deliveries that come together fetch one by one.
#[tokio::test(start_paused = true)]
async fn deliveries_that_come_together_share_one_fetch() {
    let (server, cache) = (Server::new("k1"), KeyCache::default());
    let first = join_all((0..50).map(|_| cache.refresh(&*server, NOW, KeysWanted::Stale))).await;
    assert_eq!(
        (server.fetches(), first.iter().filter(|r| *r.as_ref().unwrap()).count()),
        (1, 50),
        "all wait for the first keys"
    );
    server.answering(Ok(("k2", "max-age=600")));
    let stale = join_all((0..50).map(|_| cache.refresh(&*server, after(22_149), KeysWanted::Stale))).await;
    assert_eq!(
        (server.fetches(), stale.iter().filter(|r| *r.as_ref().unwrap()).count()),
        (2, 1),
        "one renews, the others go on"
    );
    server.answering(Ok(("k3", "max-age=600")));
    let missing = join_all((0..50).map(|_| cache.refresh(&*server, after(22_300), KeysWanted::Missing))).await;
    assert_eq!(
        (server.fetches(), missing.iter().filter(|r| *r.as_ref().unwrap()).count()),
        (3, 50),
        "all that need the key wait"
    );
}

/// Fails when an outage takes the old keys away at once, or never.
#[tokio::test(start_paused = true)]
async fn an_outage_leaves_the_old_keys_for_a_day() {
    let (server, cache) = (Server::new("k1"), KeyCache::default());
    cache.refresh(&*server, NOW, KeysWanted::Stale).await.unwrap();
    let over = 22_149;
    for (n, broken) in [Err(ErrorKind::Connect), Ok(("html", "")), Ok(("status", ""))].into_iter().enumerate() {
        server.answering(broken);
        let at = over + 100 * n as u64;
        assert!(cache.refresh(&*server, after(at), KeysWanted::Stale).await.is_err());
        assert!(!cache.stale(after(at + 59)) && cache.stale(after(at + 60)), "a failed fetch is not repeated at once");
        assert!(cache.at_hand(after(at)).has("k1"));
    }
    assert!(cache.at_hand(after(over + 86_400)).has("k1"));
    assert!(!cache.at_hand(after(over + 86_401)).has("k1"), "keys of yesterday prove nothing");
}

/// Fails when a fetch that hangs holds deliveries longer than Pub/Sub waits.
#[tokio::test(start_paused = true)]
async fn a_fetch_that_hangs_ends_and_a_dropped_one_leaves_the_way_free() {
    let hanging =
        Server { answer: Mutex::new(Ok(("k1", ""))), fetches: AtomicUsize::new(0), takes: Duration::from_secs(3_600) };
    let cache = KeyCache::default();
    let begin = tokio::time::Instant::now();
    let error = cache.refresh(&hanging, NOW, KeysWanted::Missing).await.unwrap_err();
    assert_eq!((error.kind(), begin.elapsed()), (ErrorKind::Timeout, Duration::from_secs(5)));
    let dropped =
        tokio::time::timeout(Duration::from_secs(1), cache.refresh(&hanging, after(100), KeysWanted::Missing));
    assert!(dropped.await.is_err());
    let server = Server::new("k1");
    assert!(cache.refresh(&*server, after(200), KeysWanted::Missing).await.unwrap());
}
