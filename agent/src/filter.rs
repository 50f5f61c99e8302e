//! [`Filter`]: which measurements are sent, by globs of their names.

use glob::Pattern;

/// Selects measurements by globs of their names, such as `disk.*` or `network.*.veth*`.
///
/// A name is what a dotted key has behind the host: `disk.space.percent.root`. `*` matches any characters, dots
/// too; `?` one character; `[ab]` one of these. A name is selected if no excluding glob matches it, and if an
/// including one does or there are no including globs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

/// A glob that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("invalid glob {glob:?}")]
pub struct InvalidFilter {
    glob: String,
    #[source]
    cause: glob::PatternError,
}

impl Filter {
    /// Creates a filter of these globs.
    ///
    /// # Errors
    ///
    /// Returns the first glob that is invalid.
    pub fn new<S: AsRef<str>>(
        include: impl IntoIterator<Item = S>,
        exclude: impl IntoIterator<Item = S>,
    ) -> Result<Self, InvalidFilter> {
        let include = include.into_iter().map(|glob| compile(glob.as_ref()));
        let exclude = exclude.into_iter().map(|glob| compile(glob.as_ref()));
        Ok(Self {
            include: include.collect::<Result<_, _>>()?,
            exclude: exclude.collect::<Result<_, _>>()?,
        })
    }

    /// Returns true if a measurement of this name is sent.
    #[must_use]
    pub fn selects(&self, name: &str) -> bool {
        let matches = |globs: &[Pattern]| globs.iter().any(|glob| glob.matches(name));
        !matches(&self.exclude) && (self.include.is_empty() || matches(&self.include))
    }
}

fn compile(glob: &str) -> Result<Pattern, InvalidFilter> {
    Pattern::new(glob).map_err(|cause| InvalidFilter { glob: glob.into(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excluding_globs_come_before_including_ones() {
        let filter = Filter::new(["cpu*", "network.*"], ["*.lo", "cpu.core.*"]).unwrap();
        for (name, is_selected) in [
            ("cpu", true),
            ("cpu.user", true),
            ("cpu.core.0", false),
            ("network.received_bytes.eth0", true),
            ("network.received_bytes.lo", false),
            ("memory", false),
        ] {
            assert_eq!(filter.selects(name), is_selected, "{name}");
        }
        assert!(Filter::default().selects("memory"));
    }

    #[test]
    fn invalid_glob_is_named() {
        let error = Filter::new(["a[b"], []).unwrap_err();
        assert_eq!(error.to_string(), "invalid glob \"a[b\"");
    }
}
