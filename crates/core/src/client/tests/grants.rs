//! Which grant of a connection authenticates a call, and where a credential may go.

use super::*;
use crate::auth::Audience;
use crate::id::GrantName;

/// A connection with a bot and a user, both in their first version.
struct Pair {
    name: &'static str,
    versions: Arc<[AtomicU64; 2]>,
}

impl Pair {
    fn new() -> Self {
        Self { name: "bot", versions: Arc::new([AtomicU64::new(1), AtomicU64::new(1)]) }
    }

    fn version(&self) -> &AtomicU64 {
        &self.versions[usize::from(self.name == "user")]
    }

    fn now(&self) -> Credential {
        let version = self.version().load(SeqCst);
        Credential::new(&Scheme::Bearer(format!("{}-{version}", self.name).into()), version, None).unwrap()
    }
}

#[async_trait]
impl CredentialSource for Pair {
    async fn credential(&self, _connection: ConnectionId) -> Result<Credential> {
        Ok(self.now())
    }

    async fn refresh(&self, _connection: ConnectionId, seen: u64) -> Result<Credential> {
        sleep(Duration::from_millis(50)).await;
        let _ = self.version().compare_exchange(seen, seen + 1, SeqCst, SeqCst);
        Ok(self.now())
    }

    fn of_grant(&self, name: GrantName) -> Option<Arc<dyn CredentialSource>> {
        let name = ["bot", "user"].into_iter().find(|known| *known == name.as_str())?;
        Some(Arc::new(Self { name, versions: self.versions.clone() }))
    }
}

fn tokens(provider: &Provider) -> Vec<String> {
    provider.seen().iter().map(|seen| seen.headers["authorization"].to_str().unwrap().to_owned()).collect()
}

/// Fails when a call goes out under another grant than the one it names, or the client does not fill in its own.
#[tokio::test(start_paused = true)]
async fn a_call_goes_out_under_the_grant_it_names() {
    let provider = Provider::always(Reply::Status(200));
    let scene = Scene::with(profile(), &provider, Arc::new(Pair::new()));
    let as_user = scene.client.grant("user");
    scene.send(&READ).await.unwrap();
    as_user.send(request(call(&READ))).await.unwrap();
    scene.client.send(request(call(&READ).with_grant("user"))).await.unwrap();
    as_user.send(request(call(&READ).with_grant("bot"))).await.unwrap();
    assert_eq!(tokens(&provider), ["Bearer bot-1", "Bearer user-1", "Bearer user-1", "Bearer bot-1"]);
    for (client, name) in
        [(scene.client.grant("nobody"), "nobody"), (Scene::new(&provider).client.grant("user"), "user")]
    {
        let error = client.send(request(call(&READ))).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Config, Outcome::NotSent), "{error}");
        assert!(error.message().contains(name), "{error}");
    }
    assert_eq!(provider.count(), 4, "nothing else is sent");
}

/// Fails when the refresh of one grant serves the other, whose version is the same.
#[tokio::test(start_paused = true)]
async fn a_refused_token_is_replaced_by_one_of_its_own_grant() {
    let provider = Provider::new(|_, request| {
        let token = request.headers()["authorization"].to_str().unwrap();
        Reply::Status(if token.ends_with("-1") { 401 } else { 200 })
    });
    let scene = Scene::with(profile(), &provider, Arc::new(Pair::new()));
    let calls = [scene.client.clone(), scene.client.grant("user"), scene.client.clone()]
        .map(|client| async move { client.send(request(call(&READ))).await.map(drop) });
    assert!(together(calls).await.iter().all(Result::is_ok));
    let mut sent = tokens(&provider);
    sent.sort_unstable();
    let wanted = ["bot-1", "bot-1", "bot-2", "bot-2", "user-1", "user-2"].map(|token| format!("Bearer {token}"));
    assert_eq!(sent, wanted);
}

/// Fails when the grants of one account are given a limit each.
#[tokio::test(start_paused = true)]
async fn the_grants_of_an_account_share_its_limits() {
    let provider = Provider::always(Reply::Status(200));
    let scene = Scene::with(profile(), &provider, Arc::new(Pair::new()));
    let clients = [scene.client.clone(), scene.client.grant("user")];
    let begin = Instant::now();
    for _ in 0..5 {
        for client in &clients {
            client.send(request(call(&SLOW_LANE))).await.unwrap();
        }
    }
    assert!(begin.elapsed() >= Duration::from_millis(900), "{:?} for ten calls at five a second", begin.elapsed());
}

/// A credential of one environment.
struct Sandboxed;

#[async_trait]
impl CredentialSource for Sandboxed {
    async fn credential(&self, _connection: ConnectionId) -> Result<Credential> {
        let scheme = Scheme::Bearer("canary-token".into());
        Ok(Credential::new(&scheme, 1, None)?.only_to(Audience::of_base_url("https://sandbox.acme.test/api")))
    }

    async fn refresh(&self, connection: ConnectionId, _seen: u64) -> Result<Credential> {
        self.credential(connection).await
    }
}

/// Fails when a credential goes to an address of another environment, though the client may go there.
#[tokio::test(start_paused = true)]
async fn a_credential_does_not_leave_its_environment() {
    let provider = Provider::always(Reply::Status(200));
    let profile = profile().allowing("https://sandbox.acme.test");
    let scene = Scene::with(profile, &provider, Arc::new(Sandboxed));
    let error = scene.send(&READ).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome(), provider.count()), (ErrorKind::Config, Outcome::NotSent, 0), "{error}");
    let mut home = request(call(&READ));
    *home.uri_mut() = "https://sandbox.acme.test/v1/things/7".parse().unwrap();
    scene.client.send(home).await.unwrap();
    assert_eq!(provider.count(), 1);
}
