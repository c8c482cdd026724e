//! The edge: TLS names, Host and Origin rules, limits, keep-alive, the control socket, restart.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use serde_json::json;

use super::Harness;
use super::client::Connection;

const SUBSCRIPTIONS: &str = "/subscriptions?api-version=2022-12-01";

#[test]
fn names_have_certificates_and_others_have_none() {
    let server = Harness::start();
    for name in
        ["management.azure.com", "acct123.blob.core.windows.net", "westus2.api.azureml.ms", "aka.ms", "localhost"]
    {
        assert!(Connection::open(&server.ready, name).is_ok(), "{name}");
    }
    for name in ["example.com", "azure.com.example.org"] {
        assert!(Connection::open(&server.ready, name).is_err(), "{name}");
    }
    assert!(Connection::open(&server.ready, "127.0.0.1").is_ok(), "clients that connect to the address");
}

#[test]
fn one_connection_serves_many_requests() {
    let server = Harness::start();
    let token = format!("Bearer {}", server.token("https://management.azure.com"));
    let mut connection = server.connect("management.azure.com");
    for i in 0..5 {
        let id = format!("request-{i}");
        let headers = [("Authorization", token.as_str()), ("x-ms-client-request-id", &id)];
        let answer = connection.call("GET", "management.azure.com", SUBSCRIPTIONS, &headers, "");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-ms-client-request-id"), Some(id.as_str()));
        assert!(answer.header("x-ms-request-id").is_some() && answer.header("x-ms-correlation-request-id").is_some());
    }
}

#[test]
fn the_loopback_listener_is_careful() {
    let server = Harness::start();
    let token = format!("Bearer {}", server.token("https://management.azure.com"));
    let port = server.ready.address.port();
    let get = |sni: &str, host: &str, extra: &[(&str, &str)]| {
        let mut headers = vec![("Authorization", token.as_str())];
        headers.extend(extra);
        server.connect(sni).call("GET", host, SUBSCRIPTIONS, &headers, "").refusal()
    };
    let ok = (200, String::new());
    assert_eq!(get("localhost", &format!("localhost:{port}"), &[]), ok);
    assert_eq!(get("127.0.0.1", &format!("127.0.0.1:{port}"), &[]), ok);
    assert_eq!(get("management.azure.com", &format!("management.azure.com:{port}"), &[]), ok);
    assert_eq!(get("localhost", "localhost:1", &[]).0, 404);
    assert_eq!(get("localhost", "evil.example", &[]), (404, "InvalidHostName".to_owned()));
    assert_eq!(get("localhost", "", &[]).0, 404);
    assert_eq!(get("aka.ms", "management.azure.com", &[]), (421, "MisdirectedRequest".to_owned()));
    let foreign = [("Origin", "https://evil.example")];
    assert_eq!(get("management.azure.com", "management.azure.com", &foreign), (403, "OriginNotAllowed".to_owned()));
    assert_eq!(get("management.azure.com", "management.azure.com", &[("Origin", "null")]).0, 403);
    let own = [("Origin", "https://management.azure.com")];
    assert_eq!(get("management.azure.com", "management.azure.com", &own), ok);
}

