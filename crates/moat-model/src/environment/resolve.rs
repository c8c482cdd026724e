//! From the reference in a job to what its node needs.

use std::collections::BTreeMap;

use moat_arm::{ApiError, ResourceId, Snapshot, Stored, document};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::conda::Specification;
use super::image::{IDENTITY_WARNING, ImageReference};
use super::python::{Constraint, Interpreter};
use super::requirement::Requirement;
use super::{Refusal, curated};
use crate::types::microsoft_machinelearningservices::runs::Run;

/// Counts up when the builder makes something else of the same specification; part of every hash.
pub const BUILDER_VERSION: u32 = 1;
/// Type of an environment version, as its documents spell it.
pub const ENVIRONMENT_VERSION: &str = "Microsoft.MachineLearningServices/workspaces/environments/versions";
/// Folder names are this many hexadecimal digits: 160 bits, and short enough for a first line of a script.
const HASH_DIGITS: usize = 40;

/// What this machine can build with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// Interpreters that jobs see.
    pub interpreters: Vec<Interpreter>,
    /// The package index; `None`: nothing is installed.
    pub index: Option<String>,
}

/// What has to be built before a node can run the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Names its folder.
    pub hash: String,
    /// Builds and runs it.
    pub python: Interpreter,
    /// Lines for pip, sorted.
    pub requirements: Vec<String>,
}

/// An environment as a job needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// `moatenv`.
    pub name: String,
    /// `1`.
    pub version: String,
    /// The image that it names, where its registry is one that nodes can ask.
    pub image: Option<ImageReference>,
    /// What is to be installed; `None`: the interpreter is enough.
    pub build: Option<Build>,
    /// The interpreter; `None` only on a machine without one.
    pub python: Option<Interpreter>,
    /// Variables that the environment itself sets (azureml-core).
    pub variables: BTreeMap<String, String>,
    /// What the person should know.
    pub warnings: Vec<String>,
}

/// What a reference may name.
enum Named<'a> {
    /// A version (or, with `None`, the latest) of an environment of a workspace.
    Version { container: ResourceId, version: Option<String> },
    /// Of a registry.
    Registry { name: &'a str, version: Option<String> },
}

/// What the environment `reference` of a job in `workspace` means: an ARM id, `azureml:name:version`,
/// `azureml:name@latest` or `azureml://registries/azureml/environments/...`.
pub fn resolve(
    snapshot: &Snapshot,
    workspace: &ResourceId,
    reference: &str,
    offer: &Offer,
) -> Result<Resolved, ApiError> {
    let named = read_reference(workspace, reference).map_err(|e| e.of(reference))?;
    let (name, version) = match &named {
        Named::Version { container, version } => (container.name(), version),
        Named::Registry { name, version } => (*name, version),
    };
    if let Named::Version { container, version } = &named
        && let Some((version, properties)) = stored(snapshot, container, version.as_deref())
    {
        return of_properties(name, &version, properties, offer).map_err(|e| e.of(&format!("{name}:{version}")));
    }
    // An id would be cut off before its name.
    let entry = curated::find(name).ok_or_else(|| {
        Refusal::Unknown.of(&version.as_ref().map_or_else(|| name.to_owned(), |version| format!("{name}:{version}")))
    })?;
    of_curated(entry, name, version.as_deref().unwrap_or("latest"), offer).map_err(|e| e.of(name))
}

/// What the environment of a job document means: the object in its run configuration (azureml-core), or the one that
/// it names.
pub fn of_job(snapshot: &Snapshot, job: &Stored, offer: &Offer) -> Result<Resolved, ApiError> {
    if let Some(definition) = Run::of(&job.body).definition.as_ref().and_then(|d| document::at(d, "environment")) {
        return resolve_definition(definition, offer);
    }
    let reference = document::str_at(&job.body, "properties.environmentId").filter(|r| !r.is_empty());
    let workspace = job.id.parent();
    match (reference, workspace) {
        (Some(reference), Some(workspace)) => resolve(snapshot, &workspace, reference, offer),
        _ => Err(Refusal::Missing.of(job.id.name())),
    }
}

