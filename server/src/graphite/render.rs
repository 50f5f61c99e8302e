//! `/render`: the request with its parameters, and the series that answer it.

use tokio::time::timeout;

use super::{
    RenderError, RenderLimits, TimeZone, eval::evaluate, fetch::TimeRange, functions::Scope,
    limits::Budget, parse_time, series::Series, target::Expr, time::time_zone,
};
use crate::store::Store;

/// A request for series.
#[derive(Clone, Debug)]
pub struct RenderRequest {
    /// The targets, such as `sumSeries(palm.*.cpu)`.
    pub targets: Vec<String>,
    /// The second behind which the points begin.
    pub from: i64,
    /// The second of the last points.
    pub until: i64,
    /// The current second: no later point is shown.
    pub now: i64,
    /// The time zone of summer time in `timeShift`, and of CSV.
    pub tz: TimeZone,
    /// Which part of the points must have a value, from 0 to 1, for a consolidated one.
    pub x_files_factor: f64,
    /// The form of the answer.
    pub format: RenderFormat,
    /// The maximum number of points of a series in JSON; more are consolidated.
    pub max_data_points: Option<usize>,
    /// True to leave missing values out of JSON.
    pub no_null_points: bool,
    /// The name of the function that JSON is passed to (JSONP).
    pub jsonp: Option<String>,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RenderFormat {
    /// JSON, as Grafana reads it.
    #[default]
    Json,
    /// Lines of name, time and value.
    Csv,
    /// A line for each series: name, start, end, step and values.
    Raw,
}

impl RenderRequest {
    /// Creates a request for the last day until `now`, in JSON.
    #[must_use]
    pub fn new(targets: Vec<String>, now: i64) -> Self {
        Self {
            targets,
            from: now.saturating_sub(24 * 60 * 60),
            until: now,
            now,
            tz: TimeZone::UTC,
            x_files_factor: 0.0,
            format: RenderFormat::Json,
            max_data_points: None,
            no_null_points: false,
            jsonp: None,
        }
    }

    /// Creates a request from the parameters of a query or a form. Unknown parameters are ignored, and of several
    /// with one name the last counts, except for `target`.
    ///
    /// # Errors
    ///
    /// If a time, a number or the format is invalid.
    ///
    /// ```
    /// use metrics_server::graphite::RenderRequest;
    ///
    /// let params = [("target", "palm.cpu"), ("from", "-6h"), ("format", "json")];
    /// let request = RenderRequest::from_params(params, 1150864247)?;
    /// assert_eq!(request.from, 1150864247 - 6 * 3600);
    /// # Ok::<(), metrics_server::graphite::RenderError>(())
    /// ```
    pub fn from_params<'a>(
        params: impl IntoIterator<Item = (&'a str, &'a str)>,
        now: i64,
    ) -> Result<Self, RenderError> {
        let mut request = Self::new(Vec::new(), now);
        let (mut from, mut until, mut said_now) = ("-1d", "now", None);
        for (name, value) in params {
            match name {
                "target" | "target[]" => request.targets.push(value.into()),
                "from" => from = value,
                "until" => until = value,
                "now" => said_now = Some(value),
                // As graphite-web does, an unknown time zone is ignored.
                "tz" => request.tz = time_zone(value).unwrap_or(request.tz),
                "format" => request.format = RenderFormat::parse(value)?,
                "rawData" => request.format = RenderFormat::Raw,
                "jsonp" => request.jsonp = Some(callback(value)?),
                "noNullPoints" => request.no_null_points = true,
                // What is not a number is ignored too: a panel without a width sends one.
                "maxDataPoints" => request.max_data_points = value.parse().ok(),
                "xFilesFactor" => {
                    request.x_files_factor = value.parse().map_err(|_| RenderError::Parameter {
                        parameter: "xFilesFactor",
                        reason: "is not a number".into(),
                    })?;
                }
                _ => {}
            }
        }
        if let Some(said_now) = said_now {
            request.now = parse_time(said_now, now, &request.tz)?;
        }
        request.from = parse_time(from, request.now, &request.tz)?;
        request.until = parse_time(until, request.now, &request.tz)?;
        Ok(request)
    }
}

impl RenderFormat {
    fn parse(name: &str) -> Result<Self, RenderError> {
        match name {
            "json" => Ok(Self::Json),
            "csv" => Ok(Self::Csv),
            "raw" => Ok(Self::Raw),
            _ => Err(RenderError::Parameter {
                parameter: "format",
                reason: format!("{name:?} is not one of json, csv, raw"),
            }),
        }
    }

    /// Returns the content type of an answer in this form.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv",
            Self::Raw => "text/plain",
        }
    }
}

