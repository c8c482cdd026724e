//! The proxy against an index of our own on loopback, which lies in every way it can.
#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

const WHEEL: &[u8] = b"these bytes are the wheel";

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Answers like an index: path to status, extra header and body.
type Pages = BTreeMap<String, (u16, Option<(&'static str, String)>, Vec<u8>)>;

async fn index(pages: Pages) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let (pages, log) = (Arc::new(pages), asked.clone());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (pages, log) = (pages.clone(), log.clone());
            let serve = service_fn(move |request: Request<Incoming>| {
                let path = request.uri().path().to_owned();
                log.lock().unwrap().push(path.clone());
                let (status, extra, body) =
                    pages.get(&path).cloned().unwrap_or_else(|| (404, None, b"not here".to_vec()));
                let mut answer = Response::new(Full::new(Bytes::from(body)));
                *answer.status_mut() = StatusCode::from_u16(status).unwrap();
                if let Some((name, value)) = extra {
                    answer.headers_mut().insert(name, value.parse().unwrap());
                }
                async move { Ok::<_, Infallible>(answer) }
            });
            tokio::spawn(async move { http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await });
        }
    });
    (address, asked)
}

struct Bed {
    proxy: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    it: Arc<Proxy>,
}

fn file(name: &str, url: &str, content: &[u8]) -> Value {
    json!({"filename": name, "url": url, "hashes": {"sha256": sha256(content)}})
}

