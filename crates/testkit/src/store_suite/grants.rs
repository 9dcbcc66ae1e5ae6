//! Promises of grants and authorisations under way.

use std::sync::Arc;

use palisade_core::store::{
    Connection, ConnectionState, EndReason, GrantClaim, GrantKey, GrantLease, GrantState, NewGrant, NewTokens,
    PendingRow, Revocation, SealedCredential, SessionRow, Store, StoredGrant, TokenHash,
};
use palisade_core::{GrantName, Timestamp};

use super::{ok, same};

pub(super) fn connection(id: &str) -> Connection {
    Connection {
        id: id.into(),
        tenant: "t".into(),
        provider: "slack".to_owned(),
        environment: Default::default(),
        account: Some("T1".to_owned()),
        base_url: None,
        state: ConnectionState::Active,
        created_at: Timestamp(1),
    }
}

fn tokens(expected: u64, generation: u64) -> NewTokens {
    NewTokens {
        expected,
        generation,
        blob: vec![0xff, 0, u8::try_from(generation % 256).unwrap_or(0)],
        issued_at: Timestamp(5),
        expires_at: Some(Timestamp(1_000)),
        keep_alive_at: None,
        granted: vec!["read".to_owned()],
    }
}

fn new(name: &str, tokens: NewTokens) -> NewGrant {
    let requested = vec!["read".to_owned(), "write, all".to_owned()];
    NewGrant { name: name.into(), flow: "slack/sandbox".to_owned(), requested, tokens }
}

fn key(name: &str) -> GrantKey {
    GrantKey { connection: "acme".into(), name: name.into() }
}

async fn stored(store: &dyn Store, name: &str) -> StoredGrant {
    match ok(store.grant(key(name)).await) {
        Some(grant) => grant,
        None => panic!("the grant {name} is not there"),
    }
}

async fn state_of(store: &dyn Store) -> Option<ConnectionState> {
    ok(store.connection("acme".into()).await).map(|connection| connection.state)
}

/// Connects `acme` with grants of generation 1.
async fn connected(store: &dyn Store, names: &[&str]) {
    let grants = names.iter().map(|name| new(name, tokens(0, 1))).collect();
    same(ok(store.connect(connection("acme"), grants).await), true, "connected");
}

async fn claim(store: &dyn Store, generation: u64, now: i64, until: i64) -> GrantClaim {
    ok(store.claim_grant(key("main"), generation, Timestamp(now), Timestamp(until)).await)
}

async fn held(store: &dyn Store, now: i64, until: i64) -> GrantLease {
    match claim(store, 1, now, until).await {
        GrantClaim::Held { lease, .. } => lease,
        other @ (GrantClaim::Busy { .. } | GrantClaim::Resting { .. } | GrantClaim::Moved) => {
            panic!("not held: {other:?}")
        }
    }
}

/// A connection and its grants are written together or not at all; grants that are not named stay.
pub async fn a_connect_is_whole_or_nothing(store: &dyn Store) {
    connected(store, &["bot", "user"]).await;
    let bot = stored(store, "bot").await;
    same(bot.state, GrantState::Live, "live");
    same((bot.requested, bot.granted), (new("", tokens(0, 1)).requested, vec!["read".to_owned()]), "scopes as given");
    same((bot.generation, bot.blob, bot.flow.as_str()), (1, vec![0xff, 0, 1], "slack/sandbox"), "tokens as given");
    same((bot.issued_at, bot.expires_at, bot.fence), (Timestamp(5), Some(Timestamp(1_000)), 0), "times as given");
    let other = Connection { account: Some("T2".to_owned()), ..connection("acme") };
    let stale = vec![new("bot", tokens(1, 2)), new("user", tokens(0, 1))];
    same(ok(store.connect(other.clone(), stale).await), false, "one generation is not the expected one");
    same(stored(store, "bot").await.generation, 1, "so neither is written");
    same(ok(store.connection("acme".into()).await), Some(connection("acme")), "nor the connection");
    same(ok(store.connect(other.clone(), vec![new("bot", tokens(1, 7))]).await), true, "in place");
    same((stored(store, "bot").await.generation, stored(store, "user").await.generation), (7, 1), "the other stays");
    same(ok(store.connection("acme".into()).await), Some(other), "the connection too");
    let names: Vec<GrantName> = ok(store.grants("acme".into()).await).into_iter().map(|one| one.key.name).collect();
    same(names, vec!["bot".into(), "user".into()], "listed by name");
    same(ok(store.grants("beta".into()).await), Vec::new(), "of that connection only");
    same(ok(store.grant(key("none")).await), None, "unknown");
}

