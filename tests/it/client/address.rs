//! Addresses that are invalid are rejected when the client is built.

use std::{io, time::Duration};

use metrics_client::{
    Delivery, Error, MetricsClient,
    client::{Address, Connector, TcpConnector, connector_fn},
    error::InvalidAddress,
};
use tokio::{io::DuplexStream, net::TcpStream, time::Instant};

const INVALID: [&str; 7] = [
    "127.0.0.1",
    "tcp://127.0.0.1:8888",
    "127.0.0.1:99999",
    "127.0.0.1:8888 ",
    " 127.0.0.1:8888",
    "::1",
    ":8888",
];

// FAULTS C9
#[tokio::test(start_paused = true)]
async fn invalid_address_is_rejected_at_once() {
    let start = Instant::now();
    for address in INVALID {
        let lazy = MetricsClient::builder(address).connect_lazy();
        for refused in [lazy, MetricsClient::connect(address).await] {
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::InvalidAddress(_)), "{error:?}");
            assert_eq!((error.is_retryable(), error.delivery()), (false, Delivery::NotSent));
            let text = error.to_string();
            assert!(text.starts_with(&format!("invalid address {address:?}: ")), "{text}");
            assert!(text.contains("an address is host:port"), "{text}");
        }
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

// FAULTS C9
#[tokio::test(start_paused = true)]
async fn invalid_url_fails_at_once_also_with_another_connector() {
    for (address, reason) in [
        ("metrics://a", "the port is missing"),
        ("metrics://a:1?request_timeout=2", "a number with ms, s, m, h or d"),
        ("metrics://a:1?keepalive=2s", "this client has another"),
        ("metrics+tls://a:1", "the connector of this client does not encrypt"),
        ("metrics+tls://a:1?server_name=b", "this client has another"),
    ] {
        let builder = MetricsClient::builder(address).connector(TcpConnector::new());
        let error = builder.connect_lazy().unwrap_err();
        assert!(matches!(error, Error::InvalidAddress(_)), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn url_option_configures_the_client_unless_a_setter_does() {
    let hanging = || connector_fn(|_| std::future::pending::<io::Result<DuplexStream>>());
    let client = async |set: Option<Duration>| {
        let mut builder =
            MetricsClient::builder("metrics://a:1?request_timeout=2s").connector(hanging());
        if let Some(timeout) = set {
            builder = builder.request_timeout(timeout);
        }
        builder.connect_lazy().unwrap().put("k", 1.0).await
    };
    for (set, timeout) in [(None, 2), (Some(Duration::from_secs(7)), 7)] {
        let start = Instant::now();
        let error = client(set).await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
        assert_eq!(start.elapsed(), Duration::from_secs(timeout));
    }
}

/// Passes addresses on, and does not ask whether they are good.
struct Wrapped(TcpConnector);

impl Connector for Wrapped {
    type Io = TcpStream;

    async fn connect(&self, address: &Address) -> io::Result<TcpStream> {
        self.0.connect(address).await
    }
}

// FAULTS C9
#[tokio::test(start_paused = true)]
async fn wrapping_connector_need_not_check_addresses() {
    for address in INVALID {
        let builder = MetricsClient::builder(address).connector(Wrapped(TcpConnector::new()));
        let error = builder.connect().await.unwrap_err();
        assert!(matches!(error, Error::InvalidAddress(_)), "{error:?}");
    }
}

/// Takes nothing but `pipe:` with a number.
struct Pipes;

impl Connector for Pipes {
    type Io = tokio::io::DuplexStream;

    async fn connect(&self, _: &Address) -> io::Result<Self::Io> {
        Ok(tokio::io::duplex(64).0)
    }

    fn check_address(&self, address: &Address) -> Result<(), InvalidAddress> {
        match address.as_str().strip_prefix("pipe:").map(str::parse::<u32>) {
            Some(Ok(_)) => Ok(()),
            _ => Err(InvalidAddress::new(
                address.as_str(),
                "it is no pipe",
                "pipe:number, such as pipe:7",
            )),
        }
    }
}

// FAULTS C9
#[tokio::test(start_paused = true)]
async fn connector_names_the_addresses_it_accepts() {
    MetricsClient::builder("pipe:7").connector(Pipes).connect_lazy().unwrap();
    let error = MetricsClient::builder("pope:7").connector(Pipes).connect_lazy().unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid address \"pope:7\": it is no pipe; an address is pipe:number, such as pipe:7"
    );
}
