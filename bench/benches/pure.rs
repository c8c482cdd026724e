//! The pure pieces. Each group holds what is measured and, first, what it is compared with; the
//! names are read again by `bench pure`, which makes the ratios.
#![allow(missing_docs, clippy::unwrap_used, reason = "criterion's macros; a benchmark")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use moat_arm::snapshot::Batch;
use moat_bench::documents::{self, Rules, SUBSCRIPTION, Shape};
use moat_control::{Method, decide};
use moat_host::{Fabric, HostPlan, diff, plan};
use moat_model::{Edition, lower};
use moat_net::ir::{Net, NicIx, Protocol, Semantics};
use moat_net::packet::Flow;
use moat_net::trace::{From, trace};

const FEW: usize = 50;
const MANY: usize = 5_000;

fn decisions(c: &mut Criterion) {
    let worlds = [("50 documents", documents::filled(FEW)), ("5000 documents", documents::filled(MANY))];
    let path = documents::filler_path(SUBSCRIPTION, FEW / 2);
    let body = documents::filler(FEW / 2).2.to_string();
    let context = documents::context();

    let mut group = c.benchmark_group("decide GET");
    let get = documents::request(Method::Get, path.clone(), None);
    for (name, world) in &worlds {
        group.bench_function(*name, |b| b.iter(|| decide(black_box(world), black_box(&get), &context)));
    }
    group.finish();

    let mut group = c.benchmark_group("decide PUT");
    let put = documents::request(Method::Put, path, Some(body.replace("\"0\"", "\"1\"")));
    group.bench_function("parse the body", |b| {
        b.iter(|| serde_json::from_str::<serde_json::Value>(black_box(&body)).unwrap());
    });
    for (name, world) in &worlds {
        let decision = decide(world, &put, &context);
        assert_eq!(decision.status, 200, "{decision:?}");
        group.bench_function(*name, |b| b.iter(|| decide(black_box(world), black_box(&put), &context)));
    }
    group.finish();

    // Published snapshots share their documents, so the first change after a publication copies the map.
    let mut group = c.benchmark_group("apply");
    for (name, world) in &worlds {
        let batch: Batch = decide(world, &put, &context).batch;
        group.bench_function(*name, |b| {
            b.iter_batched(
                || world.clone(),
                |mut next| {
                    next.apply(black_box(&batch));
                    next
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn worlds() -> [(&'static str, Shape); 2] {
    [("small", Shape::SMALL), ("medium", Shape::MEDIUM)]
}

fn networks(c: &mut Criterion) {
    let tags = lower::tags_of(Edition::Seed2021);
    let mut group = c.benchmark_group("lower");
    for (name, shape) in worlds() {
        let snapshot = shape.snapshot();
        group.bench_function(name, |b| b.iter(|| lower::network(black_box(&snapshot), Semantics::default(), &tags)));
    }
    group.finish();

    let fabric = Fabric::default();
    let mut group = c.benchmark_group("plan");
    for (name, shape) in worlds() {
        let net = shape.net();
        group.bench_function(name, |b| b.iter(|| plan(black_box(&net), &fabric)));
    }
    group.finish();

    let mut group = c.benchmark_group("diff");
    for (name, shape) in worlds() {
        let old = plan(&shape.net(), &fabric);
        let changed = Shape { rules: Rules { salt: 1, ..shape.rules }, ..shape };
        let new = plan(&changed.net(), &fabric);
        group.bench_function(format!("{name}, nothing changed"), |b| b.iter(|| diff(black_box(&old), black_box(&old))));
        group.bench_function(format!("{name}, every rule changed"), |b| {
            b.iter(|| diff(black_box(&old), black_box(&new)));
        });
        group.bench_function(format!("{name}, from nothing"), |b| {
            b.iter(|| diff(black_box(&HostPlan::default()), black_box(&new)));
        });
    }
    group.finish();

    let mut group = c.benchmark_group("trace");
    for (name, shape) in worlds() {
        let net = shape.net();
        let flow = far_flow(&net, shape);
        group.bench_function(name, |b| b.iter(|| trace(black_box(&net), From::Nic(NicIx(0)), black_box(flow))));
    }
    group.finish();
}

/// From the first NIC to the last subnet of its own VNet, past every rule to the last.
fn far_flow(net: &Net, shape: Shape) -> Flow {
    Flow {
        source: net.nics[0].ip_configs[0].address,
        destination: documents::ip(0, shape.subnets - 1, shape.nics - 1),
        protocol: Protocol::Tcp,
        source_port: 40_000,
        destination_port: 443,
    }
}

criterion_group!(benches, decisions, networks);
criterion_main!(benches);
