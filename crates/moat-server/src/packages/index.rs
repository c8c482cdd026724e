//! Which package index the builds of an environment use.

use std::net::IpAddr;
use std::str::FromStr;

use url::{Host, Url};

/// What `moat up` takes when nothing is said.
pub const DEFAULT: &str = "https://pypi.org/simple";

/// A simple index (PEP 503 and 691).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Ends with a slash.
    base: Url,
}

/// Why a text names no index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// Not a URL.
    #[error("`{0}` is no URL, nor `none`")]
    NoUrl(String),
    /// Credentials would be in process lists and logs.
    #[error("the URL of a package index has no user name or password in it")]
    Credentials,
    /// Plain HTTP.
    #[error("a package index is asked over https; http is for one on this machine's loopback only")]
    Insecure,
    /// No place for a query.
    #[error("the URL of a package index has no `?` and no `#`")]
    Query,
}

impl Index {
    /// Reads what a person gave.
    pub fn parse(text: &str) -> Result<Self, IndexError> {
        let mut base = Url::parse(text.trim()).map_err(|_| IndexError::NoUrl(text.to_owned()))?;
        if !base.username().is_empty() || base.password().is_some() {
            return Err(IndexError::Credentials);
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(IndexError::Query);
        }
        match base.scheme() {
            "https" if base.host().is_some() => {}
            "http" if is_loopback(&base) => {}
            _ => return Err(IndexError::Insecure),
        }
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        Ok(Self { base })
    }

    /// As it counts in hashes of environments and is shown: without the last slash.
    pub fn id(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// The page of a project, whose name is normalised.
    pub(crate) fn page(&self, name: &str) -> Option<Url> {
        self.base.join(&format!("{name}/")).ok()
    }

    /// Whether this URL may be asked at all on behalf of this index.
    pub(crate) fn may_ask(&self, url: &Url) -> bool {
        let secure = url.scheme() == "https" || (self.is_loopback() && url.scheme() == "http" && is_loopback(url));
        secure && url.host().is_some() && url.username().is_empty() && url.password().is_none()
    }

    /// Whether it is served by this machine itself (tests, mirrors).
    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.base)
    }

    /// Whether `url` is at the index's own host.
    pub(crate) fn is_own(&self, url: &Url) -> bool {
        url.host() == self.base.host()
    }
}

impl FromStr for Index {
    type Err = IndexError;

    fn from_str(text: &str) -> Result<Self, IndexError> {
        Self::parse(text)
    }
}

impl std::fmt::Display for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.id())
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(a)) => a.is_loopback(),
        Some(Host::Ipv6(a)) => a.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Whether a file may come from this address. The index's own host is whoever the operator chose; for others that its
/// pages name, this machine and its link are out of bounds, and private networks too unless the index lies in one.
pub(crate) fn may_reach(address: IpAddr, own: bool, index_is_private: bool) -> bool {
    let address = match address {
        IpAddr::V6(a) => a.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    };
    let never = match address {
        IpAddr::V4(a) => {
            a.is_loopback() || a.is_link_local() || a.is_unspecified() || a.is_multicast() || a.is_broadcast()
        }
        IpAddr::V6(a) => a.is_loopback() || a.is_unicast_link_local() || a.is_unspecified() || a.is_multicast(),
    };
    own || (!never && (!is_private(address) || index_is_private))
}

/// Addresses of private networks.
pub(crate) fn is_private(address: IpAddr) -> bool {
    match address {
        // 100.64/10: between a provider and its customers.
        IpAddr::V4(a) => a.is_private() || (a.octets()[0] == 100 && a.octets()[1] & 0xc0 == 64),
        IpAddr::V6(a) => a.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_index_is_taken() {
        for good in [
            "https://pypi.org/simple",
            "https://pypi.org/simple/",
            "http://127.0.0.1:8080/simple",
            "http://localhost/s",
        ] {
            assert_eq!(Index::parse(good).unwrap().id(), good.trim_end_matches('/'));
        }
        for (bad, error) in [
            ("http://pypi.org/simple", IndexError::Insecure),
            ("file:///tmp/x", IndexError::Insecure),
            ("https://me:secret@host/simple", IndexError::Credentials),
            ("https://host/simple?x=1", IndexError::Query),
            ("pypi", IndexError::NoUrl("pypi".to_owned())),
        ] {
            assert_eq!(Index::parse(bad), Err(error), "{bad}");
        }
        assert_eq!(
            Index::parse("https://h/simple").unwrap().page("numpy").unwrap().as_str(),
            "https://h/simple/numpy/"
        );
    }

    #[test]
    fn a_page_cannot_send_a_build_into_a_private_network() {
        let reach = |a: &str, own, private| may_reach(a.parse().unwrap(), own, private);
        for never in ["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1", "::ffff:127.0.0.1", "224.0.0.1"] {
            assert!(!reach(never, false, true), "{never}");
        }
        for private in ["10.1.2.3", "192.168.1.1", "172.20.0.1", "100.64.0.1", "fd00::1", "::ffff:10.0.0.1"] {
            assert!(!reach(private, false, false) && reach(private, false, true), "{private}");
        }
        assert!(reach("151.101.0.223", false, false) && reach("127.0.0.1", true, false));
    }
}
