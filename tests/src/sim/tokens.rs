//! Accounts of the simulation that are connected by OAuth: their owner connects them in a browser, and again when that
//! is needed, which it must never be without a cause.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http::header::LOCATION;
use palisade_core::auth::connect::{ConnectAsk, Connector};
use palisade_core::auth::oauth2::OAuth2Flow;
use palisade_core::random::SystemRandom;
use palisade_core::store::{Connection, ConnectionState, Connections as _, EndReason};
use palisade_core::{ConnectionId, Result, TenantId, Transport};

use super::Report;
use super::actor::Actor;
use super::world::World;
use crate::lockstep::vault;

/// The owner of the accounts, at a browser.
#[derive(Default)]
pub(super) struct Owner {
    /// Processes killed when the account was connected last.
    killed_by_then: u64,
}

impl Owner {
    /// Connects every account that is connected by OAuth.
    pub(super) async fn connect_all(world: &World) {
        for actor in &world.actors {
            let Some(config) = actor.flow() else { continue };
            let row = Connection {
                id: ConnectionId::new(actor.name()),
                tenant: TenantId::new(actor.name()),
                provider: actor.name().to_owned(),
                environment: Default::default(),
                account: None,
                base_url: None,
                state: ConnectionState::Active,
                created_at: world.now(),
            };
            world.store().put_connection(row).await.expect("a connection");
            connect(world, &**actor, config.name.as_str()).await.expect("the account is connected");
        }
    }

    /// Connects again what needs it, and judges whether it should.
    ///
    /// # Panics
    /// When an account needs it though no process died since it was connected last, or for another cause than that.
    pub(super) async fn look(&mut self, world: &World, report: &mut Report) {
        for actor in &world.actors {
            let row = world.store().connection(ConnectionId::new(actor.name())).await.expect("a connection");
            // One whose process has just begun may not be there yet.
            let Some(row) = row else { continue };
            let ConnectionState::NeedsReconnect { reason } = row.state else { continue };
            let name = actor.name();
            let lost = reason == EndReason::MaybeLost.phrase() && report.killed > self.killed_by_then;
            assert!(lost && actor.flow().is_some(), "{name} needs a reconnect without a cause: {reason}");
            let flow = actor.flow().expect("a flow").name;
            // What a full disk refuses is tried again the next time.
            if connect(world, &**actor, &flow).await.is_ok() {
                self.killed_by_then = report.killed;
                report.reconnects += 1;
            }
        }
    }
}

/// Goes to the provider's page and back, and lets the streams begin.
async fn connect(world: &World, actor: &dyn Actor, name: &str) -> Result<()> {
    let store = world.shared_store();
    let transport = Arc::new(actor.transport());
    let flow = OAuth2Flow::new(actor.flow().expect("a flow"), Arc::clone(&transport) as _).expect("a flow");
    let vault = vault(Arc::clone(&store) as _);
    let connector = Connector::builder(store, vault, Arc::new(world.clock()), Arc::new(SystemRandom))
        .browser_flow(Arc::new(flow))
        .build()
        .expect("a connector");
    let id = ConnectionId::new(actor.name());
    let ask = ConnectAsk { connection: Some(id), ..ConnectAsk::new(name, TenantId::new(actor.name())) };
    let begun = connector.begin(ask).await?;
    let page = Request::get(begun.redirect_url.expose()).body(Bytes::new()).expect("a request");
    let answer = transport.send(page).await?;
    let back = answer.headers().get(LOCATION).and_then(|back| back.to_str().ok()).unwrap_or_default();
    let Some((_, query)) = back.split_once('?') else {
        // A provider that is down shows no page.
        return Err(palisade_core::Error::new(palisade_core::ErrorKind::Provider, "there is no way back"));
    };
    let cookie = begun.set_cookie.expose().split(';').next().unwrap_or_default().to_owned();
    let finished = connector.finish(name, query, Some(&cookie)).await;
    let connected = finished.map_err(|_| palisade_core::Error::new(palisade_core::ErrorKind::Auth, "refused"))?;
    if let Some(process) = world.processes.first() {
        process.hub.worker().connect(&connected.connection).await?;
    }
    Ok(())
}

/// Checks what must hold of single-use tokens at any moment.
///
/// # Panics
/// When one was looked at twice by its provider.
pub(super) fn check(world: &World) {
    for actor in &world.actors {
        let Some(authority) = actor.authority() else { continue };
        let ledger = authority.ledger();
        let most = (ledger.single_use_judged_max, ledger.single_use_accepted_max, ledger.replays);
        assert!(
            most.0 <= 1 && most.1 <= 1 && most.2 == 0,
            "{}: a single-use token came twice: {ledger:?}",
            actor.name()
        );
    }
}

/// Returns how many refresh tokens were traded.
pub(super) fn traded(world: &World) -> u64 {
    let authorities = world.actors.iter().filter_map(|actor| actor.authority());
    authorities.map(|authority| authority.ledger().refreshes_accepted).sum()
}
