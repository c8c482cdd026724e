//! Template deployments (PROTOCOL 5).
//!
//! A deployment runs inside one decision: each resource is a PUT of its own, decided in the world
//! that the ones before left, and all that succeeded is one batch, with the deployment document
//! saying how it ended. As in Azure, a failure keeps what was written before it; unlike in Azure,
//! nothing after the first failure is tried.
//!
//! Not here: what-if, `Complete` mode, templates behind a URI (a version of a template spec is a document here). They are
//! refused by name.

mod on_error;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use moat_arm::syntax::{self, Node, Span};
use moat_arm::template::{Budget, Evaluator, Failure, Inputs, Planned, Surroundings, plan};
use moat_arm::{ApiError, Batch, ResourceId, Snapshot, document};
use moat_model::ResourceType;
use moat_model::types::microsoft_resources::template_specs;
use serde_json::{Map, Value, json};

use self::on_error::OnError;
use crate::catalogue::DEPLOYMENTS;
use crate::decide::{decide_in, method_not_allowed};
use crate::operation::{self, Follows, Operation};
use crate::request::{ArmRequest, Ctx, Decision, Method};
use crate::verbs::{delete, get, preconditions, put};
use crate::world::World;
use crate::{access, render};

/// Deployments within deployments.
const NESTING_MAX: usize = 5;
/// Problems of a body that one answer lists.
const PROBLEMS_TOLD: usize = 10;
/// Member of a deployment document that holds its steps; see [`crate::body::PRIVATE`].
const STEPS: &str = "moat.operations";

/// A request for one deployment.
pub(crate) fn item(w: &World<'_>, kind: &'static ResourceType, id: &ResourceId) -> Result<Decision, ApiError> {
    match w.request.method {
        Method::Put => create(w, kind, id),
        Method::Get | Method::Head => get::get(w, kind, id),
        Method::Delete => delete::delete(w, kind, id),
        Method::Patch | Method::Post => Err(method_not_allowed(w)),
    }
}

/// `{deployment}/{name}`: validate, operations and what is not built.
pub(crate) fn below(
    w: &World<'_>,
    kind: &'static ResourceType,
    id: &ResourceId,
    name: &str,
) -> Result<Decision, ApiError> {
    match (name.to_ascii_lowercase().as_str(), w.request.method) {
        ("validate", Method::Post) => validate(w, id),
        ("operations", Method::Get) => operations(w, kind, id),
        ("whatif", Method::Post) => {
            access::require(w, &format!("{DEPLOYMENTS}/whatIf/action"), Some(id))?;
            Err(ApiError::bad_request(
                "WhatIfNotSupported",
                "What-if is not built into Moat yet. `validate` runs every check of a deployment without writing anything.",
            ))
        }
        ("cancel", Method::Post) => {
            access::require(w, &format!("{DEPLOYMENTS}/cancel/action"), Some(id))?;
            get::read(w, kind, id)?;
            Err(ApiError::new(
                409,
                "DeploymentCannotBeCancelled",
                format!("The deployment '{}' cannot be cancelled because its provisioning is over.", id.name()),
            ))
        }
        ("exporttemplate", Method::Post) => {
            access::require(w, &format!("{DEPLOYMENTS}/exportTemplate/action"), Some(id))?;
            get::read(w, kind, id)?;
            let stored = w.snapshot.get(id).ok_or_else(|| ApiError::not_found(id))?;
            Ok(Decision::answer(200, json!({ "template": document::at(&stored.body, "moat.template") })))
        }
        _ => Err(method_not_allowed(w)),
    }
}

/// `{deployment}/operations[/{id}]`.
fn operations(w: &World<'_>, kind: &'static ResourceType, id: &ResourceId) -> Result<Decision, ApiError> {
    access::require(w, &format!("{DEPLOYMENTS}/operations/read"), Some(id))?;
    get::read(w, kind, id)?;
    let stored = w.snapshot.get(id).ok_or_else(|| ApiError::not_found(id))?;
    let value: Vec<Value> = document::array_at(&stored.body, STEPS).to_vec();
    Ok(Decision::answer(200, json!({ "value": value })))
}

