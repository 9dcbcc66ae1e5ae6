//! A product's own tables in the same file.

use palisade_core::ErrorKind;
use palisade_core::store::{Effect, Value};

use crate::subject::open;

fn effect(sql: &str, values: Vec<Value>) -> Effect {
    Effect { sql: sql.to_owned(), values }
}

#[tokio::test]
async fn values_come_back_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("product.db"));
    store.execute(effect("CREATE TABLE t (a, b, c, d, e)", Vec::new())).await.unwrap();
    let row = vec![
        Value::Null,
        Value::Integer(i64::MIN),
        Value::Real(0.5),
        Value::Text("é\0'\"".to_owned()),
        Value::Blob(vec![0, 255]),
    ];
    let changed = store.execute(effect("INSERT INTO t VALUES (?1, ?2, ?3, ?4, ?5)", row.clone())).await.unwrap();
    assert_eq!(changed, 1);
    let returning = effect("UPDATE t SET a = 1 RETURNING b", Vec::new());
    assert_eq!(store.execute(returning).await.unwrap(), 1, "a statement that also answers is run to its end");
    let found = store.query("SELECT b, c, d, e FROM t WHERE b = ?1", vec![row[1].clone()]).await.unwrap();
    assert_eq!(found, [row[1..].to_vec()]);
    store.close().await.unwrap();
}

/// Fails when the authorizer is not installed, or lets any of these through.
#[tokio::test]
async fn a_product_cannot_reach_the_stores_tables_or_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("product.db"));
    store.execute(effect("CREATE TABLE t (a UNIQUE)", Vec::new())).await.unwrap();
    for sql in [
        "DELETE FROM palisade_job",
        "UPDATE Palisade_Job SET fence = 0",
        "INSERT INTO palisade_tally (id) VALUES (2)",
        "INSERT INTO t SELECT 1; DELETE FROM palisade_job",
        "DROP TABLE palisade_event",
        "DROP INDEX palisade_event_dead",
        "ALTER TABLE palisade_event RENAME TO mine",
        "ALTER TABLE palisade_event ADD COLUMN mine",
        "CREATE TABLE palisade_mine (a)",
        "CREATE INDEX mine ON palisade_event (kind)",
        "CREATE TRIGGER mine AFTER INSERT ON palisade_event BEGIN SELECT 1; END",
        "CREATE TRIGGER mine AFTER INSERT ON t BEGIN DELETE FROM palisade_job; END",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT mine",
        "RELEASE palisade",
        "PRAGMA synchronous = OFF",
        "ATTACH ':memory:' AS other",
        "VACUUM",
        "SELECT 1",
        "INSERT INTO t VALUES (?1, ?2)",
        "INSERT INTO no_such_table VALUES (1)",
        "nonsense",
        "",
    ] {
        let refused = store.execute(effect(sql, Vec::new())).await;
        // A trigger is compiled when it fires, so that one is refused then.
        let refused = match refused {
            Ok(_) if sql.starts_with("CREATE TRIGGER") => {
                let fired = store.execute(effect("INSERT INTO t VALUES (77)", Vec::new())).await;
                store.execute(effect("DROP TRIGGER mine", Vec::new())).await.unwrap();
                fired
            }
            other => other,
        };
        assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::Invalid), "{sql}");
    }
    let unique = effect("INSERT OR ROLLBACK INTO t VALUES (1)", Vec::new());
    store.execute(unique.clone()).await.unwrap();
    let again = store.execute(unique).await;
    assert!(again.is_err(), "a statement that ends the transaction fails");
    store.execute(effect("INSERT INTO t VALUES (2)", Vec::new())).await.expect("and the store goes on");
    let written = store.query("INSERT INTO t VALUES (3)", Vec::new()).await;
    assert_eq!(written.map_err(|error| error.kind()), Err(ErrorKind::Store), "a query cannot write");
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    store.close().await.unwrap();
}
