//! What runs on a compute node: the agent, inside the node's network namespace.
//!
//! It stands where Azure's Batch node agent and the Machine Learning start-up script stand. It
//! listens on the management ports, reaches out to the services a node needs, and tells what it
//! could reach *by its own packets*: nothing in here is told by the host side whether a path is
//! open. A management peer must prove that it holds the node's key before it learns anything,
//! since neighbours in the same subnet can connect to these ports too.
//!
//! Not here: jobs (part 2 adds them), and any knowledge of rules or routes.

pub mod build;
pub mod config;
pub mod connect;
pub mod dns;
pub mod egress;
pub mod handshake;
pub mod inbound;
pub mod spec;
pub mod work;

pub use config::{AgentConfig, Mode};
pub use egress::Egress;

/// Runs the agent until its process is killed. `config` is the JSON of an [`AgentConfig`], or of a
/// [`build::BuildOrder`].
/// Returns an exit code only if it could not start.
pub fn run(config: &str) -> i32 {
    if let Some(order) = build::order(config) {
        return build::run(&order);
    }
    let config: AgentConfig = match serde_json::from_str(config) {
        Ok(c) => c,
        Err(_) => return 64,
    };
    let egress = std::sync::Arc::new(Egress::new(&config));
    let reporter = {
        let (egress, config) = (egress.clone(), config.clone());
        std::thread::Builder::new().name("egress".to_owned()).spawn(move || egress.run(&config))
    };
    if reporter.is_err() {
        return 71;
    }
    match inbound::serve(&config, &egress) {
        Ok(never) => match never {},
        Err(_) => 74,
    }
}