/// One operation of a deployment.
pub(crate) fn one_operation(w: &World<'_>, id: &ResourceId) -> Result<Decision, ApiError> {
    access::require(w, &format!("{DEPLOYMENTS}/operations/read"), Some(id))?;
    let missing = || {
        ApiError::new(
            404,
            "DeploymentOperationNotFound",
            format!("The deployment operation '{}' could not be found.", id.name()),
        )
    };
    let stored = id.parent().and_then(|d| w.snapshot.get(&d)).ok_or_else(missing)?;
    let found = document::array_at(&stored.body, STEPS)
        .iter()
        .find(|s| document::str_at(s, "operationId").is_some_and(|o| o.eq_ignore_ascii_case(id.name())));
    Ok(Decision::answer(200, found.ok_or_else(missing)?.clone()))
}

/// A request body, read.
struct Asked {
    template: Node,
    parameters: Node,
    mode: String,
    /// The version of a template spec that the template was taken from.
    link: Option<ResourceId>,
    on_error: Option<OnError>,
}

/// Reads the body the way Azure does: not strictly JSON (PROTOCOL 0.1).
fn read(w: &World<'_>, id: &ResourceId) -> Result<Asked, ApiError> {
    let text = w.request.body.as_deref().unwrap_or_default();
    let (node, problems) = syntax::parse(text);
    if let Some(first) = problems.first() {
        let (line, position) = first.span.line_column(text);
        let mut error = ApiError::bad_request(
            "InvalidRequestContent",
            format!(
                "The request content was invalid and could not be deserialized: '{}'. Path '', line {line}, position {position}.",
                first.message
            ),
        );
        for p in problems.iter().take(PROBLEMS_TOLD).skip(1) {
            let (line, position) = p.span.line_column(text);
            error = error.with_detail(ApiError::bad_request(
                "InvalidRequestContent",
                format!("{}: line {line}, position {position}", p.message),
            ));
        }
        return Err(error);
    }
    let wrong = |what: &str| {
        Err(ApiError::bad_request("InvalidRequestContent", format!("The request content was invalid: {what}.")))
    };
    let Some(properties) = node.get("properties") else { return wrong("it has no 'properties'") };
    let link = match properties.get("templateLink").and_then(|l| l.get("id")).and_then(Node::as_str) {
        Some(id) => Some(template_spec(w, id)?),
        None => None,
    };
    for member in ["templateLink", "parametersLink"] {
        if properties.get(member).is_some() && !(member == "templateLink" && link.is_some()) {
            // AZURE: Azure would fetch it; Moat has no way to the real world, on purpose.
            return Err(ApiError::bad_request(
                "InvalidContentLink",
                format!(
                    "'properties.{member}' is not supported: Moat fetches nothing. Send the template itself or the id of a template spec's version."
                ),
            ));
        }
    }
    let (link, kept) = link.unzip();
    let Some(template) = kept.as_ref().or(properties.get("template")) else {
        return wrong("it has no 'properties.template'");
    };
    let mode = properties.get("mode").and_then(Node::as_str).unwrap_or("Incremental").to_owned();
    if !mode.eq_ignore_ascii_case("Incremental") {
        return Err(ApiError::bad_request(
            "DeploymentModeNotSupported",
            format!("The deployment mode '{mode}' is not supported; 'Incremental' is."),
        ));
    }
    let parameters =
        properties.get("parameters").cloned().unwrap_or_else(|| Node::from_json(&json!({}), Span::default()));
    let on_error = OnError::read(w, id, properties)?;
    Ok(Asked { template: template.clone(), parameters, mode, link, on_error })
}

