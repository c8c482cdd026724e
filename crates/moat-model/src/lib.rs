//! What each resource type means: its table entry, what the service refuses, what it fills in,
//! whom it references, how it lowers into a network, and what an environment asks to be installed. Pure.

pub mod alloc;
pub mod edition;
pub mod environment;
pub mod jobs;
pub mod lower;
pub mod refs;
pub mod refusals;
pub mod resource_type;
pub mod storage;
pub mod types;
pub mod world_file;

pub use edition::Edition;
pub use resource_type::{ResourceType, TypeCtx};
