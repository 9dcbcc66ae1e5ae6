//! An authorisation server in memory: what Slack's, Google's and Stripe Connect's have in common.
//!
//! Clients with exact redirect URIs, codes that work once, PKCE, refresh tokens that stay or rotate, families that
//! can be revoked, and a count of every secret's uses. It opens no socket and reads no clock: each provider's module
//! gives it the moment and puts its own words and wire shapes around it.

pub(crate) mod endpoint;
mod form;
pub(crate) mod page;
pub(crate) mod pkce;
mod rules;
pub(crate) mod state;
mod terms;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use form::Form;
pub use rules::{Consent, Dials, Pkce, Refresh, Rules};

pub(crate) use endpoint::{Asked, Flight, Presented, html, scopes_of};
use state::{Names, State};

/// A registered application.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Client {
    /// Its public identifier.
    pub id: String,
    /// Its secret; `None` for a public client, which must use PKCE.
    pub secret: Option<String>,
    /// The name the authorisation page shows.
    pub name: String,
    /// Where authorisations may be sent, compared byte for byte. The first is used when a request names none.
    pub redirect_uris: Vec<String>,
    /// Scopes it may ask for; `None` for any.
    pub scopes: Option<Vec<String>>,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            id: "client".to_owned(),
            secret: None,
            name: "Example app".to_owned(),
            redirect_uris: Vec::new(),
            scopes: None,
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("redirect_uris", &self.redirect_uris)
            .finish_non_exhaustive()
    }
}

/// What became of one code or token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Uses {
    /// How often it reached the provider, whatever the dials then did to the request.
    pub arrived: u64,
    /// How often the provider looked at it: those a dial refused, reset or swallowed beforehand are not among them.
    pub judged: u64,
    /// How often it was honoured, also when the answer was lost on its way back.
    pub accepted: u64,
    /// How often it was refused.
    pub refused: u64,
}

/// Everything an authorisation server counted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OAuthLedger {
    /// Codes given.
    pub codes_issued: u64,
    /// Codes redeemed.
    pub codes_redeemed: u64,
    /// Authorisations denied.
    pub denied: u64,
    /// Requests with a known refresh token that arrived.
    pub refreshes: u64,
    /// Those that were honoured.
    pub refreshes_accepted: u64,
    /// Those that arrived while another one of the same family was under way.
    pub refreshes_overlapping: u64,
    /// Spent refresh tokens presented again, outside the grace window.
    pub replays: u64,
    /// Spent refresh tokens answered again within the grace window.
    pub grace_answers: u64,
    /// Families of tokens revoked, for whatever reason.
    pub families_revoked: u64,
    /// Most arrivals of one single-use refresh token.
    pub single_use_arrived_max: u64,
    /// Most times the provider looked at one single-use refresh token.
    pub single_use_judged_max: u64,
    /// Most times one single-use refresh token was honoured.
    pub single_use_accepted_max: u64,
    /// Tokens given to a client for itself: service accounts.
    pub minted: u64,
    /// Token requests refused for their client's credentials.
    pub client_refusals: u64,
    /// Other refusals by reason, such as `token_replayed`.
    pub refusals: BTreeMap<String, u64>,
}

/// A handle to an authorisation server; clones are handles to the same one.
#[derive(Clone)]
pub struct Authority {
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes an authorisation server whose secrets follow from the seed.
    pub(crate) fn new(seed: u64, names: Names, rules: Rules, clients: Vec<Client>) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(seed, names, rules, clients))) }
    }

    /// Makes the authorisation server of a provider that has none: it knows no client and gives nothing.
    pub(crate) fn none() -> Self {
        let never = |_: &mut crate::dice::Dice| String::new();
        let names = Names { code: never, access: |_, _, _| String::new(), refresh: never };
        Self::new(0, names, Rules::default(), Vec::new())
    }

    /// Gives the memory; a panic elsewhere does not make it unusable.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a secret as it arrives at a token endpoint.
    pub(crate) fn arrived(&self, secret: &str) -> Option<Flight> {
        let family = self.state().arrived(secret)?;
        Some(Flight::new(self.clone(), family))
    }

    /// Registers a client, or replaces the one with its identifier.
    pub fn register(&self, client: Client) {
        self.state().clients.insert(client.id.clone(), client);
    }

    /// Gives a registered client.
    #[must_use]
    pub fn client(&self, id: &str) -> Option<Client> {
        self.state().clients.get(id).cloned()
    }

    /// Gives the rules as they stand.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.state().rules.clone()
    }

    /// Changes the rules for everything that comes; what was given keeps its life.
    pub fn set_rules(&self, rules: Rules) {
        self.state().rules = rules;
    }

    /// Gives the dials as they stand.
    #[must_use]
    pub fn dials(&self) -> Dials {
        self.state().dials.clone()
    }

    /// Turns the dials.
    pub fn set_dials(&self, dials: Dials) {
        self.state().dials = dials;
    }

    /// Gives what became of a code or token; zeros for an unknown one.
    #[must_use]
    pub fn uses(&self, secret: &str) -> Uses {
        self.state().uses(secret)
    }

    /// Gives everything counted until now.
    #[must_use]
    pub fn ledger(&self) -> OAuthLedger {
        self.state().ledger.clone()
    }

    /// Ends a code or token at once; tells whether it was known.
    #[must_use]
    pub fn expire(&self, secret: &str) -> bool {
        self.state().expire(secret)
    }

    /// Revokes a token with all of its family; tells whether it was known and live.
    #[must_use]
    pub fn revoke(&self, secret: &str) -> bool {
        self.state().revoke(secret)
    }

    /// Revokes every authorisation, as a user who removes the app everywhere; gives how many there were.
    #[must_use]
    pub fn revoke_all(&self) -> usize {
        self.state().revoke_grants(|_, _, _| true)
    }

    /// Lists every client secret, code and token that was ever given: what no log may contain.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        self.state().secrets()
    }

    /// Answers the control plane: what was counted, and how things stand.
    pub(crate) fn show(&self) -> Value {
        let state = self.state();
        let clients: Vec<&String> = state.clients.keys().collect();
        json!({ "ledger": state.ledger, "rules": state.rules, "dials": state.dials, "clients": clients })
    }

    /// Obeys the control plane.
    pub(crate) fn turn(&self, form: ControlForm, now: i64) -> Value {
        if let Some(client) = form.client {
            self.register(client);
        }
        if let Some(rules) = form.rules {
            self.set_rules(rules);
        }
        if let Some(dials) = form.dials {
            self.set_dials(dials);
        }
        let ended = if form.expire_access { self.state().expire_access(now) } else { 0 };
        let expired = form.expire.iter().filter(|secret| self.expire(secret)).count();
        let revoked = form.revoke.iter().filter(|secret| self.revoke(secret)).count();
        let gone = if form.revoke_all { self.revoke_all() } else { 0 };
        let uses: BTreeMap<&String, Uses> = form.uses.iter().map(|secret| (secret, self.uses(secret))).collect();
        json!({ "ok": true, "expired": expired + ended, "revoked": revoked + gone, "uses": uses })
    }
}

/// What `POST /_emulator/oauth` takes.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ControlForm {
    client: Option<Client>,
    rules: Option<Rules>,
    dials: Option<Dials>,
    expire: Vec<String>,
    expire_access: bool,
    revoke: Vec<String>,
    revoke_all: bool,
    uses: Vec<String>,
}
