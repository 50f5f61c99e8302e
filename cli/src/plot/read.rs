//! Reading what is drawn.

use metrics_client::Key;

use crate::{
    bulk::{self, RangeArgs},
    chart::BinnedSeries,
    connect::ServerArgs,
    failure::Failure,
    selection::Selection,
};

/// How many keys one chart may have: more cannot be told apart, and each takes up to a megabyte.
const MAX_KEYS: usize = 24;

/// Reads the points of a selection in bounded memory: of keys in the order in which they were named, also of those without
/// points, or of all keys that match, by name.
///
/// # Errors
///
/// Returns an error if the server fails, or if there are too many keys.
pub(super) async fn read(
    server: &ServerArgs,
    selection: &Selection,
    range: RangeArgs,
) -> Result<Vec<(Key, BinnedSeries)>, Failure> {
    let client = server.connect().await?;
    let keys = selection.keys().unwrap_or_default();
    if keys.len() > MAX_KEYS {
        return Err(too_many(format!("{} keys", keys.len())));
    }
    let mut found = keys.iter().map(|key| (key.clone(), BinnedSeries::new())).collect::<Vec<_>>();
    bulk::read(&client, server, (selection, range), |sample| {
        // There are few.
        let series = match found.iter_mut().rposition(|(key, _)| *key == sample.key) {
            Some(place) => &mut found[place].1,
            None if found.len() == MAX_KEYS => {
                return Err(too_many(format!("more than {MAX_KEYS} keys")));
            }
            None => {
                found.push((sample.key, BinnedSeries::new()));
                &mut found.last_mut().expect("it was pushed").1
            }
        };
        series.push(sample.point);
        Ok(())
    })
    .await?;
    if selection.keys().is_none() {
        found.sort_unstable_by(|(key, _), (other, _)| key.cmp(other));
    }
    Ok(found)
}

fn too_many(found: String) -> Failure {
    Failure::usage(format!("{found} are too many for a chart: name at most {MAX_KEYS}"))
}
