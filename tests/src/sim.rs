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
use tokio::time::sleep;

mod actor;
mod judge;
mod others;
mod products;
mod world;

use judge::Judge;
use products::Product;
use world::World;

/// What lies between two looks at the plan.
const BEAT: Duration = Duration::from_secs(15);
/// Beats from one check of everything to the next.
const CHECKED_EVERY: u32 = 8;
/// The longest the world may take to come to rest once nothing goes wrong any more.
const REST_MAX: Duration = Duration::from_secs(8 * 3_600);

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
    /// Times a consumer of the feed died with what it had not kept.
    pub consumers_killed: u64,
    /// Entries of the feed that were read.
    pub entries: u64,
    /// Records compared with the providers' at the end.
    pub records: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { happened, acknowledged, killed, full, jumps, outages, writes, unknown, .. } = self;
        write!(
            f,
            "{happened} things happened, {acknowledged} deliveries acknowledged, {killed} processes killed, the disk {full} \
             times full, {jumps} clocks jumped, {outages} outages; {writes} writes, {unknown} of unknown fate; {} entries \
             read by consumers that died {} times; {} records equal",
            self.entries, self.consumers_killed, self.records
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(run(seed, minutes))
}

/// Runs the world of a seed for so many minutes of its own time, lets it come to rest, and checks what was promised.
/// Has to run under a paused clock.
async fn run(seed: u64, minutes: u32) -> Report {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut world = World::set(seed, dice.random_range(1..=2)).await;
    let mut judge = Judge::new(&world);
    let mut product = Product::new(&world);
    let mut report = Report::default();
    let beats = (u64::from(minutes) * 60 / BEAT.as_secs()).max(1);
    for beat in 1..=u32::try_from(beats).unwrap_or(u32::MAX) {
        world.stir(&mut dice, &mut report).await;
        product.work(&world, &mut dice);
        sleep(BEAT.mul_f64(dice.random_range(0.5..1.5))).await;
        judge.follow(&world, &mut dice, &mut report).await;
        if beat.is_multiple_of(CHECKED_EVERY) {
            judge.check(&world).await;
        }
    }
    world.calm().await;
    product.rest(&world).await;
    world.drain().await;
    judge.check(&world).await;
    tokio::time::timeout(REST_MAX, world.heal()).await.expect("the world comes to rest by itself");
    world.stop().await;
    judge.check(&world).await;
    judge.close(&world, &mut report).await;
    product.check(&world, &mut report);
    report.acknowledged = world.actors.iter().map(|actor| actor.ledger().webhooks.acked).sum();
    report
}
