//! Runs the simulation of a seed: `sim --seed N --minutes M`, or of one seed after another with `--seeds FROM..TO`. With
//! `--storm TENANTS` it is a storm over so many tenants.
#![allow(clippy::expect_used, clippy::print_stdout, reason = "a program for tests")]

use std::ops::Range;

use palisade_tests::sim::{self, Storm};

const USAGE: &str = "usage: sim [--seed N | --seeds FROM..TO] [--minutes M | --storm TENANTS]";

fn main() {
    let (mut seeds, mut minutes, mut storm) = (1..2, 60, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().expect(USAGE);
        match name.as_str() {
            "--seed" => {
                let seed = value.parse().expect(USAGE);
                seeds = seed..seed + 1;
            }
            "--seeds" => {
                let (from, to) = value.split_once("..").expect(USAGE);
                seeds = Range { start: from.parse().expect(USAGE), end: to.parse().expect(USAGE) };
            }
            "--minutes" => minutes = value.parse().expect(USAGE),
            "--storm" => storm = Some(value.parse().expect(USAGE)),
            _ => panic!("{USAGE}"),
        }
    }
    for seed in seeds {
        if let Some(tenants) = storm {
            println!("storm {seed} over {tenants} tenants: {}", Storm { seed, tenants }.pass());
            continue;
        }
        println!("seed {seed}, {minutes} minutes: {}", sim::of_seed(seed, minutes));
    }
}
