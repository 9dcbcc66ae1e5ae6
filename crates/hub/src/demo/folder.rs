//! A story's folder: what was asked for, how far it came, and the keys and files it needs to go on after `kill -9`.
//!
//! The story's own lines are written with one write each, so the system has them when the process dies; a line that was
//! cut off is forgotten.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use palisade_core::auth::vault::LocalMasterKey;
use palisade_core::random::SystemRandom;
use palisade_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::Story;

/// The form of the folder's files; one of another form is refused.
const FORM: u32 = 2;
const DATABASE: &str = "palisade.db";
const MASTER_KEYS: &str = "master.key";
const TOKEN: &str = "admin.token";

/// What a folder's story was begun with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Kept {
    /// Its seed.
    pub seed: u64,
    /// Its customers.
    pub customers: usize,
    /// Its events.
    pub webhooks: u64,
}

/// The steps of the story, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Step {
    Begin,
    Connect,
    Play,
    Outage,
    KillWorkers,
    Rotate,
    Late,
    Heal,
    Compare,
    Told,
}

impl Step {
    /// How many there are.
    pub(super) const COUNT: u32 = 10;

    /// Its place in the story, from 1.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Begin => 1,
            Self::Connect => 2,
            Self::Play => 3,
            Self::Outage => 4,
            Self::KillWorkers => 5,
            Self::Rotate => 6,
            Self::Late => 7,
            Self::Heal => 8,
            Self::Compare => 9,
            Self::Told => 10,
        }
    }

    /// What happens in it.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Begin => "starting the emulators and the hub",
            Self::Connect => "connecting accounts in a browser",
            Self::Play => "syncing while things happen at all five providers",
            Self::Outage => "taking Stripe down for a while",
            Self::KillWorkers => "killing the workers in mid-run",
            Self::Rotate => "rotating the master key while the hub serves",
            Self::Late => "waiting for late deliveries",
            Self::Heal => "healing what never arrived",
            Self::Compare => "comparing with the providers' truth",
            Self::Told => "told to its end",
        }
    }
}

/// One line of the story's file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The first: what the story is.
    Story {
        form: u32,
        #[serde(flatten)]
        kept: Kept,
    },
    /// A process began to tell it.
    Start,
    /// It came to a step.
    Step(Step),
}

/// An open folder; held by one process at a time, until that ends in whatever way.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    file: Mutex<File>,
    /// How often processes began to tell this story before.
    pub(super) starts: u32,
    /// The step the last of them had come to.
    pub(super) reached: Option<Step>,
}

fn story_file(folder: &Path) -> PathBuf {
    folder.join("story.jsonl")
}

/// Names the configuration by which the other commands look into a story.
#[must_use]
pub fn config_file(folder: &Path) -> PathBuf {
    folder.join("palisade.toml")
}

fn unusable(path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Store, format!("{} cannot be used ({}): check the folder", path.display(), error.kind()))
        .with_source(error)
}

fn refused(what: String) -> Error {
    Error::new(ErrorKind::Config, what)
}

/// Tells what the story in a folder was begun with; nothing when no story was begun there.
///
/// # Errors
/// [`ErrorKind::Store`] when the folder cannot be read, [`ErrorKind::Config`] when it holds something else.
pub fn kept(folder: &Path) -> Result<Option<Kept>> {
    let path = story_file(folder);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(lines(&path, &bytes)?.0.first().and_then(|line| line.kept())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(&path, error)),
    }
}

impl Line {
    fn kept(&self) -> Option<Kept> {
        match self {
            Self::Story { kept, .. } => Some(*kept),
            Self::Start | Self::Step(_) => None,
        }
    }
}

/// Parses the whole lines and tells how many bytes they are.
fn lines(path: &Path, bytes: &[u8]) -> Result<(Vec<Line>, u64)> {
    let (mut lines, mut whole) = (Vec::new(), 0);
    for line in bytes.split_inclusive(|byte| *byte == b'\n').take_while(|line| line.ends_with(b"\n")) {
        let parsed = serde_json::from_slice(line).ok();
        let Some(parsed) = parsed.filter(|line| !matches!(line, Line::Story { form, .. } if *form != FORM)) else {
            return Err(refused(format!("{} is not a story of this version: give another folder", path.display())));
        };
        lines.push(parsed);
        whole += line.len() as u64;
    }
    if lines.first().is_some_and(|line| line.kept().is_none()) {
        return Err(refused(format!("{} is not a whole story: give another folder", path.display())));
    }
    Ok((lines, whole))
}

