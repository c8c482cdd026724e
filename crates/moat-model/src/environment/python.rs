//! Which interpreter an environment asks for, in conda's words (`python=3.11`, `python>=3.8,<3.12`), and which of
//! those that the host has fits.

use serde::{Deserialize, Serialize};

use super::Refusal;

/// A Python interpreter that jobs can see.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Interpreter {
    /// `[3, 11, 2]`.
    pub version: [u32; 3],
    /// `/usr/bin/python3.11`.
    pub path: String,
}

impl Interpreter {
    /// `3.11`.
    pub fn minor(&self) -> String {
        let [major, minor, _] = self.version;
        format!("{major}.{minor}")
    }
}

impl std::fmt::Display for Interpreter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.version;
        write!(f, "{major}.{minor}.{patch}")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    /// `=` of conda and `==`: every number that is given agrees.
    Is,
    IsNot,
    Less,
    AtMost,
    AtLeast,
    More,
    /// `~=`: at least, and all numbers but the last agree.
    Compatible,
}

/// What is asked of the interpreter's version. Empty: any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Constraint {
    /// As written, for messages.
    text: String,
    parts: Vec<(Comparison, Vec<u32>)>,
}

const OPERATORS: [(&str, Comparison); 8] = [
    ("==", Comparison::Is),
    ("!=", Comparison::IsNot),
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("~=", Comparison::Compatible),
    ("=", Comparison::Is),
    ("<", Comparison::Less),
    (">", Comparison::More),
];

impl Constraint {
    /// What stands after the word `python`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let refused = || Refusal::PythonVersion { text: format!("python{text}") };
        let mut parts = Vec::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (comparison, version) = OPERATORS
                .iter()
                .find_map(|(sign, c)| part.strip_prefix(sign).map(|rest| (*c, rest)))
                .unwrap_or((Comparison::Is, part));
            // `3.11=hash_0` pins a build of conda; the version before it still counts. `3.11.*` is `3.11`.
            let version = version.split('=').next().unwrap_or_default().trim().trim_end_matches('*');
            if version.is_empty() && part.ends_with('*') {
                continue;
            }
            let numbers: Option<Vec<u32>> = version.trim_end_matches('.').split('.').map(|n| n.parse().ok()).collect();
            match numbers {
                Some(n) if (1..=3).contains(&n.len()) => parts.push((comparison, n)),
                _ => return Err(refused()),
            }
        }
        Ok(Self { text: text.trim().to_owned(), parts })
    }

    fn admits(&self, version: [u32; 3]) -> bool {
        self.parts.iter().all(|(comparison, numbers)| {
            let given = &version[..numbers.len()];
            let full = |i: usize| numbers.get(i).copied().unwrap_or(0);
            let whole = [full(0), full(1), full(2)];
            match comparison {
                Comparison::Is => given == numbers.as_slice(),
                Comparison::IsNot => given != numbers.as_slice(),
                Comparison::Less => version < whole,
                Comparison::AtMost => given <= numbers.as_slice(),
                Comparison::AtLeast => version >= whole,
                Comparison::More => version > whole && given != numbers.as_slice(),
                Comparison::Compatible => {
                    let kept = numbers.len().saturating_sub(1);
                    version >= whole && version[..kept] == numbers[..kept]
                }
            }
        })
    }

    /// The newest interpreter that fits.
    pub fn choose<'a>(&self, present: &'a [Interpreter]) -> Result<&'a Interpreter, Refusal> {
        present.iter().filter(|i| self.admits(i.version)).max().ok_or_else(|| Refusal::NoInterpreter {
            asked: format!("python{}", self.text),
            present: super::list(present.iter().map(Interpreter::to_string)),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;

    fn chosen(text: &str) -> Result<String, String> {
        let present: Vec<Interpreter> = [[3, 9, 2], [3, 11, 2], [3, 12, 7]]
            .map(|version| Interpreter { version, path: format!("/usr/bin/python3.{}", version[1]) })
            .to_vec();
        let constraint = Constraint::parse(text).map_err(|e| e.to_string())?;
        constraint.choose(&present).map(Interpreter::to_string).map_err(|e| e.to_string())
    }

    #[test]
    fn conda_words_choose_an_interpreter() {
        for (asked, expected) in [
            ("", "3.12.7"),
            ("=3", "3.12.7"),
            ("=3.11", "3.11.2"),
            ("==3.11", "3.11.2"),
            ("=3.11.*", "3.11.2"),
            ("=3.11.2", "3.11.2"),
            ("=3.11.2=h1234_0", "3.11.2"),
            (" 3.9", "3.9.2"),
            (">=3.8,<3.12", "3.11.2"),
            (">3.11", "3.12.7"),
            ("<=3.11", "3.11.2"),
            ("~=3.9.1", "3.9.2"),
            ("~=3.9", "3.12.7"),
            ("!=3.12", "3.11.2"),
            ("=*", "3.12.7"),
        ] {
            assert_eq!(chosen(asked).as_deref(), Ok(expected), "python{asked}");
        }
    }

    #[test]
    fn what_is_absent_is_told() {
        insta::assert_snapshot!(
            chosen("=3.8.13").unwrap_err(),
            @"This machine has no interpreter for `python=3.8.13`. It has 3.9.2, 3.11.2, 3.12.7; ask for one of these, or install that interpreter in /usr/bin or /usr/local/bin"
        );
        assert!(chosen("=3.11.0").is_err());
        assert!(chosen("=3.8|3.9").is_err());
        assert!(chosen("=three").is_err());
    }
}
