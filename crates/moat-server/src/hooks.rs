//! What the server asks of whoever runs the nodes. Set once by the reconcilers; until then there
//! are no nodes, and the answers say so.

use std::net::IpAddr;
use std::sync::OnceLock;

use moat_control::Principal;

type IdentityOf = Box<dyn Fn(&str, IpAddr) -> Option<Principal> + Send + Sync>;

/// Set-once callbacks.
#[derive(Default)]
pub struct Hooks {
    identity_of: OnceLock<IdentityOf>,
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

    pub(crate) fn identity_of(&self, vnet: &str, address: IpAddr) -> Option<Principal> {
        self.identity_of.get()?(vnet, address)
    }
}
