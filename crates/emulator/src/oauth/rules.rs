//! How an authorisation server treats codes and tokens, and what its users do: values, settable while it runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What an authorisation server promises about its codes and tokens. Each provider begins with its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// How long a code may be redeemed.
    pub code_life: Duration,
    /// Whether redeeming a code again revokes what it gave (RFC 6749 section 4.1.2).
    pub code_replay_revokes: bool,
    /// Whether the token request must repeat the redirect URI of the authorisation (RFC 6749 section 4.1.3).
    pub redirect_repeated: bool,
    /// What is asked of PKCE.
    pub pkce: Pkce,
    /// How long an access token works; `None` for one that never expires.
    pub access_life: Option<Duration>,
    /// How many access tokens of one authorisation work at the same time; the oldest dies.
    pub access_live_max: Option<usize>,
    /// What a refresh token is good for.
    pub refresh: Refresh,
    /// How long a refresh token works after it was given.
    pub refresh_life: Option<Duration>,
    /// How long a refresh token may lie unused.
    pub refresh_idle: Option<Duration>,
    /// How many refresh tokens of one user and client work at the same time; the oldest dies silently.
    pub refresh_live_max: Option<usize>,
    /// Whether presenting a spent refresh token revokes the whole family (RFC 9700 section 4.14.2).
    pub replay_revokes_family: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            code_life: Duration::from_secs(600),
            code_replay_revokes: true,
            redirect_repeated: true,
            pkce: Pkce::Optional,
            access_life: Some(Duration::from_secs(3600)),
            access_live_max: None,
            refresh: Refresh::Reusable,
            refresh_life: None,
            refresh_idle: None,
            refresh_live_max: None,
            replay_revokes_family: false,
        }
    }
}

/// What is asked of PKCE. A challenge that was sent is always checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Pkce {
    /// May be left out.
    Optional,
    /// Must be there, hashed or plain.
    Required,
    /// Must be there and hashed.
    S256,
}

/// What a refresh token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Refresh {
    /// None is given.
    Never,
    /// Works again and again; a refresh gives an access token only.
    Reusable,
    /// Works once; a refresh gives its successor.
    Rotating {
        /// How long the spent token still answers, with the same successor, as long as that one is unspent.
        grace: Duration,
    },
}

/// What the emulated users do, and what goes wrong by their hand.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Dials {
    /// Who answers the authorisation page.
    pub consent: Consent,
    /// Scopes that are never granted, whatever the page says: a partial grant.
    pub withhold: Vec<String>,
    /// Whether new codes have expired before they can be redeemed.
    pub codes_born_expired: bool,
}

/// Who answers the authorisation page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Consent {
    /// A person or a browser-like client: the page is shown and waits.
    #[default]
    Ask,
    /// Nobody: everything that was asked for is allowed at once, without a page.
    Allow,
    /// Nobody: it is denied at once, without a page.
    Deny,
}
