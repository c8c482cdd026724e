//! A trace as text for people: one line a hop, the verdict last.

use std::fmt;

use crate::trace::{Hop, Trace, Translation, Verdict, last_name};

impl Translation {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Translation::NatGateway => "NAT gateway",
            Translation::PublicIp => "public IP",
            Translation::LoadBalancerOutbound => "load balancer",
            Translation::DefaultOutbound => "default outbound access",
            Translation::InboundNatRule => "inbound NAT rule",
            Translation::BalancingRule => "load-balancing rule",
        }
    }
}

impl Verdict {
    /// As the truth vectors write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
            Verdict::Drop => "drop",
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hop::Nic { id } => write!(f, "from {}", last_name(id)),
            Hop::Internet => write!(f, "from the internet"),
            Hop::Platform => write!(f, "from the platform"),
            Hop::List(step) => write!(f, "{} {}: {:?} by `{}`", step.stage.as_str(), step.list, step.access, step.rule),
            Hop::Route { subnet, route, next_hop, next_hop_ip, back } => {
                let which = if *back { "way back from" } else { "route of" };
                write!(f, "{which} {}: {route} to {next_hop}", last_name(subnet))?;
                next_hop_ip.map_or(Ok(()), |ip| write!(f, " {ip}"))
            }
            Hop::Translate { by, name, from, to, port } => {
                write!(f, "{from} becomes {to}")?;
                port.map_or(Ok(()), |p| write!(f, " port {p}"))?;
                write!(f, " ({}", by.as_str())?;
                name.as_ref().map_or(Ok(()), |n| write!(f, " `{}`", last_name(n)))?;
                write!(f, ")")
            }
            Hop::Arrive { id } => write!(f, "to {}", last_name(id)),
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for hop in &self.hops {
            writeln!(f, "{hop}")?;
        }
        write!(f, "{}: {}", self.verdict.as_str(), self.stage.as_str())?;
        self.rule.as_ref().map_or(Ok(()), |r| write!(f, " by `{r}`"))?;
        for other in self.alternatives.iter().filter(|a| a.verdict != self.verdict || a.stage != self.stage) {
            write!(f, "\nat another backend: {}: {}", other.verdict.as_str(), other.stage.as_str())?;
        }
        Ok(())
    }
}
