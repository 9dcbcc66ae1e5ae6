//! The socket side: an accept loop of our own, so that connections can be reset and bodies cut as on a bad network.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// Largest request body read: the biggest any emulated provider takes is a mail of 30 MB.
const BODY_BYTES_MAX: usize = 40 << 20;
/// Pause after a failed accept (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What a socket would have shown instead of a whole answer.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::exhaustive_enums, reason = "a transport must handle every way a connection can end")]
pub enum Cut {
    /// The connection was reset without an answer.
    Reset,
    /// The answer's head and part of its body arrived, then the connection closed.
    CutBody {
        /// Status of the head.
        status: StatusCode,
        /// Headers, `content-length` of the whole body among them.
        headers: HeaderMap,
        /// What arrived of the body.
        partial: Bytes,
    },
    /// No answer will ever come; the caller's own deadline must end the wait.
    Hang,
}

/// What an emulator answers, or what its connection does instead.
pub(crate) type Answer = Result<Response<Bytes>, Cut>;

/// Where an emulator listens and whether it still does.
#[derive(Debug, Default)]
pub(crate) struct Door {
    base_url: OnceLock<String>,
    stop: Notify,
    stopped: AtomicBool,
}

impl Door {
    /// Gives `http://127.0.0.1:PORT`, once it listens.
    pub(crate) fn base_url(&self) -> Option<&str> {
        self.base_url.get().map(String::as_str)
    }

    /// Tells whether `shut` was called.
    pub(crate) fn is_shut(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Ends the accept loop and every open connection.
    pub(crate) fn shut(&self) {
        self.stopped.store(true, Ordering::Release);
        self.stop.notify_waiters();
    }
}

/// Anything that answers requests behind a door.
pub(crate) trait Served: Send + Sync + 'static {
    /// Gives the door.
    fn door(&self) -> &Door;

    /// Answers one request.
    fn serve(self: Arc<Self>, request: Request<Bytes>) -> impl Future<Output = Answer> + Send;
}

/// Posts webhooks and gives the status, or nothing when no answer came. Tests give their own to open no socket.
pub type WebhookSender = Arc<dyn Fn(Request<Bytes>) -> Pin<Box<dyn Future<Output = Option<u16>> + Send>> + Send + Sync>;

/// Posts webhooks over plain sockets, with kept connections.
pub(crate) fn sender() -> WebhookSender {
    let client: Arc<OnceLock<Option<reqwest::Client>>> = Arc::default();
    Arc::new(move |request| {
        let client = client
            .get_or_init(|| {
                reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().ok()
            })
            .clone();
        Box::pin(async move {
            let request = reqwest::Request::try_from(request).ok()?;
            let response = client?.execute(request).await.ok()?;
            Some(response.status().as_u16())
        })
    })
}

/// Binds and serves until the door is shut or the last handle is dropped.
pub(crate) async fn serve<S: Served>(served: &Arc<S>, listen: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let _ = served.door().base_url.set(url);
    let weak = Arc::downgrade(served);
    tokio::spawn(async move {
        loop {
            let Some(served) = weak.upgrade().filter(|served| !served.door().is_shut()) else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = served.door().stop.notified() => return,
                // The loop keeps no handle for longer than this, so that dropping the emulator closes the socket.
                () = pause(Duration::from_millis(500)) => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(connection(served, stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    drop(served);
                    pause(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "the accept loop's own pause; nothing a test waits for")]
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

async fn connection<S: Served>(served: Arc<S>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let reset = Arc::new(AtomicBool::new(false));
    let wire = TokioIo::new(Wire { stream, reset: reset.clone() });
    let own = served.clone();
    let service = service_fn(move |request| answer(own.clone(), request, reset.clone()));
    // Idle connections stay open: closing them would race with a client's next request, a fault nobody dialled.
    let serving = http1::Builder::new().header_read_timeout(None).serve_connection(wire, service);
    tokio::select! {
        // Errors here are the client's going away or our own resets.
        _ = serving => {}
        () = served.door().stop.notified() => {}
    }
}

async fn answer<S: Served>(
    served: Arc<S>,
    request: Request<Incoming>,
    reset: Arc<AtomicBool>,
) -> Result<Response<Wired>, ResetNow> {
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
        reset.store(true, Ordering::Release);
        return Err(ResetNow);
    };
    let request = Request::from_parts(parts, body.to_bytes());
    match served.serve(request).await {
        Ok(response) => Ok(response.map(|body| Wired { left: Some(body), cut: false, flushed: false, declared: None })),
        Err(Cut::Reset) => {
            reset.store(true, Ordering::Release);
            Err(ResetNow)
        }
        Err(Cut::Hang) => std::future::pending().await,
        Err(Cut::CutBody { status, headers, partial }) => {
            let declared =
                headers.get("content-length").and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
            let mut response = Response::new(Wired { left: Some(partial), cut: true, flushed: false, declared });
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            Ok(response)
        }
    }
}

/// Tells hyper to give the connection up; the wire then resets it.
#[derive(Debug)]
struct ResetNow;

impl std::fmt::Display for ResetNow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("connection reset by a fault dial")
    }
}

impl std::error::Error for ResetNow {}

/// A body that is whole, or ends before the length its head declared.
#[derive(Debug)]
struct Wired {
    left: Option<Bytes>,
    cut: bool,
    flushed: bool,
    declared: Option<u64>,
}

impl Body for Wired {
    type Data = Bytes;
    type Error = ResetNow;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResetNow>>> {
        if let Some(bytes) = self.left.take().filter(|bytes| !bytes.is_empty()) {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if !self.cut {
            return Poll::Ready(None);
        }
        if !self.flushed {
            // One turn of nothing lets hyper flush head and part before the error ends the connection.
            self.flushed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(ResetNow)))
    }

    fn is_end_stream(&self) -> bool {
        !self.cut && self.left.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        match (self.cut, self.declared, &self.left) {
            (true, Some(declared), _) => SizeHint::with_exact(declared),
            (false, _, Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            _ => SizeHint::default(),
        }
    }
}

/// A socket that ends with RST when told, instead of FIN.
#[derive(Debug)]
struct Wire {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Wire {
    fn resets(&self) -> bool {
        self.reset.load(Ordering::Acquire)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.resets() {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.resets() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}
