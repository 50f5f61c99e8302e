//! The paths of Graphite's HTTP API, mounted on an [`HttpServer`].

use std::{
    convert::Infallible,
    future::Future,
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, SystemTime},
};

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::{FromRequest, Path, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use metrics_client::unix_seconds;
use serde::Serialize;
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    task::{spawn_blocking, yield_now},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    DEFAULT_AUTOCOMPLETE_LIMIT, RenderError, RenderLimits, RenderRequest, autocomplete_tags,
    autocomplete_values, expand, find_completions, find_tree, functions, index, limits::Budget,
    list_tags, render::render_within, write::AnswerWriter,
};
use crate::{
    http::{
        App, HttpServer, body,
        error::{ApiError, raised_with},
        json,
        params::Params,
    },
    store::Store,
};

impl<S: Store> HttpServer<S> {
    /// Answers Graphite's requests, for Grafana and whatever else reads them: `/render`, `/metrics/find`,
    /// `/metrics/expand`, `/metrics/index.json`, `/functions`, `/version`, `/tags` and its completions, and
    /// `/events/get_data`, which has none.
    #[cfg_attr(docsrs, doc(cfg(feature = "graphite")))]
    #[must_use]
    pub fn graphite(self, limits: RenderLimits) -> Self {
        self.mount(router(limits))
    }
}

fn router<S: Store>(limits: RenderLimits) -> Router<Arc<App<S>>> {
    let routes = [
        ("/render", get(show::<S>).post(show::<S>)),
        ("/metrics/find", get(find::<S>).post(find::<S>)),
        ("/metrics/expand", get(expand_paths::<S>).post(expand_paths::<S>)),
        ("/metrics/index.json", get(list_paths::<S>)),
        ("/functions", get(list_functions)),
        ("/functions/{name}", get(describe_function)),
        ("/version", get(version)),
        ("/tags", get(tags::<S>)),
        ("/tags/autoComplete/tags", get(complete_tags::<S>).post(complete_tags::<S>)),
        ("/tags/autoComplete/values", get(complete_values::<S>).post(complete_values::<S>)),
        ("/events/get_data", get(events).post(events)),
    ];
    // As in graphite-web, and as many of its clients write them, with a slash at the end too.
    let router = routes.into_iter().fold(Router::new(), |router, (path, methods)| {
        router.route(path, methods.clone()).route(&format!("{path}/"), methods)
    });
    router.layer(Extension(Evaluator::new(limits)))
}

/// Evaluates requests on threads for blocking work: a function over millions of points takes seconds, in which the
/// peers of the protocol must be served.
#[derive(Clone, Debug)]
struct Evaluator {
    limits: RenderLimits,
    /// The points of all requests.
    total_points: Arc<AtomicUsize>,
    admission: Arc<Semaphore>,
}

impl Evaluator {
    fn new(limits: RenderLimits) -> Self {
        let admission = Arc::new(Semaphore::new(limits.max_concurrent));
        Self { limits, total_points: Arc::default(), admission }
    }