/// The version of a template spec that a link names, and its template.
fn template_spec(w: &World<'_>, id: &str) -> Result<(ResourceId, Node), ApiError> {
    let kind = &template_specs::VERSIONS;
    let id = ResourceId::parse(id).ok().filter(|id| id.resource_type().eq_ignore_ascii_case(kind.name)).ok_or_else(
        || {
            ApiError::bad_request(
                "InvalidContentLink",
                format!("'properties.templateLink.id' is '{id}', which is no id of a version of a template spec."),
            )
        },
    )?;
    access::require(w, &format!("{}/read", kind.name), Some(&id))?;
    let stored = w.snapshot.get(&id).ok_or_else(|| ApiError::not_found(&id))?;
    let template = template_specs::main_template(&stored.body).cloned().unwrap_or_default();
    Ok((id, Node::from_json(&template, Span::default())))
}

fn create(w: &World<'_>, kind: &'static ResourceType, id: &ResourceId) -> Result<Decision, ApiError> {
    access::require(w, &format!("{DEPLOYMENTS}/write"), Some(id))?;
    put::lives_somewhere(w, kind, id)?;
    let before = w.snapshot.get(id);
    preconditions::check(w, before.map(|b| render::etag(&b.id.with_type_spelling(kind.name), b.seq)).as_deref())?;
    let asked = read(w, id)?;
    let mut run = Run::new(w);
    run.deployment(id, &asked, &target_scope(id), 0)?;
    if let Some(on_error) = asked.on_error.as_ref().filter(|_| run.failure.is_some()) {
        on_error.run(&mut run, id);
    }
    let mut batch = run.batch;
    batch.audit.operation = format!("{DEPLOYMENTS}/write");
    let location = operation::location(w, id, &Value::Null);
    let urls = operation::begin(
        w,
        &Operation { target: id, follows: Follows::Deployment, result: None, location: &location },
        &mut batch,
    );

    let mut after = w.snapshot.clone();
    after.apply(&batch);
    let stored = after.get(id).ok_or_else(|| ApiError::not_found(id))?;
    let mut body = render::resource(w, kind, stored);
    document::set(&mut body, "properties.provisioningState", json!("Accepted"));
    for later in ["outputs", "outputResources", "error"] {
        document::remove(&mut body, &format!("properties.{later}"));
    }
    Ok(Decision {
        status: if before.is_some() { 200 } else { 201 },
        headers: vec![
            ("Azure-AsyncOperation", urls.status),
            ("Retry-After", operation::RETRY_AFTER_SECONDS.to_owned()),
        ],
        body: Some(body),
        batch,
    })
}

fn validate(w: &World<'_>, id: &ResourceId) -> Result<Decision, ApiError> {
    access::require(w, &format!("{DEPLOYMENTS}/validate/action"), Some(id))?;
    w.group_of(id)?;
    let asked = read(w, id)?;
    let mut run = Run::new(w);
    run.deployment(id, &asked, &target_scope(id), 0)?;
    let mut world = w.snapshot.clone();
    world.apply(&run.batch);
    let body = world.get(id).map(|d| d.body.clone()).unwrap_or_default();
    if let Some(error) = run.failure {
        return Err(ApiError::bad_request(
            "InvalidTemplateDeployment",
            format!(
                "The template deployment '{}' is not valid according to the validation procedure. The tracking id is '{}'. See inner errors for details.",
                id.name(),
                w.ctx.correlation()
            ),
        )
        .with_detail(error));
    }
    let mut properties = document::at(&body, "properties").cloned().unwrap_or_default();
    properties["provisioningState"] = json!("Succeeded");
    properties["validatedResources"] = properties["outputResources"].clone();
    document::remove(&mut properties, "outputResources");
    document::remove(&mut properties, "outputs");
    Ok(Decision::answer(
        200,
        json!({"id": id.as_str(), "name": id.name(), "type": DEPLOYMENTS, "properties": properties}),
    ))
}

/// The group or subscription that a deployment document lies in.
fn target_scope(id: &ResourceId) -> ResourceId {
    id.parent().unwrap_or_else(|| id.clone())
}

