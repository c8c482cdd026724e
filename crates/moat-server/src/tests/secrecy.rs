//! A canary: secrets and tokens must not reach logs, `Debug` output, answers or the database.

use std::io::Write;
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::Harness;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn secrets_and_tokens_reach_neither_logs_nor_disk() {
    let sink = Sink::default();
    let writer = sink.clone();
    // Global, so that every thread of the server is heard; tests run beside this one are heard too.
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
    subscriber.with_writer(move || writer.clone()).try_init().unwrap();

    let server = Harness::start();
    let secret = server.ready.environment.client_secret.reveal().to_owned();
    let token = server.token("https://management.azure.com");
    let forged = format!("{token}x");
    let canary = "canary-in-a-body";
    let bearer = format!("Bearer {token}");
    let subscription = &server.ready.environment.subscription;
    server.arm(
        "PUT",
        &format!("/subscriptions/{subscription}/resourcegroups/g?api-version=2024-11-01"),
        Some(&json!({"location": "westus2"})),
    );
    server.call(
        "GET",
        "management.azure.com/subscriptions?api-version=2022-12-01",
        &[("Authorization", &format!("Bearer {forged}"))],
        "",
    );
    server.call("PUT", "acct.blob.core.windows.net/c/b?sig=canary-in-a-query", &[("Authorization", &bearer)], canary);
    server.ask_token(&[("client_secret", "canary-wrong-secret")]);
    let shown = format!("{:?} {:?} {:?}", server.ready, server.ready.server, server.ready.server.authority);
    server.arm("GET", "/subscriptions?api-version=2022-12-01", None);

    let log = String::from_utf8_lossy(&sink.0.lock().unwrap()).into_owned();
    assert!(log.contains("answered"), "the log is heard at all");
    let state = server.dir.path().join("state");
    let mut disk = Vec::new();
    let mut folders = vec![state];
    while let Some(folder) = folders.pop() {
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("client.secret") {
                disk.extend(std::fs::read(path).unwrap());
            }
        }
    }
    let disk = String::from_utf8_lossy(&disk).into_owned();
    let signature = token.rsplit('.').next().unwrap();
    for hidden in [secret.as_str(), signature, canary, "canary-in-a-query", "canary-wrong-secret"] {
        for (place, text) in [("log", &log), ("Debug output", &shown), ("disk", &disk)] {
            assert!(!text.contains(hidden), "a secret is in the {place}");
        }
    }
}
