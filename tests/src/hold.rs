//! What a process waits with for as long as a file tells it to: a hub is in the midst of its work then, its leases alive,
//! for as long as a test wants to look.
//!
//! A victim takes it as `--hold=FILE`. Each line of the file names an event, whose handler waits, or the path of a
//! request to the provider, which waits before it leaves. Without the file nothing waits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::{Result, Transport};
use tokio::time::sleep;

/// What the argument begins with.
const ARGUMENT: &str = "--hold=";
/// How often whoever waits looks.
const LOOK: Duration = Duration::from_millis(20);

/// A file that says what waits.
#[derive(Clone, Debug, Default)]
pub struct Hold(Option<PathBuf>);

impl Hold {
    /// Names the file.
    #[must_use]
    pub fn at(file: &Path) -> Self {
        Self(Some(file.to_owned()))
    }

    /// Takes it out of a victim's arguments; one that holds nothing when there is none.
    pub fn take(arguments: &mut Vec<String>) -> Self {
        let at = arguments.iter().position(|argument| argument.starts_with(ARGUMENT));
        Self(at.map(|at| arguments.remove(at).trim_start_matches(ARGUMENT).into()))
    }

    /// Returns it as a victim's argument.
    ///
    /// # Panics
    /// When it has no file.
    #[must_use]
    pub fn argument(&self) -> String {
        format!("{ARGUMENT}{}", self.0.as_ref().expect("a file").display())
    }

    /// Lets wait what is named, from now on.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn names(&self, names: &[String]) {
        let file = self.0.as_ref().expect("a file");
        // Whoever reads it sees all of it or nothing.
        let whole = file.with_extension("new");
        std::fs::write(&whole, names.join("\n")).expect("the file is written");
        std::fs::rename(whole, file).expect("the file is put in place");
    }

    /// Lets everything go on.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn let_go(&self) {
        std::fs::remove_file(self.0.as_ref().expect("a file")).expect("the file is removed");
    }

    /// Waits while `name` stands in the file.
    pub async fn pass(&self, name: &str) {
        let Some(file) = &self.0 else { return };
        while std::fs::read_to_string(file).is_ok_and(|names| names.lines().any(|line| line == name)) {
            sleep(LOOK).await;
        }
    }
}

/// A transport whose requests wait while their path stands in the file.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a pair; any two are valid")]
pub struct Holding<T> {
    /// The transport.
    pub inner: T,
    /// What waits.
    pub hold: Hold,
}

#[async_trait]
impl<T: Transport> Transport for Holding<T> {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        self.hold.pass(request.uri().path()).await;
        self.inner.send(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when something waits that is not named, or goes on while it is.
    #[tokio::test(start_paused = true)]
    async fn what_is_named_waits_until_it_is_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let hold = Hold::at(&folder.path().join("held"));
        let mut arguments = vec!["folder".to_owned(), hold.argument()];
        let taken = Hold::take(&mut arguments);
        assert_eq!(arguments, ["folder"]);
        taken.pass("evt_1").await;
        hold.names(&["evt_1".to_owned(), "/v1/customers".to_owned()]);
        taken.pass("evt_2").await;
        let waits = tokio::spawn(async move { taken.pass("/v1/customers").await });
        sleep(LOOK * 10).await;
        assert!(!waits.is_finished());
        hold.let_go();
        waits.await.unwrap();
        Hold::take(&mut arguments).pass("evt_1").await;
    }
}
