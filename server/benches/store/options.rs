//! What the arguments ask for.

use std::path::PathBuf;

use crate::Outcome;

/// How long a bench measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Runs each part once, to see that it works: `--test`, or no `--bench`, as `cargo test` runs benches.
    Test,
    /// Measures for seconds instead of minutes: `--quick`.
    Quick,
    Full,
}

/// The options of all subcommands.
#[derive(Debug)]
pub(crate) struct Options {
    mode: Mode,
    /// Where the stores are created.
    pub(crate) dir: PathBuf,
    /// Where pictures are drawn.
    pub(crate) svg: Option<PathBuf>,
}

impl Options {
    /// Reads the arguments, and returns the names of subcommands among them too.
    pub(crate) fn of_args(args: impl Iterator<Item = String>) -> Outcome<(Self, Vec<String>)> {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let mut options = Self { mode: Mode::Test, dir, svg: None };
        let (mut is_bench, mut is_quick, mut is_test) = (false, false, false);
        let (mut names, mut args) = (Vec::new(), args);
        while let Some(arg) = args.next() {
            let mut folder =
                || args.next().map(PathBuf::from).ok_or_else(|| format!("{arg} takes a folder"));
            match &*arg {
                "--bench" => is_bench = true,
                "--quick" => is_quick = true,
                "--test" => is_test = true,
                "--dir" => options.dir = folder()?,
                "--svg" => options.svg = Some(folder()?),
                name if !name.starts_with('-') => names.push(arg),
                _ => return Err(format!("unknown option {arg}").into()),
            }
        }
        options.mode = match (is_test || !is_bench, is_quick) {
            (true, _) => Mode::Test,
            (false, true) => Mode::Quick,
            (false, false) => Mode::Full,
        };
        std::fs::create_dir_all(&options.dir)?;
        Ok((options, names))
    }

    pub(crate) fn is_test(&self) -> bool {
        self.mode == Mode::Test
    }

    /// Returns true if the bars count: they are for full runs.
    pub(crate) fn is_full(&self) -> bool {
        self.mode == Mode::Full
    }

    /// Chooses a value for the mode: to see that it works, quick, and full.
    pub(crate) fn choose<T>(&self, test: T, quick: T, full: T) -> T {
        match self.mode {
            Mode::Test => test,
            Mode::Quick => quick,
            Mode::Full => full,
        }
    }
}
