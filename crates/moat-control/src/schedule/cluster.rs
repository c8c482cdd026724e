//! One step of every compute cluster: from documents and observations to the next documents.
//!
//! What the service makes for a cluster (its security group, public IP, balancer and node
//! interfaces) is asked of [`decide`] as requests of the service itself, so that limits, locks and
//! policy meet it like anybody's request; only node documents and the cluster's own state are
//! written directly. Whether a node is reachable is never computed here: packets decide, and
//! their verdict arrives as [`Observed`].
//!
//! Azure's rules behind it: network-semantics 19.1-19.6, 20.4, 20.5; catalogue AML-RES-001..011,
//! AML-LIF-001, 002, 014, 015, 018, AML-PRE-006.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use moat_arm::{ApiError, Batch, ResourceId, Snapshot, document};
use moat_model::types::microsoft_machinelearningservices::auto_network as auto;
use serde_json::{Value, json};

use super::job;
use super::observed::{NodeVerdict, Observed};
use crate::decide::decide;
use crate::request::{ArmRequest, Ctx, Method, Origin, Principal};

/// A resize that has not finished by then ends with `AllocationTimedOut` (Batch's default).
pub const RESIZE_TIMEOUT: SignedDuration = SignedDuration::from_mins(15);
/// Marks a cluster whose resize took too long.
const TIMED_OUT: &str = "moat.timedOut";
/// Nodes that share one security group, public IP and balancer (network-semantics 20.4).
pub const NODES_PER_SET: u32 = 100;
/// Type of a compute, as its documents spell it.
pub const COMPUTE: &str = "Microsoft.MachineLearningServices/workspaces/computes";

/// Since when jobs wait for a cluster that has no node they could use.
pub(crate) const NO_NODE_SINCE: &str = "moat.noNodeSince";

/// A cluster document as the scheduler reads it.
#[derive(Debug)]
struct Cluster {
    id: ResourceId,
    body: Value,
    minimum: u32,
    maximum: u32,
    idle: SignedDuration,
    /// Nodes somebody asked for.
    demand: u32,
    demand_since: Option<Timestamp>,
    /// Nodes that jobs need.
    jobs: u32,
}

/// A node document as the scheduler reads it.
#[derive(Debug, Clone)]
struct Node {
    id: ResourceId,
    index: u32,
    state: String,
    since: Timestamp,
    has_run: bool,
    body: Value,
}

/// Every cluster, one step further.
pub(super) fn step(snapshot: &Snapshot, observed: &Observed, ctx: &Ctx) -> Batch {
    let mut work = Work { snapshot: snapshot.clone(), batch: Batch::default(), ctx, requests: 0 };
    let jobs = job::demand(snapshot);
    let clusters: Vec<Cluster> = snapshot.of_type(COMPUTE).filter_map(|d| Cluster::read(&d.id, &d.body)).collect();
    for mut cluster in clusters {
        cluster.jobs = jobs.get(cluster.id.key()).copied().unwrap_or(0);
        if document::str_at(&cluster.body, "properties.provisioningState") == Some("Deleting") {
            work.delete_cluster(&cluster);
        } else {
            work.step_cluster(cluster, observed);
        }
    }
    work.batch
}

/// Sets how many nodes somebody asks for, beside what jobs need. `Err` says why not.
pub fn set_demand(snapshot: &Snapshot, compute: &ResourceId, nodes: u32, ctx: &Ctx) -> Result<Batch, ApiError> {
    let stored = snapshot.get(compute).ok_or_else(|| ApiError::not_found(compute))?;
    let cluster = Cluster::read(&stored.id, &stored.body).ok_or_else(|| {
        ApiError::bad_request(
            "InvalidComputeType",
            format!("`{}` is not a compute cluster (AmlCompute).", compute.name()),
        )
    })?;
    if nodes > cluster.maximum {
        return Err(ApiError::bad_request(
            "InvalidNodeCount",
            format!("The cluster `{}` has at most {} nodes; {nodes} were asked for.", compute.name(), cluster.maximum),
        ));
    }
    let mut body = cluster.body;
    document::remove(&mut body, TIMED_OUT);
    document::set(&mut body, "moat.demand", json!(nodes));
    document::set(&mut body, "moat.demandSince", json!(ctx.now.to_string()));
    let mut batch = Batch::default();
    batch.put(stored.id.clone(), body);
    Ok(batch)
}

