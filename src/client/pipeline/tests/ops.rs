//! What can happen to a pipeline.

use proptest::{
    prelude::{Just, Strategy, any, prop_oneof},
    sample::Index,
};

use super::*;
use crate::{
    metric::{Metrics, Sample},
    protocol::InvalidRecord,
};

#[derive(Clone, Debug)]
pub(super) enum PipelineOp {
    /// A put, and its own timeout in milliseconds, if it has one.
    Put(Option<u32>),
    Get(Option<u32>),
    /// A new batch, with this many requests.
    Batch(usize),
    /// More requests of a batch, which may have their own timeout.
    Extend(Index, usize, Option<u32>),
    /// A caller leaves.
    Abandon(Index),
    /// A caller looks for its outcome; one with a batch waits until at most this many are unfinished.
    Poll(Index, usize),
    Take,
    Reply(Vec<ServerReply>),
    /// The server sends the beginning of an answer.
    Amid,
    Width(usize),
    Pass(u32),
    Expire,
    Lose,
    Connect(usize),
    /// The driver has nothing to do.
    Park,
    Close,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum ServerReply {
    Ok,
    Data,
    Unreadable,
    Error,
}

impl PipelineOp {
    /// Whether it is the driver that does this, and so is awake.
    pub(super) fn is_drivers(&self) -> bool {
        use PipelineOp::{Amid, Connect, Expire, Lose, Reply, Take, Width};
        matches!(self, Take | Reply(_) | Amid | Width(_) | Expire | Lose | Connect(_))
    }
}

impl ServerReply {
    /// The answer to a request, and what it means to who asked.
    pub(super) fn to(self, request: &str) -> (ReceivedResponse, Outcome) {
        let key = request.split(' ').nth(1).unwrap_or("nobody");
        match self {
            Self::Ok => (Ok(Response::ok()), Outcome::Found(None)),
            Self::Data => {
                let sample = Sample::new(key, 0.5, 7).unwrap();
                let data = Response::Ok(Metrics::from_iter([sample]));
                (Ok(data), Outcome::Found(Some(key.to_string())))
            }
            Self::Unreadable => (Err(InvalidRecord::of(b"?").into()), Outcome::Unreadable),
            Self::Error => {
                (Ok(Response::Error(request.to_string())), Outcome::Rejected(request.to_string()))
            }
        }
    }
}

pub(super) fn event() -> impl Strategy<Value = PipelineOp> {
    let reply = prop_oneof![
        8 => Just(ServerReply::Ok),
        2 => Just(ServerReply::Data),
        1 => Just(ServerReply::Unreadable),
        4 => Just(ServerReply::Error),
    ];
    let replies = proptest::collection::vec(reply, 1..4);
    let timeout = || prop_oneof![3 => Just(None), 2 => (1_u32..300).prop_map(Some)];
    prop_oneof![
        20 => timeout().prop_map(PipelineOp::Put),
        10 => timeout().prop_map(PipelineOp::Get),
        6 => (1_usize..6).prop_map(PipelineOp::Batch),
        6 => (any::<Index>(), 1_usize..6, timeout())
            .prop_map(|(batch, len, timeout)| PipelineOp::Extend(batch, len, timeout)),
        16 => any::<Index>().prop_map(PipelineOp::Abandon),
        30 => (any::<Index>(), 0_usize..4).prop_map(|(call, at)| PipelineOp::Poll(call, at)),
        24 => Just(PipelineOp::Take),
        24 => replies.prop_map(PipelineOp::Reply),
        1 => Just(PipelineOp::Amid),
        4 => (1_usize..6).prop_map(PipelineOp::Width),
        8 => (1_u32..60).prop_map(PipelineOp::Pass),
        6 => Just(PipelineOp::Expire),
        4 => Just(PipelineOp::Lose),
        12 => (1_usize..6).prop_map(PipelineOp::Connect),
        8 => Just(PipelineOp::Park),
        1 => Just(PipelineOp::Close),
    ]
}

pub(super) fn settings() -> impl Strategy<Value = Settings> {
    let when_full = prop_oneof![Just(WhenFull::Wait), Just(WhenFull::Fail)];
    (20_usize..300, when_full, any::<bool>(), 50_u32..150).prop_map(
        |(max_buffered_bytes, when_full, resend_unacknowledged, stall)| Settings {
            request_timeout: 100 * MILLISECOND,
            stall_timeout: Some(stall * MILLISECOND),
            max_buffered_bytes,
            when_full,
            resend_unacknowledged,
        },
    )
}
