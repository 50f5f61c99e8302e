//! The parameters of a request.

use std::{borrow::Cow, fmt::Display, str::FromStr};

use super::error::ApiError;

/// The parameters of a query, in order. A name may occur more than once.
#[derive(Debug)]
pub(crate) struct Params<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Params<'a> {
    pub(crate) fn parse(query: Option<&'a str>) -> Self {
        Self(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect())
    }

    /// Returns an error if there is a parameter that is not in `known`.
    pub(crate) fn expect(&self, known: &[&str]) -> Result<(), ApiError> {
        match self.0.iter().find(|(name, _)| !known.contains(&&**name)) {
            None => Ok(()),
            Some((name, _)) => Err(ApiError::bad_request(format!(
                "unknown parameter {name:?}: expected {}",
                known.join(", ")
            ))),
        }
    }

    /// Returns the last value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(other, _)| other == name).map(|(_, value)| &**value)
    }

    /// Returns all values of a parameter.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(other, _)| other == name).map(|(_, value)| &**value)
    }

    /// Returns the value of a parameter, read from text.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, ApiError> {
        let parse = |text: &str| {
            text.parse()
                .map_err(|error| ApiError::bad_request(format!("invalid {name} {text:?}: {error}")))
        };
        self.get(name).map(parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_checked() {
        let params = Params::parse(Some("key=a%20b&key=c+d&max=10"));
        assert_eq!(params.all("key").collect::<Vec<_>>(), ["a b", "c d"]);
        assert_eq!((params.get("key"), params.get("from")), (Some("c d"), None));
        assert_eq!(params.parsed::<usize>("max").unwrap(), Some(10));
        assert!(params.parsed::<usize>("key").is_err());
        assert!(params.expect(&["key", "max"]).is_ok());
        let error = params.expect(&["key"]).unwrap_err();
        assert_eq!(error.message, "unknown parameter \"max\": expected key");
    }
}
