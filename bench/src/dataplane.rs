//! Packets between two NICs through the router, against two namespaces joined by a bare veth pair.
//!
//! Rounds are interleaved and begin with another configuration each time. Rates depend on what
//! else the machine does; processor microseconds an operation (both ends and the work of the
//! router, which the kernel charges to the sender) survive a noisy machine best.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use moat_bench::documents::{Rules, Shape, address, nic_id};
use moat_bench::report::{Goal, Machine, Row};
use moat_bench::sandbox;
use moat_host::diff::{NetChange, Step};
use moat_host::layout::{End, Hop, Route, TABLE_MAIN, Veth};
use moat_host::{Applier, Fabric, HostPlan, NsName, SocketSpec, diff, plan};
use nix::sys::resource::{UsageWho, getrusage};

use crate::note;

/// One connection, one byte each way at a time.
const REQUEST_TIME: Duration = Duration::from_millis(400);
/// Connect, one byte each way, close.
const CONNECT_TIME: Duration = Duration::from_millis(400);
/// One connection, one way, as fast as it goes.
const STREAM_TIME: Duration = Duration::from_millis(1_000);
const STREAM_CHUNK: usize = 128 << 10;
const PORT: u16 = 9;
/// What a connection is for, as its first byte: one byte back for each,
const ECHO: u8 = b'e';
/// one byte back and an end,
const ONCE: u8 = b'o';
/// or as much as may be, and a byte at the end.
const SINK: u8 = b's';

/// Two namespaces and the way between them.
struct Path {
    name: &'static str,
    applier: Applier,
    client: NsName,
    server: NsName,
    target: SocketAddrV4,
}

/// What one round gives.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    request_rate: f64,
    request_cpu: f64,
    connect_rate: f64,
    connect_cpu: f64,
    stream_gbit: f64,
    stream_cpu: f64,
}

/// See the module.
pub(crate) fn run(quick: bool) -> Result<Vec<Row>> {
    let rounds = if quick { 2 } else { 9 };
    let machine = Machine::look();
    sandbox::enter()?;
    let rules = |each, mixed| Some(Rules::both(each, mixed));
    let paths = [
        bare()?,
        routed("no group", "routed-0", None)?,
        routed("10 rules", "routed-10", rules(10, true))?,
        routed("1,000 rules", "routed-1000", rules(1_000, true))?,
        routed("1,000 rules of one action", "routed-1000s", rules(1_000, false))?,
    ];
    for path in &paths {
        serve(path)?;
    }
    let mut samples = vec![Vec::new(); paths.len()];
    for round in 0..rounds {
        note(format_args!("round {} of {rounds}", round + 1));
        for turn in 0..paths.len() {
            let at = (round + turn) % paths.len();
            samples[at].push(measure(&paths[at]).with_context(|| format!("measuring `{}`", paths[at].name))?);
        }
    }
    Ok(rows(&paths, &samples, machine))
}

fn rows(paths: &[Path], samples: &[Vec<Sample>], machine: Machine) -> Vec<Row> {
    type Pick = fn(&Sample) -> f64;
    let figures: [(&str, &str, Pick, Option<Goal>); 6] = [
        ("TCP stream", "Gbit/s", |s| s.stream_gbit, Some(Goal::RatioAtLeast(0.95))),
        ("TCP stream CPU", "us/MiB", |s| s.stream_cpu, None),
        ("requests", "1/s", |s| s.request_rate, None),
        ("request CPU", "us", |s| s.request_cpu, None),
        ("connections", "1/s", |s| s.connect_rate, Some(Goal::RatioAtLeast(0.90))),
        ("connection CPU", "us", |s| s.connect_cpu, None),
    ];
    let mut rows = Vec::new();
    for (what, unit, pick, goal) in figures {
        let values = |at: usize| -> Vec<f64> { samples[at].iter().map(pick).collect() };
        for (at, path) in paths.iter().enumerate().skip(1) {
            let row = Row::new(format!("dataplane: {what}, {}", path.name), unit, values(at), machine);
            let row = row.against(paths[0].name, &values(0));
            rows.push(match goal {
                Some(goal) if at >= 2 => row.goal(goal),
                _ => row,
            });
        }
        // 1,000 rules must cost no more than 10, within 5%.
        let within = match unit {
            "Gbit/s" | "1/s" => Goal::RatioAtLeast(0.95),
            _ => Goal::RatioAtMost(1.05),
        };
        for at in 3..paths.len() {
            let row = Row::new(format!("dataplane: {what}, {} against 10", paths[at].name), unit, values(at), machine);
            rows.push(row.against(paths[2].name, &values(2)).goal(within));
        }
    }
    rows
}

fn pins(name: &str) -> PathBuf {
    PathBuf::from(sandbox::PINS).join(name)
}

