//! `metrics serve`: the server.

use std::{
    fmt::Display,
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{ArgMatches, parser::ValueSource};
use metrics_server::{
    Limits, Server, Store,
    graphite::GraphiteListener,
    store::{
        ClickHouseOptions, ClickHouseStore, DiskStore, DiskStoreBuilder, Fsync, MemoryStore, Tee,
    },
    tls::TlsAcceptor,
};
use tokio::sync::watch;

use crate::{
    config::ConfigFile,
    failure::{Failure, chain},
    http::{self, Figures, HttpConfig},
    http_limit::HttpLimit,
    memory::MemoryBudget,
    relay::RelaysConfig,
    schema, service, signals,
    size::Size,
    times,
};

/// Serves metrics until SIGTERM or SIGINT; a second signal ends it at once
///
/// What the command line leaves open is taken from METRICS_* variables, then from the file, then from the
/// defaults. Logs go to standard error, as `RUST_LOG` says: `RUST_LOG=info,metrics_server=debug`.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// Sets where the server listens [default: 127.0.0.1:8888]
    #[arg(long, env = "METRICS_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Keeps points in this folder: the same as --store disk:DIR
    #[arg(long, env = "METRICS_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Sets where points are kept: memory:, disk:DIR, or clickhouse://USER:PASSWORD@HOST:PORT,../DATABASE [default: memory:]
    #[arg(long, env = "METRICS_STORE", value_name = "STORE", hide_env_values = true)]
    store: Option<String>,
    /// Sets how long points are kept on disk or in ClickHouse, such as 400d [default: for ever]
    #[arg(long, env = "METRICS_KEEP", value_name = "TIME")]
    keep: Option<String>,
    /// Sets when the disk is synced: always, before a put is acknowledged; or a time such as 1s, of which a loss of power
    /// may then take what was acknowledged [default: always]
    #[arg(long, env = "METRICS_SYNC", value_name = "WHEN")]
    sync: Option<String>,
    /// Sets how much the folder may take, such as 50GiB; above it puts wait, as on a full disk [default: the disk]
    #[arg(long, env = "METRICS_MAX_DISK", value_name = "SIZE")]
    max_disk: Option<Size>,
    /// Serves TLS with this certificate chain (PEM)
    #[arg(long, env = "METRICS_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The key of the certificate (PEM)
    #[arg(long, env = "METRICS_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Accepts only clients with a certificate of this authority (PEM)
    #[arg(long, env = "METRICS_TLS_CLIENT_CA", value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// Accepts Graphite's plaintext protocol too, over TCP and UDP; it has neither TLS nor a token
    #[arg(long, env = "METRICS_GRAPHITE", value_name = "ADDRESS:PORT")]
    graphite: Option<SocketAddr>,
    /// Serves HTTP too: the page, the API, Graphite's render API, and what InfluxDB's clients write
    #[arg(long, env = "METRICS_HTTP", value_name = "ADDRESS:PORT")]
    http: Option<SocketAddr>,
    /// Requires the token in this file for HTTP; needed unless HTTP is on a loopback address
    #[arg(long, env = "METRICS_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Lets everybody who can reach it use HTTP
    #[arg(long, env = "METRICS_NO_TOKEN")]
    no_token: bool,
    /// Sets a limit of HTTP, by the name in an error (NAME=N); may be repeated, times are in seconds
    #[arg(long, env = "METRICS_HTTP_LIMIT", value_name = "NAME=N", value_delimiter = ',')]
    http_limit: Vec<HttpLimit>,
    /// Bounds the memory, such as 1GiB: half of it for points and snapshots, an eighth for answers that are not read, an
    /// eighth for connections of 64 KiB each, the rest for what is not counted. Lowers limits, never raises one, except
    /// that of a store in memory [default: 1GiB of points in memory, about 1.3GiB in all with points on disk]
    #[arg(long, env = "METRICS_MAX_MEMORY", value_name = "SIZE")]
    max_memory: Option<Size>,
    /// Sets how many connections there may be [default: 10,000, and what --max-memory and the process's limit of open
    /// files allow]
    #[arg(long, env = "METRICS_MAX_CONNECTIONS", value_name = "N")]
    max_connections: Option<usize>,
    /// Sends what is stored on to this destination too, several times for several. With any, the relays of the file do
    /// not count; rules, names and bounds can be set there only
    #[arg(long, env = "METRICS_RELAY", value_name = "URL", value_delimiter = ' ')]
    relay: Option<Vec<String>>,
    /// Keeps what relays cannot send in this folder [default: the folder relays in that of --data]
    #[arg(long, env = "METRICS_RELAY_SPOOL", value_name = "DIR")]
    relay_spool: Option<PathBuf>,
    /// Reads what is not set otherwise from this file (TOML, the names of these options)
    #[arg(long, env = "METRICS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Checks the configuration, and does not serve
    #[arg(long)]
    check_config: bool,
}

