//! The one table of host names: who answers, and in which service tag the address lies.
//!
//! DNS, TLS, HTTP routing and the backbone's addresses all read it, so a name that resolves also
//! has a certificate, an address and an answer. Everything else does not exist (NXDOMAIN).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::Handler;

/// The name of the loopback listener itself.
pub const LOCALHOST: &str = "localhost";

/// Domains whose names resolve; the CA certificate is constrained to them.
pub const DOMAINS: &[&str] = &[
    "aka.ms",
    "azure.com",
    "azure.net",
    "azureedge.net",
    "azurecr.io",
    "azuredatabricks.net",
    "azurefd.net",
    "azureml.ms",
    "azureml.net",
    "azurewebsites.net",
    "cloudapp.net",
    "live.com",
    "microsoft.com",
    "microsoftonline.com",
    "msauth.net",
    "msftauth.net",
    "msidentity.com",
    "office.com",
    "trafficmanager.net",
    "visualstudio.com",
    "windows.com",
    "windows.net",
];

/// One service.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// A host name; with a leading `*.`, any name below it.
    pub host: &'static str,
    /// Service tag that holds its address (the region's own part of it, where there is one).
    pub tag: &'static str,
    /// Who answers.
    pub handler: Handler,
}

const fn service(host: &'static str, tag: &'static str, handler: Handler) -> Service {
    Service { host, tag, handler }
}

/// In order; the first that fits counts.
pub const SERVICES: &[Service] = &[
    service("login.microsoftonline.com", "AzureActiveDirectory", Handler::Login),
    service("login.windows.net", "AzureActiveDirectory", Handler::Login),
    service("login.microsoft.com", "AzureActiveDirectory", Handler::Login),
    service("sts.windows.net", "AzureActiveDirectory", Handler::Login),
    service("graph.microsoft.com", "AzureActiveDirectory", Handler::Graph),
    service("graph.windows.net", "AzureActiveDirectory", Handler::Absent),
    service("management.azure.com", "AzureResourceManager", Handler::Arm),
    service("management.core.windows.net", "AzureResourceManager", Handler::Arm),
    service("*.api.azureml.ms", "AzureMachineLearning", Handler::Regional),
    service("*.azureml.ms", "AzureMachineLearning", Handler::Absent),
    service("*.azureml.net", "AzureMachineLearning", Handler::Absent),
    service("*.blob.core.windows.net", "Storage", Handler::Blob),
    service("*.core.windows.net", "Storage", Handler::Absent),
    service("*.service.batch.azure.com", "BatchNodeManagement", Handler::BatchNodes),
    service("*.batch.azure.com", "BatchNodeManagement", Handler::Absent),
    service("*.azurecr.io", "AzureContainerRegistry", Handler::Registry),
    service("mcr.microsoft.com", "MicrosoftContainerRegistry", Handler::Registry),
    service("*.data.mcr.microsoft.com", "AzureFrontDoor.FirstParty", Handler::Absent),
    service("*.vault.azure.net", "AzureKeyVault", Handler::Absent),
    service("dc.services.visualstudio.com", "AzureMonitor", Handler::Telemetry),
    service("dc.applicationinsights.azure.com", "AzureMonitor", Handler::Telemetry),
    service("*.in.applicationinsights.azure.com", "AzureMonitor", Handler::Telemetry),
    service("ml.azure.com", "AzureFrontDoor.Frontend", Handler::Absent),
    service("aka.ms", "AzureFrontDoor.Frontend", Handler::Absent),
];

/// What answers for the rest of [`DOMAINS`].
const REST: Service = service("*", "AzureFrontDoor.Frontend", Handler::Absent);

