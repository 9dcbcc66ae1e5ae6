//! A hub that serves on loopback, with flows that browsers go through.

use std::net::SocketAddr;
use std::sync::Arc;

use palisade_core::auth::vault::LocalMasterKey;
use palisade_core::clock::{Clock, ManualClock, SystemClock};
use palisade_core::random::SystemRandom;
use palisade_core::store::Store;
use palisade_core::transport::HttpTransport;
use palisade_hub::{Access, Hub, HubBuilder, ServeSettings, serve};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::stage::{MASTER_KEY, quick};

/// The token of whoever may see the operations page.
pub const ADMIN_TOKEN: &str = "admin-token-of-the-whole-system-tests";

/// A hub at an address, with a clock that moves when it is told.
#[derive(Debug)]
pub struct Entry {
    /// The hub.
    pub hub: Hub,
    /// Where it serves.
    pub base: String,
    /// Its clock.
    pub clock: Arc<ManualClock>,
    admin: String,
    client: reqwest::Client,
    stop: watch::Sender<bool>,
    server: JoinHandle<usize>,
}

impl Entry {
    /// Opens a hub over a store. `build` is given the address it will have and a hub under construction.
    ///
    /// # Panics
    /// When it cannot be built.
    pub async fn open(store: Arc<dyn Store>, build: impl FnOnce(&str, HubBuilder) -> HubBuilder) -> Self {
        let (listener, base) = port().await;
        Self::at(listener, store, ADMIN_TOKEN, |hub| build(&base, hub))
    }

    /// Opens a hub where somebody listens already, with an admin token of the test's own.
    ///
    /// # Panics
    /// When it cannot be built.
    #[must_use]
    pub fn at(
        listener: TcpListener,
        store: Arc<dyn Store>,
        admin: &str,
        build: impl FnOnce(HubBuilder) -> HubBuilder,
    ) -> Self {
        let base = base(&listener);
        let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
        let mut settings = quick(50);
        settings.access = Access::Token(admin.into());
        let builder = Hub::builder()
            .store(store)
            .clock(clock.clone())
            .transport(Arc::new(HttpTransport::builder().build().expect("a transport")))
            .master_key(Arc::new(LocalMasterKey::parse(MASTER_KEY.as_bytes(), Arc::new(SystemRandom)).expect("a key")))
            .settings(settings);
        let hub = build(builder).build().expect("a hub");
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve(listener, hub.router(), ServeSettings::default(), stopped));
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build();
        Self { hub, base, clock, admin: admin.to_owned(), client: client.expect("a client"), stop, server }
    }

    /// Returns the address browsers come back to from a flow.
    #[must_use]
    pub fn back(&self, flow: &str) -> String {
        back(&self.base, flow)
    }

    /// Asks the API as the admin.
    ///
    /// # Panics
    /// When it does not answer, or not with JSON.
    pub async fn api(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).bearer_auth(&self.admin);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path}: {status} {text}")))
    }

    /// Makes a link that connects one account of `acme`.
    ///
    /// # Panics
    /// When there is none to be had.
    pub async fn link(&self, flow: &str) -> String {
        let asked = json!({ "tenant": "acme", "provider": flow });
        let (status, made) = self.api(Method::POST, "/api/v1/connect-sessions", Some(asked)).await;
        assert_eq!(status, 201, "{made}");
        made["url"].as_str().expect("a link").to_owned()
    }

    /// Returns the connections as the API lists them.
    ///
    /// # Panics
    /// When it does not.
    pub async fn connections(&self) -> Vec<Value> {
        let (status, list) = self.api(Method::GET, "/api/v1/connections", None).await;
        assert_eq!(status, 200, "{list}");
        list["connections"].as_array().expect("a list").clone()
    }

    /// Stops serving.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn close(self) {
        self.stop.send(true).expect("it serves");
        self.server.await.expect("it ends");
    }
}

/// Takes a port for a hub that is to be opened, and returns the address it will have.
///
/// # Panics
/// When there is none.
pub async fn port() -> (TcpListener, String) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
    let base = base(&listener);
    (listener, base)
}

fn base(listener: &TcpListener) -> String {
    format!("http://{}", listener.local_addr().expect("an address"))
}

/// Returns the address browsers come back to from a flow of the hub at `base`.
#[must_use]
pub fn back(base: &str, flow: &str) -> String {
    format!("{base}/auth/{flow}/callback")
}
