//! What examples put, as bodies for what other examples take for granted.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::kind;
use super::super::recording::{Origin, Recording};

/// Bodies that are tried for one document.
const TRIED_MAX: usize = 4;

/// Bodies that examples put, by type in lower case.
#[derive(Debug, Default)]
pub(crate) struct Bodies(BTreeMap<String, Vec<Sample>>);

/// A request's body and the file it stands in.
#[derive(Debug)]
struct Sample {
    file: String,
    body: Value,
}

impl Bodies {
    pub(crate) fn of(recordings: &[Recording]) -> Self {
        let mut found: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        for recording in recordings.iter().filter(|r| r.origin == Origin::Example) {
            for request in recording.exchanges.iter().map(|e| &e.request).filter(|r| r.method == "PUT") {
                let (Some(id), Ok(body)) = (kind::resource(request.path()), serde_json::from_str(&request.body)) else {
                    continue;
                };
                let sample = Sample { file: recording.name.clone(), body };
                found.entry(id.resource_type().to_lowercase()).or_default().push(sample);
            }
        }
        Self(found)
    }

    /// Bodies of this type, those first whose files are named most like `file`: a `GetWithZones` is
    /// about what a `CreateWithZones` makes. Longer ones first among equals.
    pub(super) fn like(&self, file: &str, kind: &str) -> Vec<Value> {
        let wanted = words(file);
        let mut samples: Vec<&Sample> = self.0.get(&kind.to_lowercase()).into_iter().flatten().collect();
        samples.sort_by_cached_key(|s| {
            let has = words(&s.file);
            let distance = wanted.symmetric_difference(&has).count();
            (distance, std::cmp::Reverse(s.body.to_string().len()), s.file.clone())
        });
        let mut bodies: Vec<Value> = Vec::new();
        for sample in samples {
            if !bodies.contains(&sample.body) {
                bodies.push(sample.body.clone());
            }
        }
        bodies.truncate(TRIED_MAX);
        bodies
    }
}

/// Words in which examples of one thing differ by what is done to it.
const VERBS: [&str; 14] = [
    "get",
    "list",
    "all",
    "create",
    "put",
    "or",
    "update",
    "patch",
    "delete",
    "by",
    "resource",
    "group",
    "subscription",
    "tags",
];

/// The words of a file's path, without what is done and where in a repository it lies. The version
/// counts as a word.
fn words(file: &str) -> BTreeSet<String> {
    let file = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let (above, name) = file.split_once("/examples/").unwrap_or(("", file));
    let mut words = vec![above.rsplit('/').next().unwrap_or_default().to_owned()];
    let mut fresh = true;
    for c in name.chars() {
        // `WithASG` has two words, `DnsZone` too.
        if !c.is_alphanumeric() {
            fresh = true;
            continue;
        }
        let lower_before = words.last().and_then(|w| w.chars().last()).is_some_and(|l| l.is_lowercase());
        if fresh || (c.is_uppercase() && lower_before) {
            words.push(String::new());
        }
        fresh = false;
        if let Some(last) = words.last_mut() {
            last.push(c);
        }
    }
    words.into_iter().map(|w| w.to_lowercase()).filter(|w| !VERBS.contains(&w.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_tell_what_a_file_is_about() {
        let told = |file: &str| words(file).into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(
            told("a/stable/2024-01-01/examples/SubnetGetWithDelegation.json"),
            "2024-01-01 delegation subnet with"
        );
        assert_eq!(told("a/2024-01-01/examples/Compute/get/AKSCompute.json"), "2024-01-01 akscompute compute");
    }

    #[test]
    fn the_body_of_the_example_that_is_named_alike_comes_first() {
        let sample = |file: &str, n: u8| Sample { file: format!("a/2024-01-01/examples/{file}.json"), body: n.into() };
        let samples =
            vec![sample("ThingCreate", 1), sample("ThingCreateWithZones", 2), sample("ThingCreateWithRoute", 3)];
        let bodies = Bodies(BTreeMap::from([("n/things".to_owned(), samples)]));
        let first = |file: &str| bodies.like(&format!("a/2024-01-01/examples/{file}.json"), "N/things")[0].clone();
        assert_eq!((first("ThingGet"), first("ThingGetWithZones")), (1.into(), 2.into()));
    }
}
