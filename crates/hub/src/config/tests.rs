//! The configuration: what is accepted, what each mistake is told, and that the example is complete.

use super::sections::read_url;
use super::*;

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

#[track_caller]
fn check(from: &str, to: &str, line: Option<usize>, expected: &[&str]) {
    assert!(GOOD.contains(from), "the case does not apply");
    let text = GOOD.replacen(from, to, 1);
    let problems = Config::parse(&text, &["stripe"]).expect_err("it must be refused");
    let all: Vec<String> = problems.iter().map(|p| format!("{:?} {}", p.line, p.text)).collect();
    assert_eq!(problems.len(), 1, "one problem is told once: {all:#?}");
    assert_eq!(problems[0].line, line, "{all:#?}");
    for word in expected {
        assert!(problems[0].text.contains(word), "{word} in {all:#?}");
    }
    assert!(!problems[0].text.contains("sk_live_canary"), "a value of the file is repeated: {all:#?}");
}

#[test]
fn a_good_file_is_read() {
    let config = Config::parse(GOOD, &["stripe"]).unwrap();
    assert_eq!(config.server.admin, Admin::Open);
    assert_eq!(config.endpoints[0].secrets, [SecretRef::Env("HOOK".to_owned())]);
    assert_eq!(config.connections[0].credential, SecretRef::Env("KEY".to_owned()));
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

// Fails when a key is added without a word in the example, or stays there after it is gone.
#[test]
fn the_example_documents_every_key_and_is_accepted() {
    let example = include_str!("../../../../docs/palisade.example.toml");
    let (config, asked) = read(example, &["stripe"]);
    config.expect("the example is accepted as it is");
    // Every optional key stands in the example behind one '#': uncommented it must still be read.
    let full: String = example
        .lines()
        .map(|line| match line.strip_prefix("#") {
            Some(key)
                if key.split('=').next().is_some_and(|k| {
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
    let only_known = read(&full.replace("admin = \"open\"", ""), &["stripe"]);
    only_known.0.expect("every documented key is known");
}
