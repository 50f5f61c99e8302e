//! `metrics check`: reads everything in a folder of points, and says what is damaged.

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
};

use metrics_server::store::{self, CheckReport, Damage};
use serde::Serialize;

use crate::{
    failure::{Failure, Status},
    folder,
    output::{Format, OutputArgs},
    progress, times,
};

/// Reads everything in a folder of points, and says what is damaged
///
/// The folder must not be in use. Nothing in it is changed. The exit status is 0 if nothing is damaged, 1 if something
/// is, and 2 if the folder cannot be read. `metrics serve` keeps a copy of what is damaged in the folder
/// `damaged`, and serves the rest.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// The folder, as `metrics serve --data DIR` has it
    dir: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct DamageRow<'a> {
    file: String,
    offset: Option<u64>,
    key: Option<&'a str>,
    second: Option<i64>,
    what: &'a str,
}

#[derive(Serialize)]
struct CheckSummary {
    keys: u64,
    block_points: u64,
    blocks: u64,
    log_points: u64,
    log_records: u64,
    log_bytes: u64,
    block_bytes: u64,
    damaged_bytes: u64,
    torn_bytes: u64,
    damage: u64,
}

pub(crate) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let progress = progress::bar(Some(0), "checking");
    let report = store::check(&args.dir, |now| {
        progress.set_length(now.total);
        progress.set_position(now.done);
    });
    progress.finish_and_clear();
    let report =
        report.map_err(|error| folder::failure(&args.dir, &error, "stop the server first"))?;
    let mut out = BufWriter::new(io::stdout().lock());
    match args.output.format_or(Format::Table) {
        Format::Table => table(&report, &mut out)?,
        Format::Json => {
            for damage in &report.damage {
                serde_json::to_writer(&mut out, &DamageRow::new(damage))?;
                writeln!(out)?;
            }
            serde_json::to_writer(&mut out, &CheckSummary::new(&report))?;
            writeln!(out)?;
        }
        Format::Csv => {
            let mut csv = csv::Writer::from_writer(&mut out);
            for damage in &report.damage {
                csv.serialize(DamageRow::new(damage))?;
            }
            csv.flush()?;
        }
        Format::Line => report.damage.iter().try_for_each(|damage| writeln!(out, "{damage}"))?,
    }
    out.flush()?;
    match report.damage_count {
        0 => Ok(()),
        1 => Err(Failure::new(Status::Refused, "1 part is damaged")),
        count => Err(Failure::new(Status::Refused, format!("{count} parts are damaged"))),
    }
}

fn table(report: &CheckReport, out: &mut impl Write) -> io::Result<()> {
    let CheckReport { keys, block_points, blocks, records, log_points, .. } = report;
    let size = |bytes| folder::bytes(bytes);
    writeln!(out, "keys      {keys}")?;
    writeln!(
        out,
        "blocks    {block_points} points in {blocks} blocks, {}",
        size(report.block_bytes)
    )?;
    writeln!(
        out,
        "log       {log_points} puts more, {records} records, {}",
        size(report.log_bytes)
    )?;
    writeln!(out, "damaged/  {}", size(report.damaged_bytes))?;
    if report.torn_bytes > 0 {
        let bytes = report.torn_bytes;
        writeln!(
            out,
            "          the log ends with an incomplete record of {bytes} bytes, which is no damage"
        )?;
    }
    for damage in &report.damage {
        let time =
            damage.second.map_or_else(String::new, |second| format!(" ({})", times::show(second)));
        writeln!(out, "{damage}{time}")?;
    }
    let more = report.damage_count.saturating_sub(report.damage.len() as u64);
    if more > 0 {
        writeln!(out, "and {more} more")?;
    }
    if report.is_clean() { writeln!(out, "no damage") } else { Ok(()) }
}

impl<'a> DamageRow<'a> {
    fn new(damage: &'a Damage) -> Self {
        Self {
            file: damage.file.display().to_string(),
            offset: damage.offset,
            key: damage.key.as_ref().map(|key| key.as_str()),
            second: damage.second,
            what: &damage.what,
        }
    }
}

impl CheckSummary {
    fn new(report: &CheckReport) -> Self {
        Self {
            keys: report.keys,
            block_points: report.block_points,
            blocks: report.blocks,
            log_points: report.log_points,
            log_records: report.records,
            log_bytes: report.log_bytes,
            block_bytes: report.block_bytes,
            damaged_bytes: report.damaged_bytes,
            torn_bytes: report.torn_bytes,
            damage: report.damage_count,
        }
    }
}
