//! Whether the judges together drive every call that was recorded from the official SDKs: what the emulators counted
//! against `recorded.json`, by method and path.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Map, Value};

use crate::sdks::Outcome;
use crate::steps::root;

const RECORDED: &str = "crates/emulator/tests/sdks/recorded.json";

/// What emulators were asked, as `METHOD /path` with placeholders.
#[derive(Debug, Default)]
pub(crate) struct Routes(BTreeSet<String>);

impl Routes {
    /// Adds what the emulator at an address counted until now.
    pub(crate) fn ask(&mut self, base_url: &str) -> Result<(), String> {
        let ledger = get(base_url, "/_emulator/ledger").map_err(|why| format!("its ledger cannot be read: {why}"))?;
        let routes = ledger.get("requests_by_route").and_then(Value::as_object);
        self.0.extend(routes.ok_or("its ledger counts no routes")?.keys().cloned());
        Ok(())
    }

    /// Judges the routes by the recorded calls; each one driven counts as a check.
    pub(crate) fn judged(&self, all_ran: bool) -> Outcome {
        let name = "every recorded call of the official SDKs, by method and path".to_owned();
        if !all_ran {
            return Outcome::Skipped { name, why: "not all of the SDKs ran".to_owned() };
        }
        let recorded = match recorded() {
            Ok(recorded) => recorded,
            Err(why) => return Outcome::Skipped { name, why },
        };
        let missing = self.missing(&recorded);
        for call in &missing {
            println!("FAILED no judge drives {call}");
        }
        Outcome::Ran { name, passed: (recorded.len() - missing.len()) as u64, failed: missing.len() as u64 }
    }

    /// Names the recorded calls that none of the routes is.
    fn missing(&self, recorded: &Map<String, Value>) -> Vec<String> {
        let driven = |call: &str| self.0.iter().any(|route| fits(route, call));
        let calls = recorded.iter().map(|(name, call)| (name, call.as_str().unwrap_or_default()));
        calls.filter(|(_, call)| !driven(call)).map(|(name, call)| format!("{name}: {call}")).collect()
    }
}

/// Reads the recorded calls: name to `METHOD /path`.
fn recorded() -> Result<Map<String, Value>, String> {
    let text = std::fs::read_to_string(root().join(RECORDED)).map_err(|e| format!("{RECORDED}: {e}"))?;
    let mut calls: Map<String, Value> = serde_json::from_str(&text).map_err(|e| format!("{RECORDED}: {e}"))?;
    calls.remove("_source");
    Ok(calls)
}

/// Tells whether a call is of a route, in which `{…}` stands for anything.
fn fits(route: &str, call: &str) -> bool {
    let (mut route, mut call) = (route.split(['/', ' ']), call.split(['/', ' ']));
    loop {
        match (route.next(), call.next()) {
            (None, None) => return true,
            (Some(part), Some(text)) if part == text || (part.starts_with('{') && !text.is_empty()) => {}
            _ => return false,
        }
    }
}

/// Asks a server on this machine for JSON.
fn get(base_url: &str, path: &str) -> Result<Value, String> {
    let host = base_url.trim_end_matches('/').strip_prefix("http://").ok_or("it is not at an address of http")?;
    let mut stream = TcpStream::connect(host).map_err(|e| e.to_string())?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| e.to_string())?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("it did not answer")?;
    serde_json::from_str(body).map_err(|e| format!("its answer is no JSON: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a call is taken for driven because another method, a longer path or a path of other words was.
    #[test]
    fn recorded_calls_that_no_route_is_are_named() -> Result<(), String> {
        let calls = recorded()?;
        assert_eq!(calls.len(), 38);
        let mut routes = Routes(
            [
                "GET /v1/customers",
                "POST /v1/customers/{id}",
                "POST /v1/subscriptions/{id}",
                "POST /2010-04-01/Accounts/{sid}/Messages.json",
                "GET /calendar/v3/calendars/{calendar}/events",
            ]
            .map(str::to_owned)
            .into(),
        );
        let missing = routes.missing(&calls);
        let is_missing = |name: &str| missing.iter().any(|call| call.split(':').next() == Some(name));
        for driven in
            ["stripe.subscriptions.cancel_at_period_end", "twilio.messages.create", "calendar.events.list_full"]
        {
            assert!(!is_missing(driven), "{driven}");
        }
        for other in [
            "stripe.customers.create",
            "stripe.subscriptions.cancel_now",
            "calendar.events.watch",
            "twilio.messages.list",
        ] {
            assert!(is_missing(other), "{other}");
        }
        routes.0.extend(calls.values().filter_map(Value::as_str).map(str::to_owned));
        assert_eq!(routes.missing(&calls), [""; 0]);
        Ok(())
    }
}
