//! [`Names`]: keys of measurements.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
};

use metrics_client::{Key, Sample, error::InvalidKey};

use crate::{filter::Filter, host::Measurement};

/// Where a key has the name of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyStyle {
    /// In front: `palm.cpu`, `palm.network.sent_bytes.eth0`.
    #[default]
    Dotted,
    /// In a label: `cpu;host=palm`, `network.sent_bytes;host=palm;interface=eth0`.
    Labels,
}

/// Makes the keys of measurements: with the host's name, global labels, and without what a [`Filter`] leaves out.
///
/// A key is made once, and found again without an allocation.
#[derive(Debug)]
pub struct Names {
    /// The host, as the style needs it.
    host: String,
    style: KeyStyle,
    labels: BTreeMap<String, String>,
    filter: Filter,
    /// By name and instance; `None` for what is not sent.
    keys: HashMap<&'static str, HashMap<Box<str>, Option<Key>>>,
    key_count: usize,
    scratch: String,
}

/// Labels that do not fit into a key.
#[derive(Debug, thiserror::Error)]
#[error("the host's name and the labels do not fit into a key")]
pub struct InvalidLabels(#[source] InvalidKey);

impl Names {
    /// Creates the names of a host. In dotted keys, dots of the host's name become `_`, because a dot separates
    /// the parts of a key.
    ///
    /// # Errors
    ///
    /// Returns an error if a short name with the host and the labels is not a valid key, because it is too long.
    pub fn new(
        host: &str,
        style: KeyStyle,
        labels: impl IntoIterator<Item = (String, String)>,
        filter: Filter,
    ) -> Result<Self, InvalidLabels> {
        let host = match style {
            KeyStyle::Dotted => component(host),
            KeyStyle::Labels => host.into(),
        };
        let names = Self {
            host,
            style,
            labels: labels.into_iter().collect(),
            filter,
            keys: HashMap::new(),
            key_count: 0,
            scratch: String::new(),
        };
        names.assemble("cpu", None, []).map_err(InvalidLabels)?;
        Ok(names)
    }

    /// Returns the key of a measurement, or `None` if it is filtered out or its key would be too long.
    pub fn key(&mut self, measurement: &Measurement) -> Option<Key> {
        let name = measurement.name;
        let instance = measurement.instance.as_ref().map(|(label, value)| (*label, value.as_str()));
        let text = instance.map_or("", |(_, instance)| instance);
        if let Some(key) = self.keys.get(name).and_then(|keys| keys.get(text)) {
            return key.clone();
        }
        // Interfaces of containers have a new name each time.
        if self.key_count >= MAX_KEYS {
            self.keys.clear();
            self.key_count = 0;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        dotted(&mut scratch, name, instance);
        let key = if self.filter.selects(&scratch) {
            self.assemble(name, instance, []).ok()
        } else {
            None
        };
        self.scratch = scratch;
        self.keys.entry(name).or_default().insert(text.into(), key.clone());
        self.key_count += 1;
        key
    }

    /// Returns samples of what was measured for `second`, without what is filtered out.
    pub fn samples<'a>(
        &'a mut self,
        measured: &'a [Measurement],
        second: i64,
    ) -> impl Iterator<Item = Sample> + 'a {
        measured.iter().filter_map(move |measurement| {
            let key = self.key(measurement)?;
            Sample::new(key, measurement.value, second).ok()
        })
    }

    /// Returns the key of what a program reports, with tags of its own; `None` as [`key`](Self::key).
    pub(crate) fn reported_key(&self, name: &str, tags: &[(String, String)]) -> Option<Key> {
        if !self.filter.selects(name) {
            return None;
        }
        let tags = tags.iter().map(|(tag, value)| (tag.as_str(), value.as_str()));
        self.assemble(name, None, tags).ok()
    }

    fn assemble<'a>(
        &'a self,
        name: &str,
        instance: Option<(&'a str, &'a str)>,
        tags: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Key, InvalidKey> {
        let mut labels = self
            .labels
            .iter()
            .map(|(label, value)| (label.as_str(), value.as_str()))
            .collect::<BTreeMap<_, _>>();
        let mut full = String::new();
        match self.style {
            KeyStyle::Dotted => {
                full.push_str(&self.host);
                full.push('.');
                let mut rest = String::new();
                dotted(&mut rest, name, instance);
                full.push_str(&rest);
            }
            KeyStyle::Labels => {
                full.push_str(name);
                labels.insert("host", &self.host);
                labels.extend(instance);
            }
        }
        labels.extend(tags);
        Key::with_labels(full, labels)
    }
}

