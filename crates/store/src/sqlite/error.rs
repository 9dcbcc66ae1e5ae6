//! What can go wrong in SQLite, in one sentence each that says what to do. Never a value of a statement.

use palisade_core::{Error, ErrorKind};
use rusqlite::ErrorCode;

/// Why a command did not run to its end.
#[derive(Debug)]
pub(super) enum Fault {
    /// SQLite failed: whatever the command wrote is rolled back.
    Sql(rusqlite::Error),
    /// The command was refused: whatever it wrote is rolled back, and the others of its commit are not touched.
    Refused(Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// An error that can be told to every command of a commit.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    message: String,
    retryable: bool,
}

impl Failure {
    /// The file was upgraded by a newer program while this one had it open.
    pub(super) fn upgraded(found: i64, known: i64) -> Self {
        let message = format!(
            "the database was changed to version {found} while this program, of version {known}, had it open, and nothing \
             more is written by the old rules: stop this program and start the newer one"
        );
        Self { message, retryable: false }
    }

    pub(super) fn to_error(&self) -> Error {
        Error::new(ErrorKind::Store, self.message.clone()).with_retryable(self.retryable)
    }
}

/// Tells whether the fault lies in the surroundings (disk, file, lock) and not in the one command that met it.
pub(super) fn is_environment(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::OutOfMemory
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::OperationAborted
                | ErrorCode::OperationInterrupted
        )
    )
}

/// Says what is wrong with the database and what to do about it.
pub(super) fn failure(error: &rusqlite::Error) -> Failure {
    let code = error.sqlite_error_code();
    let message = match code {
        Some(ErrorCode::DiskFull) => {
            "the disk is full or the store has reached its size limit: free space or raise the limit".to_owned()
        }
        Some(ErrorCode::SystemIoFailure) => {
            "the disk failed while the store was used: check the disk, its free space and the system log".to_owned()
        }
        Some(ErrorCode::DatabaseCorrupt) => "the database file is damaged: stop every process that uses it, keep the \
             file and its -wal for analysis, and restore a backup"
            .to_owned(),
        Some(ErrorCode::NotADatabase) => {
            "the file is not a database of Palisade: name another file, or move this one away".to_owned()
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "the database file or its folder cannot be written: give this user the right to write both".to_owned()
        }
        Some(ErrorCode::CannotOpen) => {
            "the database file cannot be opened: does its folder exist, and may this user write in it?".to_owned()
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process holds the database for too long: is a backup or a shell using it?".to_owned()
        }
        _ => format!("the database refused a statement: {}", phrase(error)),
    };
    let retryable = !matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        && (code.is_none() || is_environment(error));
    Failure { message, retryable }
}

/// Makes the error of one statement outside the writer.
pub(super) fn store_error(error: rusqlite::Error) -> Error {
    failure(&error).to_error().with_source(error)
}

/// Returns SQLite's own words without the statement and without values.
#[expect(clippy::wildcard_enum_match_arm, reason = "rusqlite's list grows; the rest carries no words of SQLite")]
pub(super) fn phrase(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        rusqlite::Error::InvalidParameterCount(given, wanted) => {
            format!("the statement takes {wanted} values and was given {given}")
        }
        rusqlite::Error::MultipleStatement => "more than one statement was given".to_owned(),
        other => other.sqlite_error_code().map_or_else(
            || "the statement or a stored value is not of the expected form".to_owned(),
            |code| format!("{code:?}"),
        ),
    }
}

/// Makes the error of a stored value that cannot be read back.
pub(super) fn unreadable(what: &'static str) -> Error {
    Error::new(ErrorKind::Store, format!("a stored {what} cannot be read: was the database changed by hand?"))
        .with_retryable(false)
}
