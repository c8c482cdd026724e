//! Does: turns a [`moat_net::ir::Net`] into namespaces, links, routes and firewalls of this Linux host.
//!
//! Three layers. Pure values and functions: [`layout`], [`ruleset`], [`plan`], [`diff`],
//! [`verify`], [`nft_text`]. The codec: [`netlink`]. Hands: [`linux`], the only module with
//! `netlink` that may use unsafe code. Around them the helper process ([`world`], `helper`).
//!
//! Not here: documents and Azure words beyond those of `moat-net`, HTTP, storage, scheduling.

pub mod diff;
pub mod layout;
pub mod linux;
pub mod netlink;
pub mod ruleset;
pub mod verify;

pub use diff::{Step, diff};
pub use layout::{Fabric, HostPlan, NsName, RuleRef};
pub use linux::{Applier, Observed, SocketSpec};
pub use verify::{Mismatch, verify};
