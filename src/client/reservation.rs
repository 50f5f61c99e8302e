//! Queue capacity that is reserved before the request is known, for the `tower` service.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::time::Instant;

use super::{
    MetricsClient,
    pipeline::{Kind, Reply, ReservationId},
    shared::{PendingResponse, Shared, poll_budget, wake_all},
};
use crate::{
    error::Error,
    metric::{Metrics, Sample},
    protocol::{PutSuffix, Request, encode_get},
};

/// A place in the queue of each connection, or on the way to that. What is dropped is given back.
///
/// One is had after the other, always in the same order, so that no two of these wait for what the
/// other one has.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    places: Vec<Reservation>,
    /// Whether there is one in each queue.
    complete: bool,
}

/// A place in the queue of one connection.
#[derive(Debug)]
struct Reservation {
    shared: Arc<Shared>,
    /// `None` before it was asked for, and once it has been used.
    id: Option<ReservationId>,
}

/// A request that was called for, and the wait for its answer. It is sent when it is first polled.
pub(crate) struct CallFuture {
    request: Option<(Request, Reservation)>,
    response: PendingResponse<Arc<Shared>>,
    /// Keeps the client open; dropped last.
    _client: MetricsClient,
}

impl Reservations {
    /// Ready when there is a place in each queue.
    pub(crate) fn poll(
        &mut self,
        client: &MetricsClient,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        self.complete = false;
        for (number, shared) in client.pool().connections().iter().enumerate() {
            if number == self.places.len() {
                self.places.push(Reservation { shared: Arc::clone(shared), id: None });
            }
            match self.places[number].poll(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    ready!(poll_budget(cx));
                    *self = Self::default();
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    // If it was taken back, those behind it must not be held while this one waits.
                    self.places.truncate(number + 1);
                    return Poll::Pending;
                }
            }
        }
        self.complete = true;
        Poll::Ready(Ok(()))
    }

    /// Calls for a request, which takes its place; the other ones are given back. Without places it
    /// gets in line as any other does.
    pub(crate) fn call(&mut self, client: &MetricsClient, request: Request) -> CallFuture {
        let pool = &client.pool();
        let (kind, shared) = match &request {
            Request::Put(Sample { key, .. }) => (Kind::Put, pool.connection_for(key.as_str())),
            Request::Get(selector) => (Kind::Get, pool.connection_for_get(selector)),
        };
        let mut reservation = Reservation { shared: Arc::clone(shared), id: None };
        if std::mem::take(&mut self.complete) {
            for mut reserved_bytes in self.places.drain(..) {
                if Arc::ptr_eq(&reserved_bytes.shared, shared) {
                    reservation.id = reserved_bytes.id.take();
                }
            }
        }
        let response = PendingResponse::new(Arc::clone(shared), kind);
        CallFuture { request: Some((request, reservation)), response, _client: client.clone() }
    }
}

impl Reservation {
    fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        let (caller, mut wakers) = ((cx.waker(), Instant::now()), Vec::new());
        let (granted, _unneeded) =
            self.shared.pipeline().poll_reserve(&mut self.id, caller, &mut wakers);
        wake_all(&mut wakers);
        granted
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            let mut wakers = Vec::new();
            let _unneeded = self.shared.pipeline().release(id, Instant::now(), &mut wakers);
            wake_all(&mut wakers);
        }
    }
}

impl CallFuture {
    fn submit(
        &mut self,
        request: &Request,
        reservation: Reservation,
        cx: &Context<'_>,
    ) -> Result<(), Error> {
        match request {
            Request::Put(Sample { key, point }) => {
                let suffix = PutSuffix::new(key.as_str(), *point)?;
                self.submit_reserved(reservation, Kind::Put, cx, |bytes| {
                    suffix.append_put(bytes, key.as_str());
                });
            }
            Request::Get(selector) => {
                self.submit_reserved(reservation, Kind::Get, cx, |bytes| {
                    encode_get(bytes, selector)
                });
            }
        }
        Ok(())
    }

    fn submit_reserved(
        &mut self,
        mut reservation: Reservation,
        kind: Kind,
        cx: &Context<'_>,
        encode: impl FnOnce(&mut BytesMut),
    ) {
        let Reservation { shared, id } = &mut reservation;
        let (caller, mut wakers) = ((cx.waker().clone(), Instant::now()), Vec::new());
        let submitted = shared.pipeline().submit_reserved(id, kind, caller, encode, &mut wakers);
        wake_all(&mut wakers);
        self.response.submitted(submitted);
    }
}

impl Future for CallFuture {
    type Output = Result<Metrics, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some((request, reservation)) = self.request.take() {
            if let Err(error) = self.submit(&request, reservation, cx) {
                self.response.fail(error);
            }
            if self.response.is_waiting() {
                return Poll::Pending;
            }
        }
        self.response.poll(cx).map_ok(|answer| match answer {
            Reply::Found(metrics) => metrics,
            Reply::Stored => Metrics::new(),
        })
    }
}
