//! Graphite: a listener for its plaintext protocol, and its render API over any [`Store`](crate::Store).
//!
//! The functions here answer the requests of Graphite's HTTP API, whose semantics are those of graphite-web 1.1;
//! the HTTP itself is elsewhere. [`RenderRequest::from_params`] reads the parameters of `/render`, [`render`]
//! computes the series, and [`RenderRequest::write`] writes them as JSON, CSV or raw data.
//!
//! ```
//! use metrics_client::{Key, Point};
//! use metrics_server::graphite::{RenderLimits, RenderRequest, render};
//! use metrics_server::store::{MemoryStore, PutBatch, Store};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!
//! let store = MemoryStore::new();
//! let mut puts = PutBatch::new();
//! for (host, value) in [("palm", 23.7), ("elm", 1.3)] {
//!     for second in [1150864250, 1150864260] {
//!         puts.push(&Key::new(format!("{host}.cpu"))?, Point::new(value, second));
//!     }
//! }
//! store.apply(&puts).await?;
//!
//! let params = [("target", "alias(sumSeries(*.cpu), 'all')"), ("from", "-20s")];
//! let request = RenderRequest::from_params(params, 1150864265)?;
//! let series = render(&store, &request, &RenderLimits::default()).await?;
//! assert_eq!((series[0].name.as_str(), series[0].step), ("all", 10));
//! let json = String::from_utf8(request.write(series))?;
//! assert!(json.ends_with(r#""datapoints": [[25.0, 1150864250], [25.0, 1150864260]]}]"#));
//! # Ok(()) }
//! ```

mod error;
mod eval;
mod fetch;
mod find;
mod functions;
mod limits;
mod listener;
mod path;
mod python;
mod render;
mod series;
mod step;
mod tags;
mod target;
mod time;
mod write;

pub use error::RenderError;
pub use find::{
    Completion, Completions, ExpandedPaths, Expansion, PathNode, TreeNode, expand,
    find_completions, find_nodes, find_tree, index,
};
pub use functions::{FunctionInfo, ParamInfo, functions};
pub use jiff::tz::TimeZone;
pub use limits::RenderLimits;
#[doc(hidden)]
pub use listener::fuzz_line;
pub use listener::{GraphiteLimits, GraphiteListener, GraphiteStats, GraphiteStatsHandle};
pub use path::InvalidPattern;
pub use render::{RenderFormat, RenderRequest, render};
pub use series::{Series, Tags};
pub use tags::{
    DEFAULT_AUTOCOMPLETE_LIMIT, TagInfo, autocomplete_tags, autocomplete_values, list_tags,
};
pub use target::InvalidTarget;
#[doc(hidden)]
pub use target::fuzz as fuzz_target;
pub use time::{InvalidTime, parse_time, time_zone};