/// What the environment object in a run configuration of azureml-core means.
pub fn resolve_definition(definition: &Value, offer: &Offer) -> Result<Resolved, ApiError> {
    let text = |path: &str| document::str_at(definition, path).filter(|t| !t.is_empty());
    let name = text("name").unwrap_or("environment");
    let version = text("version").unwrap_or("Autosave");
    let read = || -> Result<Resolved, Refusal> {
        if text("docker.baseDockerfile").is_some()
            || document::at(definition, "docker.buildContext").is_some_and(|b| !b.is_null())
        {
            return Err(Refusal::BuildContext);
        }
        let curated =
            name.get(..8).is_some_and(|p| p.eq_ignore_ascii_case("AzureML-")).then(|| curated::find(name)).flatten();
        let own = document::bool_at(definition, "python.userManagedDependencies") == Some(true);
        let conda = document::at(definition, "python.condaDependencies").filter(|c| !c.is_null() && !own);
        let mut resolved = match (curated, conda) {
            (Some(entry), _) => of_curated(entry, name, version, offer)?,
            (None, conda) => {
                let specification = conda.map(Specification::read).transpose()?;
                assemble(name, version, text("docker.baseImage"), specification, offer)?
            }
        };
        if let Some(Value::Object(variables)) = document::at(definition, "environmentVariables") {
            resolved.variables =
                variables.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect();
        }
        Ok(resolved)
    };
    read().map_err(|e| e.of(&format!("{name}:{version}")))
}

/// What an environment version with these properties means; also what a write of one is checked by.
pub fn of_properties(name: &str, version: &str, properties: &Value, offer: &Offer) -> Result<Resolved, Refusal> {
    let text = |path: &str| document::str_at(properties, path).filter(|t| !t.trim().is_empty());
    if document::at(properties, "build").is_some_and(|b| !b.is_null()) {
        return Err(Refusal::BuildContext);
    }
    if text("osType").is_some_and(|os| os.eq_ignore_ascii_case("Windows")) {
        return Err(Refusal::Windows);
    }
    let specification = text("condaFile").map(Specification::parse).transpose()?;
    assemble(name, version, text("image"), specification, offer)
}

fn of_curated(entry: &curated::Curated, name: &str, version: &str, offer: &Offer) -> Result<Resolved, Refusal> {
    let packages = entry.packages.map_err(|why| Refusal::Curated { why })?;
    let specification = Specification {
        python: Constraint::parse(curated::PYTHON)?,
        requirements: packages.iter().filter_map(|p| Requirement::parse(p).transpose()).collect::<Result<_, _>>()?,
        ..Specification::default()
    };
    let mut resolved = assemble(name, version, Some(&curated::image(name, version)), Some(specification), offer)?;
    resolved.warnings.extend(entry.note.map(|note| format!("curated environment `{name}`: {note}")));
    Ok(resolved)
}

fn assemble(
    name: &str,
    version: &str,
    image: Option<&str>,
    specification: Option<Specification>,
    offer: &Offer,
) -> Result<Resolved, Refusal> {
    let image = image.map(ImageReference::parse).transpose()?;
    let (python, build) = match specification {
        None => (offer.interpreters.iter().max().cloned(), None),
        Some(specification) => {
            let python = specification.python.choose(&offer.interpreters)?.clone();
            (Some(python.clone()), plan(specification.requirements, python, offer)?)
        }
    };
    Ok(Resolved {
        name: name.to_owned(),
        version: version.to_owned(),
        warnings: image.iter().flat_map(warnings).collect(),
        image: image.filter(ImageReference::is_served),
        build,
        python,
        variables: BTreeMap::new(),
    })
}

fn warnings(image: &ImageReference) -> Vec<String> {
    let foreign = format!("no node asks `{}` for the image: that registry is no part of this environment", image.host);
    std::iter::once(IDENTITY_WARNING.to_owned()).chain((!image.is_served()).then_some(foreign)).collect()
}

/// The build that installs `requirements`; none where there are none.
fn plan(requirements: Vec<Requirement>, python: Interpreter, offer: &Offer) -> Result<Option<Build>, Refusal> {
    let mut lines: Vec<String> = requirements.into_iter().map(|r| r.line).collect();
    lines.sort();
    lines.dedup();
    let Some(first) = lines.first() else { return Ok(None) };
    let index = offer.index.as_deref().ok_or_else(|| Refusal::NoIndex { first: first.clone() })?;
    let mut hasher = Sha256::new();
    // Each part ends with a newline, and no part contains one, so that no two lists have the same text.
    let builder = format!("builder {BUILDER_VERSION}\n{}\n{python}\n{index}", python.path);
    for part in std::iter::once(&builder).chain(&lines) {
        hasher.update(part.as_bytes());
        hasher.update(b"\n");
    }
    let hash: String = hasher.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok(Some(Build { hash: hash[..HASH_DIGITS].to_owned(), python, requirements: lines }))
}

