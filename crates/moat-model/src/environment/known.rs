//! Conda packages that a Python package index has too, under which name.
//!
//! No conda channel can be asked (docs/environments.md), so a conda package is installed as the wheel of the same project
//! where there is one. A name that is not here fails by name: a guess could install a stranger's package. One line a
//! package; where conda's package is not the project's wheel, [`ABSENT`] says why.

/// `(conda, index)`; an empty second name: the same one.
const KNOWN: &[(&str, &str)] = &[
    ("adlfs", ""),
    ("attrs", ""),
    ("azure-identity", ""),
    ("azure-storage-blob", ""),
    ("beautifulsoup4", ""),
    ("bokeh", ""),
    ("boto3", ""),
    ("click", ""),
    ("cloudpickle", ""),
    ("cython", ""),
    ("dask", "dask[complete]"),
    ("dask-core", "dask"),
    ("dill", ""),
    ("distributed", ""),
    ("fastapi", ""),
    ("fastparquet", ""),
    ("flask", ""),
    ("fsspec", ""),
    ("gcsfs", ""),
    ("h5py", ""),
    ("holidays", ""),
    ("imbalanced-learn", ""),
    ("ipykernel", ""),
    ("ipython", ""),
    ("jinja2", ""),
    ("joblib", ""),
    ("jsonschema", ""),
    ("jupyter-server-proxy", ""),
    ("jupyterlab", ""),
    ("lightgbm", ""),
    ("lxml", ""),
    ("matplotlib", ""),
    ("matplotlib-base", "matplotlib"),
    ("mlflow", ""),
    ("mlflow-skinny", ""),
    ("networkx", ""),
    ("nltk", ""),
    ("notebook", ""),
    ("numba", ""),
    ("numexpr", ""),
    ("numpy", ""),
    ("numpy-base", "numpy"),
    ("openpyxl", ""),
    ("packaging", ""),
    ("pandas", ""),
    ("pandas-datareader", ""),
    ("patsy", ""),
    ("pillow", ""),
    ("plotly", ""),
    ("polars", ""),
    ("protobuf", ""),
    ("psutil", ""),
    ("py-lightgbm", "lightgbm"),
    ("py-xgboost", "xgboost"),
    ("pyarrow", ""),
    ("pydantic", ""),
    ("pytables", "tables"),
    ("pytest", ""),
    ("python-dateutil", ""),
    ("python-dotenv", ""),
    ("python-graphviz", "graphviz"),
    ("pytz", ""),
    ("pyyaml", ""),
    ("regex", ""),
    ("requests", ""),
    ("rich", ""),
    ("s3fs", ""),
    ("scikit-image", ""),
    ("scikit-learn", ""),
    ("scipy", ""),
    ("seaborn", ""),
    ("setuptools", ""),
    ("shap", ""),
    ("six", ""),
    ("snakeviz", ""),
    ("sqlalchemy", ""),
    ("statsmodels", ""),
    ("sympy", ""),
    ("tabulate", ""),
    ("threadpoolctl", ""),
    ("toolz", ""),
    ("tornado", ""),
    ("tqdm", ""),
    ("typing-extensions", ""),
    ("ujson", ""),
    ("urllib3", ""),
    ("uvicorn", ""),
    ("wheel", ""),
    ("xgboost", ""),
];

/// Conda packages that have no wheel to stand for them, and why.
const ABSENT: &[(&str, &str)] = &[
    ("cpuonly", "it selects a build of conda's PyTorch; the index has builds with CUDA only"),
    ("cudatoolkit", "nodes here have no GPU"),
    ("cuda", "nodes here have no GPU"),
    ("pytorch", "the index's builds for Linux bring several GB of CUDA libraries"),
    ("torchvision", "the index's builds for Linux bring several GB of CUDA libraries"),
    ("pytorch-cuda", "nodes here have no GPU"),
    ("tensorflow-gpu", "nodes here have no GPU"),
    ("r-base", "only Python environments are built"),
    ("nb_conda", "it manages conda itself, which nodes here do not have"),
    ("nomkl", "it selects a build of conda's numpy; wheels come with OpenBLAS"),
    ("graphviz", "it is a program, not a Python package; `python-graphviz` is known"),
];

/// What stands for the conda package `name` (already normalised), or why nothing does.
pub(super) fn index_name(name: &str) -> Result<&'static str, &'static str> {
    if let Some((conda, index)) = KNOWN.iter().find(|(conda, _)| *conda == name) {
        return Ok(if index.is_empty() { conda } else { index });
    }
    let absent = ABSENT.iter().find(|(conda, _)| super::requirement::normalise(conda) == name);
    Err(absent.map_or("no conda channel can be reached, and no package of the index is known to be the same; list what you need below `pip:`", |a| a.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_normal() {
        for pair in KNOWN.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{} before {}", pair[0].0, pair[1].0);
        }
        for (conda, _) in KNOWN {
            assert_eq!(crate::environment::requirement::normalise(conda), *conda);
            assert!(!ABSENT.iter().any(|(absent, _)| absent == conda));
        }
        assert_eq!(index_name("pytables"), Ok("tables"));
        assert!(index_name("left-pad").unwrap_err().contains("no conda channel"));
    }
}
