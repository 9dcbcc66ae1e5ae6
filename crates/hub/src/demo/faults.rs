//! What the emulated provider throws while the story runs.

use std::time::Duration;

use palisade_emulator::stripe::{Fault, RetryAfter, RouteFaults, Stripe, WebhookFaults};

const EVERYWHERE: &str = "*";

/// Makes the provider misbehave on every route, and the webhooks come late, twice, out of order, forged or not at all.
pub(super) fn throw(emulator: &Stripe) {
    stumble(emulator);
    emulator.faults().webhooks(WebhookFaults {
        duplicate: 0.10,
        reorder: 0.20,
        drop: 0.05,
        late: Some((Duration::ZERO, Duration::from_millis(1_500))),
        forge: 0.05,
        ..WebhookFaults::default()
    });
}

/// Lets any request go wrong.
fn stumble(emulator: &Stripe) {
    emulator.faults().set(RouteFaults {
        route: EVERYWHERE.to_owned(),
        latency: Some((Duration::from_millis(1), Duration::from_millis(15))),
        error: 0.02,
        statuses: vec![(500, 3), (502, 1), (503, 1), (504, 1)],
        error_after: 0.01,
        throttle: 0.02,
        retry_after: RetryAfter::Seconds(1),
        cut_body: 0.01,
        reset_before: 0.005,
        reset_after: 0.005,
        ..RouteFaults::default()
    });
}

/// Takes the provider down.
pub(super) fn go_down(emulator: &Stripe) {
    emulator.faults().outage(true);
}

/// Brings the provider back, in full health until [`fall_ill_again`].
pub(super) fn come_back(emulator: &Stripe) {
    emulator.faults().clear(EVERYWHERE);
    emulator.faults().outage(false);
}

/// Ends the health. Faults that are rare by chance are thrown on purpose too, so that every story has each of them.
pub(super) fn fall_ill_again(emulator: &Stripe) {
    stumble(emulator);
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

/// Ends the misbehaviour; what is under way still arrives.
pub(super) fn calm(emulator: &Stripe) {
    emulator.faults().clear_all();
    emulator.faults().webhooks(WebhookFaults::default());
}
