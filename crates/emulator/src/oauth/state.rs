//! The authorisation server's memory: clients, codes, grants, families of tokens, and what became of each.
//!
//! Pure but for its dice: the moment, in milliseconds since 1970, is an argument of everything that depends on it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use super::pkce::Challenge;
use super::rules::{Dials, Pkce, Refresh, Rules};
pub(crate) use super::terms::{Agreed, Bearer, Facts, Granted, Names, Pair, Redemption, Refusal, Share};
use super::{Client, OAuthLedger, Uses};
use crate::dice::Dice;

/// How many codes, and how many tokens, are remembered; the oldest are forgotten first.
const REMEMBERED_MAX: usize = 200_000;

#[derive(Debug)]
struct Code {
    grant: u64,
    redirect_uri: Option<String>,
    challenge: Option<Challenge>,
    expires: i64,
    used: bool,
    uses: Uses,
}

#[derive(Debug)]
struct Grant {
    client: String,
    subject: String,
    facts: Facts,
    shares: Vec<Share>,
    offline: bool,
    families: Vec<u64>,
    revoked: bool,
}

/// Everything that descends from one holder's part of a grant.
#[derive(Debug)]
struct Family {
    grant: u64,
    holder: &'static str,
    scopes: Vec<String>,
    access: VecDeque<String>,
    in_flight: u32,
    revoked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Access,
    Refresh,
}

#[derive(Debug)]
struct Token {
    kind: Kind,
    family: u64,
    scopes: Vec<String>,
    expires: Option<i64>,
    used: i64,
    spent: Option<i64>,
    successor: Option<(String, String)>,
    revoked: bool,
    uses: Uses,
}

/// The whole memory.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) rules: Rules,
    pub(crate) dials: Dials,
    pub(crate) clients: BTreeMap<String, Client>,
    pub(crate) ledger: OAuthLedger,
    names: Names,
    dice: Dice,
    codes: HashMap<String, Code>,
    code_order: VecDeque<String>,
    tokens: HashMap<String, Token>,
    token_order: VecDeque<String>,
    grants: BTreeMap<u64, Grant>,
    families: HashMap<u64, Family>,
    refreshable: HashMap<(String, String), VecDeque<String>>,
    next: u64,
}

impl State {
    /// Makes an empty memory whose secrets follow from the seed.
    pub(crate) fn new(seed: u64, names: Names, rules: Rules, clients: Vec<Client>) -> Self {
        Self {
            rules,
            dials: Dials::default(),
            clients: clients.into_iter().map(|client| (client.id.clone(), client)).collect(),
            ledger: OAuthLedger::default(),
            names,
            dice: Dice(seed ^ 0x0A07_4000),
            codes: HashMap::new(),
            code_order: VecDeque::new(),
            tokens: HashMap::new(),
            token_order: VecDeque::new(),
            grants: BTreeMap::new(),
            families: HashMap::new(),
            refreshable: HashMap::new(),
            next: 0,
        }
    }

    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Tells whether the challenge satisfies what the rules ask of PKCE.
    pub(crate) fn admits(&self, challenge: Option<&Challenge>) -> bool {
        match self.rules.pkce {
            Pkce::Optional => true,
            Pkce::Required => challenge.is_some(),
            Pkce::S256 => challenge.is_some_and(Challenge::is_hashed),
        }
    }

    /// Writes an agreement down and gives its code.
    pub(crate) fn agree(&mut self, agreed: Agreed, now: i64) -> String {
        let code = (self.names.code)(&mut self.dice);
        let grant = self.remember(agreed.client, agreed.subject, agreed.facts, agreed.shares, agreed.offline);
        let life = if self.dials.codes_born_expired { -1 } else { millis(self.rules.code_life) };
        self.ledger.codes_issued += 1;
        self.codes.insert(
            code.clone(),
            Code {
                grant,
                redirect_uri: agreed.redirect_uri,
                challenge: agreed.challenge,
                expires: now.saturating_add(life),
                used: false,
                uses: Uses::default(),
            },
        );
        self.code_order.push_back(code.clone());
        if self.code_order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.code_order.pop_front()
        {
            self.codes.remove(&oldest);
        }
        code
    }

    fn remember(
        &mut self,
        client: String,
        subject: String,
        facts: Facts,
        mut shares: Vec<Share>,
        offline: bool,
    ) -> u64 {
        for share in &mut shares {
            share.scopes.retain(|scope| !self.dials.withhold.contains(scope));
        }
        let grant = self.tick();
        self.grants
            .insert(grant, Grant { client, subject, facts, shares, offline, families: Vec::new(), revoked: false });
        if self.grants.len() > REMEMBERED_MAX
            && let Some((_, oldest)) = self.grants.pop_first()
        {
            oldest.families.iter().for_each(|family| drop(self.families.remove(family)));
        }
        grant
    }

