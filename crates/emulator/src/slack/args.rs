//! Arguments of a Web API method: from query, form or JSON body, all of them texts in the end.

use bytes::Bytes;
use http::Request;
use serde_json::Value;

use crate::params::Params;

/// A method's arguments.
#[derive(Debug, Clone, Default)]
pub(crate) struct Args(pub(crate) Params);

impl Args {
    /// Reads the arguments; the body's stand behind the query's.
    ///
    /// # Errors
    /// Gives Slack's error: `invalid_form_data`, `invalid_json`, `json_not_object`, `invalid_post_type`.
    pub(crate) fn read(request: &Request<Bytes>) -> Result<Self, &'static str> {
        let mut params =
            Params::parse(request.uri().query().unwrap_or_default().as_bytes()).map_err(|_| "invalid_form_data")?;
        let body = request.body();
        if body.is_empty() {
            return Ok(Self(params));
        }
        let kind = request.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "application/json" => {
                let value: Value = serde_json::from_slice(body).map_err(|_| "invalid_json")?;
                let Value::Object(map) = value else { return Err("json_not_object") };
                for (name, value) in map {
                    match value {
                        Value::Null => {}
                        Value::String(text) => params.push(&name, text),
                        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                            params.push(&name, other.to_string());
                        }
                    }
                }
            }
            "application/x-www-form-urlencoded" | "" => {
                for (name, value) in Params::parse(body).map_err(|_| "invalid_form_data")?.iter() {
                    params.push(name, value);
                }
            }
            _ => return Err("invalid_post_type"),
        }
        Ok(Self(params))
    }

    /// Gives an argument; an empty one counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)
    }

    /// Reads a truth value as the SDKs send it: `true`, `1`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: &str, body: &'static str, expected: Result<&str, &str>) {
        let request = Request::builder().uri("/api/x?a=q").header("content-type", kind);
        let request = request.body(Bytes::from_static(body.as_bytes())).unwrap();
        let read = Args::read(&request);
        assert_eq!(read.as_ref().map(|args| args.get("b").unwrap_or_default()), expected.as_ref().copied());
        assert!(read.is_err() || read.unwrap().get("a") == Some("q"));
    }

    #[test]
    fn both_kinds_of_body_become_texts() {
        check("application/x-www-form-urlencoded", "b=x+y", Ok("x y"));
        check(
            "application/json; charset=utf-8",
            r#"{"b":[{"type":"divider"}],"c":null}"#,
            Ok(r#"[{"type":"divider"}]"#),
        );
        check("application/json", r#"{"b":true}"#, Ok("true"));
        check("application/json", "[1]", Err("json_not_object"));
        check("application/json", "{", Err("invalid_json"));
        check("text/plain", "b=1", Err("invalid_post_type"));
    }
}
