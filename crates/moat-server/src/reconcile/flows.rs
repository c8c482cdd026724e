//! What the kernel logged: the newest accepts and drops, with the rule that decided.
//!
//! A ring of fixed size: a flood of packets costs old entries, never memory. Rule numbers are
//! looked up when a line arrives, in the plan that made the rule.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use moat_host::RuleRef;
use moat_net::ir::Access;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// Entries kept.
pub const FLOWS_KEPT_MAX: usize = 16_384;
/// Entries a slow follower may fall behind before it loses some.
const FOLLOWER_LAG_MAX: usize = 4096;

/// One logged packet: always the first of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// Position in the log; grows by one.
    pub number: u64,
    /// When it was read.
    pub time: Timestamp,
    /// Document id of the VNet whose router saw it.
    pub vnet: String,
    /// What was decided.
    pub access: Access,
    /// Which rule decided.
    pub rule: RuleRef,
    /// Protocol as written in rules: `Tcp`, `Udp`, `Icmp`, or a number.
    pub protocol: String,
    /// Source address.
    pub source: Ipv4Addr,
    /// Source port; 0 without ports.
    pub source_port: u16,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Destination port; 0 without ports.
    pub destination_port: u16,
}

/// The ring.
#[derive(Debug)]
pub struct FlowLog {
    inner: Mutex<Ring>,
    followers: broadcast::Sender<Flow>,
}

#[derive(Debug, Default)]
struct Ring {
    flows: VecDeque<Flow>,
    next: u64,
}

impl Default for FlowLog {
    fn default() -> Self {
        let (followers, _) = broadcast::channel(FOLLOWER_LAG_MAX);
        Self { inner: Mutex::default(), followers }
    }
}

impl FlowLog {
    /// Adds an entry; its number is given here.
    pub fn push(&self, mut flow: Flow) {
        let mut ring = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        flow.number = ring.next;
        ring.next += 1;
        if ring.flows.len() == FLOWS_KEPT_MAX {
            ring.flows.pop_front();
        }
        ring.flows.push_back(flow.clone());
        drop(ring);
        let _ = self.followers.send(flow);
    }

    /// The number the next entry will get; a mark for [`FlowLog::drop_since`].
    pub fn mark(&self) -> u64 {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).next
    }

    /// Everything kept, oldest first, and entries as they come from here on.
    pub fn follow(&self) -> (Vec<Flow>, broadcast::Receiver<Flow>) {
        let ring = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (ring.flows.iter().cloned().collect(), self.followers.subscribe())
    }

    /// The newest drop since `mark` that `wanted` recognises.
    pub fn drop_since(&self, mark: u64, wanted: impl Fn(&Flow) -> bool) -> Option<Flow> {
        let ring = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        ring.flows
            .iter()
            .rev()
            .take_while(|f| f.number >= mark)
            .find(|f| f.access == Access::Deny && wanted(f))
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use moat_host::layout::Level;
    use moat_net::ir::Direction;

    fn flow(access: Access, port: u16) -> Flow {
        let rule = RuleRef {
            nsg: "n".to_owned(),
            rule: "r".to_owned(),
            direction: Direction::Inbound,
            access,
            level: Level::Subnet,
        };
        Flow {
            number: 0,
            time: Timestamp::UNIX_EPOCH,
            vnet: "v".to_owned(),
            access,
            rule,
            protocol: "Tcp".to_owned(),
            source: Ipv4Addr::LOCALHOST,
            source_port: 1,
            destination: Ipv4Addr::LOCALHOST,
            destination_port: port,
        }
    }

    #[test]
    fn drops_before_the_mark_do_not_count() {
        let log = FlowLog::default();
        log.push(flow(Access::Deny, 1));
        let mark = log.mark();
        assert!(log.drop_since(mark, |_| true).is_none());
        log.push(flow(Access::Allow, 2));
        assert!(log.drop_since(mark, |_| true).is_none());
        log.push(flow(Access::Deny, 3));
        assert_eq!(log.drop_since(mark, |_| true).unwrap().destination_port, 3);
    }

    #[test]
    fn the_ring_never_grows_past_its_size() {
        let log = FlowLog::default();
        for _ in 0..FLOWS_KEPT_MAX + 5 {
            log.push(flow(Access::Deny, 1));
        }
        let (kept, _) = log.follow();
        assert_eq!(kept.len(), FLOWS_KEPT_MAX);
        assert_eq!(kept[0].number, 5);
    }
}
