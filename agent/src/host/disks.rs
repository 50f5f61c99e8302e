//! Space of file systems, and IO of disks.

use std::{collections::HashSet, path::PathBuf, time::Duration};

use procfs_core::{
    DiskStats, FromRead,
    process::{MountInfo, MountInfos},
};
use rustix::fs::statvfs;

use super::{Measurements, files::Files, percent, rates::Rates};

/// The counters of each disk.
#[derive(Debug, Default)]
pub(super) struct DiskIo {
    rates: Rates<5>,
}

const IO_NAMES: [&str; 4] = ["disk.read_bytes", "disk.written_bytes", "disk.reads", "disk.writes"];

/// The unit of `/proc/diskstats`, whatever the disk's is.
const SECTOR_BYTES: u64 = 512;

impl DiskIo {
    pub(super) fn measure(&mut self, files: &mut Files, now: Duration, out: &mut Measurements) {
        let parse = |text: &str| DiskStats::from_read(text.as_bytes());
        let Some(DiskStats(disks)) = files.read("diskstats", parse) else { return };
        let whole_disks = files.sys("block");
        let has_whole_disks = whole_disks.is_dir();
        self.rates.begin(now);
        for disk in &disks {
            // A partition's IO is its disk's, too. Of loop devices and memory disks most are never used.
            let is_part =
                has_whole_disks && !whole_disks.join(disk.name.replace('/', "!")).exists();
            if is_part || disk.reads + disk.writes == 0 {
                continue;
            }
            let rates = self.rates.rates(
                &disk.name,
                [
                    disk.sectors_read.saturating_mul(SECTOR_BYTES),
                    disk.sectors_written.saturating_mul(SECTOR_BYTES),
                    disk.reads,
                    disk.writes,
                    disk.time_in_progress,
                ],
            );
            for (name, rate) in IO_NAMES.into_iter().zip(rates) {
                if let Some(rate) = rate {
                    out.push_of(name, "device", &disk.name, rate);
                }
            }
            if let Some(busy_millis) = rates[4] {
                out.push_of(
                    "disk.busy",
                    "device",
                    &disk.name,
                    percent(busy_millis, 1000.0).min(100.0),
                );
            }
        }
        self.rates.end();
    }
}

/// Measures the space of local file systems. One that is mounted in several places is measured once.
pub(super) fn measure_space(files: &mut Files, out: &mut Measurements) {
    let parse = |text: &str| MountInfos::from_read(text.as_bytes());
    let Some(MountInfos(mounts)) = files.read("self/mountinfo", parse) else { return };
    let mut seen = HashSet::new();
    let mut failed = false;
    for mount in &mounts {
        if !is_measured(mount) || !seen.insert(device(mount)) {
            continue;
        }
        let mount_point = unescaped(&mount.mount_point.to_string_lossy());
        match statvfs(PathBuf::from(&mount_point)) {
            Ok(space) => measure_file_system(&mount_point, &space, out),
            Err(error) => {
                failed = true;
                files.failed("disk space", &format_args!("{mount_point}: {error}"));
            }
        }
    }
    if !failed {
        files.succeeded("disk space");
    }
}

fn measure_file_system(mount_point: &str, space: &rustix::fs::StatVfs, out: &mut Measurements) {
    let bytes = |blocks: u64| blocks as f64 * space.f_frsize as f64;
    if space.f_blocks == 0 {
        return;
    }
    let used = space.f_blocks.saturating_sub(space.f_bfree);
    // As `df` does: what is reserved for root is not available, and not used.
    let percent_used = percent(used as f64, used as f64 + space.f_bavail as f64);
    out.push_of("disk.space", "mount", mount_point, percent_used);
    for (name, blocks) in [
        ("disk.space.total", space.f_blocks),
        ("disk.space.used", used),
        ("disk.space.available", space.f_bavail),
    ] {
        out.push_of(name, "mount", mount_point, bytes(blocks));
    }
    // Some file systems have no table of inodes.
    if space.f_files > 0 {
        let used = space.f_files.saturating_sub(space.f_ffree);
        out.push_of(
            "disk.inodes",
            "mount",
            mount_point,
            percent(used as f64, space.f_files as f64),
        );
    }
}

/// Returns true for file systems on disks of this host. A question to one over the network can hang for ever; an image
/// that is read only is always full; the others are in memory.
fn is_measured(mount: &MountInfo) -> bool {
    let source = mount.mount_source.as_deref().unwrap_or_default();
    let is_root = mount.mount_point.as_os_str() == "/";
    match mount.fs_type.as_str() {
        "squashfs" | "iso9660" | "erofs" | "udf" => false,
        "btrfs" | "zfs" | "bcachefs" => true,
        "overlay" => is_root,
        kind if kind.starts_with("fuse") && kind != "fuseblk" => false,
        _ => source.starts_with("/dev/"),
    }
}

/// Returns what is the same for all mounts of a file system. Subvolumes have devices of their own.
fn device(mount: &MountInfo) -> &str {
    match mount.mount_source.as_deref() {
        Some(source) if source.starts_with("/dev/") => source,
        _ => &mount.majmin,
    }
}

/// Decodes `\040` and the like.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut decoded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) if code.is_ascii() => {
                decoded.push(char::from(code));
                decoded.push_str(&part[3..]);
            }
            _ => {
                decoded.push('\\');
                decoded.push_str(part);
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_mount_point_is_decoded() {
        assert_eq!(unescaped("/media/my\\040disk\\134x"), "/media/my disk\\x");
        assert_eq!(unescaped("/plain"), "/plain");
        assert_eq!(unescaped("/odd\\9é"), "/odd\\9é");
    }

    #[test]
    fn only_local_file_systems_are_measured() {
        let mount = |kind: &str, source: &str, mount_point: &str| {
            let line = format!("27 1 254:0 / {mount_point} rw - {kind} {source} rw");
            MountInfo::from_line(&line).unwrap()
        };
        for (kind, source, mount_point, measured) in [
            ("ext4", "/dev/vda", "/", true),
            ("btrfs", "/dev/sda2", "/home", true),
            ("zfs", "tank/home", "/home", true),
            ("overlay", "overlay", "/", true),
            ("overlay", "overlay", "/var/lib/docker/overlay2/x/merged", false),
            ("squashfs", "/dev/loop3", "/snap/core/1", false),
            ("nfs4", "server:/home", "/home", false),
            ("fuse.sshfs", "user@host:/", "/mnt", false),
            ("fuseblk", "/dev/sdb1", "/media/usb", true),
            ("tmpfs", "tmpfs", "/run", false),
            ("proc", "proc", "/proc", false),
        ] {
            assert_eq!(is_measured(&mount(kind, source, mount_point)), measured, "{kind}");
        }
    }
}
