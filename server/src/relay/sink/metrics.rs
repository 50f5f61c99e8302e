//! Another server of this protocol.

use metrics_client::{Error, MetricsClient, Sample, codec::KeyRef};

use super::{SendFailure, Sent, Sink, chain};
use crate::store::PutBatch;

/// Puts points with a client, which reconnects, and resends what was not acknowledged in order.
#[derive(Debug)]
pub(in crate::relay) struct MetricsSink {
    client: MetricsClient,
    samples: Vec<Sample>,
}

impl MetricsSink {
    pub(in crate::relay) fn new(client: MetricsClient) -> Self {
        Self { client, samples: Vec::new() }
    }
}

impl Sink for MetricsSink {
    async fn send(&mut self, puts: &PutBatch) -> Sent {
        self.samples.clear();
        for run in puts.runs() {
            // Every key of a batch is valid.
            let Ok(key) = KeyRef::new(run.key).map(KeyRef::to_key) else { continue };
            self.samples.extend(run.points().map(|point| Sample { key: key.clone(), point }));
        }
        let total = self.samples.len();
        match self.client.put_all(&self.samples).await {
            Ok(()) => Sent { settled: total, ..Sent::default() },
            Err(Error::Batch(batch)) => {
                let settled = batch.resume_from();
                let rejected = batch.rejected_before_resume() + batch.closed_on().len();
                let (_, first) = batch.first_error();
                let message = chain(first);
                Sent {
                    settled,
                    rejected,
                    unrepresentable: 0,
                    rejection: (rejected > 0).then(|| message.clone()),
                    failure: (settled < total).then(|| SendFailure::new(message)),
                }
            }
            Err(error) => {
                Sent { failure: Some(SendFailure::new(chain(&error))), ..Sent::default() }
            }
        }
    }
}
