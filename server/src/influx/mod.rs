//! What InfluxDB's clients and agents send: the line protocol and its HTTP endpoints.

mod line;
mod write;

#[doc(hidden)]
pub use line::{fuzz as fuzz_line, read_lines};

use std::sync::Arc;

use crate::{http::HttpServer, store::Store};

impl<S: Store> HttpServer<S> {
    /// Accepts what InfluxDB's clients and agents write: `/write` as InfluxDB 1.x does, `/api/v2/write` as 2.x
    /// does, and `/ping`, `/health` and the statements of `/query` with which they begin.
    ///
    /// `cpu,host=palm usage=1,value=2` becomes the keys `cpu.usage;host=palm` and `cpu;host=palm`. Strings are
    /// skipped, and timestamps rounded down to seconds.
    #[must_use]
    pub fn influx(self) -> Self {
        let counters = Arc::new(write::WriteCounters::default());
        let router = write::router(Arc::clone(&counters));
        self.mount(router).figures(move || counters.figures())
    }
}
