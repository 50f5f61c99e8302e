//! The HTTP listener of `metrics serve`: the page, the API, Graphite's, and what InfluxDB's clients write.

use std::{fs, net::SocketAddr, path::PathBuf};

use metrics_server::{
    Store,
    graphite::{GraphiteStats, GraphiteStatsHandle, RenderLimits},
    http::{Access, Figure, HttpLimits, HttpServer, Token},
    stats::StatsHandle,
    store::{ClickHouseStats, DiskStats, Tee},
    tls::TlsAcceptor,
};

use crate::{
    failure::Failure,
    http_limit::{self, HttpLimit},
};

/// Where HTTP is served, and to whom.
#[derive(Debug)]
pub(crate) struct HttpConfig {
    listen: SocketAddr,
    access: Access,
    limits: HttpLimits,
    render_limits: RenderLimits,
}

/// Returns figures for `/metrics`.
pub(crate) type Figures = Box<dyn Fn() -> Vec<Figure> + Send + Sync>;

impl HttpConfig {
    /// Returns `None` if HTTP is not wanted.
    ///
    /// # Errors
    ///
    /// If the address needs a token and none is set, or if the token file cannot be used.
    pub(crate) fn new(
        listen: Option<SocketAddr>,
        token_file: Option<PathBuf>,
        no_token: bool,
        limits: &[HttpLimit],
    ) -> Result<Option<Self>, Failure> {
        let access = match (token_file, no_token) {
            (Some(_), true) => {
                return Err(Failure::usage("both a token and no token are set: choose one"));
            }
            (Some(path), false) => {
                let name = path.display();
                let text = fs::read_to_string(&path)
                    .map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))?;
                let token = Token::new(text);
                Access::Token(token.map_err(|error| Failure::usage(format!("{name}: {error}")))?)
            }
            (None, true) => Access::Everybody,
            (None, false) => Access::Loopback,
        };
        let Some(listen) = listen else {
            return match access {
                Access::Loopback => Ok(None),
                _ => Err(Failure::usage(
                    "--token-file and --no-token are for HTTP: set --http ADDRESS:PORT",
                )),
            };
        };
        if matches!(access, Access::Loopback) && !listen.ip().is_loopback() {
            let message = format!(
                "{listen} can be reached from other machines: set --token-file FILE, or --no-token to let everybody \
                 read and write"
            );
            return Err(Failure::usage(message));
        }
        let (limits, render_limits) = http_limit::limits(limits);
        Ok(Some(Self { listen, access, limits, render_limits }))
    }

    /// Opens the listener.
    pub(crate) async fn bind<S: Store>(
        self,
        store: Tee<S>,
        stats: StatsHandle,
        graphite: Option<GraphiteStatsHandle>,
        figures: Vec<Figures>,
        tls: Option<TlsAcceptor>,
    ) -> Result<HttpServer<S>, Failure> {
        let listen = self.listen;
        let server = HttpServer::bind(listen, store, self.access).await;
        let server = server
            .map_err(|error| Failure::usage(format!("cannot serve HTTP on {listen}: {error}")))?;
        let server = server.limits(self.limits).influx().graphite(self.render_limits);
        let mut server = server.protocol_stats(stats);
        if let Some(graphite) = graphite {
            server = server.figures(move || graphite_figures(&graphite.stats()));
        }
        for figures in figures {
            server = server.figures(figures);
        }
        if let Some(tls) = tls {
            server = server.tls(tls);
        }
        Ok(server)
    }
}

/// Returns the figures of a store in ClickHouse.
pub(crate) fn clickhouse_figures(stats: &ClickHouseStats) -> Vec<Figure> {
    let counter = Figure::counter;
    vec![
        counter("metrics_clickhouse_blocks_total", "Blocks that were stored.", stats.blocks),
        counter("metrics_clickhouse_rows_total", "Puts in these.", stats.rows),
        counter("metrics_clickhouse_retries_total", "Attempts that were repeated.", stats.retries),
        counter(
            "metrics_clickhouse_failed_blocks_total",
            "Blocks that clients had to send again.",
            stats.failed_blocks,
        ),
        counter("metrics_clickhouse_too_old_total", "Puts that were too old.", stats.too_old),
        Figure::gauge(
            "metrics_clickhouse_insert_seconds_total",
            "Time that inserts took, all together.",
            stats.insert_time.as_secs_f64(),
        ),
        Figure::gauge(
            "metrics_clickhouse_queued_bytes",
            "Memory of puts that wait, in bytes.",
            stats.queued_bytes as f64,
        ),
    ]
}

/// Returns the figures of a store on disk.
pub(crate) fn disk_figures(stats: &DiskStats) -> Vec<Figure> {
    vec![
        Figure::gauge("metrics_disk_keys", "Keys that are stored.", stats.keys as f64),
        Figure::gauge(
            "metrics_disk_head_points",
            "Points not in blocks yet.",
            stats.head_points as f64,
        ),
        Figure::gauge(
            "metrics_disk_head_bytes",
            "Memory of these, in bytes.",
            stats.head_bytes as f64,
        ),
        Figure::gauge("metrics_disk_block_points", "Points in blocks.", stats.block_points as f64),
        Figure::counter("metrics_disk_syncs_total", "Syncs of the log.", stats.syncs),
        Figure::counter("metrics_disk_seals_total", "Heads merged into blocks.", stats.seals),
        Figure::counter(
            "metrics_disk_failed_seals_total",
            "Merges that failed.",
            stats.failed_seals,
        ),
        Figure::counter(
            "metrics_disk_damaged_blocks_total",
            "Damaged blocks that were found.",
            stats.damaged_blocks,
        ),
        Figure::counter(
            "metrics_disk_lost_points_total",
            "Points of the log that could not be read.",
            stats.lost_points,
        ),
    ]
}

/// Returns the figures of Graphite's listener.
fn graphite_figures(stats: &GraphiteStats) -> Vec<Figure> {
    let counter = Figure::counter;
    vec![
        Figure::gauge(
            "metrics_graphite_connections",
            "Open connections.",
            stats.connections as f64,
        ),
        counter(
            "metrics_graphite_connections_accepted_total",
            "Accepted connections.",
            stats.accepted,
        ),
        counter(
            "metrics_graphite_connections_rejected_total",
            "Connections that were closed because of a limit.",
            stats.rejected_connections,
        ),
        counter(
            "metrics_graphite_datagrams_total",
            "Datagrams that were received.",
            stats.datagrams,
        ),
        counter("metrics_graphite_puts_total", "Points that were stored.", stats.puts),
        counter(
            "metrics_graphite_invalid_lines_total",
            "Lines that were skipped.",
            stats.invalid_lines,
        ),
        counter(
            "metrics_graphite_nan_values_total",
            "Values that are not a number.",
            stats.nan_values,
        ),
        counter(
            "metrics_graphite_rejected_puts_total",
            "Points the store refused.",
            stats.rejected_puts,
        ),
        counter(
            "metrics_graphite_dropped_total",
            "Points lost because the store failed.",
            stats.dropped,
        ),
        counter(
            "metrics_graphite_retries_total",
            "Retries because the store failed.",
            stats.retries,
        ),
    ]
}
