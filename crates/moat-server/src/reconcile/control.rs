//! Methods of the control socket that need the network: `place`, `trace`, `flows`, `cluster_list`,
//! `cluster_scale`, `verify`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use moat_arm::{ResourceId, Snapshot, document};
use moat_control::schedule::cluster;
use moat_control::{ArmRequest, Method, Origin};
use moat_model::types::microsoft_machinelearningservices::auto_network as auto;
use moat_net::ir::Protocol;
use moat_net::packet::Flow as Packet;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::control::{Caller, ControlError};
use crate::random;
use crate::reconcile::ends;
use crate::reconcile::flows::{Flow, FlowLog};
use crate::reconcile::hands::Hands;
use crate::reconcile::network::{INTERNET_HOST, Realised};
use crate::server::Server;

/// How long a place may take to become real.
const PLACE_WAIT_MAX: Duration = Duration::from_secs(20);
/// Type of a compute.
const COMPUTE: &str = "Microsoft.MachineLearningServices/workspaces/computes";
/// Member that marks an interface as lent to a program; removed with it, or at the next start.
pub const EPHEMERAL: &str = "moat.ephemeral";
/// API version of the server's own requests.
const API_VERSION: &str = "2023-11-01";
/// Source port shown for a traced packet, as clients use them.
const SOURCE_PORT: u16 = 50_000;

/// What the methods share.
#[derive(Clone)]
pub struct Shared {
    /// How far the kernel is.
    pub realised: watch::Receiver<Realised>,
    /// The log.
    pub flows: Arc<FlowLog>,
    /// The helper.
    pub host: Arc<dyn Hands>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// Adds the methods.
pub fn add(server: &Server, shared: &Shared) {
    let s = shared.clone();
    server.control.add("place", move |server, params, caller| {
        let shared = s.clone();
        Box::pin(async move { place(&server, &shared, &params, caller).await })
    });
    let s = shared.clone();
    server.control.add("flows", move |server, params, caller| {
        let shared = s.clone();
        Box::pin(async move { flows(&server, &shared, &params, caller).await })
    });
    let s = shared.clone();
    server.control.add_simple("trace", move |server, params| {
        let shared = s.clone();
        async move { trace(&server, &shared, &params) }
    });
    let s = shared.clone();
    server.control.add_simple("verify", move |_, _| {
        let shared = s.clone();
        async move { verify(shared).await }
    });
    server.control.add_simple("cluster_list", |server, _| async move { Ok(clusters(&server.store.snapshot())) });
    server.control.add_simple("cluster_scale", |server, params| async move { scale(&server, &params).await });
}

fn text<'a>(params: &'a Value, name: &str) -> Result<&'a str, ControlError> {
    params[name].as_str().ok_or_else(|| ControlError::new("bad-request", format!("`{name}` is missing")))
}

/// The environment a program at a place needs.
fn variables(server: &Server) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("AZURE_TENANT_ID", server.environment.tenant.clone()),
        ("AZURE_CLIENT_ID", server.environment.client_id.clone()),
        ("AZURE_CLIENT_SECRET", server.environment.client_secret.reveal().to_owned()),
        ("AZURE_SUBSCRIPTION_ID", server.environment.subscription.clone()),
    ])
}

async fn place(server: &Arc<Server>, shared: &Shared, params: &Value, caller: &mut Caller) -> Result<(), ControlError> {
    let at = text(params, "at")?;
    let ca = std::fs::read_to_string(&server.ca_file)
        .map_err(|e| ControlError::new("no-ca", format!("the CA certificate cannot be read: {e}")))?;
    let answer = |netns: &str| json!({ "netns": netns, "env": variables(server), "caPem": ca });
    if at == "internet" {
        wait_for(shared, "the internet side", |r| r.plan.places.get(INTERNET_HOST).map(|ns| ns.to_string())).await?;
        if caller.ok(&answer(INTERNET_HOST)).await.is_ok() {
            caller.gone().await;
        }
        return Ok(());
    }
    let subnet = ends::subnet(&server.store.snapshot(), at)?;
    let nic = lend(server, &subnet).await?;
    let key = nic.key().to_owned();
    let found = wait_for(shared, at, |r| r.plan.places.get(&key).map(|ns| ns.to_string())).await;
    let result = match found {
        Ok(ns) => {
            if caller.ok(&answer(&ns)).await.is_ok() {
                caller.gone().await;
            }
            Ok(())
        }
        Err(e) => Err(e),
    };
    give_back(server, &nic).await;
    result
}

