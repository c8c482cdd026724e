//! What an index says of one project (PEP 691), reduced to wheels with a hash, and written again so that every
//! address in it is the proxy's.

use std::collections::BTreeMap;

use moat_model::environment::requirement::normalise;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::index::Index;

/// Longest page; that of a project with 4,400 files has 2 MB.
pub(crate) const PAGE_BYTES_MAX: usize = 32 << 20;
/// Longest name of a file.
const NAME_BYTES_MAX: usize = 255;
/// Largest wheel.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 30;
/// Content type of these pages.
pub(crate) const CONTENT_TYPE: &str = "application/vnd.pypi.simple.v1+json";

/// A wheel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wheel {
    /// Where the index says it is.
    pub(crate) url: Url,
    /// Of its content, lower-case hexadecimal.
    pub(crate) sha256: String,
    /// Of its metadata beside it (PEP 658), if the index has them.
    pub(crate) metadata_sha256: Option<String>,
    size: Option<u64>,
    requires_python: Option<String>,
    yanked: Value,
}

/// The wheels of a project by file name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) wheels: BTreeMap<String, Wheel>,
}

#[derive(Deserialize)]
struct Sent {
    files: Vec<SentFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SentFile {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    requires_python: Option<String>,
    #[serde(default)]
    yanked: Value,
    #[serde(default)]
    core_metadata: Value,
    /// Its earlier name.
    #[serde(default)]
    dist_info_metadata: Value,
}

impl Page {
    /// Reads the page of the project `name` that was found at `at`. Files that a build may not have are left out, not
    /// refused: an index lists many.
    pub(crate) fn read(index: &Index, name: &str, at: &Url, body: &[u8]) -> Result<Self, serde_json::Error> {
        let sent: Sent = serde_json::from_slice(body)?;
        let wheels = sent.files.into_iter().filter_map(|f| wheel(index, name, at, f)).collect();
        Ok(Self { wheels })
    }

    /// The page for the build.
    pub(crate) fn write(&self, name: &str) -> Value {
        let files: Vec<Value> = self
            .wheels
            .iter()
            .map(|(file, w)| {
                let mut out = json!({
                    "filename": file,
                    "url": format!("/files/{name}/{file}"),
                    "hashes": {"sha256": w.sha256},
                    "yanked": w.yanked,
                });
                if let Some(requires) = &w.requires_python {
                    out["requires-python"] = json!(requires);
                }
                if let Some(size) = w.size {
                    out["size"] = json!(size);
                }
                if let Some(sha256) = &w.metadata_sha256 {
                    out["core-metadata"] = json!({ "sha256": sha256 });
                }
                out
            })
            .collect();
        json!({"meta": {"api-version": "1.0"}, "name": name, "files": files})
    }
}

fn wheel(index: &Index, name: &str, at: &Url, file: SentFile) -> Option<(String, Wheel)> {
    if !is_wheel_of(&file.filename, name) || file.size.is_some_and(|s| s > FILE_BYTES_MAX) {
        return None;
    }
    let mut url = at.join(&file.url).ok()?;
    url.set_fragment(None);
    if !index.may_ask(&url) {
        return None;
    }
    let sha256 = file.hashes.get("sha256").filter(|h| is_sha256(h))?.to_lowercase();
    let metadata = [&file.core_metadata, &file.dist_info_metadata].into_iter().find_map(|m| m.get("sha256")?.as_str());
    let yanked = match file.yanked {
        Value::String(_) | Value::Bool(true) => json!(true),
        _ => json!(false),
    };
    let wheel = Wheel {
        url,
        sha256,
        metadata_sha256: metadata.filter(|h| is_sha256(h)).map(str::to_lowercase),
        size: file.size,
        requires_python: file.requires_python,
        yanked,
    };
    Some((file.filename, wheel))
}

/// Whether this is the name of a wheel of the project, and harmless as a name.
fn is_wheel_of(file: &str, name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "._+!-".contains(c);
    let Some(stem) = file.strip_suffix(".whl") else { return false };
    let mut parts = stem.split('-');
    file.len() <= NAME_BYTES_MAX
        && !file.starts_with('.')
        && stem.chars().all(known)
        && parts.next().is_some_and(|first| normalise(first) == name)
        && matches!(parts.count(), 4 | 5)
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;

    fn read(files: Value) -> Page {
        let index = Index::parse("https://index.example/simple").unwrap();
        let at = index.page("demo").unwrap();
        Page::read(&index, "demo", &at, json!({ "files": files }).to_string().as_bytes()).unwrap()
    }

    fn file(name: &str, url: &str) -> Value {
        json!({"filename": name, "url": url, "hashes": {"sha256": "AB".repeat(32)}})
    }

    #[test]
    fn only_wheels_with_a_hash_pass() {
        let good = "demo-1.0-py3-none-any.whl";
        let page = read(json!([
            file(good, "https://files.example/a/demo-1.0-py3-none-any.whl#sha256=x"),
            file("demo-1.0.tar.gz", "https://files.example/a.tar.gz"),
            file("other-1.0-py3-none-any.whl", "https://files.example/other.whl"),
            file("demo-2.0-py3-none-any.whl", "http://files.example/plain.whl"),
            file("demo-3.0-py3-none-any.whl", "file:///etc/passwd"),
            file("demo-4.0-py3-none-any.whl", "https://me:pw@files.example/x.whl"),
            file("demo-../../x-py3-none-any.whl", "https://files.example/x.whl"),
            file("demo-5.0.whl", "https://files.example/x.whl"),
            {"filename": "demo-6.0-py3-none-any.whl", "url": "https://files.example/x.whl", "hashes": {}},
            {"filename": "demo-7.0-py3-none-any.whl", "url": "https://files.example/x.whl",
             "hashes": {"sha256": "ab".repeat(32)}, "size": FILE_BYTES_MAX + 1},
        ]));
        assert_eq!(page.wheels.keys().collect::<Vec<_>>(), [good]);
        assert_eq!(page.wheels[good].url.as_str(), "https://files.example/a/demo-1.0-py3-none-any.whl");
    }

    #[test]
    fn the_build_sees_no_address_but_the_proxys() {
        let name = "demo-1.0-cp311-cp311-manylinux_2_17_x86_64.whl";
        let mut sent = file(name, "../../packages/demo.whl");
        sent["requires-python"] = json!(">=3.9");
        sent["core-metadata"] = json!({"sha256": "cd".repeat(32)});
        sent["yanked"] = json!("broken");
        let page = read(json!([sent]));
        assert_eq!(page.wheels[name].url.as_str(), "https://index.example/packages/demo.whl");
        assert_eq!(
            page.write("demo"),
            json!({"meta": {"api-version": "1.0"}, "name": "demo", "files": [{
                "filename": name,
                "url": format!("/files/demo/{name}"),
                "hashes": {"sha256": "ab".repeat(32)},
                "yanked": true,
                "requires-python": ">=3.9",
                "core-metadata": {"sha256": "cd".repeat(32)},
            }]})
        );
    }
}
