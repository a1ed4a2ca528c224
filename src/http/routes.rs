//! The routes and their answers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::guard::{Guard, ask_for_token};
use super::problem::Problem;
use super::{Signed, Views};

/// A view that takes longer is answered for with 503.
const PATIENCE: Duration = Duration::from_secs(5);

/// Recommendations asked for without `n`, and the most that can be asked for.
const USUAL_N: usize = 10;
const LARGEST_N: usize = 1000;

/// Of a receipt's answer; RFC 9421 has another use for the bare names.
const SIGNATURE: HeaderName = HeaderName::from_static("nepenthe-signature");
const KEY_ID: HeaderName = HeaderName::from_static("nepenthe-key-id");

type Asked = State<Arc<dyn Views>>;

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The status page: its address, what it is, and itself.
pub(super) const PAGE: [(&str, &str, &str); 7] = [
    ("/", "text/html; charset=utf-8", include_str!("page/page.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", SCRIPT, include_str!("page/page.js")),
    ("/chart.js", SCRIPT, include_str!("page/chart.js")),
    ("/receipt.js", SCRIPT, include_str!("page/receipt.js")),
    ("/words.js", SCRIPT, include_str!("page/words.js")),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

pub(super) fn router(views: Arc<dyn Views>, guard: Guard) -> Router {
    PAGE.iter()
        .fold(Router::new(), |router, &(path, content_type, body)| router.route(path, get(move || fixed(content_type, body))))
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { Json(json!({ "live": true })) }))
        .route("/readyz", get(ready))
        .route("/v1/status", get(status))
        .route("/v1/sweeps", get(sweeps))
        .route("/v1/generations/latest", get(latest_generation))
        // The rest of the path: a request's default id is topic/partition/offset.
        .route("/v1/receipts/{*request_id}", get(receipt))
        .route("/v1/keys", get(keys))
        .route("/v1/users/{user}/recommendations", get(recommendations))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "there is no such page; / links to what there is") })
        .method_not_allowed_fallback(|| async { Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this page can only be read: use GET") })
        .layer(from_fn(name_allowed_methods))
        .layer(from_fn_with_state(guard, ask_for_token))
        .layer(map_response(with_headers))
        .with_state(views)
}

async fn fixed(content_type: &'static str, body: &'static str) -> Response {
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}

/// RFC 9110 §15.5.6: a 405 names the methods that work.
async fn name_allowed_methods(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET,HEAD"));
    }
    response
}

/// Nothing from elsewhere, no framing, no guessing of types; and no copy in a cache, which could not be told to forget.
async fn with_headers(mut response: Response) -> Response {
    const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
    let headers: [(HeaderName, &str); 5] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Asks a view on a thread that may block, for [`PATIENCE`] at most.
async fn ask<T: Send + 'static>(views: Arc<dyn Views>, question: impl FnOnce(&dyn Views) -> T + Send + 'static) -> Result<T, Problem> {
    let answer = tokio::task::spawn_blocking(move || question(views.as_ref()));
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made; the log says why")),
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("no answer within {seconds} s; try again")))
        }
    }
}

async fn metrics(State(views): Asked) -> Result<Response, Problem> {
    let text = ask(views, |views| views.metrics()).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

async fn ready(State(views): Asked) -> Result<Json<Value>, Problem> {
    match ask(views, |views| views.ready()).await? {
        Ok(()) => Ok(Json(json!({ "ready": true }))),
        Err(reason) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason)),
    }
}

async fn status(State(views): Asked) -> Result<Json<Value>, Problem> {
    ask(views, |views| views.status()).await.map(Json)
}

async fn latest_generation(State(views): Asked) -> Result<Json<Value>, Problem> {
    let missing = || Problem::new(StatusCode::NOT_FOUND, "no generation has been published yet");
    ask(views, |views| views.latest_generation()).await?.map(Json).ok_or_else(missing)
}

async fn sweeps(State(views): Asked) -> Result<Json<Value>, Problem> {
    ask(views, |views| views.sweeps()).await.map(Json)
}

async fn receipt(State(views): Asked, path: Result<Path<String>, PathRejection>) -> Result<Response, Problem> {
    let request_id = part(path)?;
    let missing = || Problem::new(StatusCode::NOT_FOUND, "no request of this id has been accepted or rejected");
    let answer = ask(views, move |views| views.receipt(&request_id)).await?;
    answer.map_err(unavailable)?.map(signed).ok_or_else(missing)
}

/// The body is what is signed, byte for byte; beside it what the topic has in the record's headers.
fn signed(receipt: Signed) -> Response {
    let mut response = ([(header::CONTENT_TYPE, "application/json")], receipt.value).into_response();
    if let Some((key_id, signature)) = receipt.signature
        && let (Ok(key_id), Ok(signature)) = (HeaderValue::try_from(key_id), HeaderValue::try_from(signature))
    {
        response.headers_mut().extend([(KEY_ID, key_id), (SIGNATURE, signature)]);
    }
    response
}

async fn keys(State(views): Asked) -> Result<Json<Value>, Problem> {
    ask(views, |views| views.keys()).await.map(Json)
}

async fn recommendations(State(views): Asked, uri: Uri, path: Result<Path<String>, PathRejection>) -> Result<Json<Value>, Problem> {
    let user = part(path)?;
    let n = wanted(uri.query())?;
    let asked = user.clone();
    let answer = ask(views, move |views| views.recommendations(&asked, n)).await?;
    let missing = || Problem::new(StatusCode::NOT_FOUND, "the newest generation has no such user");
    let items = answer.map_err(unavailable)?.ok_or_else(missing)?;
    let items: Vec<_> = items.into_iter().map(|(item, score)| json!({ "item": item, "score": score })).collect();
    Ok(Json(json!({ "user": user, "items": items })))
}

fn unavailable(reason: String) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason)
}

fn part(path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    match path {
        Ok(Path(part)) => Ok(part),
        Err(_) => Err(Problem::new(StatusCode::BAD_REQUEST, "the path is not percent-encoded UTF-8")),
    }
}

/// `n` of the query; other parameters are ignored.
fn wanted(query: Option<&str>) -> Result<usize, Problem> {
    let given = query.unwrap_or_default().split('&').find_map(|parameter| parameter.strip_prefix("n="));
    let Some(given) = given else { return Ok(USUAL_N) };
    let refused = || Problem::new(StatusCode::BAD_REQUEST, format!("n must be an integer from 1 to {LARGEST_N}"));
    given.parse().ok().filter(|n| (1..=LARGEST_N).contains(n)).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_queries() {
        crate::fuzz::fuzz("queries", &["n=10", "m=1&n=1000&n=x", "n=%31", "&&=&n="], |bytes| {
            let Ok(query) = std::str::from_utf8(bytes) else { return };
            if let Ok(n) = wanted(Some(query)) {
                assert!((1..=LARGEST_N).contains(&n));
            }
        });
    }
}
