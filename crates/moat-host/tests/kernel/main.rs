//! Real packets through the real kernel, in throw-away worlds. No privilege needed: each test forks
//! into its own user, mount and network namespaces, and everything is gone when it ends.
//!
//! Assertions are about behaviour (who reaches whom, what is logged), never about rule text.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, unreachable_pub, reason = "a test program")]

mod attacks;
mod bed;
mod cases;
mod jobs;
mod net;

use moat_host::testbed::{Unavailable, in_world};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, attack] = &arguments[..]
        && flag == attacks::FLAG
    {
        std::process::exit(attacks::run(attack));
    }
    if arguments.iter().any(|a| a == "--list") {
        // No case is ignored; a runner that asks for those must not be given all of them.
        let ignored = arguments.iter().any(|a| a == "--ignored");
        let names = cases::ALL.iter().map(|(name, _)| name).chain(jobs::ALL.iter().map(|(name, _)| name));
        for name in names.filter(|_| !ignored) {
            println!("{name}: test");
        }
        return;
    }
    let filter: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let asked = |name: &str| filter.is_empty() || filter.iter().any(|f| name.contains(f.as_str()));
    let (mut ran, mut failed, mut skipped) = (0, 0, 0);
    for (name, case) in cases::ALL.iter().filter(|(name, _)| asked(name)) {
        ran += 1;
        match in_world(|| {
            case();
            0
        }) {
            Ok(0) => println!("test {name} ... ok"),
            Ok(code) => {
                println!("test {name} ... FAILED ({code})");
                failed += 1;
            }
            Err(Unavailable::Threads) => unreachable!("this program starts no thread"),
            Err(e) => {
                eprintln!("SKIPPED: {name}: {e}");
                skipped += 1;
            }
        }
    }
    for (name, _) in jobs::ALL.iter().filter(|(name, _)| asked(name)) {
        ran += 1;
        match jobs::run(name) {
            Ok(()) => println!("test {name} ... ok"),
            Err(jobs::Failed::Case(why)) => {
                println!("test {name} ... FAILED\n{why}");
                failed += 1;
            }
            Err(jobs::Failed::World(why)) => {
                eprintln!("SKIPPED: {name}: {why}");
                skipped += 1;
            }
        }
    }
    println!("\ntest result: {} ran, {failed} failed, {skipped} skipped", ran - skipped);
    std::process::exit(i32::from(failed > 0));
}
