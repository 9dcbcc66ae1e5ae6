//! One renewal, from the claim of the row to what is written in it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::cache::{self, Entry, Flight, Kept};
use super::{JITTER, LEEWAY, LOOK_EVERY, RenewalEnd, RenewalRecord, Shared, over, resting};
use crate::auth::flow::{Flow, RenewalAsk, RenewalFailure, RenewalPolicy, RevocationAsk};
use crate::auth::grant::{GrantSecrets, Renewal, Tokens};
use crate::auth::vault::{Issued, Turn};
use crate::auth::{Credential, Scheme};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::id::TenantId;
use crate::store::{EndReason, GrantClaim, GrantKey, GrantLease, GrantState, NewTokens, StoredGrant};

/// How long a row is held; prolonged three times as often. What a process that dies costs the others in waiting.
const HOLD: Duration = Duration::from_secs(30);
/// Between two looks at a row that somebody else holds: at first, and at most.
const POLL: Duration = Duration::from_millis(50);
const POLL_MAX: Duration = Duration::from_secs(1);
/// How long somebody else's renewal is waited for.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// Requests of one renewal while somebody waits for it.
const ATTEMPTS_MAX: u32 = 3;
/// Between two of them, doubling, with full jitter upwards from half.
const BACKOFF: Duration = Duration::from_millis(500);
/// The longest wait a provider may ask for inside a renewal.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long a grant rests after a failure, doubling, and at most.
const REST: Duration = Duration::from_secs(5);
const REST_MAX: Duration = Duration::from_secs(300);
/// How long it rests when our own settings are refused: somebody must change them.
const REST_WRONG: Duration = Duration::from_secs(300);
/// A token that is refused within this time of its issue is not renewed for it: the trouble is elsewhere, and a loop of
/// renewals would follow.
const FRESH: Duration = Duration::from_secs(10);
/// How long the store is tried to take new tokens: they are nowhere else.
const WRITE_MAX: Duration = Duration::from_secs(120);
/// Beyond the flow's own time, in case it does not keep it.
const TIMEOUT_SLACK: Duration = Duration::from_secs(5);

/// What is to be renewed.
pub(super) struct Renewing {
    pub(super) tenant: TenantId,
    pub(super) key: GrantKey,
    pub(super) flow: String,
    /// The generation to renew.
    pub(super) seen: u64,
    pub(super) why: Why,
}

/// Why it is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Its time has come; it still serves.
    Due,
    /// It has expired.
    Expired,
    /// The provider refused it.
    Refused,
    /// Nobody used it for long.
    Unused,
}

impl Why {
    /// Whether somebody waits for the result and has nothing else.
    fn is_awaited(self) -> bool {
        matches!(self, Self::Expired | Self::Refused)
    }
}

/// How a renewal ended.
struct Ended {
    result: Result<Kept>,
    end: RenewalEnd,
}

impl Ended {
    fn failed(error: Error) -> Self {
        let end = RenewalEnd::Failed(error.kind());
        Self { result: Err(error), end }
    }
}

/// Counts a renewal as under way until it ends in whatever way.
struct UnderWay(watch::Sender<usize>);