    /// Gives every scope a user has granted a client and not taken back.
    pub(crate) fn consented(&self, client: &str, subject: &str) -> BTreeSet<String> {
        self.grants
            .values()
            .filter(|grant| !grant.revoked && grant.client == client && grant.subject == subject)
            .flat_map(|grant| grant.shares.iter().flat_map(|share| share.scopes.iter().cloned()))
            .collect()
    }

    /// Trades a code for tokens.
    pub(crate) fn redeem(&mut self, asked: Redemption<'_>, now: i64) -> Result<Granted, Refusal> {
        if let Some(code) = self.codes.get_mut(asked.code) {
            code.uses.judged += 1;
        }
        let outcome = self.judge_code(&asked, now);
        let outcome = outcome.map(|grant| self.fulfil(grant, now));
        if let Some(code) = self.codes.get_mut(asked.code) {
            match outcome {
                Ok(_) => {
                    code.used = true;
                    code.uses.accepted += 1;
                }
                Err(_) => code.uses.refused += 1,
            }
        }
        match &outcome {
            Ok(_) => self.ledger.codes_redeemed += 1,
            Err(refusal) => self.refused(*refusal),
        }
        outcome
    }

    fn refused(&mut self, refusal: Refusal) {
        *self.ledger.refusals.entry(refusal.name().to_owned()).or_default() += 1;
    }

    fn judge_code(&mut self, asked: &Redemption<'_>, now: i64) -> Result<u64, Refusal> {
        let code = self.codes.get(asked.code).ok_or(Refusal::CodeUnknown)?;
        let (id, grant) = (code.grant, self.grants.get(&code.grant).ok_or(Refusal::CodeUnknown)?);
        if grant.client != asked.client {
            return Err(Refusal::CodeOfOtherClient);
        }
        if code.used {
            if self.rules.code_replay_revokes {
                self.revoke_grant(id);
            }
            return Err(Refusal::CodeUsed);
        }
        if now >= code.expires {
            return Err(Refusal::CodeExpired);
        }
        if grant.revoked {
            return Err(Refusal::CodeUnknown);
        }
        if self.rules.redirect_repeated && code.redirect_uri.as_deref() != asked.redirect_uri {
            return Err(Refusal::RedirectMismatch);
        }
        match (&code.challenge, asked.verifier) {
            (None, None) => Ok(id),
            (None, Some(_)) => Err(Refusal::VerifierUnexpected),
            (Some(_), None) => Err(Refusal::VerifierMissing),
            (Some(challenge), Some(verifier)) if challenge.fits(verifier) => Ok(id),
            (Some(_), Some(_)) => Err(Refusal::VerifierWrong),
        }
    }

    fn fulfil(&mut self, id: u64, now: i64) -> Granted {
        let Some(grant) = self.grants.get(&id) else {
            return Granted { subject: String::new(), facts: Facts::new(), pairs: Vec::new() };
        };
        let (subject, facts, shares, offline) =
            (grant.subject.clone(), grant.facts.clone(), grant.shares.clone(), grant.offline);
        let refreshes = offline && self.rules.refresh != Refresh::Never;
        let pairs = shares.into_iter().map(|share| self.open_family(id, share, refreshes, now)).collect();
        Granted { subject, facts, pairs }
    }

    fn open_family(&mut self, grant: u64, share: Share, refreshes: bool, now: i64) -> Pair {
        let family = self.tick();
        self.families.insert(
            family,
            Family {
                grant,
                holder: share.holder,
                scopes: share.scopes.clone(),
                access: VecDeque::new(),
                in_flight: 0,
                revoked: false,
            },
        );
        if let Some(grant) = self.grants.get_mut(&grant) {
            grant.families.push(family);
        }
        let (access, expires_in) = self.give_access(family, share.holder, share.scopes.clone(), now);
        let refresh = refreshes.then(|| self.give_refresh(family, share.scopes.clone(), now));
        Pair { holder: share.holder, scopes: share.scopes, access, refresh, expires_in }
    }

