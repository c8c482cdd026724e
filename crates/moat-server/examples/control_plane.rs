//! The control plane alone, on loopback, without a data plane: for benches and for trying things.
//!
//! `cargo run -p moat-server --example control_plane -- STATE_DIR [PORT]` prints one JSON line when
//! it answers, then serves until it is told to stop.
#![allow(clippy::print_stdout, reason = "the line on stdout is what it is for")]

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let state_dir = PathBuf::from(arguments.next().ok_or("usage: control_plane STATE_DIR [PORT]")?);
    let port: u16 = arguments.next().map_or(Ok(0), |p| p.parse())?;
    std::fs::create_dir_all(&state_dir)?;
    let socket = state_dir.join("control.sock");
    let _ = std::fs::remove_file(&socket);
    let config = moat_server::ServeConfig {
        env_name: "example".to_owned(),
        edition: moat_model::Edition::Seed2021,
        listen: TcpListener::bind(("127.0.0.1", port))?,
        control: UnixListener::bind(&socket)?,
        state_dir,
        package_index: None,
    };
    moat_server::serve(config, Arc::new(moat_server::NoHost), |ready| {
        let environment = &ready.environment;
        println!(
            "{}",
            serde_json::json!({
                "address": ready.address, "caFile": ready.ca_file, "tenant": environment.tenant,
                "subscription": environment.subscription, "clientId": environment.client_id,
            })
        );
    })?;
    Ok(())
}