/// Of many that claim a grant at once, one holds it; whoever comes later learns until when.
pub async fn a_grant_is_held_by_one(store: Arc<dyn Store>) {
    connected(&*store, &["main"]).await;
    let mut claims = Vec::new();
    for _ in 0..16 {
        let store = Arc::clone(&store);
        claims.push(tokio::spawn(async move { claim(&*store, 1, 10, 50).await }));
    }
    let mut held = 0;
    for one in claims {
        match one.await {
            Ok(GrantClaim::Held { lease, intent }) => {
                held += 1;
                same((lease.fence, intent), (1, None), "the first hold, and no intent");
            }
            Ok(busy) => same(busy, GrantClaim::Busy { until: Timestamp(50) }, "busy"),
            Err(error) => panic!("a task died: {error}"),
        }
    }
    same(held, 1, "one holds it");
}

/// A hold can be prolonged, ends by time, and then writes nothing more; an intent outlives its holder.
pub async fn a_lost_hold_writes_nothing_and_its_intent_is_found(store: &dyn Store) {
    connected(store, &["main"]).await;
    same(claim(store, 2, 0, 9).await, GrantClaim::Moved, "of another generation");
    let lost = held(store, 0, 10).await;
    same(ok(store.extend_grant(lost.clone(), Timestamp(20)).await), true, "prolonged");
    same(claim(store, 1, 19, 99).await, GrantClaim::Busy { until: Timestamp(20) }, "still held");
    same(ok(store.note_intent(lost.clone(), Some(Timestamp(15))).await), true, "noted");
    let found = claim(store, 1, 20, 30).await;
    let taken = GrantLease { key: key("main"), fence: lost.fence + 1 };
    same(found, GrantClaim::Held { lease: taken.clone(), intent: Some(Timestamp(15)) }, "taken over, with the intent");
    let before = stored(store, "main").await;
    same(ok(store.extend_grant(lost.clone(), Timestamp(90)).await), false, "the lost hold is not prolonged");
    same(ok(store.note_intent(lost.clone(), None).await), false, "clears no intent");
    same(ok(store.release_grant(lost, Some(Timestamp(90))).await), false, "and releases nothing");
    same(stored(store, "main").await, before, "nothing was written");
    same(ok(store.release_grant(taken.clone(), None).await), true, "released");
    let after = stored(store, "main").await;
    same((after.held_until, after.intent, after.rest_until, after.failures), (None, None, None, 0), "as before");
    same(ok(store.extend_grant(taken, Timestamp(99)).await), false, "a released hold is over");
}

/// After a passing failure a grant rests; a success ends the rest.
pub async fn a_grant_rests_after_a_failure(store: &dyn Store) {
    connected(store, &["main"]).await;
    for failures in 1..=2 {
        let now = i64::from(failures) * 100;
        let lease = held(store, now, now + 10).await;
        ok(store.note_intent(lease.clone(), Some(Timestamp(now))).await);
        same(ok(store.release_grant(lease, Some(Timestamp(now + 50))).await), true, "released");
        let grant = stored(store, "main").await;
        same((grant.failures, grant.intent), (failures, None), "counted");
        same(claim(store, 1, now + 49, 999).await, GrantClaim::Resting { until: Timestamp(now + 50) }, "rests");
    }
    same(ok(store.renew_grant(key("main"), tokens(1, 2)).await), true, "renewed");
    let grant = stored(store, "main").await;
    same((grant.failures, grant.rest_until), (0, None), "rested");
}

