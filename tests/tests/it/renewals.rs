//! Promise 3 with real processes: eight of them, fifty tasks each, want one connection's token over one SQLite file
//! while its single-use refresh token is due, the provider takes twenty seconds, the store is slow and one process is
//! killed with SIGKILL. What time costs, and why nothing is late, stands in [`palisade_tests::lockstep`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use palisade_core::auth::CredentialSource;
use palisade_core::auth::connect::{ConnectAsk, Connector};
use palisade_core::auth::oauth2::OAuth2Flow;
use palisade_core::auth::token_source::TokenSource;
use palisade_core::clock::TokioClock;
use palisade_core::random::{SeededRandom, SystemRandom};
use palisade_core::store::{ConnectionState, Connections, EndReason, GrantKey, GrantState, Grants, StoredGrant};
use palisade_core::{Clock, ConnectionId, Random};
use palisade_emulator::oauth::{Client, Consent, Dials, OAuthLedger};
use palisade_emulator::slack::{Limits, Slack, SlackConfig};
use palisade_emulator::{Fault, RouteFaults};
use palisade_store::{SqliteConfig, SqliteStore};
use palisade_testkit::EmulatorTransport;
use palisade_tests::lockstep::{self, APP_ID, APP_SECRET, BACK, Company, News};
use palisade_tests::seeds::{Repeat, seeds_up_to};
use palisade_tests::stage::START;
use serde_json::json;

const RENEWER: &str = env!("CARGO_BIN_EXE_renewer");
/// Rounds in the usual run; `PALISADE_SEEDS=200` runs two hundred.
const ROUNDS: u64 = 40;
const PROCESSES: usize = 8;
const TASKS: usize = 50;
/// How much time passes at once.
const STEP: Duration = Duration::from_millis(500);
/// How long an access token lives.
const LIFE: Duration = Duration::from_secs(3_600);
/// How long the token endpoint takes, on the way in and on the way out together.
const SLOW: Duration = Duration::from_secs(20);
/// How long it must have been quiet before a round is over.
const QUIET: Duration = Duration::from_secs(10);
/// How long a round may last: somebody who waits longer waits for ever.
const ROUND_MAX: Duration = Duration::from_secs(400);
/// What is wrong when a hold is not respected.
const TAKEN: &str = "a row that one process holds for a renewal was taken by another";
/// Where the provider's tokens are traded.
const TOKEN_ROUTE: &str = "POST /api/oauth.v2.access";

/// When a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Nobody is.
    Never,
    /// Any of them, so many steps after the round began.
    AnyTime(u32),
    /// The one that asks, so many steps after its request arrived.
    Asking(u32),
    /// The one that asks, so many steps after the provider has spent the refresh token: the answer is on its way, or is
    /// being written.
    Spent(u32),
}

struct Stage {
    slack: Slack,
    clock: TokioClock,
    store: SqliteStore,
    flow: Arc<OAuth2Flow>,
    connector: Connector,
    company: Company,
}

/// What became of a round.
#[derive(Debug, Default)]
struct Tally {
    renewed: u32,
    lost: u32,
    killed: u32,
    killed_and_renewed: u32,
}

impl Stage {
    async fn set(folder: &Path) -> Self {
        let clock = TokioClock::starting_at(START);
        let client = Client {
            id: APP_ID.to_owned(),
            secret: Some(APP_SECRET.to_owned()),
            redirect_uris: vec![BACK.to_owned()],
            ..Client::default()
        };
        let slack = Slack::start(SlackConfig {
            clients: vec![client],
            limits: Limits::none(),
            clock: Arc::new(move || clock.now().to_system_time()),
            ..SlackConfig::default()
        })
        .await
        .unwrap();
        let oauth = slack.oauth();
        oauth.set_dials(Dials { consent: Consent::Allow, ..Dials::default() });
        let mut rules = oauth.rules();
        rules.access_life = Some(LIFE);
        oauth.set_rules(rules);
        let database = folder.join("palisade.db");
        let store = SqliteStore::open(SqliteConfig::at(&database)).unwrap();
        let transport = Arc::new(EmulatorTransport::new(slack.clone()));
        let flow = Arc::new(OAuth2Flow::new(lockstep::flow(&slack.base_url()), transport).unwrap());
        let vault = lockstep::vault(Arc::new(store.clone()));
        let random = Arc::new(SystemRandom);
        let connector = Connector::builder(Arc::new(store.clone()), vault, Arc::new(clock), random)
            .browser_flow(flow.clone())
            .build()
            .unwrap();
        let company = Company::new(RENEWER, &database, slack.base_url(), PROCESSES);
        Self { slack, clock, store, flow, connector, company }
    }

