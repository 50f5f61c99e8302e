//! `metrics agent`: measures this host, and sends that to a server.

mod config;

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use metrics_agent::{Agent, Host, Statsd, StatsdSettings};
use metrics_client::Reporter;
use sd_notify::NotifyState;
use tokio::{runtime, task::JoinSet};

use self::config::{AgentConfig, KeyArg, SenderConfig};
use crate::{
    failure::{Failure, chain},
    output::{OutputArgs, Printer},
    service, signals,
    size::Size,
    times,
};

/// Measures this host and sends that to a server, until SIGTERM or SIGINT; a second signal ends it at once
///
/// Measures cpu, load, memory, swap, disks, network, processes, uptime, temperatures and its own cost, and takes what programs report by
/// StatsD. What the command line leaves open is taken from METRICS_* variables, then from the file, then from the defaults. SIGHUP reads the
/// file again. Logs go to standard error, as `RUST_LOG` says.
#[derive(Debug, clap::Args)]
pub(crate) struct AgentArgs {
    /// Sets the server: HOST:PORT, `unix:/PATH`, a URL such as `metrics+tls://HOST:PORT?ca_file=FILE`, or several with
    /// commas between them, over one store [default: 127.0.0.1:8888]
    #[arg(long, env = "METRICS_SERVER", value_name = "ADDRESS")]
    server: Option<String>,
    /// Sets how often the host is measured, at seconds that are a multiple of it [default: 10s]
    #[arg(long, env = "METRICS_INTERVAL", value_name = "TIME")]
    interval: Option<String>,
    /// Sets up to how much later than that, so that many hosts do not measure at once [default: a tenth of the interval]
    #[arg(long, env = "METRICS_JITTER", value_name = "TIME")]
    jitter: Option<String>,
    /// Sets the name of the host in keys [default: that of the system]
    #[arg(long, env = "METRICS_HOST", value_name = "NAME")]
    host: Option<String>,
    /// Sets where keys have the name of the host [default: dotted]
    #[arg(long, env = "METRICS_KEYS", value_name = "STYLE")]
    keys: Option<KeyArg>,
    /// Adds a label to all keys; may be given several times
    #[arg(long = "label", env = "METRICS_LABELS", value_name = "NAME=VALUE", value_delimiter = ',', value_parser = label)]
    labels: Vec<(String, String)>,
    /// Sends only what this glob matches, such as `disk.*`; may be given several times
    #[arg(long, env = "METRICS_INCLUDE", value_name = "GLOB", value_delimiter = ',')]
    include: Vec<String>,
    /// Does not send what this glob matches, such as `network.*.veth*`; may be given several times
    #[arg(long, env = "METRICS_EXCLUDE", value_name = "GLOB", value_delimiter = ',')]
    exclude: Vec<String>,
    /// Keeps what cannot be sent in this folder
    #[arg(long, env = "METRICS_SPOOL", value_name = "DIR")]
    spool: Option<PathBuf>,
    /// Sets how much the folder may take; the oldest samples are dropped beyond that [default: 256MiB]
    #[arg(long, env = "METRICS_MAX_SPOOL", value_name = "SIZE")]
    max_spool: Option<Size>,
    /// Sets how much memory unsent samples may take; the oldest are dropped beyond that [default: 4MiB]
    #[arg(long, env = "METRICS_MAX_QUEUE", value_name = "SIZE")]
    max_queue: Option<Size>,
    /// Listens for StatsD and DogStatsD over UDP at this address
    #[arg(long, env = "METRICS_STATSD", value_name = "ADDRESS:PORT")]
    statsd: Option<SocketAddr>,
    /// Listens for StatsD and DogStatsD on this Unix socket, which is created; every user may send to it
    #[arg(long, env = "METRICS_STATSD_SOCKET", value_name = "PATH")]
    statsd_socket: Option<PathBuf>,
    /// Sets how many series programs may report, by name and tags [default: 10,000]
    #[arg(long, env = "METRICS_STATSD_MAX_SERIES", value_name = "N")]
    statsd_max_series: Option<usize>,
    /// Sets how many members a set may have in an interval [default: 10,000]
    #[arg(long, env = "METRICS_STATSD_MAX_SET_MEMBERS", value_name = "N")]
    statsd_max_set_members: Option<usize>,
    /// Sets the percentiles of timers, histograms and distributions [default: 50,90,99]
    #[arg(long, env = "METRICS_STATSD_PERCENTILES", value_name = "PERCENT", value_delimiter = ',')]
    statsd_percentiles: Vec<f64>,
    /// Sets how long a gauge is sent again that no program sets any more [default: 1h]
    #[arg(long, env = "METRICS_STATSD_KEEP_GAUGES", value_name = "TIME")]
    statsd_keep_gauges: Option<String>,
    /// Sets how long the agent may take to send what is left when it is stopped [default: 5s]
    #[arg(long, env = "METRICS_STOP_TIMEOUT", value_name = "TIME")]
    stop_timeout: Option<String>,
    /// Reads what is not set otherwise from this file (TOML, the names of these options)
    #[arg(long, env = "METRICS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Checks the configuration, and does not measure
    #[arg(long)]
    check_config: bool,
    /// Prints what would be sent, measured for a second, and sends nothing
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    output: OutputArgs,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("use NAME=VALUE, such as dc=fra".into()),
    }
}

/// Runs the agent.
pub(crate) fn run(args: &AgentArgs) -> Result<(), Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let config = runtime.block_on(async { AgentConfig::new(args) })?;
    if args.check_config {
        return Ok(());
    }
    if args.once {
        return print_once(config, args.output);
    }
    service::start_log();
    let ran = runtime.block_on(measure(config, args));
    // Not until a measurement ends: a disk may hang.
    runtime.shutdown_background();
    ran
}

