//! Room in the queue that is reserved before the request is known.

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
    pipeline::{Reply, RequestKind, ReservationId},
    shared::{PendingResponse, Shared, poll_budget, wake_all},
};
use crate::{
    error::Error,
    metric::{Metrics, Sample},
    protocol::{PutSuffix, Request, encode_get},
};

/// A reservation in the queue of each connection, or the way there. Dropped, it releases them.
///
/// Reservations are acquired in the order of the connections, which rules out a deadlock between two services.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    reservations: Vec<Reservation>,
    /// Whether there is one in each queue.
    is_ready: bool,
}

/// A reservation in the queue of one connection.
#[derive(Debug)]
struct Reservation {
    shared: Arc<Shared>,
    /// `None` before it was requested, and once it has been used.
    id: Option<ReservationId>,
}

/// The future of a request, which is sent when this is first polled.
pub(crate) struct CallFuture {
    request: Option<(Request, Reservation)>,
    response: PendingResponse<Arc<Shared>>,
    /// Keeps the client open; dropped last.
    client: MetricsClient,
}

impl Reservations {
    /// Ready when there is a reservation in each queue.
    pub(crate) fn poll(
        &mut self,
        client: &MetricsClient,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        self.is_ready = false;
        for (index, shared) in client.pool().connections().iter().enumerate() {
            if index == self.reservations.len() {
                self.reservations.push(Reservation { shared: Arc::clone(shared), id: None });
            }
            match self.reservations[index].poll(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    ready!(poll_budget(cx));
                    *self = Self::default();
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    // If it was taken back, later ones must not be held while this one waits.
                    self.reservations.truncate(index + 1);
                    return Poll::Pending;
                }
            }
        }
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    /// Returns the future of a request, which gets the reservation of its connection; the others are released.
    /// Without reservations it waits in line as any other.
    pub(crate) fn call(&mut self, client: &MetricsClient, request: Request) -> CallFuture {
        let pool = &client.pool();
        let (kind, shared) = match &request {
            Request::Put(Sample { key, .. }) => {
                (RequestKind::Put, pool.connection_for(key.as_str()))
            }
            Request::Get(selector) => (RequestKind::Get, pool.connection_for_get(selector)),
        };
        let mut reservation = Reservation { shared: Arc::clone(shared), id: None };
        if std::mem::take(&mut self.is_ready) {
            for mut reserved in self.reservations.drain(..) {
                if Arc::ptr_eq(&reserved.shared, shared) {
                    reservation.id = reserved.id.take();
                }
            }
        }
        let response = PendingResponse::new(Arc::clone(shared), kind);
        CallFuture { request: Some((request, reservation)), response, client: client.clone() }
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
    /// Submits the request. Returns true if it was accepted.
    fn submit(
        &mut self,
        request: &Request,
        reservation: Reservation,
        cx: &Context<'_>,
    ) -> Result<bool, Error> {
        Ok(match request {
            Request::Put(Sample { key, point }) => {
                let suffix = PutSuffix::new(key.as_str(), *point)?;
                self.submit_reserved(reservation, RequestKind::Put, cx, |bytes| {
                    suffix.append_put(bytes, key.as_str());
                })
            }
            Request::Get(selector) => {
                self.submit_reserved(reservation, RequestKind::Get, cx, |bytes| {
                    encode_get(bytes, selector);
                })
            }
        })
    }

    fn submit_reserved(
        &mut self,
        mut reservation: Reservation,
        kind: RequestKind,
        cx: &Context<'_>,
        encode: impl FnOnce(&mut BytesMut),
    ) -> bool {
        let Reservation { shared, id } = &mut reservation;
        let (caller, mut wakers) = ((cx.waker().clone(), Instant::now()), Vec::new());
        let request = (kind, self.client.timeout());
        let submitted = shared.pipeline().submit_reserved(id, request, caller, encode, &mut wakers);
        wake_all(&mut wakers);
        self.response.submitted(submitted)
    }
}

impl Future for CallFuture {
    type Output = Result<Metrics, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some((request, reservation)) = self.request.take() {
            match self.submit(&request, reservation, cx) {
                Ok(true) => return Poll::Pending,
                Ok(false) => {}
                Err(error) => self.response.fail(error),
            }
        }
        self.response.poll(cx).map_ok(|answer| match answer {
            Reply::Found(metrics) => metrics,
            Reply::Stored => Metrics::new(),
        })
    }
}
