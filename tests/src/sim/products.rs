//! What the product of the simulation writes at the providers, and what it was told of each write.

use std::collections::BTreeMap;

use palisade_core::{ErrorKind, Outcome};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use super::Report;
use super::world::World;

/// What the product knows of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// It happened.
    Done,
    /// It did not.
    NotDone,
    /// Nobody can know.
    Unknown,
}

/// The product.
pub(super) struct Product {
    /// By number: at which provider, and what was told; nothing as long as it is under way.
    written: BTreeMap<u64, (usize, Option<Told>)>,
    under_way: JoinSet<(u64, Told)>,
    providers: usize,
}

impl Product {
    pub(super) fn new(world: &World) -> Self {
        Self { written: BTreeMap::new(), under_way: JoinSet::new(), providers: world.actors.len() }
    }

    /// Begins writes, each by one of the processes. It dies with its process.
    pub(super) fn work(&mut self, world: &World, dice: &mut StdRng) {
        while let Some(ended) = self.under_way.try_join_next() {
            self.note(ended.expect("a write does not panic"));
        }
        for _ in 0..dice.random_range(0..3) {
            let (number, at) = (self.written.len() as u64, dice.random_range(0..self.providers));
            let actor = &world.actors[at];
            let (pipeline, mut dead) = world.pipeline(dice.random_range(0..world.processes.len()), actor.name());
            let write = actor.write(pipeline, number);
            self.written.insert(number, (at, None));
            self.under_way.spawn(async move {
                let told = tokio::select! {
                    biased;
                    done = write => match done {
                        Ok(()) => Told::Done,
                        Err(error) if error.kind() == ErrorKind::Invalid => panic!("write {number} cannot be made: {error}"),
                        Err(error) => match error.outcome() {
                            Outcome::Processed => Told::Done,
                            Outcome::NotSent | Outcome::Rejected => Told::NotDone,
                            _ => Told::Unknown,
                        },
                    },
                    _ = dead.wait_for(|dead| *dead) => Told::Unknown,
                };
                (number, told)
            });
        }
    }

    /// Waits until no write is under way.
    pub(super) async fn rest(&mut self, _world: &World) {
        while let Some(ended) = self.under_way.join_next().await {
            self.note(ended.expect("a write does not panic"));
        }
    }

    fn note(&mut self, (number, told): (u64, Told)) {
        if let Some((_, known)) = self.written.get_mut(&number) {
            *known = Some(told);
        }
    }

    /// Checks each write against what its provider did.
    ///
    /// # Panics
    /// When one was done twice, or not as it was told.
    pub(super) fn check(&self, world: &World, report: &mut Report) {
        let done: Vec<BTreeMap<u64, u64>> = world.actors.iter().map(|actor| actor.done()).collect();
        for (number, (at, told)) in &self.written {
            let times = done[*at].get(number).copied().unwrap_or(0);
            let actor = &world.actors[*at];
            let lawful = match told.expect("every write has ended") {
                Told::Done => times == 1 || (times == 0 && actor.forgets()),
                Told::NotDone => times == 0,
                Told::Unknown => times <= 1,
            };
            assert!(lawful, "{}: write {number} was told as {told:?} and done {times} times", actor.name());
            report.writes += 1;
            report.unknown += u64::from(*told == Some(Told::Unknown));
        }
    }
}
