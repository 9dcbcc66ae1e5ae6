//! What one call costs us: CPU time and allocations of the pipeline over a transport that answers from memory.

use crate::harness::{Spread, instructions_each, rounds, runtime, thread_cpu};
use crate::report::{Row, Target};
use crate::{allocations, stacks};

/// Calls of one contender in one round.
const CALLS: usize = 20_000;

/// Measures the pipeline beside the bare transport it wraps and beside reqwest-middleware.
pub(crate) fn run(count: usize) -> Vec<Row> {
    let runtime = runtime();
    let senders: Vec<_> = stacks::NAMES.iter().map(|name| runtime.block_on(async { stacks::sender(name) })).collect();
    let mut timed: Vec<_> = senders
        .iter()
        .map(|send| {
            || {
                let start = thread_cpu();
                runtime.block_on(send(CALLS));
                (thread_cpu() - start).as_nanos() as f64 / CALLS as f64
            }
        })
        .collect();
    let mut contenders: Vec<&mut dyn FnMut() -> f64> =
        timed.iter_mut().map(|measure| measure as &mut dyn FnMut() -> f64).collect();
    let took = rounds(count, &mut contenders);
    let counted: Vec<f64> = stacks::NAMES.iter().map(|name| allocations(name)).collect();
    let executed: Option<Vec<f64>> =
        stacks::NAMES.iter().map(|name| instructions_each("call-client", &[name], 5 * CALLS)).collect();
    let mut rows = Vec::new();
    for (kind, verb) in ["GET", "keyed POST"].into_iter().enumerate() {
        let [bare, ours, peer] = [kind, 2 + kind, 4 + kind];
        let own = Spread::difference(&took[ours], &took[bare]);
        let peers = Spread::of(took[peer].clone());
        rows.push(
            Row::new("call", format!("{verb}, own cost over the bare transport"), own, "ns")
                .against(
                    format!("reqwest-middleware + retry + governor + span, whole call: {:.0} ns", peers.median),
                    Spread::ratio(&took[ours], &took[peer]),
                )
                .figure_target(Target::AtMost(1_200.0)),
        );
        rows.push(
            Row::new(
                "call",
                format!("{verb}, whole call with the bare transport"),
                Spread::of(took[ours].clone()),
                "ns",
            )
            .against(
                format!("bare Arc<dyn Transport>: {:.0} ns", Spread::of(took[bare].clone()).median),
                Spread::ratio(&took[ours], &took[bare]),
            ),
        );
        rows.push(
            Row::new(
                "call",
                format!("{verb}, own allocations over the bare transport's {}", counted[bare]),
                Spread::exact(counted[ours] - counted[bare]),
                "",
            )
            .against(
                format!("reqwest-middleware, whole call: {}", counted[peer]),
                Spread::exact(counted[ours] / counted[peer]),
            )
            .figure_target(Target::AtMost(8.0)),
        );
        if let Some(executed) = &executed {
            let own = executed[ours] - executed[bare];
            rows.push(
                Row::new("call", format!("{verb}, own instructions over the bare transport"), Spread::exact(own), "")
                    .against(
                        format!("reqwest-middleware, whole call: {:.0}", executed[peer]),
                        Spread::exact(executed[ours] / executed[peer]),
                    ),
            );
        }
    }
    rows
}

/// One contender in a process of its own: `name calls`.
pub(crate) fn client(args: &[String]) {
    let [name, calls] = args else { panic!("two arguments") };
    let runtime = runtime();
    let send = runtime.block_on(async { stacks::sender(name) });
    runtime.block_on(send(calls.parse().expect("a number")));
}
