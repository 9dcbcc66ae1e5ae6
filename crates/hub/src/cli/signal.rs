//! Stops on Ctrl-C and SIGTERM: the first asks, the second insists.

use tokio::sync::watch;

/// Exit code of a process that was told twice to stop: 128 + SIGINT, as shells expect.
const INSISTED: i32 = 130;

/// Returns a receiver that becomes true at the first signal. Must be called inside a runtime.
pub(crate) fn stop() -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        signalled().await;
        tracing::info!("stopping; a second signal stops at once");
        let _ = sender.send(true);
        signalled().await;
        std::process::exit(INSISTED);
    });
    receiver
}

#[cfg(unix)]
async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        },
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

#[cfg(not(unix))]
async fn signalled() {
    let _ = tokio::signal::ctrl_c().await;
}
