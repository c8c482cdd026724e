//! What is answered inside the fabric: DNS, instance metadata, node reports. The sockets are
//! loopback ones here; the helper makes them inside namespaces.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use moat_control::Principal;
use serde_json::{Value, json};

use super::Harness;
use crate::listeners::DnsView;

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_str(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

fn addresses(message: &[u8]) -> (ResponseCode, Vec<String>) {
    let message = Message::from_vec(message).unwrap();
    (message.metadata.response_code, message.answers.iter().map(|r| r.data.to_string()).collect())
}

#[test]
fn dns_answers_over_udp_and_tcp() {
    let server = Harness::start();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let (udp_at, tcp_at) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    let listening = server.ready.listeners.add_dns(udp.into(), tcp.into(), DnsView::Public).unwrap();

    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let ask = |bytes: &[u8]| {
        client.send_to(bytes, udp_at).unwrap();
        let mut reply = [0; 512];
        let n = client.recv(&mut reply).unwrap();
        addresses(&reply[..n])
    };
    assert_eq!(ask(&question("management.azure.com.")), (ResponseCode::NoError, vec!["20.1.0.10".to_owned()]));
    assert_eq!(ask(&question("example.com.")), (ResponseCode::NXDomain, vec![]));
    assert_eq!(ask(&question("azureml.ms.")), (ResponseCode::NoError, vec![]));
    assert_eq!(ask(&[0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0]), (ResponseCode::FormErr, vec![]));

    let mut stream = TcpStream::connect(tcp_at).unwrap();
    for _ in 0..2 {
        let bytes = question("management.azure.com.");
        stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&bytes).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(addresses(&reply).1, ["20.1.0.10"]);
    }
    drop(listening);
}

fn imds(server: &Harness, target: &str, headers: &str) -> (u16, Value) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let listening = server.ready.listeners.add_imds(listener.into(), "/subscriptions/s/vnet").unwrap();
    let mut stream = TcpStream::connect(at).unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    drop(listening);
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[test]
fn a_node_gets_its_own_identity_and_only_that() {
    let server = Harness::start();
    let token = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com/";
    assert_eq!(imds(&server, token, "Metadata: true\r\n").0, 400, "no node has this address");
    server.ready.server.hooks.set_identity_of(|vnet, address| {
        (vnet == "/subscriptions/s/vnet" && address == IpAddr::V4(Ipv4Addr::LOCALHOST)).then(|| Principal {
            object_id: "node-oid".to_owned(),
            app_id: "node-app".to_owned(),
            name: "node-0".to_owned(),
            run: None,
        })
    });
    let (status, body) = imds(&server, token, "Metadata: true\r\n");
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["resource"], "https://management.azure.com/");
    assert!(body["expires_on"].is_string() && body["token_type"] == "Bearer" && body["client_id"] == "node-app");
    let payload = body["access_token"].as_str().unwrap().split('.').nth(1).unwrap();
    let claims: Value =
        serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    assert_eq!(claims["oid"], "node-oid");

    assert_eq!(imds(&server, token, "").0, 400, "without the Metadata header");
    assert_eq!(imds(&server, token, "Metadata: true\r\nX-Forwarded-For: 10.0.0.4\r\n").0, 400, "through a proxy");
    assert_eq!(imds(&server, &format!("{token}&client_id=other"), "Metadata: true\r\n").0, 400, "someone else's");
    assert_eq!(imds(&server, "/metadata/identity/oauth2/token", "Metadata: true\r\n").0, 400, "for nothing");
    let other = token.replace("management.azure.com", "example.com");
    assert_eq!(imds(&server, &other, "Metadata: true\r\n").0, 400, "for a stranger");
    let (status, body) = imds(&server, "/metadata/instance?api-version=2021-02-01", "Metadata: true\r\n");
    assert_eq!(
        (status, &body["network"]["interface"][0]["ipv4"]["ipAddress"][0]["privateIpAddress"]),
        (200, &json!("127.0.0.1"))
    );
    assert_eq!(imds(&server, "/metadata/other", "Metadata: true\r\n").0, 404);

    // What the node holds must open nothing by itself: rights come from role assignments.
    let bearer = format!("Bearer {}", {
        let (_, body) = imds(&server, token, "Metadata: true\r\n");
        body["access_token"].as_str().unwrap().to_owned()
    });
    let group = format!(
        "management.azure.com/subscriptions/{}/resourcegroups/g?api-version=2024-11-01",
        server.ready.environment.subscription
    );
    let answer = server.call("PUT", &group, &[("Authorization", &bearer)], "{\"location\":\"westus2\"}");
    assert_eq!(answer.refusal(), (403, "AuthorizationFailed".to_owned()), "{}", answer.text());
}

#[test]
fn port_80_only_says_that_tls_is_wanted() {
    let server = Harness::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let _listening = server.ready.listeners.add_http(listener.into()).unwrap();
    let mut stream = TcpStream::connect(at).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: management.azure.com\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 403") && text.contains("HttpsRequired"), "{text}");
}

#[test]
fn real_tag_files_give_every_service_an_address_of_its_own_tag() {
    use crate::services::table::{Addresses, SERVICES, find};
    for file in [moat_net::tags::september_2021(), moat_net::tags::october_2025()] {
        let addresses = Addresses::of_tags(file);
        for service in SERVICES {
            let host = service.host.replace('*', "westus2");
            assert_eq!(find(&host).unwrap().tag, service.tag, "{host}");
            let address = addresses.resolve(&host, None).unwrap_or_else(|| panic!("{host} in {}", file.date()));
            let regional = host.contains("westus2").then(|| file.get(&format!("{}.westus2", service.tag))).flatten();
            let tag = regional.or_else(|| file.get(service.tag)).unwrap();
            assert!(tag.prefixes().iter().any(|p| p.contains(&IpAddr::V4(address))), "{host}: {address}");
            assert!(
                !crate::server::PUBLIC_POOL.contains(&address),
                "{host}: {address} may be handed out as a public IP"
            );
        }
        let n = addresses.all().len();
        assert!((20..500).contains(&n), "{n} addresses for the backbone");
    }
}

#[test]
fn public_addresses_lie_in_no_service_tag() {
    let pool = ipnet::IpNet::V4(crate::server::PUBLIC_POOL);
    for file in [moat_net::tags::september_2021(), moat_net::tags::october_2025()] {
        for tag in file.all().filter(|tag| !tag.name().starts_with("AzureCloud")) {
            let within = tag.prefixes().into_iter().find(|p| pool.contains(p) || p.contains(&pool));
            assert_eq!(within, None, "{} of {} would match somebody's public IP", tag.name(), file.date());
        }
    }
}
