//! `palisade keys`: the master keys that wrap every data key, made, shown, rotated and retired.
//!
//! All of it is safe while a hub serves from the same database, and safe to stop at any moment and start again: which
//! key wraps is decided by the register in the store, and what is left to do is counted there.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use palisade_core::auth::vault::{MasterKey, MasterKeyFile, MasterKeyRing, Progress, Rotation, Stuck};
use palisade_core::random::SystemRandom;
use palisade_core::store::{MasterState, MasterStatus, Retirement};
use palisade_core::{Error, ErrorKind, Random};
use serde::Serialize;
use serde_json::{Value, json};

use super::asked::Ask;
use super::out::{bar, count, document, table};
use super::place::existing_store;
use super::serve::{folder_of, load};
use super::{Failure, runtime, say};
use crate::config::{Config, SecretRef, Variables, process_variables};

/// Data keys wrapped anew in one commit: a hub's own commits wait no longer than for one of these.
const BATCH: u32 = 500;
/// How often a rotation begins its walk again because another process made another key active meanwhile.
const WALKS_MAX: u32 = 3;

/// What the help shows.
pub(super) const EXAMPLES: &str = "\
Examples:
  palisade keys init master.key
  palisade keys status
  palisade keys rotate --dry-run
  palisade keys rotate
  palisade keys retire local-0123abcd";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Makes a key file with one new key, for this user only. A file that is there is not touched.
    Init {
        /// The file, as `vault.master_key = { file = "…" }` will name it.
        file: PathBuf,
        /// Writes one JSON document on one line, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Shows the master keys, what each is used for and how many data keys it wraps.
    Status(Ask),
    /// Makes a new key the active one and wraps every data key by it; goes on with a rotation that was stopped.
    Rotate {
        /// Changes nothing: says what would be done, and whether every data key opens.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Retires a key that wraps nothing any more, so that it can leave the key file.
    Retire {
        /// The key's name, as `status` shows it.
        key: String,
        /// Changes nothing: says what would be done.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        ask: Ask,
    },
}

/// The master keys of a configuration.
pub(super) enum Holder {
    /// In a file of their own, which a running hub reads again when it needs a new one.
    File(PathBuf, Arc<MasterKeyFile>),
    /// In an environment variable, read once.
    Variable(String, Arc<MasterKeyRing>),
}

impl Holder {
    pub(super) fn master_key(&self) -> Arc<dyn MasterKey> {
        match self {
            Self::File(_, file) => Arc::clone(file) as _,
            Self::Variable(_, ring) => Arc::clone(ring) as _,
        }
    }

    fn ids(&self) -> Vec<String> {
        match self {
            Self::File(_, file) => file.ids(),
            Self::Variable(_, ring) => ring.ids().into_iter().map(str::to_owned).collect(),
        }
    }

    /// Returns the newest key's name.
    fn newest(&self) -> String {
        self.master_key().id()
    }
}

/// Reads the master keys of a configuration.
///
/// # Errors
/// One sentence that says what is wrong and what to do, never a key.
pub(super) fn holder(config: &Config, folder: &Path, variables: Variables<'_>) -> Result<Holder, String> {
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    match &config.master_key {
        SecretRef::File(path) => {
            let path = folder.join(path);
            let file = MasterKeyFile::open(&path, random)
                .map_err(|error| format!("vault.master_key: {}: {HOW}", error.message()))?;
            Ok(Holder::File(path, Arc::new(file)))
        }
        SecretRef::Env(name) => {
            let text =
                config.master_key.read(folder, variables).map_err(|problem| format!("vault.master_key: {problem}"))?;
            let ring = MasterKeyRing::parse(text.expose().as_bytes(), &random)
                .map_err(|error| format!("vault.master_key: {}: {HOW}", error.message()))?;
            Ok(Holder::Variable(name.clone(), Arc::new(ring)))
        }
    }
}

const HOW: &str = "make one with `palisade keys init FILE`, or `openssl rand -base64 32` for a variable";

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Init { file, json } => init(file, *json),
        Command::Status(ask) => runtime()?.block_on(with_keys(ask, async |keys| keys.status().await)),
        Command::Rotate { dry_run, ask } => {
            runtime()?.block_on(with_keys(ask, async |keys| keys.rotate(*dry_run).await))
        }
        Command::Retire { key, dry_run, ask } => {
            runtime()?.block_on(with_keys(ask, async |keys| keys.retire(key, *dry_run).await))
        }
    }
}

