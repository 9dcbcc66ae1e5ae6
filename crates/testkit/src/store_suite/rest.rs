//! Promises of connections, credentials, the call log and pauses.

use std::sync::Arc;

use palisade_core::store::{
    AccountKey, CallCounts, CallDay, CallRecord, Connection, ConnectionState, Halt, PAUSES_MAX, Pause,
    SealedCredential, Store,
};
use palisade_core::{ErrorKind, Outcome, Timestamp};

use super::{ok, same};

/// A connection is added or replaced, read and listed by id, byte by byte, in pages.
pub async fn connections_are_kept_and_listed_by_id(store: &dyn Store) {
    let account = |id: &str| Connection {
        id: id.into(),
        tenant: "t".into(),
        provider: "stripe".to_owned(),
        environment: "sandbox".into(),
        account: Some("acct_1".to_owned()),
        base_url: None,
        state: ConnectionState::Active,
        created_at: Timestamp(1),
    };
    for id in ["b", "a", "Z", "é"] {
        ok(store.put_connection(account(id)).await);
    }
    let paused = Connection { state: ConnectionState::NeedsReconnect { reason: "revoked".to_owned() }, ..account("a") };
    ok(store.put_connection(paused.clone()).await);
    same(ok(store.connection("a".into()).await), Some(paused), "replaced");
    same(ok(store.connection("none".into()).await), None, "unknown");
    for (after, limit, wanted) in
        [(None, 9, vec!["Z", "a", "b", "é"]), (Some("a"), 1, vec!["b"]), (Some("é"), 9, vec![]), (None, 0, vec![])]
    {
        let found = ok(store.connections(after.map(Into::into), limit).await);
        let ids: Vec<&str> = found.iter().map(|one| one.id.as_str()).collect();
        same(ids, wanted, &format!("after {after:?}"));
    }
}

/// A connection's state changes only where it is the one that was seen, and nothing else of the connection does.
///
/// Fails when of two who change a connection at once the later overwrites what the earlier wrote.
pub async fn a_state_is_changed_where_it_was_seen(store: &dyn Store) {
    let lost = |reason: &str| ConnectionState::NeedsReconnect { reason: reason.to_owned() };
    let (active, paused, gone) = (ConnectionState::Active, ConnectionState::Paused, ConnectionState::Disconnected);
    let turn = async |seen: &ConnectionState, to: &ConnectionState| {
        let halted = (*to == ConnectionState::Paused).then_some(Timestamp(1));
        ok(store.turn_connection("acme".into(), seen.clone(), to.clone(), halted).await)
    };
    same(turn(&active, &paused).await, false, "there is none");
    let seen = super::grants::connection("acme");
    ok(store.put_connection(super::grants::connection("other")).await);
    ok(store.put_connection(seen.clone()).await);
    let written = Connection { account: Some("written meanwhile".to_owned()), ..seen };
    ok(store.put_connection(written.clone()).await);
    same(turn(&paused, &active).await, false, "it is active");
    same(turn(&active, &paused).await, true, "it was active");
    same(turn(&active, &gone).await, false, "it is paused by now");
    let state = async || ok(store.connection("acme".into()).await);
    same(state().await, Some(Connection { state: paused.clone(), ..written.clone() }), "the rest stays");
    let halt = (Halt::Connection("acme".into()), Timestamp(1));
    same(ok(store.halts(9).await), vec![halt], "its events wait since the same moment");
    same(turn(&paused, &active).await, true, "it was paused");
    same(ok(store.halts(9).await), Vec::new(), "and is in use again");
    same(turn(&active, &lost("one")).await, true, "it was active");
    same(turn(&lost("another"), &active).await, false, "for another reason");
    same(state().await, Some(Connection { state: lost("one"), ..written }), "as it was");
    let other = ok(store.connection("other".into()).await).map(|other| other.state);
    same(other, Some(active), "and the other one too");
}

/// The connections of one account are found in any state, by id and in pages: those of no other provider, environment or
/// account, and none that has no account.
pub async fn the_connections_of_an_account_are_found(store: &dyn Store) {
    let one = |id: &str, provider: &str, environment: &str, account: Option<&str>| Connection {
        id: id.into(),
        tenant: id.into(),
        provider: provider.to_owned(),
        environment: environment.into(),
        account: account.map(str::to_owned),
        base_url: None,
        state: ConnectionState::Active,
        created_at: Timestamp(1),
    };
    for (id, provider, environment, account) in [
        ("c", "slack", "production", Some("T1")),
        ("a", "slack", "production", Some("T1")),
        ("b", "slack", "production", Some("T2")),
        ("d", "slack", "sandbox", Some("T1")),
        ("e", "stripe", "production", Some("T1")),
        ("f", "slack", "production", None),
        ("g", "slack", "production", Some("")),
    ] {
        ok(store.put_connection(one(id, provider, environment, account)).await);
    }
    let gone = one("h", "slack", "production", Some("T1"));
    ok(store.put_connection(Connection { state: ConnectionState::Disconnected, ..gone.clone() }).await);
    // One that changes its account is found under the new one only.
    ok(store.put_connection(one("i", "slack", "production", Some("T1"))).await);
    ok(store.put_connection(one("i", "slack", "production", Some("T2"))).await);
    for (account, after, limit, wanted) in [
        ("T1", None, 9, vec!["a", "c", "h"]),
        ("T1", None, 2, vec!["a", "c"]),
        ("T1", Some("a"), 1, vec!["c"]),
        ("T1", Some("h"), 9, vec![]),
        ("T1", None, 0, vec![]),
        ("T2", None, 9, vec!["b", "i"]),
        ("", None, 9, vec!["g"]),
        ("t1", None, 9, vec![]),
    ] {
        let key =
            AccountKey { provider: "slack".to_owned(), environment: "production".into(), account: account.to_owned() };
        let found = ok(store.connections_of(key, after.map(Into::into), limit).await);
        let ids: Vec<&str> = found.iter().map(|one| one.id.as_str()).collect();
        same(ids, wanted, &format!("{account:?} after {after:?}"));
    }
}