/// Renewed tokens are written over the generation they come from, once, whoever holds the grant; the fence stays.
pub async fn a_renewal_compares_the_generation(store: &dyn Store) {
    connected(store, &["main"]).await;
    let late = held(store, 0, 10).await;
    let newer = held(store, 10, 20).await;
    same(ok(store.renew_grant(key("main"), tokens(0, 2)).await), false, "another generation");
    same(ok(store.renew_grant(key("none"), tokens(0, 1)).await), false, "no such grant");
    same(ok(store.renew_grant(key("main"), tokens(1, 2)).await), true, "the late holder has the only successor");
    same(ok(store.renew_grant(key("main"), tokens(1, 3)).await), false, "and only it");
    let grant = stored(store, "main").await;
    same((grant.generation, grant.held_until, grant.fence), (2, None, newer.fence), "written, and let go");
    for lease in [late, newer] {
        same(ok(store.release_grant(lease, None).await), false, "all holds are over");
    }
    same(claim(store, 1, 30, 40).await, GrantClaim::Moved, "the old generation is not claimed");
}

/// An end is written for its generation only, marks the connection, and goes from serving to not serving, never back;
/// a late success undoes it.
pub async fn an_end_names_its_generation_and_marks_the_connection(store: &dyn Store) {
    connected(store, &["main", "user"]).await;
    let end =
        async |name: &str, generation, reason, serves| ok(store.end_grant(key(name), generation, reason, serves).await);
    same(end("main", 2, EndReason::Refused, false).await, false, "another generation");
    same(state_of(store).await, Some(ConnectionState::Active), "so nothing happened");
    let lease = held(store, 0, 10).await;
    ok(store.note_intent(lease.clone(), Some(Timestamp(1))).await);
    same(end("main", 1, EndReason::MaybeLost, true).await, true, "ending");
    let grant = stored(store, "main").await;
    same(grant.state, GrantState::Ending { reason: EndReason::MaybeLost }, "its token serves");
    same((grant.held_until, grant.intent), (None, None), "and nobody holds it");
    let marked = |reason: EndReason| Some(ConnectionState::NeedsReconnect { reason: reason.phrase().to_owned() });
    same(state_of(store).await, marked(EndReason::MaybeLost), "marked");
    same(claim(store, 1, 50, 60).await, GrantClaim::Moved, "it is not renewed any more");
    same(end("main", 1, EndReason::Refused, true).await, true, "the first reason stays");
    same(stored(store, "main").await.state, GrantState::Ending { reason: EndReason::MaybeLost }, "stays");
    same(end("main", 1, EndReason::NotRenewable, false).await, true, "dead");
    same(end("main", 1, EndReason::Refused, true).await, true, "and never ending again");
    same(stored(store, "main").await.state, GrantState::Dead { reason: EndReason::NotRenewable }, "dead");
    same(end("user", 1, EndReason::Refused, false).await, true, "the other too");
    same(state_of(store).await, marked(EndReason::MaybeLost), "a marked connection keeps its reason");
    same(ok(store.renew_grant(key("main"), tokens(1, 2)).await), true, "the lost answer came after all");
    same(stored(store, "main").await.state, GrantState::Live, "live");
    same(state_of(store).await, marked(EndReason::MaybeLost), "another grant is dead: still to reconnect");
    same(ok(store.renew_grant(key("user"), tokens(1, 2)).await), true, "and that one");
    same(state_of(store).await, Some(ConnectionState::Active), "active again");
    // A state that somebody chose is not touched.
    ok(store.put_connection(Connection { state: ConnectionState::Paused, ..connection("acme") }).await);
    same(end("main", 2, EndReason::Refused, false).await, true, "dead");
    same(state_of(store).await, Some(ConnectionState::Paused), "paused stays");
    same(ok(store.renew_grant(key("main"), tokens(2, 3)).await), true, "live");
    same(state_of(store).await, Some(ConnectionState::Paused), "paused stays");
    same(ok(store.connect(connection("acme"), vec![new("main", tokens(3, 4))]).await), true, "reconnected");
    same(state_of(store).await, Some(ConnectionState::Active), "by its owner");
}