    /// Evaluates what `work` returns, within a time that begins now.
    async fn run<T, F>(
        &self,
        (limit, max): (&'static str, Duration),
        work: impl FnOnce() -> F + Send + 'static,
    ) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, RenderError>>,
    {
        let deadline = Instant::now() + max;
        let admission = Arc::clone(&self.admission).acquire_owned();
        let busy = RenderError::Busy { limit: "max_concurrent", max: self.limits.max_concurrent };
        let Ok(Ok(permit)) = timeout_at(deadline, admission).await else { return Err(busy.into()) };
        // A client that leaves ends the evaluation, at its next step.
        let cancelled = CancellationToken::new();
        let _cancel_on_drop = cancelled.clone().drop_guard();
        let runtime = Handle::current();
        let evaluation = spawn_blocking(move || {
            let _permit = permit;
            // Without a timer, which would panic once the runtime shuts down.
            runtime.block_on(cancelled.run_until_cancelled_owned(work()))
        });
        match timeout_at(deadline, evaluation).await {
            Ok(Ok(Some(result))) => Ok(result?),
            Ok(Ok(None)) | Err(_) => Err(ApiError::unavailable(format!(
                "request took longer than {max:?}; {}",
                raised_with(limit)
            ))),
            Ok(Err(error)) => {
                Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
            }
        }
    }
}

/// The parameters of a query and of a form, which Grafana sends as one and the other.
struct Form(String);

impl<S: Store> FromRequest<Arc<App<S>>> for Form {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App<S>>) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let mut form = parts.uri.query().unwrap_or_default().to_owned();
        let body = body::read(&parts.headers, body, &app.limits, &app.body_budget).await?;
        if !body.bytes.is_empty() {
            let body = str::from_utf8(&body.bytes)
                .map_err(|_| ApiError::bad_request("the form is not UTF-8"))?;
            form.push('&');
            form.push_str(body);
        }
        Ok(Self(form))
    }
}

impl Form {
    fn params(&self) -> Params<'_> {
        Params::parse(Some(&self.0))
    }
}

impl From<RenderError> for ApiError {
    fn from(error: RenderError) -> Self {
        let mut message = error.to_string();
        let limit = match &error {
            RenderError::Limit { limit, .. } | RenderError::Busy { limit, .. } => Some(*limit),
            RenderError::Timeout(_) => Some("timeout"),
            _ => None,
        };
        if let Some(limit) = limit {
            message += &format!("; {}", raised_with(&format!("render_{limit}")));
        }
        if error.is_request() { Self::bad_request(message) } else { Self::unavailable(message) }
    }
}

async fn show<S: Store>(
    State(app): State<Arc<App<S>>>,
    Extension(evaluator): Extension<Evaluator>,
    form: Form,
) -> Result<Response, ApiError> {
    let params = form.params();
    let request = RenderRequest::from_params(params.iter(), unix_seconds(SystemTime::now()))?;
    let content_type = HeaderValue::from_static(request.content_type());
    let (limits, total) = (evaluator.limits, Arc::clone(&evaluator.total_points));
    let evaluation = evaluator.run(("render_timeout", limits.timeout), move || async move {
        let budget = Budget::within(limits, total);
        let series = render_within(&app.store, &request, &limits, &budget).await?;
        Ok(AnswerWriter::new(&request, series, Some(budget.into_charge())))
    });
    let writer = evaluation.await?;
    let pieces = stream::unfold(writer, |mut writer| async {
        // As for points, others of the thread have their turn.
        yield_now().await;
        let piece = writer.next_piece()?;
        Some((Ok::<_, Infallible>(Bytes::from(piece)), writer))
    });
    Ok(([(header::CONTENT_TYPE, content_type)], Body::from_stream(pieces)).into_response())
}

async fn find<S: Store>(
    State(app): State<Arc<App<S>>>,
    Extension(evaluator): Extension<Evaluator>,
    form: Form,
) -> Result<Response, ApiError> {
    let params = form.params();
    let pattern = params.get("query").filter(|query| !query.is_empty());
    let pattern = pattern.ok_or_else(|| ApiError::bad_request("missing parameter query"))?;
    let (pattern, wildcards) = (pattern.to_owned(), is_set(&params, "wildcards"));
    let limit = ("store_timeout", app.limits.store_timeout);
    match params.get("format") {
        None | Some("treejson") => {
            evaluator
                .run(limit, move || async move {
                    Ok(answer(&find_tree(&app.store, &pattern, wildcards).await?))
                })
                .await
        }
        Some("completer") => {
            evaluator
                .run(limit, move || async move {
                    Ok(answer(&find_completions(&app.store, &pattern, wildcards).await?))
                })
                .await
        }
        Some(format) => {
            let message = format!("invalid format {format:?}: expected treejson or completer");
            Err(ApiError::bad_request(message))
        }
    }
}