/// What is served, and how.
struct Config {
    listen: SocketAddr,
    limits: Limits,
    tls: Option<TlsAcceptor>,
    graphite: Option<SocketAddr>,
    http: Option<HttpConfig>,
    store: StoreConfig,
    relays: RelaysConfig,
}

/// Where points are kept.
enum StoreConfig {
    Memory(MemoryStore),
    Disk { dir: PathBuf, store: DiskStoreBuilder },
    ClickHouse(ClickHouseOptions),
}

/// Runs the server. `matches` says what is from the command line and what from the environment.
pub(crate) fn run(args: ServeArgs, matches: &ArgMatches) -> Result<(), Failure> {
    let is_check = args.check_config;
    let config = Config::new(args, matches)?;
    if is_check {
        return Ok(());
    }
    service::start_log();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(config))
}

impl Config {
    fn new(args: ServeArgs, matches: &ArgMatches) -> Result<Self, Failure> {
        let file = args.config.as_deref().map(ConfigFile::read).transpose()?.unwrap_or_default();
        // Both say where points are kept, so that the one of a lower level does not count.
        let is_flag = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
        let (data, store) = match (args.data, args.store) {
            (None, None) => (file.data, file.store),
            (data, Some(_)) if is_flag("data") && !is_flag("store") => (data, None),
            (Some(_), store) if is_flag("store") && !is_flag("data") => (None, store),
            said => said,
        };
        let memory = args.max_memory.or(file.max_memory).map(MemoryBudget::new).transpose();
        let memory = memory.map_err(|error| Failure::usage(error).context("--max-memory"))?;
        let store = StoreConfig::new(
            (data, store),
            args.keep.or(file.keep),
            args.sync.or(file.sync),
            args.max_disk.or(file.max_disk),
            memory,
        )?;
        let mut limits = Limits::default();
        if let Some(memory) = memory {
            limits = memory.limits(limits);
        }
        if let Some(connections) = args.max_connections.or(file.max_connections) {
            limits = limits.max_connections(connections);
        }
        let tls = tls(
            args.tls_cert.or(file.tls_cert),
            args.tls_key.or(file.tls_key),
            args.tls_client_ca.or(file.tls_client_ca),
        )?;
        let listen =
            args.listen.or(file.listen).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8888)));
        let http = HttpConfig::new(
            args.http.or(file.http),
            args.token_file.or(file.token_file),
            args.no_token || file.no_token.unwrap_or(false),
            &http_limits(args.http_limit, file.http_limit)?,
        )?;
        let graphite = args.graphite.or(file.graphite);
        let relays = RelaysConfig::new(
            args.relay,
            file.relay,
            args.relay_spool.or(file.relay_spool),
            store.dir(),
            memory.map(MemoryBudget::relay_bytes),
        )?;
        Ok(Self { listen, limits, tls, graphite, http, store, relays })
    }
}

