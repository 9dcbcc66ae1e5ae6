//! The adapter under the real pipeline, against a workspace that counts. Time is tokio's, paused: minutes of waiting take
//! milliseconds.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use palisade_core::auth::{Credential, CredentialSource, FixedCredential, Scheme};
use palisade_core::clock::TokioClock;
use palisade_core::random::SeededRandom;
use palisade_core::{Client, ConnectionId, Error, ErrorKind, Outcome, Provider, Timestamp, Transport};
use palisade_slack::client::NewMessage;
use palisade_slack::{HistoryRule, Slack, SlackProvider};
use palisade_testkit::{FaultyTransport, Mishap, Plan};
use tokio::time::Instant;

use super::fake::answer;
use super::workspace::{BEGIN, Workspace};

fn over(transport: Arc<dyn Transport>, credentials: Arc<dyn CredentialSource>) -> Slack {
    let client = Client::builder(SlackProvider::new().profile(), transport, credentials)
        .clock(Arc::new(TokioClock::starting_at(Timestamp::from_seconds(BEGIN))))
        .random(Arc::new(SeededRandom::new(7)))
        .build()
        .unwrap();
    Slack::new(Arc::new(client) as Arc<dyn Transport>, "conn_1", "tenant_1")
}

fn token() -> Arc<dyn CredentialSource> {
    Arc::new(FixedCredential::new(&Scheme::Bearer("xoxb-x".into())).unwrap())
}

fn piped(workspace: &Workspace) -> Slack {
    over(Arc::new(workspace.clone()), token())
}

const MINUTE: Duration = Duration::from_secs(60);

/// Fails when two messages to one channel go out within a second, or channels wait for each other.
#[tokio::test(start_paused = true)]
async fn messages_are_one_a_second_and_channel() {
    let workspace = Workspace::peopled();
    let slack = piped(&workspace);
    let begin = Instant::now();
    let channels = ["C1", "C2", "C3"];
    let message = NewMessage::new("x");
    let posts = (0..30).map(|n| slack.post(channels[n % 3], &message));
    assert!(join_all(posts).await.iter().all(Result::is_ok));
    assert!(begin.elapsed() <= Duration::from_secs(10), "three channels at once: {:?}", begin.elapsed());
    for channel in channels {
        let to = |given: &[(String, String)]| given.contains(&("channel".to_owned(), channel.to_owned()));
        assert_eq!(workspace.peak("chat.postMessage", Duration::from_secs(1), to), 1, "{channel}");
    }
}

/// Fails when the slow rule is not kept, or a waiting call is not told how long.
#[tokio::test(start_paused = true)]
async fn history_under_the_slow_rule_is_read_once_a_minute() {
    let workspace = Workspace::peopled();
    let slack = piped(&workspace).reading(HistoryRule::Limited);
    let first: Vec<_> = slack.history("C1", None, None).try_collect().await.unwrap();
    let second: Vec<_> = slack.history("C2", None, None).try_collect().await.unwrap();
    assert_eq!((first.len(), second.len()), (9, 4));
    assert_eq!(workspace.peak("conversations.history", MINUTE, |_| true), 1);
    let all = join_all((0..3).map(|_| slack.history("C3", None, None).try_collect::<Vec<_>>())).await;
    let refused: Vec<_> = all.into_iter().filter_map(Result::err).collect();
    assert!(
        !refused.is_empty()
            && refused.iter().all(|error| error.kind() == ErrorKind::Throttled && error.retry_after().is_some())
    );
    assert_eq!(workspace.peak("conversations.history", MINUTE, |_| true), 1);
}

/// Fails when a message whose answer was lost is sent again, or a read or an edit is not.
#[tokio::test(start_paused = true)]
async fn only_what_may_be_repeated_is() {
    for mishap in [Mishap::LostAnswer, Mishap::LostRequest, Mishap::StuckAnswer] {
        let workspace = Workspace::peopled();
        let faulty = FaultyTransport::new(Arc::new(workspace.clone()), Arc::new(SeededRandom::new(1)), Plan::default());
        let slack = over(Arc::new(faulty.clone()), token());
        faulty.next([Some(mishap)]);
        let error = slack.post("C1", &NewMessage::new("x").client_msg_id("mine")).await.unwrap_err();
        assert_eq!(
            (error.outcome(), error.attempts(), error.is_retryable()),
            (Outcome::Unknown, 1, false),
            "{mishap:?}"
        );
        assert!(error.user_message().contains("could not confirm"));
        assert!(workspace.calls().len() <= 1, "{mishap:?}");
        faulty.next([Some(mishap)]);
        slack.update("C1", "1.000001", &NewMessage::new("x")).await.unwrap();
        faulty.next([Some(mishap)]);
        slack.identity().await.unwrap_err_kind(ErrorKind::Decode);
    }
    let workspace = Workspace::peopled();
    let faulty = FaultyTransport::new(Arc::new(workspace.clone()), Arc::new(SeededRandom::new(1)), Plan::default());
    faulty.next([Some(Mishap::Refused)]);
    over(Arc::new(faulty), token()).post("C1", &NewMessage::new("x")).await.unwrap();
    assert_eq!(workspace.calls().len(), 1, "provably not sent, so sent again");
}