/// Two namespaces, one link, nothing else.
fn bare() -> Result<Path> {
    let (a, b) = (NsName::from("a"), NsName::from("b"));
    let end = |ns: &NsName, at| End { ns: ns.clone(), link: "eth0".to_owned(), mac: [2, 0, 0, 0, 0, at] };
    let address = |at| Ipv4Addr::new(192, 168, 0, at);
    let net = |at: u8| -> Result<_> {
        let route = Route {
            table: TABLE_MAIN,
            prefix: "192.168.0.0/24".parse()?,
            metric: 0,
            hop: Hop::Link("eth0".to_owned()),
        };
        Ok(vec![
            NetChange::AddAddress("eth0".to_owned(), ipnet::Ipv4Net::new(address(at), 32)?),
            NetChange::AddRoute(route),
        ])
    };
    let mut applier = Applier::new(pins("bare"))?;
    applier
        .apply(&[
            Step::CreateNs { ns: a.clone(), sysctls: Default::default() },
            Step::CreateNs { ns: b.clone(), sysctls: Default::default() },
            Step::CreateVeth(Veth { a: end(&a, 1), b: end(&b, 2) }),
            Step::Net { ns: a.clone(), changes: net(1)? },
            Step::Net { ns: b.clone(), changes: net(2)? },
        ])
        .context("making a veth pair")?;
    Ok(Path { name: "bare veth", applier, client: a, server: b, target: SocketAddrV4::new(address(2), PORT) })
}

/// Two NICs of one subnet, each with a group that has so many rules each way; the last one matches.
fn routed(name: &'static str, folder: &str, rules: Option<Rules>) -> Result<Path> {
    let mut net = Shape::star(2, rules.unwrap_or(Rules::both(0, false)), rules.is_some()).net();
    // Groups at the NICs only: two lists are asked, out at one and in at the other.
    for subnet in &mut net.subnets {
        subnet.nsg = None;
    }
    let plan = plan(&net, &Fabric::default());
    let place = |nic| plan.places.get(&nic_id(0, 0, nic)).cloned().context("the plan has no place for a NIC");
    let (client, server) = (place(0)?, place(1)?);
    let mut applier = Applier::new(pins(folder))?;
    applier.apply(&diff(&HostPlan::default(), &plan)).with_context(|| format!("making `{name}`"))?;
    Ok(Path { name, applier, client, server, target: SocketAddrV4::new(address(0, 0, 1), PORT) })
}

/// Accepts for ever in a thread; the listening socket was made inside the namespace.
fn serve(path: &Path) -> Result<()> {
    let spec = SocketSpec::TcpListen { address: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT), backlog: 128 };
    let listener = TcpListener::from(path.applier.socket_in(&path.server, &spec)?);
    listener.set_nonblocking(false)?;
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let _ = answer(stream);
        }
    });
    Ok(())
}

/// One at a time: the client has no more than one connection open.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; STREAM_CHUNK];
    stream.read_exact(&mut buffer[..1])?;
    if buffer[0] == SINK {
        while stream.read(&mut buffer)? > 0 {}
        return stream.write_all(&[0]);
    }
    let once = buffer[0] == ONCE;
    loop {
        stream.write_all(&[0])?;
        if once || stream.read(&mut buffer[..1])? == 0 {
            return Ok(());
        }
    }
}

fn connect(path: &Path) -> Result<TcpStream> {
    // std connects with a thread's own namespace, so a thread goes there; it takes no part in what is timed.
    let target = path.target;
    let stream = path.applier.run_in(&path.client, move || TcpStream::connect(target))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn measure(path: &Path) -> Result<Sample> {
    let mut sample = Sample::default();
    {
        let mut stream = connect(path)?;
        let mut byte = [ECHO];
        let (rate, cpu) = repeat(REQUEST_TIME, || {
            stream.write_all(&byte)?;
            stream.read_exact(&mut byte)?;
            byte = [ECHO];
            Ok(())
        })?;
        (sample.request_rate, sample.request_cpu) = (rate, cpu);
    }
    let target = path.target;
    (sample.connect_rate, sample.connect_cpu) = path.applier.run_in(&path.client, move || {
        repeat(CONNECT_TIME, || {
            let mut stream = TcpStream::connect(target)?;
            let mut byte = [ONCE];
            stream.write_all(&byte)?;
            stream.read_exact(&mut byte)?;
            // The server closes first: the waiting after the end is then on its side, and our ports stay free.
            stream.read(&mut byte).map(drop)
        })
    })?;
    let mut stream = connect(path)?;
    stream.write_all(&[SINK])?;
    let chunk = vec![0; STREAM_CHUNK];
    let started = Instant::now();
    let before = cpu();
    let mut sent = 0_u64;
    while started.elapsed() < STREAM_TIME {
        stream.write_all(&chunk)?;
        sent += STREAM_CHUNK as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_exact(&mut [0])?;
    let seconds = started.elapsed().as_secs_f64();
    sample.stream_gbit = sent as f64 * 8.0 / 1e9 / seconds;
    sample.stream_cpu = (cpu() - before) * 1e6 / (sent as f64 / f64::from(1 << 20));
    Ok(sample)
}

/// Operations a second, and processor microseconds each.
fn repeat(time: Duration, mut operation: impl FnMut() -> std::io::Result<()>) -> std::io::Result<(f64, f64)> {
    for _ in 0..20 {
        operation()?;
    }
    let started = Instant::now();
    let before = cpu();
    let mut done = 0_u32;
    while started.elapsed() < time {
        operation()?;
        done += 1;
    }
    let done = f64::from(done);
    Ok((done / started.elapsed().as_secs_f64(), (cpu() - before) * 1e6 / done))
}

/// Processor seconds of this process: both ends.
fn cpu() -> f64 {
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    getrusage(UsageWho::RUSAGE_SELF).map_or(f64::NAN, |u| seconds(u.user_time()) + seconds(u.system_time()))
}
