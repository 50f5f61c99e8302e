//! Finds out whether the server closes the connection because of the oldest sample in the spool.
//!
//! A client that retries finds this out by itself. This is for one that does not. The oldest sample is sent
//! alone. When the server closes the connection at it and acknowledges another sample, the witness, that is
//! a proof; after [`ENOUGH_PROOFS`] in a row the sample is accused, and is dropped if the server closes the
//! connection once more.

use crate::{client::ENOUGH_PROOFS, metric::Sample, reporter::shared::ReporterShared};

/// How far behind the suspect a witness is searched, each time twice as far: the length of a batch.
const MAX_WITNESSES: usize = 4096;

/// The oldest sample in the spool, if the server may close the connection because of it.
#[derive(Debug, Default)]
pub(super) struct SuspectSample {
    /// True if the server has closed the connection at several samples, so that the oldest is sent alone.
    is_isolating: bool,
    /// True if the server has closed the connection at it alone.
    was_alone: bool,
    /// How often in a row it did so after it had acknowledged another sample.
    proofs: u32,
    /// How often it had closed the connection at other samples when it last did so at this one.
    closed_at_others: u64,
    /// How many samples were acknowledged by then.
    acknowledged: u64,
    /// How far behind the suspect the witness is.
    witness: usize,
}

/// The samples to send next.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) samples: Vec<Sample>,
    /// True if the server has acknowledged another sample since it closed the connection at this one.
    pub(super) is_proof: bool,
    /// True if the sample is dropped if the server closes the connection again.
    pub(super) is_accused: bool,
}

impl SuspectSample {
    /// Returns how many samples are to be read from the spool, `batch` if there is no suspect.
    pub(super) fn batch(&self, batch: usize) -> usize {
        match self {
            Self { was_alone: true, witness, .. } => 2 + witness,
            Self { is_isolating: true, .. } => 1,
            Self { .. } => batch,
        }
    }

    /// Decides which of the samples that were read are sent. If there is a suspect, and the server has
    /// acknowledged no other sample since, the last of them is sent first, as the witness.
    pub(super) async fn prepare(
        &mut self,
        shared: &ReporterShared,
        mut samples: Vec<Sample>,
    ) -> Trial {
        let mut is_proof = false;
        if self.was_alone {
            let witness = samples.split_off(1).pop();
            is_proof = self.has_acknowledged_another(shared, witness).await;
        }
        let is_accused = samples.len() == 1 && is_proof && self.proofs + 1 >= ENOUGH_PROOFS;
        Trial { samples, is_proof, is_accused }
    }

    /// Returns whether the server has acknowledged another sample since it closed the connection at the
    /// suspect. The witness is sent to find out; it stays in the spool, and is sent again in its turn.
    async fn has_acknowledged_another(
        &mut self,
        shared: &ReporterShared,
        witness: Option<Sample>,
    ) -> bool {
        if shared.dispatcher.closed_at_others() != self.closed_at_others {
            self.proofs = 0;
        }
        if shared.dispatcher.outbox().stats().acknowledged > self.acknowledged {
            return true;
        }
        let Some(witness) = witness else { return false };
        let is_acknowledged = shared.client.put_all([witness]).await.is_ok();
        if !is_acknowledged {
            self.proofs = 0;
            let further = 2 * self.witness + 1;
            self.witness = if further < MAX_WITNESSES { further } else { 0 };
        }
        is_acknowledged
    }

    /// Notes that the server has closed the connection at the samples of a trial.
    pub(super) fn on_hangup(&mut self, shared: &ReporterShared, is_alone: bool, is_proof: bool) {
        self.is_isolating = true;
        if is_alone {
            self.was_alone = true;
            self.proofs += u32::from(is_proof);
            self.acknowledged = shared.dispatcher.outbox().stats().acknowledged;
            self.closed_at_others = shared.dispatcher.closed_at_others();
        }
    }
}
