//! Packages for builds of environments: the one way from a build to the world outside.
//!
//! A build runs strangers' code in a namespace that has nothing but loopback. One socket in it leads here, to a
//! [`proxy`] that speaks for exactly one package index (`moat up --package-index`): its pages, and the wheels that
//! those pages name. It is no open proxy: there is no request that names a host, and nothing of the host's own pip
//! configuration, proxies or credentials is used. Only wheels pass, so no build runs anybody's `setup.py`.
//!
//! * [`index`]: which index, as a person names it.
//! * [`page`]: what an index says of one project, read and written again for the build (pure).
//! * [`upstream`]: asking the index, over TLS.
//! * [`proxy`]: answering the build.

pub mod index;
pub mod page;
pub mod proxy;
pub mod upstream;

pub use index::{Index, IndexError};
pub use proxy::Proxy;