/// Checks the name of a function, which a browser runs.
fn callback(name: &str) -> Result<String, RenderError> {
    let is_name =
        name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'$'));
    if is_name && (1..=100).contains(&name.len()) {
        return Ok(name.into());
    }
    let reason = "is not the name of a function".into();
    Err(RenderError::Parameter { parameter: "jsonp", reason })
}

/// Returns the series of all targets, in the order of the targets.
///
/// A target without series has none. Blank targets are ignored. The series have all points, before they are
/// consolidated to [`max_data_points`](RenderRequest::max_data_points): [`RenderRequest::write`] does that.
///
/// # Errors
///
/// [`RenderError`]; see [`RenderError::is_request`].
pub async fn render<S: Store>(
    store: &S,
    request: &RenderRequest,
    limits: &RenderLimits,
) -> Result<Vec<Series>, RenderError> {
    let budget = Budget::new(*limits);
    let evaluation = render_within(store, request, limits, &budget);
    match timeout(limits.timeout, evaluation).await {
        Ok(result) => result,
        Err(_) => Err(RenderError::Timeout(limits.timeout)),
    }
}

/// Returns the series as [`render`] does, without its timeout, and charges a budget for them.
pub(super) async fn render_within<S: Store>(
    store: &S,
    request: &RenderRequest,
    limits: &RenderLimits,
    budget: &Budget,
) -> Result<Vec<Series>, RenderError> {
    if request.targets.len() > limits.max_targets {
        return Err(RenderError::Limit { limit: "max_targets", max: limits.max_targets });
    }
    let (from, until) = (request.from.min(request.until), request.from.max(request.until));
    let out_of_range = |second: &i64| !(MIN_SECOND..=MAX_SECOND).contains(second);
    if from == until || [from, until, request.now].iter().any(out_of_range) {
        let reason = if from == until { "is an empty range" } else { "is out of range" };
        return Err(RenderError::Parameter { parameter: "from", reason: reason.into() });
    }
    let scope = Scope {
        range: TimeRange { from, until, now: request.now },
        tz: &request.tz,
        x_files_factor: request.x_files_factor,
        budget,
    };
    let mut series = Vec::new();
    for target in request.targets.iter().filter(|target| !target.trim().is_empty()) {
        if target.len() > limits.max_target_bytes {
            let max = limits.max_target_bytes;
            return Err(RenderError::Limit { limit: "max_target_bytes", max });
        }
        let target = Expr::parse(target, limits.max_depth).map_err(|error| {
            let max = limits.max_depth;
            if error.is_too_deep() {
                RenderError::Limit { limit: "max_depth", max }
            } else {
                error.into()
            }
        })?;
        series.extend(evaluate(store, scope, &target).await?);
    }
    Ok(series)
}