/// The service at `host` (lower case, no trailing dot), if the name is emulated at all.
pub fn find(host: &str) -> Option<&'static Service> {
    let fits = |pattern: &str| match pattern.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => host == pattern,
    };
    let below = |domain: &&'static str| {
        host.strip_suffix(*domain).is_some_and(|rest| rest.is_empty() || (rest.len() > 1 && rest.ends_with('.')))
    };
    if !well_formed(host) {
        return None;
    }
    SERVICES.iter().find(|s| fits(s.host)).or_else(|| DOMAINS.iter().any(below).then_some(&REST))
}

/// Whether `host` is a parent of emulated names, such as `api.azureml.ms`, and so exists.
pub fn is_domain(host: &str) -> bool {
    !host.is_empty() && DOMAINS.iter().any(|d| d.strip_suffix(host).is_some_and(|rest| rest.ends_with('.')))
}

/// Letters, digits, hyphens and underscores between dots, as a certificate can carry them.
fn well_formed(host: &str) -> bool {
    host.len() <= 253
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        })
}

/// One service tag of a tag file, or one region's part of it.
#[derive(Debug, Clone)]
pub struct TagPart<'a> {
    /// `Storage` or `Storage.WestUS2`.
    pub name: &'a str,
    /// `westus2`; empty for the whole cloud.
    pub region: &'a str,
    /// Its prefixes.
    pub prefixes: Vec<IpNet>,
}

/// Picks addresses for names. Made once, when the tags are first needed.
#[derive(Debug)]
pub struct Addresses {
    /// (tag, region) to its address, both lower case; the whole cloud's region is empty.
    by_tag: BTreeMap<(String, String), Ipv4Addr>,
}

impl Addresses {
    /// One fixed address for each tag of the table and each regional part of it.
    pub fn of_tags(file: &moat_net::tags::TagFile) -> Self {
        let needed = file.all().filter(|tag| wanted(tag.name(), tag.region()).is_some());
        Self::new(needed.map(|tag| TagPart { name: tag.name(), region: tag.region(), prefixes: tag.prefixes() }))
    }

    /// [`Addresses::of_tags`], from any tags.
    pub fn new<'a>(parts: impl IntoIterator<Item = TagPart<'a>>) -> Self {
        let address = |part: TagPart<'a>| {
            let tag = wanted(part.name, part.region)?;
            Some(((tag, part.region.to_lowercase()), pick(&part.prefixes)?))
        };
        Self { by_tag: parts.into_iter().filter_map(address).collect() }
    }

    /// The address of `host`. `region` is where the named thing lies, if the caller knows better
    /// than the name says (a storage account's location).
    pub fn resolve(&self, host: &str, region: Option<&str>) -> Option<Ipv4Addr> {
        let tag = find(host)?.tag.to_lowercase();
        let at = |region: &str| self.by_tag.get(&(tag.clone(), region.to_lowercase()));
        // `westus2.api.azureml.ms`, `account.westus2.batch.azure.com`: the region is a label.
        let labels = host.split('.').take(2);
        region.into_iter().chain(labels).find_map(at).or_else(|| at("")).copied()
    }

    /// The address of a tag, or of a regional part of one.
    pub fn of_tag(&self, tag: &str) -> Option<Ipv4Addr> {
        let tag = tag.to_lowercase();
        let (service, region) = tag.split_once('.').unwrap_or((&tag, ""));
        let whole = (tag.clone(), String::new());
        self.by_tag.get(&(service.to_owned(), region.to_owned())).or_else(|| self.by_tag.get(&whole)).copied()
    }

    /// Every address that [`Addresses::resolve`] can give: the backbone answers for them.
    pub fn all(&self) -> BTreeSet<Ipv4Addr> {
        self.by_tag.values().copied().collect()
    }
}

/// The table's tag (lower case) that this tag of the file is, or is a regional part of. Only names
/// with a part of their own can say a region.
fn wanted(name: &str, region: &str) -> Option<String> {
    let regional = !region.is_empty();
    let whole = if regional { name.rsplit_once('.').map_or(name, |(service, _region)| service) } else { name };
    let serves =
        |service: &&Service| service.tag.eq_ignore_ascii_case(whole) && (!regional || service.host.starts_with("*."));
    SERVICES.iter().chain([&REST]).find(serves).map(|service| service.tag.to_lowercase())
}