fn read_reference<'a>(workspace: &ResourceId, reference: &'a str) -> Result<Named<'a>, Refusal> {
    let malformed = || Refusal::Reference;
    if let Some(rest) = reference.strip_prefix("azureml://registries/") {
        let parts: Vec<&str> = rest.split('/').collect();
        let (registry, name, version) = match parts.as_slice() {
            [r, "environments", n, "versions", v] => (*r, *n, Some((*v).to_owned())),
            [r, "environments", n, "labels", "latest"] | [r, "environments", n] => (*r, *n, None),
            _ => return Err(malformed()),
        };
        if !registry.eq_ignore_ascii_case("azureml") {
            return Err(Refusal::Registry { name: super::clip(registry) });
        }
        return Ok(Named::Registry { name, version });
    }
    let text = reference.strip_prefix("azureml:").unwrap_or(reference);
    if text.starts_with('/') {
        let id = ResourceId::parse(text).map_err(|_| malformed())?;
        let parent = id.parent().ok_or_else(malformed)?;
        return match id.resource_type().rsplit('/').next().map(str::to_ascii_lowercase).as_deref() {
            Some("versions") => Ok(Named::Version { container: parent, version: Some(id.name().to_owned()) }),
            Some("labels") if id.name().eq_ignore_ascii_case("latest") => {
                Ok(Named::Version { container: parent, version: None })
            }
            Some("environments") => Ok(Named::Version { container: id, version: None }),
            _ => Err(malformed()),
        };
    }
    let (name, version) = match (text.split_once('@'), text.split_once(':')) {
        (Some((name, label)), _) if label.eq_ignore_ascii_case("latest") => (name, None),
        (Some(_), _) => return Err(malformed()),
        (None, Some((name, version))) => (name, Some(version.to_owned())),
        (None, None) => (text, None),
    };
    if name.is_empty()
        || name.contains('/')
        || version.as_deref().is_some_and(|v| v.is_empty() || v.contains([':', '/']))
    {
        return Err(malformed());
    }
    Ok(Named::Version { container: workspace.child("environments", name), version })
}

