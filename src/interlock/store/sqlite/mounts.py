"""On what kind of file system a path lies. SQLite's locks and shared memory don't hold on network file systems."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

# Kinds where two machines may see the same file: locks are advisory at best and shared memory isn't shared.
NETWORK = frozenset(
    {
        *("afs", "beegfs", "ceph", "cephfs", "coda", "glusterfs", "gpfs", "lustre", "ncpfs", "ocfs2"),
        *("nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "davfs"),
        *("fuse.ceph", "fuse.davfs2", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    }
)
# Kinds that are local in some set-ups and not in others: said by `doctor`, not refused.
DOUBTFUL = frozenset({"9p", "fuse.osxfs", "drvfs", "vboxsf", "fuse.vmhgfs-fuse"})


def file_system(path: str | Path) -> str:
    """The kind of file system that holds `path` ("ext4", "nfs4", ...), or "" where the system doesn't say."""
    try:
        mounts = Path("/proc/self/mounts").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return kind_of(os.path.realpath(path), mounts)


def kind_of(path: str, mounts: Iterable[str]) -> str:
    """The kind of the innermost mount above `path`, from lines as in /proc/mounts. Later lines hide earlier ones."""
    depth, kind = -1, ""
    for line in mounts:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        # The kernel writes blanks in paths as octal escapes.
        point = fields[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        if _holds(point, path) and len(point) >= depth:
            depth, kind = len(point), fields[2]
    return kind


def _holds(point: str, path: str) -> bool:
    return point == "/" or path == point or path.startswith(point.rstrip("/") + "/")
