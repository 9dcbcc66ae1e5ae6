//! Which addresses secrets are sent to, and where a browser may be sent afterwards.

use oauth2::url::{Host, Url};

use crate::error::{Error, ErrorKind, Result};

/// Reads an address of a flow's settings: `https`, or `http` to this machine, without user and fragment.
///
/// # Errors
/// [`ErrorKind::Config`] naming `what`; the address itself is not repeated.
pub(super) fn checked(text: &str, what: &str) -> Result<Url> {
    let wrong = |why: &str| Error::new(ErrorKind::Config, format!("{what} {why}"));
    let url = Url::parse(text).map_err(|_| wrong("is not an absolute address"))?;
    if !(url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url))) {
        return Err(wrong("must begin with https:// (http:// is for this machine only)"));
    }
    if url.host().is_none() {
        return Err(wrong("names no host"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(wrong("must have neither a user nor a fragment"));
    }
    Ok(url)
}

/// Tells whether an address names this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The targets a browser may be sent to after a flow: paths of the same site, or addresses a product names.
#[derive(Clone, Debug, Default)]
pub struct ReturnTargets {
    allowed: Vec<Url>,
    own_paths: bool,
}

impl ReturnTargets {
    /// Allows nothing: flows end on the page of the one who mounts them.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Allows paths of the site the callback is on (`/settings?tab=1`).
    #[must_use]
    pub fn own_paths(mut self) -> Self {
        self.own_paths = true;
        self
    }

    /// Allows an address and everything below it: `https://app.example.com/settings` allows that path and those that
    /// continue it after a `/`, with any query.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it is not `https` (or `http` to this machine), or has a user, query or fragment.
    pub fn allow(mut self, target: &str) -> Result<Self> {
        let url = checked(target, "an address to return to")?;
        if url.query().is_some() {
            return Err(Error::new(ErrorKind::Config, "an address to return to is allowed without its query"));
        }
        self.allowed.push(url);
        Ok(self)
    }

    /// Tells whether a browser may be sent there.
    #[must_use]
    pub fn permits(&self, target: &str) -> bool {
        // Browsers drop tabs and line breaks and read a backslash as a slash.
        if target.is_empty() || target.contains('\\') || target.chars().any(char::is_control) {
            return false;
        }
        if target.starts_with('/') {
            return self.own_paths && !target.starts_with("//");
        }
        let Ok(url) = Url::parse(target) else { return false };
        if !url.username().is_empty() || url.password().is_some() {
            return false;
        }
        self.allowed.iter().any(|allowed| {
            url.origin() == allowed.origin()
                && url
                    .path()
                    .strip_prefix(allowed.path())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || allowed.path().ends_with('/'))
        })
    }
}

#[cfg(test)]
mod tests {
    //! Ways to get out of an allow-list.
    use super::*;

    #[test]
    fn only_listed_targets_are_permitted() {
        let listed = ReturnTargets::none()
            .own_paths()
            .allow("https://app.example.com/settings")
            .unwrap()
            .allow("http://localhost:3000/")
            .unwrap();
        for (target, permitted) in [
            ("/", true),
            ("/settings?tab=1#top", true),
            ("https://app.example.com/settings", true),
            ("https://app.example.com:443/settings", true),
            ("https://app.example.com/settings/", true),
            ("https://app.example.com/settings/a?b#c", true),
            ("http://localhost:3000/any", true),
            ("https://APP.example.com/settings", true),
            ("", false),
            ("settings", false),
            ("//evil.example", false),
            ("/\\evil.example", false),
            ("/\t/evil.example", false),
            ("\n//evil.example", false),
            ("https:\\\\app.example.com\\settings", false),
            ("https://app.example.com", false),
            ("https://app.example.com/settings2", false),
            ("https://app.example.com/settings/../admin", false),
            ("https://app.example.com.evil.example/settings", false),
            ("https://app.example.com@evil.example/settings", false),
            ("https://user@app.example.com/settings", false),
            ("http://app.example.com/settings", false),
            ("https://app.example.com:8443/settings", false),
            ("http://localhost:3001/", false),
            ("javascript:alert(1)", false),
            ("data:text/html,x", false),
        ] {
            assert_eq!(listed.permits(target), permitted, "{target:?}");
        }
        let none = ReturnTargets::none();
        for target in ["/", "https://app.example.com/settings"] {
            assert!(!none.permits(target));
        }
        for wrong in
            ["app.example.com", "http://app.example.com/", "https://a@b/", "https://a/?b", "https://a/#b", "/a"]
        {
            assert!(ReturnTargets::none().allow(wrong).is_err(), "{wrong}");
        }
    }
}