    fn give_access(&mut self, family: u64, holder: &str, scopes: Vec<String>, now: i64) -> (String, Option<u64>) {
        let life = self.rules.access_life;
        let name = (self.names.access)(&mut self.dice, holder, life.is_some());
        let expires = life.map(|life| now.saturating_add(millis(life)));
        self.keep(&name, Kind::Access, family, scopes, expires, now);
        let mut dead = Vec::new();
        if let Some(family) = self.families.get_mut(&family) {
            family.access.push_back(name.clone());
            while self.rules.access_live_max.is_some_and(|max| family.access.len() > max.max(1)) {
                dead.extend(family.access.pop_front());
            }
        }
        for name in dead {
            if let Some(token) = self.tokens.get_mut(&name) {
                token.revoked = true;
            }
        }
        (name, life.map(|life| life.as_secs()))
    }

    fn give_refresh(&mut self, family: u64, scopes: Vec<String>, now: i64) -> String {
        let name = (self.names.refresh)(&mut self.dice);
        let expires = self.rules.refresh_life.map(|life| now.saturating_add(millis(life)));
        self.keep(&name, Kind::Refresh, family, scopes, expires, now);
        let owner = self
            .families
            .get(&family)
            .and_then(|family| self.grants.get(&family.grant))
            .map(|grant| (grant.client.clone(), grant.subject.clone()));
        if let (Some(max), Some(owner)) = (self.rules.refresh_live_max, owner) {
            let mut live = self.refreshable.remove(&owner).unwrap_or_default();
            live.retain(|name| self.tokens.get(name).is_some_and(|token| !token.revoked && token.spent.is_none()));
            live.push_back(name.clone());
            while live.len() > max.max(1) {
                if let Some(token) = live.pop_front().and_then(|name| self.tokens.get_mut(&name)) {
                    token.revoked = true;
                }
            }
            self.refreshable.insert(owner, live);
        }
        name
    }

    fn keep(&mut self, name: &str, kind: Kind, family: u64, scopes: Vec<String>, expires: Option<i64>, now: i64) {
        let uses = Uses::default();
        let token =
            Token { kind, family, scopes, expires, used: now, spent: None, successor: None, revoked: false, uses };
        self.tokens.insert(name.to_owned(), token);
        self.token_order.push_back(name.to_owned());
        if self.token_order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.token_order.pop_front()
        {
            self.tokens.remove(&oldest);
        }
    }

    /// Gives a token to a client that asked for itself (a service account), without code and refresh token.
    pub(crate) fn mint(&mut self, client: &str, subject: &str, facts: Facts, share: Share, now: i64) -> Pair {
        let shares = vec![share.clone()];
        let grant = self.remember(client.to_owned(), subject.to_owned(), facts, shares, false);
        self.open_family(grant, share, false, now)
    }

    /// Gives tokens without a code, refresh token included where the rules have one.
    pub(crate) fn give(&mut self, client: &str, subject: &str, facts: Facts, share: Share, now: i64) -> Granted {
        let grant = self.remember(client.to_owned(), subject.to_owned(), facts, vec![share], true);
        self.fulfil(grant, now)
    }

    /// Gives a token that never expires and has no refresh token, as those from before rotation was switched on.
    pub(crate) fn mint_forever(&mut self, agreed: Agreed, now: i64) -> Granted {
        let life = self.rules.access_life.take();
        let grant = self.remember(agreed.client, agreed.subject, agreed.facts, agreed.shares, false);
        let granted = self.fulfil(grant, now);
        self.rules.access_life = life;
        granted
    }

    /// Counts a secret as it arrives at a token endpoint; gives the family it refreshes, if any.
    pub(crate) fn arrived(&mut self, secret: &str) -> Option<u64> {
        if let Some(code) = self.codes.get_mut(secret) {
            code.uses.arrived += 1;
            return None;
        }
        let token = self.tokens.get_mut(secret).filter(|token| token.kind == Kind::Refresh)?;
        token.uses.arrived += 1;
        let (arrived, id) = (token.uses.arrived, token.family);
        self.ledger.refreshes += 1;
        if matches!(self.rules.refresh, Refresh::Rotating { .. }) {
            self.ledger.single_use_arrived_max = self.ledger.single_use_arrived_max.max(arrived);
        }
        let family = self.families.get_mut(&id)?;
        self.ledger.refreshes_overlapping += u64::from(family.in_flight > 0);
        family.in_flight += 1;
        Some(id)
    }

    /// Counts a refresh as over.
    pub(crate) fn landed(&mut self, family: u64) {
        if let Some(family) = self.families.get_mut(&family) {
            family.in_flight = family.in_flight.saturating_sub(1);
        }
    }

