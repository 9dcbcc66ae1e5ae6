//! A reader of the change feed, to be killed: `consumer <folder> <address of the hub> [--once] [--fuse=…]`; see
//! [`palisade_tests::consumer`]. It goes on for ever, also while the hub is dead, unless it is to read once to the end.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use palisade_tests::consumer::{CURSOR, JOURNAL, JOURNAL_FILE, ONCE, PAGE};
use palisade_tests::fuse::{Fuse, Side};
use palisade_tests::stage::CONNECTION;
use palisade_tests::verdict;
use serde_json::{Value, json};
use tokio::time::sleep;

/// Changes asked for at once: few, so that there are many seams.
const LIMIT: u32 = 7;
/// The pause after everything was read, and while the hub does not answer.
const REST: Duration = Duration::from_millis(20);

type Failed = Box<dyn std::error::Error>;

struct Consumer {
    folder: PathBuf,
    hub: String,
    journal: File,
    client: reqwest::Client,
    fuse: Fuse,
}

/// What became of one page.
#[derive(PartialEq)]
enum Read {
    More,
    AtTheEnd,
    NoAnswer,
}

impl Consumer {
    fn open(folder: &Path, hub: &str, fuse: Fuse) -> Result<Self, Failed> {
        let mut journal = OpenOptions::new().create(true).append(true).open(folder.join(JOURNAL_FILE))?;
        // Whoever was killed in a line leaves a part of it.
        journal.write_all(b"\n")?;
        let client = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { folder: folder.to_owned(), hub: hub.to_owned(), journal, client, fuse })
    }

    fn kept(&self, stream: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(format!("{stream}.cursor"))).ok()
    }

    /// Puts the cursor in the place of the last one, wholly or not at all.
    fn keep(&self, stream: &str, cursor: &str) -> Result<(), Failed> {
        let new = self.folder.join(format!("{stream}.new"));
        fs::write(&new, cursor)?;
        self.fuse.pass(CURSOR, Side::Before);
        fs::rename(new, self.folder.join(format!("{stream}.cursor")))?;
        self.fuse.pass(CURSOR, Side::After);
        Ok(())
    }

    async fn ask(&self, stream: &str, cursor: Option<&str>) -> Option<(u16, String)> {
        let after = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let url = format!("http://{}/api/v1/records/{CONNECTION}/{stream}?limit={LIMIT}{after}", self.hub);
        let answer = self.client.get(url).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    async fn read(&mut self, stream: &str) -> Result<Read, Failed> {
        let from = self.kept(stream);
        let Some((status, text)) = self.fuse.around(PAGE, self.ask(stream, from.as_deref())).await else {
            return Ok(Read::NoAnswer);
        };
        // It is not connected yet, or busy.
        if status >= 500 || status == 404 && from.is_none() {
            return Ok(Read::NoAnswer);
        }
        if status != 200 {
            writeln!(self.journal, "{}", json!({ "refused": status, "stream": stream, "from": from, "said": text }))?;
            return Err(format!("{stream}: {status} {text}").into());
        }
        let page: Value = serde_json::from_str(&text)?;
        let next = page.get("next_cursor").and_then(Value::as_str).ok_or("no cursor")?;
        if from.as_deref() != Some(next) {
            let line = json!({ "stream": stream, "from": from, "next": next, "changes": page.get("records") });
            self.journal.write_all(format!("{line}\n").as_bytes())?;
            self.fuse.pass(JOURNAL, Side::After);
            self.keep(stream, next)?;
        }
        Ok(if page.get("has_more") == Some(&Value::Bool(true)) { Read::More } else { Read::AtTheEnd })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failed> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let fuse = Fuse::take(&mut arguments)?;
    let all = arguments.len();
    arguments.retain(|argument| argument != ONCE);
    let once = arguments.len() < all;
    let [folder, hub] =
        <[String; 2]>::try_from(arguments).map_err(|_| "usage: consumer <folder> <hub> [--once] [--fuse=…]")?;
    let mut consumer = Consumer::open(Path::new(&folder), &hub, fuse)?;
    let streams = verdict::record_streams();
    loop {
        let mut ended = 0;
        for stream in &streams {
            let mut read = consumer.read(stream).await?;
            while once && read == Read::More {
                read = consumer.read(stream).await?;
            }
            ended += usize::from(read == Read::AtTheEnd);
        }
        if once && ended == streams.len() {
            return Ok(());
        }
        if ended == streams.len() || ended == 0 {
            sleep(REST).await;
        }
    }
}