    /// Connects an account through the provider's page, and returns it with its first access token.
    async fn connect(&self) -> (ConnectionId, String) {
        let begun = self.connector.begin(ConnectAsk::new("slack", "acme".into())).await.unwrap();
        let page = Request::get(begun.redirect_url.expose()).body(Bytes::new()).unwrap();
        let answer = self.slack.handle(page).await.unwrap();
        let back = answer.headers()["location"].to_str().unwrap();
        let (_, query) = back.split_once('?').unwrap();
        let cookie = begun.set_cookie.expose().split(';').next().unwrap();
        let connected = self.connector.finish("slack", query, Some(cookie)).await.unwrap();
        let id = connected.connection.id;
        let token = self.source(0).credential(id.clone()).await.unwrap();
        (id, sent(&token))
    }

    /// Another process, as far as the database can tell.
    fn source(&self, seed: u64) -> Arc<TokenSource> {
        let store = Arc::new(self.store.clone());
        let vault = lockstep::vault(store.clone());
        TokenSource::builder(store, vault, Arc::new(self.clock), Arc::new(SeededRandom::new(seed)))
            .flow("slack", self.flow.clone())
            .build()
            .unwrap()
    }

    async fn row(&self, id: &ConnectionId) -> StoredGrant {
        let key = GrantKey { connection: id.clone(), name: "bot".into() };
        self.store.grant(key).await.unwrap().unwrap()
    }

    /// Asks the provider whether a token is good.
    async fn accepts(&self, token: &str) -> bool {
        let ask = Request::post("http://slack.test/api/auth.test").header("authorization", format!("Bearer {token}"));
        let answer = self.slack.handle(ask.body(Bytes::new()).unwrap()).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        answer["ok"] == true
    }

    async fn round(&mut self, seed: u64, tally: &mut Tally) {
        let dice = SeededRandom::new(seed);
        let below = |limit: u64| dice.bits() % limit;
        self.company.fill().await;
        let (id, first) = self.connect().await;
        let expires = self.row(&id).await.expires_at.unwrap();
        // From fifty seconds before the token's end to ten seconds after it.
        let ahead = LIFE - Duration::from_secs(50) + Duration::from_millis(below(60_000));
        tokio::time::advance(ahead).await;
        let before = SLOW.mul_f64(dice.unit());
        self.slack.faults().set(RouteFaults {
            route: TOKEN_ROUTE.to_owned(),
            latency: Some((before, before)),
            next: std::iter::repeat_n(Fault::LatencyAfter(SLOW - before), 10).collect(),
            ..RouteFaults::default()
        });
        let moment = match below(8) {
            0 | 1 => Moment::Never,
            2 => Moment::AnyTime(below(140) as u32),
            3 | 4 => Moment::Asking(below(50) as u32),
            _ => Moment::Spent(below(44) as u32),
        };
        let now = self.clock.now().millis();
        let begin = |_| json!({ "round": seed, "connection": id.as_str(), "now": now });
        let news = self.company.order(begin, "begun").await;
        assert!(news.iter().all(|news| news.said["seed"] != seed), "somebody answered before time passed");
        let mut heard = self.heard(seed, &id, moment, &dice).await;
        self.calm(&id, &mut heard).await;

        self.slack.faults().clear_all();
        assert!(heard.arrived <= 1, "{} requests reached the provider", heard.arrived);
        assert_eq!(heard.taken, None, "{TAKEN}");
        for (token, last) in &heard.tokens {
            // At the moment it was given: it may have expired while the others were waited for.
            let good = if *token == first { *last < expires.millis() } else { self.accepts(token).await };
            assert!(good, "a task was given a token that is not valid ({moment:?})");
        }
        for error in &heard.errors {
            assert_eq!(error, EndReason::MaybeLost.phrase(), "not one clear error ({moment:?})");
        }
        self.judge(&id, moment, &heard, tally).await;
    }

