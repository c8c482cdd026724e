//! Asking the registry for the image's manifest, as a container engine would before it pulls.
//!
//! The image is an identity and no file system (docs/adr/0005), but its registry has to be reachable and has to have
//! it: a rule that blocks the registry breaks the run here, as it would in Azure.

use hyper::{Method, StatusCode};

use super::blob::encode;
use super::http::{Answer, Ask, Client, Trouble};
use super::stop::Stop;
use crate::spec::Image;

/// Manifests of Docker and OCI, single and by platform.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;
const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// What the registry calls the image; the reference where it does not say.
pub(crate) async fn digest(client: &Client, image: &Image) -> Result<String, Stop> {
    let shown = format!("{}/{}:{}", image.host, image.repository, image.reference);
    let failed = |t: Trouble| match t.status() {
        Some(StatusCode::NOT_FOUND) => {
            Stop::failed("ImageNotFound", format!("The registry `{}` has no image `{shown}`.", image.host))
        }
        Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Stop::failed(
            "ImageRefused",
            format!("The registry `{}` does not let this node read `{shown}` ({t}).", image.host),
        ),
        _ => Stop::service(&format!("asking for the image `{shown}`"), t),
    };
    let mut answer = client.send(&manifest(image)).await.map_err(failed)?;
    if answer.status == StatusCode::UNAUTHORIZED
        && let Some(challenge) = answer.header("www-authenticate").and_then(Challenge::parse)
    {
        answer.done().await.map_err(failed)?;
        let token = anonymous(client, &challenge, image).await.map_err(failed)?;
        answer = client.send(&manifest(image).bearer(&token)).await.map_err(failed)?;
    }
    if !answer.status.is_success() {
        return Err(failed(answer.into_refusal().await));
    }
    let digest = answer.header("docker-content-digest").map(str::to_owned);
    answer.bytes(MANIFEST_BYTES_MAX).await.map_err(failed)?;
    Ok(digest.unwrap_or_else(|| image.reference.clone()))
}

fn manifest(image: &Image) -> Ask {
    let repository: Vec<String> = image.repository.split('/').map(encode).collect();
    let target = format!("/v2/{}/manifests/{}", repository.join("/"), encode(&image.reference));
    Ask::new(&label(&image.host), Method::GET, &image.host, target).header("accept", ACCEPT)
}

/// The service tag that a registry's name belongs to; the name where there is none.
fn label(host: &str) -> String {
    if host == "mcr.microsoft.com" || host.ends_with(".mcr.microsoft.com") {
        "MicrosoftContainerRegistry".to_owned()
    } else if host.ends_with(".azurecr.io") {
        "AzureContainerRegistry".to_owned()
    } else {
        host.to_owned()
    }
}

/// Where a registry wants a token to be asked for (the token flow of the distribution specification).
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    host: String,
    path: String,
    service: Option<String>,
    scope: Option<String>,
}

impl Challenge {
    fn parse(header: &str) -> Option<Self> {
        let parameters = header.split_once(' ').filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"))?.1;
        let (mut realm, mut service, mut scope) = (None, None, None);
        let mut rest = parameters;
        // Values are quoted and may hold commas.
        while let Some((name, after)) = rest.split_once("=\"") {
            let (value, after) = after.split_once('"')?;
            match name.trim_matches([' ', ',']) {
                "realm" => realm = Some(value),
                "service" => service = Some(value.to_owned()),
                "scope" => scope = Some(value.to_owned()),
                _ => {}
            }
            rest = after;
        }
        let (host, path) = realm?.strip_prefix("https://")?.split_once('/')?;
        if host.is_empty() || host.contains(['@', ':', '?', '#']) || path.contains(['?', '#', ' ']) {
            return None;
        }
        Some(Self { host: host.to_owned(), path: format!("/{path}"), service, scope })
    }
}

#[derive(serde::Deserialize)]
struct Granted {
    #[serde(alias = "access_token")]
    token: String,
}

async fn anonymous(client: &Client, challenge: &Challenge, image: &Image) -> Result<String, Trouble> {
    let scope = challenge.scope.clone().unwrap_or_else(|| format!("repository:{}:pull", image.repository));
    let mut target = format!("{}?scope={}", challenge.path, encode(&scope));
    if let Some(service) = &challenge.service {
        target.push_str(&format!("&service={}", encode(service)));
    }
    let ask = Ask::new(&label(&challenge.host), Method::GET, &challenge.host, target);
    let answer: Answer = client.expect(&ask).await?;
    Ok(answer.json::<Granted>(TOKEN_BYTES_MAX).await?.token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_names_where_to_ask() {
        let header = "Bearer realm=\"https://mcr.microsoft.com/oauth2/token\",service=\"mcr\",\
                      scope=\"repository:a/b:pull,push\"";
        let expected = Challenge {
            host: "mcr.microsoft.com".to_owned(),
            path: "/oauth2/token".to_owned(),
            service: Some("mcr".to_owned()),
            scope: Some("repository:a/b:pull,push".to_owned()),
        };
        assert_eq!(Challenge::parse(header), Some(expected));
        for bad in ["Basic realm=\"x\"", "Bearer realm=\"http://h/t\"", "Bearer", "Bearer realm=\"https://u@h/t\""] {
            assert_eq!(Challenge::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_registry_is_known_by_its_tag() {
        assert_eq!(label("mcr.microsoft.com"), "MicrosoftContainerRegistry");
        assert_eq!(label("x.azurecr.io"), "AzureContainerRegistry");
        assert_eq!(label("azurecr.io.evil"), "azurecr.io.evil");
    }
}
