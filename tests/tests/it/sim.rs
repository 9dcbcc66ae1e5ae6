//! All promises at once: hubs over the stores' model and the five emulated providers, in worlds where everything goes
//! wrong that a seed draws. `cargo xtask sim` runs more and longer ones.

use palisade_tests::seeds::seeds;
use palisade_tests::sim;

/// Simulated minutes of a run here.
const MINUTES: u32 = 20;

/// Fails when an event is acknowledged before it is committed, a merge ignores the order of observations, a fence is not
/// checked, a repeated write is sent without its key, a forged delivery is accepted, a job dies of an outage, or the feed
/// goes backwards.
#[test]
fn every_promise_holds_whatever_goes_wrong() {
    let (mut killed, mut outages, mut troubles) = (0, 0, 0);
    let seeds = seeds(1..9);
    for &seed in &seeds {
        let report = sim::of_seed(seed, MINUTES);
        assert!(report.records > 0 && report.acknowledged > 0 && report.entries > 0 && report.writes > 0, "{report}");
        killed += report.killed;
        outages += report.outages;
        troubles += report.full + report.jumps;
    }
    assert!(
        seeds.len() == 1 || killed > 0 && outages > 0 && troubles > 0,
        "{killed} kills, {outages} outages, {troubles} other troubles"
    );
}

/// Fails when anything that decides what happens comes from elsewhere than the seed: another order of a map, a race.
#[test]
fn a_seed_repeats_what_it_did() {
    let run = || sim::of_seed(4, MINUTES).to_string();
    assert_eq!(run(), run());
}
