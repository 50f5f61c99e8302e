//! `GET /`: the page, of files that are part of the program.

use axum::{
    Router,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};

/// The files of the page: path, content type, content. `page/uPlot-LICENSE.txt` is the licence of uPlot 1.6.32.
const FILES: [(&str, &str, &[u8]); 6] = [
    ("/", "text/html; charset=utf-8", include_bytes!("page/index.html")),
    ("/page.js", "text/javascript; charset=utf-8", include_bytes!("page/page.js")),
    ("/page.css", "text/css; charset=utf-8", include_bytes!("page/page.css")),
    (
        "/uPlot.iife.min.js",
        "text/javascript; charset=utf-8",
        include_bytes!("page/uPlot.iife.min.js"),
    ),
    ("/uPlot.min.css", "text/css; charset=utf-8", include_bytes!("page/uPlot.min.css")),
    ("/favicon.svg", "image/svg+xml", include_bytes!("page/favicon.svg")),
];

/// Returns the paths of the page.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, content_type, content)| {
        router.route(path, get(move || async move { file(content_type, content) }))
    })
}

fn file(content_type: &'static str, content: &'static [u8]) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        // A new version of the program has a new page.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, content).into_response()
}
