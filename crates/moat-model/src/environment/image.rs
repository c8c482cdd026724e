//! An image reference taken apart, with Docker's defaults.
//!
//! An image is an identity here, not a file system (docs/adr/0005): which registry a node must reach follows from it,
//! and nothing else.

use super::Refusal;

/// Said in every run that names an image.
pub const IDENTITY_WARNING: &str = "an image is an identity, not a filesystem: its registry is asked for the manifest over the node's network, but \
     the program runs with this machine's Python and the packages of the environment's conda file";

/// The registry of a reference without one.
pub const DOCKER_HUB: &str = "docker.io";

/// `host/repository:tag` or `host/repository@digest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference {
    /// `mcr.microsoft.com`; lower case, with a port if one was given.
    pub host: String,
    /// `azureml/openmpi4.1.0-ubuntu20.04`; `library/ubuntu` for `ubuntu`.
    pub repository: String,
    /// Tag or digest; `latest` where neither was given.
    pub reference: String,
}

impl ImageReference {
    /// Whether nodes can ask its registry: Microsoft's own and Azure's are part of an environment, others are not.
    // AZURE: nodes pull from any registry; and where an environment has a conda file, from the workspace's own, where
    // the image was built before.
    pub fn is_served(&self) -> bool {
        self.host == "mcr.microsoft.com" || self.host.ends_with(".azurecr.io")
    }

    /// Takes a reference apart.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let refuse = |why: &'static str| Refusal::Image { text: super::clip(text), why };
        let trimmed = text.trim();
        if trimmed.contains("://") {
            return Err(refuse("it has no scheme"));
        }
        if trimmed.len() > 512 {
            return Err(refuse("it is longer than 512 characters"));
        }
        let (path, digest) = match trimmed.split_once('@') {
            Some((path, digest)) => (path, Some(digest)),
            None => (trimmed, None),
        };
        let (path, tag) = match path.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (path, None),
        };
        // The first part is a host if it could not be a folder of Docker Hub.
        let (host, repository) = match path.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => {
                (host.to_ascii_lowercase(), rest.to_owned())
            }
            Some(_) => (DOCKER_HUB.to_owned(), path.to_owned()),
            None => (DOCKER_HUB.to_owned(), format!("library/{path}")),
        };
        let host = if host == "index.docker.io" { DOCKER_HUB.to_owned() } else { host };
        let host_known = |c: char| c.is_ascii_alphanumeric() || ".-:".contains(c);
        if host.is_empty() || !host.chars().all(host_known) {
            return Err(refuse("its registry is no host name"));
        }
        if !repository.split('/').all(component) {
            return Err(refuse("a repository has lower-case letters, digits, `.`, `_` and `-` between slashes"));
        }
        if tag.is_some_and(|t| !is_tag(t)) {
            return Err(refuse("its tag has letters, digits, `.`, `_` and `-` only, at most 128"));
        }
        if digest.is_some_and(|d| !is_digest(d)) {
            return Err(refuse("its digest is not `sha256:` and 64 hexadecimal digits"));
        }
        let reference = digest.or(tag).unwrap_or("latest").to_owned();
        Ok(Self { host, repository, reference })
    }
}

/// One part of a repository's name.
fn component(part: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends(part.chars().next())
        && ends(part.chars().last())
        && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
}

/// Whether `text` may be a tag.
pub fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Whether `text` is a digest of the one kind in use.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)))
}

/// Whether `text` may be a repository's name in a registry.
pub fn is_repository(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.split('/').all(component)
}

impl std::fmt::Display for ImageReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.reference.contains(':') { '@' } else { ':' };
        write!(f, "{}/{}{sign}{}", self.host, self.repository, self.reference)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;

    #[test]
    fn dockers_defaults_apply() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (text, expected) in [
            ("ubuntu", "docker.io/library/ubuntu:latest"),
            ("ubuntu:22.04", "docker.io/library/ubuntu:22.04"),
            ("someone/thing", "docker.io/someone/thing:latest"),
            ("index.docker.io/someone/thing", "docker.io/someone/thing:latest"),
            (
                "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:20251130.v1",
                "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:20251130.v1",
            ),
            ("MyReg.azurecr.io/a", "myreg.azurecr.io/a:latest"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
        ] {
            assert_eq!(ImageReference::parse(text).unwrap().to_string(), expected);
        }
        let both = ImageReference::parse(&format!("a.b/c:1@{digest}")).unwrap();
        assert_eq!((both.repository.as_str(), both.reference.as_str()), ("c", digest.as_str()));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let refused: Vec<String> = [
            "",
            "Ubuntu",
            "a.b/",
            "a.b//c",
            "https://a.b/c",
            "a.b/c:",
            "a.b/c@sha256:1",
            "a.b/../c",
            "a b",
            "a.b/c:x y",
        ]
        .iter()
        .map(|t| ImageReference::parse(t).unwrap_err().to_string())
        .collect();
        insta::assert_snapshot!(refused.join("\n"));
    }
}
