//! The relays of `metrics serve`: what is stored is sent on to other systems.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use metrics_server::{
    http::Figure,
    relay::{Destination, Relay, RelayBuilder, RelayStats, Rename, Rules},
    store::Tee,
};

use crate::{
    config::RelayTable,
    failure::{Failure, chain},
    http::Figures,
    size::Size,
    times,
};

/// The relays, before they are opened.
#[derive(Debug, Default)]
pub(crate) struct RelaysConfig {
    relays: Vec<RelayBuilder>,
    /// The folder of their spools.
    dir: PathBuf,
}

impl RelaysConfig {
    /// Takes the relays of the command line, or else those of the file. Their spools are in `spool`, or else in the
    /// folder `relays` of the data.
    ///
    /// # Errors
    ///
    /// If a relay is invalid, if two have one name, or if there is no folder.
    pub(crate) fn new(
        urls: Option<Vec<String>>,
        tables: Option<Vec<RelayTable>>,
        spool: Option<PathBuf>,
        data: Option<&Path>,
        max_queue: Option<usize>,
    ) -> Result<Self, Failure> {
        let tables = match urls {
            Some(urls) => {
                urls.into_iter().map(|url| RelayTable { url, ..RelayTable::default() }).collect()
            }
            None => tables.unwrap_or_default(),
        };
        if tables.is_empty() {
            return match spool {
                Some(_) => Err(Failure::usage("--relay-spool is for relays: set --relay URL")),
                None => Ok(Self::default()),
            };
        }
        let Some(dir) = spool.or_else(|| data.map(|data| data.join("relays"))) else {
            let message =
                "relays keep what they cannot send on disk: set --data DIR or --relay-spool DIR";
            return Err(Failure::usage(message));
        };
        let max_queue = max_queue.map(|bytes| bytes / tables.len());
        let relays = tables.into_iter().map(|table| builder(table, max_queue));
        let relays = relays.collect::<Result<Vec<_>, Failure>>()?;
        let mut names = HashSet::new();
        for relay in &relays {
            let name = relay.get_name();
            if !names.insert(name.clone()) {
                let message = format!("two relays are named {name:?}: set `name` in the file");
                return Err(Failure::usage(message));
            }
        }
        Ok(Self { relays, dir })
    }

    /// Opens the relays: they send what their spools hold.
    ///
    /// # Errors
    ///
    /// If a name or a destination cannot be used, or a spool cannot be opened.
    pub(crate) async fn open(self) -> Result<Relays, Failure> {
        let mut relays = Vec::new();
        for relay in self.relays {
            let dir = self.dir.join(relay.get_name());
            let opened = relay.open(&dir).await;
            relays.push(opened.map_err(|error| Failure::usage(chain(&error)))?);
        }
        Ok(Relays(relays))
    }
}

fn builder(table: RelayTable, max_queue: Option<usize>) -> Result<RelayBuilder, Failure> {
    let RelayTable {
        url,
        name,
        token_file,
        only,
        except,
        rename,
        max_queue: queue,
        max_spool,
        spill_after,
    } = table;
    let destination: Destination =
        url.parse().map_err(|error| Failure::usage(error).context("--relay"))?;
    let shown = destination.to_string();
    let mut rules = Rules::new().only(only).except(except);
    for rename in rename {
        let rename = Rename::new(rename.from, &rename.to);
        rules = rules.rename(rename.map_err(|error| Failure::usage(error).context(&shown))?);
    }
    let mut relay = Relay::builder(destination).rules(rules);
    if let Some(name) = name {
        relay = relay.name(name);
    }
    if let Some(path) = token_file {
        let token = fs::read_to_string(&path)
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
        relay = relay.token(token.trim());
    }
    let queue = queue.map(|Size(bytes)| usize::try_from(bytes).unwrap_or(usize::MAX));
    if let Some(bytes) = queue.or(max_queue.map(|bytes| bytes.min(DEFAULT_QUEUE_BYTES))) {
        relay = relay.max_queue_bytes(bytes);
    }
    if let Some(Size(bytes)) = max_spool {
        relay = relay.max_spool_bytes(bytes);
    }
    if let Some(time) = spill_after {
        let seconds = times::parse_length(&time)
            .map_err(|error| Failure::usage(error).context("spill-after"))?;
        relay = relay.spill_after(Duration::from_secs(seconds.unsigned_abs()));
    }
    Ok(relay)
}

/// What a queue has without a bound on the memory.
const DEFAULT_QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// The open relays.
#[derive(Debug)]
pub(crate) struct Relays(Vec<Relay>);

impl Relays {
    /// Lets the relays see what is applied.
    pub(crate) fn observe<S>(&self, store: Tee<S>) -> Tee<S> {
        self.0.iter().fold(store, |store, relay| store.observer(relay.observer()))
    }

    /// Returns the figures of all relays.
    pub(crate) fn figures(&self) -> Figures {
        let relays: Vec<_> =
            self.0.iter().map(|relay| (relay.name().to_owned(), relay.stats_handle())).collect();
        Box::new(move || relays.iter().flat_map(|(name, stats)| figures(name, &stats())).collect())
    }

    /// Sends or stores what is queued. The listeners have ended.
    pub(crate) async fn close(self) {
        let closing: Vec<_> = self
            .0
            .into_iter()
            .map(|relay| tokio::spawn(async move { relay.close().await }))
            .collect();
        for relay in closing {
            // One that has panicked is closed too.
            let _ = relay.await;
        }
    }
}

fn figures(name: &str, stats: &RelayStats) -> Vec<Figure> {
    let counter = |figure, help, value| Figure::counter(figure, help, value).label("relay", name);
    let gauge = |figure, help, value| Figure::gauge(figure, help, value).label("relay", name);
    let mut figures = vec![
        counter(
            "metrics_relay_applied_total",
            "Points that were stored since the start; applied + recovered = delivered + filtered + rejected + dropped + waiting + spooled.",
            stats.applied,
        ),
        counter(
            "metrics_relay_recovered_total",
            "Points that were in the spool at the start.",
            stats.recovered,
        ),
        counter(
            "metrics_relay_delivered_total",
            "Points that the destination has acknowledged; for Graphite, that were written to its connection.",
            stats.delivered,
        ),
        counter(
            "metrics_relay_filtered_total",
            "Points that the rules have excluded.",
            stats.filtered,
        ),
        counter(
            "metrics_relay_rejected_total",
            "Points that the destination has rejected.",
            stats.rejected,
        ),
        gauge("metrics_relay_waiting", "Points in memory.", stats.waiting as f64),
        gauge("metrics_relay_spooled", "Points in the spool.", stats.spooled as f64),
        counter("metrics_relay_failures_total", "Requests that failed.", stats.failures),
        gauge(
            "metrics_relay_queue_bytes",
            "Memory of the points that wait.",
            stats.queue_bytes as f64,
        ),
        gauge("metrics_relay_spool_bytes", "Space of the spool.", stats.spool_bytes as f64),
        counter(
            "metrics_relay_spool_errors_total",
            "Operations of the spool that failed.",
            stats.spool_errors,
        ),
        gauge(
            "metrics_relay_lag_seconds",
            "How long the oldest point that is not delivered has waited.",
            stats.lag.as_secs_f64(),
        ),
        gauge(
            "metrics_relay_up",
            "1 if the last request succeeded.",
            u64::from(stats.is_up) as f64,
        ),
    ];
    figures.extend(stats.dropped.by_reason().map(|(reason, points)| {
        counter("metrics_relay_dropped_total", "Points that were lost.", points)
            .label("reason", reason)
    }));
    figures
}
