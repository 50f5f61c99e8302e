//! `Serialize` and `Deserialize` of the values, which check what the constructors check.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Unexpected, Visitor},
    ser::SerializeMap,
};

use super::{Key, Metrics, Point, Sample, Selector};

/// A string.
impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A string. Fails if it is not a valid key.
impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Key, E> {
        Key::new(text).map_err(E::custom)
    }
}

/// A string: `*`, or the key.
impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A string. Fails if it is neither `*` nor a valid key.
impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SelectorVisitor;

        impl Visitor<'_> for SelectorVisitor {
            type Value = Selector;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key or *")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Selector, E> {
                Selector::new(text).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(SelectorVisitor)
    }
}

/// The fields of a sample, side by side.
#[derive(Deserialize, Serialize)]
#[serde(rename = "Sample")]
struct SampleFields<K> {
    key: K,
    timestamp: i64,
    value: f64,
}

/// A map of `key`, `timestamp` and `value`.
impl Serialize for Sample {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Point { timestamp, value } = self.point;
        SampleFields { key: &self.key, timestamp, value }.serialize(serializer)
    }
}

/// A map of `key`, `timestamp` and `value`. Fails if the key is invalid or the value is not finite: neither can be sent.
impl<'de> Deserialize<'de> for Sample {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let SampleFields { key, timestamp, value } =
            SampleFields::<Key>::deserialize(deserializer)?;
        if !value.is_finite() {
            return Err(D::Error::invalid_value(Unexpected::Float(value), &"a finite value"));
        }
        Ok(Self { key, point: Point { timestamp, value } })
    }
}

/// A map of each key to its points.
impl Serialize for Metrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (key, points) in self {
            map.serialize_entry(key, points)?;
        }
        map.end()
    }
}

/// A map of each key to its points, in any order; of two points of one second, the last one wins.
impl<'de> Deserialize<'de> for Metrics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MetricsVisitor;

        impl<'de> Visitor<'de> for MetricsVisitor {
            type Value = Metrics;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of keys to points")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metrics, A::Error> {
                let mut metrics = Metrics::new();
                while let Some((key, points)) = map.next_entry::<Key, Vec<Point>>()? {
                    metrics
                        .extend(points.into_iter().map(|point| Sample { key: key.clone(), point }));
                }
                Ok(metrics)
            }
        }

        deserializer.deserialize_map(MetricsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were() {
        let json = r#"{"key":"palm.cpu","timestamp":1150864247,"value":23.7}"#;
        let sample = Sample::new("palm.cpu", 23.7, 1150864247).unwrap();
        assert_eq!(serde_json::to_string(&sample).unwrap(), json);
        assert_eq!(serde_json::from_str::<Sample>(json).unwrap(), sample);
        for text in ["*", "palm.cpu"] {
            let selector = Selector::new(text).unwrap();
            let json = serde_json::to_string(&selector).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<Selector>(&json).unwrap(), selector);
        }
        let metrics =
            [sample, Sample::new("a", 1.0, 2).unwrap(), Sample::new("a", 3.0, 1).unwrap()];
        let metrics = metrics.into_iter().collect::<Metrics>();
        let json = serde_json::to_string(&metrics).unwrap();
        assert_eq!(
            json,
            r#"{"palm.cpu":[{"timestamp":1150864247,"value":23.7}],"a":[{"timestamp":1,"value":3.0},{"timestamp":2,"value":1.0}]}"#
        );
        let back = serde_json::from_str::<Metrics>(&json).unwrap();
        assert!(back.into_samples().eq(metrics.into_samples()));
    }

    #[test]
    fn what_no_constructor_makes_is_an_error() {
        for (json, fault) in [
            (r#"{"key":"a b","timestamp":1,"value":1}"#, "a b"),
            (r#"{"key":"*","timestamp":1,"value":1}"#, "*"),
            (r#"{"key":"a","timestamp":1.5,"value":1}"#, "1.5"),
            (r#"{"key":"a","timestamp":1,"value":null}"#, "null"),
            (r#"{"key":"a","value":1}"#, "timestamp"),
        ] {
            let error = serde_json::from_str::<Sample>(json).unwrap_err().to_string();
            assert!(error.contains(fault), "{json}: {error}");
        }
        assert!(serde_json::from_str::<Selector>(r#""a b""#).is_err());
        let unsorted = r#"{"a":[{"timestamp":2,"value":1},{"timestamp":1,"value":2},{"timestamp":2,"value":3}]}"#;
        let metrics = serde_json::from_str::<Metrics>(unsorted).unwrap();
        assert_eq!(metrics.points("a"), [Point::new(2.0, 1), Point::new(3.0, 2)]);
    }

    #[test]
    fn statistics_of_an_older_version_are_read() {
        use crate::client::{ClientStats, ConnectionState};

        let stats = serde_json::from_str::<ClientStats>(r#"{"accepted":3}"#).unwrap();
        assert_eq!(stats.accepted, 3);
        let back = serde_json::from_str(&serde_json::to_string(&stats).unwrap()).unwrap();
        assert_eq!(stats, back);
        assert_eq!(serde_json::to_string(&ConnectionState::Connected).unwrap(), r#""connected""#);
    }
}
