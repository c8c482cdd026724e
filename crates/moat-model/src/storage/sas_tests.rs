//! A signature grants what it says and nothing beside it.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

const NOW: &str = "2026-11-25T03:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn key(n: u8) -> AccountKey {
    AccountKey::derive(&[n], "test")
}

fn query(text: &str) -> BTreeMap<String, String> {
    let decode = |v: &str| {
        let mut out = Vec::new();
        let mut bytes = v.bytes();
        while let Some(b) = bytes.next() {
            let hex = |b: Option<u8>| char::from(b.unwrap()).to_digit(16).unwrap() as u8;
            out.push(if b == b'%' { hex(bytes.next()) * 16 + hex(bytes.next()) } else { b });
        }
        String::from_utf8(out).unwrap()
    };
    text.split('&').filter_map(|p| p.split_once('=')).map(|(n, v)| (n.to_owned(), decode(v))).collect()
}

fn grant(target: Target<'static>, permissions: &'static str) -> Grant<'static> {
    let expiry = "2026-11-25T04:00:00Z".parse().unwrap();
    Grant { account: "acct", container: "data", target, permissions, start: None, expiry }
}

fn signed(target: Target<'static>, permissions: &'static str) -> BTreeMap<String, String> {
    query(&sign(&grant(target, permissions), &key(1)))
}

const PLACE: Place<'_> = Place { account: "acct", container: Some("data"), blob: None, listing: None };

fn blob(name: &str) -> Place<'_> {
    Place { blob: Some(name), ..PLACE }
}

fn listing(prefix: &str) -> Place<'_> {
    Place { listing: Some(prefix), ..PLACE }
}

fn judge(query: &BTreeMap<String, String>, place: Place<'_>) -> Result<Granted, Denied> {
    let keys = [key(2), key(1)];
    let keys = Keys { account: &keys, delegation: &key(9) };
    verify(query, &place, &keys, "10.0.0.4".parse().unwrap(), now())
}

#[track_caller]
fn refused(query: &BTreeMap<String, String>, place: Place<'_>, code: &str) {
    assert_eq!(judge(query, place).unwrap_err().code, code, "{place:?}");
}

const FAILED: &str = "AuthenticationFailed";

#[test]
fn the_text_is_the_one_that_clients_sign() {
    // As azure-storage-blob 12 signs it.
    let query = query("sp=r&st=&se=2026-11-25T04%3A00%3A00Z&spr=https&sv=2022-11-02&sr=b&rsct=text%2Fplain");
    assert_eq!(
        service_text(&query, "/blob/acct/data/a b", false),
        "r\n\n2026-11-25T04:00:00Z\n/blob/acct/data/a b\n\n\nhttps\n2022-11-02\nb\n\n\n\n\n\n\ntext/plain"
    );
}

#[test]
fn a_blob_signature_opens_that_blob() {
    let q = signed(Target::Blob("a/b.txt"), "r");
    let granted = judge(&q, blob("a/b.txt")).unwrap();
    granted.allows("r", Level::Blob).unwrap();
    assert_eq!(granted.allows("cw", Level::Blob).unwrap_err().code, "AuthorizationPermissionMismatch");
    assert_eq!(granted.allows("r", Level::Listing).unwrap_err().code, "AuthorizationResourceTypeMismatch");
    for other in ["a/b.txt2", "a", "A/b.txt", "a//b.txt", "a/./b.txt", "a%2Fb.txt"] {
        refused(&q, blob(other), FAILED);
    }
    refused(&q, Place { container: Some("other"), ..blob("a/b.txt") }, FAILED);
    refused(&q, Place { account: "acct2", ..blob("a/b.txt") }, FAILED);
    refused(&q, listing(""), FAILED);
}

#[test]
fn a_container_signature_reaches_blobs_and_listings_only() {
    let q = signed(Target::Container, "rl");
    judge(&q, blob("any/where")).unwrap().allows("r", Level::Blob).unwrap();
    let granted = judge(&q, listing("")).unwrap();
    granted.allows("l", Level::Listing).unwrap();
    assert!(granted.allows("rl", Level::Container).is_err() && granted.allows("rl", Level::Service).is_err());
}

#[test]
fn a_directory_signature_stays_in_its_directory() {
    let q = signed(Target::Directory("runs/r1"), "racwl");
    for inside in ["runs/r1/log.txt", "runs/r1/outputs/model/m.pkl"] {
        judge(&q, blob(inside)).unwrap().allows("w", Level::Blob).unwrap();
    }
    for inside in ["runs/r1/", "runs/r1/outputs/", "runs/r1/out"] {
        judge(&q, listing(inside)).unwrap().allows("l", Level::Listing).unwrap();
    }
    for outside in [
        "runs/r1",
        "runs/r10/log.txt",
        "runs/r2/log.txt",
        "other/r1/log.txt",
        "runs/r1/../r2/log.txt",
        "runs/r1/..",
        "runs/r1/./x",
        "runs//r1/x",
        "runs/r1//x",
        "/runs/r1/x",
        "runs%2Fr1/x/y",
        "",
    ] {
        refused(&q, blob(outside), FAILED);
        refused(&q, listing(outside), FAILED);
    }
}

