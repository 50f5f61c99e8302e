//! Reading what is drawn.

use std::collections::HashMap;

use metrics_client::{Key, Selector};

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
    if let Some(keys) = selection.keys() {
        if keys.len() > MAX_KEYS {
            return Err(too_many(format!("{} keys", keys.len())));
        }
        let mut found = Vec::new();
        for key in keys {
            let mut series = BinnedSeries::new();
            let selector = Selector::Key(key.clone());
            bulk::read(&client, server, (&selector, range), |sample| {
                series.push(sample.point);
                Ok(())
            })
            .await?;
            found.push((key.clone(), series));
        }
        return Ok(found);
    }

    let mut found = HashMap::<Key, BinnedSeries>::new();
    // Records of a key come together, so that most need no look.
    let mut last: Option<(Key, bool)> = None;
    bulk::read(&client, server, (&Selector::All, range), |sample| {
        let is_selected = match &last {
            Some((key, is_selected)) if *key == sample.key => *is_selected,
            _ => {
                let is_selected = selection.matches(&sample.key);
                last = Some((sample.key.clone(), is_selected));
                is_selected
            }
        };
        if is_selected {
            found.entry(sample.key).or_insert_with(BinnedSeries::new).push(sample.point);
            if found.len() > MAX_KEYS {
                return Err(too_many(format!("more than {MAX_KEYS} keys")));
            }
        }
        Ok(())
    })
    .await?;
    let mut found = found.into_iter().collect::<Vec<_>>();
    found.sort_unstable_by(|(key, _), (other, _)| key.cmp(other));
    Ok(found)
}

fn too_many(found: String) -> Failure {
    Failure::usage(format!("{found} are too many for a chart: name at most {MAX_KEYS}"))
}
