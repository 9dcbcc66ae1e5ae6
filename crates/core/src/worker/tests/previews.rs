//! What a replay would do, told before it is done.

use std::time::Duration;

use super::world::*;
use crate::error::ErrorKind;
use crate::store::*;
use crate::webhook::Event;
use crate::worker::*;

/// A world in which a notice of `t1` came and was handled when it was 1; by now it is 2.
async fn noticed(more: impl FnOnce(WorkerBuilder) -> WorkerBuilder) -> (World, EventRow) {
    let world = World::with(settings(), more).await;
    world.store.put_connection(connection("conn")).await.unwrap();
    let row = notice(&world, 1).await;
    world.quiet().await;
    assert_eq!(world.event_states().await, [(EventState::Done, None)]);
    world.fake.put("t1", Some(2));
    (world, row)
}

/// Delivers the notice of a change of `t1`.
async fn notice(world: &World, value: u64) -> EventRow {
    let n = world.fake.put("t1", Some(value));
    let notice = Event { kind: NOTICE.to_owned(), payload: r#"{"id":"t1"}"#.into(), ..world.fake.event(n) };
    let appended = world.deliver_raw("conn", vec![notice]).await;
    let [Appended::New(row)] = appended[..] else { panic!("{appended:?}") };
    row
}

/// Fails when a preview shows what the notice says: that the record would be fetched, and what a handler makes of an event
/// without what it needs.
#[tokio::test(start_paused = true)]
async fn an_event_that_came_as_a_notice_is_previewed_whole() {
    let world = World::new().await;
    notice(&world, 1).await;
    world.quiet().await;
    // The next one comes a minute later, and its handler is broken.
    world.wait(Duration::from_secs(60)).await;
    let row = notice(&world, 2).await;
    let rejects = handler(|_, _| Box::pin(async { Handled::Reject { reason: "a bug".to_owned() } }));
    world.other(|builder| builder.on("fake", "*", rejects)).step(Queue::Events).await.unwrap();
    let (state, _) = world.event_states().await.pop().unwrap();
    assert_eq!(state, EventState::Dead);
    let needs_it = handler(|event, _| {
        let whole = serde_json::from_slice::<serde_json::Value>(&event.event.payload).unwrap()["value"].is_u64();
        let reason = "it says nothing".to_owned();
        Box::pin(async move { if whole { Handled::Done } else { Handled::Reject { reason } } })
    });
    let held = world.held().await;
    let worker = world.other(|builder| builder.on("fake", "*", needs_it));
    let preview = worker.preview(row).await.unwrap().unwrap();
    assert_eq!(preview.refusal, None);
    let [record] = &preview.records[..] else { panic!("{preview:?}") };
    assert_eq!((record.id.as_str(), record.change), ("t1", PreviewChange::Updated));
    assert_eq!(record.before.as_ref(), held.get("t1"));
    assert_eq!(record.after.as_deref(), Some(&br#"{"id":"t1","value":2}"#[..]));
    assert_eq!(world.held().await, held, "nothing was kept");
}

/// Fails when a preview shows what an event says rather than what the merge rule makes of it: a replay of last week's events
/// would seem to turn everything back.
#[tokio::test(start_paused = true)]
async fn a_preview_follows_the_merge_rule() {
    let world = World::new().await;
    let mut rows = Vec::new();
    for (id, value) in [("t1", Some(1)), ("t2", Some(1)), ("t1", Some(2)), ("t2", None), ("t3", Some(1))] {
        let n = world.fake.put(id, value);
        let appended = world.deliver(&[n]).await;
        let [Appended::New(row)] = appended[..] else { panic!("{appended:?}") };
        rows.push(row);
        world.quiet().await;
        world.wait(Duration::from_secs(60)).await;
    }
    let held = world.held().await;
    let same = &held["t1"];
    // The records of `t1` and `t2` have gone on since the first two; the others are the last word.
    let expected = [
        (PreviewChange::Older, Some(same)),
        (PreviewChange::Older, None),
        (PreviewChange::Unchanged, Some(same)),
        (PreviewChange::Unchanged, None),
        (PreviewChange::Unchanged, held.get("t3")),
    ];
    for (row, (change, after)) in rows.into_iter().zip(expected) {
        let preview = world.worker.preview(row).await.unwrap().unwrap();
        let [record] = &preview.records[..] else { panic!("{preview:?}") };
        assert_eq!((record.change, record.after.as_ref()), (change, after), "{row:?}");
        // And that is what the replay does.
        let feed = world.feed().await;
        world.store.inner.replay(row, world.clock.now()).await.unwrap();
        world.quiet().await;
        assert_eq!(world.feed().await, feed, "{row:?}");
    }
    let new = notice(&world, 9).await;
    let preview = world.worker.preview(new).await.unwrap().unwrap();
    assert_eq!(preview.records[0].change, PreviewChange::Updated);
}

/// Fails when a preview that cannot retrieve the event says that the event says nothing, when it marks the connection, or
/// when one that sends nothing tells nothing.
#[tokio::test(start_paused = true)]
async fn a_preview_without_the_event_says_so_and_marks_nothing() {
    let cases = [
        (ErrorKind::Connect, Some("it would come again"), None),
        (ErrorKind::Auth, Some("it would come again"), None),
        (ErrorKind::Config, None, Some(PreviewChange::Fetched)),
    ];
    for (kind, refused, change) in cases {
        let (world, row) = noticed(|builder| builder).await;
        world.fake.truth().failures.push_back(Error::new(kind, "no"));
        let preview = world.worker.preview(row).await.unwrap().unwrap();
        let said = preview.refusal.as_deref().map(|why| why.split(':').next().unwrap());
        assert_eq!(said, refused, "{kind:?}");
        assert_eq!(preview.records.first().map(|record| record.change), change, "{kind:?}");
        assert_eq!(world.state().await, ConnectionState::Active, "{kind:?}");
    }
}