impl Cluster {
    fn read(id: &ResourceId, body: &Value) -> Option<Self> {
        if !document::str_at(body, "properties.computeType")?.eq_ignore_ascii_case("AmlCompute") {
            return None;
        }
        let scale = |name: &str| document::u64_at(body, &format!("properties.properties.scaleSettings.{name}"));
        let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let idle = document::str_at(body, "properties.properties.scaleSettings.nodeIdleTimeBeforeScaleDown")
            .and_then(|t| t.parse::<SignedDuration>().ok())
            .unwrap_or(SignedDuration::from_secs(120));
        Some(Self {
            id: id.clone(),
            minimum: count(scale("minNodeCount").unwrap_or(0)),
            maximum: count(scale("maxNodeCount").unwrap_or(0)),
            idle,
            demand: count(document::u64_at(body, "moat.demand").unwrap_or(0)),
            demand_since: document::str_at(body, "moat.demandSince").and_then(|t| t.parse().ok()),
            jobs: 0,
            body: body.clone(),
        })
    }

    /// How many nodes there should be (network-semantics 19.5).
    fn target(&self) -> u32 {
        self.demand.max(self.jobs).clamp(self.minimum, self.maximum.max(self.minimum))
    }
}

/// The world as it becomes while a step goes on.
struct Work<'a> {
    snapshot: Snapshot,
    batch: Batch,
    ctx: &'a Ctx,
    requests: u32,
}