impl UnderWay {
    fn begin(counter: &watch::Sender<usize>) -> Self {
        counter.send_modify(|count| *count += 1);
        Self(counter.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Shared {
    /// Starts a renewal on a task of its own.
    pub(super) fn launch(self: &Arc<Self>, entry: Arc<Entry>, renewing: Renewing) -> Flight {
        let (done, result) = oneshot::channel();
        let shared = Arc::clone(self);
        let under_way = UnderWay::begin(&self.under_way);
        (self.spawner)(Box::pin(async move {
            let epoch = entry.epoch();
            let ended = shared.renew(&renewing).await;
            shared.tell(&renewing, &ended);
            let result = match ended.result {
                Ok(kept) => {
                    let now = shared.clock.now();
                    let look_at = now.plus(LOOK_EVERY);
                    entry.keep(epoch, kept.until(kept.renew_at.map_or(look_at, |at| at.min(look_at))));
                    Ok(kept.credential)
                }
                Err(error) => Err(Arc::new(error)),
            };
            // Nobody may be waiting.
            let _ = done.send(result);
            drop(under_way);
        }));
        cache::flight(async move {
            result.await.unwrap_or_else(|_| {
                Err(Arc::new(Error::new(ErrorKind::Cancelled, "the renewal was cut off").with_retryable(true)))
            })
        })
    }

    fn tell(&self, renewing: &Renewing, ended: &Ended) {
        let Renewing { key: GrantKey { connection, name }, flow, why, .. } = renewing;
        match (ended.end, &ended.result) {
            (RenewalEnd::Ended(reason), _) => {
                tracing::error!(%connection, grant = %name, flow, ?why, ?reason, "a grant is over: reconnect");
            }
            (RenewalEnd::Failed(_), Err(error)) => {
                tracing::warn!(%connection, grant = %name, flow, ?why, %error, "a token could not be renewed");
            }
            (end @ (RenewalEnd::Renewed | RenewalEnd::Found | RenewalEnd::Failed(_)), _) => {
                tracing::debug!(%connection, grant = %name, flow, ?why, ?end, "a token was renewed");
            }
        }
        if let Some(observer) = &self.observer {
            let (key, flow) = (renewing.key.clone(), flow.clone());
            observer.observe(RenewalRecord { key, flow, at: self.clock.now(), end: ended.end });
        }
    }

    /// Opens a stored token.
    pub(super) async fn open(&self, tenant: &TenantId, grant: &StoredGrant) -> Result<Kept> {
        let secrets = self.vault.open_grant(tenant, grant).await?;
        let policy = self.policy(&grant.flow);
        let times = (grant.issued_at, grant.expires_at);
        self.kept(&grant.flow, &secrets.access, grant.generation, times, policy.as_ref())
    }

    fn policy(&self, flow: &str) -> Option<RenewalPolicy> {
        self.flows.get(flow).map(|flow| flow.policy())
    }

    fn kept(
        &self,
        flow: &str,
        access: &crate::Secret,
        generation: u64,
        (issued_at, expires_at): (Timestamp, Option<Timestamp>),
        policy: Option<&RenewalPolicy>,
    ) -> Result<Kept> {
        let credential = Credential::new(&Scheme::Bearer(access.clone()), generation, expires_at)?;
        let credential = super::placed(credential, self.audiences.get(flow).cloned());
        let life = expires_at.map(|end| end.since(issued_at));
        let unusable_at = expires_at.map(|end| end.minus(LEEWAY.min(life.unwrap_or_default() / 10)));
        let renew_at = life.zip(policy).map(|(life, policy)| {
            let share = (policy.renew_at - JITTER * self.random.unit()).clamp(0.0, 1.0);
            issued_at.plus(life.mul_f64(share))
        });
        Ok(Kept::token(credential, unusable_at, renew_at))
    }
}

// ------------------------------------------------------------------------------------------ the renewal itself

/// A row that is held for a renewal, with all that is needed before the request leaves.
struct Held<'a> {
    renewing: &'a Renewing,
    row: StoredGrant,
    flow: &'a dyn Flow,
    policy: RenewalPolicy,
    lease: GrantLease,
    secrets: GrantSecrets,
    /// The number the new tokens will be sealed under: nothing that can fail lies between the answer and the write.
    turn: Turn,
}

impl Held<'_> {
    /// Whether a lost answer may have cost the refresh token.
    fn is_single_use(&self) -> bool {
        is_single_use(&self.policy, &self.secrets.renewal)
    }
}

fn is_single_use(policy: &RenewalPolicy, renewal: &Renewal) -> bool {
    !policy.refresh_reusable && matches!(renewal, Renewal::RefreshToken(_))
}

impl Shared {
    async fn renew(&self, renewing: &Renewing) -> Ended {
        match self.try_renew(renewing).await {
            Ok(ended) => ended,
            Err(error) => Ended::failed(error),
        }
    }