impl StoreConfig {
    fn new(
        (data, store): (Option<PathBuf>, Option<String>),
        keep: Option<String>,
        sync: Option<String>,
        max_disk: Option<Size>,
        memory: Option<MemoryBudget>,
    ) -> Result<Self, Failure> {
        let dir = match (data, store.as_deref()) {
            (Some(_), Some(_)) => {
                return Err(Failure::usage("both a data folder and a store are set: choose one"));
            }
            (Some(dir), None) => dir,
            (None, None | Some("memory:")) => {
                if keep.is_some() || sync.is_some() || max_disk.is_some() {
                    let message =
                        "--keep, --sync and --max-disk are for points on disk: set --data DIR";
                    return Err(Failure::usage(message));
                }
                let store = MemoryStore::new();
                return Ok(Self::Memory(match memory {
                    Some(memory) => memory.memory(store),
                    None => store,
                }));
            }
            (None, Some(url)) if url.starts_with("clickhouse:") => {
                if sync.is_some() || max_disk.is_some() {
                    let message = "--sync and --max-disk are for points on disk: set --data DIR";
                    return Err(Failure::usage(message));
                }
                let keep = keep.map(|keep| times::length("--keep", &keep)).transpose()?;
                let options = schema::clickhouse_options(url, keep)?;
                return Ok(Self::ClickHouse(match memory {
                    Some(memory) => memory.clickhouse(options),
                    None => options,
                }));
            }
            (None, Some(store)) => {
                match store.strip_prefix("disk:").filter(|dir| !dir.is_empty()) {
                    Some(dir) => dir.into(),
                    None => {
                        let message = format!(
                            "invalid store {store:?}: use memory:, disk:DIR or clickhouse://HOST:PORT/DATABASE"
                        );
                        return Err(Failure::usage(message));
                    }
                }
            }
        };
        let mut store = DiskStore::builder();
        if let Some(memory) = memory {
            store = memory.disk(store);
        }
        if let Some(keep) = keep {
            store = store.keep(times::length("--keep", &keep)?);
        }
        if let Some(Size(bytes)) = max_disk {
            store = store.max_disk_bytes(bytes);
        }
        match sync.as_deref() {
            None | Some("always") => {}
            Some(every) => store = store.fsync(Fsync::Every(times::length("--sync", every)?)),
        }
        Ok(Self::Disk { dir, store })
    }

    /// Returns the folder of points on disk.
    fn dir(&self) -> Option<&Path> {
        match self {
            Self::Memory(_) | Self::ClickHouse(_) => None,
            Self::Disk { dir, .. } => Some(dir),
        }
    }
}

/// Returns the limits of the file, then those that come before it.
fn http_limits(args: Vec<HttpLimit>, file: Option<Vec<String>>) -> Result<Vec<HttpLimit>, Failure> {
    let file = file.unwrap_or_default();
    let mut limits = file
        .iter()
        .map(|limit| limit.parse())
        .collect::<Result<Vec<HttpLimit>, _>>()
        .map_err(|error| Failure::usage(error).context("http-limit"))?;
    limits.extend(args);
    Ok(limits)
}

fn tls(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
) -> Result<Option<TlsAcceptor>, Failure> {
    let read = |path: &Path| {
        fs::read(path)
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))
    };
    let (cert, key) = match (cert, key, &client_ca) {
        (Some(cert), Some(key), _) => (cert, key),
        (None, None, None) => return Ok(None),
        _ => {
            return Err(Failure::usage(
                "TLS takes a certificate and its key: set both --tls-cert and --tls-key",
            ));
        }
    };
    let (chain_pem, key_pem) = (read(&cert)?, read(&key)?);
    let acceptor = match &client_ca {
        Some(roots) => TlsAcceptor::with_client_roots(chain_pem, key_pem, read(roots)?),
        None => TlsAcceptor::new(chain_pem, key_pem),
    };
    let invalid = |error| {
        Failure::usage(format!(
            "cannot use {} with {}: {}",
            cert.display(),
            key.display(),
            chain(&error)
        ))
    };
    acceptor.map(Some).map_err(invalid)
}

async fn serve(config: Config) -> Result<(), Failure> {
    // Caught from here on: opening a store can take a moment.
    let stop = signals::stop()?;
    let Config { listen, limits, tls, graphite, http, store, relays } = config;
    let listener = bind(listen).await?.limits(limits);
    match store {
        StoreConfig::Memory(store) => {
            let from = "memory: what is stored is lost when the server stops";
            let listeners =
                Listeners { listener, tls, graphite, http, figures: Vec::new(), relays };
            listeners.serve(Arc::new(store), from, stop).await
        }
        StoreConfig::Disk { dir, store } => {
            let store = store.open(&dir).await.map_err(|error| {
                Failure::usage(format!("cannot open {}: {}", dir.display(), chain(&error)))
            })?;
            let store = Arc::new(store);
            let disk = Arc::clone(&store);
            let figures: Figures = Box::new(move || http::disk_figures(&disk.stats()));
            let listeners =
                Listeners { listener, tls, graphite, http, figures: vec![figures], relays };
            let served = listeners.serve(Arc::clone(&store), dir.display(), stop).await;
            store.close().await;
            served
        }
        StoreConfig::ClickHouse(options) => {
            let from = options.to_string();
            let store = ClickHouseStore::open(options)
                .await
                .map_err(|error| Failure::usage(format!("cannot use {from}: {}", chain(&error))))?;
            let store = Arc::new(store);
            let clickhouse = Arc::clone(&store);
            let figures: Figures = Box::new(move || http::clickhouse_figures(&clickhouse.stats()));
            let listeners =
                Listeners { listener, tls, graphite, http, figures: vec![figures], relays };
            listeners.serve(store, from, stop).await
        }
    }
}

