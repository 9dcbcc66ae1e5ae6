//! What is said between a provider's endpoints and the authorisation server's memory.

use std::collections::BTreeMap;

use super::pkce::Challenge;
use crate::dice::Dice;

/// Provider facts beside a grant: team, account, nonce and the like.
pub(crate) type Facts = BTreeMap<&'static str, String>;

/// How a provider's secrets look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    /// A code.
    pub(crate) code: fn(&mut Dice) -> String,
    /// An access token: who holds it, and whether it will expire.
    pub(crate) access: fn(&mut Dice, &str, bool) -> String,
    /// A refresh token.
    pub(crate) refresh: fn(&mut Dice) -> String,
}

/// Why the server refuses; each provider has its own words for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    CodeUnknown,
    CodeUsed,
    CodeExpired,
    CodeOfOtherClient,
    RedirectMismatch,
    VerifierMissing,
    VerifierWrong,
    VerifierUnexpected,
    TokenUnknown,
    TokenExpired,
    TokenRevoked,
    TokenReplayed,
    TokenOfOtherClient,
    ScopeWidened,
}

impl Refusal {
    /// Gives the name the ledger counts it under.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::CodeUnknown => "code_unknown",
            Self::CodeUsed => "code_used",
            Self::CodeExpired => "code_expired",
            Self::CodeOfOtherClient => "code_of_other_client",
            Self::RedirectMismatch => "redirect_mismatch",
            Self::VerifierMissing => "verifier_missing",
            Self::VerifierWrong => "verifier_wrong",
            Self::VerifierUnexpected => "verifier_unexpected",
            Self::TokenUnknown => "token_unknown",
            Self::TokenExpired => "token_expired",
            Self::TokenRevoked => "token_revoked",
            Self::TokenReplayed => "token_replayed",
            Self::TokenOfOtherClient => "token_of_other_client",
            Self::ScopeWidened => "scope_widened",
        }
    }
}

/// What one holder (a bot, a user) is given of an authorisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) holder: &'static str,
    pub(crate) scopes: Vec<String>,
}

/// An authorisation a user agreed to.
#[derive(Debug, Clone)]
pub(crate) struct Agreed {
    pub(crate) client: String,
    /// The redirect URI as the authorisation request had it.
    pub(crate) redirect_uri: Option<String>,
    pub(crate) challenge: Option<Challenge>,
    pub(crate) subject: String,
    pub(crate) facts: Facts,
    pub(crate) shares: Vec<Share>,
    /// Whether refresh tokens are given, if the rules have any.
    pub(crate) offline: bool,
}

/// A token request with a code.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Redemption<'a> {
    pub(crate) client: &'a str,
    pub(crate) code: &'a str,
    pub(crate) redirect_uri: Option<&'a str>,
    pub(crate) verifier: Option<&'a str>,
}

/// Tokens given to one holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) holder: &'static str,
    pub(crate) scopes: Vec<String>,
    pub(crate) access: String,
    pub(crate) refresh: Option<String>,
    /// Seconds the access token still works.
    pub(crate) expires_in: Option<u64>,
}

/// What a token request was answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) subject: String,
    pub(crate) facts: Facts,
    pub(crate) pairs: Vec<Pair>,
}

/// What an access token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) client: String,
    pub(crate) subject: String,
    pub(crate) holder: &'static str,
    pub(crate) scopes: Vec<String>,
    pub(crate) facts: Facts,
    /// When it ends, in milliseconds since 1970.
    pub(crate) expires: Option<i64>,
}
