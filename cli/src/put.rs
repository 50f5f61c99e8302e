//! `metrics put`: stores one value.

use metrics_client::Key;

use crate::{
    connect::{ServerArgs, block_on},
    failure::Failure,
    times,
};

/// Stores one value
#[derive(Debug, clap::Args)]
pub(crate) struct PutArgs {
    /// The key, such as palm.cpu
    key: Key,
    /// The value, a finite number
    #[arg(allow_hyphen_values = true, value_parser = finite)]
    value: f64,
    /// When it was measured: seconds since 1970, RFC 3339, a date, -6h
    #[arg(allow_hyphen_values = true, value_parser = times::parse, default_value = "now", hide_default_value = false)]
    timestamp: i64,
    #[command(flatten)]
    server: ServerArgs,
}

fn finite(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("use a finite number, such as 23.7".into()),
    }
}

pub(crate) fn run(args: &PutArgs) -> Result<(), Failure> {
    block_on(async {
        let client = args.server.connect().await?;
        let put = client.put_at(&args.key, args.value, args.timestamp).await;
        put.map_err(|error| args.server.failure(error))
    })
}