/// A deployment under way.
struct Run<'a> {
    w: &'a World<'a>,
    /// Everything written so far.
    batch: Batch,
    /// The world with `batch` applied, at the one sequence number all of it will get.
    world: Snapshot,
    /// What went wrong in a step; the document says so too.
    failure: Option<ApiError>,
    /// What all templates of this deployment together may make.
    budget: Rc<Budget>,
}

/// The steps and results of one template.
#[derive(Default)]
struct Progress {
    operations: Vec<Value>,
    resources: Vec<Value>,
    /// What the template makes, with what comes before it.
    planned: Vec<(ResourceId, Vec<ResourceId>)>,
    outputs: Map<String, Value>,
    failure: Option<ApiError>,
}

impl Progress {
    /// Which resource of the template waits for which.
    fn dependencies(&self) -> Value {
        let shown = |id: &ResourceId| {
            let name = id.names().join("/");
            json!({ "id": id.as_str(), "resourceType": id.resource_type(), "resourceName": name })
        };
        let waiting = self.planned.iter().filter(|(_, after)| !after.is_empty());
        waiting
            .map(|(id, after)| {
                let mut one = shown(id);
                one["dependsOn"] = after.iter().map(shown).collect();
                one
            })
            .collect()
    }
}

impl<'a> Run<'a> {
    fn new(w: &'a World<'a>) -> Self {
        Self { w, batch: Batch::default(), world: w.snapshot.clone(), failure: None, budget: Rc::default() }
    }

    /// Adds changes: all of them are one commit, so they carry one sequence number.
    fn take(&mut self, mut batch: Batch) {
        if self.batch.is_empty() {
            self.world.apply(&batch);
        } else {
            self.world.amend(&batch);
        }
        self.batch.changes.append(&mut batch.changes);
    }

    /// Runs one template and writes its deployment document. `Err`: nothing was written for it.
    fn deployment(&mut self, id: &ResourceId, asked: &Asked, scope: &ResourceId, depth: usize) -> Result<(), ApiError> {
        let around = Around {
            w: *self.w,
            world: RefCell::new(self.world.clone()),
            id: id.clone(),
            scope: scope.clone(),
            template: asked.template.to_json(),
        };
        let inputs = Inputs { template: &asked.template, parameters: &asked.parameters };
        // Shared, since the steps below borrow all of this run.
        let budget = self.budget.clone();
        let evaluator = Evaluator::new(inputs, &around, &budget);
        let text = self.w.request.body.as_deref().unwrap_or_default();
        let invalid = |f: Failure| invalid_template(&f, text, depth);
        evaluator.check_parameters().map_err(invalid)?;
        let planned = plan(&evaluator, scope).map_err(invalid)?.resources;
        self.preflight(&planned)?;
        evaluator.allow_references();

        let order = planned.iter().map(|p| (p.id.clone(), p.after.clone())).collect();
        let mut progress = Progress { planned: order, ..Progress::default() };
        for resource in &planned {
            let outcome = self.resource(resource, &evaluator, depth);
            around.world.replace(self.world.clone());
            progress.operations.push(self.step(id, resource, outcome.as_ref().err()));
            match outcome {
                Ok(()) => progress.resources.push(json!({ "id": resource.id.as_str() })),
                Err(error) => {
                    progress.failure = Some(deployment_failed(&error));
                    break;
                }
            }
        }
        if progress.failure.is_none() {
            self.outputs(&evaluator, asked, &mut progress);
        }
        let body = self.document(&evaluator, asked, &progress);
        self.failure.clone_from(&progress.failure);
        let mut batch = Batch::default();
        batch.put(id.clone(), body);
        self.take(batch);
        Ok(())
    }