#[test]
fn nothing_of_a_signature_can_be_changed() {
    let q = signed(Target::Directory("runs/r1"), "r");
    for (name, value) in [
        ("sp", "racwdl"),
        ("se", "2027-11-25T04:00:00Z"),
        ("st", "2020-01-01T00:00:00Z"),
        ("sdd", "1"),
        ("sdd", "0"),
        ("sdd", "99999999999999999999"),
        ("sr", "c"),
        ("sr", "b"),
        ("sr", "bs"),
        ("sv", "2018-11-09"),
        ("sv", "2014-02-14"),
        ("sv", "x"),
        ("spr", "https,http"),
        ("sip", "10.0.0.4"),
        ("si", "policy"),
        ("ses", "scope"),
        ("snapshot", "2026"),
        ("rsct", "text/html"),
        ("skoid", "somebody"),
        ("srt", "sco"),
        ("ss", "b"),
        ("sig", ""),
        ("sig", "AAAA"),
    ] {
        let mut changed = q.clone();
        changed.insert(name.to_owned(), value.to_owned());
        refused(&changed, blob("runs/r1/x"), FAILED);
    }
    for name in ["sp", "se", "sr", "sv", "spr", "sdd", "sig"] {
        let mut changed = q.clone();
        changed.remove(name);
        refused(&changed, blob("runs/r1/x"), FAILED);
    }
    let other = query(&sign(&grant(Target::Directory("runs/r1"), "r"), &key(3)));
    refused(&other, blob("runs/r1/x"), FAILED);
}

#[test]
fn times_and_addresses_count() {
    let made = |start: Option<&str>, expiry: &str| {
        let time = |t: &str| t.parse().unwrap();
        let grant = Grant { start: start.map(time), expiry: time(expiry), ..grant(Target::Container, "r") };
        query(&sign(&grant, &key(1)))
    };
    judge(&made(Some("2026-11-25T03:04:00Z"), "2026-11-25T04:00:00Z"), blob("b")).unwrap();
    for q in [
        made(None, NOW),
        made(None, "2026-11-25T02:59:59Z"),
        made(Some("2026-11-25T03:06:00Z"), "2026-11-25T04:00:00Z"),
    ] {
        let denied = judge(&q, blob("b")).unwrap_err();
        assert!(denied.detail.contains("time frame"), "{denied:?}");
    }
    for (text, same) in [("2026-11-25", "2026-11-25T00:00:00Z"), ("2026-11-25T03:00Z", NOW), (NOW, NOW)] {
        assert_eq!(time(text).unwrap(), same.parse().unwrap(), "{text}");
    }
    assert!(time("").is_none() && time("soon").is_none() && time("2026-11-25T03:000").is_none());
    let peer = |ip: &str| ip.parse().unwrap();
    from_address("10.0.0.1-10.0.0.9", peer("10.0.0.4")).unwrap();
    for wrong in ["10.0.0.5", "10.0.0.5-10.0.0.9", "::1", "x"] {
        assert_eq!(from_address(wrong, peer("10.0.0.4")).unwrap_err().code, "AuthorizationSourceIPMismatch");
    }
}

#[test]
fn an_account_signature_says_service_kind_and_letters() {
    let made = |services: &str, kinds: &str, permissions: &str| {
        let mut q = query(&format!(
            "sv=2022-11-02&se=2026-11-25T04%3A00%3A00Z&ss={services}&srt={kinds}&sp={permissions}&spr=https"
        ));
        let signature = key(1).sign(&account_text(&q, "acct"));
        q.insert("sig".to_owned(), signature);
        q
    };
    let granted = judge(&made("bf", "co", "rl"), blob("b")).unwrap();
    granted.allows("r", Level::Blob).unwrap();
    granted.allows("l", Level::Listing).unwrap();
    assert!(granted.allows("r", Level::Service).is_err() && granted.allows("w", Level::Blob).is_err());
    refused(&made("qt", "sco", "rl"), blob("b"), "AuthorizationServiceMismatch");
    refused(&made("b", "sco", "rl"), Place { account: "acct2", ..blob("b") }, FAILED);
}

#[test]
fn a_user_signs_with_a_key_that_says_for_whom_and_how_long() {
    let asked = Delegation {
        user: "u1",
        tenant: "t",
        start: "2026-11-25T00:00:00Z",
        expiry: "2026-11-26T00:00:00Z",
        service: "b",
        version: "2022-11-02",
    };
    let user_key = delegation_key(&key(9), "acct", &asked);
    let mut q = query(
        "sv=2022-11-02&se=2026-11-25T04%3A00%3A00Z&sr=b&sp=r&skoid=u1&sktid=t&skt=2026-11-25T00%3A00%3A00Z&ske=2026-11-26T00%3A00%3A00Z&sks=b&skv=2022-11-02",
    );
    let signature = user_key.sign(&service_text(&q, "/blob/acct/data/b", true));
    q.insert("sig".to_owned(), signature);
    assert_eq!(judge(&q, blob("b")).unwrap().delegated_by.as_deref(), Some("u1"));
    refused(&q, blob("c"), FAILED);
    for (name, value) in [("skoid", "u2"), ("ske", "2036-11-26T00:00:00Z"), ("sktid", "t2"), ("suoid", "u2")] {
        let mut changed = q.clone();
        changed.insert(name.to_owned(), value.to_owned());
        refused(&changed, blob("b"), FAILED);
    }
}