fn init(file: &Path, as_json: bool) -> Result<(), Failure> {
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let id = MasterKeyFile::init(file, &random).map_err(|error| Failure::usage(error.message()))?;
    let shown = file.display();
    if as_json {
        return document(&json!({ "key": id, "file": shown.to_string() }));
    }
    say(format!("made the master key {id} in {shown}"));
    say("keep a copy of it apart from the database's backups: without it no stored credential opens again");
    Ok(())
}

/// The keys and the store of one command.
struct Keys {
    holder: Holder,
    rotation: Rotation,
    /// One document is written at the end, and nothing before it.
    json: bool,
}

/// Opens keys and database, runs a command over them, and closes the database whatever became of it.
async fn with_keys(ask: &Ask, command: impl AsyncFnOnce(Keys) -> Result<(), Failure>) -> Result<(), Failure> {
    let config = load(&ask.place.config)?;
    let folder = folder_of(&ask.place.config);
    let holder = holder(&config, folder, &process_variables).map_err(Failure::usage)?;
    let store = existing_store(&folder.join(&config.store.path)).await?;
    let rotation = Rotation::new(Arc::new(store.clone()), holder.master_key());
    let done = command(Keys { holder, rotation, json: ask.json }).await;
    let closed = store.close().await;
    done?;
    Ok(closed?)
}

fn failed(error: Error) -> Failure {
    if matches!(error.kind(), ErrorKind::Store | ErrorKind::Overloaded) {
        return error.into();
    }
    Failure::usage(error.message())
}

/// What a rotation came to, for programs.
#[derive(Debug, Default, Serialize)]
struct Rotated {
    dry_run: bool,
    /// The master key that wraps from now on.
    active: Option<String>,
    /// Data keys that were wrapped anew, or would be.
    data_keys: u64,
    /// Master keys that are needed by old backups only.
    can_be_retired: Vec<String>,
    /// The first data keys that do not open.
    stuck: Vec<Value>,
}

impl Rotated {
    fn tell(&self) -> Result<(), Failure> {
        document(self)
    }
}

/// What a rotation has to do first.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// The active key is the newest, and data keys are left under older ones.
    GoOn,
    /// The newest key the holder has is not active yet.
    Activate(String),
    /// The newest key is active and wraps everything: there has to be a newer one.
    Add,
}

impl Keys {
    async fn status(self) -> Result<(), Failure> {
        let masters = self.rotation.status().await.map_err(failed)?;
        let held = self.holder.ids();
        let rows = masters.iter().map(|one| (one, held.contains(&one.id)));
        let missing = masters.iter().filter(|one| one.data_keys > 0 && !held.contains(&one.id)).count();
        let sound = if missing == 0 { Ok(()) } else { Err(Failure::negative()) };
        if self.json {
            let keys: Vec<_> = rows
                .map(
                    |(one, held)| json!({ "id": one.id, "state": one.state, "data_keys": one.data_keys, "held": held }),
                )
                .collect();
            let new: Vec<&String> = held.iter().filter(|id| masters.iter().all(|one| one.id != **id)).collect();
            document(&json!({ "keys": keys, "not_used_yet": new }))?;
            return sound;
        }
        let row = |(one, held): (&MasterStatus, bool)| {
            let here = if held { "yes" } else { "no" };
            [one.id.clone(), state(one.state).to_owned(), one.data_keys.to_string(), here.to_owned()]
        };
        let unused = held.iter().filter(|id| masters.iter().all(|one| one.id != **id));
        let unused = unused.map(|id| [id.clone(), "nothing yet".to_owned(), "0".to_owned(), "yes".to_owned()]);
        table(["master key", "used for", "data keys", "here"], rows.map(row).chain(unused));
        if missing > 0 {
            say(format!("{missing} keys that data is sealed under are not given: put them into vault.master_key"));
        }
        sound
    }

    /// Says what happened on the way. Programs are told at the end, people beside it that read along.
    fn note(&self, line: impl std::fmt::Display) {
        if self.json {
            let _ = writeln!(std::io::stderr().lock(), "palisade: {line}");
        } else {
            say(line);
        }
    }

