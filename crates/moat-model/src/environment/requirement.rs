//! Lines below `pip:`, read strictly.
//!
//! What passes here is handed to pip in a file, so nothing may pass that pip reads as an option, a path, a URL or a
//! variable. The grammar is PEP 508 without direct references; pip itself checks the rest of it when it installs.
//! Everything else is refused by its own name, because `unsupported line` would help nobody.

use super::Refusal;

/// Longest line; the longest in public examples has 90 characters.
const LINE_CHARS_MAX: usize = 512;

/// One requirement, normalised: `scikit-learn[docs]~=1.5.0; python_version >= "3.9"`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    /// As PEP 503 writes it: lower case, single hyphens.
    pub name: String,
    /// What pip is told.
    pub line: String,
}

impl Requirement {
    /// Of a line below `pip:`. `None`: an empty line or a comment.
    pub fn parse(line: &str) -> Result<Option<Self>, Refusal> {
        let refuse = |why: &'static str| Refusal::Requirement { line: shown(line), why };
        // A comment begins at the start or after white space, as pip has it.
        let bare = match line.find('#') {
            Some(0) => "",
            Some(at) if line[..at].ends_with([' ', '\t']) => &line[..at],
            _ => line,
        }
        .trim();
        if bare.is_empty() {
            return Ok(None);
        }
        if bare.len() > LINE_CHARS_MAX {
            return Err(refuse("it is longer than 512 characters"));
        }
        if let Some(why) = forbidden(bare) {
            return Err(refuse(why));
        }
        let (requirement, marker) = match bare.split_once(';') {
            Some((r, m)) => (r.trim(), Some(m.trim())),
            None => (bare, None),
        };
        let end = requirement.find(|c: char| !is_name(c)).unwrap_or(requirement.len());
        let (name, rest) = requirement.split_at(end);
        if !well_formed(name) {
            return Err(refuse("it does not begin with the name of a package"));
        }
        let (extras, versions) = match rest.trim_start().strip_prefix('[') {
            None => ("", rest),
            Some(rest) => rest.split_once(']').ok_or_else(|| refuse("`[` has no `]`"))?,
        };
        let extras: Vec<&str> = extras.split(',').map(str::trim).filter(|e| !e.is_empty()).collect();
        if extras.iter().any(|e| !well_formed(e) || !e.chars().all(is_name)) {
            return Err(refuse("an extra has letters, digits, `-`, `_` and `.` only"));
        }
        let versions = specifiers(versions).ok_or_else(|| {
            refuse("after the name only versions such as `==1.2` or `>=1.2,<2` and a marker after `;` are known")
        })?;
        if marker.is_some_and(|m| m.is_empty() || !m.chars().all(is_marker)) {
            return Err(refuse("what follows `;` is no environment marker"));
        }
        let name = normalise(name);
        let mut line = name.clone();
        if !extras.is_empty() {
            line.push_str(&format!("[{}]", extras.join(",")));
        }
        line.push_str(&versions.join(","));
        if let Some(marker) = marker {
            line.push_str("; ");
            line.push_str(marker);
        }
        Ok(Some(Self { name, line }))
    }
}

/// What a line is when it is none of ours: told by name.
fn forbidden(line: &str) -> Option<&'static str> {
    let lower = line.to_ascii_lowercase();
    let option = |names: &[&str]| {
        names.iter().any(|n| {
            lower.strip_prefix(n).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '=', '\t']))
                || (n.len() == 2 && lower.starts_with(n))
        })
    };
    let why = if option(&["-e", "--editable"]) {
        "editable installs build from source; only wheels of the package index are installed"
    } else if option(&["-r", "--requirement"]) {
        "files of requirements are not read; list their lines below `pip:`"
    } else if option(&["-c", "--constraint"]) {
        "files of constraints are not read; write the versions below `pip:`"
    } else if option(&["-i", "--index-url", "--extra-index-url", "--no-index", "--pypi-url"]) {
        "there is one package index, that `moat up --package-index` names; no environment can choose another"
    } else if option(&["-f", "--find-links", "--trusted-host", "--client-cert", "--cert", "--proxy"]) {
        "packages come from the package index only; `moat up --package-index` names it"
    } else if option(&[
        "--no-binary",
        "--global-option",
        "--config-settings",
        "--install-option",
        "--no-build-isolation",
    ]) {
        "nothing is built from source; only wheels of the package index are installed"
    } else if lower.starts_with('-') {
        "options of pip are not taken from an environment"
    } else if ["git+", "hg+", "svn+", "bzr+"].iter().any(|v| lower.contains(v)) || lower.starts_with("git@") {
        "a version control address; only wheels of the package index are installed"
    } else if lower.contains("://") || lower.contains("file:") {
        "a URL; only wheels of the package index are installed"
    } else if lower.contains('@') {
        "a direct reference; only wheels of the package index are installed"
    } else if lower.starts_with(['.', '/', '~', '\\']) || lower.contains('/') || lower.contains('\\') {
        "a path; only wheels of the package index are installed"
    } else if [".whl", ".tar.gz", ".zip"].iter().any(|e| lower.ends_with(e)) {
        "a file; only wheels of the package index are installed"
    } else if lower.contains('$') || lower.contains('`') || line.contains(char::is_control) {
        "variables and control characters are not known here"
    } else if lower.contains(" --") {
        "options after a requirement are not known here"
    } else {
        return None;
    };
    Some(why)
}

