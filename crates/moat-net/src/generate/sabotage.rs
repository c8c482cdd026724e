//! Small lies about a world: what a differential test must be able to notice.

use std::sync::Arc;

use super::flows::Case;
use crate::ir::{AddressMatch, Net};
use crate::trace::{Verdict, trace};

/// Kinds of lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sabotage {
    /// A security rule is left out.
    SkipRule,
    /// Two rules of one direction exchange their priorities.
    SwapOrder,
    /// A service tag means no address, or a rule loses its tag.
    LoseTag,
}
impl Sabotage {
    /// All kinds.
    pub const ALL: [Sabotage; 3] = [Sabotage::SkipRule, Sabotage::SwapOrder, Sabotage::LoseTag];
}

/// A world that differs from `net` by one lie of `kind` and, by the model, ends at least one of
/// `cases` with another verdict; with a sentence about it. `None`: no such lie exists here.
pub fn sabotage(net: &Net, kind: Sabotage, cases: &[Case]) -> Option<(Net, String)> {
    let lies: Vec<(Net, String)> = match kind {
        Sabotage::SkipRule => skips(net),
        Sabotage::SwapOrder => swaps(net),
        Sabotage::LoseTag => losses(net),
    };
    let passes = |net: &Net, c: &Case| trace(net, c.from, c.flow).verdict == Verdict::Allow;
    lies.into_iter().find(|(lie, _)| cases.iter().any(|c| passes(lie, c) != passes(net, c)))
}

fn skips(net: &Net) -> Vec<(Net, String)> {
    let mut lies = Vec::new();
    for (n, nsg) in net.nsgs.iter().enumerate() {
        for (r, rule) in nsg.rules.iter().enumerate() {
            let mut lie = net.clone();
            lie.nsgs[n].rules.remove(r);
            lies.push((lie, format!("rule {} of {} skipped", rule.name, nsg.id)));
        }
    }
    lies
}

fn swaps(net: &Net) -> Vec<(Net, String)> {
    let mut lies = Vec::new();
    for (n, nsg) in net.nsgs.iter().enumerate() {
        for (i, a) in nsg.rules.iter().enumerate() {
            for (j, b) in nsg.rules.iter().enumerate().skip(i + 1) {
                if a.direction == b.direction && a.access != b.access {
                    let mut lie = net.clone();
                    lie.nsgs[n].rules[i].priority = b.priority;
                    lie.nsgs[n].rules[j].priority = a.priority;
                    lies.push((lie, format!("rules {} and {} of {} swapped", a.name, b.name, nsg.id)));
                }
            }
        }
    }
    lies
}

fn losses(net: &Net) -> Vec<(Net, String)> {
    let mut lies = Vec::new();
    for name in net.tags.keys() {
        let mut lie = net.clone();
        let mut tags = (*net.tags).clone();
        tags.insert(name.clone(), Vec::new());
        lie.tags = Arc::new(tags);
        lies.push((lie, format!("tag {name} lost")));
    }
    for (n, nsg) in net.nsgs.iter().enumerate() {
        for (r, rule) in nsg.rules.iter().enumerate() {
            let is_tag = |m: &AddressMatch| matches!(m, AddressMatch::Tag(_));
            if rule.sources.iter().chain(&rule.destinations).any(is_tag) {
                let mut lie = net.clone();
                let lost = &mut lie.nsgs[n].rules[r];
                lost.sources.retain(|m| !is_tag(m));
                lost.destinations.retain(|m| !is_tag(m));
                lies.push((lie, format!("tag of rule {} of {} lost", rule.name, nsg.id)));
            }
        }
    }
    lies
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Campaign, Options, world};

    #[test]
    fn every_kind_of_lie_shows_within_two_hundred_flows() {
        let options = Options::default();
        for kind in Sabotage::ALL {
            let mut campaign = Campaign::new(11);
            let mut worlds = (0..10).map(|round| {
                let net = world(round, &options);
                let cases = campaign.flows(&net, 20);
                sabotage(&net, kind, &cases)
            });
            assert!(worlds.any(|found| found.is_some()), "{kind:?}");
        }
    }
}
