//! A product's own statements in the same file: kept away from our tables and from the transaction they run in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use palisade_core::store::{Effect, Value};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, params_from_iter};

use super::error::{Fault, is_environment, phrase};
use super::writer::Tx;

/// The prefix of our tables.
const OURS: &str = "palisade_";

/// Refuses, while a product's statement is prepared, what would write our tables, end our transaction, or change how
/// the file is opened.
pub(super) fn guard(connection: &mut Connection, product: &Arc<AtomicBool>) -> rusqlite::Result<()> {
    let product = product.clone();
    connection.authorizer(Some(move |context: AuthContext<'_>| {
        if product.load(Ordering::Relaxed) && refused(&context.action) {
            Authorization::Deny
        } else {
            Authorization::Allow
        }
    }))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "SQLite's list grows; what only reads is allowed")]
fn refused(action: &AuthAction<'_>) -> bool {
    let ours = |name: &str| name.get(..OURS.len()).is_some_and(|start| start.eq_ignore_ascii_case(OURS));
    match *action {
        AuthAction::Transaction { .. }
        | AuthAction::Savepoint { .. }
        | AuthAction::Attach { .. }
        | AuthAction::Detach { .. }
        | AuthAction::Pragma { .. } => true,
        AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name }
        | AuthAction::CreateTable { table_name }
        | AuthAction::DropTable { table_name }
        | AuthAction::AlterTable { table_name, .. }
        | AuthAction::CreateIndex { table_name, .. }
        | AuthAction::DropIndex { table_name, .. }
        | AuthAction::CreateTrigger { table_name, .. }
        | AuthAction::DropTrigger { table_name, .. } => ours(table_name),
        _ => false,
    }
}

/// Roughly how many bytes an effect holds in memory.
pub(super) fn bytes(effect: &Effect) -> usize {
    let value = |value: &Value| match value {
        Value::Null | Value::Integer(_) | Value::Real(_) => 8,
        Value::Text(text) => text.len(),
        Value::Blob(bytes) => bytes.len(),
    };
    effect.sql.len() + effect.values.iter().map(value).sum::<usize>()
}

/// Runs one effect. The inner error is the effect's own fault, in one phrase without its values.
pub(super) fn run(tx: &Tx<'_>, effect: &Effect) -> Result<Result<u64, String>, Fault> {
    match attempt(tx, effect) {
        Ok(changed) => Ok(Ok(changed)),
        // A statement may end the transaction itself (`INSERT OR ROLLBACK`): then the whole command has failed.
        Err(error) if is_environment(&error) || tx.connection().is_autocommit() => Err(Fault::Sql(error)),
        Err(error) => Ok(Err(phrase(&error))),
    }
}

fn attempt(tx: &Tx<'_>, effect: &Effect) -> rusqlite::Result<u64> {
    let mut statement = tx.prepare_product(&effect.sql)?;
    if statement.readonly() {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_MISUSE),
            Some("the statement writes nothing".to_owned()),
        ));
    }
    let mut rows = statement.query(params_from_iter(effect.values.iter().map(to_sql)))?;
    while rows.next()?.is_some() {}
    drop(rows);
    Ok(tx.changes())
}

/// Reads rows with a product's own query.
pub(super) fn query(connection: &Connection, sql: &str, values: &[Value]) -> Result<Vec<Vec<Value>>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query(params_from_iter(values.iter().map(to_sql)))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((0..columns).map(|column| row.get(column).map(from_sql)).collect::<rusqlite::Result<_>>()?);
    }
    Ok(found)
}

fn to_sql(value: &Value) -> rusqlite::types::ToSqlOutput<'_> {
    use rusqlite::types::{ToSqlOutput, ValueRef};
    ToSqlOutput::Borrowed(match value {
        Value::Null => ValueRef::Null,
        Value::Integer(number) => ValueRef::Integer(*number),
        Value::Real(number) => ValueRef::Real(*number),
        Value::Text(text) => ValueRef::Text(text.as_bytes()),
        Value::Blob(bytes) => ValueRef::Blob(bytes),
    })
}

fn from_sql(value: rusqlite::types::Value) -> Value {
    match value {
        rusqlite::types::Value::Null => Value::Null,
        rusqlite::types::Value::Integer(number) => Value::Integer(number),
        rusqlite::types::Value::Real(number) => Value::Real(number),
        rusqlite::types::Value::Text(text) => Value::Text(text),
        rusqlite::types::Value::Blob(bytes) => Value::Blob(bytes),
    }
}