/// The properties of a version's document: of the asked one, or of the latest.
fn stored<'a>(snapshot: &'a Snapshot, container: &ResourceId, version: Option<&str>) -> Option<(String, &'a Value)> {
    let properties = |id: &ResourceId| {
        let stored = snapshot.get(id)?;
        Some((id.name().to_owned(), document::at(&stored.body, "properties")?))
    };
    if let Some(version) = version {
        return properties(&container.child("versions", version));
    }
    let latest = snapshot.get(container).and_then(|c| document::str_at(&c.body, "properties.latestVersion"));
    if let Some(found) = latest.and_then(|v| properties(&container.child("versions", v))) {
        return Some(found);
    }
    // Numbers count as numbers: 10 is later than 9.
    let versions = snapshot.below(container).filter(|d| d.id.resource_type().eq_ignore_ascii_case(ENVIRONMENT_VERSION));
    let last = versions.max_by_key(|d| (d.id.name().parse::<u64>().ok(), d.id.name().to_owned()))?;
    properties(&last.id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use serde_json::json;

    const WORKSPACE: &str =
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w";

    fn offer() -> Offer {
        let interpreter =
            |minor: u32| Interpreter { version: [3, minor, 2], path: format!("/usr/bin/python3.{minor}") };
        Offer { interpreters: vec![interpreter(9), interpreter(11)], index: Some("https://pypi.org/simple".to_owned()) }
    }

    fn world(versions: &[(&str, &str, Value)]) -> Snapshot {
        Snapshot::from_documents(
            1,
            versions.iter().map(|(name, version, properties)| Stored {
                id: ResourceId::parse(&format!("{WORKSPACE}/environments/{name}/versions/{version}")).unwrap(),
                body: json!({"name": version, "properties": properties}),
                seq: 1,
                created_seq: 1,
            }),
        )
    }

    fn resolved(world: &Snapshot, reference: &str) -> Result<Resolved, String> {
        let workspace = ResourceId::parse(WORKSPACE).unwrap();
        resolve(world, &workspace, reference, &offer()).map_err(|e| e.to_string())
    }

    fn check(reference: &str, properties: Value) -> String {
        match resolved(&world(&[("e", "1", properties)]), reference) {
            Ok(r) => format!(
                "{}:{} python {} image {} installs {} warnings {}",
                r.name,
                r.version,
                r.python.map_or("-".to_owned(), |p| p.to_string()),
                r.image.map_or("-".to_owned(), |i| i.to_string()),
                r.build.map_or("-".to_owned(), |b| b.requirements.join(" ")),
                r.warnings.len()
            ),
            Err(e) => e,
        }
    }

    #[test]
    fn what_jobs_name_is_resolved() {
        let conda = "name: e\ndependencies: [python=3.11, numpy, {pip: [mlflow]}]";
        let cases = [
            check("azureml:e:1", json!({"image": "ubuntu:22.04", "condaFile": conda})),
            check(
                &format!("{WORKSPACE}/environments/e/versions/1"),
                json!({"image": "ubuntu:22.04", "condaFile": "dependencies: [python=3.11]"}),
            ),
            check(&format!("azureml:{WORKSPACE}/environments/E/labels/latest"), json!({"condaFile": conda})),
            check("azureml:e@latest", json!({"image": "mcr.microsoft.com/a/b"})),
            check("azureml:AzureML-sklearn-1.5@latest", json!({})),
            check("azureml:AzureML-sklearn-1.0-ubuntu20.04-py38-cpu:33", json!({})),
            check("azureml://registries/azureml/environments/sklearn-1.5/labels/latest", json!({})),
            check(&format!("{WORKSPACE}/environments/AzureML-Minimal/versions/2"), json!({})),
        ];
        insta::assert_snapshot!(cases.join("\n"));
    }

    #[test]
    fn what_cannot_be_had_is_refused_by_name() {
        let cases = [
            check("azureml:other:1", json!({})),
            check("azureml:e:2", json!({})),
            check("azureml:e@stable", json!({})),
            check("azureml://registries/mine/environments/e/versions/1", json!({})),
            check("azureml://registries/azureml/models/e/versions/1", json!({})),
            check("azureml:AzureML-acpt-pytorch-2.8-cuda12.6@latest", json!({})),
            check("azureml:e:1", json!({"build": {"contextUri": "https://x", "dockerfilePath": "Dockerfile"}})),
            check("azureml:e:1", json!({"image": "UBUNTU"})),
            check("azureml:e:1", json!({"osType": "Windows", "image": "a"})),
            check("azureml:e:1", json!({"condaFile": "dependencies: [python=3.8]"})),
            check("azureml:e:1", json!({"condaFile": "dependencies: [cudatoolkit]"})),
            check("azureml:e:1", json!({"condaFile": "dependencies: [{pip: [-r x]}]"})),
        ];
        insta::assert_snapshot!(cases.join("\n"));
    }

    #[test]
    fn the_latest_is_the_highest_number() {
        let world = world(&[("e", "9", json!({})), ("e", "10", json!({})), ("e", "2", json!({}))]);
        assert_eq!(resolved(&world, "azureml:e@latest").unwrap().version, "10");
    }

    #[test]
    fn the_hash_is_of_the_content() {
        let hash = |file: &str, offer: &Offer| {
            of_properties("e", "1", &json!({"condaFile": file}), offer).unwrap().build.unwrap().hash
        };
        let here = offer();
        let one = hash("dependencies: [python=3.11, {pip: [Numpy, pandas]}]", &here);
        assert_eq!(one.len(), HASH_DIGITS);
        assert_eq!(one, hash("name: x\ndependencies: [pandas, numpy]", &here), "order, spelling and name do not count");
        assert_ne!(one, hash("dependencies: [python=3.9, pandas, numpy]", &here));
        assert_ne!(one, hash("dependencies: [pandas, numpy=1]", &here));
        assert_ne!(
            one,
            hash("dependencies: [pandas, numpy]", &Offer { index: Some("https://other".to_owned()), ..here })
        );
    }

    #[test]
    fn without_an_index_or_an_interpreter_it_is_told() {
        let file = json!({"condaFile": "dependencies: [numpy]"});
        let none = Offer { index: None, ..offer() };
        insta::assert_snapshot!(of_properties("e", "1", &file, &none).unwrap_err(), @"It needs `numpy`, but this environment of Moat was started without a package index (`moat up --package-index none`)");
        let bare = Offer { interpreters: Vec::new(), ..offer() };
        insta::assert_snapshot!(of_properties("e", "1", &file, &bare).unwrap_err(), @"This machine has no interpreter for `python`. It has none; ask for one of these, or install that interpreter in /usr/bin or /usr/local/bin");
        assert_eq!(of_properties("e", "1", &json!({"image": "ubuntu"}), &bare).unwrap().python, None);
    }

    #[test]
    fn run_configurations_of_azureml_core_are_read() {
        let definition = |own: bool| {
            json!({"name": "v1env", "version": null, "environmentVariables": {"A": "1"},
                "python": {"userManagedDependencies": own, "interpreterPath": "python",
                    "condaDependencies": {"dependencies": ["python=3.11", {"pip": ["numpy"]}]}},
                "docker": {"baseImage": "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:1", "baseDockerfile": null}})
        };
        let own = resolve_definition(&definition(true), &offer()).unwrap();
        assert_eq!((own.build, own.variables["A"].as_str()), (None, "1"));
        let installed = resolve_definition(&definition(false), &offer()).unwrap();
        assert_eq!(installed.build.unwrap().requirements, ["numpy"]);
        let curated = resolve_definition(&json!({"name": "AzureML-sklearn-1.5", "version": "3"}), &offer()).unwrap();
        assert!(curated.build.is_some());
        let dockerfile = json!({"name": "d", "docker": {"baseDockerfile": "FROM x"}});
        assert!(resolve_definition(&dockerfile, &offer()).is_err());
    }
}