    /// Lets time pass until every task of every process that lives has an answer.
    async fn heard(&mut self, seed: u64, id: &ConnectionId, moment: Moment, dice: &SeededRandom) -> Heard {
        let mut heard = Heard { at_first: self.slack.oauth().ledger(), ..Heard::default() };
        let (mut passed, mut since) = (Duration::ZERO, None);
        let mut asks = None;
        while !self.company.alive().iter().all(|process| heard.answers.get(process) == Some(&TASKS)) {
            assert!(passed < ROUND_MAX, "somebody waits for ever ({moment:?}): {:?}", heard.answers);
            self.watch(id, passed, &mut heard).await;
            let due = match moment {
                Moment::Never => None,
                Moment::AnyTime(steps) => Some((steps, Some(dice.bits() as usize % PROCESSES))),
                Moment::Asking(steps) if heard.arrived > 0 => Some((steps, asks)),
                Moment::Spent(steps) if heard.spent => Some((steps, asks)),
                Moment::Asking(_) | Moment::Spent(_) => None,
            };
            let kill = due.filter(|_| heard.killed.is_none()).and_then(|(steps, victim)| {
                let waited = since.get_or_insert(passed);
                let victim = victim.filter(|_| passed >= *waited + STEP * steps)?;
                Some((victim, Duration::from_micros(dice.bits() % 3_000)))
            });
            heard.killed = heard.killed.or(kill.map(|(victim, _)| victim));
            for News { from, said } in self.company.pass(STEP, kill).await {
                if said["asks"] == true {
                    asks = Some(from);
                }
                heard.note(seed, from, &said);
            }
            passed += STEP;
        }
        heard
    }

    /// Looks at the provider and at the row after a step, so that what is wrong is said as what it is, and not as the waits
    /// and answers it leads to.
    async fn watch(&self, id: &ConnectionId, passed: Duration, heard: &mut Heard) -> StoredGrant {
        let ledger = self.slack.oauth().ledger();
        assert!(
            ledger.single_use_arrived_max <= 1,
            "a single-use refresh token reached the provider twice: {ledger:?}; held rows were taken: {:?}",
            heard.taken
        );
        heard.arrived = ledger.refreshes - heard.at_first.refreshes;
        heard.spent = ledger.refreshes_accepted > heard.at_first.refreshes_accepted;
        let row = self.row(id).await;
        // Nothing here gives a hold back before its time: whoever renews writes, or dies.
        let held = heard.row.replace(row.clone()).filter(|old| old.held_until > Some(self.clock.now()));
        if held.is_some_and(|old| (old.generation, &old.state) == (row.generation, &row.state) && old.fence < row.fence)
        {
            heard.taken.get_or_insert(passed);
        }
        // Long enough for what a second holder would send to arrive, which would be the worse news.
        let StoredGrant { fence, held_until, intent, .. } = &row;
        let seen = format!("hold {fence}, until {held_until:?}, intent {intent:?}");
        assert!(heard.taken.is_none_or(|taken| passed < taken + SLOW * 2), "{TAKEN}: {seen}");
        row
    }

    /// Lets time pass until nobody renews any more: tasks that still had a valid token did not wait for that. A request
    /// that has left reaches the provider, whoever has died meanwhile.
    async fn calm(&mut self, id: &ConnectionId, heard: &mut Heard) {
        let mut passed = Duration::ZERO;
        loop {
            let news = self.company.pass(STEP, None).await;
            assert!(news.iter().all(|news| news.said["task"].is_null()), "a task answered twice: {news:?}");
            passed += STEP;
            let row = self.watch(id, Duration::ZERO, heard).await;
            let over = row.generation > 1 || row.state != GrantState::Live;
            // A hold that ran out is taken within a few seconds, if anybody wants it.
            let held = row.held_until.is_some_and(|until| until.plus(QUIET) > self.clock.now());
            if passed > SLOW + QUIET && (over || !held) {
                break;
            }
            assert!(passed < ROUND_MAX, "somebody renews for ever: {row:?}");
        }
    }

