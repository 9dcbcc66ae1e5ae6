//! What the worker promises, on a provider in a map and a store that may fail and yield.

mod approvals;
mod asking;
mod ends;
mod events;
mod healing;
mod leases;
mod life;
mod metrics;
mod outbox;
mod previews;
mod reads;
mod replays;
mod schedules;
mod storms;
mod syncs;
mod watching;
pub(crate) mod world;
