//! The provider goes down for a while, under the load of a product whose users go on asking.
//!
//! The breaker opens after a few dozen failures, what comes then is refused here at no cost, and when the provider is
//! back a few probes find it out. What it all cost is counted at the provider.

use std::time::Duration;

use palisade_core::{ErrorKind, Result};
use palisade_stripe::Stripe;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::counts::Counts;
use super::report::Outage;
use super::{LOOK, Stage, faults};

/// The provider that goes down.
const PROVIDER: &str = "stripe";
/// What a user does between two questions.
const PAUSE: Duration = Duration::from_millis(100);
/// What a user does who was told that the provider is down.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);
/// How long the provider stays down after the breaker has opened: time for calls that cost nothing.
const DOWN_AFTER_TRIP: Duration = Duration::from_millis(1_000);
/// The longest it is down if the breaker never opens.
const DOWN_MAX: Duration = Duration::from_secs(12);
/// How long the breaker may take to close afterwards: it is open for 5 s and a tenth of jitter, then come its probes.
const BACK_WITHIN: Duration = Duration::from_secs(20);

/// Takes the provider down and brings it back, while users ask.
pub(super) async fn strike(stage: &Stage) -> Result<Outage> {
    let emulator = &stage.cast.stripe.emulator;
    let arrived = || emulator.ledger().faults.get("outage").copied().unwrap_or(0);
    let before = Counts::of(&stage.metrics);
    let (arrived_before, began) = (arrived(), Instant::now());
    faults::go_down(emulator);
    let mut opened = false;
    while !opened && began.elapsed() < DOWN_MAX {
        sleep(LOOK).await;
        opened = Counts::of(&stage.metrics).trips(PROVIDER) > before.trips(PROVIDER);
    }
    sleep(DOWN_AFTER_TRIP).await;
    let after = Counts::of(&stage.metrics);
    // Well until the breaker is closed: another fault that meets a probe would be another story.
    faults::come_back(emulator);
    let (down, back) = (began.elapsed(), Instant::now());
    let mut closed = false;
    while !closed && back.elapsed() < BACK_WITHIN {
        sleep(LOOK).await;
        closed = Counts::of(&stage.metrics).is_closed(PROVIDER);
    }
    let closed_after = back.elapsed();
    faults::fall_ill_again(emulator);
    Ok(Outage {
        down_ms: millis(down),
        calls: after.ended(PROVIDER) - before.ended(PROVIDER),
        arrived: arrived() - arrived_before,
        refused: after.refused(PROVIDER) - before.refused(PROVIDER),
        trips: Counts::of(&stage.metrics).trips(PROVIDER) - before.trips(PROVIDER),
        closed,
        closed_after_ms: millis(closed_after),
    })
}

/// Users of the product: each asks for one thing after another, whatever becomes of it.
pub(super) struct Users {
    asking: JoinSet<()>,
    stop: watch::Sender<bool>,
}

/// What a user asks for: kinds that the provider limits apart.
#[derive(Clone, Copy)]
enum Kind {
    Customer,
    Subscription,
    Invoice,
}

impl Users {
    /// Lets them ask for what there is at the provider, one user for each kind.
    pub(super) fn come(stage: &Stage) -> Result<Self> {
        let stripe = stage.cast.stripe.client(&stage.hub)?;
        let emulator = &stage.cast.stripe.emulator;
        let subscriptions = emulator.truth("subscriptions");
        let customers =
            subscriptions.values().filter_map(|one| one.get("customer")?.as_str().map(str::to_owned)).collect();
        let invoices = emulator.truth("invoices");
        let wanted: [(Kind, Vec<String>); 3] = [
            (Kind::Customer, customers),
            (Kind::Subscription, subscriptions.into_keys().collect()),
            (Kind::Invoice, invoices.into_keys().collect()),
        ];
        let (stop, stopped) = watch::channel(false);
        let mut asking = JoinSet::new();
        for (kind, ids) in wanted {
            let (stripe, mut stopped) = (stripe.clone(), stopped.clone());
            asking.spawn(async move {
                for id in ids.iter().cycle() {
                    if *stopped.borrow() {
                        break;
                    }
                    let refused = ask(&stripe, kind, id).await;
                    let pause = if refused { REFUSED_PAUSE } else { PAUSE };
                    let _ = timeout(pause, stopped.wait_for(|stop| *stop)).await;
                }
            });
        }
        Ok(Self { asking, stop })
    }

    /// Lets each have its last answer.
    pub(super) async fn go(self) {
        let _ = self.stop.send(true);
        self.asking.join_all().await;
    }
}

/// Asks once and tells whether the open breaker refused it. What is gone by now is not found; all else is for the
/// pipeline to see to.
async fn ask(stripe: &Stripe, kind: Kind, id: &str) -> bool {
    let answer = match kind {
        Kind::Customer => stripe.retrieve_customer(id).await.map(drop),
        Kind::Subscription => stripe.retrieve_subscription(id).await.map(drop),
        Kind::Invoice => stripe.retrieve_invoice(id).await.map(drop),
    };
    answer.is_err_and(|error| error.kind() == ErrorKind::CircuitOpen)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