    async fn rotate(mut self, dry_run: bool) -> Result<(), Failure> {
        let masters = self.rotation.status().await.map_err(failed)?;
        if masters.is_empty() {
            if self.json {
                return Rotated { dry_run, ..Rotated::default() }.tell();
            }
            let why = "the newest key is used from the first secret on";
            say(format!("nothing is sealed yet, so there is nothing to rotate: {why}"));
            return Ok(());
        }
        let plan = plan(&masters, &self.holder.newest())?;
        if let (Plan::Add, Holder::Variable(name, _)) = (&plan, &self.holder) {
            return Err(Failure::usage(format!(
                "the key in {name} is active already: put a new one in front of it (\"new,old\"), start every hub \
                 with that, then run this again"
            )));
        }
        if dry_run {
            return self.rehearse(&plan).await;
        }
        let target = match plan {
            Plan::GoOn => None,
            Plan::Activate(id) => Some(id),
            Plan::Add => Some(self.add()?),
        };
        if let Some(id) = target {
            self.rotation.activate(&id).await.map_err(failed)?;
            self.note(format_args!("the master key {id} is active"));
        }
        let progress = self.walk().await?;
        if progress.stuck > 0 {
            return self.report_stuck(&progress, dry_run);
        }
        let masters = self.rotation.status().await.map_err(failed)?;
        let is_done_with = |one: &&MasterStatus| one.state == MasterState::Old && one.data_keys == 0;
        let old: Vec<String> = masters.iter().filter(is_done_with).map(|one| one.id.clone()).collect();
        if self.json {
            let active = masters.iter().find(|one| one.state == MasterState::Active).map(|one| one.id.clone());
            return Rotated { active, data_keys: progress.done, can_be_retired: old, ..Rotated::default() }.tell();
        }
        say(format!(
            "wrapped {} anew; nothing is left under an older key",
            count(progress.done, "data key", "data keys")
        ));
        for id in old {
            say(format!("{id} is needed by old backups only: `palisade keys retire {id}`"));
        }
        Ok(())
    }

    /// Adds a new key in front of those in the file and opens it again.
    fn add(&mut self) -> Result<String, Failure> {
        let Holder::File(path, _) = &self.holder else {
            return Err(Failure::usage("a key can only be added to a file"));
        };
        let path = path.clone();
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let id = MasterKeyFile::add(&path, &random).map_err(failed)?;
        self.note(format_args!("added the master key {id} to {}: keep a copy of the file", path.display()));
        Ok(id)
    }

    /// Wraps everything anew, step by step.
    async fn walk(&self) -> Result<Progress, Failure> {
        let left = self.rotation.left().await.map_err(failed)?;
        let bar = bar(Some(left), "{bar:40} {pos} of {len} data keys, {per_sec}, {eta} left");
        let mut walks = 1;
        let mut progress = Progress::default();
        while !progress.over {
            match self.rotation.step(&mut progress, BATCH).await {
                Ok(()) => bar.set_position(progress.done + progress.moved + progress.stuck),
                // Another rotation made another key active: what is left is counted anew.
                Err(error) if error.kind() == ErrorKind::Conflict && walks < WALKS_MAX => {
                    walks += 1;
                    let done = progress.done;
                    progress = Progress::default();
                    progress.done = done;
                }
                Err(error) => {
                    bar.abandon();
                    let done = progress.done;
                    let Failure { code, text } = failed(error);
                    let text = format!("{text}; {done} data keys are wrapped anew, run this again for the rest");
                    return Err(Failure { code, text });
                }
            }
        }
        bar.finish_and_clear();
        Ok(progress)
    }

    async fn rehearse(&self, plan: &Plan) -> Result<(), Failure> {
        let target = match plan {
            Plan::GoOn | Plan::Add => self.holder.newest(),
            Plan::Activate(id) => id.clone(),
        };
        // With a key that is not there yet, every data key would be wrapped anew.
        let other_than = if *plan == Plan::Add { "" } else { &target };
        let mut progress = Progress::default();
        while !progress.over {
            self.rotation.rehearse(other_than, &mut progress, BATCH).await.map_err(failed)?;
        }
        if !self.json {
            say(match plan {
                Plan::GoOn => format!("would go on under {target}"),
                Plan::Activate(_) => format!("would make {target} active"),
                Plan::Add => "would add a new key to the file and make it active".to_owned(),
            });
            say(format!("would wrap {} anew; nothing was changed", count(progress.done, "data key", "data keys")));
        }
        if progress.stuck > 0 {
            return self.report_stuck(&progress, true);
        }
        if self.json {
            return Rotated { dry_run: true, data_keys: progress.done, ..Rotated::default() }.tell();
        }
        Ok(())
    }

