//! Curated environments: what Azure has as images, and what stands for each of them here.
//!
//! The one table of it. An entry is a list of pinned packages that a Python package index has as wheels for CPython
//! 3.9 to 3.12 (what they depend on is the index's choice on the day of the build), or the reason why there is none.
//! Where the versions are not those of Azure's image, a note says so in the run. [`page`] renders the table for
//! `docs/environments.md`, and a test holds the two together.

/// What stands for one or more curated environments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Curated {
    /// Names without `AzureML-`, in lower case; each also stands for itself followed by `-` and anything
    /// (`sklearn-1.0` for `sklearn-1.0-ubuntu20.04-py38-cpu`). The first that fits, in table order, is taken.
    pub names: &'static [&'static str],
    /// What is installed, or why it cannot be had.
    pub packages: Result<&'static [&'static str], &'static str>,
    /// What differs from Azure's image, for the person whose run it is.
    pub note: Option<&'static str>,
}

/// Interpreters for which the pins have wheels.
pub const PYTHON: &str = ">=3.9,<3.13";

/// Tracking, as all of Azure's curated images have it.
const TRACKING: [&str; 2] = ["azureml-mlflow==1.60.0.post1", "mlflow-skinny==2.16.2"];

const SKLEARN: &[&str] = &[
    "scikit-learn==1.5.2",
    "numpy==1.26.4",
    "scipy==1.13.1",
    "pandas==2.2.3",
    "joblib==1.4.2",
    "matplotlib==3.9.4",
    "psutil==6.1.1",
    "tqdm==4.67.1",
    TRACKING[0],
    TRACKING[1],
];

const LIGHTGBM: &[&str] = &[
    "lightgbm==4.5.0",
    "scikit-learn==1.5.2",
    "numpy==1.26.4",
    "scipy==1.13.1",
    "pandas==2.2.3",
    "joblib==1.4.2",
    "psutil==6.1.1",
    TRACKING[0],
    TRACKING[1],
];

const GPU: &str = "its image is for GPUs, which nodes here do not have; the index's builds of the framework for Linux \
                   bring several GB of CUDA libraries";

/// The table.
pub const TABLE: &[Curated] = &[
    Curated { names: &["sklearn-1.5"], packages: Ok(SKLEARN), note: None },
    Curated {
        names: &["sklearn-0.24", "sklearn-1.0", "sklearn-1.1", "scikit-learn"],
        packages: Ok(SKLEARN),
        note: Some("scikit-learn 1.5.2 stands for the version of the image, which has no wheels for today's Python"),
    },
    Curated {
        names: &["lightgbm", "lightgbm-3.2", "lightgbm-3.3"],
        packages: Ok(LIGHTGBM),
        note: Some("lightgbm 4.5.0 stands for the version of the image"),
    },
    Curated { names: &["minimal", "python-sdk-v2"], packages: Ok(&TRACKING), note: None },
    Curated { names: &["acpt", "acft", "pytorch"], packages: Err(GPU), note: None },
    Curated { names: &["tensorflow"], packages: Err(GPU), note: None },
    Curated {
        names: &["responsibleai", "ai-ml-automl", "automl"],
        packages: Err("its packages need versions of Python and of each other that no wheel offers any more"),
        note: None,
    },
    Curated {
        names: &["vscode", "designer", "hyperdrive"],
        packages: Err("it serves a feature that is not built here"),
        note: None,
    },
];

/// The entry for a name such as `AzureML-sklearn-1.5` (with the prefix or, as in the registry, without).
pub fn find(name: &str) -> Option<&'static Curated> {
    let name = name.to_ascii_lowercase();
    let name = name.strip_prefix("azureml-").unwrap_or(&name);
    TABLE.iter().find(|c| {
        c.names
            .iter()
            .any(|known| name.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')))
    })
}

/// The image that Azure's environment of this name is: what the node asks the registry for.
pub fn image(name: &str, version: &str) -> String {
    let name = name.to_ascii_lowercase();
    let name = name.strip_prefix("azureml-").unwrap_or(&name);
    format!("mcr.microsoft.com/azureml/curated/{name}:{version}")
}

/// The table for people.
pub fn page() -> String {
    let mut out = String::from("| curated name | what is installed |\n|---|---|\n");
    for entry in TABLE {
        let names: Vec<String> = entry.names.iter().map(|n| format!("`{n}`")).collect();
        let mut what = match entry.packages {
            Ok(packages) => packages.iter().map(|p| format!("`{p}`")).collect::<Vec<_>>().join(" "),
            Err(why) => format!("not available: {why}"),
        };
        if let Some(note) = entry.note {
            what.push_str(&format!(" ({note})"));
        }
        out.push_str(&format!("| {} | {what} |\n", names.join(", ")));
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::environment::requirement::Requirement;

    #[test]
    fn names_of_azure_are_found() {
        let packages = |name: &str| find(name).map(|c| c.packages);
        for name in ["AzureML-sklearn-1.5", "sklearn-1.5", "azureml-SKLEARN-1.0-ubuntu20.04-py38-cpu"] {
            assert_eq!(packages(name), Some(Ok(SKLEARN)), "{name}");
        }
        assert_eq!(packages("AzureML-lightgbm-3.2-ubuntu18.04-py37-cpu"), Some(Ok(LIGHTGBM)));
        assert_eq!(packages("AzureML-Minimal"), Some(Ok(&TRACKING[..])));
        for name in ["AzureML-acpt-pytorch-2.8-cuda12.6", "tensorflow-2.16-cuda12", "AzureML-pytorch-1.9-ubuntu18.04"] {
            assert_eq!(packages(name), Some(Err(GPU)), "{name}");
        }
        assert_eq!(find("sklearn-1.55"), None);
        assert_eq!(find("myenv"), None);
    }

    #[test]
    fn the_document_has_the_table() {
        assert!(include_str!("../../../../docs/environments.md").contains(&page()), "paste this:\n{}", page());
    }

    #[test]
    fn every_pin_is_a_pin() {
        for entry in TABLE {
            for line in entry.packages.unwrap_or_default() {
                let requirement = Requirement::parse(line).unwrap().unwrap();
                assert_eq!(requirement.line, *line);
                assert!(line.contains("=="), "{line}");
            }
        }
    }
}
