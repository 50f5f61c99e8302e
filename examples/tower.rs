//! The client behind tower's layers: retry, timeout and load shedding.
//!
//! `cargo run --example tower`
//!
//! A server in this process gets one request at a time, and the client's queue is short. First every
//! caller waits until the service is ready; then `load_shed` rejects the callers that would have to wait.

use std::{
    future::{Ready, pending, ready},
    time::Duration,
};

use metrics_client::{Metrics, MetricsClient, client::Pipelining, codec::Request};
use metrics_server::Server;
use tokio::task::JoinSet;
use tower::{
    BoxError, Service, ServiceBuilder, ServiceExt, load_shed::error::Overloaded, retry::Policy,
};

const CALLERS: i64 = 1_000;

/// The bound of the client's queue, in bytes: four of the longest requests, or a hundred of those below.
const QUEUE: usize = 4 * 1075;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = Server::bind("127.0.0.1:0").await?;
    let address = server.local_addr();
    tokio::spawn(server.serve_until(pending::<()>()));
    let client = MetricsClient::builder(address)
        .pipelining(Pipelining::Off)
        .max_buffered_bytes(QUEUE)
        .connect()
        .await?;

    let patient = ServiceBuilder::new()
        .timeout(Duration::from_secs(10))
        .retry(Attempts(3))
        .service(client.service());
    let (stored, shed) = put_from_many(patient, "patient.load").await?;
    println!("waiting until ready:  {stored} stored, {shed} shed");

    let shedding = ServiceBuilder::new()
        .load_shed()
        .timeout(Duration::from_secs(10))
        .retry(Attempts(3))
        .service(client.service());
    let (stored, shed) = put_from_many(shedding, "shedding.load").await?;
    println!("with `load_shed`:     {stored} stored, {shed} shed at once");

    for key in ["patient.load", "shedding.load"] {
        let metrics = client.service().oneshot(Request::get(key)?).await?;
        println!("the server has {} points of {key}", metrics.points(key).len());
    }
    Ok(client.close().await?)
}

/// Puts one sample from each of many concurrent callers. Returns how many were stored, and how many shed.
async fn put_from_many<S>(service: S, key: &str) -> Result<(usize, usize), BoxError>
where
    S: Service<Request, Response = Metrics, Error = BoxError, Future: Send>,
    S: Clone + Send + 'static,
{
    let mut callers = JoinSet::new();
    for second in 0..CALLERS {
        let put = Request::put(key, 0.5, second)?;
        callers.spawn(service.clone().oneshot(put));
    }
    let (mut stored, mut shed) = (0, 0);
    while let Some(caller) = callers.join_next().await {
        match caller? {
            Ok(_) => stored += 1,
            Err(error) if error.is::<Overloaded>() => shed += 1,
            Err(error) => return Err(error),
        }
    }
    Ok((stored, shed))
}

/// Retries a call up to this many times, while its error is retryable.
#[derive(Clone)]
struct Attempts(usize);

impl Policy<Request, Metrics, metrics_client::Error> for Attempts {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request,
        result: &mut Result<Metrics, metrics_client::Error>,
    ) -> Option<Ready<()>> {
        let error = result.as_ref().err()?;
        self.0 = self.0.checked_sub(1)?;
        error.is_retryable().then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request) -> Option<Request> {
        Some(request.clone())
    }
}
