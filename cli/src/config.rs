//! The configuration file of `metrics serve`. Unknown keys are errors.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{failure::Failure, size::Size};

/// What `metrics serve` reads from its file; the command line and the environment come before it.
#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ConfigFile {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) store: Option<String>,
    pub(crate) keep: Option<String>,
    pub(crate) sync: Option<String>,
    pub(crate) max_disk: Option<Size>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) tls_client_ca: Option<PathBuf>,
    pub(crate) graphite: Option<SocketAddr>,
    pub(crate) http: Option<SocketAddr>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) no_token: Option<bool>,
    pub(crate) http_limit: Option<Vec<String>>,
    pub(crate) max_memory: Option<Size>,
    pub(crate) max_connections: Option<usize>,
    pub(crate) relay_spool: Option<PathBuf>,
    pub(crate) relay: Option<Vec<RelayTable>>,
}

/// A `[[relay]]` of the file.
#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RelayTable {
    pub(crate) url: String,
    pub(crate) name: Option<String>,
    /// The file of InfluxDB's token.
    pub(crate) token_file: Option<PathBuf>,
    /// Patterns of the keys that are sent, and of those that are not.
    #[serde(default)]
    pub(crate) only: Vec<String>,
    #[serde(default)]
    pub(crate) except: Vec<String>,
    #[serde(default)]
    pub(crate) rename: Vec<RenameTable>,
    pub(crate) max_queue: Option<Size>,
    pub(crate) max_spool: Option<Size>,
    /// `0s`, or a time.
    pub(crate) spill_after: Option<String>,
}

/// A rename of a relay.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct RenameTable {
    pub(crate) from: String,
    pub(crate) to: String,
}

impl ConfigFile {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// Returns an error that names the file, the line and the key.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let name = path.display();
        let text = fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))?;
        toml::from_str(&text).map_err(|error| Failure::usage(format!("{name}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_an_error() {
        let error = toml::from_str::<ConfigFile>("listen = \"127.0.0.1:8888\"\nlisten-on = 1\n")
            .unwrap_err();
        assert!(error.to_string().contains("listen-on"), "{error}");
    }
}
