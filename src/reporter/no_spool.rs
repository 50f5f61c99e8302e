//! In place of `spool` in a build without it: types of which there are no values.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    dispatcher::Dispatcher, outbox::Outbox, self_metrics::SelfMetrics, stats::ReporterStats,
    worker::Worker,
};
use crate::metric::Sample;

#[derive(Debug)]
pub(super) enum OpenSpool {}

#[derive(Debug)]
pub(super) enum SpoolHandle {}

impl OpenSpool {
    pub(super) fn keep(self, _: &mut Outbox) -> Arc<SpoolHandle> {
        match self {}
    }
}

impl SpoolHandle {
    pub(super) async fn close_until(self: &Arc<Self>, _: &Arc<Dispatcher>, _: Instant) {
        match **self {}
    }

    pub(super) fn close_blocking(self: &Arc<Self>, _: &Arc<Dispatcher>, _: Duration) {
        match **self {}
    }

    pub(super) fn spill_all(self: &Arc<Self>, _: &Arc<Dispatcher>, _: Duration) {
        match **self {}
    }

    pub(super) fn own_samples(
        &self,
        _: &SelfMetrics,
        _: &ReporterStats,
        _: &Outbox,
    ) -> Vec<Sample> {
        match *self {}
    }
}

impl Worker {
    pub(super) async fn run_with_spool(&mut self, handle: Arc<SpoolHandle>) -> bool {
        match *handle {}
    }
}
