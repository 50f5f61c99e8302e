//! Graphite's render API: against answers that graphite-web gave, and against graphite-web itself.

mod clients;
mod random_targets;
mod recorded;
mod reference;

use metrics_client::{Key, Point};
use metrics_server::{
    MemoryStore, Store,
    graphite::{RenderError, RenderLimits, RenderRequest, render},
    store::PutBatch,
};
use serde_json::Value;

/// Creates a store of series.
async fn store_of<'a>(series: impl IntoIterator<Item = (&'a str, Vec<(i64, f64)>)>) -> MemoryStore {
    let store = MemoryStore::new();
    for (key, points) in series {
        let mut puts = PutBatch::new();
        let key = Key::new(key).unwrap();
        for (second, value) in points {
            puts.push(&key, Point::new(value, second));
        }
        store.apply(&puts).await.unwrap();
    }
    store
}

/// Returns the answer to a request as it is sent.
async fn answer(
    store: &MemoryStore,
    params: &[(&str, &str)],
    now: i64,
) -> Result<Vec<u8>, RenderError> {
    let request = RenderRequest::from_params(params.iter().copied(), now)?;
    let series = render(store, &request, &RenderLimits::default()).await?;
    Ok(request.write(series))
}

/// Returns how two answers in JSON differ, or `None` if they are equal: numbers to 1e-9 of their size.
fn difference(expected: &Value, got: &Value, at: &str) -> Option<String> {
    match (expected, got) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64()?, b.as_f64()?);
            ((a - b).abs() > 1e-9 * a.abs().max(1.0)).then(|| format!("{at}: {a} and {b}"))
        }
        (Value::Array(a), Value::Array(b)) => {
            let items = a.iter().zip(b).enumerate();
            let mut items =
                items.map(|(index, (a, b))| difference(a, b, &format!("{at}[{index}]")));
            items.find_map(|difference| difference).or_else(|| {
                (a.len() != b.len()).then(|| format!("{at}: {} and {} items", a.len(), b.len()))
            })
        }
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys());
            let missing = Value::String("missing".into());
            let mut items = keys.map(|key| {
                let (a, b) = (a.get(key).unwrap_or(&missing), b.get(key).unwrap_or(&missing));
                difference(a, b, &format!("{at}.{key}"))
            });
            items.find_map(|difference| difference)
        }
        (a, b) => (a != b).then(|| format!("{at}: {a} and {b}")),
    }
}
