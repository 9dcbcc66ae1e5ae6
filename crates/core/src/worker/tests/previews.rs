//! What a replay would do, told before it is done.

use super::world::*;
use crate::error::ErrorKind;
use crate::store::*;
use crate::webhook::Event;
use crate::worker::*;

/// A world in which a notice of `t1` came and was handled when it was 1; by now it is 2.
async fn noticed(more: impl FnOnce(WorkerBuilder) -> WorkerBuilder) -> (World, EventRow) {
    let world = World::with(settings(), more).await;
    world.store.put_connection(connection("conn")).await.unwrap();
    let n = world.fake.put("t1", Some(1));
    let whole = world.fake.event(n);
    let notice = Event { kind: NOTICE.to_owned(), payload: r#"{"id":"t1"}"#.into(), ..whole };
    let appended = world.deliver_raw("conn", vec![notice]).await;
    let [Appended::New(row)] = appended[..] else { panic!("{appended:?}") };
    world.quiet().await;
    assert_eq!(world.event_states().await, [(EventState::Done, None)]);
    world.fake.put("t1", Some(2));
    (world, row)
}

/// Fails when a preview shows what the notice says: that the record would be fetched, and what a handler makes of an event
/// without what it needs.
#[tokio::test(start_paused = true)]
async fn an_event_that_came_as_a_notice_is_previewed_whole() {
    let needs_it = handler(|event, _| {
        let whole = serde_json::from_slice::<serde_json::Value>(&event.event.payload).unwrap()["value"].is_u64();
        let reason = "it says nothing".to_owned();
        Box::pin(async move { if whole { Handled::Done } else { Handled::Reject { reason } } })
    });
    let (world, row) = noticed(|builder| builder.on("fake", "*", needs_it)).await;
    let held = world.held().await;
    let preview = world.worker.preview(row).await.unwrap().unwrap();
    assert_eq!(preview.refusal, None);
    let [record] = &preview.records[..] else { panic!("{preview:?}") };
    assert_eq!((record.id.as_str(), record.change), ("t1", PreviewChange::Updated));
    assert_eq!(record.before.as_ref(), held.get("t1"));
    assert_eq!(record.after.as_deref(), Some(&br#"{"id":"t1","value":2}"#[..]));
    assert_eq!(world.held().await, held, "nothing was kept");
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
