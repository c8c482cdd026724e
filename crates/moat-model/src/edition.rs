//! Editions: what the seed document says (`2021-09`) and what Azure asks today (`current`).

use serde::{Deserialize, Serialize};

/// Which text applies. Every answer of the product says which one it used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Edition {
    /// The document of 2021-09-24 (catalogue era `seed-2021`).
    #[serde(rename = "2021-09")]
    Seed2021,
    /// Azure today (catalogue era `current`).
    #[serde(rename = "current")]
    Current,
}

impl Edition {
    /// As written on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Edition::Seed2021 => "2021-09",
            Edition::Current => "current",
        }
    }
}
impl std::fmt::Display for Edition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
impl std::str::FromStr for Edition {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "2021-09" => Ok(Edition::Seed2021),
            "current" => Ok(Edition::Current),
            other => Err(format!("`{other}` is not an edition; choose `2021-09` or `current`")),
        }
    }
}
