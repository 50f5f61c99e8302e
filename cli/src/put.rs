//! `metrics put`: stores one value.

use crate::{
    connect::{ServerArgs, block_on},
    failure::Failure,
    times,
};

/// Stores one value
#[derive(Debug, clap::Args)]
pub(crate) struct PutArgs {
    /// The key, such as palm.cpu
    key: String,
    /// The value, a finite number
    #[arg(allow_hyphen_values = true)]
    value: f64,
    /// When it was measured: seconds since 1970, RFC 3339, a date, -6h
    #[arg(allow_hyphen_values = true, value_parser = times::parse, default_value = "now", hide_default_value = false)]
    timestamp: i64,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: &PutArgs) -> Result<(), Failure> {
    block_on(async {
        let client = args.server.connect().await?;
        let put = client.put_at(&args.key, args.value, args.timestamp).await;
        put.map_err(|error| args.server.failure(error))
    })
}
