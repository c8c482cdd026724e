//! The blob service as clients and attackers meet it.

use jiff::Timestamp;
use moat_arm::access::rbac;
use moat_model::storage::sas::{self, Grant, Target};
use moat_model::storage::{AccountKey, shared_key};
use serde_json::{Value, json};

use super::Harness;
use super::client::Response;

/// A server with two accounts and a container `data` in the first.
struct Bed {
    server: Harness,
    keys: Vec<AccountKey>,
    other: AccountKey,
}

const ACCOUNT: &str = "moatstore1";
const OTHER: &str = "moatstore2";

impl Bed {
    fn new() -> Self {
        let server = Harness::start();
        let group = group(&server);
        let body = json!({"location": "westus2"});
        assert_eq!(server.arm("PUT", &format!("{group}?api-version=2024-11-01"), Some(&body)).status, 201);
        let keys = |name: &str| {
            let id = account(&server, name);
            let made = server.arm("PUT", &format!("{id}?api-version=2023-05-01"), Some(&body));
            assert_eq!(made.status, 200, "{}", made.text());
            assert!(!made.text().contains("moat.") && made.json().get("moat").is_none(), "nothing private is shown");
            let list = server.arm("POST", &format!("{id}/listKeys?api-version=2023-05-01"), None).json();
            let values = list["keys"].as_array().unwrap().iter().map(|k| k["value"].as_str().unwrap().to_owned());
            values.map(|v| AccountKey::parse(&v).unwrap()).collect::<Vec<_>>()
        };
        let (first, second) = (keys(ACCOUNT), keys(OTHER));
        let bed = Self { keys: first, other: second[0].clone(), server };
        assert_eq!(bed.key("PUT", "/data?restype=container", &[], "").status, 201);
        bed
    }

