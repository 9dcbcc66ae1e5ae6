//! The kit's fake transport with the typed client over it.

use std::sync::Arc;

use palisade_core::clock::ManualClock;
use palisade_core::random::SeededRandom;
use palisade_core::{Timestamp, Transport};
use palisade_google::Google;
pub(crate) use palisade_testkit::fake::{Fake, answer, call, pairs};

pub(crate) const NOW: Timestamp = Timestamp(1_767_225_610_000);

pub(crate) trait Clients {
    fn client(&self) -> Google;
}

impl Clients for Arc<Fake> {
    fn client(&self) -> Google {
        Google::new(Arc::clone(self) as Arc<dyn Transport>, "conn_1", "tenant_1")
            .clock(Arc::new(ManualClock::starting_at(NOW)))
            .random(Arc::new(SeededRandom::new(7)))
    }
}
