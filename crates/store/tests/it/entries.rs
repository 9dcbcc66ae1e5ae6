//! The entries of a feed in their two places, the stream's row and the table: each record stands once, at its last change,
//! wherever its entry is. (In a debug build a stream's row has three at most.)

use std::collections::BTreeMap;

use palisade_core::Timestamp;
use palisade_core::random::{Random, SeededRandom};
use palisade_core::store::{Merge, Records, StreamKey};
use palisade_core::sync::{Change, Span, State};
use palisade_store::SqliteStore;

use crate::subject::{crash_image, open};

const STREAMS: [&str; 2] = ["a", "b"];

fn key(stream: &str) -> StreamKey {
    StreamKey { connection: "acme".into(), stream: stream.into() }
}

/// What a stream's feed should show, by number: the record, and whether it lives.
#[derive(Default)]
struct Model {
    feed: BTreeMap<u64, (String, bool)>,
    head: u64,
}

impl Model {
    fn number_of(&self, id: &str) -> Option<(u64, bool)> {
        self.feed.iter().find(|(_, (one, _))| one == id).map(|(seq, (_, lives))| (*seq, *lives))
    }

    /// Takes a change that is newer than all before.
    fn apply(&mut self, id: &str, lives: bool) {
        let before = self.number_of(id);
        if !lives && before.is_none_or(|(_, lived)| !lived) {
            // Of a record that is not there a deletion is kept once.
            if before.is_some() {
                return;
            }
        }
        if let Some((seq, _)) = before {
            self.feed.remove(&seq);
        }
        self.head += 1;
        self.feed.insert(self.head, (id.to_owned(), lives));
    }
}

/// Fails when a feed leaves a record out, shows one twice or out of its order, or begins elsewhere than asked.
#[track_caller]
fn same(found: &[palisade_core::store::FeedEntry], model: &Model, after: u64, limit: usize, what: &str) {
    let found: Vec<_> =
        found.iter().map(|one| (one.record.seq, one.record.id.to_string(), one.record.data.is_some())).collect();
    let wanted: Vec<_> =
        model.feed.range(after + 1..).take(limit).map(|(seq, (id, lives))| (*seq, id.clone(), *lives)).collect();
    assert_eq!(found, wanted, "{what}");
}

async fn compare(store: &SqliteStore, models: &BTreeMap<&str, Model>, random: &SeededRandom, what: &str) {
    for (stream, model) in models {
        for (after, limit) in [(0, 1_000), (random.bits() % (model.head + 2), 1 + random.bits() % 7)] {
            let limit_of_all = u32::try_from(limit).unwrap();
            let page = store.feed(key(stream), after, limit_of_all).await.unwrap();
            let what = format!("{what}: {stream} after {after}");
            same(&page.entries, model, after, limit_of_all as usize, &what);
            assert_eq!(
                (page.head, page.more),
                (model.head, model.feed.range(after + 1..).count() > limit_of_all as usize)
            );
            let changes = store.changes(key(stream), after, limit_of_all).await.unwrap();
            same(&changes, model, after, limit_of_all as usize, &what);
        }
    }
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new(), "{what}");
}

/// Fails when an entry is lost, doubled or out of order on its way from a stream's row to the table, when one of before
/// counts beside the one of now, when another process or one after a crash reads otherwise, or when the removal of a
/// tombstone leaves its entry or takes another's.
#[tokio::test]
async fn each_record_stands_once_wherever_its_entry_is() {
    for seed in 0..6 {
        let folder = tempfile::tempdir().unwrap();
        let (path, after) = (folder.path().join("feed.db"), folder.path().join("after.db"));
        let stores = [open(&path), open(&path)];
        let random = SeededRandom::new(seed);
        let mut models: BTreeMap<&str, Model> = STREAMS.into_iter().map(|stream| (stream, Model::default())).collect();
        for step in 1..60_i64 {
            let stream = STREAMS[(random.bits() % 2) as usize];
            let model = models.get_mut(stream).unwrap();
            let mut changes = Vec::new();
            // Mostly a few, some of them twice; now and then more than a stream's row takes at once.
            for n in 0..1 + random.bits() % if random.bits().is_multiple_of(5) { 30 } else { 3 } {
                let (id, lives) = (format!("r{}", random.bits() % 40), !random.bits().is_multiple_of(4));
                model.apply(&id, lives);
                let state = if lives { State::Present(format!("{step} {n}").into()) } else { State::Deleted };
                let span = Span::exact(step * 100 + n.cast_signed());
                changes.push(Change { stream: stream.into(), id: id.into(), span, state });
            }
            let merge = Merge { key: key(stream), read_since: Some(u64::MAX >> 1), changes };
            let store = &stores[(random.bits() % 2) as usize];
            store.merge(vec![merge], Timestamp(step)).await.unwrap();
            if random.bits().is_multiple_of(8) {
                let gone: usize = models.values().flat_map(|one| one.feed.values()).filter(|(_, lives)| !lives).count();
                assert_eq!(store.compact_feed(Timestamp(i64::MAX), 1_000).await.unwrap(), gone as u64);
                models.values_mut().for_each(|one| one.feed.retain(|_, (_, lives)| *lives));
            }
            compare(&stores[(random.bits() % 2) as usize], &models, &random, &format!("seed {seed}, step {step}"))
                .await;
        }
        crash_image(&path, &after);
        drop(stores);
        compare(&open(&after), &models, &random, &format!("seed {seed}, after a crash")).await;
    }
}

/// Fails when a record that stands nowhere, or at another's number, is called sound.
#[tokio::test]
async fn a_check_tells_of_lost_entries() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lost.db");
    let store = open(&path);
    let change = |n: i64| Change {
        stream: "a".into(),
        id: format!("r{n}").into(),
        span: Span::exact(n),
        state: State::Present("x".into()),
    };
    for changes in [(1..9).map(change).collect(), vec![change(9)]] {
        store.merge(vec![Merge { key: key("a"), read_since: Some(9), changes }], Timestamp(1)).await.unwrap();
    }
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    let other = rusqlite::Connection::open(&path).unwrap();
    for (damage, told) in [
        ("DELETE FROM palisade_feed WHERE seq = 2", "1 records do not stand in their feeds"),
        ("INSERT INTO palisade_feed VALUES (1, 2, 2), (1, 99, 3)", "1 entries of feeds more than records"),
        ("UPDATE palisade_stream SET feed_new = x'00'", "the newest entries of stream 1 cannot be read"),
    ] {
        other.execute_batch(damage).unwrap();
        let found = store.check().await.unwrap();
        assert!(found.iter().any(|one| one == told), "{damage}: {found:?}");
    }
    store.close().await.unwrap();
}
