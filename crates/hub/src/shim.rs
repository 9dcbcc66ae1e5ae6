#![allow(missing_docs, unused, unreachable_pub, dead_code, missing_debug_implementations, clippy::all, reason = "wip")]
pub mod health {
    use palisade_core::store::*;
    use palisade_core::*;
    use std::time::Duration;
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Overall {
        Healthy,
        Degraded,
        Down,
    }
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Who {
        Nobody,
        User,
        Operator,
        Provider,
    }
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum State {
        Connected,
    }
    impl Overall {
        pub fn as_str(&self) -> &'static str {
            "healthy"
        }
    }
    impl Who {
        pub fn as_str(&self) -> &'static str {
            "nobody"
        }
        pub fn title(&self) -> &'static str {
            "Nobody"
        }
    }
    impl State {
        pub fn as_str(&self) -> &'static str {
            "connected"
        }
        pub fn title(&self) -> &'static str {
            "Connected"
        }
    }
    #[derive(Debug, Clone)]
    pub struct Health {
        pub overall: Overall,
        pub who: Who,
        pub state: State,
        pub summary: String,
        pub next: String,
    }
    pub struct Observations<'a> {
        pub now: Timestamp,
        pub connection: &'a Connection,
        pub streams: &'a [(StreamName, StreamStatus)],
        pub runs: &'a [Run],
        pub calls: CallCounts,
        pub incremental_every: Duration,
    }
    pub fn health(o: &Observations<'_>) -> Health {
        Health {
            overall: Overall::Healthy,
            who: Who::Nobody,
            state: State::Connected,
            summary: "Works.".into(),
            next: "Nothing".into(),
        }
    }
}
pub mod vault {
    use palisade_core::auth::*;
    use palisade_core::store::*;
    use palisade_core::*;
    use std::sync::Arc;
    pub trait MasterKey: Send + Sync + 'static {}
    pub struct LocalMasterKey;
    impl MasterKey for LocalMasterKey {}
    impl LocalMasterKey {
        pub fn new(_: &str, _: [u8; 32]) -> Self {
            Self
        }
    }
    #[derive(Clone)]
    pub struct Vault(Arc<std::sync::Mutex<std::collections::BTreeMap<String, Scheme>>>);
    impl Vault {
        pub fn new(_: Arc<dyn Store>, _: Arc<dyn MasterKey>, _: Arc<dyn Random>) -> Self {
            Self(Default::default())
        }
        pub async fn put_if_changed(&self, _: &TenantId, c: &ConnectionId, s: &Scheme) -> Result<bool> {
            Ok(self.0.lock().unwrap().insert(c.as_str().into(), s.clone()).is_none())
        }
    }
    pub struct VaultCredentials(Vault);
    impl VaultCredentials {
        pub fn new(v: Vault) -> Self {
            Self(v)
        }
    }
    #[async_trait::async_trait]
    impl CredentialSource for VaultCredentials {
        async fn credential(&self, c: ConnectionId) -> Result<Credential> {
            Credential::new(&self.0.0.lock().unwrap()[c.as_str()], 1, None)
        }
        async fn refresh(&self, c: ConnectionId, _: u64) -> Result<Credential> {
            self.credential(c).await
        }
    }
}