trait ErrKind {
    fn unwrap_err_kind(self, kind: ErrorKind);
}

impl<T: std::fmt::Debug> ErrKind for Result<T, Error> {
    #[track_caller]
    fn unwrap_err_kind(self, kind: ErrorKind) {
        assert_eq!(self.unwrap_err().kind(), kind);
    }
}

/// Fails when a failure inside a 200 passes for a success, or an ambiguous one is repeated for a message.
#[tokio::test(start_paused = true)]
async fn a_200_with_an_error_inside_is_an_error() {
    let refusal = |code: &str| answer(200, &format!(r#"{{"ok":false,"error":"{code}"}}"#));
    for (code, attempts, kind, outcome) in [
        ("fatal_error", 1, ErrorKind::Provider, Outcome::Unknown),
        ("channel_not_found", 1, ErrorKind::NotFound, Outcome::Rejected),
        ("ratelimited", 3, ErrorKind::Throttled, Outcome::Rejected),
        ("request_timeout", 3, ErrorKind::Transport, Outcome::Rejected),
    ] {
        let workspace = Workspace::peopled();
        workspace.script((0..5).map(|_| refusal(code)));
        let error = piped(&workspace).post("C1", &NewMessage::new("x")).await.unwrap_err();
        assert_eq!((error.attempts(), error.kind(), error.outcome()), (attempts, kind, outcome), "{code}");
        assert_eq!(workspace.calls().len(), attempts as usize, "{code}");
    }
    let workspace = Workspace::peopled();
    workspace.script([refusal("internal_error")]);
    let users: Vec<_> = piped(&workspace).users().try_collect().await.unwrap();
    assert_eq!((users.len(), workspace.calls().len()), (9, 2), "a read is repeated");
}

/// Fails when the wait Slack asks for is not kept, or other channels have to keep it too.
#[tokio::test(start_paused = true)]
async fn retry_after_pauses_the_lane_it_came_from() {
    let workspace = Workspace::peopled();
    let slack = piped(&workspace);
    let mut busy = answer(429, r#"{"ok":false,"error":"ratelimited"}"#);
    busy.headers_mut().insert("retry-after", "7".parse().unwrap());
    workspace.script([busy]);
    let begin = Instant::now();
    let message = NewMessage::new("x");
    let (first, other) = tokio::join!(slack.post("C1", &message), async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let posted = slack.post("C2", &message).await;
        (posted, begin.elapsed())
    });
    first.unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(7), "{:?}", begin.elapsed());
    other.0.unwrap();
    assert!(other.1 < Duration::from_secs(1), "{:?}", other.1);
}

/// Gives an old token first and a fresh one after a refresh.
#[derive(Debug)]
struct Rotating;

#[async_trait]
impl CredentialSource for Rotating {
    async fn credential(&self, _: ConnectionId) -> Result<Credential, Error> {
        Credential::new(&Scheme::Bearer("xoxe.xoxb-old".into()), 1, None)
    }

    async fn refresh(&self, _: ConnectionId, seen: u64) -> Result<Credential, Error> {
        Credential::new(&Scheme::Bearer("xoxe.xoxb-new".into()), seen + 1, None)
    }
}

/// Fails when an expired token inside a 200 is not renewed, or a message is lost by it.
#[tokio::test(start_paused = true)]
async fn an_expired_token_is_renewed_once_and_the_message_sent_once() {
    let workspace = Workspace::peopled();
    workspace.script([answer(200, r#"{"ok":false,"error":"token_expired"}"#)]);
    let slack = over(Arc::new(workspace.clone()), Arc::new(Rotating));
    slack.post("C1", &NewMessage::new("x")).await.unwrap();
    assert_eq!(workspace.calls().len(), 2);

    let workspace = Workspace::peopled();
    workspace.script((0..3).map(|_| answer(200, r#"{"ok":false,"error":"token_revoked"}"#)));
    let slack = over(Arc::new(workspace.clone()), Arc::new(Rotating));
    let error = slack.post("C1", &NewMessage::new("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.code(), workspace.calls().len()), (ErrorKind::Auth, Some("token_revoked"), 2));
}

#[tokio::test(start_paused = true)]
async fn a_page_in_slacks_place_is_one_clear_error() {
    let workspace = Workspace::peopled();
    workspace.script((0..3).map(|_| answer(200, "<html>Please log in to the hotel's network</html>")));
    let error = piped(&workspace).identity().await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Decode, 3));
    assert!(!format!("{error} {error:?}").contains("hotel"));
}