/// Of many that write a credential over the same generation, one succeeds, and what it wrote is what is read.
pub async fn a_credential_is_written_by_one_of_many(store: Arc<dyn Store>) {
    for generation in 0..3_u64 {
        let mut writers = Vec::new();
        for writer in 0..8_u8 {
            let store = store.clone();
            let (blob, mark) = (vec![0xff, 0, writer], vec![0xfe, 0, writer]);
            writers.push(tokio::spawn(async move {
                let sealed = SealedCredential { generation: generation + 1, blob, mark };
                ok(store.put_credential("acme".into(), generation, sealed.clone()).await).then_some(sealed)
            }));
        }
        let mut won = Vec::new();
        for writer in writers {
            won.extend(writer.await.unwrap_or_default());
        }
        same(won.len(), 1, "one writes");
        same(ok(store.credential("acme".into()).await), won.into_iter().next(), "and that is kept");
    }
    same(ok(store.credential("other".into()).await), None, "another connection has none");
}

/// Calls are listed newest first and counted per connection and hour; pruning removes old calls, oldest first, and
/// the hours that were over by then.
pub async fn calls_are_counted_by_the_hour(store: &dyn Store) {
    const HOUR: i64 = 3_600_000;
    let call = |at, connection: &str, error| CallRecord {
        at: Timestamp(at),
        provider: "stripe".to_owned(),
        operation: "customers.list".to_owned(),
        connection: connection.into(),
        status: Some(200),
        error,
        outcome: error.map(|_| Outcome::Unknown),
        attempts: 1,
        duration_us: u64::MAX,
        waited_us: 0,
        request_id: Some("req_1".to_owned()),
        correlation_id: None,
    };
    let calls = vec![
        call(10, "a", None),
        call(20, "a", Some(ErrorKind::Timeout)),
        call(HOUR + 5, "a", Some(ErrorKind::Invalid)),
        call(30, "b", Some(ErrorKind::Provider)),
    ];
    ok(store.log_calls(calls.clone()).await);
    let reversed: Vec<CallRecord> = calls.iter().rev().cloned().collect();
    same(ok(store.calls(None, 9).await), reversed, "newest first, as they were");
    same(ok(store.calls(Some("a".into()), 2).await).len(), 2, "of one connection");
    let counts = |calls, errors| CallCounts { calls, errors };
    for (since, wanted) in [(0, counts(3, 1)), (HOUR - 1, counts(3, 1)), (HOUR, counts(1, 0)), (2 * HOUR, counts(0, 0))]
    {
        same(ok(store.call_counts("a".into(), Timestamp(since)).await), wanted, &format!("since {since}"));
    }
    same(ok(store.prune_calls(Timestamp(30), 1).await), 1, "in bounded steps");
    same(ok(store.calls(None, 9).await).len(), 3, "the oldest went");
    same(ok(store.call_counts("a".into(), Timestamp(0)).await), counts(3, 1), "the hour is not over and still counts");
    same(ok(store.prune_calls(Timestamp(HOUR), 9).await), 2, "the rest of the hour");
    same(ok(store.call_counts("a".into(), Timestamp(0)).await), counts(1, 0), "the hour that is over went with it");
}