async fn expand_paths<S: Store>(
    State(app): State<Arc<App<S>>>,
    Extension(evaluator): Extension<Evaluator>,
    form: Form,
) -> Result<Response, ApiError> {
    let params = form.params();
    let patterns: Vec<_> = params.all("query").map(str::to_owned).collect();
    let (group, leaves) = (is_set(&params, "groupByExpr"), is_set(&params, "leavesOnly"));
    let limit = ("store_timeout", app.limits.store_timeout);
    let work =
        move || async move { Ok(answer(&expand(&app.store, &patterns, group, leaves).await?)) };
    evaluator.run(limit, work).await
}

async fn list_paths<S: Store>(
    State(app): State<Arc<App<S>>>,
    Extension(evaluator): Extension<Evaluator>,
) -> Result<Response, ApiError> {
    let limit = ("store_timeout", app.limits.store_timeout);
    evaluator.run(limit, move || async move { Ok(answer(&index(&app.store).await?)) }).await
}

async fn list_functions() -> Response {
    answer(&functions())
}

async fn describe_function(Path(name): Path<String>) -> Result<Response, ApiError> {
    let function = functions().remove(&*name);
    let unknown = || ApiError::new(StatusCode::NOT_FOUND, format!("unknown function: {name}"));
    Ok(answer(&function.ok_or_else(unknown)?))
}

/// The version whose answers these are.
async fn version() -> &'static str {
    "1.1.8"
}

async fn tags<S: Store>(
    State(app): State<Arc<App<S>>>,
    Extension(evaluator): Extension<Evaluator>,
) -> Result<Response, ApiError> {
    let limit = ("store_timeout", app.limits.store_timeout);
    evaluator.run(limit, move || async move { Ok(answer(&list_tags(&app.store).await?)) }).await
}

async fn complete_tags<S: Store>(
    State(app): State<Arc<App<S>>>,
    Extension(evaluator): Extension<Evaluator>,
    form: Form,
) -> Result<Response, ApiError> {
    let params = form.params();
    let exprs: Vec<_> = params.all("expr").map(str::to_owned).collect();
    let prefix = params.get("tagPrefix").unwrap_or_default().to_owned();
    let count = limit(&params);
    let timeout = ("store_timeout", app.limits.store_timeout);
    let work = move || async move {
        Ok(answer(&autocomplete_tags(&app.store, &exprs, &prefix, count).await?))
    };
    evaluator.run(timeout, work).await
}

async fn complete_values<S: Store>(
    State(app): State<Arc<App<S>>>,
    Extension(evaluator): Extension<Evaluator>,
    form: Form,
) -> Result<Response, ApiError> {
    let params = form.params();
    let exprs: Vec<_> = params.all("expr").map(str::to_owned).collect();
    let tag = params.get("tag").ok_or_else(|| ApiError::bad_request("missing parameter tag"))?;
    let prefix = params.get("valuePrefix").unwrap_or_default().to_owned();
    let (tag, count) = (tag.to_owned(), limit(&params));
    let timeout = ("store_timeout", app.limits.store_timeout);
    let work = move || async move {
        Ok(answer(&autocomplete_values(&app.store, &exprs, &tag, &prefix, count).await?))
    };
    evaluator.run(timeout, work).await
}

/// There are no events: annotations of a dashboard are empty.
async fn events() -> Response {
    answer(&[(); 0])
}

fn is_set(params: &Params<'_>, name: &str) -> bool {
    params.get(name).is_some_and(|value| matches!(value, "1" | "true"))
}

fn limit(params: &Params<'_>) -> usize {
    let limit = params.get("limit").and_then(|limit| limit.parse().ok());
    limit.unwrap_or(DEFAULT_AUTOCOMPLETE_LIMIT)
}

fn answer(value: &impl Serialize) -> Response {
    json(value).into_response()
}
