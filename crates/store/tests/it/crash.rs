//! What was acknowledged is there after a crash at any moment.

use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use palisade_core::Random;
use palisade_core::random::SeededRandom;
use palisade_core::store::{Appended, EventRow, Inbox, Jobs};

use crate::child;
use crate::subject::{crash_image, delivery, open};

/// Fails when a caller is answered before its commit (`command.answer` moved before `COMMIT`).
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_acknowledged_is_in_a_copy_taken_under_load() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("live.db");
    let store = open(&path);
    let (over, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let mut writers = Vec::new();
    for writer in 0..16 {
        let (store, over, acknowledged) = (store.clone(), over.clone(), acknowledged.clone());
        writers.push(tokio::spawn(async move {
            for number in 0.. {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let new = delivery(&format!("{writer}-{number}"), Bytes::from(vec![b'x'; 3_000]));
                let Appended::New(row) = store.append(vec![new]).await.unwrap()[0][0] else { panic!("a new event") };
                acknowledged.lock().unwrap().push(row);
            }
        }));
    }
    for (number, wanted) in [100, 400, 1_500].into_iter().enumerate() {
        while acknowledged.lock().unwrap().len() < wanted {
            tokio::task::yield_now().await;
        }
        let before: Vec<EventRow> = acknowledged.lock().unwrap().clone();
        let copy = folder.path().join(format!("copy-{number}.db"));
        crash_image(&path, &copy);
        let survivor = open(&copy);
        assert_eq!(survivor.check().await.unwrap(), Vec::<String>::new());
        for row in &before {
            assert!(survivor.event(*row).await.unwrap().is_some(), "{row:?} was acknowledged");
        }
        let pending: u64 = survivor.event_counts().await.unwrap().values().sum();
        assert_eq!(survivor.job_counts().await.unwrap().waiting, pending, "each event has its job");
        survivor.close().await.unwrap();
    }
    over.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    store.close().await.unwrap();
}

/// Fails as above, and when `synchronous` or the journal mode is changed so that a killed process loses commits.
#[tokio::test]
async fn everything_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("killed.db");
    let random = SeededRandom::new(9);
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let mut writer = child::start("append", &path, "");
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let stop = 20 + random.bits() % 400;
        // Rounds after the first find their first events already stored: those are refused as duplicates.
        let mut seen = 0;
        while seen < stop {
            let Some(Ok(line)) = lines.next() else { break };
            if let Some(row) = child::number(&line) {
                acknowledged.push(row);
                seen += 1;
            }
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        acknowledged.extend(lines.map_while(Result::ok).filter_map(|line| child::number(&line)));
        assert!(round > 0 || seen == stop, "the child wrote");

        let store = open(&path);
        assert_eq!(store.check().await.unwrap(), Vec::<String>::new(), "the file is whole");
        for row in &acknowledged {
            assert!(store.event(EventRow(*row)).await.unwrap().is_some(), "event {row} was acknowledged");
        }
        let stored: u64 = store.event_counts().await.unwrap().values().sum();
        assert!(stored >= acknowledged.len() as u64, "no row was acknowledged twice");
        assert_eq!(store.job_counts().await.unwrap().waiting, stored, "each event has its job");
        store.close().await.unwrap();
    }
}