/// Waits until the kernel has what `found` looks for.
async fn wait_for<T>(shared: &Shared, what: &str, found: impl Fn(&Realised) -> Option<T>) -> Result<T, ControlError> {
    let mut realised = shared.realised.clone();
    let waited = tokio::time::timeout(PLACE_WAIT_MAX, async {
        loop {
            if let Some(value) = found(&realised.borrow_and_update()) {
                return Ok(value);
            }
            if realised.changed().await.is_err() {
                return Err(());
            }
        }
    })
    .await;
    match waited {
        Ok(Ok(value)) => Ok(value),
        _ => {
            let why = shared.realised.borrow().trouble.clone().unwrap_or_else(|| "the network is not ready".to_owned());
            Err(ControlError::new("place-not-ready", format!("{what} is not there: {why}")))
        }
    }
}

/// Makes an interface for a program, as a document that everybody can see (DECISIONS 6).
async fn lend(server: &Arc<Server>, subnet: &ResourceId) -> Result<ResourceId, ControlError> {
    let (Some(subscription), Some(group)) = (subnet.subscription(), subnet.resource_group()) else {
        return Err(ControlError::new("bad-place", format!("`{subnet}` is not a subnet of this environment")));
    };
    let vnet = subnet.parent();
    let snapshot = server.store.snapshot();
    let location = vnet
        .as_ref()
        .and_then(|v| snapshot.get(v))
        .and_then(|d| document::str_at(&d.body, "location").map(str::to_owned))
        .unwrap_or_default();
    let name = format!("moat-exec-{}", &random::uuid().simple().to_string()[..12]);
    let nic =
        ResourceId::resource_group_scope(subscription, group).provider("Microsoft.Network", "networkInterfaces", &name);
    let body = json!({
        "location": location,
        "moat": { "ephemeral": true },
        "properties": { "ipConfigurations": [{ "name": "ipconfig1", "properties": {
            "subnet": { "id": subnet.as_str() }, "privateIPAllocationMethod": "Dynamic" } }] },
    });
    let decision = request(server, Method::Put, &nic, Some(&body)).await?;
    if decision.0 >= 400 {
        return Err(refused(&decision.1));
    }
    Ok(nic)
}

async fn give_back(server: &Arc<Server>, nic: &ResourceId) {
    match request(server, Method::Delete, nic, None).await {
        Ok((status, body)) if status >= 400 => {
            tracing::warn!(nic = %nic, body = ?body, "a lent interface could not be removed");
        }
        Ok(_) => {}
        Err(e) => tracing::warn!(nic = %nic, error = %e, "a lent interface could not be removed"),
    }
}

/// Removes interfaces that programs of an earlier life left behind.
pub async fn purge_lent(server: &Arc<Server>) {
    let lent: Vec<ResourceId> = server
        .store
        .snapshot()
        .of_type("Microsoft.Network/networkInterfaces")
        .filter(|d| document::bool_at(&d.body, EPHEMERAL) == Some(true))
        .map(|d| d.id.clone())
        .collect();
    for nic in lent {
        give_back(server, &nic).await;
    }
}

/// A request of the environment's own principal.
async fn request(
    server: &Arc<Server>,
    method: Method,
    id: &ResourceId,
    body: Option<&Value>,
) -> Result<(u16, Option<Value>), ControlError> {
    let ctx = server.context(random::uuid());
    let request = ArmRequest {
        method,
        path: id.as_str().to_owned(),
        query: BTreeMap::from([("api-version".to_owned(), API_VERSION.to_owned())]),
        body: body.map(Value::to_string),
        principal: server.environment.principal(),
        // The marker of a lent interface is the service's to set, so this is a request of the service.
        origin: Origin::Service,
        if_match: None,
        if_none_match: None,
    };
    server
        .store
        .submit(move |snapshot| {
            let decision = moat_control::decide::decide(snapshot, &request, &ctx);
            (decision.batch, (decision.status, decision.body))
        })
        .await
        .map_err(|e| ControlError::new("not-stored", e.to_string()))
}

