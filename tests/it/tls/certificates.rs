//! Which certificates are trusted, and what the errors say of those that are not.

use std::{sync::Arc, time::Duration};

use metrics_client::{
    Delivery, Error, MetricsClient,
    client::Connector,
    tls::{
        TlsConnector,
        rustls::{ClientConfig, RootCertStore, crypto::ring, version},
    },
};
use metrics_server::tls::TlsAcceptor;
use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};

use super::{Authority, Identity, client, said, serve};

#[tokio::test]
async fn server_name_is_the_host_name_or_the_address() {
    let authority = Authority::new("root");
    let server = authority.issue(&["localhost", "127.0.0.1"]).serve().await;
    for host in ["localhost", "LocalHost", "127.0.0.1"] {
        let client = client(host, &server, authority.connector()).connect().await.unwrap();
        client.put_at("a", 1.0, 1).await.unwrap();
        assert_eq!(client.get("a").await.unwrap().latest("a").unwrap().value, 1.0);
        client.close().await.unwrap();
    }
}

#[tokio::test]
async fn server_name_may_differ_from_the_address() {
    let authority = Authority::new("root");
    let server = authority.issue(&["metrics.internal", "2001:db8::1"]).serve().await;
    for name in ["metrics.internal", "2001:db8::1"] {
        let connector = authority.connector().server_name(name).unwrap();
        let client = client("127.0.0.1", &server, connector).connect().await.unwrap();
        client.put_at("a", 1.0, 1).await.unwrap();
    }
}

/// Returns the error of a client that trusts `authority`, for a server that has `identity`.
async fn refusal(authority: &Authority, identity: &Identity) -> String {
    let server = identity.serve().await;
    let error = client("localhost", &server, authority.connector()).connect().await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    // Certificates get renewed.
    assert_eq!((error.delivery(), error.is_retryable()), (Delivery::NotSent, true));
    assert_eq!(server.monitor.stats().puts, 0);
    said(&error).replace(&server.addr.port().to_string(), "PORT")
}

#[tokio::test]
async fn cert_for_another_name_fails_connect() {
    let authority = Authority::new("root");
    assert_eq!(
        refusal(&authority, &authority.issue(&["elsewhere.internal"])).await,
        "cannot connect to localhost:PORT: TLS handshake failed (connect to the server by a name in \
         its certificate, or set `TlsConnector::server_name`): invalid peer certificate: \
         certificate not valid for name \"localhost\"; certificate is only valid for \
         DnsName(\"elsewhere.internal\")"
    );
}

