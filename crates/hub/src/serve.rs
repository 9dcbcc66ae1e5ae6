//! Serves a router on a listener with bounds on everything a stranger controls: connections, header bytes, header
//! count (hyper's own 100: saying so again would cost every request), and the time a header may take. Stops gracefully
//! and drops what is left after the grace.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// The largest request head, in bytes: far above what any provider sends, far below what hurts.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long a request's head may take to arrive, also the longest an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait after a failed `accept` (out of file descriptors) before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bounds of a server.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "settings; any value is valid")]
pub struct ServeSettings {
    /// Connections open at once; more wait to be accepted.
    pub connections_max: usize,
    /// How long a shutdown waits for requests under way.
    pub grace: Duration,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self { connections_max: 1_024, grace: Duration::from_secs(20) }
    }
}

/// Serves until `stop` is true: then accepts nothing more, lets requests under way finish within the grace, and
/// closes the rest. Returns how many connections had to be closed. Dropping the future closes all at once.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    settings: ServeSettings,
    mut stop: watch::Receiver<bool>,
) -> usize {
    let slots = Arc::new(Semaphore::new(settings.connections_max));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, peer, slot)) = accepted else { continue };
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            connection(stream, peer, router, stop).await;
            drop(slot);
        });
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(settings.grace, drained).await.is_err() {
        let left = connections.len();
        connections.shutdown().await;
        return left;
    }
    0
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, slot)),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, mut stop: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(HeadTimer::default())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended: Result<(), hyper::Error> = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = ended {
        // A client that goes away, is too slow or sends no HTTP is its own problem.
        tracing::debug!(%error, "a connection ended early");
    }
}

/// The timer of one connection. hyper asks for a new wait at every request's head and drops it when the head is there;
/// all of them share one timer of tokio's, which stays set as long as it goes off no later than the wait that is polled.
#[derive(Clone, Debug, Default)]
struct HeadTimer(Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>);

impl hyper::rt::Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(HeadWait { timer: self.clone(), deadline: deadline.into() })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

struct HeadWait {
    timer: HeadTimer,
    deadline: tokio::time::Instant,
}

impl hyper::rt::Sleep for HeadWait {}

impl Future for HeadWait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        let mut timer = self.timer.0.lock().unwrap_or_else(PoisonError::into_inner);
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            // Set for an earlier wait that was dropped.
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use hyper::rt::Timer;

    use super::*;

    /// Fails when a wait ends at the time of an earlier one that was dropped, or later than its own.
    #[tokio::test(start_paused = true)]
    async fn each_wait_for_a_head_ends_at_its_own_time() {
        let timer = HeadTimer::default();
        let second = Duration::from_secs(1);
        let mut dropped = timer.sleep(second * 10);
        assert!(dropped.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(dropped);
        for seconds in [30, 5, 0, 30] {
            let began = timer.now();
            timer.sleep(second * seconds).await;
            let took = timer.now() - began;
            // tokio's timers go by the millisecond.
            assert!((second * seconds..second * seconds + Duration::from_millis(2)).contains(&took), "{took:?}");
        }
    }
}