fn refused(body: &Option<Value>) -> ControlError {
    let text = |path: &str| body.as_ref().and_then(|b| document::str_at(b, path)).unwrap_or_default().to_owned();
    ControlError::new(&text("error.code"), text("error.message"))
}

async fn flows(server: &Arc<Server>, shared: &Shared, params: &Value, caller: &mut Caller) -> Result<(), ControlError> {
    let (kept, mut coming) = shared.flows.follow();
    let rows: Vec<Value> = kept.iter().map(|f| row(f, &server.store.snapshot())).collect();
    if caller.ok(&Value::Array(rows)).await.is_err() || params["follow"].as_bool() != Some(true) {
        return Ok(());
    }
    loop {
        let flow = tokio::select! {
            () = caller.gone() => return Ok(()),
            flow = coming.recv() => flow,
        };
        match flow {
            Ok(flow) => {
                if caller.ok(&row(&flow, &server.store.snapshot())).await.is_err() {
                    return Ok(());
                }
            }
            Err(tokio::sync::broadcast::error::RecvError::Lagged(n)) => {
                if caller.ok(&json!({ "lost": n })).await.is_err() {
                    return Ok(());
                }
            }
            Err(tokio::sync::broadcast::error::RecvError::Closed) => return Ok(()),
        }
    }
}

/// A flow as `moat flows` shows it; ids are spelled as their documents spell them.
fn row(flow: &Flow, snapshot: &Snapshot) -> Value {
    let spelled = |id: &str| {
        ResourceId::parse(id)
            .ok()
            .and_then(|id| snapshot.get(&id).map(|d| d.id.to_string()))
            .unwrap_or_else(|| id.to_owned())
    };
    let nsg = spelled(&flow.rule.nsg);
    let name = nsg.rsplit('/').next().unwrap_or_default();
    let rule = if name.is_empty() { flow.rule.rule.clone() } else { format!("{name}/{}", flow.rule.rule) };
    json!({
        "number": flow.number,
        "time": flow.time.to_string(),
        "action": flow.access,
        "protocol": flow.protocol,
        "source": flow.source,
        "sourcePort": flow.source_port,
        "destination": flow.destination,
        "destinationPort": flow.destination_port,
        "rule": rule,
        "direction": flow.rule.direction,
        "level": flow.rule.level,
        "nsg": nsg,
        "vnet": spelled(&flow.vnet),
    })
}

fn trace(server: &Arc<Server>, shared: &Shared, params: &Value) -> Result<Value, ControlError> {
    let realised = shared.realised.borrow().clone();
    let snapshot = server.store.snapshot();
    let port = params["port"].as_u64().and_then(|p| u16::try_from(p).ok());
    let port = port.ok_or_else(|| ControlError::new("bad-request", "`port` is a number from 0 to 65535"))?;
    let protocol = Protocol::parse(params["protocol"].as_str().unwrap_or("Tcp"))
        .ok_or_else(|| ControlError::new("bad-request", "`protocol` is Tcp, Udp, Icmp, Esp or Ah"))?;
    let look = ends::Look { server, snapshot: &snapshot, net: &realised.net };
    let (from, source, destination, port) = look.both(text(params, "from")?, text(params, "to")?, port)?;
    let (source_port, destination_port) = if protocol.has_ports() { (SOURCE_PORT, port) } else { (0, 0) };
    let packet = Packet { source, destination, protocol, source_port, destination_port };
    let trace = moat_net::trace::trace(&realised.net, from, packet);
    let deciding = trace.lists.last().map(|l| {
        let priority = priority(&snapshot, &l.id, &l.rule).map(|p| format!(" (priority {p})")).unwrap_or_default();
        format!("{}/{}{priority}: {:?} at {}", l.list, l.rule, l.access, l.stage.as_str())
    });
    Ok(json!({
        "packet": packet.to_string(),
        "verdict": trace.verdict,
        "stage": trace.stage,
        "rule": trace.rule,
        "decidedBy": deciding,
        "route": trace.route,
        "nextHop": trace.next_hop,
        "nextHopIp": trace.next_hop_ip,
        "hops": trace.hops.iter().map(ends::sentence).collect::<Vec<_>>(),
        "edition": server.environment.edition,
        "seq": realised.seq,
        "trace": trace.lists.iter().map(|l| json!([l.stage, l.list, l.rule, l.access])).collect::<Vec<_>>(),
    }))
}

