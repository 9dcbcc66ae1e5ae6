//! A process that dies at every point where it can.

use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};

use super::*;

/// Runs a task until it has been polled so often, and then drops it: a process that dies at its n-th await.
struct Fuse {
    task: Option<BoxFuture<'static, ()>>,
    left: Arc<AtomicUsize>,
    died: Arc<AtomicBool>,
}

impl Future for Fuse {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let left = self.left.load(Ordering::SeqCst);
        if left == 0 {
            self.task = None;
            self.died.store(true, Ordering::SeqCst);
            return Poll::Ready(());
        }
        self.left.store(left - 1, Ordering::SeqCst);
        match self.task.as_mut() {
            Some(task) => task.as_mut().poll(context),
            None => Poll::Ready(()),
        }
    }
}

/// What the next process must say, by where the first one died.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Said {
    Token,
    MaybeLost,
}

/// Fails when a crash between the provider's answer and our write is guessed to be harmless, when one before the intent
/// is called a loss, when a token is sent twice, or when anything is called a success that is none.
#[tokio::test(start_paused = true)]
async fn a_crash_at_each_await_is_a_valid_token_or_said_to_be_a_loss() {
    let mut said = Vec::new();
    for n in 0.. {
        let world = World::connected().await;
        world.store.layer.yielding();
        world.provider.yields.store(true, Ordering::SeqCst);
        tokio::time::advance(LIFE).await;
        let left = Arc::new(AtomicUsize::new(n));
        let died = Arc::new(AtomicBool::new(false));
        let dies = {
            let (left, died) = (left.clone(), died.clone());
            world.process_with(1, move |task| {
                let (left, died) = (left.clone(), died.clone());
                Box::pin(Fuse { task: Some(task), left, died })
            })
        };
        let first = tokio::time::timeout(Duration::from_secs(5), dies.token()).await;
        let has_died = died.load(Ordering::SeqCst);
        let repeat = format!("died at poll {n}: cargo test -p palisade-core a_crash_at_each_await");
        let intent_was_there = world.row().await.intent.is_some();
        let before = world.row().await.generation;
        // Another process comes, and has to wait for the hold at most.
        let next = tokio::time::timeout(Duration::from_secs(60), world.process(2).token()).await.expect(&repeat);
        world.provider.assert_single_use(&repeat);
        match next {
            Ok(credential) => {
                world.assert_valid(&credential, &repeat);
                assert!(!intent_was_there, "{repeat}: an intent was found and passed over");
                said.push(Said::Token);
            }
            Err(error) => {
                assert_eq!(
                    (error.kind(), error.message()),
                    (ErrorKind::Auth, EndReason::MaybeLost.phrase()),
                    "{repeat}"
                );
                assert!(intent_was_there, "{repeat}: a loss without an intent");
                assert_eq!(before, 1, "{repeat}");
                assert!(matches!(world.state().await, ConnectionState::NeedsReconnect { .. }), "{repeat}");
                said.push(Said::MaybeLost);
            }
        }
        if !has_died {
            assert!(first.unwrap().is_ok(), "{repeat}");
            break;
        }
        if let Ok(Ok(credential)) = first {
            world.assert_valid(&credential, &repeat);
        }
    }
    // First nothing had left, then it may be lost, then it is written.
    let phases: Vec<Said> = {
        let mut phases = said.clone();
        phases.dedup();
        phases
    };
    assert_eq!(phases, [Said::Token, Said::MaybeLost, Said::Token], "{said:?}");
    assert!(said.len() > 15, "{} points", said.len());
    let lost = said.iter().filter(|one| **one == Said::MaybeLost).count();
    assert!(lost >= 3, "{said:?}");
}

/// Fails when a refresh token that may be sent again is called lost.
#[tokio::test(start_paused = true)]
async fn where_refresh_tokens_are_reusable_no_crash_loses_one() {
    for n in 0.. {
        let world = World::connected().await;
        world.provider.policy.lock().unwrap().refresh_reusable = true;
        world.provider.rotates.store(false, Ordering::SeqCst);
        world.store.layer.yielding();
        world.provider.yields.store(true, Ordering::SeqCst);
        tokio::time::advance(LIFE).await;
        let (left, died) = (Arc::new(AtomicUsize::new(n)), Arc::new(AtomicBool::new(false)));
        let dies = {
            let (left, died) = (left.clone(), died.clone());
            world.process_with(1, move |task| {
                Box::pin(Fuse { task: Some(task), left: left.clone(), died: died.clone() })
            })
        };
        let _first = tokio::time::timeout(Duration::from_secs(5), dies.token()).await;
        let next = tokio::time::timeout(Duration::from_secs(60), world.process(2).token()).await.unwrap();
        world.assert_valid(&next.unwrap(), &format!("died at poll {n}"));
        if !died.load(Ordering::SeqCst) {
            assert!(n > 10, "{n} points");
            break;
        }
    }
}

/// Fails when a process that slept past its hold (a paused machine) loses the only successor it has.
#[tokio::test(start_paused = true)]
async fn a_process_that_comes_back_with_the_answer_still_keeps_it() {
    let world = World::connected().await;
    *world.provider.delay.lock().unwrap() = Duration::from_secs(25);
    // Its prolongations never arrive.
    world.store.layer.failing(|name| (name == "extend_grant").then_some(Fault::Before));
    let (slow, other) = (world.process(1), world.process(2));
    tokio::time::advance(LIFE).await;
    let waiting = tokio::spawn({
        let source = slow.source.clone();
        async move { source.credential("acme".into()).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let early = other.token().await.unwrap_err();
    assert_eq!(early.message(), EndReason::MaybeLost.phrase(), "nobody can know better at that moment");
    assert!(matches!(world.state().await, ConnectionState::NeedsReconnect { .. }));
    let credential = waiting.await.unwrap().unwrap();
    world.assert_valid(&credential, "");
    assert_eq!((world.row().await.state, world.state().await), (GrantState::Live, ConnectionState::Active));
    assert_eq!(sent(&other.token().await.unwrap()), sent(&credential));
    world.provider.assert_single_use("");
}
