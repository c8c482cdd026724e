//! Random worlds and flows for comparing the model with a kernel.
//!
//! Pure and seeded. Worlds hold what the data plane builds (no private endpoints, firewalls or
//! VPN gateways); flows prefer the edges of ranges, tags and prefixes, where mistakes live. Flows
//! are chosen so that every stage has its share; which verdict is right is for the kernel to say.

mod flows;
mod rng;
mod sabotage;
mod world;

pub use flows::{Campaign, Case, replies};
pub use rng::Rng;
pub use sabotage::{Sabotage, sabotage};
pub use world::{Options, world};
