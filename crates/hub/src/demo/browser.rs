//! A browser as far as connecting needs one: it follows redirects, keeps cookies, reads pages and presses buttons.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use http::{HeaderMap, Method, Request, Uri};
use palisade_core::{Error, ErrorKind, Result, Transport};
use palisade_emulator::oauth::Form;

/// Redirects followed one after another; more are a circle.
const HOPS_MAX: usize = 10;

/// Somebody's browser. Like any, it sends a host's cookies to all of that host's ports.
pub(super) struct Browser {
    network: Arc<dyn Transport>,
    cookies: BTreeMap<(String, String), String>,
}

/// What the browser shows.
#[derive(Debug)]
pub(super) struct Page {
    at: Uri,
    pub(super) status: u16,
    text: String,
}

fn lost(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Decode, what)
}

impl Browser {
    /// Opens a browser that knows nobody yet.
    pub(super) fn new(network: Arc<dyn Transport>) -> Self {
        Self { network, cookies: BTreeMap::new() }
    }

    /// Opens an address and follows where it leads.
    ///
    /// # Errors
    /// The network's; [`ErrorKind::Decode`] for what no browser could follow.
    pub(super) async fn visit(&mut self, address: &str) -> Result<Page> {
        self.go(Method::GET, address.parse().map_err(|_| lost("the address is none"))?, String::new()).await
    }

    /// Sends a form's fields to an address and follows where it leads.
    ///
    /// # Errors
    /// As [`Browser::visit`].
    pub(super) async fn send(&mut self, address: &str, fields: String) -> Result<Page> {
        self.go(Method::POST, address.parse().map_err(|_| lost("the address is none"))?, fields).await
    }

    /// Presses a button of the page's form, with everything else as the page proposes it.
    ///
    /// # Errors
    /// As [`Browser::visit`]; [`ErrorKind::Decode`] when the page has no such button.
    pub(super) async fn press(&mut self, page: &Page, button: &str) -> Result<Page> {
        let form = Form::read(&page.text).ok_or_else(|| lost(format!("no form to press {button} on")))?;
        let fields = form.press(button).ok_or_else(|| lost(format!("the form has no button {button}")))?;
        self.go(Method::POST, resolve(&page.at, &form.action)?, fields).await
    }

    async fn go(&mut self, mut method: Method, mut at: Uri, mut fields: String) -> Result<Page> {
        for _ in 0..HOPS_MAX {
            let mut request = Request::builder().method(method).uri(at.clone());
            if !fields.is_empty() {
                request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            }
            let cookies = self.cookies_of(&at);
            if !cookies.is_empty() {
                request = request.header(COOKIE, cookies);
            }
            let request =
                request.body(Bytes::from(std::mem::take(&mut fields))).map_err(|_| lost("no such request"))?;
            let answer = self.network.send(request).await?;
            self.keep_cookies(&at, answer.headers());
            let to = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let Some(to) = to.filter(|_| answer.status().is_redirection()) else {
                let text = String::from_utf8_lossy(answer.body()).into_owned();
                return Ok(Page { at, status: answer.status().as_u16(), text });
            };
            at = resolve(&at, to)?;
            method = Method::GET;
        }
        Err(lost("the browser was sent around in a circle"))
    }

    fn cookies_of(&self, at: &Uri) -> String {
        let host = at.host().unwrap_or_default();
        let of_host = self.cookies.iter().filter(|((known, _), _)| known == host);
        of_host.map(|((_, name), value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    /// Takes the cookies of an answer, and forgets those it ends.
    fn keep_cookies(&mut self, at: &Uri, headers: &HeaderMap) {
        for cookie in headers.get_all(SET_COOKIE).iter().filter_map(|cookie| cookie.to_str().ok()) {
            let mut parts = cookie.split(';').map(str::trim);
            let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else { continue };
            let key = (at.host().unwrap_or_default().to_owned(), name.to_owned());
            if parts.any(|part| part.eq_ignore_ascii_case("max-age=0")) {
                self.cookies.remove(&key);
            } else {
                self.cookies.insert(key, value.to_owned());
            }
        }
    }
}

impl Page {
    /// Returns what the page says first and largest.
    pub(super) fn heading(&self) -> &str {
        let inside = self.text.split_once("<h1>").and_then(|(_, rest)| rest.split_once("</h1>"));
        inside.map_or("a page without a heading", |(heading, _)| heading)
    }
}

/// Finds the address a page means: whole, or a path of the same server.
fn resolve(from: &Uri, to: &str) -> Result<Uri> {
    let whole = match (from.scheme_str(), from.authority()) {
        (Some(scheme), Some(authority)) if to.starts_with('/') => format!("{scheme}://{authority}{to}"),
        _ => to.to_owned(),
    };
    whole.parse().map_err(|_| lost("the page leads to no address"))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use http::Response;

    use super::*;

    /// Answers from a table, and notes which cookies came.
    struct Site(Mutex<Vec<String>>);

    #[async_trait]
    impl Transport for Site {
        async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
            let cookies = request.headers().get(COOKIE).map_or("", |cookies| cookies.to_str().unwrap());
            let line = format!("{} {} [{cookies}] {:?}", request.method(), request.uri(), request.body());
            self.0.lock().unwrap().push(line);
            let answer = match request.uri().path() {
                "/begin" => Response::builder()
                    .status(303)
                    .header(SET_COOKIE, "a=1; Path=/; HttpOnly")
                    .header(SET_COOKIE, "b=2")
                    .header(LOCATION, "http://127.0.0.1:2/ask"),
                "/allow" => Response::builder().status(302).header(LOCATION, "http://127.0.0.1:1/back?code=c"),
                "/back" => Response::builder().status(200).header(SET_COOKIE, "a=; Max-Age=0"),
                "/round" => Response::builder().status(302).header(LOCATION, "/round"),
                _ => Response::builder().status(200),
            };
            let text =
                r#"<h1>Hello</h1><form action="/allow"><button name="decision" value="allow">Go</button></form>"#;
            Ok(answer.body(Bytes::from_static(text.as_bytes())).unwrap())
        }
    }

    #[tokio::test]
    async fn it_goes_where_a_person_would() {
        let site = Arc::new(Site(Mutex::default()));
        let mut browser = Browser::new(site.clone());
        let page = browser.visit("http://127.0.0.1:1/begin").await.unwrap();
        assert_eq!((page.status, page.heading()), (200, "Hello"));
        assert!(browser.press(&page, "deny").await.is_err(), "there is no such button");
        let back = browser.press(&page, "allow").await.unwrap();
        assert_eq!(back.at.path(), "/back");
        browser.visit("http://localhost:1/").await.unwrap();
        browser.visit("http://127.0.0.1:1/").await.unwrap();
        let seen = site.0.lock().unwrap().clone();
        let expected = [
            r#"GET http://127.0.0.1:1/begin [] b"""#,
            r#"GET http://127.0.0.1:2/ask [a=1; b=2] b"""#,
            r#"POST http://127.0.0.1:2/allow [a=1; b=2] b"decision=allow""#,
            r#"GET http://127.0.0.1:1/back?code=c [a=1; b=2] b"""#,
            r#"GET http://localhost:1/ [] b"""#,
            r#"GET http://127.0.0.1:1/ [b=2] b"""#,
        ];
        assert_eq!(seen, expected);
        assert!(browser.visit("http://127.0.0.1:1/round").await.is_err(), "a circle ends");
    }
}