/// The years 1 and 9999: what a date can be.
const MIN_SECOND: i64 = -62_135_596_800;
const MAX_SECOND: i64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use metrics_client::{Key, Point, Selector};

    use super::*;
    use crate::store::{MemorySnapshot, MemoryStore, PutBatch, StoreError};

    const NOW: i64 = 1_150_864_240;

    /// Three series of 100 points, ten seconds apart.
    async fn store() -> MemoryStore {
        let store = MemoryStore::new();
        let mut puts = PutBatch::new();
        for key in ["palm.a", "palm.b", "palm.c"] {
            for index in 0..100 {
                puts.push(&Key::new(key).unwrap(), Point::new(index as f64, NOW - index * 10));
            }
        }
        store.apply(&puts).await.unwrap();
        store
    }

    async fn error(target: &str, limits: RenderLimits) -> String {
        let request =
            RenderRequest { from: NOW - 600, ..RenderRequest::new(vec![target.into()], NOW) };
        let error = render(&store().await, &request, &limits).await.unwrap_err();
        assert!(error.is_request());
        error.to_string()
    }

    #[tokio::test]
    async fn limits_are_errors_that_name_them() {
        let limits = RenderLimits::default();
        for (target, limits, expected) in [
            ("palm.*", limits.max_series(2), "request exceeds max_series (2)"),
            ("palm.*", limits.max_points(150), "request exceeds max_points (150)"),
            ("sum(palm.*)", limits.max_work(100), "request exceeds max_work (100)"),
            (
                "scale(palm.a, 10)",
                limits.max_target_bytes(10),
                "request exceeds max_target_bytes (10)",
            ),
            ("palm.a", limits.max_targets(0), "request exceeds max_targets (0)"),
            ("sum(sum(palm.a))", limits.max_depth(1), "request exceeds max_depth (1)"),
            // A window over years at a step of ten seconds.
            ("movingMedian(palm.*, '9y')", limits, "request exceeds max_points (20000000)"),
            ("movingAverage(palm.*, '99y')", limits, "movingAverage: the window is too large"),
            (
                "summarize(constantLine(1), '1s')|sum()|movingMedian(500)",
                limits.max_work(10_000),
                "request exceeds max_work (10000)",
            ),
        ] {
            assert_eq!(error(target, limits).await, expected, "{target}");
        }
    }

    #[tokio::test]
    async fn wrong_arguments_are_named() {
        for (target, expected) in [
            ("nosuch(palm.a)", "unknown function: nosuch"),
            ("scale(palm.a)", "scale: factor is missing"),
            ("scale(palm.a, 'x')", "scale: factor is not of type float"),
            ("scale(palm.a, 1, 2)", "scale: too many arguments"),
            ("scale(palm.a, 1, factor=2)", "scale: factor is given twice"),
            ("scale(palm.a, by=2)", "scale: unknown argument \"by\""),
            ("scale(1, 2)", "scale: seriesList is not of type seriesList"),
            ("limit(palm.a, 1.5)", "limit: n is not of type integer"),
            ("aggregate(palm.*, 'mode')", "aggregate: func is not of type aggFunc"),
            ("grep(palm.a, '(')", "grep: invalid or too large regular expression \"(\""),
            ("movingAverage(palm.a, 0)", "movingAverage: the window must have at least one point"),
            ("summarize(palm.a, '-1h')", "summarize: the interval must be positive"),
            (
                "divideSeries(palm.a, palm.*)",
                "divideSeries: the divisor must be one series, and is 3",
            ),
            ("seriesByTag('host')", "seriesByTag: invalid tag expression \"host\""),
            ("palm.{a,b", "invalid target at byte 0: brace without closing brace"),
        ] {
            assert_eq!(error(target, RenderLimits::default()).await, expected, "{target}");
        }
    }

    #[test]
    fn parameters_of_a_form_become_a_request() {
        // As Grafana sends them.
        let params = [
            ("target", r#"aliasSub(palm.a, "(^.*$)", "\1 A")"#),
            ("target", "palm.b"),
            ("from", "-6h"),
            ("until", "now"),
            ("format", "json"),
            ("maxDataPoints", "1200"),
            ("cacheTimeout", "60"),
        ];
        let request = RenderRequest::from_params(params, NOW).unwrap();
        assert_eq!((request.from, request.until, request.targets.len()), (NOW - 21_600, NOW, 2));
        assert_eq!(
            (request.max_data_points, request.content_type()),
            (Some(1200), "application/json")
        );
        let request = |name, value| RenderRequest::from_params([(name, value)], NOW);
        assert_eq!(request("maxDataPoints", "NaN").unwrap().max_data_points, None);
        assert_eq!(request("now", "1000").unwrap().from, 1000 - 86_400);
        assert_eq!(request("jsonp", "f.x").unwrap().content_type(), "text/javascript");
        for (name, value) in
            [("from", "whenever"), ("format", "png"), ("jsonp", "alert(1)"), ("xFilesFactor", "x")]
        {
            assert!(request(name, value).unwrap_err().is_request(), "{name}");
        }
    }

    #[tokio::test]
    async fn range_without_a_second_is_an_error() {
        let request = RenderRequest { from: NOW, ..RenderRequest::new(vec!["a".into()], NOW) };
        let error = render(&store().await, &request, &RenderLimits::default()).await.unwrap_err();
        assert_eq!(error.to_string(), "from: is an empty range");
        // Both ends are accepted in either order.
        let request = RenderRequest { from: NOW, until: NOW - 60, ..request };
        assert!(render(&store().await, &request, &RenderLimits::default()).await.is_ok());
        let request = RenderRequest { from: i64::MIN, until: i64::MAX, ..request };
        assert!(render(&store().await, &request, &RenderLimits::default()).await.is_err());
    }

    /// A store that fails, or never answers.
    struct BrokenStore(Option<StoreError>);

    impl Store for BrokenStore {
        type Snapshot = MemorySnapshot;

        async fn apply(&self, _: &PutBatch) -> Result<(), StoreError> {
            Ok(())
        }

        async fn get(&self, _: &Selector) -> Result<MemorySnapshot, StoreError> {
            match &self.0 {
                Some(error) => Err(error.clone()),
                None => pending().await,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failure_of_the_store_is_not_the_request() {
        let request = RenderRequest::new(vec!["palm.*".into()], NOW);
        let limits = RenderLimits::default().timeout(Duration::from_secs(3));
        let broken = BrokenStore(Some(StoreError::transient("disk full")));
        let error = render(&broken, &request, &limits).await.unwrap_err();
        assert!(!error.is_request());
        assert_eq!(error.to_string(), "store failed: disk full");
        let error = render(&BrokenStore(None), &request, &limits).await.unwrap_err();
        assert!(!error.is_request());
        assert_eq!(error.to_string(), "request took longer than 3s");
    }
}
