//! Promise 6 over a restart: what a provider asked one process to leave alone, the next one leaves alone until then.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::clock::TokioClock;
use palisade_core::random::SeededRandom;
use palisade_core::store::RunMode;
use palisade_core::{Clock, ConnectionId, Result, StreamName, Transport};
use palisade_emulator::stripe::{RetryAfter, RouteFaults, Seed, Stripe, StripeConfig};
use palisade_hub::Hub;
use palisade_testkit::EmulatorTransport;
use palisade_tests::seeds::each_paused;
use palisade_tests::stage::{CONNECTION, Kept, NOWHERE, Running, START, hub, patient};
use palisade_tests::verdict;
use tokio::time::{Instant, sleep};

/// What the provider asks for.
const WAIT: Duration = Duration::from_secs(60);

/// Whom an attempt was for, when it arrived and how it was answered.
type Arrival = (String, Instant, u16);

/// The way to the provider, with a book of who arrived when.
struct Door {
    provider: EmulatorTransport,
    arrivals: Mutex<Vec<Arrival>>,
}

#[async_trait]
impl Transport for Door {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let (path, at) = (request.uri().path().to_owned(), Instant::now());
        let answer = self.provider.send(request).await?;
        self.arrivals.lock().unwrap().push((path, at, answer.status().as_u16()));
        Ok(answer)
    }
}

impl Door {
    fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap().clone()
    }
}

/// One process after another over one file and one provider, by one clock.
struct Story {
    seed: u64,
    clock: TokioClock,
    door: Arc<Door>,
    emulator: Stripe,
}

impl Story {
    fn hub(&self, kept: &Kept, process: u64) -> Hub {
        hub(kept.store(), Arc::clone(&self.door) as _, NOWHERE, self.emulator.api_key())
            .clock(Arc::new(self.clock))
            .random(Arc::new(SeededRandom::new(self.seed * 31 + process)))
            .settings(patient(7))
            .build()
            .unwrap()
    }

    /// Everything is in step in the end.
    async fn listed(&self, kept: &Kept) {
        let running = Running::start(&self.hub(kept, 3));
        for _ in 0..600 {
            if verdict::listed(&verdict::runs(&*kept.store()).await) {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
        running.stop().await;
        verdict::assert_records_equal_truth(&*kept.store(), &self.emulator).await;
    }
}

/// Fails when a hub that was stopped or killed forgets until when a lane was to be left alone (leave out the look of the
/// runner's begin), when the row is not written soon, or when a lane is held back for longer than it must be.
#[test]
fn a_hub_that_is_started_again_leaves_alone_what_the_one_before_was_told_to() {
    let test = "restart::a_hub_that_is_started_again_leaves_alone_what_the_one_before_was_told_to";
    each_paused(test, 0..4, async |seed| {
        let kept = Kept::sqlite().await;
        let clock = TokioClock::starting_at(START);
        let config = StripeConfig { seed, clock: Arc::new(move || clock.now().to_system_time()), ..Default::default() };
        let emulator = Stripe::offline(config);
        emulator.populate(&Seed { customers: 20, products: 2, prices: 2, subscriptions: 4, ..Seed::default() });
        let door = Door { provider: EmulatorTransport::new(emulator.clone()), arrivals: Mutex::default() };
        let story = Story { seed, clock, door: Arc::new(door), emulator };
        let retry_after = RetryAfter::Seconds(WAIT.as_secs());
        story.emulator.faults().set(RouteFaults { throttle: 1.0, retry_after, ..RouteFaults::default() });

        let first = Running::start(&story.hub(&kept, 1));
        while story.door.arrivals().is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
        // Soon, not at once: half a second is what a crash may cost.
        sleep(Duration::from_millis(500)).await;
        if seed % 2 == 0 {
            first.stop().await
        } else {
            first.kill().await
        }
        let told = story.door.arrivals();
        assert!(told.iter().all(|(_, _, status)| *status == 429), "{told:?}");
        story.emulator.faults().clear_all();

        // The next one has everything to do at once: somebody has pressed the button.
        let kept = kept.again().await;
        let next = story.hub(&kept, 2);
        let running = Running::start(&next);
        sleep(Duration::from_secs(1)).await;
        let lists = verdict::record_streams().into_iter().map(|stream| (stream, RunMode::Full));
        for (stream, mode) in lists.chain([(palisade_stripe::sync::EVENTS, RunMode::Incremental)]) {
            next.worker().sync_now(&ConnectionId::new(CONNECTION), &StreamName::new(stream), mode).await.unwrap();
        }
        sleep(WAIT * 2).await;
        let arrivals = story.door.arrivals();
        for (path, at, _) in &told {
            let later: Vec<_> = arrivals.iter().filter(|(to, when, _)| to == path && when > at).collect();
            let early: Vec<_> = later.iter().filter(|(_, when, _)| *when < *at + WAIT).collect();
            assert!(early.is_empty(), "{path} was to be left alone: {early:?}");
            assert!(
                later.iter().any(|(_, when, status)| *status == 200 && *when < *at + WAIT * 2),
                "{path}: {later:?}"
            );
        }
        assert_eq!(story.emulator.ledger().early_after_retry_after, 0);
        running.stop().await;
        story.listed(&kept).await;
    });
}