/// A disconnect erases every secret of the connection, keeps what the provider said, and refuses every late writer.
pub async fn a_disconnect_erases_and_refuses_late_writers(store: &dyn Store) {
    same(ok(store.disconnect("acme".into(), Vec::new(), Timestamp(9)).await), false, "no such connection");
    connected(store, &["main", "user"]).await;
    let sealed = SealedCredential { generation: 3, blob: vec![1], mark: vec![0xff, 2] };
    same(ok(store.put_credential("acme".into(), 0, sealed).await), true, "a key of its own");
    let lease = held(store, 0, 10).await;
    ok(store.end_grant(key("user"), 1, EndReason::Refused, false).await);
    let said = vec![("main".into(), Revocation::Confirmed), ("other".into(), Revocation::NotConfirmed)];
    same(ok(store.disconnect("acme".into(), said, Timestamp(9)).await), true, "disconnected");
    same(state_of(store).await, Some(ConnectionState::Disconnected), "and it shows");
    for (name, revocation) in [("main", Revocation::Confirmed), ("user", Revocation::NotOffered)] {
        let grant = stored(store, name).await;
        same(grant.state, GrantState::Erased { at: Timestamp(9), revocation }, "with what was said");
        same((grant.generation, grant.blob, grant.held_until), (2, Vec::new(), None), "nothing is left of it");
    }
    let kept = ok(store.credential("acme".into()).await);
    let wanted = SealedCredential { generation: 4, blob: Vec::new(), mark: vec![0xff, 2] };
    same(kept, Some(wanted), "nor of the key; what tells it from another one stays");
    same(ok(store.release_grant(lease, None).await), false, "no late release");
    for expected in [1, 2] {
        same(ok(store.renew_grant(key("main"), tokens(expected, 9)).await), false, "no late renewal");
    }
    same(ok(store.end_grant(key("main"), 2, EndReason::Refused, false).await), true, "nor an end");
    same(ok(store.disconnect("acme".into(), Vec::new(), Timestamp(99)).await), true, "again");
    let grant = stored(store, "main").await;
    let first = GrantState::Erased { at: Timestamp(9), revocation: Revocation::Confirmed };
    same((grant.generation, grant.state), (2, first), "changes nothing");
    same(ok(store.connect(connection("acme"), vec![new("main", tokens(1, 2))]).await), false, "the generation goes on");
    same(ok(store.connect(connection("acme"), vec![new("main", tokens(2, 3))]).await), true, "reconnected");
}

/// A refusal marks the connection only while the refused generation is the stored one of its key or of a grant.
pub async fn a_refusal_of_what_was_replaced_marks_nothing(store: &dyn Store) {
    let refuse = async |seen| ok(store.refuse_credential("acme".into(), seen, "refused".to_owned()).await);
    same(refuse(1).await, false, "no such connection");
    connected(store, &["main"]).await;
    let sealed = SealedCredential { generation: 5, blob: vec![1], mark: Vec::new() };
    same(ok(store.put_credential("acme".into(), 0, sealed).await), true, "a key of its own");
    same(ok(store.renew_grant(key("main"), tokens(1, 2)).await), true, "renewed");
    for late in [0, 1, 4] {
        same(refuse(late).await, false, "another generation");
    }
    same(state_of(store).await, Some(ConnectionState::Active), "so nothing happened");
    same(refuse(5).await, true, "the key");
    let marked = Some(ConnectionState::NeedsReconnect { reason: "refused".to_owned() });
    same(state_of(store).await, marked.clone(), "marked");
    same(refuse(2).await, false, "once");
    ok(store.put_connection(connection("acme")).await);
    same(refuse(2).await, true, "the grant");
    same(state_of(store).await, marked, "marked");
    ok(store.put_connection(Connection { state: ConnectionState::Paused, ..connection("acme") }).await);
    same(refuse(2).await, false, "paused stays");
}

