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
    /// Names one of a connection's grants (`main`, `bot`, `user`).
    GrantName
}