/// A fixed address inside a tag's prefixes: the tenth of the first prefix that has room, away from
/// the network's ends. The same tag file always gives the same address.
fn pick(prefixes: &[IpNet]) -> Option<Ipv4Addr> {
    const OFFSET: u32 = 10;
    let v4 = || prefixes.iter().filter_map(|p| if let IpNet::V4(p) = p { Some(p) } else { None });
    let roomy = v4().find(|p| p.prefix_len() <= 27).map(|p| u32::from(p.network()) + OFFSET);
    roomy.or_else(|| v4().next().map(|p| u32::from(p.network()))).map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Addresses {
        let tags = [
            ("Storage", "", "20.60.0.0/16"),
            ("Storage.WestUS2", "westus2", "20.61.0.0/24"),
            ("AzureResourceManager", "", "20.1.0.0/32"),
            ("AzureMachineLearning", "", "20.62.0.0/24"),
            ("BatchNodeManagement", "", "20.63.0.0/24"),
            ("BatchNodeManagement.WestUS2", "westus2", "20.64.0.0/24"),
            ("AzureFrontDoor.Frontend", "", "20.65.0.0/24"),
            ("Sql", "", "20.66.0.0/24"),
        ];
        Addresses::new(tags.map(|(name, region, prefix)| TagPart {
            name,
            region,
            prefixes: vec![prefix.parse().unwrap()],
        }))
    }

    #[test]
    fn names_find_their_service() {
        let handler = |host| find(host).map(|s| s.handler);
        assert_eq!(handler("login.microsoftonline.com"), Some(Handler::Login));
        assert_eq!(handler("westus2.api.azureml.ms"), Some(Handler::Regional));
        assert_eq!(handler("acct.blob.core.windows.net"), Some(Handler::Blob));
        assert_eq!(handler("acct.file.core.windows.net"), Some(Handler::Absent));
        assert_eq!(handler("portal.azure.com"), Some(Handler::Absent));
        for unknown in
            ["example.com", "azure.com.evil.org", "notazure.com", "", "..azure.com", ".azure.com", "a b.azure.com"]
        {
            assert!(find(unknown).is_none(), "{unknown}");
        }
    }

    #[test]
    fn every_service_lies_in_a_domain_the_ca_may_sign_for() {
        for service in SERVICES {
            let name = service.host.trim_start_matches("*.");
            assert!(DOMAINS.iter().any(|d| name == *d || name.ends_with(&format!(".{d}"))), "{name}");
        }
    }

    #[test]
    fn addresses_lie_in_the_regional_tag_where_there_is_one() {
        let addresses = addresses();
        let at = |host: &str, region| addresses.resolve(host, region).map(|a| a.to_string());
        assert_eq!(at("acct.blob.core.windows.net", None).as_deref(), Some("20.60.0.10"));
        assert_eq!(at("acct.blob.core.windows.net", Some("westus2")).as_deref(), Some("20.61.0.10"));
        assert_eq!(at("acct.blob.core.windows.net", Some("nowhere")).as_deref(), Some("20.60.0.10"));
        assert_eq!(at("westus2.service.batch.azure.com", None).as_deref(), Some("20.64.0.10"));
        assert_eq!(at("acct.westus2.batch.azure.com", None).as_deref(), Some("20.64.0.10"));
        assert_eq!(at("westus2.api.azureml.ms", None).as_deref(), Some("20.62.0.10"));
        assert_eq!(at("management.azure.com", None).as_deref(), Some("20.1.0.0"));
        assert_eq!(at("portal.azure.com", None).as_deref(), Some("20.65.0.10"));
        assert_eq!(at("example.com", None), None);
        assert!(!addresses.all().contains(&"20.66.0.10".parse().unwrap()), "only what is needed");
        assert_eq!(addresses.all().len(), 7);
    }
}
