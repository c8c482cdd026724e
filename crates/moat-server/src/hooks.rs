//! What the server asks of whoever runs the nodes. Set once by the reconcilers; until then there
//! are no nodes, and the answers say so.

use std::net::IpAddr;
use std::sync::OnceLock;

use moat_control::Principal;

/// A node's report about itself, not yet judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// Which node it says it is.
    pub node: String,
    /// What it says, as text: the code covers these very bytes.
    pub status: String,
    /// Proof that the node's key was used.
    pub code: String,
    /// Where it came from.
    pub source: IpAddr,
}

type IdentityOf = Box<dyn Fn(&str, IpAddr) -> Option<Principal> + Send + Sync>;
type OnNodeReport = Box<dyn Fn(&NodeReport) -> bool + Send + Sync>;

/// Set-once callbacks.
#[derive(Default)]
pub struct Hooks {
    identity_of: OnceLock<IdentityOf>,
    on_node_report: OnceLock<OnNodeReport>,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

impl Hooks {
    /// Who the node at `address` in VNet `vnet` (document id) is; asked at every IMDS token request.
    /// Only the first setting counts.
    pub fn set_identity_of(&self, f: impl Fn(&str, IpAddr) -> Option<Principal> + Send + Sync + 'static) {
        let _ = self.identity_of.set(Box::new(f));
    }

    /// Judges a node's report: `false` refuses it. Only the first setting counts.
    pub fn set_on_node_report(&self, f: impl Fn(&NodeReport) -> bool + Send + Sync + 'static) {
        let _ = self.on_node_report.set(Box::new(f));
    }

    pub(crate) fn identity_of(&self, vnet: &str, address: IpAddr) -> Option<Principal> {
        self.identity_of.get()?(vnet, address)
    }

    pub(crate) fn node_report(&self, report: &NodeReport) -> bool {
        self.on_node_report.get().is_some_and(|judge| judge(report))
    }
}