#[test]
fn plain_http_is_told_to_use_tls() {
    let server = Harness::start();
    let mut stream = TcpStream::connect(server.ready.address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 400") && text.ends_with("this port speaks HTTPS only"), "{text}");
}

#[test]
fn what_is_too_large_is_refused_once_and_for_all() {
    let server = Harness::start();
    let token = format!("Bearer {}", server.token("https://management.azure.com"));
    let body = "x".repeat(crate::http::request::BODY_BYTES_MAX + 1);
    let url = format!(
        "management.azure.com/subscriptions/{}/resourcegroups/g?api-version=2024-11-01",
        server.ready.environment.subscription
    );
    let answer = server.call("PUT", &url, &[("Authorization", &token)], &body);
    assert_eq!(answer.refusal(), (400, "RequestContentTooLarge".to_owned()));
    assert_eq!(answer.header("connection"), Some("close"));
    let long = "y".repeat(4 * crate::http::listener::HEADER_BYTES_MAX);
    let mut connection = server.connect("management.azure.com");
    // Told so, or cut off while still sending; never answered.
    match connection.try_call("GET", "management.azure.com", "/subscriptions", &[("X-Long", &long)], "") {
        Ok(answer) => assert_eq!(answer.status, 431),
        Err(cut) => assert!(cut.kind() != std::io::ErrorKind::WouldBlock, "{cut}"),
    }
}

#[test]
fn a_request_names_one_host() {
    let server = Harness::start();
    let mut connection = server.connect("management.azure.com");
    let second = [("Host", "graph.microsoft.com")];
    let answer = connection.call("GET", "management.azure.com", SUBSCRIPTIONS, &second, "");
    assert_eq!(answer.refusal(), (400, "InvalidHostName".to_owned()));
}

#[test]
fn tokens_of_others_are_refused_where_none_is_needed() {
    let server = Harness::start();
    let token = server.token("https://storage.azure.com");
    for (method, url) in [
        ("GET", "acct.blob.core.windows.net/data/b"),
        ("PUT", "acct.blob.core.windows.net/data/b"),
        ("GET", "portal.azure.com/"),
        ("POST", "dc.services.visualstudio.com/v2/track"),
    ] {
        let with = |token: &str| server.call(method, url, &[("Authorization", &format!("Bearer {token}"))], "").status;
        assert_eq!(with(&format!("{token}x")), 401, "{url}");
        assert_ne!(with(&token), 401, "{url}");
    }
}

#[test]
fn many_unfinished_bodies_of_strangers_take_little_memory() {
    const STRANGERS: usize = 64;
    let server = Harness::start();
    let resident = || -> usize {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let before = resident();
    let part = "x".repeat(3 << 20);
    // They send most of a long body, without a token, and then wait. What is not read stays in the kernel's buffers.
    let held: Vec<_> = (0..STRANGERS)
        .map(|_| {
            let mut connection = server.connect("management.azure.com");
            connection.send_in_part("PUT", "management.azure.com", SUBSCRIPTIONS, &part);
            connection
        })
        .collect();
    let all = STRANGERS * part.len();
    let grown = resident().saturating_sub(before);
    assert!(grown < all / 2, "{} MiB for {} MiB", grown >> 20, all >> 20);
    // Short requests go on.
    assert_eq!(server.arm("GET", SUBSCRIPTIONS, None).status, 200);
    drop(held);
}

#[test]
fn unimplemented_services_answer_fast_and_finally() {
    let server = Harness::start();
    assert_eq!(server.call("GET", "aka.ms/azExtCmdTree", &[], "").status, 404);
    assert_eq!(server.call("GET", "portal.azure.com/", &[], "").status, 404);
    let blob = server.call("HEAD", "azcliprod.blob.core.windows.net/cli", &[], "");
    assert_eq!((blob.status, blob.header("x-ms-error-code")), (404, Some("ResourceNotFound")));
    let track = server.call("POST", "dc.services.visualstudio.com/v2/track", &[], "[{}]");
    assert_eq!(track.json(), json!({"itemsReceived": 1, "itemsAccepted": 1, "errors": []}));
    let discovery = server.call("GET", "westus2.api.azureml.ms/discovery", &[], "").json();
    assert_eq!(discovery["history"], "https://westus2.api.azureml.ms");
    let clouds = server.call("GET", "management.azure.com/metadata/endpoints?api-version=2019-05-01", &[], "").json();
    assert_eq!(clouds[0]["suffixes"]["storage"], "core.windows.net");
}

#[test]
fn ids_keys_and_documents_survive_a_restart() {
    let server = Harness::start();
    let dir = server.dir.clone();
    let token = format!("Bearer {}", server.token("https://management.azure.com"));
    let before = server.ready.environment.clone();
    let ca = std::fs::read(&server.ready.ca_file).unwrap();
    drop(server);
    let server = Harness::start_in(Arc::clone(&dir));
    assert_eq!(server.ready.environment.subscription, before.subscription);
    assert_eq!(server.ready.environment.client_secret.reveal(), before.client_secret.reveal());
    assert_eq!(std::fs::read(&server.ready.ca_file).unwrap(), ca);
    let answer = server.call("GET", &format!("management.azure.com{SUBSCRIPTIONS}"), &[("Authorization", &token)], "");
    assert_eq!(answer.status, 200, "a token of the last run is still good: {}", answer.text());
    use std::os::unix::fs::PermissionsExt;
    for file in std::fs::read_dir(dir.path().join("state")).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", file.path());
    }
}

#[test]
fn the_control_socket_speaks_json_lines() {
    let server = Harness::start();
    let status = server.control(r#"{"method":"status"}"#);
    assert_eq!(status[0]["ok"]["environment"], "test");
    assert_eq!(status[0]["ok"]["edition"], "2021-09");
    assert_eq!(server.control(r#"{"method":"nothing"}"#)[0]["error"]["code"], "unknown-method");
    assert_eq!(server.control("nonsense")[0]["error"]["code"], "bad-request");
    server.ready.server.control.add("count", |_, _, caller| {
        Box::pin(async move {
            for i in 0..3 {
                if caller.ok(&json!(i)).await.is_err() {
                    break;
                }
            }
            Ok(())
        })
    });
    assert_eq!(server.control(r#"{"method":"count"}"#), [json!({"ok": 0}), json!({"ok": 1}), json!({"ok": 2})]);
    assert_eq!(server.control(r#"{"method":"stop"}"#), [json!({"ok": {}})]);
}

#[test]
fn a_lease_lives_as_long_as_its_connection() {
    let server = Harness::start();
    let (told, ended) = std::sync::mpsc::channel();
    server.ready.server.control.add("lease", move |_, _, caller| {
        let told = told.clone();
        Box::pin(async move {
            let _ = caller.ok(&json!("held")).await;
            caller.gone().await;
            told.send(()).unwrap();
            Ok(())
        })
    });
    let mut stream = std::os::unix::net::UnixStream::connect(server.dir.path().join("control.sock")).unwrap();
    stream.write_all(b"{\"method\":\"lease\"}\n").unwrap();
    let mut line = [0; 14];
    stream.read_exact(&mut line).unwrap();
    assert!(ended.try_recv().is_err());
    drop(stream);
    ended.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
}
