//! `metrics import`: stores the lines of a file or of standard input, in constant memory.
//!
//! A thread reads and parses while the client sends what was parsed before. How far the server has
//! acknowledged the file is kept in a small file beside it, so that `--resume` can go on from there.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use metrics_client::{Error, Sample};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    connect::ServerArgs,
    failure::{Failure, Status, chain},
    lines::LineParser,
    progress,
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

/// How many invalid lines are shown, of each kind of fault. The others are counted.
const MAX_SHOWN: u64 = 10;

/// How long a line may be: a request that is longer is no request.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// How often it is written down how far the import has come.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// Samples that were parsed, and where in the file that was.
struct Batch {
    samples: Vec<Sample>,
    /// The number of the line of each sample.
    lines: Vec<u64>,
    end: Position,
}

/// How far the file has been read.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
struct Position {
    bytes: u64,
    lines: u64,
}

/// What is kept beside the file.
#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
struct Checkpoint {
    acknowledged: Position,
    /// The length of the file then: it may only have grown.
    file_len: u64,
}

#[derive(Default)]
struct Counts {
    stored: u64,
    invalid: u64,
    refused: u64,
}

pub(crate) fn run(args: &ImportArgs) -> Result<(), Failure> {
    let source = Source::open(args)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(import(args, source))
}

async fn import(args: &ImportArgs, source: Source) -> Result<(), Failure> {
    let client = args.server.connect().await?;
    let progress = progress::bar(source.len, "importing");
    progress.set_position(source.start.bytes);
    let (mut checkpoint, counts_bytes) = (source.checkpoint(), source.len.is_some());
    let (sender, mut batches) = mpsc::channel(BATCHES_AHEAD);
    let reader =
        thread::Builder::new().name("import".into()).spawn(move || read(source, &sender))?;

    let mut counts = Counts::default();
    while let Some(Batch { samples, lines, end }) = batches.recv().await {
        match client.put_all(&samples).await {
            Ok(()) => counts.stored += samples.len() as u64,
            // Each line has an outcome: the server has refused some of them.
            Err(Error::Batch(error)) if error.resume_from() == error.total() => {
                let refused = error.total() - error.acknowledged();
                counts.stored += error.acknowledged() as u64;
                counts.refused += refused as u64;
                let (first_failed, cause) = error.first_error();
                let (line, cause) = (lines[first_failed], chain(cause));
                progress.suspend(|| {
                    eprintln!(
                        "line {line}: refused: {cause} ({refused} of {} lines)",
                        error.total()
                    );
                });
            }
            Err(error) => {
                checkpoint.save(true);
                progress.abandon();
                let stopped = Failure::from(error).context(&args.server.server);
                return Err(stopped.context(format_args!(
                    "stopped after {} points{}",
                    counts.stored,
                    checkpoint.remedy()
                )));
            }
        }
        checkpoint.acknowledged = end;
        checkpoint.save(false);
        if counts_bytes {
            progress.set_position(end.bytes);
        } else {
            progress.inc(samples.len() as u64);
        }
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

/// Reads and parses to the end, and returns how many lines were invalid.
fn read(source: Source, batches: &mpsc::Sender<Batch>) -> Result<u64, Failure> {
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
                        eprintln!("line {}: {error}", at.lines);
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
        let path = self.path.as_deref().map(Checkpoint::path);
        Checkpoints {
            path,
            file_len: self.len.unwrap_or_default(),
            acknowledged: self.start,
            saved: Instant::now(),
        }
    }
}

impl Checkpoint {
    fn path(file: &Path) -> PathBuf {
        let mut name = file.file_name().unwrap_or_default().to_os_string();
        name.push(".import");
        file.with_file_name(name)
    }

    /// Returns where the file's import stopped.
    fn load(file: &Path, len: u64) -> Result<Position, Failure> {
        let path = Self::path(file);
        let cannot =
            |why: String| Failure::usage(format!("cannot resume {}: {why}", file.display()));
        let text = fs::read_to_string(&path).map_err(|error| {
            cannot(format!("{}: {error}; import it without --resume", path.display()))
        })?;
        let checkpoint = serde_json::from_str::<Self>(&text)
            .map_err(|error| cannot(format!("{} is damaged: {error}", path.display())))?;
        if len < checkpoint.file_len || len < checkpoint.acknowledged.bytes {
            return Err(cannot(
                "the file is shorter than it was; import it without --resume".into(),
            ));
        }
        Ok(checkpoint.acknowledged)
    }
}

/// Writes down how far the import has come.
struct Checkpoints {
    /// `None` if it cannot be resumed.
    path: Option<PathBuf>,
    file_len: u64,
    acknowledged: Position,
    saved: Instant,
}

impl Checkpoints {
    /// Saves the position, at once or if it is time.
    fn save(&mut self, at_once: bool) {
        let Some(path) =
            self.path.as_deref().filter(|_| at_once || self.saved.elapsed() >= CHECKPOINT_INTERVAL)
        else {
            return;
        };
        self.saved = Instant::now();
        let checkpoint = Checkpoint { acknowledged: self.acknowledged, file_len: self.file_len };
        let new = path.with_extension("import-new");
        let text = serde_json::to_vec(&checkpoint).unwrap_or_default();
        if let Err(error) = fs::write(&new, text).and_then(|()| fs::rename(&new, path)) {
            eprintln!("cannot write {}: {error}; this import cannot be resumed", path.display());
            self.path = None;
        }
    }

    fn remedy(&self) -> &'static str {
        if self.path.is_some() { " (--resume goes on from here)" } else { "" }
    }

    fn remove(&self) {
        if let Some(path) = &self.path {
            // Most imports have none: they take less than a second.
            let _ = fs::remove_file(path);
        }
    }
}