    /// Trades a refresh token for an access token, and for its successor where tokens rotate.
    pub(crate) fn refresh(
        &mut self,
        client: &str,
        token: &str,
        scopes: Option<&[String]>,
        now: i64,
    ) -> Result<Granted, Refusal> {
        let outcome = self.judge_refresh(client, token, scopes, now);
        let rotating = matches!(self.rules.refresh, Refresh::Rotating { .. });
        if let Some(known) = self.tokens.get_mut(token) {
            known.uses.judged += 1;
            match &outcome {
                Ok(_) => {
                    known.uses.accepted += 1;
                    known.used = now;
                }
                Err(_) => known.uses.refused += 1,
            }
            if rotating {
                self.ledger.single_use_judged_max = self.ledger.single_use_judged_max.max(known.uses.judged);
                self.ledger.single_use_accepted_max = self.ledger.single_use_accepted_max.max(known.uses.accepted);
            }
        }
        match &outcome {
            Ok(_) => self.ledger.refreshes_accepted += 1,
            Err(refusal) => self.refused(*refusal),
        }
        outcome
    }

    fn judge_refresh(
        &mut self,
        client: &str,
        name: &str,
        scopes: Option<&[String]>,
        now: i64,
    ) -> Result<Granted, Refusal> {
        let token = self.tokens.get(name).filter(|token| token.kind == Kind::Refresh).ok_or(Refusal::TokenUnknown)?;
        let id = token.family;
        let family = self.families.get(&id).ok_or(Refusal::TokenUnknown)?;
        let grant = self.grants.get(&family.grant).ok_or(Refusal::TokenUnknown)?;
        if grant.client != client {
            return Err(Refusal::TokenOfOtherClient);
        }
        let (subject, facts, holder) = (grant.subject.clone(), grant.facts.clone(), family.holder);
        let answer = |pair| Granted { subject, facts, pairs: vec![pair] };
        if let Some(spent) = token.spent {
            let pair = self.within_grace(id, token, spent, now);
            return match pair {
                Some(pair) => {
                    self.ledger.grace_answers += 1;
                    Ok(answer(pair))
                }
                None => {
                    self.ledger.replays += 1;
                    if self.rules.replay_revokes_family {
                        self.revoke_family(id);
                    }
                    Err(Refusal::TokenReplayed)
                }
            };
        }
        if token.revoked || family.revoked || grant.revoked {
            return Err(Refusal::TokenRevoked);
        }
        let idle = self.rules.refresh_idle.map(|idle| token.used.saturating_add(millis(idle)));
        if token.expires.is_some_and(|at| now >= at) || idle.is_some_and(|at| now >= at) {
            return Err(Refusal::TokenExpired);
        }
        let scopes = match scopes {
            None => family.scopes.clone(),
            Some(asked) if asked.iter().all(|scope| family.scopes.contains(scope)) => asked.to_vec(),
            Some(_) => return Err(Refusal::ScopeWidened),
        };
        let rotates = matches!(self.rules.refresh, Refresh::Rotating { .. });
        let (access, expires_in) = self.give_access(id, holder, scopes.clone(), now);
        let refresh = rotates.then(|| {
            let all = self.families.get(&id).map(|family| family.scopes.clone()).unwrap_or_default();
            let next = self.give_refresh(id, all, now);
            if let Some(token) = self.tokens.get_mut(name) {
                token.spent = Some(now);
                token.successor = Some((access.clone(), next.clone()));
            }
            next
        });
        Ok(answer(Pair { holder, scopes, access, refresh, expires_in }))
    }

    /// Gives the successor again while the grace window is open and nobody has used it.
    fn within_grace(&self, id: u64, token: &Token, spent: i64, now: i64) -> Option<Pair> {
        let Refresh::Rotating { grace } = self.rules.refresh else { return None };
        if now.saturating_sub(spent) >= millis(grace) {
            return None;
        }
        let family = self.families.get(&id).filter(|family| !family.revoked)?;
        let (access, refresh) = token.successor.clone()?;
        let next = self.tokens.get(&refresh).filter(|next| next.spent.is_none() && !next.revoked)?;
        let given = self.tokens.get(&access)?;
        let expires_in = given.expires.map(|at| u64::try_from(at.saturating_sub(now) / 1000).unwrap_or(0));
        debug_assert_eq!(next.family, id);
        Some(Pair { holder: family.holder, scopes: given.scopes.clone(), access, refresh: Some(refresh), expires_in })
    }

    /// Finds what an access token stands for, as an API call presents it.
    pub(crate) fn look(&mut self, name: &str, now: i64) -> Result<Bearer, Refusal> {
        let outcome = self.peek(name, now);
        if let Some(token) = self.tokens.get_mut(name) {
            token.uses.arrived += 1;
            token.uses.judged += 1;
            match &outcome {
                Ok(_) => token.uses.accepted += 1,
                Err(_) => token.uses.refused += 1,
            }
        }
        outcome
    }