    /// Refuses types nobody knows and rights nobody has before anything is created.
    fn preflight(&self, planned: &[Planned]) -> Result<(), ApiError> {
        for resource in planned {
            let kind = resource.id.resource_type();
            let name = resource.id.names().join("/");
            self.w.find_or_refuse(&kind).map_err(|why| {
                ApiError::bad_request(
                    "InvalidTemplateDeployment",
                    format!("The template resource '{name}' of type '{kind}' cannot be deployed: Moat does not know this type."),
                )
                .with_target(resource.id.as_str())
                .with_detail(why)
            })?;
            access::require(self.w, &format!("{kind}/write"), Some(&resource.id)).map_err(|why| {
                ApiError::new(
                    403,
                    "InvalidTemplateDeployment",
                    format!(
                        "Deployment failed with multiple errors: 'Authorization failed for template resource '{name}' of type '{kind}'. {}'",
                        why.message
                    ),
                )
                .with_detail(why)
            })?;
        }
        Ok(())
    }

    /// Writes one resource.
    fn resource(&mut self, resource: &Planned, evaluator: &Evaluator<'_>, depth: usize) -> Result<(), ApiError> {
        let text = self.w.request.body.as_deref().unwrap_or_default();
        let invalid = |f: Failure| invalid_template(&f, text, depth);
        if resource.id.resource_type().eq_ignore_ascii_case(DEPLOYMENTS) {
            return self.nested(resource, evaluator, depth);
        }
        let body = resource.body(evaluator).map_err(invalid)?;
        if let Some(why) = body.unknown() {
            return Err(ApiError::bad_request(
                "InvalidTemplate",
                format!("Deployment template validation failed: 'a value of '{}' is not known: {why}'.", resource.id),
            ));
        }
        let mut ctx: Ctx = self.w.ctx.clone();
        // Ids made by a step must differ from those of the other steps.
        ctx.seed = uuid::Uuid::new_v5(&self.w.ctx.seed, resource.id.key().as_bytes());
        let request = ArmRequest {
            method: Method::Put,
            path: resource.id.as_str().to_owned(),
            query: [("api-version".to_owned(), api_version(resource))].into(),
            body: Some(without_nulls(body.to_json()).to_string()),
            principal: self.w.request.principal.clone(),
            origin: self.w.request.origin.clone(),
            if_match: None,
            if_none_match: None,
        };
        let step = World { snapshot: &self.world, request: &request, ctx: &ctx, step: true, types: self.w.types };
        let decision = decide_in(&step)?;
        self.take(decision.batch);
        Ok(())
    }

    /// A deployment inside a deployment, with its own template.
    fn nested(&mut self, resource: &Planned, evaluator: &Evaluator<'_>, depth: usize) -> Result<(), ApiError> {
        let text = self.w.request.body.as_deref().unwrap_or_default();
        let invalid = |f: Failure| invalid_template(&f, text, depth);
        if depth + 1 >= NESTING_MAX {
            return Err(ApiError::bad_request(
                "InvalidTemplate",
                format!(
                    "Deployment template validation failed: 'deployments are nested more than {NESTING_MAX} deep'."
                ),
            ));
        }
        let inner = resource
            .written("properties.expressionEvaluationOptions.scope")
            .and_then(Node::as_str)
            .is_some_and(|s| s.eq_ignore_ascii_case("inner"));
        let raw: &[&str] = if inner { &["template"] } else { &[] };
        let body = resource.members(evaluator, raw).map_err(invalid)?;
        let properties = body.get("properties");
        let Some(template) = properties.and_then(|p| p.get("template")) else {
            return Err(ApiError::bad_request(
                "InvalidTemplate",
                format!(
                    "Deployment template validation failed: 'the nested deployment '{}' has no inline template'.",
                    resource.id.name()
                ),
            ));
        };
        let empty = Node::from_json(&json!({}), Span::default());
        let parameters = properties.and_then(|p| p.get("parameters")).cloned().unwrap_or(empty);
        let mode = "Incremental".to_owned();
        let asked = Asked { template: template.clone(), parameters, mode, link: None, on_error: None };
        let own = target_scope(&resource.id);
        let scope = match body.get("resourceGroup").and_then(Node::as_str) {
            Some(group) => ResourceId::resource_group_scope(&self.w.ctx.subscription, group),
            None => own,
        };
        if let Some(group) = scope.resource_group()
            && self.world.get(&scope).is_none()
        {
            return Err(ApiError::group_not_found(group));
        }
        self.deployment(&resource.id, &asked, &scope, depth + 1)?;
        self.failure.take().map_or(Ok(()), Err)
    }