    /// Whoever comes later is told the same: a valid token, or that it may be lost, by what the provider knows.
    async fn judge(&self, id: &ConnectionId, moment: Moment, heard: &Heard, tally: &mut Tally) {
        let lost = heard.spent && self.row(id).await.generation == 1;
        let source = self.source(1);
        if lost {
            // What is still valid of the old token is served to its end.
            tokio::time::advance(Duration::from_secs(120)).await;
        }
        let later = tokio::time::timeout(ROUND_MAX, async {
            tokio::select! {
                later = source.credential(id.clone()) => later,
                () = async { loop { lockstep::pass(STEP, &mut []).await } } => unreachable!("it never ends"),
            }
        });
        let later = later.await.expect("an answer");
        let after = self.store.connection(id.clone()).await.unwrap().unwrap().state;
        match &later {
            Ok(credential) => {
                assert!(!lost, "the provider's answer is lost, and it is called a success ({moment:?})");
                assert!(self.accepts(&sent(credential)).await, "not valid ({moment:?})");
                assert_eq!(after, ConnectionState::Active, "{moment:?}");
                assert!(heard.errors.is_empty(), "some were told that it is lost ({moment:?})");
            }
            Err(error) => {
                assert_eq!(error.message(), EndReason::MaybeLost.phrase(), "{moment:?}");
                assert!(heard.killed.is_some(), "nobody was killed, and yet it may be lost");
                assert!(matches!(after, ConnectionState::NeedsReconnect { .. }), "{moment:?}");
            }
        }
        assert!(heard.errors.is_empty() || heard.killed.is_some(), "nobody was killed: {:?}", heard.errors);
        tally.lost += u32::from(lost);
        tally.renewed += u32::from(!lost && heard.spent);
        tally.killed += u32::from(heard.killed.is_some());
        tally.killed_and_renewed += u32::from(heard.killed.is_some() && !lost && later.is_ok());
    }
}

/// What was heard in a round.
#[derive(Debug, Default)]
struct Heard {
    /// How many tasks of each process have an answer.
    answers: BTreeMap<usize, usize>,
    /// Tokens that were given, and when each was given last.
    tokens: BTreeMap<String, i64>,
    errors: BTreeSet<String>,
    killed: Option<usize>,
    /// What the provider had counted before.
    at_first: OAuthLedger,
    /// Requests that reached the provider.
    arrived: u64,
    /// Whether the provider has taken the refresh token.
    spent: bool,
    /// The row as it was after the step before.
    row: Option<StoredGrant>,
    /// When another process took a row that was held, if one did.
    taken: Option<Duration>,
}

impl Heard {
    /// Notes an answer; what a process said before it died in an earlier round is not of this one.
    fn note(&mut self, seed: u64, from: usize, said: &serde_json::Value) {
        if said["seed"] != seed {
            return;
        }
        *self.answers.entry(from).or_default() += 1;
        if let Some(token) = said["token"].as_str() {
            let last = self.tokens.entry(token.to_owned()).or_default();
            *last = (*last).max(said["at"].as_i64().unwrap());
        }
        self.errors.extend(said["error"].as_str().map(str::to_owned));
    }
}

/// The token a credential puts on a request.
fn sent(credential: &palisade_core::auth::Credential) -> String {
    let mut request = Request::new(());
    credential.apply(&mut request).unwrap();
    request.headers()["authorization"].to_str().unwrap().trim_start_matches("Bearer ").to_owned()
}

/// Fails, and says which it is, when a single-use refresh token reaches the provider twice, when a claim takes a row that
/// another process holds, when an intent that is found is passed over, when a loss is called a success, or when an expired
/// token is given to a caller.
#[test]
fn eight_processes_send_each_refresh_token_once_whoever_is_killed() {
    let test = "renewals::eight_processes_send_each_refresh_token_once_whoever_is_killed";
    let seeds = seeds_up_to(ROUNDS);
    let folder = tempfile::tempdir().unwrap();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
    let tally = runtime.block_on(async {
        let _still = lockstep::hold();
        let mut stage = Stage::set(folder.path()).await;
        let mut tally = Tally::default();
        for seed in &seeds {
            let _repeat = Repeat::with(test, *seed);
            stage.round(*seed, &mut tally).await;
        }
        tally
    });
    println!("{} rounds: {tally:?}", seeds.len());
    // One seed alone may be of any kind.
    if seeds.len() >= ROUNDS as usize {
        assert!(tally.renewed > 5 && tally.lost > 5 && tally.killed_and_renewed > 2, "{tally:?}");
    }
}
