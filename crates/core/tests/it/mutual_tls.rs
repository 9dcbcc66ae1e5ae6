//! Calls from service to service: a client certificate and a signed bearer, against a real TLS server on loopback that
//! asks for both. Certificates and keys are made for the run.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use palisade_core::auth::jwt::{JwtBearer, SigningKey};
use palisade_core::call::Bucket;
use palisade_core::client::{Profile, StatusClassifier};
use palisade_core::clock::SystemClock;
use palisade_core::random::SystemRandom;
use palisade_core::transport::HttpTransport;
use palisade_core::{Call, Client, Error, ErrorKind, Operation, Outcome, Replay, Transport};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const SHARED: &str = "a secret both services know, 256 bits";

static BUCKET: Bucket = Bucket { name: "b", units: 1_000, per: Duration::from_secs(1), burst: 1_000 };
static READ: Operation = Operation {
    provider: "billing",
    name: "read",
    url_template: "/v1",
    replay: Replay::Safe,
    bucket: &BUCKET,
    also: &[],
    cost: 1,
    attempt_timeout: Duration::from_secs(10),
    overall_timeout: Duration::from_secs(20),
    body_bytes_max: 10_000,
};

/// An authority of one's own.
struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn signed(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A client's certificate and key, as they stand in a file.
    fn identity(&self, name: &str) -> String {
        let (certificate, key) = self.signed(name, ExtendedKeyUsagePurpose::ClientAuth);
        format!("{}{}", certificate.pem(), key.serialize_pem())
    }
}

/// Starts a server that takes only clients of `authority`, and of those only requests with a bearer it can check.
async fn serve(authority: &Authority) -> (String, Arc<AtomicUsize>) {
    let (certificate, key) = authority.signed("localhost", ExtendedKeyUsagePurpose::ServerAuth);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/v1", listener.local_addr().unwrap().port());
    let requests = Arc::new(AtomicUsize::new(0));
    let seen = requests.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, seen) = (acceptor.clone(), seen.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(socket).await else { return };
                let answer = service_fn(move |request: Request<hyper::body::Incoming>| {
                    seen.fetch_add(1, SeqCst);
                    let bearer = request.headers().get("authorization").and_then(|value| value.to_str().ok());
                    let status = if bearer.is_some_and(is_ours) { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
                    let response = Response::builder().status(status).body(Full::new(Bytes::from("hello"))).unwrap();
                    async move { Ok::<_, Infallible>(response) }
                });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    (url, requests)
}

/// What another service checks: signature, issuer, audience and time.
fn is_ours(bearer: &str) -> bool {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&["billing"]);
    validation.set_issuer(&["hub"]);
    let token = bearer.trim_start_matches("Bearer ");
    jsonwebtoken::decode::<serde_json::Value>(token, &DecodingKey::from_secret(SHARED.as_bytes()), &validation).is_ok()
}

async fn call(transport: HttpTransport, url: &str, secret: &str) -> Result<u16, Error> {
    let key = SigningKey::shared(&secret.into())?.named("k1");
    let bearer = JwtBearer::new(key, "hub", "billing", Arc::new(SystemClock), Arc::new(SystemRandom));
    let profile = Profile::new("billing", &["localhost"], Arc::new(StatusClassifier)).allowing(url);
    let client = Client::builder(profile, Arc::new(transport), Arc::new(bearer)).build()?;
    let request = Request::get(url).extension(Call::new(&READ, "c".into(), "t".into())).body(Bytes::new()).unwrap();
    client.send(request).await.map(|response| response.status().as_u16())
}

/// Fails when a client without the right certificate, or without the right bearer, gets through; or when a server that
/// is not ours is believed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_show_who_they_are_and_the_call_is_signed() {
    let (ours, others) = (Authority::new(), Authority::new());
    let (url, requests) = serve(&ours).await;
    let builder = || HttpTransport::builder().only_root_certificate(ours.pem.as_bytes());
    let identity = ours.identity("hub.internal");

    let right = builder().client_identity(identity.as_bytes()).build().unwrap();
    assert_eq!(call(right.clone(), &url, SHARED).await.unwrap(), 200);
    let merged = HttpTransport::builder().root_certificate(ours.pem.as_bytes()).client_identity(identity.as_bytes());
    assert_eq!(call(merged.build().unwrap(), &url, SHARED).await.unwrap(), 200);
    let unsigned = call(right, &url, "another secret of at least 32 bytes").await.unwrap_err();
    assert_eq!((unsigned.kind(), unsigned.status()), (ErrorKind::Auth, Some(401)));

    let before = requests.load(SeqCst);
    let nobody = call(builder().build().unwrap(), &url, SHARED).await.unwrap_err();
    let stranger = builder().client_identity(others.identity("hub.internal").as_bytes()).build().unwrap();
    let stranger = call(stranger, &url, SHARED).await.unwrap_err();
    for refused in [nobody, stranger] {
        assert!(matches!(refused.kind(), ErrorKind::Connect | ErrorKind::Transport), "{refused}");
    }
    let elsewhere = HttpTransport::builder().only_root_certificate(others.pem.as_bytes());
    let elsewhere = elsewhere.client_identity(identity.as_bytes()).build().unwrap();
    let elsewhere = call(elsewhere, &url, SHARED).await.unwrap_err();
    assert_eq!((elsewhere.kind(), elsewhere.outcome()), (ErrorKind::Connect, Outcome::NotSent));
    assert_eq!(requests.load(SeqCst), before, "no request got through");
}

#[test]
fn what_is_no_certificate_is_refused_without_being_told() {
    let own = Authority::new();
    let key_alone = KeyPair::generate().unwrap().serialize_pem();
    for builder in [
        HttpTransport::builder().only_root_certificate(b"no pem"),
        HttpTransport::builder().only_root_certificate(b""),
        HttpTransport::builder().client_identity(b"no pem"),
        HttpTransport::builder().client_identity(own.pem.as_bytes()),
        HttpTransport::builder().client_identity(key_alone.as_bytes()),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(!format!("{error:?}").contains(&key_alone[30..60]), "{error:?}");
    }
}
