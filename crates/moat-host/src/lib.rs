//! Does: turns a [`moat_net::ir::Net`] into namespaces, links, routes and firewalls of this Linux host.
//!
//! Three layers. Pure values and functions: `layout`, `ruleset`, `plan`, `diff`,
//! `verify`, [`nft_text`]. The codec: [`netlink`]. Hands: [`linux`], the only module with
//! `netlink` that may use unsafe code. Around them the processes of an environment ([`world`], [`helper`], [`client`],
//! [`protocol`]), and the sandboxes of jobs ([`run`]).
//!
//! Not here: documents and Azure words beyond those of `moat-net`, HTTP, storage, scheduling.

pub mod client;
pub mod diff;
pub mod helper;
pub mod layout;
pub mod linux;
pub mod netlink;
pub mod nft_text;
pub mod plan;
pub mod protocol;
pub mod ruleset;
pub mod run;
pub mod testbed;
pub mod verify;
pub mod world;

pub use client::{HostClient, HostError};
pub use diff::{Step, diff};
pub use layout::{Fabric, HostPlan, NsName, RuleRef};
pub use linux::{Applier, Observed, SocketSpec};
pub use plan::plan;
pub use verify::{Mismatch, verify};