    /// Says which data keys do not open.
    fn report_stuck(&self, progress: &Progress, dry_run: bool) -> Result<(), Failure> {
        let stuck = &progress.first_stuck;
        if self.json {
            let one = |one: &Stuck| {
                let (id, tenant) = (&one.id, &one.tenant);
                json!({ "id": id, "tenant": tenant, "master": one.master, "why": one.reason })
            };
            let (data_keys, stuck) = (progress.done, stuck.iter().map(one).collect());
            Rotated { dry_run, data_keys, stuck, ..Rotated::default() }.tell()?;
        } else {
            for one in stuck {
                say(format!("data key {} of tenant {} stays under {}: {}", one.id, one.tenant, one.master, one.reason));
            }
        }
        let why = "do not open; nothing was lost, they stay as they are";
        Err(Failure::no(format!("{} {why}", count(progress.stuck, "data key", "data keys"))))
    }

    async fn retire(self, id: &str, dry_run: bool) -> Result<(), Failure> {
        let known = self.rotation.status().await.map_err(failed)?.into_iter().find(|one| one.id == id);
        let outcome = match known {
            Some(one) if dry_run => match one.state {
                MasterState::Active => Retirement::Active,
                MasterState::Old if one.data_keys > 0 => Retirement::Needed(one.data_keys),
                MasterState::Old | MasterState::Retired => Retirement::Done,
            },
            None if dry_run => Retirement::Unknown,
            _ => self.rotation.retire(id).await.map_err(failed)?,
        };
        match outcome {
            Retirement::Done if self.json => document(&json!({ "key": id, "retired": !dry_run, "dry_run": dry_run })),
            Retirement::Done if dry_run => {
                say(format!("would retire {id}; nothing was changed"));
                Ok(())
            }
            Retirement::Done => {
                say(format!("{id} is retired: it can leave vault.master_key once every hub runs with a newer key"));
                say("keep a copy of it for as long as you keep backups made before now: they open with nothing else");
                Ok(())
            }
            Retirement::Needed(left) => {
                let left = count(left, "data key", "data keys");
                Err(Failure::no(format!("{id} still wraps {left}: run `palisade keys rotate` first")))
            }
            Retirement::Active => Err(Failure::no(format!("{id} is the active key: run `palisade keys rotate` first"))),
            Retirement::Unknown => {
                Err(Failure::no(format!("no master key is called {id}: `palisade keys status` lists them")))
            }
        }
    }
}

/// Decides what a rotation has to do. `newest` is the first key of the configuration.
fn plan(masters: &[MasterStatus], newest: &str) -> Result<Plan, Failure> {
    let active = masters.iter().find(|one| one.state == MasterState::Active);
    let left: u64 = masters.iter().filter(|one| one.state != MasterState::Active).map(|one| one.data_keys).sum();
    let register = masters.iter().find(|one| one.id == newest);
    match (active, register) {
        (Some(active), _) if active.id == newest => Ok(if left > 0 { Plan::GoOn } else { Plan::Add }),
        (Some(active), Some(old)) => Err(Failure::usage(format!(
            "the first key of vault.master_key, {}, was replaced by {} before: put {} first",
            old.id, active.id, active.id
        ))),
        (Some(_) | None, _) => Ok(Plan::Activate(newest.to_owned())),
    }
}

fn state(state: MasterState) -> &'static str {
    match state {
        MasterState::Active => "wraps and opens",
        MasterState::Old => "opens",
        MasterState::Retired => "retired: old backups only",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(id: &str, state: MasterState, data_keys: u64) -> MasterStatus {
        MasterStatus { id: id.to_owned(), state, data_keys }
    }

    // Fails when a rotation that was stopped adds one more key each time it is started, or goes back to an old key.
    #[test]
    fn a_rotation_goes_on_where_it_was_and_never_back() {
        use MasterState::{Active, Old, Retired};
        let cases = [
            ("all is wrapped by the newest", vec![master("b", Active, 5), master("a", Old, 0)], Some(Plan::Add)),
            ("stopped in the middle", vec![master("b", Active, 2), master("a", Old, 3)], Some(Plan::GoOn)),
            ("stopped before it began", vec![master("a", Active, 5)], Some(Plan::Activate("b".to_owned()))),
            ("sealed before there was a register", vec![master("a", Old, 5)], Some(Plan::Activate("b".to_owned()))),
            ("an old key stands first", vec![master("c", Active, 5), master("b", Old, 0)], None),
            ("a retired key stands first", vec![master("c", Active, 5), master("b", Retired, 0)], None),
        ];
        for (case, masters, expected) in cases {
            assert_eq!(plan(&masters, "b").ok(), expected, "{case}");
        }
    }
}
