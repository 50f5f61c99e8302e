//! What `metrics agent` measures and sends: from the command line, the environment, a file, and the defaults, in this
//! order. Unknown keys of the file are errors.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::PathBuf, time::Duration};

use metrics_agent::{AgentSettings, Filter, Host, KeyStyle, Names, Schedule, StatsdSettings};
use metrics_client::{MetricsClient, Reporter, client::WhenFull, spool::Spool};
use serde::Deserialize;

use super::AgentArgs;
use crate::{
    failure::{Failure, chain},
    size::Size,
    times,
};

/// What `metrics agent` reads from its file.
#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct AgentFile {
    server: Option<String>,
    interval: Option<String>,
    jitter: Option<String>,
    host: Option<String>,
    keys: Option<KeyArg>,
    labels: Option<BTreeMap<String, String>>,
    include: Option<Vec<String>>,
    exclude: Option<Vec<String>>,
    spool: Option<PathBuf>,
    max_spool: Option<Size>,
    max_queue: Option<Size>,
    statsd: Option<SocketAddr>,
    statsd_socket: Option<PathBuf>,
    statsd_max_series: Option<usize>,
    statsd_max_set_members: Option<usize>,
    statsd_percentiles: Option<Vec<f64>>,
    statsd_keep_gauges: Option<String>,
    stop_timeout: Option<String>,
}

/// Where keys have the host's name.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum KeyArg {
    /// HOST.cpu
    #[default]
    Dotted,
    /// cpu;host=HOST
    Labels,
}

/// What is measured and sent, and how.
#[derive(Debug)]
pub(super) struct AgentConfig {
    pub(super) settings: AgentSettings,
    pub(super) sender: SenderConfig,
    pub(super) statsd: Option<StatsdSettings>,
    pub(super) stop_timeout: Duration,
}

/// Where measurements are sent, and where they are kept until then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SenderConfig {
    pub(super) server: String,
    pub(super) spool: Option<PathBuf>,
    pub(super) max_spool: Option<Size>,
    pub(super) max_queue: Size,
}

impl AgentConfig {
    /// Reads the file, and checks everything but the spool, which is the running agent's.
    ///
    /// # Errors
    ///
    /// Returns an error that names the option.
    pub(super) fn new(args: &AgentArgs) -> Result<Self, Failure> {
        let file = match &args.config {
            Some(path) => {
                let name = path.display();
                let text = fs::read_to_string(path)
                    .map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))?;
                toml::from_str::<AgentFile>(&text)
                    .map_err(|error| Failure::usage(format!("{name}: {error}")))?
            }
            None => AgentFile::default(),
        };
        let statsd = statsd(args, &file)?;
        let interval = length("--interval", &args.interval, file.interval, "10s")?;
        if interval.is_zero() {
            return Err(Failure::usage("--interval: use 1s or more"));
        }
        let most_jitter = format!("{}s", interval.as_secs() / 10);
        let jitter = length("--jitter", &args.jitter, file.jitter, &most_jitter)?;
        let stop_timeout = length("--stop-timeout", &args.stop_timeout, file.stop_timeout, "5s")?;
        let host = args.host.clone().or(file.host).unwrap_or_else(Host::name);
        let style = match args.keys.or(file.keys).unwrap_or_default() {
            KeyArg::Dotted => KeyStyle::Dotted,
            KeyArg::Labels => KeyStyle::Labels,
        };
        let labels = match args.labels.as_slice() {
            [] => file.labels.unwrap_or_default(),
            labels => labels.iter().cloned().collect(),
        };
        let globs = |args: &[String], file: Option<Vec<String>>| match args {
            [] => file.unwrap_or_default(),
            args => args.to_vec(),
        };
        let filter =
            Filter::new(globs(&args.include, file.include), globs(&args.exclude, file.exclude))
                .map_err(|error| Failure::usage(chain(&error)))?;
        let names = Names::new(&host, style, labels, filter)
            .map_err(|error| Failure::usage(chain(&error)))?;
        let max_spool = args.max_spool.or(file.max_spool);
        let spool = args.spool.clone().or(file.spool);
        if spool.is_none() && max_spool.is_some() {
            return Err(Failure::usage("--max-spool is for samples on disk: set --spool DIR"));
        }
        let server = args.server.clone().or(file.server);
        let sender = SenderConfig {
            server: server.unwrap_or_else(|| "127.0.0.1:8888".into()),
            spool,
            max_spool,
            max_queue: args.max_queue.or(file.max_queue).unwrap_or(DEFAULT_MAX_QUEUE),
        };
        // It reads the certificates of the address, too.
        sender.client()?;
        let schedule = Schedule::with_jitter(interval, jitter);
        Ok(Self { settings: AgentSettings { schedule, names }, sender, statsd, stop_timeout })
    }
}

