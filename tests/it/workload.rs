//! Random calls of a client, for all suites that make some: `chaos`, `simulation` and the soak.
//!
//! Each suite checks in a [`Checker`] how its calls end. The callers of `fuzz/client` are not random: a
//! script says when a call begins and when it is dropped.

use fastrand::Rng;
use metrics_client::{Error, Metrics, MetricsClient, Sample};
use tokio::{join, select};

/// What a caller does next.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Put,
    /// Two puts at once, of which the first is polled first.
    TwoPuts,
    /// Two puts at once; the one that ends last is dropped.
    PutRace,
    /// `put_all` of this number of samples.
    PutAll(usize),
    /// A get of the key, or of everything.
    Get(Option<String>),
}

impl Call {
    /// Returns a random call, with at most `max_batch` samples and one of `keys`.
    pub(crate) fn random(
        rng: &mut Rng,
        max_batch: usize,
        keys: impl IntoIterator<Item = String>,
    ) -> Self {
        match rng.u8(..14) {
            0..4 => Self::Put,
            4 => Self::TwoPuts,
            5 => Self::PutRace,
            6..8 => Self::PutAll(rng.usize(..=max_batch)),
            8..12 => Self::Get(rng.choice(keys.into_iter().collect::<Vec<_>>())),
            _ => Self::Get(None),
        }
    }
}

/// Makes the samples of a caller, and checks how its calls end.
pub(crate) trait Checker: Send {
    /// Identifies a put.
    type Put: Copy + Send;
    /// What a get needs to know of its beginning.
    type Get: Send;

    /// Returns the next put, and its sample.
    fn begin_put(&mut self) -> (Self::Put, Sample);

    /// Checks how a put ended. It is `None` if the future was dropped, here and below.
    fn end_put(&mut self, put: Self::Put, result: Option<Result<(), Error>>);

    fn end_put_all(&mut self, puts: &[Self::Put], result: Option<Result<(), Error>>);

    fn begin_get(&mut self, key: Option<&str>) -> Self::Get;

    fn end_get(&mut self, get: Self::Get, result: Option<Result<Metrics, Error>>);

    /// Awaits a call, and checks that it ends in time.
    fn in_time<T: Send>(
        &mut self,
        call: impl Future<Output = T> + Send,
    ) -> impl Future<Output = T> + Send;

    /// Awaits a call that has the time of `requests` requests, or drops it before it ends.
    fn patiently<T: Send>(
        &mut self,
        requests: u32,
        call: impl Future<Output = T> + Send,
    ) -> impl Future<Output = Option<T>> + Send;
}

/// Makes a call, and has the checker check it.
pub(crate) async fn make(call: Call, client: &MetricsClient, checker: &mut impl Checker) {
    match call {
        Call::Put => {
            let (put, sample) = checker.begin_put();
            let result = checker.patiently(1, put_sample(client, &sample)).await;
            checker.end_put(put, result);
        }
        Call::TwoPuts => {
            let ((first, a), (second, b)) = (checker.begin_put(), checker.begin_put());
            let both = async { join!(biased; put_sample(client, &a), put_sample(client, &b)) };
            let (a, b) = checker.in_time(both).await;
            checker.end_put(first, Some(a));
            checker.end_put(second, Some(b));
        }
        Call::PutRace => {
            let ((first, a), (second, b)) = (checker.begin_put(), checker.begin_put());
            let race = async {
                select! {
                    biased;
                    result = put_sample(client, &a) => [Some(result), None],
                    result = put_sample(client, &b) => [None, Some(result)],
                }
            };
            let [a, b] = checker.in_time(race).await;
            checker.end_put(first, a);
            checker.end_put(second, b);
        }
        Call::PutAll(count) => {
            let (puts, samples): (Vec<_>, Vec<_>) = (0..count).map(|_| checker.begin_put()).unzip();
            // Each block has its time, and a block is one sample where one request is in flight at a time.
            let result = checker.patiently(count as u32 + 1, client.put_all(&samples)).await;
            checker.end_put_all(&puts, result);
        }
        Call::Get(key) => {
            let get = checker.begin_get(key.as_deref());
            let call = async {
                match &key {
                    Some(key) => client.get(key).await,
                    None => client.get_all().await,
                }
            };
            let result = checker.patiently(1, call).await;
            checker.end_get(get, result);
        }
    }
}

pub(crate) async fn put_sample(client: &MetricsClient, sample: &Sample) -> Result<(), Error> {
    client.put_at(&sample.key, sample.point.value, sample.point.timestamp).await
}
