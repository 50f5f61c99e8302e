//! The paths of Graphite's HTTP API, mounted on an [`HttpServer`].

use std::{sync::Arc, time::SystemTime};

use axum::{
    Extension, Router,
    extract::{FromRequest, Request, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_client::unix_seconds;
use serde::Serialize;

use super::{
    DEFAULT_AUTOCOMPLETE_LIMIT, RenderError, RenderLimits, RenderRequest, autocomplete_tags,
    autocomplete_values, expand, find_completions, find_tree, functions, index, list_tags, render,
};
use crate::{
    http::{App, HttpServer, body, error::ApiError, json, params::Params},
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
    Router::new()
        .route("/render", get(show::<S>).post(show::<S>))
        .route("/metrics/find", get(find::<S>).post(find::<S>))
        .route("/metrics/expand", get(expand_paths::<S>).post(expand_paths::<S>))
        .route("/metrics/index.json", get(list_paths::<S>))
        .route("/functions", get(list_functions))
        .route("/version", get(version))
        .route("/tags", get(tags::<S>))
        .route("/tags/autoComplete/tags", get(complete_tags::<S>).post(complete_tags::<S>))
        .route("/tags/autoComplete/values", get(complete_values::<S>).post(complete_values::<S>))
        .route("/events/get_data", get(events).post(events))
        .layer(Extension(limits))
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
        let message = error.to_string();
        if error.is_request() { Self::bad_request(message) } else { Self::unavailable(message) }
    }
}

async fn show<S: Store>(
    State(app): State<Arc<App<S>>>,
    Extension(limits): Extension<RenderLimits>,
    form: Form,
) -> Result<Response, ApiError> {
    let params = form.params();
    let request = RenderRequest::from_params(params.iter(), unix_seconds(SystemTime::now()))?;
    let series = render(&app.store, &request, &limits).await?;
    let content_type = HeaderValue::from_static(request.content_type());
    Ok(([(header::CONTENT_TYPE, content_type)], request.write(series)).into_response())
}

async fn find<S: Store>(State(app): State<Arc<App<S>>>, form: Form) -> Result<Response, ApiError> {
    let params = form.params();
    let pattern = params.get("query").filter(|query| !query.is_empty());
    let pattern = pattern.ok_or_else(|| ApiError::bad_request("missing parameter query"))?;
    let wildcards = is_set(&params, "wildcards");
    match params.get("format") {
        None | Some("treejson") => Ok(answer(&find_tree(&app.store, pattern, wildcards).await?)),
        Some("completer") => Ok(answer(&find_completions(&app.store, pattern, wildcards).await?)),
        Some(format) => {
            let message = format!("invalid format {format:?}: expected treejson or completer");
            Err(ApiError::bad_request(message))
        }
    }
}

async fn expand_paths<S: Store>(
    State(app): State<Arc<App<S>>>,
    form: Form,
) -> Result<Response, ApiError> {
    let params = form.params();
    let patterns: Vec<_> = params.all("query").map(str::to_owned).collect();
    let (group, leaves) = (is_set(&params, "groupByExpr"), is_set(&params, "leavesOnly"));
    Ok(answer(&expand(&app.store, &patterns, group, leaves).await?))
}

async fn list_paths<S: Store>(State(app): State<Arc<App<S>>>) -> Result<Response, ApiError> {
    Ok(answer(&index(&app.store).await?))
}

async fn list_functions() -> Response {
    answer(&functions())
}

/// The version whose answers these are.
async fn version() -> &'static str {
    "1.1.8"
}

async fn tags<S: Store>(State(app): State<Arc<App<S>>>) -> Result<Response, ApiError> {
    Ok(answer(&list_tags(&app.store).await?))
}

async fn complete_tags<S: Store>(
    State(app): State<Arc<App<S>>>,
    form: Form,
) -> Result<Response, ApiError> {
    let params = form.params();
    let exprs: Vec<_> = params.all("expr").map(str::to_owned).collect();
    let prefix = params.get("tagPrefix").unwrap_or_default();
    Ok(answer(&autocomplete_tags(&app.store, &exprs, prefix, limit(&params)).await?))
}

async fn complete_values<S: Store>(
    State(app): State<Arc<App<S>>>,
    form: Form,
) -> Result<Response, ApiError> {
    let params = form.params();
    let exprs: Vec<_> = params.all("expr").map(str::to_owned).collect();
    let tag = params.get("tag").ok_or_else(|| ApiError::bad_request("missing parameter tag"))?;
    let prefix = params.get("valuePrefix").unwrap_or_default();
    Ok(answer(&autocomplete_values(&app.store, &exprs, tag, prefix, limit(&params)).await?))
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
