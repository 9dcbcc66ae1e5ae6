//! The generated clients over the pipeline: requests arrive whole, failures come back as ours.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::{Error, ErrorKind, Outcome, Transport};
use palisade_google::Google;
use palisade_google::client::gmail::Message;
use palisade_google::client::{calendar, segment};

use super::fake::{Clients, Fake, answer, call};

/// Fails when an id reaches the path as the caller has it: the generated code encodes nothing.
#[tokio::test]
async fn a_generated_call_passes_the_transport_with_its_operation() {
    let fake = Fake::answering(&[r#"{"id":"e1","summary":"x"}"#]);
    let (hub, _) = fake.client().calendar_hub();
    let id = segment("en.usa#holiday@group.v.calendar.google.com").unwrap();
    let (_, event) = hub.events().get(&id, "e1").doit().await.unwrap();
    assert_eq!(event.summary.as_deref(), Some("x"));
    let request = fake.only();
    let path = "/calendar/v3/calendars/en.usa%23holiday%40group.v.calendar.google.com/events/e1";
    assert_eq!((request.uri().host(), request.uri().path()), (Some("www.googleapis.com"), path));
    assert_eq!(call(&request).operation.name, "calendar.events.get");
    assert!(!request.headers().contains_key("authorization"), "the pipeline adds the token");
}

#[tokio::test]
async fn uploads_arrive_whole() {
    let fake = Fake::answering(&[r#"{"id":"m1"}"#]);
    let (hub, _) = fake.client().gmail_hub();
    let message = b"To: a@x.example\r\n\r\n".repeat(100_000);
    let mime = "message/rfc822".parse().unwrap();
    let body = std::io::Cursor::new(message.clone());
    hub.users().messages_send(Message::default(), "me").upload(body, mime).await.unwrap();
    let request = fake.only();
    assert_eq!(call(&request).operation.name, "gmail.messages.upload");
    assert_eq!(request.uri().host(), Some("gmail.googleapis.com"));
    assert!(request.body().windows(message.len()).any(|part| part == message), "{} bytes", request.body().len());
}

/// Fails when our error is lost on its way through somebody else's types.
#[tokio::test]
async fn a_failure_comes_back_as_ours() {
    for (error, status) in [
        (Error::new(ErrorKind::CircuitOpen, "open").with_retry_after(Some(Duration::from_secs(5))), 599),
        (Error::new(ErrorKind::NotFound, "none").with_status(404).with_code("notFound"), 404),
        (Error::new(ErrorKind::Timeout, "late").with_outcome(Outcome::Unknown), 599),
    ] {
        let (kind, outcome, after) = (error.kind(), error.outcome(), error.retry_after());
        let fake = Fake::with(vec![Err(error)]);
        let (hub, connector) = fake.client().calendar_hub();
        let theirs = hub.events().insert(calendar::Event::default(), "primary").doit().await.unwrap_err();
        if let google_apis_common::Error::BadRequest(body) = &theirs {
            assert_eq!(body["error"]["code"], status);
        }
        let ours = connector.explain(theirs);
        assert_eq!((ours.kind(), ours.outcome(), ours.retry_after()), (kind, outcome, after));
        assert_eq!(ours.operation(), Some("calendar.events.insert"));
        assert_eq!(fake.seen().len(), 1, "the generated client repeats nothing");
    }
    let fake = Fake::with(vec![Ok(answer(200, "{\"id\":[\"secret\"]}"))]);
    let (hub, connector) = fake.client().calendar_hub();
    let ours = connector.explain(hub.events().get("primary", "e").doit().await.unwrap_err());
    assert_eq!((ours.kind(), ours.outcome()), (ErrorKind::Decode, Outcome::Processed));
    assert!(!format!("{ours} {ours:?}").contains("secret"));
}

struct Hanging(tokio::sync::mpsc::Sender<()>);

struct Gone(tokio::sync::mpsc::Sender<()>);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

#[async_trait]
impl Transport for Hanging {
    async fn send(&self, _: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        let _gone = Gone(self.0.clone());
        std::future::pending().await
    }
}

/// Fails when a caller that went away leaves its call running in the pipeline.
#[tokio::test]
async fn a_dropped_call_is_dropped_in_the_pipeline_too() {
    let (told, mut gone) = tokio::sync::mpsc::channel(1);
    let google = Google::new(Arc::new(Hanging(told)) as Arc<dyn Transport>, "conn_1", "tenant_1");
    let (hub, _) = google.gmail_hub();
    {
        let mut call = Box::pin(hub.users().get_profile("me").doit());
        for _ in 0..100 {
            tokio::select! {
                biased;
                _ = &mut call => panic!("it hangs"),
                () = tokio::task::yield_now() => {}
            }
        }
    }
    tokio::time::timeout(Duration::from_secs(10), gone.recv()).await.unwrap().unwrap();
}