    async fn try_renew(&self, renewing: &Renewing) -> Result<Ended> {
        let Renewing { key, seen, why, .. } = renewing;
        let give_up = Instant::now() + WAIT_MAX;
        let mut poll = POLL;
        loop {
            let Some(row) = self.store.grant(key.clone()).await? else { return Err(super::none()) };
            if row.generation != *seen || row.state != GrantState::Live {
                return self.found(renewing, &row).await;
            }
            let now = self.clock.now();
            if *why == Why::Refused && now >= row.issued_at && now.since(row.issued_at) < FRESH {
                return Err(Error::new(ErrorKind::Auth, "the provider refuses a token it has just issued")
                    .with_outcome(Outcome::Rejected));
            }
            match self.store.claim_grant(key.clone(), *seen, now, now.plus(HOLD)).await? {
                GrantClaim::Moved => {}
                GrantClaim::Resting { until } => return Err(resting(until.since(now))),
                GrantClaim::Busy { until } => {
                    if Instant::now() >= give_up {
                        let why = "another process has been renewing the token for too long";
                        return Err(Error::new(ErrorKind::Timeout, why).with_retry_after(Some(POLL_MAX)));
                    }
                    tokio::time::sleep(poll.min(until.since(now) + Duration::from_millis(1))).await;
                    poll = (poll * 2).min(POLL_MAX);
                }
                GrantClaim::Held { lease, intent } => {
                    if let Some(ended) = self.with_hold(renewing, row, lease, intent.is_some()).await? {
                        return Ok(ended);
                    }
                }
            }
        }
    }

    /// Renews a row that is held. `None`: the hold was lost before anything left.
    async fn with_hold(
        &self,
        renewing: &Renewing,
        row: StoredGrant,
        lease: GrantLease,
        lost_before: bool,
    ) -> Result<Option<Ended>> {
        let held = match self.prepared(renewing, row, lease.clone(), lost_before).await {
            Ok(Ready::Send(held)) => *held,
            Ok(Ready::Over(row, reason)) => return self.end(renewing, &row, reason).await.map(Some),
            Err(error) => {
                self.give_back(&lease, None).await;
                return Err(error);
            }
        };
        tokio::select! {
            biased;
            ended = self.attempts(&held) => ended,
            never = self.keep_held(&held.lease) => match never {},
        }
    }

