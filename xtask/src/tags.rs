//! `cargo xtask tags FOLDER`: makes the embedded tag data from Azure's public tag files.
//!
//! FOLDER holds `ServiceTags_Public_YYYYMMDD.json` as downloaded. The result is part of the
//! repository, so this runs only when an edition changes; `--check` says whether it would change.
#![allow(clippy::print_stdout, reason = "a command-line tool talks on stdout")]

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use moat_net::tags::encode::{Source, encode};

use crate::shared;

/// The files an edition of the product needs (DECISIONS 13).
const DATES: [&str; 2] = ["2021-09-27", "2025-10-28"];

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder with the downloaded files
    folder: PathBuf,
    /// Write nothing; fail if a file would change
    #[arg(long)]
    check: bool,
}

/// Encodes each file and writes it into the data folder of `moat-net`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let data = shared::root().join("crates/moat-net/data");
    for date in DATES {
        let name = format!("ServiceTags_Public_{}.json", date.replace('-', ""));
        let text = std::fs::read_to_string(args.folder.join(&name)).with_context(|| format!("reading {name}"))?;
        let source: Source = serde_json::from_str(&text).with_context(|| format!("parsing {name}"))?;
        let bytes = encode(&source, date)?;
        let target = data.join(format!("tags-{date}.bin"));
        if !args.check {
            std::fs::write(&target, &bytes).with_context(|| format!("writing {}", target.display()))?;
        } else if std::fs::read(&target).ok().as_deref() != Some(bytes.as_slice()) {
            bail!("{} is not what {name} gives", target.display());
        }
        println!("{name}: {} tags, {} -> {} bytes", source.values.len(), text.len(), bytes.len());
    }
    Ok(())
}
