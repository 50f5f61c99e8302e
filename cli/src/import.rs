//! `metrics import`: stores the lines of a file or of standard input, in constant memory.
//!
//! A thread reads and parses while the client sends what was parsed before. How far the server has
//! acknowledged the file is kept in a small file beside it, so that `--resume` can go on from there.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::PathBuf,
    pin::pin,
    thread,
};

use indicatif::ProgressBar;
use metrics_client::{Error, MetricsClient, Sample, error::BatchError};
use tokio::sync::mpsc;

use crate::{
    checkpoint::{Checkpoint, Checkpoints, Position},
    connect::{ServerArgs, block_on},
    failure::{Failure, Status, chain},
    lines::LineParser,
    progress, signals,
};

/// Stores the lines of a file: `put KEY VALUE TIMESTAMP`, or the same without put
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// A file, or - for standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Goes on where an earlier import of the same file stopped
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// How many samples are sent as one batch.
const BATCH_SAMPLES: usize = 32 * 1024;

/// How many parsed batches wait for the one that is being sent.
const BATCHES_AHEAD: usize = 2;

/// How many invalid lines are shown. The others are counted.
const MAX_SHOWN: u64 = 10;

/// How long a line may be: a request that is longer is no request.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// Samples that were parsed, and where in the file that was.
struct Batch {
    samples: Vec<Sample>,
    /// The number of the line of each sample.
    lines: Vec<u64>,
    end: Position,
}

#[derive(Default)]
struct Counts {
    stored: u64,
    invalid: u64,
    refused: u64,
}

/// What an import has done so far.
struct Import {
    checkpoint: Checkpoints,
    counts: Counts,
    progress: ProgressBar,
    /// Progress is counted in bytes, not in points.
    counts_bytes: bool,
}

pub(crate) fn run(args: &ImportArgs) -> Result<(), Failure> {
    let source = Source::open(args)?;
    block_on(import(args, source))
}

async fn import(args: &ImportArgs, source: Source) -> Result<(), Failure> {
    // Before anything is sent: what is acknowledged is written down also when the import is interrupted.
    let mut stop = pin!(signals::stop()?);
    let client = args.server.connect().await?;
    let progress = progress::bar(source.len, "importing");
    progress.set_position(source.start.bytes);
    let mut import = Import {
        checkpoint: source.checkpoint(),
        counts: Counts::default(),
        counts_bytes: source.len.is_some(),
        progress: progress.clone(),
    };
    let (sender, mut batches) = mpsc::channel(BATCHES_AHEAD);
    let shown = progress.clone();
    let reader = thread::Builder::new()
        .name("import".into())
        .spawn(move || read(source, &sender, &shown))?;

    let sent = tokio::select! {
        sent = import.send_all(&client, &mut batches) => {
            sent.map_err(|error| Failure::from(error).context(&args.server.server))
        }
        signal = &mut stop => Err(Failure::interrupted(signal)),
    };
    let Import { mut checkpoint, mut counts, .. } = import;
    if let Err(failure) = sent {
        checkpoint.save(true);
        progress.abandon();
        let (stored, remedy) = (counts.stored, checkpoint.remedy());
        return Err(failure.context(format_args!("stopped after {stored} points{remedy}")));
    }
    counts.invalid = reader.join().map_err(|_| Failure::usage("the reader has panicked"))??;
    progress.finish_and_clear();
    checkpoint.remove();

    let Counts { stored, invalid, refused } = counts;
    eprintln!("imported {stored} points");
    if invalid + refused > 0 {
        let message = format!("{invalid} lines are invalid, {refused} were refused by the server");
        return Err(Failure::new(Status::Refused, message));
    }
    Ok(())
}

impl Import {
    /// Sends all batches, one after the other.
    ///
    /// # Errors
    ///
    /// Returns the first error that is not a refusal of the server.
    ///
    /// # Cancel safety
    ///
    /// The checkpoint is what has been acknowledged until then.
    async fn send_all(
        &mut self,
        client: &MetricsClient,
        batches: &mut mpsc::Receiver<Batch>,
    ) -> Result<(), Error> {
        while let Some(Batch { samples, lines, end }) = batches.recv().await {
            match client.put_all(&samples).await {
                Ok(()) => self.counts.stored += samples.len() as u64,
                // Each line has an outcome: the server has refused some of them.
                Err(Error::Batch(error)) if error.resume_from() == error.total() => {
                    self.refused(&error, &lines);
                }
                Err(error) => return Err(error),
            }
            self.checkpoint.acknowledged = end;
            self.checkpoint.save(false);
            if self.counts_bytes {
                self.progress.set_position(end.bytes);
            } else {
                self.progress.inc(samples.len() as u64);
            }
        }
        Ok(())
    }

