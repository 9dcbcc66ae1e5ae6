//! Identifiers as types, so that a tenant cannot stand where a connection should.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a text as this identifier.
            #[must_use]
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// Returns the text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self::new(text)
            }
        }
    };
}

text_id! {
    /// Names a tenant: a customer of the product that embeds Palisade.
    TenantId
}
text_id! {
    /// Names a connection: one tenant's authorised account at a provider.
    ConnectionId
}
text_id! {
    /// Names an endpoint: a URL a provider posts to.
    EndpointId
}
text_id! {
    /// The provider's own identifier of an event; with the endpoint it is the dedupe key.
    EventId
}
text_id! {
    /// Names a stream: one kind of record a provider can list.
    StreamName
}
text_id! {
    /// The provider's own identifier of a record within its stream.
    RecordId
}
text_id! {
    /// Names an environment of a provider (`production`, `sandbox`). A connection belongs to one; credentials and
    /// addresses of one are never used in another.
    Environment
}
text_id! {
    /// Names one of a connection's grants (`main`, `bot`, `user`).
    GrantName
}

impl Environment {
    /// The name of the environment that need not be named.
    pub const PRODUCTION: &str = "production";

    /// Tells whether it is the one that need not be named.
    #[must_use]
    pub fn is_production(&self) -> bool {
        self.as_str() == Self::PRODUCTION
    }

    /// Returns the name of a provider's flow in this environment: `slack`, or `slack/sandbox`.
    #[must_use]
    pub fn flow(&self, provider: &str) -> String {
        if self.is_production() { provider.to_owned() } else { format!("{provider}/{self}") }
    }

    /// Takes the name of a flow apart: its provider and its environment.
    #[must_use]
    pub fn of_flow(name: &str) -> (&str, Self) {
        match name.split_once('/') {
            Some((provider, environment)) => (provider, Self::new(environment)),
            None => (name, Self::default()),
        }
    }
}

impl Default for Environment {
    fn default() -> Self {
        Self::new(Self::PRODUCTION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_named_by_provider_and_environment() {
        for (name, provider, environment) in
            [("slack", "slack", "production"), ("slack/sandbox", "slack", "sandbox"), ("", "", "production")]
        {
            let (found, of) = Environment::of_flow(name);
            assert_eq!((found, of.as_str()), (provider, environment));
            assert_eq!(of.flow(provider), name);
        }
    }
}