    /// A call signed with the first key.
    fn key(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Response {
        self.signed(ACCOUNT, &self.keys[0], method, target, headers, body)
    }

    fn signed(
        &self,
        account: &str,
        key: &AccountKey,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        let date = Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let length = body.len().to_string();
        let mut all = headers.to_vec();
        all.extend([("x-ms-date", date.as_str()), ("x-ms-version", "2022-11-02")]);
        let mut seen = all.clone();
        seen.push(("content-length", &length));
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let signature =
            shared_key::sign(account, &shared_key::Signed { verb: method, path, query, headers: &seen }, key);
        let header = format!("SharedKey {account}:{signature}");
        all.push(("Authorization", &header));
        self.call(method, target, &all, body)
    }

    fn call(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Response {
        self.server.call(method, &format!("{ACCOUNT}.blob.core.windows.net{target}"), headers, body)
    }

    fn put(&self, name: &str, body: &str) -> Response {
        self.key("PUT", &format!("/data/{name}"), &[("x-ms-blob-type", "BlockBlob")], body)
    }

    fn sas(&self, target: Target<'_>, permissions: &str) -> String {
        self.sas_until(target, permissions, 600)
    }

    fn sas_until(&self, target: Target<'_>, permissions: &str, seconds: i64) -> String {
        let expiry = Timestamp::from_second(Timestamp::now().as_second() + seconds).unwrap();
        let grant = Grant { account: ACCOUNT, container: "data", target, permissions, start: None, expiry };
        sas::sign(&grant, &self.keys[1])
    }
}

fn group(server: &Harness) -> String {
    format!("/subscriptions/{}/resourceGroups/g", server.ready.environment.subscription)
}

fn account(server: &Harness, name: &str) -> String {
    format!("{}/providers/Microsoft.Storage/storageAccounts/{name}", group(server))
}

#[track_caller]
fn refused(response: &Response, status: u16, code: &str) {
    let text = response.text();
    assert_eq!((response.status, response.header("x-ms-error-code")), (status, Some(code)), "{text}");
    assert!(text.is_empty() || text.contains(&format!("<Code>{code}</Code>")), "{text}");
}

const PUT: [(&str, &str); 1] = [("x-ms-blob-type", "BlockBlob")];

#[test]
fn a_blob_is_written_read_listed_and_deleted() {
    let bed = Bed::new();
    let made =
        bed.key("PUT", "/data/a/b.txt", &[PUT[0], ("x-ms-meta-kind", "text"), ("content-type", "text/plain")], "hello");
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(made.header("content-md5"), Some("XUFAKrxLKna5cZ2REBfFkg=="));
    let etag = made.header("etag").unwrap().to_owned();
    let read = bed.key("GET", "/data/a/b.txt", &[], "");
    assert_eq!((read.status, read.text().as_str()), (200, "hello"));
    for (name, value) in
        [("content-type", "text/plain"), ("x-ms-meta-kind", "text"), ("etag", &etag), ("x-ms-blob-type", "BlockBlob")]
    {
        assert_eq!(read.header(name), Some(value), "{name}");
    }
    let part = bed.key("GET", "/data/a/b.txt", &[("x-ms-range", "bytes=1-3")], "");
    assert_eq!((part.status, part.text().as_str(), part.header("content-range")), (206, "ell", Some("bytes 1-3/5")));
    let head = bed.key("HEAD", "/data/a/b.txt", &[], "");
    assert_eq!((head.status, head.header("content-length")), (200, Some("5")));
    assert_eq!(bed.put("a/empty", "").status, 201);
    refused(&bed.key("GET", "/data/a/empty", &[("x-ms-range", "bytes=0-99")], ""), 416, "InvalidRange");
    assert_eq!(bed.key("GET", "/data/a/empty", &[], "").status, 200);
    let list = bed.key("GET", "/data?restype=container&comp=list&prefix=a/&include=metadata", &[], "").text();
    assert!(list.contains("<Name>a/b.txt</Name>") && list.contains("<kind>text</kind>"), "{list}");
    let folders = bed.key("GET", "/data?restype=container&comp=list&delimiter=%2F", &[], "").text();
    assert!(folders.contains("<BlobPrefix><Name>a/</Name></BlobPrefix>"), "{folders}");
    assert_eq!(bed.key("DELETE", "/data/a/b.txt", &[], "").status, 202);
    refused(&bed.key("GET", "/data/a/b.txt", &[], ""), 404, "BlobNotFound");
    refused(&bed.key("HEAD", "/data/a/b.txt", &[], ""), 404, "BlobNotFound");
    refused(&bed.key("GET", "/nodata/x", &[], ""), 404, "ContainerNotFound");
}

#[test]
fn long_bodies_pass_in_pieces_and_are_checked() {
    let bed = Bed::new();
    let body: String = (0..700_000_u32).map(|n| format!("{n:011} ")).collect();
    assert!(body.len() > 8_000_000, "longer than any other service takes");
    let made = bed.put("big", &body);
    assert_eq!(made.status, 201, "{}", made.text());
    assert!(bed.key("GET", "/data/big", &[], "").text() == body);
    let middle = bed.key("GET", "/data/big", &[("range", "bytes=4000000-4000011")], "");
    assert_eq!(middle.text(), body[4_000_000..4_000_012]);
    let wrong = [PUT[0], ("content-md5", "XUFAKrxLKna5cZ2REBfFkg==")];
    refused(&bed.key("PUT", "/data/big", &wrong, "not hello"), 400, "Md5Mismatch");
    assert!(bed.key("GET", "/data/big", &[], "").text() == body, "what was there stays");
    let wrong = [PUT[0], ("x-ms-content-crc64", "AAAAAAAAAAA=")];
    refused(&bed.key("PUT", "/data/big", &wrong, "x"), 400, "Crc64Mismatch");
    // A long body of one who may not send it is answered, not cut.
    refused(&bed.call("PUT", "/data/big", &PUT, &body[..5_000_000]), 401, "NoAuthenticationInformation");
}

#[test]
fn blocks_and_appends() {
    let bed = Bed::new();
    for (id, body) in [("MQ==", "one "), ("Mg==", "two ")] {
        let target = format!("/data/blocks?comp=block&blockid={}", id.replace('=', "%3D"));
        assert_eq!(bed.key("PUT", &target, &[], body).status, 201);
    }
    refused(&bed.key("GET", "/data/blocks", &[], ""), 404, "BlobNotFound");
    let list = |ids: &[&str]| {
        let ids: String = ids.iter().map(|id| format!("<Latest>{id}</Latest>")).collect();
        let body = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{ids}</BlockList>");
        bed.key("PUT", "/data/blocks?comp=blocklist", &[("x-ms-blob-content-type", "text/x")], &body)
    };
    refused(&list(&["Mw=="]), 400, "InvalidBlockList");
    assert_eq!(list(&["Mg==", "MQ=="]).status, 201);
    let read = bed.key("GET", "/data/blocks", &[], "");
    assert_eq!((read.text().as_str(), read.header("content-type")), ("two one ", Some("text/x")));
    let blocks = bed.key("GET", "/data/blocks?comp=blocklist&blocklisttype=all", &[], "").text();
    assert!(blocks.contains("<CommittedBlocks><Block><Name>Mg==</Name><Size>4</Size></Block>"), "{blocks}");
    refused(&bed.key("PUT", "/data/blocks?comp=block&blockid=%3F", &[], "x"), 400, "InvalidBlockId");

    let append = |headers: &[(&str, &str)], body| bed.key("PUT", "/data/log?comp=appendblock", headers, body);
    refused(&append(&[], "x"), 404, "BlobNotFound");
    assert_eq!(bed.key("PUT", "/data/log", &[("x-ms-blob-type", "AppendBlob")], "").status, 201);
    assert_eq!(
        append(&[("x-ms-blob-condition-appendpos", "0")], "line 1\n").header("x-ms-blob-append-offset"),
        Some("0")
    );
    refused(&append(&[("x-ms-blob-condition-appendpos", "0")], "line 1\n"), 412, "AppendPositionConditionNotMet");
    refused(&append(&[("x-ms-blob-condition-maxsize", "10")], "line 2\n"), 412, "MaxBlobSizeConditionNotMet");
    let last = append(&[], "line 2\n");
    assert_eq!(last.header("x-ms-blob-committed-block-count"), Some("2"));
    assert_eq!(bed.key("GET", "/data/log", &[], "").text(), "line 1\nline 2\n");
    refused(&bed.key("PUT", "/data/blocks?comp=appendblock", &[], "x"), 409, "InvalidBlobType");
    refused(&bed.key("PUT", "/data/page", &[("x-ms-blob-type", "PageBlob")], ""), 501, "NotImplemented");
    refused(&bed.key("PUT", "/data/log?comp=lease", &[], ""), 501, "NotImplemented");
}

#[test]
fn conditions_guard_writes_and_spare_reads() {
    let bed = Bed::new();
    let etag = bed.put("a", "1").header("etag").unwrap().to_owned();
    let with = |method: &str, name: &str, value: &str| bed.key(method, "/data/a", &[PUT[0], (name, value)], "");
    refused(&with("PUT", "if-none-match", "*"), 409, "BlobAlreadyExists");
    refused(&with("PUT", "if-match", "\"0x1\""), 412, "ConditionNotMet");
    assert_eq!(with("GET", "if-none-match", &etag).status, 304);
    assert_eq!(with("GET", "if-match", &etag).status, 200);
    refused(&with("GET", "if-match", "\"0x1\""), 412, "ConditionNotMet");
    assert_eq!(with("GET", "if-modified-since", "Wed, 25 Nov 2099 03:00:00 GMT").status, 304);
    refused(&with("GET", "if-unmodified-since", "Wed, 25 Nov 2009 03:00:00 GMT"), 412, "ConditionNotMet");
    refused(&with("GET", "if-modified-since", "yesterday"), 400, "InvalidHeaderValue");
    refused(&with("DELETE", "if-match", "\"0x1\""), 412, "ConditionNotMet");
    assert_eq!(with("PUT", "if-match", &etag).status, 201);
    refused(&with("PUT", "if-match", &etag), 412, "ConditionNotMet");
    let changed = bed.key("PUT", "/data/a?comp=metadata", &[("x-ms-meta-upload_status", "completed")], "");
    assert_eq!(changed.status, 200);
    assert_eq!(bed.key("HEAD", "/data/a", &[], "").header("x-ms-meta-upload_status"), Some("completed"));
    refused(&bed.key("PUT", "/data/a?comp=metadata", &[("x-ms-meta-bad-name", "x")], ""), 400, "InvalidMetadata");
}

#[test]
fn containers_are_documents_and_made_again_they_are_empty() {
    let bed = Bed::new();
    bed.put("a", "old");
    refused(&bed.key("PUT", "/data?restype=container", &[], ""), 409, "ContainerAlreadyExists");
    refused(&bed.key("PUT", "/da--ta?restype=container", &[], ""), 400, "InvalidResourceName");
    let id = format!("{}/blobServices/default/containers/data", account(&bed.server, ACCOUNT));
    let shown = bed.server.arm("GET", &format!("{id}?api-version=2023-05-01"), None);
    assert_eq!(shown.status, 200, "{}", shown.text());
    assert!(shown.json().get("moat").is_none());
    // Gone by the one way, made by the other.
    assert_eq!(bed.server.arm("DELETE", &format!("{id}?api-version=2023-05-01"), None).status, 200);
    refused(&bed.key("GET", "/data/a", &[], ""), 404, "ContainerNotFound");
    let made = bed.server.arm("PUT", &format!("{id}?api-version=2023-05-01"), Some(&json!({"properties": {}})));
    assert_eq!(made.status, 201, "{}", made.text());
    refused(&bed.key("GET", "/data/a", &[], ""), 404, "BlobNotFound");
    assert_eq!(bed.key("PUT", "/data?restype=container&comp=metadata", &[("x-ms-meta-a", "b")], "").status, 200);
    let shown = bed.key("GET", "/data?restype=container", &[], "");
    assert_eq!((shown.status, shown.header("x-ms-meta-a")), (200, Some("b")));
    let list = bed.key("GET", "/?comp=list&include=metadata", &[], "").text();
    assert!(list.contains("<Name>data</Name>") && list.contains("<a>b</a>"), "{list}");
    assert_eq!(bed.key("DELETE", "/data?restype=container", &[], "").status, 202);
    refused(&bed.key("GET", "/data?restype=container&comp=list", &[], ""), 404, "ContainerNotFound");
    // An account that is gone takes its containers along.
    let account = account(&bed.server, ACCOUNT);
    assert_eq!(bed.server.arm("DELETE", &format!("{account}?api-version=2023-05-01"), None).status, 200);
    refused(&bed.key("GET", "/?comp=list", &[], ""), 404, "ResourceNotFound");
}

#[test]
fn keys_of_others_and_strangers_are_refused() {
    let bed = Bed::new();
    bed.put("a", "secret");
    let stranger = bed.call("GET", "/data/a", &[], "");
    refused(&stranger, 401, "NoAuthenticationInformation");
    let challenge = stranger.header("www-authenticate").unwrap();
    assert!(challenge.contains("/oauth2/authorize resource_id=https://storage.azure.com"), "{challenge}");
    refused(&bed.signed(ACCOUNT, &bed.other, "GET", "/data/a", &[], ""), 403, "AuthenticationFailed");
    refused(&bed.signed(OTHER, &bed.other, "GET", "/data/a", &[], ""), 403, "AuthenticationFailed");
    assert_eq!(bed.signed(ACCOUNT, &bed.keys[1], "GET", "/data/a", &[], "").status, 200);
    let old = [("x-ms-date", "Wed, 25 Nov 2009 03:00:00 GMT"), ("Authorization", "SharedKey moatstore1:AAAA")];
    refused(&bed.call("GET", "/data/a", &old, ""), 403, "AuthenticationFailed");
    let unknown = bed.server.call("GET", "nosuchaccount.blob.core.windows.net/data/a", &[], "");
    refused(&unknown, 404, "ResourceNotFound");
    // A key that was changed is one no more; keys can be switched off.
    let id = account(&bed.server, ACCOUNT);
    let change = json!({"keyName": "key2"});
    bed.server.arm("POST", &format!("{id}/regenerateKey?api-version=2023-05-01"), Some(&change));
    refused(&bed.signed(ACCOUNT, &bed.keys[1], "GET", "/data/a", &[], ""), 403, "AuthenticationFailed");
    assert_eq!(bed.key("GET", "/data/a", &[], "").status, 200);
    let off = json!({"properties": {"allowSharedKeyAccess": false}});
    assert_eq!(bed.server.arm("PATCH", &format!("{id}?api-version=2023-05-01"), Some(&off)).status, 200);
    refused(&bed.key("GET", "/data/a", &[], ""), 403, "KeyBasedAuthenticationNotPermitted");
    let query = bed.sas(Target::Blob("a"), "r");
    refused(&bed.call("GET", &format!("/data/a?{query}"), &[], ""), 403, "KeyBasedAuthenticationNotPermitted");
}

#[test]
fn a_signature_is_good_for_what_it_says() {
    let bed = Bed::new();
    for name in ["runs/r1/a", "runs/r2/a", "top"] {
        bed.put(name, name);
    }
    let get = |path: &str, query: &str| bed.call("GET", &format!("/data/{path}?{query}"), &[], "");
    let blob = bed.sas(Target::Blob("runs/r1/a"), "r");
    assert_eq!(get("runs/r1/a", &blob).text(), "runs/r1/a");
    refused(&get("runs/r2/a", &blob), 403, "AuthenticationFailed");
    refused(&bed.call("DELETE", &format!("/data/runs/r1/a?{blob}"), &[], ""), 403, "AuthorizationPermissionMismatch");
    refused(&get("runs/r1/a", &bed.sas_until(Target::Blob("runs/r1/a"), "r", -1)), 403, "AuthenticationFailed");
    refused(&get("runs/r1/a", &blob.replace("sp=r", "sp=rwd")), 403, "AuthenticationFailed");

    let directory = bed.sas(Target::Directory("runs/r1"), "racwl");
    assert_eq!(get("runs/r1/a", &directory).status, 200);
    for outside in [
        "runs/r2/a",
        "top",
        "runs/r1/../r2/a",
        "runs/r1/%2e%2e/r2/a",
        "runs/r1/..%2Fr2/a",
        "runs//r1/a",
        "/runs/r1/a",
        "runs/r1//a",
        "runs%2Fr1%2F..%2Fr2%2Fa",
        "runs/r1",
    ] {
        let answer = get(outside, &directory);
        assert!(matches!(answer.status, 400 | 403), "{outside}: {} {}", answer.status, answer.text());
    }
    // An encoded slash is a slash of the name: still the same blob.
    assert_eq!(get("runs%2Fr1%2Fa", &directory).status, 200);
    let list = |prefix: &str, query: &str| {
        bed.call("GET", &format!("/data?restype=container&comp=list&prefix={prefix}&{query}"), &[], "")
    };
    let inside = list("runs/r1/", &directory);
    assert_eq!(inside.status, 200, "{}", inside.text());
    assert!(inside.text().contains("runs/r1/a") && !inside.text().contains("runs/r2"));
    for outside in ["", "runs/", "runs/r1", "runs/r2/", "runs/r1/../r2/"] {
        refused(&list(outside, &directory), 403, "AuthenticationFailed");
    }
    // The first of several counts, for the check as for the list.
    let twice = bed.call(
        "GET",
        &format!("/data?restype=container&comp=list&prefix=runs/r2/&prefix=runs/r1/&{directory}"),
        &[],
        "",
    );
    refused(&twice, 403, "AuthenticationFailed");
    let put = |path: &str, query: &str| bed.call("PUT", &format!("/data/{path}?{query}"), &PUT, "new");
    assert_eq!(put("runs/r1/new", &directory).status, 201);
    refused(&put("runs/r2/new", &directory), 403, "AuthenticationFailed");
    // Creating is not replacing.
    let create = bed.sas(Target::Directory("runs/r1"), "c");
    refused(&put("runs/r1/new", &create), 403, "AuthorizationPermissionMismatch");
    assert_eq!(put("runs/r1/new2", &create).status, 201);
    let container = bed.sas(Target::Container, "rl");
    assert_eq!(get("top", &container).status, 200);
    let own = bed.call("GET", &format!("/data?restype=container&{container}"), &[], "");
    refused(&own, 403, "AuthorizationResourceTypeMismatch");
    assert_eq!(bed.key("PUT", "/other?restype=container", &[], "").status, 201);
    refused(&bed.call("GET", &format!("/other/a?{container}"), &[], ""), 403, "AuthenticationFailed");
}

#[test]
fn a_token_needs_a_role_on_data() {
    let bed = Bed::new();
    bed.put("a", "text");
    let get = |token: &str| bed.call("GET", "/data/a", &[("Authorization", &format!("Bearer {token}"))], "");
    let own = bed.server.token("https://storage.azure.com");
    assert_eq!(get(&own).text(), "text");
    refused(&get(&bed.server.token("https://management.azure.com")), 401, "InvalidAuthenticationInfo");
    refused(&get("x.y.z"), 401, "InvalidAuthenticationInfo");
    let who = "11111111-2222-3333-4444-555555555555";
    let token = bed.server.minted(|claims| {
        claims.aud = "https://storage.azure.com".to_owned();
        claims.oid = who.to_owned();
        claims.appid = who.to_owned();
    });
    refused(&get(&token), 403, "AuthorizationPermissionMismatch");
    let grant = |guid: &str, role: &str| {
        let id = format!("{}/providers/{}/{guid}", account(&bed.server, ACCOUNT), rbac::ROLE_ASSIGNMENTS);
        let role = format!(
            "/subscriptions/{}/providers/{}/{role}",
            bed.server.ready.environment.subscription,
            rbac::ROLE_DEFINITIONS
        );
        let body: Value = json!({"properties": {"principalId": who, "roleDefinitionId": role}});
        let made = bed.server.arm("PUT", &format!("{id}?api-version=2022-04-01"), Some(&body));
        assert_eq!(made.status, 201, "{}", made.text());
    };
    grant("00000000-0000-0000-0000-000000000001", rbac::OWNER);
    refused(&get(&token), 403, "AuthorizationPermissionMismatch");
    grant("00000000-0000-0000-0000-000000000002", "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1");
    assert_eq!(get(&token).text(), "text");
    let bearer = format!("Bearer {token}");
    let put = bed.call("PUT", "/data/b", &[PUT[0], ("Authorization", &bearer)], "x");
    refused(&put, 403, "AuthorizationPermissionMismatch");
}

#[test]
fn a_user_signs_no_more_than_the_user_may() {
    let bed = Bed::new();
    bed.put("a", "text");
    let own = format!("Bearer {}", bed.server.token("https://storage.azure.com"));
    let expiry = Timestamp::from_second(Timestamp::now().as_second() + 3_600).unwrap();
    let expiry = expiry.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let ask = |expiry: &str| {
        let body = format!("<KeyInfo><Start></Start><Expiry>{expiry}</Expiry></KeyInfo>");
        bed.call("POST", "/?restype=service&comp=userdelegationkey", &[("Authorization", &own)], &body)
    };
    let key = ask(&expiry);
    assert_eq!(key.status, 200, "{}", key.text());
    assert!(key.text().contains("<SignedService>b</SignedService>") && key.text().contains("<Value>"));
    refused(&ask("2099-01-01T00:00:00Z"), 400, "InvalidXmlNodeValue");
    let by_key = bed.key("POST", "/?restype=service&comp=userdelegationkey", &[], "<KeyInfo/>");
    refused(&by_key, 403, "AuthorizationPermissionMismatch");
}

#[test]
fn copies_need_the_right_to_their_source() {
    let bed = Bed::new();
    bed.put("a", "text");
    let source = format!("https://{ACCOUNT}.blob.core.windows.net/data/a");
    let copied = bed.key("PUT", "/data/copy", &[("x-ms-copy-source", &source)], "");
    assert_eq!((copied.status, copied.header("x-ms-copy-status")), (202, Some("success")), "{}", copied.text());
    assert_eq!(bed.key("GET", "/data/copy", &[], "").text(), "text");
    let elsewhere = "https://example.com/data/a";
    refused(&bed.key("PUT", "/data/c", &[("x-ms-copy-source", elsewhere)], ""), 404, "CannotVerifyCopySource");
    let write_only = bed.sas(Target::Directory("mine"), "cw");
    let target = format!("/data/mine/c?{write_only}");
    refused(&bed.call("PUT", &target, &[("x-ms-copy-source", &source)], ""), 404, "CannotVerifyCopySource");
    let with_right = format!("{source}?{}", bed.sas(Target::Blob("a"), "r"));
    assert_eq!(bed.call("PUT", &target, &[("x-ms-copy-source", &with_right)], "").status, 202);
    let with_write = format!("{source}?{}", bed.sas(Target::Blob("a"), "w"));
    let no_right = bed.call("PUT", &target, &[("x-ms-copy-source", &with_write)], "");
    refused(&no_right, 403, "AuthorizationPermissionMismatch");
}
