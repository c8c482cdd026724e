//! A conda file, read: `condaFile` of an environment version (YAML text) and `python.condaDependencies` of
//! azureml-core (an object of the same form).

use serde_json::Value;

use super::python::Constraint;
use super::requirement::{Requirement, normalise, well_formed};
use super::{Refusal, known, yaml};

/// Requirements of one environment; the largest in public examples has 60.
pub const REQUIREMENTS_MAX: usize = 500;

/// What a conda file asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Specification {
    /// `name:` of the file; azure-ai-ml does not use it.
    pub name: Option<String>,
    /// Of the interpreter.
    pub python: Constraint,
    /// From `pip:` and from conda packages that the index has, in the order given, without doubles.
    pub requirements: Vec<Requirement>,
    /// Named, never asked: no conda channel can be reached.
    pub channels: Vec<String>,
}

impl Specification {
    /// Of YAML text.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        Self::read(&yaml::parse(text)?)
    }

    /// Of the object form.
    pub fn read(file: &Value) -> Result<Self, Refusal> {
        let file = match file {
            Value::Null => return Ok(Self::default()),
            Value::Object(members) => members,
            _ => return Err(shape("the file", "a map with `dependencies`")),
        };
        let mut specification = Self { name: file.get("name").and_then(text), ..Self::default() };
        for (member, value) in file {
            match (member.as_str(), value) {
                ("name" | "prefix" | "variables", _) | (_, Value::Null) => {}
                ("channels", Value::Array(channels)) => {
                    specification.channels = channels.iter().filter_map(text).collect()
                }
                ("dependencies", Value::Array(entries)) => specification.dependencies(entries)?,
                ("channels" | "dependencies", _) => return Err(shape(&format!("`{member}`"), "a list")),
                // conda ignores members it does not know, and so do its files' writers.
                _ => {}
            }
        }
        Ok(specification)
    }

    fn dependencies(&mut self, entries: &[Value]) -> Result<(), Refusal> {
        for entry in entries {
            match entry {
                Value::Object(members) => {
                    for (installer, lines) in members {
                        match (installer.as_str(), lines) {
                            ("pip", Value::Null) => {}
                            ("pip", Value::Array(lines)) => self.pip(lines)?,
                            ("pip", _) => return Err(shape("`pip`", "a list")),
                            _ => return Err(Refusal::Installer { name: super::clip(installer) }),
                        }
                    }
                }
                Value::Null => {}
                entry => self.package(&text(entry).ok_or_else(|| shape("a dependency", "a text"))?)?,
            }
        }
        Ok(())
    }

    fn pip(&mut self, lines: &[Value]) -> Result<(), Refusal> {
        for line in lines.iter().filter(|l| !l.is_null()) {
            let line = text(line).ok_or_else(|| shape("a line below `pip`", "a text"))?;
            if let Some(requirement) = Requirement::parse(&line)? {
                self.add(requirement)?;
            }
        }
        Ok(())
    }

    /// One conda package: `numpy`, `conda-forge::numpy=1.26`, `pandas>=1.5,<2`.
    fn package(&mut self, entry: &str) -> Result<(), Refusal> {
        let bare = entry.rsplit("::").next().unwrap_or(entry).trim();
        let end = bare.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))).unwrap_or(bare.len());
        let (name, version) = bare.split_at(end);
        let refuse = |why: &'static str| Refusal::CondaPackage { entry: super::clip(entry), why };
        if !well_formed(name) {
            return Err(refuse("this is not the form `name=version`"));
        }
        match normalise(name).as_str() {
            "python" => self.python = Constraint::parse(version)?,
            // The environment has the pip that built it; another version of it installs the same wheels.
            "pip" => {}
            name => {
                let index = known::index_name(name).map_err(refuse)?;
                let versions = index_versions(version).ok_or_else(|| {
                    refuse("of conda's versions only forms such as `=1.2`, `==1.2.3` and `>=1.2,<2` have a meaning for the index")
                })?;
                if let Some(requirement) = Requirement::parse(&format!("{index}{versions}"))? {
                    self.add(requirement)?;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, requirement: Requirement) -> Result<(), Refusal> {
        if !self.requirements.contains(&requirement) {
            self.requirements.push(requirement);
        }
        if self.requirements.len() > REQUIREMENTS_MAX {
            Err(Refusal::TooMany { limit: REQUIREMENTS_MAX })
        } else {
            Ok(())
        }
    }
}

/// A conda version in the words of the index: `=1.2` means any 1.2, `1.2=build` pins a build, which no index has.
fn index_versions(text: &str) -> Option<String> {
    let parts: Option<Vec<String>> =
        text.split(',').map(str::trim).filter(|p| !p.is_empty()).map(index_version).collect();
    Some(parts?.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(","))
}

fn index_version(part: &str) -> Option<String> {
    let sign = ["==", "!=", "<=", ">=", "~=", "<", ">", "="].into_iter().find(|s| part.starts_with(s)).unwrap_or("=");
    let version = part.strip_prefix(sign).unwrap_or(part).trim();
    let version = version.split('=').next()?.trim();
    if version == "*" {
        return Some(String::new());
    }
    if version.is_empty() || !version.chars().all(|c| c.is_ascii_alphanumeric() || ".*+!".contains(c)) {
        return None;
    }
    let plain = version.chars().all(|c| c.is_ascii_digit() || c == '.');
    Some(match sign {
        "=" if plain => format!("=={version}.*"),
        "=" => format!("=={version}"),
        sign => format!("{sign}{version}"),
    })
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

fn shape(what: &str, wanted: &'static str) -> Refusal {
    Refusal::Shape { what: what.to_owned(), wanted }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn check(file: &str) -> String {
        match Specification::parse(file) {
            Ok(s) => {
                let lines: Vec<&str> = s.requirements.iter().map(|r| r.line.as_str()).collect();
                lines.join(" | ")
            }
            Err(e) => format!("refused: {e}"),
        }
    }

    #[test]
    fn conda_packages_become_those_of_the_index() {
        let file = "
name: e
channels: [conda-forge, defaults]
dependencies:
- python=3.11
- pip=21.1.2
- setuptools
- numpy
- conda-forge::scikit-learn=1.5
- pandas=2.2.3=py311h_0
- scipy>=1.4.1,<=1.13
- PyTables==3.9.2
- matplotlib 3.9.*
- joblib=*
- pip:
  - azureml-mlflow
  - numpy
  - # nothing
";
        insta::assert_snapshot!(check(file), @"setuptools | numpy | scikit-learn==1.5.* | pandas==2.2.3.* | scipy>=1.4.1,<=1.13 | tables==3.9.2 | matplotlib==3.9.* | joblib | azureml-mlflow");
        let parsed = Specification::parse(file).unwrap();
        assert_eq!((parsed.name.as_deref(), parsed.channels.len()), (Some("e"), 2));
    }

    #[test]
    fn what_is_not_known_fails_by_name() {
        let refused: Vec<String> = [
            "dependencies: [cudatoolkit=10.1]",
            "dependencies: ['pytorch::pytorch=1.4.0']",
            "dependencies: [my-own-package]",
            "dependencies: ['numpy=1.2|1.3']",
            "dependencies: ['numpy[version=1.2]']",
            "dependencies: [{npm: [left-pad]}]",
            "dependencies: [{pip: numpy}]",
            "dependencies: [[numpy]]",
            "dependencies: numpy",
            "- numpy",
            "dependencies: [{pip: ['git+https://host/x']}]",
            "dependencies: [python=3.8|3.9]",
            "dependencies: [numpy",
        ]
        .iter()
        .map(|f| check(f))
        .collect();
        insta::assert_snapshot!(refused.join("\n"));
    }

    #[test]
    fn the_object_form_is_the_same() {
        let object = json!({"name": "project_environment", "dependencies": ["python=3.8.13", {"pip": ["azureml-defaults"]}], "channels": ["anaconda"]});
        let yaml = "name: project_environment\ndependencies:\n- python=3.8.13\n- pip: [azureml-defaults]\nchannels: [anaconda]\n";
        assert_eq!(Specification::read(&object), Specification::parse(yaml));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
            let _ = Specification::parse(&text);
        }

        #[test]
        fn any_yaml_like_text_is_read_or_refused(lines in proptest::collection::vec("( {0,4})(- )?(dependencies|pip|python|numpy|&a|\\*a|\\[|\\{)?(:|=|>=|::| )?[a-z0-9.*'\"\\[\\]{}|>]{0,8}", 0..20)) {
            let _ = Specification::parse(&lines.join("\n"));
        }
    }
}
