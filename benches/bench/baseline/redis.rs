//! redis-rs, the best known pipelining client.

use std::net::SocketAddr;

use redis::{AsyncCommands, RedisResult, aio::MultiplexedConnection};

use crate::support::workload::{self, Put};

/// A multiplexed connection, as redis-rs sets it up by itself: like this crate's client, with a time
/// limit on each call. `TCP_NODELAY`, which it leaves off, made no difference here.
#[derive(Clone, Debug)]
pub(crate) struct RedisClient(MultiplexedConnection);

impl RedisClient {
    pub(crate) async fn connect(addr: SocketAddr) -> RedisResult<Self> {
        let client = redis::Client::open(format!("redis://{addr}"))?;
        client.get_multiplexed_async_connection().await.map(Self)
    }
}

impl Put for RedisClient {
    /// Sets [`workload::KEY`] to a value as long as that of a put. It is formatted beforehand, which
    /// is one thing less to do for this client.
    async fn put(&mut self, _: f64) {
        self.0
            .set::<_, _, ()>(workload::KEY, "23.71 1150864247")
            .await
            .expect("the peer acknowledges");
    }
}