    /// The entry of `operations` for one resource.
    fn step(&self, deployment: &ResourceId, resource: &Planned, error: Option<&ApiError>) -> Value {
        let operation_id = uuid::Uuid::new_v5(&self.w.ctx.seed, format!("step:{}", resource.id.key()).as_bytes())
            .simple()
            .to_string()
            .to_uppercase();
        let mut properties = json!({
            "provisioningOperation": "Create",
            "provisioningState": if error.is_some() { "Failed" } else { "Succeeded" },
            "timestamp": render::time(self.w.ctx.now),
            "duration": "PT0.0S",
            "trackingId": self.w.ctx.correlation(),
            "serviceRequestId": self.w.ctx.correlation(),
            "statusCode": error.map_or("OK", |e| status_name(e.status)),
            "targetResource": {
                "id": resource.id.as_str(),
                "resourceType": resource.id.resource_type(),
                "resourceName": resource.id.names().join("/"),
            },
        });
        if let Some(error) = error {
            properties["statusMessage"] = error.to_body();
        }
        json!({
            "id": format!("{deployment}/operations/{operation_id}"), "operationId": operation_id, "properties": properties,
        })
    }

    fn outputs(&self, evaluator: &Evaluator<'_>, asked: &Asked, progress: &mut Progress) {
        let text = self.w.request.body.as_deref().unwrap_or_default();
        for output in asked.template.get("outputs").map(Node::members).unwrap_or_default() {
            let condition = output.value.get("condition").map(|c| evaluator.value(c));
            if let Some(Ok(node)) = &condition
                && node.to_json() == json!(false)
            {
                continue;
            }
            let value = match (condition, output.value.get("value")) {
                (Some(Err(failure)), _) => Err(failure),
                (_, Some(value)) => evaluator.value(value),
                (_, None) => {
                    Err(Failure::new(output.name_span, format!("the output `{}` has no `value`", output.name)))
                }
            };
            match value {
                Ok(value) => {
                    let kind = output.value.get("type").and_then(Node::as_str).unwrap_or("string");
                    progress.outputs.insert(camel_case(&output.name), json!({"type": kind, "value": value.to_json()}));
                }
                Err(failure) => {
                    let (line, position) = failure.span.line_column(text);
                    progress.failure = Some(ApiError::bad_request(
                        "DeploymentOutputEvaluationFailed",
                        format!(
                            "Unable to evaluate template outputs: '{}'. Please see error details and deployment operations. The output is at line {line}, position {position}: {}.",
                            output.name, failure.message
                        ),
                    ));
                    return;
                }
            }
        }
    }

    /// The types that a template makes, by provider, with the places where they were made.
    fn providers(&self, progress: &Progress) -> Value {
        let mut found: BTreeMap<String, BTreeMap<String, BTreeSet<Option<String>>>> = BTreeMap::new();
        for (id, _) in &progress.planned {
            let whole = id.resource_type();
            let Some((namespace, kind)) = whole.split_once('/') else { continue };
            let stored = self.world.get(id);
            let location = stored.and_then(|s| document::str_at(&s.body, "location")).map(str::to_owned);
            let kinds = found.entry(namespace.to_owned()).or_default();
            kinds.entry(kind.to_owned()).or_default().insert(location);
        }
        let kinds = |kinds: BTreeMap<String, BTreeSet<Option<String>>>| -> Value {
            kinds.into_iter().map(|(kind, at)| json!({ "resourceType": kind, "locations": at })).collect()
        };
        found.into_iter().map(|(name, all)| json!({ "namespace": name, "resourceTypes": kinds(all) })).collect()
    }

