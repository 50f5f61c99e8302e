//! Evaluates expressions: reads series from the store, and calls functions with them.

use std::{future::Future, pin::Pin};

use super::{
    RenderError,
    fetch::{TimeRange, fetch_path, fetch_tagged},
    functions::{self, Args, Failure, Run, Scope, Value},
    series::Series,
    tags::TagQuery,
    target::{Call, Expr},
};
use crate::store::Store;

/// Evaluates a target.
pub(super) async fn evaluate<S: Store>(
    store: &S,
    scope: Scope<'_>,
    target: &Expr,
) -> Result<Vec<Series>, RenderError> {
    match evaluate_expr(store, scope, target).await? {
        Value::Series(series) => Ok(series),
        // The parser takes a value alone for a path.
        _ => Ok(Vec::new()),
    }
}

type Evaluation<'a, T> = Pin<Box<dyn Future<Output = Result<T, RenderError>> + Send + 'a>>;

fn evaluate_expr<'a, S: Store>(
    store: &'a S,
    scope: Scope<'a>,
    expr: &'a Expr,
) -> Evaluation<'a, Value> {
    Box::pin(async move {
        Ok(match expr {
            Expr::Path(path) => {
                let mut series = fetch_path(store, path, scope.range, scope.budget).await?;
                for series in &mut series {
                    series.x_files_factor = scope.x_files_factor;
                }
                Value::Series(series)
            }
            Expr::Call(call) => Value::Series(evaluate_call(store, scope, call).await?),
            Expr::Integer(integer) => Value::Integer(*integer),
            Expr::Float(float) => Value::Float(*float),
            Expr::Text(text) => Value::Text(text.clone()),
            Expr::Bool(flag) => Value::Bool(*flag),
            Expr::None => Value::None,
        })
    })
}

async fn evaluate_call<S: Store>(
    store: &S,
    scope: Scope<'_>,
    call: &Call,
) -> Result<Vec<Series>, RenderError> {
    let function = functions::find(&call.function)
        .ok_or_else(|| RenderError::UnknownFunction(call.function.clone()))?;
    let of_function = |failure| match failure {
        Failure::Argument(reason) => {
            RenderError::Argument { function: call.function.clone(), reason }
        }
        Failure::Other(error) => error,
    };
    let (mut args, mut named) = (Vec::with_capacity(call.args.len()), Vec::new());
    for arg in &call.args {
        args.push(evaluate_expr(store, scope, arg).await?);
    }
    for (name, arg) in &call.named {
        named.push((name.clone(), evaluate_expr(store, scope, arg).await?));
    }
    if matches!(function.run, Run::SeriesByTag) {
        return series_by_tag(store, scope, call).await;
    }
    let args = Args::new(function, args, named).map_err(of_function)?;
    scope.budget.charge_work(CALL_WORK.saturating_add(args.points()))?;
    // Functions compute without waiting; others get their turn between two of them.
    tokio::task::yield_now().await;
    match function.run {
        Run::Once(run) => run(&scope, args).map_err(of_function),
        Run::Again { range, run } => {
            let Some(first) = call.args.first().filter(|_| !args.is_without_series()) else {
                return Ok(Vec::new());
            };
            let range: TimeRange = range(&scope, &args).map_err(of_function)?;
            let again = match evaluate_expr(store, Scope { range, ..scope }, first).await? {
                Value::Series(series) => series,
                _ => Vec::new(),
            };
            run(&scope, args, again).map_err(of_function)
        }
        Run::SeriesByTag => unreachable!("returned above"),
    }
}

/// What a call costs besides the values of its arguments: functions that evaluate their arguments again, nested in
/// each other, are called very often.
const CALL_WORK: usize = 1_000;

async fn series_by_tag<S: Store>(
    store: &S,
    scope: Scope<'_>,
    call: &Call,
) -> Result<Vec<Series>, RenderError> {
    let exprs = call.args.iter().map(|arg| match arg {
        Expr::Text(text) => Ok(text.as_str()),
        _ => Err(RenderError::Argument {
            function: call.function.clone(),
            reason: "tag expressions are strings".into(),
        }),
    });
    let query = TagQuery::new(exprs.collect::<Result<Vec<_>, _>>()?)?;
    let mut series = fetch_tagged(store, &query, &call.text, scope.range, scope.budget).await?;
    for series in &mut series {
        series.x_files_factor = scope.x_files_factor;
    }
    Ok(series)
}
