//! Where a credential may be sent: the hosts of its connection's environment. The client's own list of hosts says where
//! anything of the provider may go; this one keeps what belongs to one environment out of another.

use std::fmt;
use std::sync::Arc;

use http::Uri;
use http::uri::{Authority, Scheme};

/// The hosts one credential may be sent to. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Audience(Arc<[Entry]>);

#[derive(PartialEq, Eq)]
struct Entry {
    written: String,
    host: String,
    port: Option<u16>,
}

impl Audience {
    /// Takes hosts with an optional port, as [`crate::client::Profile::hosts`] has them: one without a port is its
    /// scheme's own. What is no host matches nothing.
    #[must_use]
    pub fn of<'a>(hosts: impl IntoIterator<Item = &'a str>) -> Self {
        let entry = |written: &str| {
            let authority: Authority = written.parse().ok()?;
            let written = written.to_ascii_lowercase();
            Some(Entry { written, host: authority.host().to_ascii_lowercase(), port: authority.port_u16() })
        };
        Self(hosts.into_iter().filter_map(entry).collect())
    }

    /// Takes the host of one base URL. What is no URL permits nothing.
    #[must_use]
    pub fn of_base_url(base_url: &str) -> Self {
        let uri: Option<Uri> = base_url.parse().ok();
        Self::of(uri.as_ref().and_then(Uri::authority).map(Authority::as_str))
    }

    /// Tells whether the credential may be sent to an address.
    #[must_use]
    pub fn permits(&self, uri: &Uri) -> bool {
        let Some(authority) = uri.authority() else { return false };
        // Nearly always the address is written as the entry is.
        if self.0.iter().any(|entry| entry.written == authority.as_str()) {
            return true;
        }
        let default = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
        let port = authority.port_u16().unwrap_or(default);
        self.0
            .iter()
            .any(|entry| entry.port.unwrap_or(default) == port && entry.host.eq_ignore_ascii_case(authority.host()))
    }
}

impl fmt::Debug for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|entry| &entry.written)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a port or a part of a name is not compared.
    #[test]
    fn only_the_hosts_of_the_list_are_permitted() {
        let audience = Audience::of(["slack.com", "files.Slack.com", "127.0.0.1:9", "two words"]);
        for (address, permitted) in [
            ("https://slack.com/api/x", true),
            ("https://slack.com:443/api/x", true),
            ("https://SLACK.com/", true),
            ("https://files.slack.com/", true),
            ("http://127.0.0.1:9/", true),
            ("https://slack.com:8443/", false),
            ("https://slack.com.evil.example/", false),
            ("https://evil-slack.com/", false),
            ("http://127.0.0.1/", false),
            ("http://127.0.0.1:90/", false),
            ("/path", false),
        ] {
            assert_eq!(audience.permits(&address.parse().unwrap()), permitted, "{address}");
        }
        let one = Audience::of_base_url("http://127.0.0.1:12/path");
        assert!(one.permits(&"http://127.0.0.1:12/other".parse().unwrap()));
        assert!(!one.permits(&"http://127.0.0.1:13/path".parse().unwrap()));
        assert!(!Audience::of_base_url("nonsense").permits(&"https://slack.com/".parse().unwrap()));
    }
}