impl SenderConfig {
    /// Returns true if a new reporter is needed: for another server, or another spool. Certificates may have been
    /// renewed.
    pub(super) fn differs(&self, other: &Self) -> bool {
        self != other || self.server.contains("+tls://")
    }

    /// Starts a reporter on the runtime.
    ///
    /// # Errors
    ///
    /// Returns an error if the spool cannot be opened.
    pub(super) fn start(&self) -> Result<Reporter, Failure> {
        let Size(queue_bytes) = self.max_queue;
        let mut builder = Reporter::builder(self.client()?)
            .max_bytes(usize::try_from(queue_bytes).unwrap_or(usize::MAX))
            .when_full(WhenFull::DropOldest);
        if let Some(dir) = &self.spool {
            let mut spool = Spool::dir(dir);
            if let Some(Size(bytes)) = self.max_spool {
                spool = spool.max_bytes(bytes);
            }
            builder = builder.spool(spool).map_err(|error| {
                Failure::usage(format!("cannot use the spool {}: {}", dir.display(), chain(&error)))
            })?;
        }
        Ok(builder.start())
    }

    fn client(&self) -> Result<MetricsClient, Failure> {
        MetricsClient::builder(&self.server).connect_lazy().map_err(Failure::from)
    }
}

/// Returns what is listened on for StatsD.
fn statsd(args: &AgentArgs, file: &AgentFile) -> Result<Option<StatsdSettings>, Failure> {
    let defaults = StatsdSettings::default();
    let udp = args.statsd.or(file.statsd);
    let unix = args.statsd_socket.clone().or_else(|| file.statsd_socket.clone());
    let max_series = args.statsd_max_series.or(file.statsd_max_series);
    let max_set_members = args.statsd_max_set_members.or(file.statsd_max_set_members);
    let percentiles = match args.statsd_percentiles.as_slice() {
        [] => file.statsd_percentiles.clone().unwrap_or(defaults.percentiles.clone()),
        percentiles => percentiles.to_vec(),
    };
    if !percentiles.iter().all(|percent| (0.0..=100.0).contains(percent)) {
        return Err(Failure::usage("--statsd-percentiles: use numbers from 0 to 100"));
    }
    let keep_gauges = file.statsd_keep_gauges.clone();
    let keep_gauges = length("--statsd-keep-gauges", &args.statsd_keep_gauges, keep_gauges, "1h")?;
    if udp.is_none() && unix.is_none() {
        return Ok(None);
    }
    Ok(Some(StatsdSettings {
        udp,
        unix,
        max_series: max_series.unwrap_or(defaults.max_series),
        max_set_members: max_set_members.unwrap_or(defaults.max_set_members),
        percentiles,
        keep_gauges,
        ..defaults
    }))
}

fn length(
    option: &str,
    arg: &Option<String>,
    file: Option<String>,
    default: &str,
) -> Result<Duration, Failure> {
    let text = arg.clone().or(file).unwrap_or_else(|| default.into());
    let seconds =
        times::parse_length(&text).map_err(|error| Failure::usage(error).context(option))?;
    Ok(Duration::from_secs(seconds.unsigned_abs()))
}

/// Samples of an hour of a host with 100 measurements each 10 seconds.
const DEFAULT_MAX_QUEUE: Size = Size(4 * 1024 * 1024);