/// Writes a name with its instance as a part of its own.
fn dotted(out: &mut String, name: &str, instance: Option<(&str, &str)>) {
    out.clear();
    out.push_str(name);
    if let Some((_, instance)) = instance {
        // Writing to a string does not fail.
        let _ = write!(out, ".{}", component(instance));
    }
}

/// Returns text as one part of a dotted name: `/var/lib` as `var-lib`, `/` as `root`, `eth0.1` as `eth0_1`.
fn component(text: &str) -> String {
    let path = text.strip_prefix('/').map(|path| if path.is_empty() { "root" } else { path });
    let is_special = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | ';' | '*');
    path.unwrap_or(text).replace(is_special, "_").replace('/', "-")
}

/// How many keys are remembered: all of a host with many disks and interfaces.
const MAX_KEYS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(name: &'static str, instance: Option<(&'static str, &str)>) -> Measurement {
        let instance = instance.map(|(label, value)| (label, value.into()));
        Measurement { name, instance, value: 1.0 }
    }

    fn names(style: KeyStyle, labels: &[(&str, &str)]) -> Names {
        let labels = labels.iter().map(|(label, value)| ((*label).into(), (*value).into()));
        Names::new("palm.example.com", style, labels, Filter::default()).unwrap()
    }

    #[test]
    fn dotted_keys_begin_with_the_host() {
        let mut names = names(KeyStyle::Dotted, &[]);
        for (name, instance, key) in [
            ("cpu", None, "palm_example_com.cpu"),
            ("cpu.core", Some(("core", "0")), "palm_example_com.cpu.core.0"),
            ("disk.space.free", Some(("mount", "/")), "palm_example_com.disk.space.free.root"),
            (
                "disk.space.free",
                Some(("mount", "/var/li b")),
                "palm_example_com.disk.space.free.var-li_b",
            ),
            (
                "network.sent_bytes",
                Some(("interface", "eth0.1")),
                "palm_example_com.network.sent_bytes.eth0_1",
            ),
        ] {
            for _ in 0..2 {
                assert_eq!(names.key(&measurement(name, instance)).unwrap(), key);
            }
        }
    }

    #[test]
    fn labels_have_the_host_and_the_instance() {
        let mut names = names(KeyStyle::Labels, &[("dc", "fra"), ("rack", "a;1")]);
        assert_eq!(
            names.key(&measurement("cpu", None)).unwrap(),
            "cpu;dc=fra;host=palm.example.com;rack=a%3B1"
        );
        assert_eq!(
            names.key(&measurement("disk.space.free", Some(("mount", "/var")))).unwrap(),
            "disk.space.free;dc=fra;host=palm.example.com;mount=/var;rack=a%3B1"
        );
    }

    #[test]
    fn global_labels_follow_dotted_keys() {
        let mut names = names(KeyStyle::Dotted, &[("dc", "fra")]);
        assert_eq!(names.key(&measurement("cpu", None)).unwrap(), "palm_example_com.cpu;dc=fra");
    }

    #[test]
    fn filter_sees_the_name_without_host_and_labels() {
        let filter = Filter::new(["network.*.eth0"], []).unwrap();
        let mut names = Names::new("palm", KeyStyle::Labels, [], filter).unwrap();
        assert!(
            names.key(&measurement("network.sent_bytes", Some(("interface", "eth0")))).is_some()
        );
        assert_eq!(names.key(&measurement("network.sent_bytes", Some(("interface", "lo")))), None);
        assert_eq!(names.key(&measurement("cpu", None)), None);
    }

    #[test]
    fn labels_that_fit_no_key_are_an_error() {
        let label = ("a".into(), "b".repeat(Key::MAX_LEN));
        assert!(Names::new("palm", KeyStyle::Dotted, [label], Filter::default()).is_err());
    }

    #[test]
    fn remembered_keys_are_bounded() {
        let mut names = names(KeyStyle::Dotted, &[]);
        for interface in 0..2 * MAX_KEYS + 5 {
            let interface = format!("veth{interface}");
            names.key(&measurement("network.sent_bytes", Some(("interface", &interface)))).unwrap();
        }
        assert!(names.keys.values().map(HashMap::len).sum::<usize>() <= MAX_KEYS);
    }
}
