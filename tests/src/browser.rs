//! A browser, as far as connecting an account needs one: it keeps cookies, is sent on, and presses what a page offers.

use http::HeaderMap;
use palisade_emulator::oauth::Form;
use reqwest::header::{CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use reqwest::{Client, Method, Url};

/// Pages and redirects on one way; more are a loop.
const HOPS_MAX: usize = 20;

/// A browser with cookies of its own. Like every browser it keeps them by host, whatever the port.
#[derive(Clone, Debug)]
pub struct Browser {
    client: Client,
    cookies: Vec<Cookie>,
}

#[derive(Clone, Debug)]
struct Cookie {
    name: String,
    value: String,
    path: String,
}

/// What a browser was answered.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "only tests use it")]
pub struct Seen {
    /// Where.
    pub url: Url,
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The page.
    pub text: String,
}

impl Seen {
    /// Returns where the browser is sent, whole.
    #[must_use]
    pub fn location(&self) -> Option<String> {
        let location = self.headers.get(LOCATION)?.to_str().ok()?;
        self.url.join(location).ok().map(String::from)
    }

    /// Fails when the page has another status or lacks one of the words.
    ///
    /// # Panics
    /// Then.
    #[track_caller]
    pub fn shows(&self, status: u16, words: &[&str]) {
        assert_eq!(self.status, status, "{}: {}", self.url.path(), self.text);
        for word in words {
            assert!(self.text.contains(word), "{}: {word:?} is not in {}", self.url.path(), self.text);
        }
    }
}

impl Default for Browser {
    fn default() -> Self {
        Self::new()
    }
}

impl Browser {
    /// Opens a browser without cookies.
    ///
    /// # Panics
    /// When no client can be made.
    #[must_use]
    pub fn new() -> Self {
        let client = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build();
        Self { client: client.expect("a client"), cookies: Vec::new() }
    }

    /// Returns a browser of somebody else: no cookies, the same connections.
    #[must_use]
    pub fn another(&self) -> Self {
        Self { client: self.client.clone(), cookies: Vec::new() }
    }

    /// Returns the values of all cookies.
    pub fn cookies(&self) -> impl Iterator<Item = &str> {
        self.cookies.iter().map(|cookie| cookie.value.as_str())
    }

    /// Opens an address. Nothing is followed.
    ///
    /// # Panics
    /// When nothing answers.
    pub async fn get(&mut self, url: &str) -> Seen {
        self.send(Method::GET, url, None, None).await
    }

    /// Posts a form.
    ///
    /// # Panics
    /// When nothing answers.
    pub async fn post(&mut self, url: &str, form: String) -> Seen {
        self.send(Method::POST, url, Some(form), None).await
    }

    /// Posts nothing, as whoever has a token.
    ///
    /// # Panics
    /// When nothing answers.
    pub async fn post_as(&mut self, url: &str, token: &str) -> Seen {
        self.send(Method::POST, url, None, Some(token)).await
    }

    async fn send(&mut self, method: Method, url: &str, form: Option<String>, token: Option<&str>) -> Seen {
        let url: Url = url.parse().expect("an address");
        let mut request = self.client.request(method, url.clone());
        let here = self.cookies.iter().filter(|cookie| url.path().starts_with(&cookie.path));
        let cookies: Vec<String> = here.map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect();
        if !cookies.is_empty() {
            request = request.header(COOKIE, cookies.join("; "));
        }
        if let Some(form) = form {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.expect("an answer");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        for cookie in headers.get_all(SET_COOKIE) {
            self.keep(cookie.to_str().expect("a cookie"));
        }
        let text = answer.text().await.expect("a page");
        Seen { url, status, headers, text }
    }

    /// Keeps a cookie, or removes it when it is over.
    fn keep(&mut self, cookie: &str) {
        let mut parts = cookie.split(';').map(str::trim);
        let (name, value) = parts.next().and_then(|pair| pair.split_once('=')).expect("a cookie");
        let (mut path, mut over) = ("/", value.is_empty());
        for part in parts {
            match part.split_once('=').unwrap_or((part, "")) {
                (name, value) if name.eq_ignore_ascii_case("path") => path = value,
                (name, "0") if name.eq_ignore_ascii_case("max-age") => over = true,
                (name, value) if name.eq_ignore_ascii_case("expires") => over |= value.contains(" 1970 "),
                _ => {}
            }
        }
        self.cookies.retain(|known| known.name != name || known.path != path);
        if !over {
            let (name, value, path) = (name.to_owned(), value.to_owned(), path.to_owned());
            self.cookies.push(Cookie { name, value, path });
        }
    }

    /// Goes on until it is not sent on any more.
    ///
    /// # Panics
    /// When the way has no end.
    pub async fn follow(&mut self, mut page: Seen) -> Seen {
        for _ in 0..HOPS_MAX {
            match page.location() {
                Some(location) => page = self.get(&location).await,
                None => return page,
            }
        }
        panic!("more than {HOPS_MAX} redirects");
    }

    /// Goes on from a page, pressing `decision` on every form, until it is sent to an address that begins with `back`.
    /// Returns that address, which is not opened.
    ///
    /// # Panics
    /// When the way ends elsewhere.
    pub async fn walk(&mut self, mut page: Seen, back: &str, decision: &str) -> String {
        for _ in 0..HOPS_MAX {
            if let Some(location) = page.location() {
                if location.starts_with(back) {
                    return location;
                }
                page = self.get(&location).await;
                continue;
            }
            let mut form = Form::read(&page.text)
                .unwrap_or_else(|| panic!("{} {}: no form in {}", page.status, page.url, page.text));
            let to = page.url.join(&form.action).expect("an address");
            page = self.post(to.as_str(), filled(&mut form, decision)).await;
        }
        panic!("more than {HOPS_MAX} pages before {back}");
    }

    /// Connects an account from a link to the page at the end.
    ///
    /// # Panics
    /// When the way ends elsewhere.
    pub async fn connect(&mut self, link: &str, back: &str) -> Seen {
        let callback = self.allow(link, back).await;
        self.get(&callback).await
    }

    /// Goes from a link over the provider's pages, where everything is allowed, to the callback, which is not opened.
    ///
    /// # Panics
    /// When the way ends elsewhere.
    pub async fn allow(&mut self, link: &str, back: &str) -> String {
        let departure = self.get(link).await;
        assert_eq!(departure.status, 303, "{}", departure.text);
        self.walk(departure, back, "allow").await
    }
}

/// Fills a form in: the button of that name where there is one, and anybody's name and password where they are asked.
fn filled(form: &mut Form, decision: &str) -> String {
    if let Some(body) = form.press(decision) {
        return body;
    }
    form.forge("login", "ada");
    form.forge("password", "whatever");
    form.press("").expect("a button")
}