    /// Finds what an access token stands for, without counting.
    pub(crate) fn peek(&self, name: &str, now: i64) -> Result<Bearer, Refusal> {
        let token = self.tokens.get(name).filter(|token| token.kind == Kind::Access).ok_or(Refusal::TokenUnknown)?;
        let family = self.families.get(&token.family).ok_or(Refusal::TokenUnknown)?;
        let grant = self.grants.get(&family.grant).ok_or(Refusal::TokenUnknown)?;
        if token.revoked || family.revoked || grant.revoked {
            return Err(Refusal::TokenRevoked);
        }
        if token.expires.is_some_and(|at| now >= at) {
            return Err(Refusal::TokenExpired);
        }
        Ok(Bearer {
            client: grant.client.clone(),
            subject: grant.subject.clone(),
            holder: family.holder,
            scopes: token.scopes.clone(),
            facts: grant.facts.clone(),
            expires: token.expires,
        })
    }

    /// Gives client and subject of a live token of either kind.
    pub(crate) fn owner(&self, name: &str) -> Option<(String, String)> {
        let token = self.tokens.get(name).filter(|token| !token.revoked && token.spent.is_none())?;
        let family = self.families.get(&token.family).filter(|family| !family.revoked)?;
        let grant = self.grants.get(&family.grant).filter(|grant| !grant.revoked)?;
        Some((grant.client.clone(), grant.subject.clone()))
    }

    /// Revokes a token and all of its family; tells whether it was known and live.
    pub(crate) fn revoke(&mut self, name: &str) -> bool {
        let live = self.owner(name).is_some();
        if let Some(id) = self.tokens.get(name).map(|token| token.family) {
            self.revoke_family(id);
        }
        live
    }

    fn revoke_family(&mut self, id: u64) {
        if let Some(family) = self.families.get_mut(&id).filter(|family| !family.revoked) {
            family.revoked = true;
            self.ledger.families_revoked += 1;
        }
    }

    fn revoke_grant(&mut self, id: u64) {
        let families = match self.grants.get_mut(&id) {
            Some(grant) => {
                grant.revoked = true;
                grant.families.clone()
            }
            None => return,
        };
        families.into_iter().for_each(|family| self.revoke_family(family));
    }

    /// Tells whether some live token descends from a grant that a predicate over client and facts chooses.
    pub(crate) fn has_live(&self, chosen: impl Fn(&str, &Facts) -> bool) -> bool {
        let live = |family: &u64| self.families.get(family).is_some_and(|family| !family.revoked);
        let mut grants = self.grants.values().filter(|grant| !grant.revoked && chosen(&grant.client, &grant.facts));
        grants.any(|grant| grant.families.iter().any(live))
    }

    /// Revokes every grant that a predicate over client, subject and facts chooses; gives how many.
    pub(crate) fn revoke_grants(&mut self, chosen: impl Fn(&str, &str, &Facts) -> bool) -> usize {
        let ids: Vec<u64> = self
            .grants
            .iter()
            .filter(|(_, grant)| !grant.revoked && chosen(&grant.client, &grant.subject, &grant.facts))
            .map(|(id, _)| *id)
            .collect();
        ids.iter().for_each(|id| self.revoke_grant(*id));
        ids.len()
    }

    /// Ends a code or token now; tells whether it was known.
    pub(crate) fn expire(&mut self, secret: &str) -> bool {
        if let Some(code) = self.codes.get_mut(secret) {
            code.expires = i64::MIN;
            return true;
        }
        match self.tokens.get_mut(secret) {
            Some(token) => {
                token.expires = Some(i64::MIN);
                true
            }
            None => false,
        }
    }

    /// Ends every access token now; gives how many were live.
    pub(crate) fn expire_access(&mut self, now: i64) -> usize {
        let mut ended = 0;
        for token in self.tokens.values_mut().filter(|token| token.kind == Kind::Access) {
            if token.expires.is_none_or(|at| now < at) {
                token.expires = Some(i64::MIN);
                ended += 1;
            }
        }
        ended
    }

    /// Gives what became of a secret.
    pub(crate) fn uses(&self, secret: &str) -> Uses {
        let code = self.codes.get(secret).map(|code| code.uses);
        code.or_else(|| self.tokens.get(secret).map(|token| token.uses)).unwrap_or_default()
    }

    /// Lists every secret that was ever given and is remembered.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let clients = self.clients.values().filter_map(|client| client.secret.clone());
        clients.chain(self.code_order.iter().cloned()).chain(self.token_order.iter().cloned()).collect()
    }
}

/// Gives whole milliseconds, saturating.
fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
