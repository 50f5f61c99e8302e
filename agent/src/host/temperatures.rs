//! Temperatures, where there are sensors. Virtual machines and containers have no sensors, and that is not a failure.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Measurements,
    files::{Files, read_line},
};

/// Measures the sensors of `hwmon`, or else the thermal zones, in degrees Celsius.
pub(super) fn measure(files: &mut Files, out: &mut Measurements) {
    let mut sensors = sensors(&files.sys("class/hwmon"), |device| {
        let device_name = read_line(&device.join("name")).unwrap_or_else(|_| "hwmon".into());
        let inputs = listed(device).into_iter().filter_map(|path| {
            let file = path.file_name()?.to_str()?;
            let number = file.strip_prefix("temp")?.strip_suffix("_input")?.to_owned();
            Some((number, path))
        });
        let named = inputs.map(|(number, path)| {
            let label = read_line(&device.join(format!("temp{number}_label")));
            let label = label.unwrap_or_else(|_| format!("temp{number}"));
            (format!("{device_name}_{label}"), path)
        });
        named.collect()
    });
    if sensors.is_empty() {
        sensors = self::sensors(&files.sys("class/thermal"), |zone| {
            let name = read_line(&zone.join("type"));
            name.map(|name| vec![(name, zone.join("temp"))]).unwrap_or_default()
        });
    }
    let mut names = HashSet::new();
    let mut failed = false;
    for (name, path) in sensors {
        match degrees(&path) {
            Ok(degrees) => {
                // Two disks of one model have sensors of one name.
                let mut unique = name.clone();
                for n in 2.. {
                    if names.insert(unique.clone()) {
                        break;
                    }
                    unique = format!("{name}_{n}");
                }
                out.push_of("temperature", "sensor", &unique, degrees);
            }
            Err(error) => {
                failed = true;
                files.failed("temperatures", &format_args!("{}: {error}", path.display()));
            }
        }
    }
    if !failed {
        files.succeeded("temperatures");
    }
}

/// Returns the sensors of each device in a folder, in order, with the paths of their values.
fn sensors(
    folder: &Path,
    of_device: impl Fn(&Path) -> Vec<(String, PathBuf)>,
) -> Vec<(String, PathBuf)> {
    listed(folder).iter().flat_map(|device| of_device(device)).collect()
}

fn listed(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths = entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    paths.sort();
    paths
}

fn degrees(path: &Path) -> io::Result<f64> {
    let millidegrees = read_line(path)?.parse::<i64>().map_err(io::Error::other)?;
    Ok(millidegrees as f64 / 1000.0)
}
