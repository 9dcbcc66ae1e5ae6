//! Secrets, queries and bodies appear nowhere: not in spans, events, errors, debug prints, the call log or metrics.

use std::cell::Cell;
use std::io::Write;

use tracing_subscriber::Layer;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use super::*;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

thread_local! {
    /// Whether what this thread logs is kept: a paused test runs on one thread.
    static HEARD: Cell<bool> = const { Cell::new(false) };
}

/// Keeps what this thread logs from now on. The subscriber is the process's own, so that no other test's thread can
/// be the first at a span and have it remembered as wanted by nobody.
fn listen(lines: Lines) {
    let layer = tracing_subscriber::fmt::layer()
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_writer(lines)
        .with_ansi(false)
        .with_filter(dynamic_filter_fn(|_, _| HEARD.get()));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer)).unwrap();
    HEARD.set(true);
}

// Fails when a span, an error or a record takes up the address, a header or a body.
#[tokio::test(start_paused = true)]
async fn no_canary_is_ever_printed() {
    let lines = Lines::default();
    listen(lines.clone());

    let leaky = |status| {
        let headers = vec![("x-request-id", "req-1".to_owned()), ("set-cookie", "canary-cookie".to_owned())];
        Reply::With(status, headers, Bytes::from_static(b"canary-answer"))
    };
    let mut printed = String::new();
    let mut replies: Vec<_> = [200, 301, 400, 401, 404, 429, 500, 503].map(leaky).into();
    replies.extend([Reply::Reset, Reply::Refused, Reply::Hang]);
    for reply in replies {
        let provider = Provider::always(reply);
        let scene = Scene::new(&provider);
        for operation in [&READ, &KEYED, &BLIND] {
            let result = scene.send(operation).await;
            if let Err(error) = result {
                printed += &format!("{error} {error:?} {error:#?} {}\n", error.user_message());
                let mut source = std::error::Error::source(&error);
                while let Some(cause) = source {
                    printed += &format!("{cause} {cause:?}\n");
                    source = cause.source();
                }
            }
        }
        printed += &format!("{:?} {:?}\n", scene.client, scene.client.breaker("api.acme.test"));
        printed += &format!("{:?}\n{}\n", scene.log.take(), scene.metrics.encode());
    }
    let scene = Scene::new(&Provider::always(Reply::Status(200)));
    let mut request = request(call(&READ));
    *request.uri_mut() = "https://canary-user:canary-password@api.acme.test/?canary-query".parse().unwrap();
    printed += &format!("{:?}", scene.client.send(request).await.unwrap_err());

    printed += &String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(!printed.contains("canary"), "{}", &printed[printed.find("canary").unwrap().saturating_sub(300)..]);
    // The names OpenTelemetry gives, and what an operator needs to find a call again.
    for word in [
        "http.request.method",
        "http.request.resend_count=2",
        "http.response.status_code=500",
        "url.template=\"/v1/things/{id}\"",
        "server.address=\"api.acme.test\"",
        "error.type=\"provider\"",
        "palisade.tenant=tenant-1",
        "palisade.correlation_id",
        "req-1",
    ] {
        assert!(printed.contains(word), "{word} is missing");
    }
    // A tenant is never a metric label.
    assert!(!scene.metrics.encode().contains("tenant"));
}