/// Prints what would be sent.
fn print_once(config: AgentConfig, output: OutputArgs) -> Result<(), Failure> {
    let AgentConfig { settings, .. } = config;
    let (mut host, mut names) = (Host::new(), settings.names);
    let begin = Instant::now();
    host.measure(begin.elapsed());
    thread::sleep(Duration::from_secs(1));
    let measured = host.measure(begin.elapsed());
    let mut printer = Printer::new(output.format());
    for sample in names.samples(&measured, times::now()) {
        printer.print(&sample.key, sample.point)?;
    }
    printer.finish()
}

/// Measures and sends until the first signal, and then sends what is left.
async fn measure(config: AgentConfig, args: &AgentArgs) -> Result<(), Failure> {
    let mut stop = pin!(signals::stop()?);
    let mut reloads = signals::Reloads::new()?;
    let AgentConfig { settings, sender, statsd, mut stop_timeout } = config;
    let interval = settings.schedule.interval();
    let listener = listen(&statsd)?;
    let mut agent = Agent::new(settings, sender.start()?, Arc::new(SystemTime::now), Host::new);
    let mut what = format!("measuring every {interval:?} for {}", sender.server);
    if let Some(address) = listener.as_ref().and_then(Statsd::udp_addr) {
        what.push_str(&format!(", statsd://{address}"));
    }
    agent.set_statsd(listener);
    // The output may be closed.
    let _ = writeln!(io::stdout(), "{what}");
    service::notify(&[NotifyState::Ready]);
    let mut running = Running { agent, sender, statsd, closing: JoinSet::new() };
    loop {
        tokio::select! {
            _ = &mut stop => break,
            never = running.agent.run() => match never {},
            () = reloads.next() => {}
        }
        let began = NotifyState::monotonic_usec_now();
        service::notify(&[&[NotifyState::Reloading], began.ok().as_slice()].concat());
        match AgentConfig::new(args) {
            Ok(config) => {
                stop_timeout = config.stop_timeout;
                running.reload(config).await;
            }
            Err(failure) => {
                // An error of the file shows the line below it.
                let error = failure.to_string().replace('\n', " ");
                tracing::error!(error, "invalid configuration, the one before stays in use");
            }
        }
        service::notify(&[NotifyState::Ready]);
    }
    service::notify(&[NotifyState::Stopping]);
    running.agent.set_statsd(None);
    close(running.agent.reporter(), stop_timeout).await;
    running.closing.join_all().await;
    Ok(())
}

/// The agent, and what it sends with.
struct Running {
    agent: Agent,
    sender: SenderConfig,
    statsd: Option<StatsdSettings>,
    /// Reporters of earlier configurations, which send what is left.
    closing: JoinSet<()>,
}

impl Running {
    /// Continues with another configuration. If that is impossible, all of the one before stays in use.
    async fn reload(&mut self, config: AgentConfig) {
        let AgentConfig { settings, sender, statsd, stop_timeout } = config;
        if statsd != self.statsd && !self.listen_again(statsd) {
            return;
        }
        if sender.differs(&self.sender) {
            // A folder belongs to one reporter.
            let is_same_spool = sender.spool.is_some() && sender.spool == self.sender.spool;
            if is_same_spool {
                close(self.agent.reporter(), stop_timeout).await;
            }
            let started = sender.start().map(|reporter| (reporter, sender.clone()));
            let started = started.or_else(|error| {
                tracing::error!(%error, "cannot send with the new configuration");
                let without_spool = SenderConfig { spool: None, ..self.sender.clone() };
                if is_same_spool {
                    let reporter = without_spool.start()?;
                    tracing::error!("samples are not kept on disk until the next reload");
                    Ok((reporter, without_spool))
                } else {
                    Err(error)
                }
            });
            let Ok((reporter, sender)) = started else { return };
            self.sender = sender;
            let before = self.agent.set_reporter(reporter);
            self.closing.spawn(async move { close(&before, stop_timeout).await });
        }
        self.agent.set_settings(settings);
        tracing::info!("reloaded the configuration");
    }
}

impl Running {
    /// Listens for StatsD with other settings, or as before if that is impossible; then it returns false.
    fn listen_again(&mut self, statsd: Option<StatsdSettings>) -> bool {
        // An address belongs to one listener.
        self.agent.set_statsd(None);
        let error = match listen(&statsd) {
            Ok(listener) => {
                self.agent.set_statsd(listener);
                self.statsd = statsd;
                return true;
            }
            Err(error) => error,
        };
        tracing::error!(%error, "cannot listen with the new configuration, the one before stays in use");
        match listen(&self.statsd) {
            Ok(listener) => self.agent.set_statsd(listener),
            Err(error) => {
                tracing::error!(%error, "no listener until the next reload");
                self.statsd = None;
            }
        }
        false
    }
}

/// Listens for StatsD, if that is wanted.
fn listen(statsd: &Option<StatsdSettings>) -> Result<Option<Statsd>, Failure> {
    statsd
        .clone()
        .map(Statsd::start)
        .transpose()
        .map_err(|error| Failure::usage(format!("cannot listen for StatsD: {error}")))
}

/// Sends what is left, within a limit.
async fn close(reporter: &Reporter, limit: Duration) {
    if let Err(error) = reporter.close(limit).await {
        tracing::warn!(error = chain(&error), "not all samples were sent");
    }
}
