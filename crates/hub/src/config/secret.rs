//! Where a secret is read from: an environment variable or a file of its own. The only room that reads either.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use palisade_core::Secret;

/// The largest secret file read, in bytes: a key, never a document.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Names where a secret is read from. Printing it shows the place, never the value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: configuration knows two places")]
pub enum SecretRef {
    /// An environment variable.
    Env(String),
    /// A file whose first line is the secret, relative to the configuration file.
    File(PathBuf),
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

/// Gives the value of an environment variable; an argument, so that a test sets none.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads the process's environment variables.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the hub's configuration is the one place that reads the environment")]
pub fn process_variables(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl SecretRef {
    /// Reads the secret. A trailing line break is not part of it.
    ///
    /// # Errors
    /// One sentence that says what is wrong with the place and what to do. Never the value.
    pub fn read(&self, folder: &Path, variables: Variables<'_>) -> Result<Secret, String> {
        let text = match self {
            Self::Env(name) => variables(name)
                .ok_or_else(|| format!("the environment variable {name} is not set: set it and start again"))?,
            Self::File(path) => {
                let path = folder.join(path);
                check_mode(&path)?;
                read_secret_file(&path)?
            }
        };
        let text = text.trim_end_matches(['\r', '\n']);
        if text.trim().is_empty() {
            return Err(format!("the {self} is empty: put the secret there and start again"));
        }
        Ok(Secret::new(text))
    }
}

/// Reads a secret file without looking at its mode.
///
/// # Errors
/// One sentence that says what is wrong with the file. Never its content.
pub fn read_secret_file(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let problem = |e: std::io::Error| format!("the secret file {shown} cannot be read ({}): check the path", e.kind());
    let mut text = String::new();
    let read = File::open(path).map_err(problem)?.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text);
    match read {
        Ok(size) if size as u64 > SECRET_BYTES_MAX => {
            Err(format!("the secret file {shown} is larger than {SECRET_BYTES_MAX} bytes: is it the right file?"))
        }
        Ok(_) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            Err(format!("the secret file {shown} is not text: is it the right file?"))
        }
        Err(e) => Err(problem(e)),
    }
}

/// Refuses a file that others than its owner and group can read, or that its group can change.
#[cfg(unix)]
fn check_mode(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let shown = path.display();
    let mode = std::fs::metadata(path)
        .map_err(|e| format!("the secret file {shown} cannot be read ({}): check the path", e.kind()))?
        .permissions()
        .mode();
    if mode & 0o027 != 0 {
        let mode = mode & 0o777;
        return Err(format!("the secret file {shown} has mode {mode:04o}, so others can reach it: chmod 600 {shown}"));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_mode(_path: &Path) -> Result<(), String> {
    Ok(())
}