    fn document(&self, evaluator: &Evaluator<'_>, asked: &Asked, progress: &Progress) -> Value {
        let mut parameters = Map::new();
        for declared in asked.template.get("parameters").map(Node::members).unwrap_or_default() {
            let kind = declared.value.get("type").and_then(Node::as_str).unwrap_or("string");
            let secret = kind.to_ascii_lowercase().starts_with("secure");
            let mut shown = json!({ "type": kind });
            // Secrets are never shown again.
            if !secret && let Ok(value) = evaluator.parameter_value(&declared.name) {
                shown["value"] = value.to_json();
            }
            parameters.insert(camel_case(&declared.name), shown);
        }
        let template = asked.template.to_json();
        let hash = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, template.to_string().as_bytes()).as_u64_pair().0;
        let mut properties = json!({
            "templateHash": hash.to_string(),
            "parameters": parameters,
            "mode": asked.mode,
            "provisioningState": if progress.failure.is_some() { "Failed" } else { "Succeeded" },
            "timestamp": render::time(self.w.ctx.now),
            "duration": "PT0.0S",
            "correlationId": self.w.ctx.correlation(),
            "providers": self.providers(progress),
            "dependencies": progress.dependencies(),
            "outputs": progress.outputs,
            "outputResources": progress.resources,
        });
        if let Some(link) = &asked.link {
            properties["templateLink"] = json!({
                "id": link.as_str(),
                "contentVersion": document::at(&template, "contentVersion").cloned().unwrap_or_else(|| json!("1.0.0.0")),
            });
        }
        if let Some(on_error) = &asked.on_error {
            properties["onErrorDeployment"] = on_error.shown();
        }
        if let Some(error) = &progress.failure {
            properties["error"] = error.to_body()["error"].clone();
        }
        json!({"properties": properties, "moat": {"operations": progress.operations, "template": template}})
    }
}

/// A name of a parameter or output as the service answers it: its serialiser lowers the first capitals up to the one
/// that begins a word (`NewNSG` is `newNSG`, `VMName` is `vmName`).
fn camel_case(name: &str) -> String {
    let characters: Vec<char> = name.chars().collect();
    let capitals = characters.iter().take_while(|c| c.is_uppercase()).count();
    let lowered = if capitals > 1 && capitals < characters.len() { capitals - 1 } else { capitals };
    let lower = characters[..lowered].iter().flat_map(|c| c.to_lowercase());
    lower.chain(characters[lowered..].iter().copied()).collect()
}

fn api_version(resource: &Planned) -> String {
    if resource.api_version.is_empty() { "2024-11-01".to_owned() } else { resource.api_version.clone() }
}

/// Templates write `null` for what they leave out.
fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(map) = &mut value {
        let names: Vec<String> = map.iter().filter(|(_, v)| v.is_null()).map(|(k, _)| k.clone()).collect();
        for name in names {
            map.shift_remove(&name);
        }
    }
    value
}

/// 400 `InvalidTemplate`, with the place if the template is the request's own (nested ones that
/// were computed have none).
fn invalid_template(failure: &Failure, text: &str, depth: usize) -> ApiError {
    let place = if depth == 0 {
        let (line, position) = failure.span.line_column(text);
        format!(" (line {line}, position {position} of the request)")
    } else {
        String::new()
    };
    let mut error = ApiError::bad_request(
        "InvalidTemplate",
        format!("Deployment template validation failed: '{}{place}'.", failure.message),
    );
    if depth == 0 {
        let (line, position) = failure.span.line_column(text);
        let path = path_of(&syntax::parse(text).0, failure.span);
        let info = json!({ "lineNumber": line, "linePosition": position, "path": path });
        error.additional_info = [json!({ "type": "TemplateViolation", "info": info })].into();
    }
    error
}

