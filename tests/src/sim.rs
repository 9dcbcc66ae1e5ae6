//! The simulation: hubs over the stores' model, all five emulated providers, and people who use both, on one thread
//! under a clock that passes by itself when nobody has anything to do. Everything that goes wrong is drawn from a seed:
//! networks that lose, providers that fail and are down, deliveries that are late, doubled, forged or lost, processes
//! that die, a disk that is full, clocks that jump. What the design promises is checked all along and at the end.
//!
//! `cargo xtask sim --seed N --minutes M` runs it; the tests run a few short ones.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep};

mod actor;
mod errands;
mod judge;
mod nature;
mod others;
mod products;
mod receiver;
mod secrets;
mod storm;
mod tokens;
mod world;

pub use storm::{Storm, Weathered};

use judge::Judge;
use products::Product;
use receiver::Operator;
use secrets::Log;
use tokens::Owner;
use tokio::task::JoinSet;
use world::World;

/// What lies between two looks at the plan.
const BEAT: Duration = Duration::from_secs(15);
/// So many minutes leave room for an outage of an hour.
const LONG: u32 = 90;
/// Beats from one check of everything to the next.
const CHECKED_EVERY: u32 = 8;
/// How soon everything must be as it should once nothing goes wrong any more, without anybody's help: what was accepted
/// is handled and forwarded, what was left to the outbox is done. The longest waits are those of the schedule for
/// forwarding: after the fourth failure, two hours.
const BY_ITSELF: Duration = Duration::from_secs(3 * 3_600);
/// The longest the last reading of every stream may take.
const READ_MAX: Duration = Duration::from_secs(2 * 3_600);
/// Between two looks whether it is.
const LOOK: Duration = Duration::from_secs(20);

/// What a simulation did. What it found wrong it panics with.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "only tests use it")]
pub struct Report {
    /// Things that happened at the providers.
    pub happened: u64,
    /// Deliveries that were acknowledged.
    pub acknowledged: u64,
    /// Processes that were killed.
    pub killed: u64,
    /// Times the disk was full.
    pub full: u64,
    /// Times a process's clock jumped.
    pub jumps: u64,
    /// Times a provider was down.
    pub outages: u64,
    /// Writes of the product at providers.
    pub writes: u64,
    /// Of these, those whose fate the product cannot know.
    pub unknown: u64,
    /// Calls left to the outbox.
    pub calls: u64,
    /// Of these, those whose fate somebody has to look up.
    pub reviews: u64,
    /// Messages that destinations took.
    pub forwarded: u64,
    /// Of these, those that had come before.
    pub again: u64,
    /// Times a destination wanted no more.
    pub gone: u64,
    /// Single-use tokens that were traded.
    pub renewals: u64,
    /// Times an account had to be connected again.
    pub reconnects: u64,
    /// Seconds of the world's time until everything was as it should be, once nothing went wrong any more.
    pub rested: u64,
    /// Times a consumer of the feed died with what it had not kept.
    pub consumers_killed: u64,
    /// Entries of the feed that were read.
    pub entries: u64,
    /// Records compared with the providers' at the end.
    pub records: u64,
    /// Times the providers' limits, pauses included, were compared with what one process sent that is never killed.
    pub limits: u64,
    /// Times they were with what several processes sent, each of which has a budget of its own.
    pub limits_in_sum: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { happened, acknowledged, killed, full, jumps, outages, writes, unknown, .. } = self;
        let Self { calls, reviews, forwarded, again, gone, renewals, reconnects, rested, .. } = self;
        write!(
            f,
            "{happened} things happened, {acknowledged} deliveries acknowledged, {killed} processes killed, the disk {full} \
             times full, {jumps} clocks jumped, {outages} outages; {writes} writes, {unknown} of unknown fate; {calls} calls \
             of the outbox, {reviews} in review; {forwarded} messages forwarded, {again} of them again, {gone} times gone; \
             {renewals} tokens renewed, {reconnects} reconnects; {} entries read by consumers that died {} times; at rest \
             after {rested} s, {} records equal; \
             limits compared {} times with what one process sent, {} times with what several did",
            self.entries, self.consumers_killed, self.records, self.limits, self.limits_in_sum
        )
    }
}

/// Says how to repeat a simulation if it panics while this lives.
struct Repeat {
    seed: u64,
    minutes: u32,
}