    /// Counts what the server has refused of a batch, and tells the first of it.
    fn refused(&mut self, error: &BatchError, lines: &[u64]) {
        let refused = (error.total() - error.acknowledged()) as u64;
        self.counts.stored += error.acknowledged() as u64;
        let (first_failed, cause) = error.first_error();
        let (line, cause) = (lines[first_failed], chain(cause));
        if self.counts.refused == 0 {
            self.progress.suspend(|| eprintln!("line {line}: refused: {cause}"));
        }
        self.counts.refused += refused;
    }
}

/// Reads and parses to the end, and returns how many lines were invalid.
fn read(
    source: Source,
    batches: &mpsc::Sender<Batch>,
    progress: &ProgressBar,
) -> Result<u64, Failure> {
    let Source { mut input, name, start: mut at, .. } = source;
    let (mut parser, mut invalid, mut line) = (LineParser::default(), 0, Vec::new());
    loop {
        let mut batch = Batch {
            samples: Vec::with_capacity(BATCH_SAMPLES),
            lines: Vec::with_capacity(BATCH_SAMPLES),
            end: at,
        };
        while batch.samples.len() < BATCH_SAMPLES {
            line.clear();
            let len = (&mut input).take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
            let mut len =
                len.map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))? as u64;
            if len == 0 {
                break;
            }
            let is_cut = line.last() != Some(&b'\n') && len == MAX_LINE_BYTES;
            if is_cut {
                len += input
                    .skip_until(b'\n')
                    .map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))?
                    as u64;
            }
            at = Position { bytes: at.bytes + len, lines: at.lines + 1 };
            let parsed = if is_cut {
                Err(format!("longer than {MAX_LINE_BYTES} bytes"))
            } else {
                parser
                    .parse(line.strip_suffix(b"\n").unwrap_or(&line))
                    .map_err(|error| error.to_string())
            };
            match parsed {
                Ok(Some(sample)) => {
                    batch.samples.push(sample);
                    batch.lines.push(at.lines);
                }
                Ok(None) => {}
                Err(error) => {
                    invalid += 1;
                    if invalid <= MAX_SHOWN {
                        progress.suspend(|| eprintln!("line {}: {error}", at.lines));
                    } else if invalid == MAX_SHOWN + 1 {
                        progress.suspend(|| eprintln!("further invalid lines are counted only"));
                    }
                }
            }
        }
        batch.end = at;
        let is_last = batch.samples.len() < BATCH_SAMPLES;
        // Fails if the import has stopped.
        if (!batch.samples.is_empty() && batches.blocking_send(batch).is_err()) || is_last {
            return Ok(invalid);
        }
    }
}

/// What is imported.
struct Source {
    input: Box<dyn BufRead + Send>,
    name: String,
    /// `None` for standard input.
    path: Option<PathBuf>,
    len: Option<u64>,
    start: Position,
}

impl Source {
    fn open(args: &ImportArgs) -> Result<Self, Failure> {
        if args.file.as_os_str() == "-" {
            if args.resume {
                return Err(Failure::usage(
                    "--resume needs a file: standard input cannot be read again",
                ));
            }
            let input = Box::new(BufReader::with_capacity(1 << 20, io::stdin()));
            return Ok(Self {
                input,
                name: "standard input".into(),
                path: None,
                len: None,
                start: Position::default(),
            });
        }
        let path = &args.file;
        let name = path.display().to_string();
        let cannot = |error: io::Error| Failure::usage(format!("cannot open {name}: {error}"));
        let mut file = File::open(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        if metadata.is_dir() {
            return Err(Failure::usage(format!("cannot open {name}: it is a directory")));
        }
        let len = metadata.is_file().then_some(metadata.len());
        let mut start = Position::default();
        if args.resume {
            start = Checkpoint::load(path, metadata.len())?;
            file.seek(SeekFrom::Start(start.bytes)).map_err(cannot)?;
        }
        let input = Box::new(BufReader::with_capacity(1 << 20, file));
        let path = len.is_some().then(|| path.clone());
        Ok(Self { input, name, path, len, start })
    }

    fn checkpoint(&self) -> Checkpoints {
        Checkpoints::new(self.path.as_deref(), self.len.unwrap_or_default(), self.start)
    }
}
