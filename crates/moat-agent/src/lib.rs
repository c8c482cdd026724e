//! What runs on a compute node: the agent, inside the node's network namespace.
//!
//! It stands where Azure's Batch node agent and the Machine Learning start-up script stand. It
//! listens on the management ports, reaches out to the services a node needs, and tells what it
//! could reach *by its own packets*: nothing in here is told by the host side whether a path is
//! open. A management peer must prove that it holds the node's key before it learns anything,
//! since neighbours in the same subnet can connect to these ports too.
//!
//! It runs jobs ([`job`]): one at a time, each in a sandbox below it, all bytes by its own packets.
//!
//! Not here: any knowledge of rules or routes.

pub mod build;
pub mod config;
pub mod connect;
pub mod dns;
pub mod egress;
pub mod handshake;
pub mod inbound;
pub mod job;
pub mod spec;
mod tls;
pub mod work;

use std::path::Path;
use std::sync::Arc;

pub use config::{AgentConfig, Mode};
pub use egress::Egress;

/// The configuration cannot be read, as `sysexits.h` numbers it.
const EXIT_USAGE: i32 = 64;
/// The kernel refused what every agent needs.
const EXIT_OS: i32 = 71;
/// A management port could not be opened.
const EXIT_IO: i32 = 74;

/// Runs the agent until its process is killed. `config` is the JSON of an [`AgentConfig`], or of a
/// [`build::BuildOrder`].
/// Returns an exit code only if it could not start. The process must have one thread.
pub fn run(config: &str) -> i32 {
    if let Some(order) = build::order(config) {
        return build::run(&order);
    }
    let config: AgentConfig = match serde_json::from_str(config) {
        Ok(c) => c,
        Err(_) => return EXIT_USAGE,
    };
    node(&config)
}

fn node(config: &AgentConfig) -> i32 {
    // Before any thread: what forks for a job has one thread only.
    let Ok(launcher) = moat_host::run::Launcher::start() else { return EXIT_OS };
    let sandbox = Arc::new(job::Launched::new(launcher, config));
    let egress = Arc::new(Egress::new(config));
    let Ok(jobs) = job::Jobs::start(config, egress.clone(), sandbox, Path::new(spec::WORK_DIR)) else {
        return EXIT_OS;
    };
    let reporter = {
        let (egress, jobs, config) = (egress.clone(), jobs.clone(), config.clone());
        std::thread::Builder::new().name("egress".to_owned()).spawn(move || egress.run(&config, &jobs))
    };
    if reporter.is_err() {
        return EXIT_OS;
    }
    match inbound::serve(config, &egress, &jobs) {
        Ok(never) => match never {},
        Err(_) => EXIT_IO,
    }
}
