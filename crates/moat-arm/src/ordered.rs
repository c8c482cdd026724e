//! A sorted map of documents of which copies are kept: each snapshot has one, and each commit makes
//! the next from it.
//!
//! A sorted list of chunks, each shared until it is changed. A change copies one chunk and the list
//! of chunks, so it costs about the square root of what copying a whole map would.

use std::sync::Arc;

use crate::snapshot::Stored;

/// Entries of a chunk at most; a fuller one is split in two.
const CHUNK_ENTRIES_MAX: usize = 128;
/// Neighbours that together have no more are joined after a removal.
const JOINED_ENTRIES_MAX: usize = CHUNK_ENTRIES_MAX / 2;

type Entry = (Arc<str>, Arc<Stored>);

/// INVARIANT: no chunk is empty or larger than [`CHUNK_ENTRIES_MAX`], and keys ascend, within a chunk
/// and from chunk to chunk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ordered {
    chunks: Vec<Arc<Vec<Entry>>>,
    len: usize,
}

impl Ordered {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Stored>> {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let at = search(chunk, key).ok()?;
        chunk.get(at).map(|(_, document)| document)
    }

    /// Adds or replaces.
    pub(crate) fn insert(&mut self, key: Arc<str>, document: Arc<Stored>) {
        let here = self.chunk_of(&key);
        let Some(chunk) = self.chunks.get_mut(here).map(Arc::make_mut) else {
            self.chunks.push(Arc::new(vec![(key, document)]));
            self.len = 1;
            return;
        };
        match search(chunk, &key) {
            Ok(at) => chunk[at].1 = document,
            Err(at) => {
                chunk.insert(at, (key, document));
                self.len += 1;
                if chunk.len() > CHUNK_ENTRIES_MAX {
                    let upper = chunk.split_off(CHUNK_ENTRIES_MAX / 2);
                    self.chunks.insert(here + 1, Arc::new(upper));
                }
            }
        }
    }

    /// Removes; says whether it was there.
    pub(crate) fn remove(&mut self, key: &str) -> bool {
        let here = self.chunk_of(key);
        // Looked at before it is copied: removing what is not there is common and changes nothing.
        let Some(at) = self.chunks.get(here).and_then(|chunk| search(chunk, key).ok()) else { return false };
        let chunk = Arc::make_mut(&mut self.chunks[here]);
        chunk.remove(at);
        self.len -= 1;
        if chunk.is_empty() {
            self.chunks.remove(here);
        } else {
            self.join(here);
            self.join(here.saturating_sub(1));
        }
        true
    }

    /// Joins the chunk at `here` with the next, if both are small.
    fn join(&mut self, here: usize) {
        let [chunk, next, ..] = &self.chunks[here..] else { return };
        if chunk.len() + next.len() <= JOINED_ENTRIES_MAX {
            let next = self.chunks.remove(here + 1);
            Arc::make_mut(&mut self.chunks[here]).extend(next.iter().cloned());
        }
    }

    /// Entries whose keys are not below `key`, ascending.
    pub(crate) fn from(&self, key: &str) -> impl Iterator<Item = &Entry> + use<'_> {
        let here = self.chunk_of(key);
        let skipped = self.chunks.get(here).map_or(0, |chunk| search(chunk, key).unwrap_or_else(|at| at));
        self.chunks[here..].iter().flat_map(|chunk| chunk.iter()).skip(skipped)
    }

    /// All documents, by ascending key.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).map(|(_, document)| document)
    }

    /// Position of the chunk that has `key` or would take it; 0 if there is none.
    fn chunk_of(&self, key: &str) -> usize {
        self.chunks.partition_point(|chunk| chunk.first().is_some_and(|(first, _)| &**first <= key)).saturating_sub(1)
    }
}

fn search(chunk: &[Entry], key: &str) -> Result<usize, usize> {
    chunk.binary_search_by(|(k, _)| (**k).cmp(key))
}

impl FromIterator<Entry> for Ordered {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let mut all = Self::default();
        for (key, document) in entries {
            all.insert(key, document);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::Value;

    use crate::id::ResourceId;

    fn document(seq: u64) -> Arc<Stored> {
        Arc::new(Stored { id: ResourceId::subscription_scope("s"), body: Value::Null, seq, created_seq: 1 })
    }

    fn holds_together(map: &Ordered) {
        let keys: Vec<&str> = map.from("").map(|(k, _)| &**k).collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
        assert_eq!(keys.len(), map.len());
        assert!(map.chunks.iter().all(|c| !c.is_empty() && c.len() <= CHUNK_ENTRIES_MAX));
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_map_and_copies_do_not_change(
            steps in prop::collection::vec((0..600_u32, prop::bool::weighted(0.7)), 0..1_500),
            from in 0..700_u32,
        ) {
            let (mut map, mut plain) = (Ordered::default(), BTreeMap::new());
            let mut kept = Vec::new();
            for (at, (key, put)) in steps.iter().enumerate() {
                let (key, seq) = (format!("{key:04}"), at as u64);
                if *put {
                    map.insert(Arc::from(key.as_str()), document(seq));
                    plain.insert(key, seq);
                } else {
                    prop_assert_eq!(map.remove(&key), plain.remove(&key).is_some());
                }
                if at % 400 == 0 {
                    kept.push((map.clone(), plain.clone()));
                }
            }
            kept.push((map, plain));
            let from = format!("{from:04}");
            for (map, plain) in &kept {
                holds_together(map);
                let seqs: Vec<u64> = map.values().map(|d| d.seq).collect();
                prop_assert_eq!(seqs, plain.values().copied().collect::<Vec<_>>());
                let above: Vec<&str> = map.from(&from).map(|(k, _)| &**k).collect();
                prop_assert_eq!(above, plain.range(from.clone()..).map(|(k, _)| k.as_str()).collect::<Vec<_>>());
                prop_assert_eq!(map.get(&from).map(|d| d.seq), plain.get(&from).copied());
            }
        }
    }

    #[test]
    fn chunks_do_not_stay_small_when_almost_all_is_removed() {
        let mut map: Ordered = (0..5_000).map(|n| (Arc::from(format!("{n:05}")), document(n))).collect();
        for n in (0..5_000).filter(|n| n % 50 != 0) {
            assert!(map.remove(&format!("{n:05}")));
        }
        holds_together(&map);
        assert!(map.chunks.len() <= 10, "{} chunks for {} entries", map.chunks.len(), map.len());
    }
}