/// Grants are due when their time has come, they are live and do not rest; the longest due comes first.
pub async fn grants_are_due_in_order(store: &dyn Store) {
    for (id, at) in [("c", Some(30)), ("a", Some(20)), ("b", Some(20)), ("never", None), ("dead", Some(1))] {
        let tokens = NewTokens { keep_alive_at: at.map(Timestamp), ..tokens(0, 1) };
        ok(store.connect(connection(id), vec![new("main", tokens)]).await);
    }
    let of = |id: &str| GrantKey { connection: id.into(), name: "main".into() };
    ok(store.end_grant(of("dead"), 1, EndReason::Refused, true).await);
    let due = async |now, limit| {
        let keys = ok(store.grants_due(Timestamp(now), limit).await);
        keys.iter().map(|key| key.connection.as_str().to_owned()).collect::<Vec<_>>()
    };
    same(due(19, 9).await, Vec::<String>::new(), "too early");
    same(due(30, 9).await, vec!["a".to_owned(), "b".to_owned(), "c".to_owned()], "in order");
    same(due(30, 1).await, vec!["a".to_owned()], "bounded");
    let claimed = ok(store.claim_grant(of("a"), 1, Timestamp(30), Timestamp(40)).await);
    if let GrantClaim::Held { lease, .. } = claimed {
        ok(store.release_grant(lease, Some(Timestamp(60))).await);
    }
    same(due(59, 1).await, vec!["b".to_owned()], "one rests");
    same(due(60, 1).await, vec!["a".to_owned()], "and is back");
}

/// A browser on its way and a connect session are each taken once, by one of any number of takers.
pub async fn what_is_taken_is_taken_once(store: Arc<dyn Store>) {
    let hash = |n: u8| TokenHash([n; 32]);
    let pending = |n: u8, expires_at| PendingRow {
        state: hash(n),
        browser: hash(100 + n),
        tenant: "t".into(),
        connection: "acme".into(),
        blob: vec![0xff, 0, n],
        expires_at: Timestamp(expires_at),
    };
    let session = |n: u8, expires_at| SessionRow {
        token: hash(n),
        tenant: "t".into(),
        flow: "slack".to_owned(),
        connection: (n > 1).then(|| "acme".into()),
        scopes: (n > 1).then(|| vec!["a b".to_owned(), "é".to_owned()]),
        return_to: (n > 1).then(|| "/done".to_owned()),
        expires_at: Timestamp(expires_at),
    };
    for (n, at) in [(1, 10), (2, 20), (3, 30)] {
        same(ok(store.put_pending(pending(n, at)).await), true, "kept");
        same(ok(store.put_session(session(n, at)).await), true, "kept");
    }
    same(ok(store.put_pending(pending(1, 99)).await), false, "a token is used once");
    same(ok(store.put_session(session(1, 99)).await), false, "a token is used once");
    let mut takers = Vec::new();
    for _ in 0..8 {
        let store = Arc::clone(&store);
        takers.push(tokio::spawn(async move {
            (ok(store.take_pending(hash(1)).await), ok(store.take_session(hash(1)).await))
        }));
    }
    let (mut rows, mut sessions) = (Vec::new(), Vec::new());
    for taker in takers {
        let (row, session) = taker.await.unwrap_or_default();
        rows.extend(row);
        sessions.extend(session);
    }
    same(rows, vec![pending(1, 10)], "one gets it, as it was");
    same(sessions, vec![session(1, 10)], "one gets it, as it was");
    same(ok(store.prune_authorizations(Timestamp(20), 9).await), 0, "what expires at that moment stays");
    same(ok(store.prune_authorizations(Timestamp(99), 1).await), 2, "one of each, the oldest");
    same(ok(store.take_pending(hash(2)).await), None, "gone");
    same(ok(store.take_session(hash(3)).await), Some(session(3, 30)), "the younger one stays");
    same(ok(store.take_pending(hash(3)).await), Some(pending(3, 30)), "the younger one stays");
}