/// Hours of counts are rolled up into their days, oldest first and in bounded steps; together they count as before. Days
/// are listed newest first, whether they were rolled up or not, and go when they are too old.
pub async fn counts_of_calls_are_rolled_up_into_days(store: &dyn Store) {
    const HOUR: i64 = 3_600_000;
    const DAY: i64 = 24 * HOUR;
    let call = |at, connection: &str, error| CallRecord {
        at: Timestamp(at),
        provider: "stripe".to_owned(),
        operation: "customers.list".to_owned(),
        connection: connection.into(),
        status: None,
        error,
        outcome: None,
        attempts: 1,
        duration_us: 1,
        waited_us: 0,
        request_id: None,
        correlation_id: None,
    };
    let failed = Some(ErrorKind::Timeout);
    let calls = [
        call(-1, "a", None),
        call(HOUR, "a", None),
        call(23 * HOUR, "a", failed),
        call(DAY, "a", None),
        call(2 * DAY + 5 * HOUR, "a", failed),
        call(2 * HOUR, "b", None),
    ];
    ok(store.log_calls(calls.to_vec()).await);
    let counts = |calls, errors| CallCounts { calls, errors };
    let day = |day: i64, calls, errors| CallDay { day: Timestamp(day * DAY), counts: counts(calls, errors) };
    let all = vec![day(2, 1, 1), day(1, 1, 0), day(0, 2, 1), day(-1, 1, 0)];
    let days = async |limit| ok(store.call_days("a".into(), limit).await);
    same(days(9).await, all.clone(), "before");
    same(ok(store.roll_up_calls(Timestamp(23 * HOUR + 59), 2).await), 2, "the oldest two");
    same(ok(store.roll_up_calls(Timestamp(23 * HOUR + 59), 9).await), 1, "an hour that is not over stays");
    same(days(9).await, all.clone(), "a day that is half rolled up is whole");
    same(ok(store.roll_up_calls(Timestamp(2 * DAY), 9).await), 2, "the rest");
    same(ok(store.roll_up_calls(Timestamp(2 * DAY), 9).await), 0, "nothing twice");
    same(days(9).await, all, "after");
    same(days(2).await, vec![day(2, 1, 1), day(1, 1, 0)], "the newest");
    for (since, wanted) in
        [(-DAY, counts(5, 2)), (DAY, counts(2, 1)), (DAY + 7 * HOUR, counts(2, 1)), (2 * DAY, counts(1, 1))]
    {
        same(ok(store.call_counts("a".into(), Timestamp(since)).await), wanted, &format!("since {since}"));
    }
    same(ok(store.prune_call_days(Timestamp(DAY), 2).await), 2, "in bounded steps");
    same(ok(store.prune_call_days(Timestamp(DAY + 1), 9).await), 1, "what is over by then");
    same(days(9).await, vec![day(2, 1, 1), day(1, 1, 0)], "the rest stays");
}

/// A pause of a lane only grows; those under way are listed, the longest first; of a provider those that end last are
/// kept; those that are over are removed, in bounded steps.
pub async fn pauses_are_kept_to_their_latest_end_in_bounded_number(store: &dyn Store) {
    let pause = |provider: &str, lane: &str, at, until| Pause {
        provider: provider.to_owned(),
        lane: lane.to_owned(),
        at: Timestamp(at),
        until: Timestamp(until),
    };
    let lanes = |pauses: Vec<Pause>| pauses.into_iter().map(|pause| pause.lane).collect::<Vec<_>>();
    let (b, z) = (pause("slack", "b", 5, 70), pause("google", "Z é", 1, 70));
    ok(store.put_pauses(vec![pause("slack", "a", 1, 50), pause("slack", "b", 1, 60), z.clone()]).await);
    ok(store.put_pauses(vec![pause("slack", "a", 2, 40), b.clone(), pause("slack", "a", 3, 50)]).await);
    ok(store.put_pauses(Vec::new()).await);
    let all = vec![z.clone(), b.clone(), pause("slack", "a", 1, 50)];
    same(ok(store.pauses(Timestamp(0), 9).await), all, "each once, with the later end");
    same(ok(store.pauses(Timestamp(50), 9).await), vec![z.clone(), b], "those under way");
    same(ok(store.pauses(Timestamp(49), 1).await), vec![z], "the longest first");
    same(ok(store.prune_pauses(Timestamp(70), 9).await), 1, "what ends at that moment is not over before it");
    same(ok(store.prune_pauses(Timestamp(71), 1).await), 1, "in bounded steps");
    same(lanes(ok(store.pauses(Timestamp(0), 9).await)), vec!["b".to_owned()], "by provider where they end together");

    let many = |from: u32, to: u32| (from..to).map(|n| pause("slack", &format!("{n:05}"), 0, 100 + i64::from(n) / 2));
    ok(store.put_pauses(many(0, PAUSES_MAX).collect()).await);
    same(ok(store.pauses(Timestamp(0), u32::MAX).await).len(), PAUSES_MAX as usize, "the shortest went");
    same(lanes(ok(store.pauses(Timestamp(0), u32::MAX).await)).contains(&"b".to_owned()), false, "it was that");
    ok(store.put_pauses(many(PAUSES_MAX, PAUSES_MAX + 3).chain([pause("google", "q", 0, 1)]).collect()).await);
    let kept = ok(store.pauses(Timestamp(0), u32::MAX).await);
    same(kept.iter().filter(|pause| pause.provider == "slack").count(), PAUSES_MAX as usize, "of a provider");
    same(kept.len(), PAUSES_MAX as usize + 1, "and another's is left alone");
    let shortest: Vec<_> = kept.iter().rev().skip(1).take(1).map(|pause| pause.lane.as_str()).collect();
    same(shortest, vec!["00002"], "of those that end together the first by lane is kept");
}
