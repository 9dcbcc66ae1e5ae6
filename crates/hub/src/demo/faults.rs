//! What the emulated providers throw while the story runs.

use std::time::Duration;

use palisade_emulator::stripe::Stripe;
use palisade_emulator::{Fault, Faults, RetryAfter, RouteFaults, WebhookFaults};

const EVERYWHERE: &str = "*";

/// Makes Stripe misbehave on every route, and its webhooks come late, twice, out of order, forged or not at all.
pub(super) fn throw(emulator: &Stripe) {
    ill(emulator);
    emulator.faults().webhooks(WebhookFaults {
        duplicate: 0.10,
        reorder: 0.20,
        drop: 0.05,
        late: Some((Duration::ZERO, Duration::from_millis(1_500))),
        forge: 0.05,
        ..WebhookFaults::default()
    });
}

/// Whether somebody sends old deliveries again with their old times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Old {
    /// Somebody does, and is to be refused.
    Refused,
    /// Nothing signed tells old from new: only that it was there before.
    Untold,
}

/// Makes the webhooks of a smaller provider come late, twice, out of order and forged, and a share of them never.
pub(super) fn garble(faults: &Faults, old: Old, never: f64) {
    faults.webhooks(WebhookFaults {
        duplicate: 0.30,
        reorder: 0.30,
        drop: never,
        late: Some((Duration::ZERO, Duration::from_millis(400))),
        forge: 0.30,
        replay: if old == Old::Refused { 0.10 } else { 0.0 },
    });
}

/// Lets any request to Stripe go wrong.
fn ill(emulator: &Stripe) {
    emulator.faults().set(RouteFaults { throttle: 0.02, ..wrong(EVERYWHERE) });
}

/// Lets any request to a route of a smaller provider go wrong.
pub(super) fn stumble(faults: &Faults, route: &str) {
    faults.set(wrong(route));
}

/// Throttles one request to a route whose requests come one after another: where many are on their way at once, as to
/// Stripe, a loaded machine may hold one of them back until it looks as if it came too early.
pub(super) fn throttle_one(faults: &Faults, route: &str) {
    faults.next(route, [Fault::Pass, Fault::Throttle(RetryAfter::Seconds(1))]);
}

/// What goes wrong now and then.
fn wrong(route: &str) -> RouteFaults {
    RouteFaults {
        route: route.to_owned(),
        latency: Some((Duration::from_millis(1), Duration::from_millis(15))),
        error: 0.02,
        statuses: vec![(500, 3), (502, 1), (503, 1), (504, 1)],
        error_after: 0.01,
        retry_after: RetryAfter::Seconds(1),
        cut_body: 0.01,
        reset_before: 0.005,
        reset_after: 0.005,
        ..RouteFaults::default()
    }
}

/// Takes Stripe down.
pub(super) fn go_down(emulator: &Stripe) {
    emulator.faults().outage(true);
}

/// Brings Stripe back, in full health until [`fall_ill_again`].
pub(super) fn come_back(emulator: &Stripe) {
    emulator.faults().clear(EVERYWHERE);
    emulator.faults().outage(false);
}

/// Ends the health. Faults that are rare by chance are thrown on purpose too, so that every story has each of them.
pub(super) fn fall_ill_again(emulator: &Stripe) {
    ill(emulator);
    emulator.faults().next(
        "GET /v1/customers",
        [
            Fault::Pass,
            Fault::Throttle(RetryAfter::None),
            Fault::Throttle(RetryAfter::Seconds(1)),
            Fault::Throttle(RetryAfter::Date(2)),
            Fault::Status(500),
            Fault::HangBefore,
            Fault::CutBody,
            Fault::ResetBefore,
        ],
    );
}
