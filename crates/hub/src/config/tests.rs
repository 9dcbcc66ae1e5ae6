//! The configuration: what is accepted, what each mistake is told, and that the example is complete.

use super::sections::read_url;
use super::*;

const KNOWN: Known<'_> = Known {
    providers: &["google", "sendgrid", "slack", "stripe"],
    flows: &["slack", "stripe"],
    service_accounts: &["google"],
    accounts: &["google", "slack", "stripe"],
    walks: &[("stripe", "events")],
};

const GOOD: &str = r#"
[server]
admin = "open"
[vault]
master_key = { env = "MASTER" }
[[connection]]
id = "acme-stripe"
tenant = "acme"
provider = "stripe"
credential = { env = "KEY" }
[[endpoint]]
name = "stripe"
provider = "stripe"
connection = "acme-stripe"
secrets = [{ env = "HOOK" }]
"#;

/// Changes a good file in one place and expects one problem, told once, at its line and without the file's values.
#[track_caller]
fn refused(good: &str, from: &str, to: &str, line: Option<usize>, expected: &[&str]) {
    assert!(good.contains(from), "the case does not apply");
    let problems = Config::parse(&good.replacen(from, to, 1), KNOWN).expect_err("it must be refused");
    let all: Vec<String> = problems.iter().map(|p| format!("{:?} {}", p.line, p.text)).collect();
    assert_eq!((problems.len(), problems[0].line), (1, line), "{all:#?}");
    for word in expected {
        assert!(problems[0].text.contains(word), "{word} in {all:#?}");
    }
    assert!(!problems[0].text.contains("canary"), "a value of the file is repeated: {all:#?}");
}

#[track_caller]
fn check(from: &str, to: &str, line: Option<usize>, expected: &[&str]) {
    refused(GOOD, from, to, line, expected);
}

#[test]
fn a_good_file_is_read() {
    let config = Config::parse(GOOD, KNOWN).unwrap();
    assert_eq!(config.server.admin, Admin::Open);
    let connected =
        GOOD.replace("connection = \"acme-stripe\"", "connection = \"con_0123456789abcdef0123456789abcdef\"");
    assert!(Config::parse(&connected, KNOWN).is_ok(), "an endpoint of an account that was connected in a browser");
    assert_eq!(config.endpoints[0].secrets, [SecretRef::Env("HOOK".to_owned())]);
    assert_eq!(config.connections[0].credential, Credential::Key(SecretRef::Env("KEY".to_owned())));
}

const DESTINATION: &str = r#"
[server]
admin = "open"
[vault]
master_key = { env = "MASTER" }
[[destination]]
name = "app"
url = "https://app.example.com/hooks"
secrets = [{ env = "FORWARD" }]
types = ["invoice.*"]
headers = { x-team = "billing" }
"#;

#[test]
fn a_destination_is_read_and_each_mistake_told_once() {
    let config = Config::parse(DESTINATION, KNOWN).unwrap();
    let one = &config.destinations[0];
    assert_eq!((one.name.as_str(), one.spec.concurrency, one.spec.timeout), ("app", CONCURRENCY, TIMEOUT));
    assert_eq!(one.spec.headers, [("x-team".to_owned(), "billing".to_owned())]);
    assert_eq!(one.secrets, [SecretRef::Env("FORWARD".to_owned())]);
    assert_eq!(config.forwarding, ForwardSettings::default());
    let wrong = |from: &str, to: &str, line: usize, words: &[&str]| {
        refused(DESTINATION, from, to, Some(line), words);
    };
    wrong("https://app.example.com/hooks", "http://app.example.com/canary", 8, &["https", "allow_http"]);
    wrong("https://app.example.com/hooks", "https://127.0.0.1/canary", 8, &["loopback", "allow_private"]);
    wrong("invoice.*", "in*canary", 8, &["event type"]);
    wrong("x-team", "authorization", 8, &["header"]);
    wrong("secrets = [{ env = \"FORWARD\" }]", "", 6, &["secrets", "openssl"]);
    wrong("{ env = \"FORWARD\" }", "\"whsec_canary\"", 9, &["literal"]);
    wrong("types", "typos", 10, &["did you mean", "types"]);
    wrong("name = \"app\"", "name = \"a/canary\"", 7, &["letters"]);
}

