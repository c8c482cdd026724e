//! `moat exec`: runs a program at a place, with the environment's names, certificates and credentials.
//!
//! Fails closed: a variable that could lead to the real Azure or past the place's network is removed, not kept.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Args;
use moat_host::world::place::{self, NotRun, PlaceSpec};
use moat_host::world::{Failure, RUN_DIR};
use serde::Deserialize;
use serde_json::json;

use super::{Which, exit_code, up};
use crate::control::Control;
use crate::environment::{Environment, read_untrusted};
use crate::ui;

/// Exit code where Moat itself fails (as `env`, `nice` and `timeout` do).
const EXIT_OURS: i32 = 125;
/// Where distributions keep the certificates that a program trusts.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// A PEM certificate is some KiB.
const CA_BYTES_MAX: u64 = 64 << 10;
/// Variables of the host that speak of Azure, of its identities or of a way around the place's network.
const REMOVED_PREFIXES: [&str; 7] = ["AZURE_", "ARM_", "MSI_", "IDENTITY_", "IMDS_", "AZUREML_", "AML_"];
/// The same, whole names in upper case.
const REMOVED_NAMES: [&str; 4] = ["SSL_CERT_DIR", "DOCKER_HOST", "CONTAINER_HOST", "DBUS_SYSTEM_BUS_ADDRESS"];

/// Run a program at a place of the network.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Where: `internet` or `VNET/SUBNET`.
    #[arg(long, default_value = "internet")]
    at: String,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// See the module.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let environment = arguments.which.environment()?;
    Ok(finish(at(&environment, &arguments.at, &arguments.command, &[])))
}

/// Exits with the program's code, or says why it did not run.
pub(super) fn finish(ran: Result<i32, NotRun>) -> ExitCode {
    exit_code(ran.unwrap_or_else(|not_run| {
        ui::error(&not_run.failure);
        not_run.code
    }))
}

/// The server's answer to `place`.
#[derive(Debug, Deserialize)]
struct Place {
    netns: String,
    #[serde(default)]
    env: std::collections::BTreeMap<String, String>,
    #[serde(default, alias = "caPem")]
    ca_pem: Option<String>,
}

/// Runs `command` at `place`. The process lives in the world afterwards.
pub(super) fn at(
    environment: &Environment,
    place: &str,
    command: &[OsString],
    extra: &[(&str, &OsStr)],
) -> Result<i32, NotRun> {
    let ours = |failure| NotRun { failure, code: EXIT_OURS };
    let running = environment.running().map_err(ours)?;
    // Held until the program has ended: the address lent for the place goes with it.
    let mut lease = Control::connect(environment).map_err(ours)?;
    let answer = lease.call("place", &json!({ "at": place })).map_err(ours)?;
    let answer: Place = serde_json::from_value(answer)
        .map_err(|error| ours(Failure::bare(format!("the server's answer is not understood: {error}"))))?;

    let mut words = command.iter();
    let program = words.next().ok_or_else(|| ours(Failure::bare("no program was named")))?;
    let mut run = Command::new(program);
    run.args(words);
    let ca = answer.ca_pem.or_else(|| read_untrusted(&environment.data_dir().join("ca.pem"), CA_BYTES_MAX));
    let bundle = format!("{}\n{}", system_roots(), ca.unwrap_or_default());
    set_variables(&mut run, environment, &answer.env, extra);

    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let private = environment.dir.join("home");
    let cover = home
        .map(|home| {
            vec![(home.join(".azure"), private.join("azure")), (home.join(".azureml"), private.join("azureml"))]
        })
        .unwrap_or_default();
    let spec = PlaceSpec {
        init: running.init,
        netns: answer.netns,
        hide: up::hidden(environment),
        cover,
        files: vec![("ca.pem".to_owned(), bundle)],
    };
    let code = place::run(&spec, run);
    drop(lease);
    code
}

fn set_variables(
    run: &mut Command,
    environment: &Environment,
    from_server: &std::collections::BTreeMap<String, String>,
    extra: &[(&str, &OsStr)],
) {
    for (name, _) in std::env::vars_os() {
        if leads_outside(&name) {
            run.env_remove(name);
        }
    }
    let bundle = Path::new(RUN_DIR).join("ca.pem");
    for name in
        ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "PIP_CERT", "GIT_SSL_CAINFO"]
    {
        run.env(name, &bundle);
    }
    // azure-cli and azureml-core make ~/.azure and ~/.azureml/auth only where these are not set.
    run.env("AZURE_CONFIG_DIR", environment.dir.join("home/azure"));
    run.env("AZUREML_AUTH_CONFIG_DIR", environment.dir.join("home/azureml"));
    run.env("AZURE_CORE_COLLECT_TELEMETRY", "0");
    run.env("MOAT_ENV", &environment.name);
    run.envs(from_server);
    for (azure, arm) in [
        ("AZURE_TENANT_ID", "ARM_TENANT_ID"),
        ("AZURE_CLIENT_ID", "ARM_CLIENT_ID"),
        ("AZURE_CLIENT_SECRET", "ARM_CLIENT_SECRET"),
        ("AZURE_SUBSCRIPTION_ID", "ARM_SUBSCRIPTION_ID"),
    ] {
        if let (Some(value), false) = (from_server.get(azure), from_server.contains_key(arm)) {
            run.env(arm, value);
        }
    }
    run.envs(extra.iter().copied());
}

fn leads_outside(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_ascii_uppercase();
    name.ends_with("_PROXY")
        || REMOVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || REMOVED_NAMES.contains(&name.as_str())
}

fn system_roots() -> String {
    SYSTEM_ROOTS.iter().find_map(|path| std::fs::read_to_string(path).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_azure_and_its_proxies_are_left_behind() {
        for gone in
            ["AZURE_TENANT_ID", "ARM_CLIENT_SECRET", "https_proxy", "NO_PROXY", "MSI_ENDPOINT", "IDENTITY_HEADER"]
        {
            assert!(leads_outside(OsStr::new(gone)), "{gone}");
        }
        for kept in ["PATH", "HOME", "TERM", "LOCATION", "LANG", "PYTHONPATH"] {
            assert!(!leads_outside(OsStr::new(kept)), "{kept}");
        }
    }
}
