//! Requests in small worlds. Tests speak in requests and answers only: [`World`] hides `decide`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod any;
mod computes;
mod deployments;
mod export;
mod groups;
mod networks;
mod recorded;
mod rights;

use moat_arm::Snapshot;
use moat_model::Edition;
use serde_json::Value;

use crate::request::{ArmRequest, Ctx, Decision, Method, Origin, Principal};

pub(crate) const SUB: &str = "11111111-2222-3333-4444-555555555555";
pub(crate) const OWNER: &str = "aaaaaaaa-0000-0000-0000-000000000001";
pub(crate) const OTHER: &str = "aaaaaaaa-0000-0000-0000-000000000002";

/// An environment: what is stored, what is applied, who asks.
pub(crate) struct World {
    pub(crate) snapshot: Snapshot,
    pub(crate) ctx: Ctx,
    pub(crate) principal: String,
    pub(crate) origin: Origin,
    /// The data plane keeps up with every commit at once.
    pub(crate) prompt: bool,
    requests: u128,
}

impl World {
    /// An environment whose owner is [`OWNER`] and which holds nothing else.
    pub(crate) fn empty() -> Self {
        let mut snapshot = Snapshot::default();
        snapshot.apply(&crate::bootstrap(SUB, OWNER, "99999999-0000-0000-0000-000000000000"));
        let ctx = Ctx {
            now: "2026-11-23T10:00:00Z".parse().unwrap(),
            seed: uuid::Uuid::nil(),
            edition: Edition::Seed2021,
            tenant: "66666666-7777-8888-9999-000000000000".to_owned(),
            subscription: SUB.to_owned(),
            applied: 0,
            base_url: "https://management.azure.com".to_owned(),
            public_pool: vec!["20.51.0.0/24".parse().unwrap()],
        };
        Self { snapshot, ctx, principal: OWNER.to_owned(), origin: Origin::Public, prompt: true, requests: 0 }
    }

    /// [`World::empty`] with the group `g` in `westus2`.
    pub(crate) fn with_group() -> Self {
        let mut world = Self::empty();
        assert_eq!(world.put("{g}", r#"{"location": "westus2"}"#).status, 201);
        world
    }

    /// Sends `METHOD path[?query]`; `{s}`, `{g}`, `{n}` stand for the subscription, the group `g`
    /// and its network provider. `api-version` is added if `?` is absent. The batch is committed.
    pub(crate) fn send(&mut self, line: &str, body: Option<&str>) -> Decision {
        let request = self.request(line, body);
        self.commit(&request)
    }

    pub(crate) fn commit(&mut self, request: &ArmRequest) -> Decision {
        self.requests += 1;
        self.ctx.seed = uuid::Uuid::from_u128(self.requests);
        let decision = crate::decide(&self.snapshot, request, &self.ctx);
        assert!(decision.status < 500, "{request:?} -> {decision:?}");
        assert!(decision.status < 300 || decision.batch.is_empty(), "a refusal writes: {decision:?}");
        self.snapshot.apply(&decision.batch);
        if self.prompt {
            self.ctx.applied = self.snapshot.seq();
        }
        decision
    }

    pub(crate) fn request(&self, line: &str, body: Option<&str>) -> ArmRequest {
        let (method, rest) = line.split_once(' ').unwrap();
        let full = expand(rest);
        let (path, query) = full.split_once('?').unwrap_or((&full, "api-version=2024-11-01"));
        ArmRequest {
            method: match method {
                "GET" => Method::Get,
                "HEAD" => Method::Head,
                "PUT" => Method::Put,
                "PATCH" => Method::Patch,
                "POST" => Method::Post,
                "DELETE" => Method::Delete,
                other => panic!("no method {other}"),
            },
            path: path.to_owned(),
            query: query
                .split('&')
                .filter_map(|p| p.split_once('='))
                .map(|(k, v)| (k.to_lowercase(), v.to_owned()))
                .collect(),
            body: body.map(expand),
            principal: Principal {
                object_id: self.principal.clone(),
                app_id: self.principal.clone(),
                name: "me".to_owned(),
                run: None,
            },
            origin: self.origin.clone(),
            if_match: None,
            if_none_match: None,
        }
    }

    pub(crate) fn get(&mut self, path: &str) -> Decision {
        self.send(&format!("GET {path}"), None)
    }
    pub(crate) fn put(&mut self, path: &str, body: &str) -> Decision {
        self.send(&format!("PUT {path}"), Some(body))
    }
    pub(crate) fn delete(&mut self, path: &str) -> Decision {
        self.send(&format!("DELETE {path}"), None)
    }
    /// A PUT that has to succeed.
    pub(crate) fn have(&mut self, path: &str, body: &str) -> Value {
        let decision = self.put(path, body);
        assert!(decision.status < 300, "PUT {path}: {}", said(&decision));
        decision.body.unwrap_or_default()
    }
    /// The names in a list.
    pub(crate) fn names(&mut self, path: &str) -> Vec<String> {
        let decision = self.get(path);
        assert_eq!(decision.status, 200, "{}", said(&decision));
        decision.body.unwrap()["value"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v["name"].as_str().unwrap().to_owned())
            .collect()
    }
}

pub(crate) fn expand(text: &str) -> String {
    let group = format!("/subscriptions/{SUB}/resourceGroups/g");
    text.replace("{n}", &format!("{group}/providers/Microsoft.Network"))
        .replace("{g}", &group)
        .replace("{s}", &format!("/subscriptions/{SUB}"))
}

/// Status, and of a refusal its code and message, with ids shortened.
pub(crate) fn said(decision: &Decision) -> String {
    let error = decision.body.as_ref().and_then(|b| b.get("error"));
    let text = match error {
        None => decision.status.to_string(),
        Some(e) => {
            let target = e.get("target").map(|t| format!(" [{}]", t.as_str().unwrap_or_default())).unwrap_or_default();
            format!(
                "{} {}: {}{target}",
                decision.status,
                e["code"].as_str().unwrap_or_default(),
                e["message"].as_str().unwrap_or_default()
            )
        }
    };
    let group = format!("/subscriptions/{SUB}/resourceGroups/g");
    text.replace(&format!("{group}/providers/Microsoft.Network"), "{n}").replace(&group, "{g}").replace(SUB, "{s}")
}

/// `line` in `world` says `expected`.
#[track_caller]
pub(crate) fn check(world: &mut World, line: &str, body: Option<&str>, expected: &str) {
    let decision = world.send(line, body);
    assert_eq!(said(&decision), expected, "{line}");
}
