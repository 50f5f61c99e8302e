//! Errors of certificates, keys and roots in PEM.

use metrics_client::{
    Error, MetricsClient,
    client::connector_fn,
    tls::{TlsConnector, TlsError},
};
use metrics_server::tls::TlsAcceptor;

use super::{Authority, Identity, said};
use crate::child_test::child_test;

#[test]
fn pem_errors_name_what_is_wrong() {
    let authority = Authority::new("root");
    let Identity { chain, key } = authority.issue(&["localhost"]);
    let other = authority.issue(&["localhost"]);

    let no_roots = TlsConnector::with_root_certificates("").unwrap_err();
    assert!(matches!(no_roots, TlsError::NoCertificate { .. }), "{no_roots:?}");
    assert!(no_roots.to_string().starts_with("there is no certificate in the roots: "));
    // A path instead of what is in the file, and a key instead of a certificate.
    TlsConnector::with_root_certificates("/etc/ssl/root.pem").unwrap_err();
    TlsConnector::with_root_certificates(&key).unwrap_err();

    let cut = TlsConnector::with_root_certificates(&chain[..chain.len() / 2]).unwrap_err();
    assert!(said(&cut).starts_with("the roots: invalid PEM text: missing section end"), "{cut}");

    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let second = TlsConnector::with_root_certificates(authority.root() + nonsense).unwrap_err();
    assert!(said(&second).starts_with("certificate 2 in the roots cannot be used: "), "{second}");

    let swapped = TlsAcceptor::new(&key, &chain).unwrap_err();
    let text = "there is no certificate in the certificate chain: ";
    assert!(swapped.to_string().starts_with(text), "{swapped}");

    let no_key = TlsAcceptor::new(&chain, "").unwrap_err();
    assert!(matches!(no_key, TlsError::NoKey { .. }), "{no_key:?}");
    let locked = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let locked = TlsAcceptor::new(&chain, locked).unwrap_err();
    assert!(locked.to_string().contains("not encrypted"), "{locked}");

    let mismatch = TlsAcceptor::new(&chain, &other.key).unwrap_err();
    assert!(matches!(mismatch, TlsError::KeyMismatch), "{mismatch:?}");
    let mismatch = authority.connector().client_certificate(&chain, &other.key).unwrap_err();
    assert!(matches!(mismatch, TlsError::KeyMismatch), "{mismatch:?}");
    let backwards = TlsAcceptor::new(authority.root() + &chain, &key).unwrap_err();
    assert!(matches!(backwards, TlsError::KeyMismatch), "{backwards:?}");

    let useless = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let useless = TlsAcceptor::new(&chain, useless).unwrap_err();
    assert!(matches!(useless, TlsError::Key(_)), "{useless:?}");

    let no_client_roots = TlsAcceptor::with_client_roots(&chain, &key, "").unwrap_err();
    assert!(matches!(no_client_roots, TlsError::NoCertificate { .. }), "{no_client_roots:?}");

    let name = authority.connector().server_name("two words").unwrap_err();
    assert_eq!(name.to_string(), "\"two words\" is neither a host name nor an IP address");
}

#[tokio::test]
async fn unix_address_needs_a_server_name() {
    let connector = Authority::new("root").connector();
    let lazy = MetricsClient::builder("unix:/run/metrics.sock")
        .connector(
            connector
                .clone()
                .with_connector(connector_fn(|_| async { Ok(tokio::io::duplex(1).0) })),
        )
        .connect_lazy();
    let dialled = MetricsClient::builder("\u{fc}ber:8889").connector(connector).connect().await;
    for error in [lazy.unwrap_err(), dialled.unwrap_err()] {
        assert!(matches!(error, Error::InvalidAddress(_)), "{error:?}");
        let text = said(&error);
        assert!(text.contains("name the server with `TlsConnector::server_name`"), "{text}");
    }
}

#[tokio::test]
async fn debug_output_has_no_secrets() {
    let authority = Authority::new("root");
    let Identity { chain, key } = authority.issue(&["localhost"]);
    let connector = authority.connector().client_certificate(&chain, &key).unwrap();
    let acceptor = TlsAcceptor::new(&chain, &key).unwrap();
    let text = format!("{connector:?} {acceptor:?}");
    assert!(text.len() < 300, "{text}");
}

/// The environment belongs to the whole process, so this is asked in another one: this test again,
/// told so by `METRICS_TEST_CHILD_PORT`.
#[tokio::test]
async fn native_roots_follow_the_environment() {
    if let Ok(port) = std::env::var("METRICS_TEST_CHILD_PORT") {
        let verdict = match TlsConnector::with_system_roots() {
            Err(error) => said(&error),
            Ok(connector) => {
                let builder = MetricsClient::builder(format!("localhost:{port}"));
                match builder.connector(connector).connect().await {
                    Ok(client) => format!("{:?}", client.put_at("a", 1.0, 1).await),
                    Err(error) => said(&error),
                }
            }
        };
        println!("verdict: {verdict}");
        return;
    }
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let server = ours.issue(&["localhost"]).serve().await;
    let folder = std::env::temp_dir();
    let ask = async |name: &str, roots: Option<String>| {
        let file = folder.join(format!("metrics-client-{}-{name}.pem", std::process::id()));
        if let Some(roots) = roots {
            std::fs::write(&file, roots).unwrap();
        }
        let test = child_test(module_path!(), "native_roots_follow_the_environment");
        let child = tokio::process::Command::from(test)
            .env("METRICS_TEST_CHILD_PORT", server.addr.port().to_string())
            .env("SSL_CERT_FILE", &file)
            .env_remove("SSL_CERT_DIR")
            .kill_on_drop(true)
            .output();
        let output = child.await.unwrap();
        let _ = std::fs::remove_file(&file);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let verdict = text.lines().find_map(|line| line.split_once("verdict: "));
        verdict.unwrap_or_else(|| panic!("{output:?}")).1.to_owned()
    };
    assert_eq!(ask("ours", Some(ours.root())).await, "Ok(())");
    let verdict = ask("others", Some(others.root())).await;
    assert!(verdict.ends_with("UnknownIssuer"), "{verdict}");
    let verdict = ask("none", None).await;
    assert!(verdict.starts_with("no root certificates can be read from this system"), "{verdict}");
    assert!(verdict.contains("metrics-client-"), "the file is named: {verdict}");
}