impl Work<'_> {
    /// A request of the service itself; its changes join the step's batch.
    fn request(&mut self, method: Method, id: &ResourceId, body: Option<&Value>) -> Result<(), ApiError> {
        self.requests += 1;
        let mut ctx = self.ctx.clone();
        ctx.seed = uuid::Uuid::new_v5(&self.ctx.seed, &self.requests.to_be_bytes());
        let request = ArmRequest {
            method,
            path: id.as_str().to_owned(),
            query: BTreeMap::from([("api-version".to_owned(), auto::API_VERSION.to_owned())]),
            body: body.map(Value::to_string),
            principal: Principal {
                object_id: auto::SERVICE_PRINCIPAL.to_owned(),
                app_id: auto::SERVICE_PRINCIPAL.to_owned(),
                name: "Azure Machine Learning".to_owned(),
                run: None,
            },
            origin: Origin::Service,
            if_match: None,
            if_none_match: None,
        };
        let decision = decide(&self.snapshot, &request, &ctx);
        if decision.status >= 400 {
            return Err(read_error(decision.status, decision.body.as_ref()));
        }
        self.take(decision.batch);
        Ok(())
    }

    fn take(&mut self, batch: Batch) {
        self.snapshot.apply(&batch);
        self.batch.changes.extend(batch.changes);
    }

    fn put(&mut self, id: &ResourceId, body: Value) {
        let mut batch = Batch::default();
        batch.put(id.clone(), body);
        self.take(batch);
    }

    fn delete(&mut self, id: &ResourceId) {
        let mut batch = Batch::default();
        batch.delete(id.clone());
        self.take(batch);
    }

    fn nodes(&self, cluster: &ResourceId) -> Vec<Node> {
        let mut nodes: Vec<Node> = self
            .snapshot
            .below(cluster)
            .filter(|d| d.id.resource_type().eq_ignore_ascii_case(auto::NODE_TYPE))
            .map(|d| Node {
                id: d.id.clone(),
                index: document::u64_at(&d.body, "properties.index").and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
                state: document::str_at(&d.body, "properties.state").unwrap_or("preparing").to_owned(),
                since: document::str_at(&d.body, "properties.since")
                    .and_then(|t| t.parse().ok())
                    .unwrap_or(self.ctx.now),
                has_run: document::at(&d.body, job::RUN_ID).is_some(),
                body: d.body.clone(),
            })
            .collect();
        nodes.sort_by_key(|n| n.index);
        nodes
    }

    fn step_cluster(&mut self, cluster: Cluster, observed: &Observed) {
        let now = self.ctx.now;
        let target = cluster.target();
        self.fold_observations(&cluster, observed);
        let leaving: Vec<Node> = self.nodes(&cluster.id).into_iter().filter(|n| n.state == "leaving").collect();
        let stuck = self.remove_nodes(&cluster, &leaving).err();
        let shortage = self.scale_up(&cluster, target).err();
        let trouble = self.scale_down(&cluster, target).err();

        let nodes = self.nodes(&cluster.id);
        let current = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        let settled = nodes.iter().all(|n| n.state == "idle" || n.state == "running" || n.state == "unusable");
        let resizing_since =
            document::str_at(&cluster.body, "moat.resizingSince").and_then(|t| t.parse::<Timestamp>().ok());
        let complete = current == target || (current < target && shortage.is_some()) || current > target;
        // Once passed, the time-out stands until the nodes settle after all or somebody asks anew.
        let waited = resizing_since.is_some_and(|since| now.duration_since(since) >= RESIZE_TIMEOUT);
        let timed_out = !settled && (waited || document::bool_at(&cluster.body, TIMED_OUT) == Some(true));
        let steady = (complete && settled) || timed_out;

        let mut errors: Vec<Value> =
            shortage.iter().chain(&trouble).chain(&stuck).map(|e| json!({ "error": e.to_body()["error"] })).collect();
        let blocked: Vec<&Node> = nodes.iter().filter(|n| n.state == "unusable").collect();
        if !blocked.is_empty() {
            errors.push(json!({ "error": allocation_failed(&blocked) }));
        }
        if timed_out {
            errors.push(json!({ "error": {
                "code": "AllocationTimedOut",
                "message": format!(
                    "desired number of dedicated nodes could not be allocated: the resize timeout of {} minutes passed first",
                    RESIZE_TIMEOUT.as_mins()
                ),
            }}));
        }

        let mut body = cluster.body.clone();
        if document::str_at(&body, "properties.provisioningState") != Some("Succeeded") {
            // The cluster exists from here on; its nodes come and go (errors.md, envelope rule 4).
            document::set(&mut body, "properties.provisioningState", json!("Succeeded"));
        }
        if timed_out {
            document::set(&mut body, TIMED_OUT, json!(true));
        } else {
            document::remove(&mut body, TIMED_OUT);
        }
        let allocation = if steady { "Steady" } else { "Resizing" };
        let inner = "properties.properties";
        if document::str_at(&body, &format!("{inner}.allocationState")) != Some(allocation) {
            document::set(&mut body, &format!("{inner}.allocationState"), json!(allocation));
            document::set(&mut body, &format!("{inner}.allocationStateTransitionTime"), json!(now.to_string()));
            if steady {
                document::remove(&mut body, "moat.resizingSince");
            } else {
                document::set(&mut body, "moat.resizingSince", json!(now.to_string()));
            }
        }
        let usable = nodes.iter().any(|n| n.state == "idle" || n.state == "running");
        if cluster.jobs > 0 && !usable {
            document::set_default(&mut body, NO_NODE_SINCE, json!(now.to_string()));
        } else {
            document::remove(&mut body, NO_NODE_SINCE);
        }
        document::set(&mut body, &format!("{inner}.targetNodeCount"), json!(target));
        document::set(&mut body, &format!("{inner}.errors"), Value::Array(errors));
        if body != cluster.body {
            self.put(&cluster.id, body);
        }
    }

    /// Node states follow what packets said (AML-LIF-014: blocked nodes become unusable).
    fn fold_observations(&mut self, cluster: &Cluster, observed: &Observed) {
        for node in self.nodes(&cluster.id) {
            let (state, reason) = match observed.nodes.get(node.id.key()) {
                _ if node.state == "leaving" => continue,
                Some(NodeVerdict::Reachable) if node.has_run => ("running", None),
                Some(NodeVerdict::Reachable) => ("idle", None),
                Some(NodeVerdict::Blocked(why)) => ("unusable", Some(why.as_str())),
                None => continue,
            };
            if node.state == state && document::str_at(&node.body, "properties.reason") == reason {
                continue;
            }
            let mut body = node.body.clone();
            if node.state != state {
                document::set(&mut body, "properties.since", json!(self.ctx.now.to_string()));
            }
            document::set(&mut body, "properties.state", json!(state));
            match reason {
                Some(why) => document::set(&mut body, "properties.reason", json!(why)),
                None => document::remove(&mut body, "properties.reason"),
            }
            self.put(&node.id, body);
        }
    }

    /// Makes nodes up to `target`; `Err` is why fewer came (AML-PRE-006: a partial cluster).
    fn scale_up(&mut self, cluster: &Cluster, target: u32) -> Result<(), ApiError> {
        let taken: Vec<u32> = self.nodes(&cluster.id).iter().map(|n| n.index).collect();
        let missing = target.saturating_sub(u32::try_from(taken.len()).unwrap_or(u32::MAX));
        let free: Vec<u32> =
            (0..target.saturating_mul(2)).filter(|i| !taken.contains(i)).take(missing as usize).collect();
        let mut outcome = Ok(());
        let mut touched: Vec<u32> = Vec::new();
        for index in free {
            let set = index / NODES_PER_SET;
            if !touched.contains(&set) {
                touched.push(set);
                if let Err(e) = self.make_set(cluster, set) {
                    outcome = Err(e);
                    break;
                }
            }
            if let Err(e) = self.make_node(cluster, index) {
                outcome = Err(e);
                break;
            }
        }
        for set in touched {
            self.finish_set(cluster, set)?;
        }
        outcome
    }

    /// The network resources of one set of nodes, made when its first node comes (AML-LIF-002).
    fn make_set(&mut self, cluster: &Cluster, set: u32) -> Result<(), ApiError> {
        for (id, body) in auto::set_documents(&cluster.id, &cluster.body, set, self.ctx.edition)? {
            if self.snapshot.get(&id).is_none() {
                self.request(Method::Put, &id, Some(&body))?;
            }
        }
        Ok(())
    }

    fn make_node(&mut self, cluster: &Cluster, index: u32) -> Result<(), ApiError> {
        let name = auto::node_name(&cluster.id, index, uuid::Uuid::new_v5(&self.ctx.seed, &index.to_be_bytes()));
        let (nic, body) = auto::nic(&cluster.id, &cluster.body, index / NODES_PER_SET, &name, self.ctx.edition)?;
        self.request(Method::Put, &nic, Some(&body))?;
        let address = self
            .snapshot
            .get(&nic)
            .and_then(|d| document::array_at(&d.body, "properties.ipConfigurations").first().cloned())
            .and_then(|c| document::str_at(&c, "properties.privateIPAddress").map(str::to_owned));
        let node = cluster.id.child("nodes", &name);
        let body = json!({ "properties": {
            "index": index,
            "state": "preparing",
            "since": self.ctx.now.to_string(),
            "nicId": nic.as_str(),
            "privateIpAddress": address,
        }});
        self.put(&node, body);
        Ok(())
    }

    /// The balancer's NAT rules follow the nodes of the set; without nodes the set goes (AML-LIF-001).
    fn finish_set(&mut self, cluster: &Cluster, set: u32) -> Result<(), ApiError> {
        let nodes: Vec<Node> = self.nodes(&cluster.id).into_iter().filter(|n| n.index / NODES_PER_SET == set).collect();
        if nodes.is_empty() {
            for id in auto::set_ids(&cluster.id, &cluster.body, set)?.into_iter().rev() {
                if self.snapshot.get(&id).is_some() {
                    self.request(Method::Delete, &id, None)?;
                }
            }
            return Ok(());
        }
        let slots: Vec<auto::Slot> =
            nodes.iter().map(|n| auto::Slot { index: n.index, node: n.id.name().to_owned() }).collect();
        if let Some((id, body)) = auto::load_balancer(&cluster.id, &cluster.body, set, &slots, self.ctx.edition)? {
            self.request(Method::Put, &id, Some(&body))?;
            for node in nodes {
                let port = auto::frontend_port(node.index % NODES_PER_SET);
                let address = auto::public_address(&self.snapshot, &cluster.id, &cluster.body, set);
                let mut body = node.body.clone();
                document::set(&mut body, "properties.port", json!(port));
                document::set(&mut body, "properties.publicIpAddress", json!(address));
                if body != node.body {
                    self.put(&node.id, body);
                }
            }
        }
        Ok(())
    }

    /// Takes nodes away: unusable ones first, then those idle for long enough.
    fn scale_down(&mut self, cluster: &Cluster, target: u32) -> Result<(), ApiError> {
        let mut nodes = self.nodes(&cluster.id);
        let surplus = nodes.len().saturating_sub(target as usize);
        if surplus == 0 {
            return Ok(());
        }
        nodes.sort_by_key(|n| (n.state != "unusable", std::cmp::Reverse(n.index)));
        let now = self.ctx.now;
        let leaving: Vec<Node> = nodes
            .into_iter()
            .filter(|n| {
                let idle_since = cluster.demand_since.map_or(n.since, |since| n.since.max(since));
                match n.state.as_str() {
                    _ if n.has_run => false,
                    "unusable" | "preparing" => true,
                    _ => now.duration_since(idle_since) >= cluster.idle,
                }
            })
            .take(surplus)
            .collect();
        self.remove_nodes(cluster, &leaving)
    }

    fn remove_nodes(&mut self, cluster: &Cluster, leaving: &[Node]) -> Result<(), ApiError> {
        let mut sets: Vec<u32> = leaving.iter().map(|n| n.index / NODES_PER_SET).collect();
        sets.sort_unstable();
        sets.dedup();
        for node in leaving {
            self.delete(&node.id);
        }
        // The balancer lets go of the interfaces before they are deleted.
        for set in &sets {
            let left: Vec<auto::Slot> = self
                .nodes(&cluster.id)
                .iter()
                .filter(|n| n.index / NODES_PER_SET == *set)
                .map(|n| auto::Slot { index: n.index, node: n.id.name().to_owned() })
                .collect();
            if let Some((id, body)) = auto::load_balancer(&cluster.id, &cluster.body, *set, &left, self.ctx.edition)?
                && self.snapshot.get(&id).is_some()
            {
                self.request(Method::Put, &id, Some(&body))?;
            }
        }
        for node in leaving {
            if let Some(nic) = document::str_at(&node.body, "properties.nicId").and_then(|t| ResourceId::parse(t).ok())
                && self.snapshot.get(&nic).is_some()
            {
                self.request(Method::Delete, &nic, None)?;
            }
        }
        for set in sets {
            self.finish_set(cluster, set)?;
        }
        Ok(())
    }

    fn delete_cluster(&mut self, cluster: &Cluster) {
        let nodes = self.nodes(&cluster.id);
        match self.remove_nodes(cluster, &nodes) {
            Ok(()) => self.delete(&cluster.id),
            Err(e) => {
                // A lock or policy holds the network resources: the deletion fails and says why.
                let mut body = cluster.body.clone();
                document::set(&mut body, "properties.provisioningState", json!("Failed"));
                document::set(&mut body, "properties.provisioningErrors", json!([{ "error": e.to_body()["error"] }]));
                self.put(&cluster.id, body);
            }
        }
    }
}

/// Azure's code and words, then what stopped each kind of node (DECISIONS 2).
fn allocation_failed(blocked: &[&Node]) -> Value {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in blocked {
        let why = document::str_at(&node.body, "properties.reason").unwrap_or("no reason was recorded");
        reasons.entry(why).or_default().push(node.id.name());
    }
    let mut message = String::from("desired number of dedicated nodes could not be allocated");
    for (why, nodes) in reasons {
        let who = match nodes.as_slice() {
            [one] => format!("node {one} is unusable"),
            [first, ..] => format!("{} nodes ({first}, ...) are unusable", nodes.len()),
            [] => continue,
        };
        message.push_str(&format!("; {who}: {why}"));
    }
    json!({ "code": "AllocationFailed", "message": message })
}

fn read_error(status: u16, body: Option<&Value>) -> ApiError {
    let text = |path: &str| body.and_then(|b| document::str_at(b, path)).unwrap_or_default().to_owned();
    ApiError::new(status, &text("error.code"), text("error.message"))
}