fn page(files: Value) -> (u16, Option<(&'static str, String)>, Vec<u8>) {
    (200, None, json!({"meta": {"api-version": "1.1"}, "name": "x", "files": files}).to_string().into_bytes())
}

async fn bed(pages: impl IntoIterator<Item = (&'static str, (u16, Option<(&'static str, String)>, Vec<u8>))>) -> Bed {
    let (address, asked) = index(pages.into_iter().map(|(p, a)| (p.to_owned(), a)).collect()).await;
    let it = Arc::new(Proxy::new(Index::parse(&format!("http://{address}/simple")).unwrap()).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    tokio::spawn(it.clone().serve(listener));
    Bed { proxy, asked, it }
}

impl Bed {
    /// Sends a request target as it is; gives the status and what came of the body.
    async fn get(&self, target: &str) -> (u16, Vec<u8>, bool) {
        self.send(&format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")).await
    }

    /// Status, body, and whether the body came to its end.
    async fn send(&self, request: &str) -> (u16, Vec<u8>, bool) {
        let mut stream = TcpStream::connect(self.proxy).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        let whole = status != 0 && (!chunked || body.ends_with("0\r\n\r\n"));
        (status, body.as_bytes().to_vec(), whole)
    }

    async fn status(&self, target: &str) -> u16 {
        self.get(target).await.0
    }
}

const DEMO: &str = "demo-1.0-py3-none-any.whl";

#[tokio::test]
async fn a_build_gets_pages_and_the_wheels_they_name() {
    let bed = bed([
        (
            "/simple/demo/",
            page(json!([file(DEMO, "/packages/ab/demo.whl", WHEEL), file("demo-1.0.tar.gz", "/x.tar.gz", WHEEL)])),
        ),
        ("/packages/ab/demo.whl", (200, None, WHEEL.to_vec())),
    ])
    .await;
    let (status, body, _) = bed.get("/simple/Demo/").await;
    let page: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, 200);
    assert_eq!(page["files"].as_array().unwrap().len(), 1, "source distributions are not shown");
    assert_eq!(page["files"][0]["url"], format!("/files/demo/{DEMO}"));
    let (status, body, whole) = bed.get(&format!("/files/demo/{DEMO}")).await;
    assert!(status == 200 && whole && String::from_utf8_lossy(&body).contains("these bytes are the wheel"));
    bed.get("/simple/demo").await;
    let asked = bed.asked.lock().unwrap().clone();
    assert_eq!(asked, ["/simple/demo/", "/packages/ab/demo.whl"], "a page is asked for once");
    assert!(bed.it.troubles().is_empty());
}

#[tokio::test]
async fn it_is_no_open_proxy() {
    let bed = bed([
        ("/simple/demo/", page(json!([file(DEMO, "/packages/demo.whl", WHEEL)]))),
        ("/secret", (200, None, b"s".to_vec())),
    ])
    .await;
    for target in [
        "/secret",
        "/simple/../secret",
        "/simple/%2e%2e/",
        "/simple/..%2fsecret/",
        "/simple/demo/../../secret",
        "/files/demo/../../secret",
        "/files/demo/%2e%2e%2f%2e%2e%2fsecret",
        "/files/demo/demo-1.0.tar.gz",
        "/files/demo/demo-9.9-py3-none-any.whl",
        "/files/demo/demo-1.0-py3-none-any.whl.metadata",
        "/files//demo",
        "/simple//",
        "/",
        "*",
        "http://169.254.169.254/metadata/instance",
        "http://other.example/simple/demo/",
    ] {
        let status = bed.status(target).await;
        // An absolute target names a host, which nobody looks at: it is a page of this index or nothing.
        let own = target == "http://other.example/simple/demo/";
        assert!(if own { status == 200 } else { status == 404 || status == 400 }, "{target}: {status}");
    }
    let connect = "CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\nConnection: close\r\n\r\n";
    assert_eq!(bed.send(connect).await.0, 405);
    assert_eq!(
        bed.send("POST /simple/demo/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await.0,
        405
    );
    let asked = bed.asked.lock().unwrap().clone();
    assert!(asked.iter().all(|p| p == "/simple/demo/"), "{asked:?}");
}

#[tokio::test]
async fn a_wheel_that_is_another_never_arrives_whole() {
    let bed = bed([
        ("/simple/demo/", page(json!([file(DEMO, "/w", WHEEL)]))),
        ("/w", (200, None, b"something else of a stranger".to_vec())),
    ])
    .await;
    let (_, _, whole) = bed.get(&format!("/files/demo/{DEMO}")).await;
    assert!(!whole, "the connection must break before the last chunk");
}

#[tokio::test]
async fn metadata_is_checked_too() {
    let metadata = b"Metadata-Version: 2.1\n";
    let mut named = file(DEMO, "/w/demo.whl", WHEEL);
    named["core-metadata"] = json!({"sha256": sha256(metadata)});
    let good =
        bed([("/simple/demo/", page(json!([named]))), ("/w/demo.whl.metadata", (200, None, metadata.to_vec()))]).await;
    assert_eq!(good.get(&format!("/files/demo/{DEMO}.metadata")).await.1, metadata);
    let bad = bed([
        ("/simple/demo/", page(json!([named]))),
        ("/w/demo.whl.metadata", (200, None, b"Requires-Dist: evil".to_vec())),
    ])
    .await;
    assert_eq!(bad.status(&format!("/files/demo/{DEMO}.metadata")).await, 403);
    assert_eq!(bad.it.troubles(), ["the file is not the one that the index's page names"]);
}

#[tokio::test]
async fn redirects_stay_at_their_host_and_pages_may_not_name_this_machine() {
    let to = |location: &str| (302, Some(("location", location.to_owned())), Vec::new());
    let bed = bed([
        ("/simple/near/", to("/simple/demo/")),
        ("/simple/far/", to("http://localhost:1/simple/demo/")),
        ("/simple/loop/", to("/simple/loop/")),
        ("/simple/plain/", to("http://other.example/simple/demo/")),
        ("/simple/demo/", page(json!([]))),
        ("/simple/broken/", (200, None, b"<html>".to_vec())),
        ("/simple/error/", (503, None, Vec::new())),
    ])
    .await;
    assert_eq!(bed.status("/simple/near/").await, 200);
    for project in ["far", "loop", "plain", "broken", "error"] {
        assert_eq!(bed.status(&format!("/simple/{project}/")).await, 403, "{project}");
    }
    assert_eq!(bed.status("/simple/absent/").await, 404);
    let troubles = bed.it.troubles().join("\n");
    assert!(troubles.contains("redirects to another host") && troubles.contains("answered 503"), "{troubles}");
    assert!(!troubles.contains("absent"), "what the index does not have is pip's to tell: {troubles}");
}

#[tokio::test]
async fn an_index_that_is_away_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let it = Proxy::new(Index::parse(&format!("http://{address}/simple")).unwrap()).unwrap();
    let refusal = it.page("demo").await.unwrap_err();
    assert!(refusal.to_string().contains("could not be reached"), "{refusal}");
    assert_eq!(refusal.status(), StatusCode::FORBIDDEN, "pip would try a 5xx again and again");
}

#[tokio::test]
async fn what_is_too_long_ends_early() {
    let bed = bed([
        ("/simple/demo/", page(json!([file(DEMO, "/w", WHEEL)]))),
        ("/w", (200, None, WHEEL.to_vec())),
        ("/simple/long/", (200, None, vec![b' '; PAGE_BYTES_MAX + 1])),
    ])
    .await;
    assert_eq!(bed.status("/simple/long/").await, 403);
    bed.it.downloaded.store(DOWNLOAD_BYTES_MAX, Ordering::Relaxed);
    assert_eq!(bed.status(&format!("/files/demo/{DEMO}")).await, 403);
    bed.it.downloaded.store(DOWNLOAD_BYTES_MAX - 1, Ordering::Relaxed);
    assert!(!bed.get(&format!("/files/demo/{DEMO}")).await.2, "and in the middle of a file");
    bed.it.requests.store(REQUESTS_MAX, Ordering::Relaxed);
    assert_eq!(bed.status("/simple/demo/").await, 403);
}
