//! The provider goes down for a while, under the load of a product whose users go on asking.
//!
//! The breaker opens after a few dozen failures, what comes then is refused here at no cost, and when the provider is
//! back a few probes find it out. What it all cost is counted at the provider.

use std::sync::Arc;
use std::time::Duration;

use palisade_core::Result;
use palisade_stripe::Stripe;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::counts::Counts;
use super::report::Outage;
use super::{LOOK, Stage, client};

/// The provider that goes down.
const PROVIDER: &str = "stripe";
/// Users of the product who ask, each for one thing after another.
const ASKING: usize = 12;
/// What a user does between two questions.
const PAUSE: Duration = Duration::from_millis(150);
/// How long the provider stays down after the breaker has opened: time for calls that cost nothing.
const DOWN_AFTER_TRIP: Duration = Duration::from_millis(1_500);
/// The longest it is down if the breaker never opens.
const DOWN_MAX: Duration = Duration::from_secs(12);
/// How long the breaker may take to close afterwards: it is open for 5 s and a tenth of jitter, then come its probes.
const BACK_WITHIN: Duration = Duration::from_secs(20);

/// Takes the provider down and brings it back.
pub(super) async fn strike(stage: &Stage) -> Result<Outage> {
    let arrived = || stage.emulator.ledger().faults.get("outage").copied().unwrap_or(0);
    let before = Counts::of(&stage.metrics);
    let (arrived_before, began) = (arrived(), Instant::now());
    stage.emulator.faults().outage(true);

    let (stop, stopped) = watch::channel(false);
    let users = ask(stage, &stopped)?;
    let mut opened = false;
    while !opened && began.elapsed() < DOWN_MAX {
        sleep(LOOK).await;
        opened = Counts::of(&stage.metrics).trips(PROVIDER) > before.trips(PROVIDER);
    }
    sleep(DOWN_AFTER_TRIP).await;
    let after = Counts::of(&stage.metrics);
    stage.emulator.faults().outage(false);
    let (down, back) = (began.elapsed(), Instant::now());
    let _ = stop.send(true);
    users.join_all().await;

    let stripe = client(&stage.hub, &stage.emulator)?;
    let mut closed = false;
    while !closed && back.elapsed() < BACK_WITHIN {
        // Somebody has to ask, or nobody finds out; what comes of it is for the breaker to judge.
        let _ = stripe.retrieve_event("evt_nobody_knows").await;
        sleep(LOOK).await;
        closed = Counts::of(&stage.metrics).is_closed(PROVIDER);
    }
    Ok(Outage {
        down_ms: millis(down),
        calls: after.ended(PROVIDER) - before.ended(PROVIDER),
        arrived: arrived() - arrived_before,
        refused: after.refused(PROVIDER) - before.refused(PROVIDER),
        trips: Counts::of(&stage.metrics).trips(PROVIDER) - before.trips(PROVIDER),
        closed,
        closed_after_ms: millis(back.elapsed()),
    })
}

/// Lets users ask until they are stopped: each for a customer, a subscription or an invoice, which are limited apart.
fn ask(stage: &Stage, stopped: &watch::Receiver<bool>) -> Result<JoinSet<()>> {
    let stripe = Arc::new(client(&stage.hub, &stage.emulator)?);
    let mut users = JoinSet::new();
    for user in 0..ASKING {
        let (stripe, mut stopped) = (Arc::clone(&stripe), stopped.clone());
        users.spawn(async move {
            while !*stopped.borrow() {
                one(&stripe, user).await;
                let _ = tokio::time::timeout(PAUSE, stopped.wait_for(|stop| *stop)).await;
            }
        });
    }
    Ok(users)
}

/// Asks once. A provider that is down has no answer to anything, so what is asked for need not exist.
async fn one(stripe: &Stripe, user: usize) {
    let id = format!("nobody_{user}");
    match user % 3 {
        0 => drop(stripe.retrieve_customer(&id).await),
        1 => drop(stripe.retrieve_subscription(&id).await),
        _ => drop(stripe.retrieve_invoice(&id).await),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