impl Drop for Repeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("\nrepeat with: cargo xtask sim --seed {} --minutes {}", self.seed, self.minutes);
        }
    }
}

/// Runs the simulation of a seed in a runtime of its own, whose clock stands still while anybody has something to do.
///
/// # Panics
/// When a promise is broken; the one command that repeats it is printed.
#[must_use]
pub fn of_seed(seed: u64, minutes: u32) -> Report {
    let _repeat = Repeat { seed, minutes };
    let (log, _guard) = Log::listen();
    runtime().block_on(run(seed, minutes, log))
}

fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime")
}

/// Tells whether a seed's world has one process that is never killed: what such a one knows of limits holds all along.
#[must_use]
pub fn has_one_process(seed: u64) -> bool {
    draws_one_process(&mut StdRng::seed_from_u64(seed))
}

fn draws_one_process(dice: &mut StdRng) -> bool {
    dice.random_bool(0.25)
}

/// Runs the world of a seed for so many minutes of its own time, lets it come to rest, and checks what was promised.
/// Has to run under a paused clock.
async fn run(seed: u64, minutes: u32, log: Log) -> Report {
    let mut dice = StdRng::seed_from_u64(seed);
    let steady = draws_one_process(&mut dice);
    let processes = if steady { 1 } else { dice.random_range(1..=2) };
    let mut world = World::set(seed, processes, (steady, minutes >= LONG)).await;
    let (mut judge, mut product) = (Judge::new(&world), Product::new(&world));
    let (mut people, mut errands) = (People::default(), JoinSet::new());
    let mut report = Report::default();
    let beats = (u64::from(minutes) * 60 / BEAT.as_secs()).max(1);
    for beat in 1..=u32::try_from(beats).unwrap_or(u32::MAX) {
        world.stir(&mut dice, &mut report).await;
        product.work(&world, &mut dice);
        world.errands.work(&world, &mut dice, &mut errands);
        sleep(BEAT.mul_f64(dice.random_range(0.5..1.5))).await;
        people.look(&world, &mut report).await;
        judge.follow(&world, &mut dice, &mut report).await;
        if beat.is_multiple_of(CHECKED_EVERY) {
            judge.check(&world).await;
        }
    }
    world.calm().await;
    product.rest(&world).await;
    errands.join_all().await;
    world.drain().await;
    judge.check(&world).await;
    report.rested = people.rest(&world, &mut report).await;
    judge.check(&world).await;
    errands::reconcile(&world).await;
    tokio::time::timeout(READ_MAX, world.heal()).await.expect("every stream is read once more");
    people.rest(&world, &mut report).await;
    secrets::search(&world, &log).await;
    world.stop().await;
    judge.check(&world).await;
    judge.close(&world, &mut report).await;
    product.check(&world, &mut report);
    errands::close(&world, &mut report).await;
    (report.limits, report.limits_in_sum) = judge.limits;
    report.acknowledged = world.actors.iter().map(|actor| actor.ledger().webhooks.acked).sum();
    report
}

/// Those who look after a hub: the accounts' owner, and the operator of the destinations.
#[derive(Default)]
struct People {
    owner: Owner,
    operator: Operator,
}

impl People {
    async fn look(&mut self, world: &World, report: &mut Report) {
        self.owner.look(world, report).await;
        self.operator.look(world, &world.processes[0].hub).await;
    }

    /// Waits until everything is as it should be, and returns after how many seconds it was.
    async fn rest(&mut self, world: &World, report: &mut Report) -> u64 {
        let begun = Instant::now();
        loop {
            self.look(world, report).await;
            let missing = match (world.pending().await, errands::pending(world).await) {
                (0, 0) => receiver::missing(world).await,
                (events, calls) => vec![format!("{events} events and {calls} calls of the outbox wait")],
            };
            if missing.is_empty() && self.operator.is_done(world).await {
                (report.forwarded, report.again) = world.receiver.counts();
                report.gone = world.receiver.gone_times();
                report.renewals = tokens::traded(world);
                return begun.elapsed().as_secs();
            }
            assert!(begun.elapsed() < BY_ITSELF, "not at rest by itself after {BY_ITSELF:?}: {missing:?}");
            sleep(LOOK).await;
        }
    }
}