/// `>=1.2 , <2` in its parts. `None`: not that.
fn specifiers(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    let text = match text.strip_prefix('(') {
        Some(inner) => inner.strip_suffix(')')?.trim(),
        None => text,
    };
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',')
        .map(|part| {
            let part = part.trim();
            let sign = ["===", "==", "~=", "!=", "<=", ">=", "<", ">"].into_iter().find(|s| part.starts_with(s))?;
            let version = part[sign.len()..].trim();
            let known = |c: char| c.is_ascii_alphanumeric() || ".*+!-_".contains(c);
            (!version.is_empty() && version.chars().all(known)).then(|| format!("{sign}{version}"))
        })
        .collect()
}

/// The name of a package as PEP 503 compares it.
pub fn normalise(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            c => out.push(c.to_ascii_lowercase()),
        }
    }
    out
}

/// Whether `name` may name a package at all (PEP 508).
pub fn well_formed(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(is_name)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.".contains(c)
}

fn is_marker(c: char) -> bool {
    c.is_ascii_alphanumeric() || " _.'\"<>=!~()-+*,".contains(c)
}

/// A line in a message: bounded, on one line.
fn shown(line: &str) -> String {
    let clean: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    super::clip(clean.trim())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requirements_are_normalised() {
        for (line, expected) in [
            ("numpy", "numpy"),
            ("Scikit_Learn == 1.5.2", "scikit-learn==1.5.2"),
            ("azureml-mlflow ~= 1.60", "azureml-mlflow~=1.60"),
            ("dask[complete, diagnostics]>=2022.2.1 , <2025", "dask[complete,diagnostics]>=2022.2.1,<2025"),
            ("a.b--c (>=1)", "a-b-c>=1"),
            ("tomli; python_version < \"3.11\"", "tomli; python_version < \"3.11\""),
            ("torch==2.1.0+cpu", "torch==2.1.0+cpu"),
            ("numpy==1.*  # why", "numpy==1.*"),
        ] {
            assert_eq!(Requirement::parse(line).unwrap().unwrap().line, expected, "{line}");
        }
        assert_eq!(Requirement::parse("  # only a comment"), Ok(None));
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        let refused = [
            "git+https://github.com/a/b",
            "b @ git+ssh://git@host/a",
            "https://host/en_core_web_sm.tar.gz",
            "file:///etc/passwd",
            "b@file:/etc",
            "./local",
            "/abs",
            "~/x",
            "a/b",
            "b.whl",
            "-e .",
            "-e",
            "--editable=.",
            "-r requirements.txt",
            "-rrequirements.txt",
            "-c constraints.txt",
            "--index-url https://evil",
            "-i https://evil",
            "--extra-index-url=https://evil",
            "--find-links /tmp",
            "--trusted-host x",
            "--no-binary :all:",
            "--pre",
            "numpy --global-option=x",
            "numpy ${HOME}",
            "numpy\\",
            "numpy\n-r x",
            "numpy ==",
            "numpy 1.2",
            "numpy[a",
            "numpy; ",
            "numpy; `x`",
            "_x",
            "é",
        ];
        let text: Vec<String> = refused.iter().map(|l| Requirement::parse(l).unwrap_err().to_string()).collect();
        insta::assert_snapshot!(text.join("\n"));
    }

    proptest! {
        #[test]
        fn any_text_is_judged(line in "\\PC{0,80}") {
            if let Ok(Some(r)) = Requirement::parse(&line) {
                // What passed is one line that pip cannot read as anything but a requirement, and is its own normal form.
                prop_assert!(r.line.starts_with(|c: char| c.is_ascii_alphanumeric()));
                prop_assert!(!r.line.contains(['\n', '\r', '/', '@', '$', '\\']));
                let again = Requirement::parse(&r.line);
                prop_assert_eq!(again, Ok(Some(r)));
            }
        }
    }
}