impl Folder {
    /// Opens the folder for a story: a new one begins, the same one goes on, another one is refused.
    pub(super) fn open(story: &Story) -> Result<Self> {
        let path = story_file(&story.folder);
        let shown = story.folder.display();
        if !path.exists() && story.folder.join(DATABASE).exists() {
            return Err(refused(format!("{shown} holds a database that no story began: give an empty folder")));
        }
        let open = |path: &Path| File::options().read(true).append(true).create(true).open(path);
        let mut file = open(&path).map_err(|error| unusable(&path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(refused(format!("another demo is telling the story in {shown}: give another folder")));
            }
            Err(TryLockError::Error(error)) => return Err(unusable(&path, error)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| unusable(&path, error))?;
        let (lines, whole) = lines(&path, &bytes)?;
        let trimmed = file.set_len(whole).and_then(|()| file.seek(SeekFrom::End(0)));
        trimmed.map_err(|error| unusable(&path, error))?;
        let wanted = Kept { seed: story.seed, customers: story.customers, webhooks: story.webhooks };
        let kept = lines.first().and_then(Line::kept);
        if let Some(Kept { seed, customers, webhooks }) = kept.filter(|kept| *kept != wanted) {
            return Err(refused(format!(
                "{shown} holds the story of --seed {seed} --customers {customers} --webhooks {webhooks}: leave these \
                 out to go on with it, or give another folder"
            )));
        }
        let starts = lines.iter().filter(|line| matches!(line, Line::Start)).count();
        let reached = lines.iter().rev().find_map(|line| match line {
            Line::Step(step) => Some(*step),
            Line::Story { .. } | Line::Start => None,
        });
        let folder = Self {
            path: story.folder.clone(),
            file: Mutex::new(file),
            starts: u32::try_from(starts).unwrap_or(u32::MAX),
            reached,
        };
        if kept.is_none() {
            folder.write(&Line::Story { form: FORM, kept: wanted })?;
        }
        folder.write(&Line::Start)?;
        Ok(folder)
    }

    /// Notes that the story came to a step.
    pub(super) fn reach(&self, step: Step) -> Result<()> {
        self.write(&Line::Step(step))
    }

    fn write(&self, line: &Line) -> Result<()> {
        let mut bytes = serde_json::to_vec(line).map_err(|error| {
            Error::new(ErrorKind::Store, "a line of the story cannot be written").with_source(error)
        })?;
        bytes.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&bytes).map_err(|error| unusable(&story_file(&self.path), error))
    }

    /// The database.
    pub(super) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Writes the configuration that the other commands take to look into this story.
    pub(super) fn configure(&self, address: SocketAddr) -> Result<()> {
        let path = config_file(&self.path);
        self.secret(TOKEN)?;
        let text = format!(
            "# To look into the story of this folder: palisade connections list --config {shown}\n\
             [server]\nlisten = \"{address}\"\nadmin_token = {{ file = \"{TOKEN}\" }}\n\
             [vault]\nmaster_key = {{ file = \"{MASTER_KEYS}\" }}\n\
             [store]\npath = \"{DATABASE}\"\n",
            shown = path.display()
        );
        std::fs::write(&path, text).map_err(|error| unusable(&path, error))
    }

    /// What an emulated provider remembers.
    pub(super) fn provider(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }

    /// The file of the story's master keys; made with one key when it is first asked for.
    pub(super) fn master_keys(&self) -> Result<PathBuf> {
        self.secret(MASTER_KEYS)
    }