async fn bind(listen: SocketAddr) -> Result<Server, Failure> {
    Server::bind(listen).await.map_err(|error| {
        Failure::usage(format!("cannot listen on {listen}: {error}; {}", remedy(&error)))
    })
}

/// What listens, and how.
struct Listeners {
    listener: Server,
    tls: Option<TlsAcceptor>,
    graphite: Option<SocketAddr>,
    http: Option<HttpConfig>,
    /// Figures of the store.
    figures: Vec<Figures>,
    relays: RelaysConfig,
}

impl Listeners {
    /// Serves until the first signal, and then until all connections have ended.
    async fn serve<S: Store>(
        self,
        store: Arc<S>,
        from: impl Display,
        stop: impl Future<Output = i32>,
    ) -> Result<(), Failure> {
        let Self { listener, tls, graphite, http, mut figures, relays } = self;
        // Before the listeners: what is in their spools is older.
        let relays = relays.open().await?;
        let (stopping, stopped) = watch::channel(false);
        let wait = async {
            stop.await;
            service::notify(&[sd_notify::NotifyState::Stopping]);
            stopping.send_replace(true);
        };
        let store = relays.observe(Tee::new(store, LIVE_BATCHES));
        figures.push(relays.figures());
        let mut server = listener.store(store.clone());
        if let Some(tls) = tls.clone() {
            server = server.tls(tls);
        }
        let (scheme, s) = if tls.is_some() { ("metrics+tls", "s") } else { ("metrics", "") };
        let mut what = vec![format!("{scheme}://{}", server.local_addr())];
        let graphite = match graphite {
            Some(listen) => Some(bind_graphite(listen).await?.store(store.clone())),
            None => None,
        };
        let http = match http {
            Some(http) => {
                let graphite = graphite.as_ref().map(GraphiteListener::stats_handle);
                Some(http.bind(store, server.stats_handle(), graphite, figures, tls).await?)
            }
            None => None,
        };
        what.extend(
            graphite.iter().map(|graphite| format!("graphite://{}", graphite.local_addr())),
        );
        what.extend(http.iter().map(|http| format!("http{s}://{}", http.local_addr())));
        announce(format_args!("{} from {from}", what.join(" and ")));
        let serve_graphite = async {
            if let Some(graphite) = graphite {
                graphite.serve_until(until_set(stopped.clone())).await;
            }
        };
        let serve_http = async {
            if let Some(http) = http {
                http.serve_until(until_set(stopped.clone())).await;
            }
        };
        let serve = server.serve_until(until_set(stopped.clone()));
        tokio::join!(wait, serve, serve_graphite, serve_http);
        relays.close().await;
        Ok(())
    }
}

async fn bind_graphite(listen: SocketAddr) -> Result<GraphiteListener, Failure> {
    GraphiteListener::bind(listen).await.map_err(|error| {
        let message =
            format!("cannot listen on {listen} for Graphite: {error}; {}", remedy(&error));
        Failure::usage(message)
    })
}

/// The number of batches that are buffered for the live view.
const LIVE_BATCHES: usize = 1024;

async fn until_set(mut value: watch::Receiver<bool>) {
    // The sender is not dropped before it is set.
    let _ = value.wait_for(|is_set| *is_set).await;
}

/// Says what is served, where, and from which folder; tells systemd that the server is ready.
fn announce(what: impl Display) {
    // The output may be closed.
    let _ = writeln!(io::stdout(), "serving {what}");
    service::notify(&[sd_notify::NotifyState::Ready]);
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "stop the process that listens there, or choose another port (0: any)"
        }
        io::ErrorKind::AddrNotAvailable => "use an address of this machine, or 0.0.0.0 for all",
        io::ErrorKind::PermissionDenied => "use a port from 1024 on",
        _ => "see `metrics serve --help`",
    }
}
