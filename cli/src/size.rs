//! Sizes in bytes as people write them: `1GiB`, `512MiB`, `65536`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de};

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
        let (number, shift) = unit.unwrap_or((text, 0));
        let bytes =
            number.parse::<u64>().ok().and_then(|number| number.checked_mul(1_u64 << shift));
        bytes.map(Self).ok_or_else(|| {
            format!("invalid size {text:?}: use bytes, or a number with KiB, MiB, GiB or TiB, such as 512MiB")
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS
            .iter()
            .find(|(_, shift)| self.0 >= 1_u64 << shift && self.0.trailing_zeros() >= *shift);
        match unit {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct SizeVisitor;

impl de::Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as \"512MiB\", or a number of bytes")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
        Ok(Size(bytes))
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
        let invalid = || E::invalid_value(de::Unexpected::Signed(bytes), &self);
        u64::try_from(bytes).map(Size).map_err(|_| invalid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_form_is_a_size() {
        for (text, bytes, shown) in [
            ("1GiB", 1 << 30, "1GiB"),
            ("512MiB", 512 << 20, "512MiB"),
            ("1536MiB", 1536 << 20, "1536MiB"),
            ("2TiB", 2 << 40, "2TiB"),
            ("4096", 4096, "4KiB"),
            ("1000", 1000, "1000 bytes"),
            ("0", 0, "0 bytes"),
        ] {
            let size = text.parse::<Size>();
            assert_eq!(size, Ok(Size(bytes)), "{text}");
            assert_eq!(size.unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_size_is_an_error() {
        for text in ["", "GiB", "1GB", "1 GiB", "-1", "1.5GiB", "99999999999TiB", "1e9"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