#[tokio::test]
async fn cert_outside_its_validity_fails_connect() {
    let authority = Authority::new("root");
    let old = authority.issue_as(&["localhost"], |params| {
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    let text = refusal(&authority, &old).await;
    let expected = "cannot connect to localhost:PORT: TLS handshake failed (renew the server's \
         certificate, or set this machine's clock): invalid peer certificate: certificate expired: ";
    assert!(text.starts_with(expected), "{text}");

    let early = authority.issue_as(&["localhost"], |params| {
        params.not_before = date_time_ymd(4000, 1, 1);
    });
    let text = refusal(&authority, &early).await;
    assert!(text.contains("set this machine's clock): invalid peer certificate"), "{text}");
}

#[tokio::test]
async fn cert_of_an_unknown_root_fails_connect() {
    let stranger = Authority::new("another root").issue(&["localhost"]);
    assert_eq!(
        refusal(&Authority::new("root"), &stranger).await,
        "cannot connect to localhost:PORT: TLS handshake failed (the server's certificate leads \
         to no root that this client trusts: add the root certificate): invalid peer certificate: \
         UnknownIssuer"
    );
}

#[tokio::test]
async fn client_cert_is_not_accepted_from_a_server() {
    let authority = Authority::new("root");
    let of_client = authority.issue_as(&["localhost"], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let text = refusal(&authority, &of_client).await;
    assert!(text.contains("(the server's certificate is not valid)"), "{text}");
}

/// A server that wants to see a certificate from `clients`.
async fn strict(servers: &Authority, clients: &Authority) -> crate::running_server::Running {
    let Identity { chain, key } = servers.issue(&["localhost"]);
    serve(TlsAcceptor::with_client_roots(chain, key, clients.root()).unwrap()).await
}

#[tokio::test]
async fn client_cert_trusted_by_the_server_is_accepted() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let server = strict(&servers, &clients).await;
    let Identity { chain, key } = clients.issue(&[]);
    let connector = servers.connector().client_certificate(chain, key).unwrap();
    let client = client("localhost", &server, connector).connect().await.unwrap();
    client.put_at("a", 1.0, 1).await.unwrap();
    assert_eq!(server.monitor.stats().puts, 1);
}

#[tokio::test]
async fn tls_url_names_the_files_to_connect_with() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let server = strict(&servers, &clients).await;
    let Identity { chain, key } = clients.issue(&[]);
    let folder = tempfile::TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (ca, chain) = (file("ca.pem", &servers.root()), file("chain.pem", &chain));
    let secret = file("key.pem", &key);
    // The server is dialled by number, and its certificate has a name.
    let url = format!("metrics+tls://{}", server.addr);
    let good = format!("{url}?ca_file={ca}&client_cert={chain}&client_key={secret}");
    let client = MetricsClient::connect(format!("{good}&server_name=localhost")).await.unwrap();
    client.put_at("a", 1.0, 1).await.unwrap();
    client.close().await.unwrap();

    for (options, reason) in [
        (format!("ca_file={ca}x"), "the option ca_file cannot be used: No such file"),
        (format!("ca_file={secret}"), "the option ca_file cannot be used: "),
        (format!("ca_file={ca}&client_cert={chain}"), "client_cert needs client_key"),
        (format!("ca_file={ca}&client_cert={secret}&client_key={chain}"), "cannot be used: "),
        (format!("ca_file={ca}&server_name=two%20words"), "the option server_name cannot be used"),
    ] {
        let error = MetricsClient::builder(format!("{url}?{options}")).connect_lazy().unwrap_err();
        assert!(matches!(error, Error::InvalidAddress(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(reason) && text.contains("metrics+tls://host:port"), "{text}");
        assert!(key.lines().all(|line| !text.contains(line)), "{text}");
    }
}

/// Returns the error of the first call to a server that rejects the client.
async fn first_call(server: &crate::running_server::Running, connector: impl Connector) -> String {
    let client = client("localhost", server, connector)
        .reconnect(metrics_client::client::ReconnectPolicy::never())
        .connect()
        .await
        .expect("with TLS 1.3 the connection is made before the server has looked");
    let error = client.put_at("a", 1.0, 1).await.unwrap_err();
    assert_eq!(server.monitor.stats().puts, 0);
    said(&error)
}

#[tokio::test]
async fn tls_1_3_without_client_cert_fails_the_first_call() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let server = strict(&servers, &clients).await;
    let text = first_call(&server, servers.connector()).await;
    assert!(text.ends_with("received fatal alert: CertificateRequired"), "{text}");

    // From the wrong authority.
    let Identity { chain, key } = servers.issue(&[]);
    let connector = servers.connector().client_certificate(chain, key).unwrap();
    let text = first_call(&server, connector).await;
    assert!(text.ends_with("received fatal alert: UnknownCA"), "{text}");

    // From the right one, a while ago.
    let Identity { chain, key } =
        clients.issue_as(&[], |params| params.not_after = date_time_ymd(2020, 1, 1));
    let connector = servers.connector().client_certificate(chain, key).unwrap();
    let text = first_call(&server, connector).await;
    assert!(text.ends_with("received fatal alert: CertificateExpired"), "{text}");
}

#[tokio::test]
async fn client_cert_required_is_named_after_retries() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let server = strict(&servers, &clients).await;
    let client = client("localhost", &server, servers.connector())
        .request_timeout(Duration::from_secs(1))
        .connect_lazy()
        .unwrap();
    let text = said(&client.put_at("a", 1.0, 1).await.unwrap_err());
    assert!(text.ends_with("received fatal alert: CertificateRequired"), "{text}");
    // It backs off: eight waits or so, not hundreds.
    assert!(server.monitor.stats().accepted < 50, "{:?}", server.monitor.stats());
}

#[tokio::test]
async fn tls_1_2_without_client_cert_fails_connect() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let server = strict(&servers, &clients).await;
    let connector = TlsConnector::with_config(Arc::new(only_tls_1_2(&servers)));
    let error = client("localhost", &server, connector.clone()).connect().await.unwrap_err();
    let text = said(&error);
    assert!(text.contains("TLS handshake failed ("), "{text}");
    assert!(text.contains("received fatal alert: "), "{text}");

    let Identity { chain, key } = clients.issue(&[]);
    let connector = connector.client_certificate(chain, key).unwrap();
    let client = client("localhost", &server, connector).connect().await.unwrap();
    client.put_at("a", 1.0, 1).await.unwrap();
}

fn only_tls_1_2(authority: &Authority) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.issuer.der().clone()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}
