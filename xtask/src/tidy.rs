//! What the compiler does not check: the picture in ARCHITECTURE.md, and a few habits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shared;

/// Longest source file; a longer one hides more than one subject.
const FILE_LINES_MAX: usize = 900;

/// Who may import whom, among our own crates.
const PICTURE: &[(&str, &[&str])] = &[
    ("moat-arm", &[]),
    ("moat-net", &[]),
    ("moat-agent", &["moat-host"]),
    ("moat-model", &["moat-arm", "moat-net"]),
    ("moat-control", &["moat-arm", "moat-model", "moat-net"]),
    ("moat-store", &["moat-arm"]),
    ("moat-host", &["moat-net"]),
];

/// What a pure crate may use from outside.
const PURE: &[&str] = &["moat-arm", "moat-net", "moat-model", "moat-control"];
const PURE_MAY_USE: &[&str] =
    &["base64", "hmac", "ipnet", "jiff", "saphyr-parser", "serde", "serde_json", "sha2", "thiserror", "uuid"];

/// Runs every check and lists all that is wrong.
pub(crate) fn run() -> Result<()> {
    let root = shared::root();
    let mut wrong = Vec::new();
    dependencies(&root, &mut wrong)?;
    files(&root, &mut wrong)?;
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{} things are not tidy:\n  {}", wrong.len(), wrong.join("\n  "))
}

fn dependencies(root: &Path, wrong: &mut Vec<String>) -> Result<()> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(root)
        .output()
        .context("running cargo metadata")?;
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).context("reading cargo metadata")?;
    let mut normal: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default().to_owned();
        let uses = package["dependencies"].as_array().into_iter().flatten().filter(|d| d["kind"].is_null());
        normal.insert(name, uses.filter_map(|d| d["name"].as_str().map(str::to_owned)).collect());
    }
    for (name, may) in PICTURE {
        for used in normal.get(*name).into_iter().flatten().filter(|u| u.starts_with("moat")) {
            if !may.contains(&used.as_str()) {
                wrong.push(format!("{name} imports {used}, which the picture in ARCHITECTURE.md does not allow"));
            }
        }
    }
    for name in PURE {
        for used in normal.get(*name).into_iter().flatten().filter(|u| !u.starts_with("moat")) {
            if !PURE_MAY_USE.contains(&used.as_str()) {
                wrong.push(format!("{name} is pure and may not use {used}"));
            }
        }
        if !root.join("crates").join(name).join("clippy.toml").is_file() {
            wrong.push(format!("{name} is pure and has no clippy.toml of its own"));
        }
    }
    Ok(())
}

fn files(root: &Path, wrong: &mut Vec<String>) -> Result<()> {
    for path in sources(root)? {
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let shown = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!("{shown} has {lines} lines, more than {FILE_LINES_MAX}"));
        }
        if !text.trim_start().starts_with("//!") {
            wrong.push(format!("{shown} does not begin by saying why it exists (//!)"));
        }
        // Spelled apart, so that this line does not find itself.
        for leftover in
            [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("unimplemented", "!(")]
        {
            if text.contains(leftover) {
                wrong.push(format!("{shown} has a {leftover}"));
            }
        }
    }
    Ok(())
}

fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.join("crates"), root.join("xtask")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                if path.file_name().is_some_and(|n| n != "target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