#[test]
fn senders_are_networks_or_what_is_published() {
    let with = |value: &str| {
        let line = format!("secrets = [{{ env = \"HOOK\" }}]\nallow_from = {value}");
        GOOD.replace("secrets = [{ env = \"HOOK\" }]", &line)
    };
    let read = |value: &str| Config::parse(&with(value), KNOWN).map(|config| config.endpoints[0].allow_from.clone());
    assert_eq!(Config::parse(GOOD, KNOWN).unwrap().endpoints[0].allow_from, None);
    assert_eq!(read("\"published\"").unwrap(), Some(AllowFrom::Published));
    let networks = vec!["54.187.174.169".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    assert_eq!(read("[\"54.187.174.169\", \"2001:db8::/32\"]").unwrap(), Some(AllowFrom::Networks(networks)));
    for wrong in ["\"everywhere\"", "[\"example.com\"]", "[\"10.0.0.0/33\"]", "7"] {
        assert_eq!(read(wrong).unwrap_err().len(), 1, "{wrong}");
    }
}

// Fails when a cap or a priority is read as another one, or one that cannot work is taken.
#[test]
fn caps_of_providers_and_priorities_of_events_are_read() {
    let text = "[workers]\ngroups = { stripe = 48 }\npriorities = { \"invoice.*\" = 10, \"a.b\" = -5 }\n";
    let workers = Config::parse(&format!("{GOOD}{text}"), KNOWN).unwrap().workers;
    assert_eq!(workers.groups, [("stripe".to_owned(), 48)].into());
    assert_eq!(workers.priorities, [("a.b".to_owned(), -5), ("invoice.*".to_owned(), 10)].into());
    let none = Config::parse(GOOD, KNOWN).unwrap().workers;
    assert!(none.groups.is_empty() && none.priorities.is_empty());
    for (text, words) in [
        ("groups = { canary = 1 }", &["groups", "stripe"][..]),
        ("groups = { stripe = 0 }", &["groups", "from 1 to 1024"]),
        ("groups = 7", &["groups", "a table"]),
        ("priorities = { \"in*canary\" = 1 }", &["priorities", "invoice.*"]),
        ("priorities = { \"*\" = 101 }", &["priorities", "from -100 to 100"]),
        ("priorities = { \"*\" = \"canary\" }", &["priorities", "whole numbers"]),
    ] {
        check("[vault]", &format!("[workers]\n{text}\n[vault]"), Some(5), words);
    }
}

#[test]
fn how_fast_slack_lets_the_app_read_is_a_word() {
    let config = Config::parse(&format!("{GOOD}[slack]\nhistory = \"limited\"\n"), KNOWN).unwrap();
    assert_eq!(config.apps, Apps { slack_history: HistoryRule::Limited });
    assert_eq!(Config::parse(GOOD, KNOWN).unwrap().apps, Apps::default());
    check("[vault]", "[slack]\nhistory = \"slow\"\n[vault]", Some(5), &["history", "full", "limited"]);
}

#[test]
fn schedules_are_read_for_all_and_for_some() {
    let text = "[sync]\nincremental = \"5m\"\nfull = \"0 3 * * SUN Europe/London ~4h\"\nidle_max = \"2h\"\n\
                [[schedule]]\nprovider = \"slack\"\nstream = \"users\"\nfull = \"1d\"\n\
                [[schedule]]\nprovider = \"stripe\"\nstream = \"customers\"\nfull = \"2d\"\n\
                [[schedule]]\nprovider = \"stripe\"\nstream = \"events\"\nincremental = \"2m\"\n\
                [[schedule]]\nconnection = \"acme-stripe\"\nincremental = \"1h skip\"\n";
    let sync = Config::parse(&format!("{GOOD}{text}"), KNOWN).unwrap().sync;
    assert_eq!((sync.incremental.to_string().as_str(), sync.idle_max), ("5m", Duration::from_secs(7_200)));
    assert_eq!(sync.full.to_string(), "0 3 * * SUN Europe/London ~4h");
    let [slack, .., stripe] = sync.rules.as_slice() else { panic!("{:?}", sync.rules) };
    assert_eq!((slack.provider.as_deref(), slack.stream.as_ref().unwrap().as_str()), (Some("slack"), "users"));
    assert_eq!((slack.full.is_some(), slack.incremental.is_some()), (true, false));
    assert_eq!(stripe.connection.as_ref().unwrap().as_str(), "acme-stripe");
    assert_eq!(stripe.incremental.as_ref().unwrap().to_string(), "1h skip");
}

// Fails when a schedule that never comes is taken, or a rule of nothing.
#[test]
fn each_mistake_of_a_schedule_is_one_sentence_with_its_line() {
    #[track_caller]
    fn check(text: &str, line: usize, expected: &[&str]) {
        refused(GOOD, "[vault]", &format!("{text}\n[vault]"), Some(line), expected);
    }
    for wrong in ["canary", "0 3 * *", "0 0 30 2 *", "0 3 * * * Europe/canary", "15m ~5m"] {
        check(&format!("[sync]\nincremental = \"{wrong}\""), 5, &["an interval", "cron expression"]);
    }
    check("[[schedule]]\nprovider = \"slack\"", 4, &["needs incremental or full"]);
    check("[[schedule]]\nfull = \"1d\"", 4, &["needs a provider or a connection"]);
    check("[[schedule]]\nconnection = \"nobody\"\nfull = \"1d\"", 5, &["no [[connection]] has this id"]);
    check("[[schedule]]\nprovider = \"stirpe\"\nfull = \"1d\"", 5, &["no such provider"]);
    for of in ["provider = \"stripe\"", "connection = \"acme-stripe\""] {
        let rule = format!("[[schedule]]\n{of}\nstream = \"customers\"\nincremental = \"5m\"");
        check(&rule, 6, &["changes of customers", "stream = \"events\""]);
    }
}

const ACCOUNTS: &str = r#"
[server]
admin = "open"
[vault]
master_key = { env = "MASTER" }
[[connection]]
id = "acme-calendar"
tenant = "acme"
provider = "google"
service_account = { file = "google.json" }
subject = "ada@example.com"
scopes = ["https://www.googleapis.com/auth/calendar.readonly"]
[[endpoint]]
name = "slack"
provider = "slack"
environment = "sandbox"
secrets = [{ env = "HOOK" }]
"#;

#[test]
fn service_accounts_and_endpoints_of_apps_are_read() {
    let config = Config::parse(ACCOUNTS, KNOWN).unwrap();
    let wanted = Credential::ServiceAccount {
        key: SecretRef::File("google.json".into()),
        subject: Some("ada@example.com".to_owned()),
        scopes: vec!["https://www.googleapis.com/auth/calendar.readonly".to_owned()],
    };
    assert_eq!(config.connections[0].credential, wanted);
    let endpoint = &config.endpoints[0];
    assert_eq!((endpoint.connection.as_deref(), endpoint.environment.as_str()), (None, "sandbox"));
}

// Fails when what belongs to the one kind of credential is taken beside the other, or when a provider whose events name
// no account is given an endpoint for many.
#[test]
fn each_mistake_of_a_service_account_or_an_apps_endpoint_is_one_sentence_with_its_line() {
    #[track_caller]
    fn check(from: &str, to: &str, line: usize, expected: &[&str]) {
        refused(ACCOUNTS, from, to, Some(line), expected);
    }
    check("service_account = { file = \"google.json\" }\n", "", 6, &["needs credential"]);
    check("{ file = \"google.json\" }", "\"canary\"", 10, &["must not stand in this file"]);
    check("subject", "credential = { env = \"KEY\" }\nsubject", 6, &["keep one"]);
    check("service_account =", "credential =", 6, &["subject and scopes", "belongs to service_account"]);
    check("scopes = [\"https://www.googleapis.com/auth/calendar.readonly\"]\n", "", 6, &["needs scopes", "calendar"]);
    check("\"https://www.googleapis.com/auth/calendar.readonly\"", "7", 12, &["list of texts"]);
    check("provider = \"google\"", "provider = \"stripe\"", 6, &["no service accounts", "only google"]);
    check("provider = \"slack\"", "provider = \"sendgrid\"", 13, &["needs connection", "sendgrid"]);
    check("environment", "connection = \"con_1\"\nenvironment", 13, &["leave it out"]);
    check("\"sandbox\"", "\"Sand box\"", 16, &["small letters"]);
    check("environment = \"sandbox\"", "connection = 7", 16, &["text in quotes"]);
}

// Fails when a key is not asked to be known, when a line is off by one, or when a value is put into a message.
#[test]
fn each_mistake_is_one_sentence_with_its_line() {
    check(
        "admin = \"open\"",
        "lisen = \"127.0.0.1:1\"\nadmin = \"open\"",
        Some(3),
        &["unknown key \"lisen\" in [server]", "did you mean \"listen\"?"],
    );
    check("[vault]", "[valut]\na = 1\n[vault]", Some(4), &["unknown key \"valut\"", "\"vault\""]);
    check("admin = \"open\"", "", Some(2), &["says nothing about access", "admin_token"]);
    check("admin = \"open\"", "admin = \"sk_live_canary\"", Some(3), &["\"open\""]);
    check("admin = \"open\"", "admin_token = \"sk_live_canary\"", Some(3), &["literal value", "{ env = "]);
    check("admin = \"open\"", "admin = \"open\"\nlisten = \"0.0.0.0:80\"", Some(3), &["loopback"]);
    check("admin = \"open\"", "admin = \"open\"\nlisten = \"8080\"", Some(4), &["127.0.0.1:8080"]);
    check("admin = \"open\"", "admin = \"open\"\nadmin_token = { env = \"A\" }", Some(2), &["keep one"]);
    check("admin = \"open\"", "admin = \"open\"\nbody_bytes_max = 5", Some(4), &["whole number from 1024"]);
    check("admin = \"open\"", "admin = \"open\"\nrequest_timeout = 5", Some(4), &["\"30s\""]);
    check("admin = \"open\"", "admin = \"open\"\ntrusted_proxies = \"10.0.0.1\"", Some(4), &["10.0.0.0/8"]);
    check("admin = \"open\"", "admin = \"open\"\ntrusted_proxies = [\"10.0.0.1\", \"x\"]", Some(4), &["10.0.0.0/8"]);
    check("master_key = { env = \"MASTER\" }", "", Some(4), &["openssl rand -base64 32"]);
    check("{ env = \"KEY\" }", "\"sk_live_canary\"", Some(10), &["must not stand in this file"]);
    check("{ env = \"KEY\" }", "1234", Some(10), &["must not stand in this file"]);
    check("{ env = \"KEY\" }", "{ value = \"sk_live_canary\" }", Some(10), &["exactly"]);
    check("{ env = \"KEY\" }", "{ env = \"A\", file = \"b\" }", Some(10), &["exactly"]);
    check("[{ env = \"HOOK\" }]", "[\"sk_live_canary\"]", Some(15), &["literal value"]);
    check(
        "credential = { env = \"KEY\" }",
        "api_key = \"sk_live_canary\"\ncredential = { env = \"KEY\" }",
        Some(10),
        &["unknown key \"api_key\""],
    );
    check("provider = \"stripe\"", "provider = \"stirpe\"", Some(9), &["no such provider"]);
    check("connection = \"acme-stripe\"", "connection = \"acme-stirpe\"", Some(14), &["did you mean \"acme-stripe\"?"]);
    check("tenant = \"acme\"", "tenant = \"a/b\"", Some(8), &["letters"]);
    check("credential", "base_url = \"http://example.com\"\ncredential", Some(10), &["https"]);
    check("credential", "base_url = \"https://u:p@example.com\"\ncredential", Some(10), &["https"]);
    check("[[endpoint]]", "[[endpoint", Some(11), &["not TOML"]);
    check("\"MASTER\"", "\"sk_live_canary", Some(6), &["not TOML"]);
}

#[test]
fn a_base_url_loses_its_slash_and_loopback_may_be_plain() {
    for (text, expected) in [
        ("https://api.stripe.com/", Some("https://api.stripe.com")),
        ("http://127.0.0.1:9/x/", Some("http://127.0.0.1:9/x")),
        ("http://[::1]:9", Some("http://[::1]:9")),
        ("http://localhost:9", Some("http://localhost:9")),
        ("http://10.0.0.1", None),
        ("ftp://127.0.0.1", None),
        ("https://a?b=c", None),
        ("/path", None),
        ("", None),
    ] {
        assert_eq!(read_url(text, false).as_deref(), expected, "{text}");
    }
}

const FLOWS: &str = r#"
[server]
admin = "open"
public_url = "https://hooks.example.com/palisade"
return_targets = ["https://app.example.com/integrations"]
[vault]
master_key = { env = "MASTER" }
[[flow]]
provider = "slack"
client_id = "1.2"
client_secret = { env = "SLACK" }
scopes = ["channels:read", "chat:write"]
user_scopes = ["search:read"]
[[flow]]
provider = "slack"
environment = "sandbox"
client_id = "3.4"
client_secret = { env = "SLACK" }
base_url = "http://127.0.0.1:12112"
pkce = true
[[flow]]
provider = "acme"
client_id = "five"
base_url = "https://api.acme.example"
authorize_url = "https://id.acme.example/authorize"
token_url = "https://id.acme.example/token"
revoke_url = "https://id.acme.example/revoke"
issuer = "https://id.acme.example"
scope_joint = "comma"
client_auth = "body"
refresh_reusable = true
authorize_params = { prompt = "consent" }
"#;

#[test]
fn flows_are_read_with_their_environment_and_know_their_callback() {
    let config = Config::parse(FLOWS, KNOWN).unwrap();
    let [live, sandbox, acme] = config.flows.as_slice() else { panic!("{:?}", config.flows) };
    assert_eq!((live.name(), sandbox.name(), acme.name()), ("slack".into(), "slack/sandbox".into(), "acme".into()));
    assert_eq!(
        (live.user_scopes.as_slice(), live.pkce, &live.standard),
        (&["search:read".to_owned()][..], None, &None)
    );
    assert_eq!((sandbox.pkce, sandbox.base_url.as_deref()), (Some(true), Some("http://127.0.0.1:12112")));
    let callback = config.callback_url(sandbox).unwrap();
    assert_eq!(callback, "https://hooks.example.com/palisade/auth/slack/sandbox/callback");
    let standard = acme.standard.as_ref().unwrap();
    assert_eq!(standard.revoke_url.as_deref(), Some("https://id.acme.example/revoke"));
    assert_eq!(standard.authorize_params, [("prompt".to_owned(), "consent".to_owned())]);
    assert!(standard.refresh_reusable && standard.client_in_body && acme.client_secret.is_none());
    assert!(config.server.return_targets.permits("https://app.example.com/integrations?tab=1"));
    assert!(!config.server.return_targets.permits("https://evil.example/"));
    // Without a public address a listener on loopback is reached where it listens.
    let local = FLOWS.replace("public_url = \"https://hooks.example.com/palisade\"", "listen = \"127.0.0.1:8099\"");
    let config = Config::parse(&local, KNOWN).unwrap();
    assert_eq!(config.callback_url(&config.flows[0]).unwrap(), "http://127.0.0.1:8099/auth/slack/callback");
}

// Fails when a flow's key is not bounded, when a flow stands twice, or when a slip of the pen makes another flow.
#[test]
fn each_mistake_of_a_flow_is_one_sentence_with_its_line() {
    #[track_caller]
    fn check(from: &str, to: &str, line: usize, expected: &[&str]) {
        refused(FLOWS, from, to, Some(line), expected);
    }
    check("client_id = \"1.2\"", "client = \"1.2\"\nclient_id = \"1.2\"", 10, &["unknown key \"client\"", "client_id"]);
    check("scopes = [\"ch", "scope = [\"ch", 12, &["did you mean \"scopes\"?"]);
    check("client_id = \"1.2\"\n", "", 8, &["needs client_id"]);
    check("client_secret = { env = \"SLACK\" }\nscopes", "scopes", 8, &["needs client_secret"]);
    check("{ env = \"SLACK\" }", "\"canary\"", 11, &["must not stand in this file"]);
    check("pkce = true", "pkce = \"yes\"", 20, &["true or false"]);
    check("environment = \"sandbox\"", "environment = \"Sand box\"", 16, &["small letters"]);
    check("environment = \"sandbox\"\n", "", 14, &["stands twice"]);
    check("pkce = true", "token_url = \"https://id.example/\"", 14, &["flow of its own", "token_url"]);
    check("provider = \"slack\"", "provider = \"slakc\"", 9, &["no such provider", "authorize_url"]);
    check("base_url = \"https://api.acme.example\"\n", "", 21, &["needs base_url"]);
    check("token_url = \"https://id.acme.example/token\"\n", "", 21, &["needs token_url"]);
    check("https://id.acme.example/token", "http://id.acme.example/token", 26, &["token_url", "https"]);
    check("\"comma\"", "\"canary\"", 29, &["\"space\", \"comma\""]);
    check("{ prompt = \"consent\" }", "{ prompt = 1 }", 32, &["table of texts"]);
    check("client_auth = \"body\"", "user_scopes = [\"canary\"]", 21, &["two grants"]);
    check(
        "[\"https://app.example.com/integrations\"]",
        "[\"http://canary.example/\"]",
        5,
        &["return_targets", "https"],
    );
    let nowhere = FLOWS.replace("public_url = \"https://hooks.example.com/palisade\"", "listen = \"127.0.0.1:0\"");
    let problems = Config::parse(&nowhere, KNOWN).unwrap_err();
    assert!(problems.iter().all(|p| p.text.contains("needs public_url")), "{problems:?}");
}

// Fails when a key is added without a word in the example, or stays there after it is gone.
#[test]
fn the_example_documents_every_key_and_is_accepted() {
    let example = include_str!("../../../../docs/palisade.example.toml");
    let (config, asked) = read(example, KNOWN);
    config.expect("the example is accepted as it is");
    // Every optional key stands in the example behind one '#': uncommented it must still be read.
    let full: String = example
        .lines()
        .map(|line| match line.strip_prefix("#") {
            Some(key)
                if key.starts_with("[[")
                    || key.split('=').next().is_some_and(|k| {
                        k.trim().chars().all(|c| c.is_ascii_lowercase() || c == '_')
                            && k.ends_with(' ')
                            && !k.starts_with(' ')
                    }) =>
            {
                key
            }
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    for key in &asked {
        let (_, last) = key.rsplit_once('.').unwrap_or(("", key));
        let stands = full.lines().any(|line| {
            line.starts_with(&format!("{last} =")) || line == format!("[{last}]") || line == format!("[[{last}]]")
        });
        assert!(stands, "{key} is missing in docs/palisade.example.toml");
    }
    let only_known = read(&full.replace("admin = \"open\"", ""), KNOWN);
    only_known.0.expect("every documented key is known");
}