fn priority(snapshot: &Snapshot, nsg: &str, rule: &str) -> Option<u64> {
    let stored = ResourceId::parse(nsg).ok().and_then(|id| snapshot.get(&id).cloned());
    let custom = stored.as_ref().and_then(|d| {
        document::array_at(&d.body, "properties.securityRules")
            .iter()
            .find(|r| document::str_at(r, "name") == Some(rule))
            .and_then(|r| document::u64_at(r, "properties.priority"))
    });
    custom.or_else(|| moat_net::nsg::default_rules().iter().find(|r| r.name == rule).map(|r| u64::from(r.priority)))
}

async fn verify(shared: Shared) -> Result<Value, ControlError> {
    let realised = shared.realised.borrow().clone();
    let plan = realised.plan.clone();
    let checked = tokio::task::spawn_blocking(move || shared.host.verify(&plan))
        .await
        .map_err(|e| ControlError::new("internal", e.to_string()))?;
    let differences =
        checked.map_err(|e| ControlError::new("not-observed", format!("the kernel could not be read: {e}")))?;
    Ok(json!({ "seq": realised.seq, "equal": differences.is_empty(), "differences": differences }))
}

fn clusters(snapshot: &Snapshot) -> Value {
    let rows = snapshot.of_type(COMPUTE).map(|d| {
        let inner = |name: &str| {
            document::at(&d.body, &format!("properties.properties.{name}")).cloned().unwrap_or(Value::Null)
        };
        let nodes: Vec<Value> = snapshot
            .below(&d.id)
            .filter(|n| n.id.resource_type().eq_ignore_ascii_case(auto::NODE_TYPE))
            .map(|n| {
                json!({
                    "name": n.id.name(),
                    "state": n.body["properties"]["state"],
                    "privateIpAddress": n.body["properties"]["privateIpAddress"],
                    "publicIpAddress": n.body["properties"]["publicIpAddress"],
                    "port": n.body["properties"]["port"],
                    "reason": n.body["properties"]["reason"],
                })
            })
            .collect();
        json!({
            "name": d.id.name(),
            "id": d.id.as_str(),
            "provisioningState": document::at(&d.body, "properties.provisioningState"),
            "allocationState": inner("allocationState"),
            "target": inner("targetNodeCount"),
            "nodes": nodes,
            "errors": inner("errors"),
        })
    });
    Value::Array(rows.collect())
}

async fn scale(server: &Arc<Server>, params: &Value) -> Result<Value, ControlError> {
    let name = text(params, "name")?;
    let nodes = params["nodes"].as_u64().and_then(|n| u32::try_from(n).ok());
    let nodes = nodes.ok_or_else(|| ControlError::new("bad-request", "`nodes` is a number from 0"))?;
    let snapshot = server.store.snapshot();
    let wanted = |id: &ResourceId| match name.split_once('/') {
        Some((workspace, compute)) => {
            id.name().eq_ignore_ascii_case(compute)
                && id.parent().is_some_and(|w| w.name().eq_ignore_ascii_case(workspace))
        }
        None => id.name().eq_ignore_ascii_case(name) || id.as_str().eq_ignore_ascii_case(name),
    };
    let found: Vec<ResourceId> = snapshot.of_type(COMPUTE).map(|d| d.id.clone()).filter(|id| wanted(id)).collect();
    let compute = match found.as_slice() {
        [one] => one.clone(),
        [] => return Err(ControlError::new("no-such-cluster", format!("there is no cluster `{name}`"))),
        _ => {
            let all: Vec<&str> = found.iter().map(ResourceId::as_str).collect();
            return Err(ControlError::new(
                "ambiguous",
                format!("`{name}` could be {}; say WORKSPACE/NAME", all.join(" or ")),
            ));
        }
    };
    let ctx = server.context(random::uuid());
    let asked = compute.clone();
    let outcome = server
        .store
        .submit(move |snapshot| match cluster::set_demand(snapshot, &asked, nodes, &ctx) {
            Ok(batch) => (batch, Ok(())),
            Err(e) => (moat_arm::Batch::default(), Err(e)),
        })
        .await
        .map_err(|e| ControlError::new("not-stored", e.to_string()))?;
    outcome.map_err(|e| ControlError::new(&e.code, e.message))?;
    Ok(json!({ "cluster": compute.as_str(), "nodes": nodes }))
}