    /// A file with a secret that is drawn when it is first asked for.
    fn secret(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        if path.try_exists().map_err(|error| unusable(&path, error))? {
            return Ok(path);
        }
        let key = LocalMasterKey::generate(&SystemRandom);
        // Beside, then renamed: a process killed in between leaves no half a key. The file is the owner's alone.
        let mut beside = tempfile::NamedTempFile::new_in(&self.path).map_err(|error| unusable(&path, error))?;
        beside.write_all(key.as_bytes()).map_err(|error| unusable(&path, error))?;
        beside.persist(&path).map_err(|error| unusable(&path, error.error))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(folder: &Path) -> Story {
        Story { seed: 7, customers: 100, webhooks: 50, listen: ([127, 0, 0, 1], 0).into(), folder: folder.to_owned() }
    }

    #[track_caller]
    fn refuses(story: &Story, words: &[&str]) {
        let error = Folder::open(story).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "{word} in {error}");
        }
    }

    /// Fails when a folder forgets how far its story came, or takes the line a death cut off.
    #[test]
    fn a_folder_knows_how_far_its_story_came() {
        let place = tempfile::tempdir().unwrap();
        let story = story(place.path());
        assert_eq!(kept(place.path()).unwrap(), None);
        let first = Folder::open(&story).unwrap();
        assert_eq!((first.starts, first.reached), (0, None));
        first.reach(Step::Begin).unwrap();
        first.reach(Step::Heal).unwrap();
        let key = std::fs::read(first.master_keys().unwrap()).unwrap();
        drop(first);
        let path = story_file(place.path());
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole, &b"{\"step\":\"to"[..]].concat()).unwrap();
        let second = Folder::open(&story).unwrap();
        assert_eq!((second.starts, second.reached), (1, Some(Step::Heal)));
        assert_eq!(std::fs::read(second.master_keys().unwrap()).unwrap(), key);
        assert_eq!(kept(place.path()).unwrap(), Some(Kept { seed: 7, customers: 100, webhooks: 50 }));
    }

    /// Fails when the commands cannot read the configuration that a story leaves them, or look into another database.
    #[test]
    fn the_other_commands_take_the_folders_configuration() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(&story(place.path())).unwrap();
        folder.configure(([127, 0, 0, 1], 8_080).into()).unwrap();
        folder.master_keys().unwrap();
        let path = config_file(place.path());
        let config = crate::builtin::with_known(|known| crate::config::Config::load(&path, known)).unwrap();
        assert_eq!(place.path().join(config.store.path), folder.database());
        assert_eq!(config.master_key, crate::config::SecretRef::File(MASTER_KEYS.into()));
        assert_eq!(config.server.listen.port(), 8_080);
        let doctor = ["palisade", "doctor", "--offline", "--config"].map(std::ffi::OsString::from);
        let code = crate::cli::main(doctor.into_iter().chain([path.into_os_string()]));
        assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::SUCCESS), "the doctor finds all of it");
    }

    #[test]
    fn a_folder_of_something_else_is_refused_in_one_sentence() {
        let place = tempfile::tempdir().unwrap();
        let mine = story(place.path());
        let open = Folder::open(&mine).unwrap();
        refuses(&mine, &["another demo"]);
        drop(open);
        refuses(&Story { seed: 8, ..mine.clone() }, &["--seed 7 --customers 100 --webhooks 50", "leave these out"]);
        refuses(&Story { customers: 101, ..mine.clone() }, &["--customers 100"]);
        std::fs::write(story_file(place.path()), "{\"story\":{\"form\":9,\"seed\":7}}\n").unwrap();
        refuses(&mine, &["not a story of this version"]);
        std::fs::write(story_file(place.path()), "\"start\"\n").unwrap();
        refuses(&mine, &["not a whole story"]);
        let other = tempfile::tempdir().unwrap();
        std::fs::write(other.path().join("palisade.db"), "").unwrap();
        refuses(&story(other.path()), &["no story began"]);
    }

    #[test]
    fn the_steps_are_numbered_in_order() {
        use Step::{Begin, Compare, Connect, Heal, KillWorkers, Late, Outage, Play, Rotate, Told};
        let all = [Begin, Connect, Play, Outage, KillWorkers, Rotate, Late, Heal, Compare, Told];
        assert!(all.iter().map(|step| step.number()).eq(1..=Step::COUNT));
    }
}