    /// Does everything that can fail before a request leaves.
    async fn prepared<'a>(
        &'a self,
        renewing: &'a Renewing,
        row: StoredGrant,
        lease: GrantLease,
        lost_before: bool,
    ) -> Result<Ready<'a>> {
        let flow = self.flows.get(&row.flow).ok_or_else(|| {
            Error::new(ErrorKind::Config, format!("the flow {} is not set up in this process", row.flow))
        })?;
        let policy = flow.policy();
        let secrets = self.vault.open_grant(&renewing.tenant, &row).await?;
        if matches!(secrets.renewal, Renewal::Never) {
            return Ok(Ready::Over(Box::new(row), EndReason::NotRenewable));
        }
        if lost_before && is_single_use(&policy, &secrets.renewal) {
            return Ok(Ready::Over(Box::new(row), EndReason::MaybeLost));
        }
        let turn = self.vault.take_turn(&renewing.tenant).await?;
        Ok(Ready::Send(Box::new(Held { renewing, row, flow: flow.as_ref(), policy, lease, secrets, turn })))
    }

    /// Prolongs the hold for as long as it is asked to. A hold that was lost is not fought for: the write compares the
    /// generation.
    async fn keep_held(&self, lease: &GrantLease) -> std::convert::Infallible {
        let mut ticks = tokio::time::interval_at(Instant::now() + HOLD / 3, HOLD / 3);
        loop {
            ticks.tick().await;
            let until = self.clock.now().plus(HOLD);
            if let Ok(false) = self.store.extend_grant(lease.clone(), until).await {
                return std::future::pending().await;
            }
        }
    }

    async fn attempts(&self, held: &Held<'_>) -> Result<Option<Ended>> {
        let mut attempt = 1;
        loop {
            let asked_at = self.clock.now();
            match self.store.note_intent(held.lease.clone(), Some(asked_at)).await {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) => {
                    // It may be written: taken back, or else somebody will wrongly say that the token may be lost.
                    self.give_back(&held.lease, None).await;
                    return Err(error);
                }
            }
            let (error, after) = match self.ask(held, asked_at).await {
                Ok(tokens) => return self.write(held, &tokens, asked_at).await.map(Some),
                Err(RenewalFailure::Passing { error, after }) => (error, after),
                Err(RenewalFailure::Lost(error)) if !held.is_single_use() => (error, None),
                Err(RenewalFailure::Lost(_)) => {
                    return self.end(held.renewing, &held.row, EndReason::MaybeLost).await.map(Some);
                }
                Err(RenewalFailure::Over(_)) => return self.refused(held).await.map(Some),
                Err(RenewalFailure::Wrong(error)) => {
                    self.give_back(&held.lease, Some(REST_WRONG)).await;
                    return Err(error.with_retry_after(Some(REST_WRONG)));
                }
            };
            let pause = after.unwrap_or_else(|| self.jittered(BACKOFF * 2_u32.saturating_pow(attempt - 1)));
            if attempt >= ATTEMPTS_MAX || pause > BACKOFF_MAX || !held.renewing.why.is_awaited() {
                let grown = REST * 2_u32.saturating_pow(held.row.failures.min(16));
                let rest = after.unwrap_or_default().max(self.jittered(grown.min(REST_MAX)));
                self.give_back(&held.lease, Some(rest)).await;
                return Err(error.with_retry_after(Some(rest)));
            }
            // Nothing is on its way while we wait: a crash now loses nothing.
            if let Ok(false) = self.store.note_intent(held.lease.clone(), None).await {
                return Ok(None);
            }
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    async fn ask(&self, held: &Held<'_>, now: Timestamp) -> Result<Tokens, RenewalFailure> {
        let row = &held.row;
        let asked = RenewalAsk {
            name: row.key.name.clone(),
            renewal: held.secrets.renewal.clone(),
            requested: row.requested.clone(),
            granted: row.granted.clone(),
            now,
        };
        match tokio::time::timeout(held.policy.timeout + TIMEOUT_SLACK, held.flow.renew(asked)).await {
            Ok(answer) => answer,
            Err(_) => {
                let error = Error::new(ErrorKind::Timeout, "the token endpoint did not answer in time");
                Err(RenewalFailure::Lost(error.with_outcome(Outcome::Unknown)))
            }
        }
    }

    /// The provider said `invalid_grant`: that is the end, unless another process renewed the grant meanwhile.
    async fn refused(&self, held: &Held<'_>) -> Result<Ended> {
        match self.store.grant(held.row.key.clone()).await? {
            Some(row) if row.generation != held.row.generation => self.found(held.renewing, &row).await,
            Some(_) | None => self.end(held.renewing, &held.row, EndReason::Refused).await,
        }
    }

    /// Stores what the provider gave.
    async fn write(&self, held: &Held<'_>, tokens: &Tokens, issued_at: Timestamp) -> Result<Ended> {
        let Renewing { tenant, key, seen, .. } = held.renewing;
        let generation = seen.saturating_add(1);
        let issued = Issued { at: issued_at, policy: &held.policy, random: self.random.as_ref() };
        let new = self.vault.seal_tokens_at(&held.turn, tenant, key, (*seen, generation), tokens, issued)?;
        let give_up = Instant::now() + WRITE_MAX;
        let mut pause = POLL;
        loop {
            let failed = match self.try_write(held, &new).await {
                Ok(Written::Ours) => {
                    let times = (issued_at, new.expires_at);
                    let kept = self.kept(&held.row.flow, &tokens.access, generation, times, Some(&held.policy))?;
                    return Ok(Ended { result: Ok(kept), end: RenewalEnd::Renewed });
                }
                Ok(Written::Others(row)) => return self.found(held.renewing, &row).await,
                Ok(Written::Gone) => {
                    self.revoke_orphan(held, tokens).await;
                    return Err(over(&GrantState::Erased {
                        at: issued_at,
                        revocation: crate::store::Revocation::NotOffered,
                    }));
                }
                Err(error) => error,
            };
            if Instant::now() >= give_up {
                // The intent stays: whoever comes next says that the token may be lost.
                return Err(failed);
            }
            tokio::time::sleep(self.jittered(pause)).await;
            pause = (pause * 2).min(POLL_MAX);
        }
    }

    async fn try_write(&self, held: &Held<'_>, new: &NewTokens) -> Result<Written> {
        let key = &held.row.key;
        if self.store.renew_grant(key.clone(), new.clone()).await? {
            return Ok(Written::Ours);
        }
        Ok(match self.store.grant(key.clone()).await? {
            None => Written::Gone,
            // An earlier try was committed, and only its answer was lost.
            Some(row) if row.generation == new.generation && row.blob == new.blob => Written::Ours,
            Some(row) if super::is_erased(&row) => Written::Gone,
            Some(row) => Written::Others(Box::new(row)),
        })
    }

    /// The connection was disconnected while its token was renewed: the new token must not live on at the provider.
    async fn revoke_orphan(&self, held: &Held<'_>, tokens: &Tokens) {
        let asked = RevocationAsk {
            name: held.row.key.name.clone(),
            secrets: GrantSecrets { access: tokens.access.clone(), renewal: tokens.renewal.clone() },
            account: None,
        };
        let connection = &held.row.key.connection;
        match held.flow.revoke(asked).await {
            Ok(revocation) => {
                tracing::info!(%connection, ?revocation, "a token renewed during a disconnect was revoked")
            }
            Err(error) => {
                tracing::warn!(%connection, %error, "a token renewed during a disconnect could not be revoked")
            }
        }
    }

    /// Ends a grant, unless its generation has changed.
    async fn end(&self, renewing: &Renewing, row: &StoredGrant, reason: EndReason) -> Result<Ended> {
        let Renewing { key, seen, why, .. } = renewing;
        let serves = *why != Why::Refused && row.expires_at.is_none_or(|end| end > self.clock.now().plus(LEEWAY));
        if self.store.end_grant(key.clone(), *seen, reason, serves).await? {
            let error = Error::new(ErrorKind::Auth, reason.phrase()).with_outcome(Outcome::Rejected);
            return Ok(Ended { result: Err(error), end: RenewalEnd::Ended(reason) });
        }
        let Some(row) = self.store.grant(key.clone()).await? else { return Err(super::none()) };
        self.found(renewing, &row).await
    }

    /// Takes what another process wrote.
    async fn found(&self, renewing: &Renewing, row: &StoredGrant) -> Result<Ended> {
        let usable = matches!(row.state, GrantState::Live | GrantState::Ending { .. });
        if row.generation == renewing.seen || !usable {
            return Err(over(&row.state));
        }
        let kept = self.open(&renewing.tenant, row).await?;
        if !kept.is_valid(self.clock.now()) {
            return Err(over(&GrantState::Live));
        }
        Ok(Ended { result: Ok(kept), end: RenewalEnd::Found })
    }

    /// Gives a hold back. When the store does not take it, the hold ends by its time.
    async fn give_back(&self, lease: &GrantLease, rest: Option<Duration>) {
        for pause in [POLL, POLL_MAX, POLL_MAX] {
            let until = rest.map(|rest| self.clock.now().plus(rest));
            if self.store.release_grant(lease.clone(), until).await.is_ok() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Between half and all of it.
    fn jittered(&self, wait: Duration) -> Duration {
        wait.mul_f64(0.5 + 0.5 * self.random.unit())
    }
}

enum Ready<'a> {
    Send(Box<Held<'a>>),
    Over(Box<StoredGrant>, EndReason),
}

enum Written {
    Ours,
    Others(Box<StoredGrant>),
    Gone,
}