/// The way to the innermost member or element that holds a place of the request, as `properties.template.resources[0]`.
fn path_of(node: &Node, place: Span) -> String {
    let holds = |span: Span| span.start <= place.start && place.start < span.end;
    let member = node.members().iter().find(|m| holds(m.name_span.to(m.value.span)));
    if let Some(member) = member {
        let rest = path_of(&member.value, place);
        let dot = if rest.is_empty() || rest.starts_with('[') { "" } else { "." };
        return format!("{}{dot}{rest}", member.name);
    }
    let Some(at) = node.elements().iter().position(|e| holds(e.span)) else { return String::new() };
    let rest = node.elements().get(at).map(|e| path_of(e, place)).unwrap_or_default();
    let dot = if rest.is_empty() || rest.starts_with('[') { "" } else { "." };
    format!("[{at}]{dot}{rest}")
}

/// The outer envelope of a failed step: the real error is an escaped document in `details`
/// (errors.md 1.1).
fn deployment_failed(error: &ApiError) -> ApiError {
    ApiError::new(
        409,
        "DeploymentFailed",
        "At least one resource deployment operation failed. Please list deployment operations for details. Please see https://aka.ms/DeployOperations for usage details.",
    )
    .with_detail(ApiError::new(error.status, status_name(error.status), error.to_body().to_string()))
}

fn status_name(status: u16) -> &'static str {
    match status {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        412 => "PreconditionFailed",
        _ => "BadRequest",
    }
}

/// What a template may ask of the world.
struct Around<'a> {
    w: World<'a>,
    world: RefCell<Snapshot>,
    id: ResourceId,
    scope: ResourceId,
    template: Value,
}

impl Around<'_> {
    fn node(value: &Value) -> Node {
        Node::from_json(value, Span::default())
    }
}

impl Surroundings for Around<'_> {
    fn subscription(&self) -> Node {
        let subscription = &self.w.ctx.subscription;
        Self::node(&json!({
            "id": format!("/subscriptions/{subscription}"),
            "subscriptionId": subscription,
            "tenantId": self.w.ctx.tenant,
            "displayName": "Moat",
        }))
    }

    fn resource_group(&self) -> Option<Node> {
        self.scope.resource_group()?;
        let world = self.world.borrow();
        let stored = world.get(&self.scope)?;
        Some(Self::node(&json!({
            "id": stored.id.as_str(),
            "name": stored.id.name(),
            "type": "Microsoft.Resources/resourceGroups",
            "location": document::at(&stored.body, "location"),
            "tags": document::at(&stored.body, "tags").cloned().unwrap_or_else(|| json!({})),
            "properties": {"provisioningState": "Succeeded"},
        })))
    }

    fn deployment(&self) -> Node {
        Self::node(&json!({
            "name": self.id.name(),
            "properties": {"template": self.template, "mode": "Incremental", "provisioningState": "Accepted"},
        }))
    }

    fn tenant(&self) -> Node {
        Self::node(&json!({"tenantId": self.w.ctx.tenant, "id": format!("/tenants/{}", self.w.ctx.tenant)}))
    }

    fn reference(&self, id: &str, full: bool) -> Result<Node, String> {
        let id = ResourceId::parse(id).map_err(|e| e.to_string())?;
        let world = self.world.borrow();
        // By the time a template reads a resource, Azure has waited for it.
        let ctx = Ctx { applied: u64::MAX, ..self.w.ctx.clone() };
        let w = World { snapshot: &world, ctx: &ctx, ..self.w };
        let kind = w.find_or_refuse(&id.resource_type()).map_err(|e| e.message)?;
        let id = w.canonical(&id, kind);
        access::require(&w, &format!("{}/read", kind.name), Some(&id)).map_err(|e| e.message)?;
        let value = get::read(&w, kind, &id).map_err(|e| e.message)?;
        let found = if full { value } else { document::at(&value, "properties").cloned().unwrap_or_else(|| json!({})) };
        Ok(Self::node(&found))
    }

    fn utc_now(&self) -> String {
        self.w.ctx.now.strftime("%Y%m%dT%H%M%SZ").to_string()
    }

    fn new_guid(&self, number: usize) -> String {
        uuid::Uuid::new_v5(&self.w.ctx.seed, format!("newGuid:{}:{number}", self.id.key()).as_bytes()).to_string()
    }
}
