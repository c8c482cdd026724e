//! The `SharedKey` scheme: which text of a request an account's key signs.

use super::AccountKey;

/// The parts of a request that are signed.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// `PUT`, `GET`, ...
    pub verb: &'a str,
    /// The path as sent, percent-encoded.
    pub path: &'a str,
    /// The query as sent, without `?`.
    pub query: &'a str,
    /// Every header, names in lower case.
    pub headers: &'a [(&'a str, &'a str)],
}

/// In the order of the text.
const HEADERS: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

/// Whether `signature` is that of the request, under any of `keys`.
///
/// The order of `x-ms-` headers is disputed: the documents say by code point, the service (and newer clients) sort
/// as words, where hyphens count last. Both texts hold the same headers and values, so either is taken.
pub fn verify(account: &str, request: &Signed<'_>, signature: &str, keys: &[AccountKey]) -> bool {
    let by_code = text(account, request, |name| name.bytes().collect());
    let by_word = text(account, request, word_key);
    keys.iter().any(|key| key.verify(&by_code, signature) || key.verify(&by_word, signature))
}

/// The signature of a request.
pub fn sign(account: &str, request: &Signed<'_>, key: &AccountKey) -> String {
    key.sign(&text(account, request, |name| name.bytes().collect()))
}

fn text(account: &str, request: &Signed<'_>, order: impl Fn(&str) -> Vec<u8>) -> String {
    let header = |wanted: &str| request.headers.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
    let mut text = format!("{}\n", request.verb);
    for name in HEADERS {
        let value = match name {
            "content-length" => header(name).filter(|length| *length != "0"),
            // The other date counts then.
            "date" if header("x-ms-date").is_some() => None,
            _ => header(name),
        };
        text.push_str(value.unwrap_or_default());
        text.push('\n');
    }
    let mut ours: Vec<_> = request.headers.iter().filter(|(name, _)| name.starts_with("x-ms-")).collect();
    ours.sort_by_cached_key(|(name, _)| (order(name), *name));
    for (name, value) in ours {
        text.push_str(&format!("{name}:{}\n", value.trim()));
    }
    text.push_str(&format!("/{account}{}", request.path));
    for (name, values) in query(request.query) {
        text.push_str(&format!("\n{name}:{}", values.join(",")));
    }
    text
}

/// Query parameters by lower-case name, decoded, several values of one name in order.
fn query(raw: &str) -> Vec<(String, Vec<String>)> {
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    for part in raw.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let (name, value) = (decode(name).to_lowercase(), decode(value));
        match all.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => all.push((name, vec![value])),
        }
    }
    all.iter_mut().for_each(|(_, values)| values.sort());
    all.sort();
    all
}

/// `%XX` only: in a signed text a plus is a plus.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        let hex = (first == b'%').then(|| tail.get(..2)).flatten().and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => bytes.push(first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How a name sorts as a word: hyphens are passed over, punctuation comes before digits, digits before letters.
fn word_key(name: &str) -> Vec<u8> {
    const ORDER: &str = "!#$%&*.^_`|~+0123456789abcdefghijklmnopqrstuvwxyz";
    name.chars().filter_map(|c| ORDER.find(c)).filter_map(|at| u8::try_from(at).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> AccountKey {
        AccountKey::derive(b"k", "1")
    }

    #[test]
    fn the_text_is_the_one_that_clients_sign() {
        let headers = [
            ("content-length", "5"),
            ("content-type", "application/octet-stream"),
            ("date", "never read"),
            ("x-ms-version", "2021-08-06"),
            ("x-ms-blob-type", "BlockBlob"),
            ("x-ms-date", "Wed, 25 Nov 2026 03:00:00 GMT"),
            ("if-none-match", "*"),
        ];
        let request = Signed {
            verb: "PUT",
            path: "/scn/a%20b",
            query: "timeout=30&comp=block&blockid=YQ%3D%3D&Prefix=a+b",
            headers: &headers,
        };
        assert_eq!(
            text("acct", &request, word_key),
            "PUT\n\n\n5\n\napplication/octet-stream\n\n\n\n*\n\n\nx-ms-blob-type:BlockBlob\nx-ms-date:Wed, 25 Nov 2026 03:00:00 GMT\nx-ms-version:2021-08-06\n/acct/scn/a%20b\nblockid:YQ==\ncomp:block\nprefix:a+b\ntimeout:30"
        );
    }

    #[test]
    fn both_orders_of_headers_are_taken_and_nothing_else() {
        let headers = [("x-ms-meta-a-b", "1"), ("x-ms-meta-aa", "2"), ("x-ms-meta-a_c", "3")];
        let request = Signed { verb: "GET", path: "/c", query: "", headers: &headers };
        let as_words = key().sign(&text("acct", &request, word_key));
        let as_codes = sign("acct", &request, &key());
        assert_ne!(as_words, as_codes);
        for signature in [&as_words, &as_codes] {
            assert!(verify("acct", &request, signature, &[AccountKey::derive(b"k", "2"), key()]));
            assert!(!verify("other", &request, signature, &[key()]));
            assert!(!verify("acct", &Signed { verb: "PUT", ..request }, signature, &[key()]));
            assert!(!verify("acct", &Signed { path: "/d", ..request }, signature, &[key()]));
            assert!(!verify("acct", &Signed { query: "comp=list", ..request }, signature, &[key()]));
            assert!(!verify("acct", &Signed { headers: &headers[1..], ..request }, signature, &[key()]));
        }
    }
}
