"""Root file systems of containers: one cached root, copied for each container or under an overlay.

Containers run in a user namespace, so the cached root has its owners shifted by the namespace's
offset.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import stat
from pathlib import Path

from harness.errors import CoppiceError, DiskFull, ImageError, Unsupported
from harness.guest.rootfs import RootFs
from harness.host.cache import entry
from harness.host.identity import Identity
from harness.host.process import run as run_program
from harness.measure.record import digest
from harness.sandbox.oci.config import AGENT, USERS

_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def shifted(root: RootFs, agent: Path, cache: Path) -> Path:
    """The root with its owners shifted by USERS and the agent copied in; made the first time.

    Copied, because a bind mount of the agent would reveal its path on this host. Raises DiskFull.
    """
    parts = f"{root.sha256} {digest(agent)} {USERS}"
    target = cache / "roots-shifted" / hashlib.sha256(parts.encode()).hexdigest()

    def fill(directory: Path) -> None:
        copy(root.path, directory / "root")
        inside = directory / "root" / AGENT.lstrip("/")
        inside.unlink(missing_ok=True)
        shutil.copy(agent, inside)
        for parent, names, files in os.walk(directory / "root"):
            _shift(Path(parent))
            for name in (*names, *files):
                path = Path(parent, name)
                if path.is_symlink() or not path.is_dir():
                    _shift(path)

    return entry(target, fill) / "root"


def _shift(path: Path) -> None:
    found = path.lstat()
    if found.st_uid >= USERS:
        return  # another hard link to a file that was shifted already
    os.lchown(path, found.st_uid + USERS, found.st_gid + USERS)
    if stat.S_ISREG(found.st_mode):
        path.chmod(stat.S_IMODE(found.st_mode))  # lchown has cleared set-user-ID


def copy(root: Path, target: Path) -> None:
    """Copy a root with owners, times and links. Raises DiskFull."""
    try:
        target.mkdir()
        run_program("cp", "-a", "--reflink=auto", "--", f"{root}/.", target)
    except Exception as error:
        shutil.rmtree(target, ignore_errors=True)
        if "No space left" in str(error):
            raise DiskFull(
                f"no room for a copy of the root in {target.parent}",
                hint=f"free some space in {target.parent}, or set COPPICE_RUNTIME to another disk",
            ) from error
        raise


def lay_over(
    lower: Path, directory: Path, target: Path, identity: Identity, written: Path | None = None
) -> None:
    """Mount an overlay of `lower` at `target`, with its upper directory in `directory`.

    The upper directory starts as a copy of `written`, if given. The identity's files are written to
    it before it is mounted: through the mount, overlayfs would copy three files up and delete them.
    """
    upper = directory / "upper"
    if written:
        copy(written, upper)
    else:
        upper.mkdir()
    for path in (directory / "work", target):
        path.mkdir()
    os.chown(upper, USERS, USERS)
    upper.chmod(0o755)
    found = (lower / "etc").lstat() if (lower / "etc").exists() else None
    named = found is not None and stat.S_ISDIR(found.st_mode)
    if found and named:
        if not os.path.lexists(upper / "etc"):
            (upper / "etc").mkdir()
            os.chown(upper / "etc", found.st_uid, found.st_gid)
            (upper / "etc").chmod(stat.S_IMODE(found.st_mode))
        # A sandbox may have replaced its /etc by a link, which must not be followed on this host.
        if stat.S_ISDIR((upper / "etc").lstat().st_mode):
            name(upper, identity)
    with contextlib.ExitStack() as stack:

        def option(name: str, path: Path) -> str:
            # By descriptor: a path may contain the separators of options.
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            stack.callback(os.close, handle)
            return f"{name}=/proc/self/fd/{handle}"

        options = ",".join(
            (
                option("lowerdir", lower),
                option("upperdir", upper),
                option("workdir", directory / "work"),
            )
        )
        if _libc.mount(b"overlay", os.fsencode(target), b"overlay", 0, options.encode()) != 0:
            number = ctypes.get_errno()
            raise Unsupported(
                f"overlayfs cannot be mounted: {os.strerror(number)}",
                hint="modprobe overlay   (as root), or use a shape that copies the root",
            )

    if not named:  # its /etc is no directory: it must not be replaced in the upper layer
        name(target, identity)


def copy_image(image: Path, own: Path) -> None:
    """Copy a file system image, with holes where it has zeros. Raises DiskFull."""
    try:
        run_program("cp", "--sparse=always", "--reflink=auto", "--", image, own)
    except CoppiceError as error:
        own.unlink(missing_ok=True)
        if "No space left" in str(error):
            raise DiskFull(f"no room for a disk in {own.parent}") from error
        raise


def mount_image(own: Path, target: Path) -> None:
    """Mount a file system image at `target`."""
    target.mkdir()
    run_program("mount", "-o", "loop,nosuid,nodev,noatime", "--", own, target)


def unmount(target: Path) -> None:
    """Unmount, lazily if it is in use; does nothing where nothing is mounted."""
    _libc.umount2(os.fsencode(target), _DETACH)


def name(root: Path, identity: Identity) -> None:
    """Write an identity to the files in /etc where programs look for it."""
    for path, text in (
        (root / "etc/machine-id", identity.machine_id),
        (root / "etc/hostname", identity.hostname),
        (root / "etc/hosts", f"127.0.0.1 localhost {identity.hostname}\n::1 localhost"),
    ):
        if path.is_dir() and not path.is_symlink():
            continue  # its root has a directory there: leave it
        # A link there could lead out of the root: replace it, do not follow it.
        path.unlink(missing_ok=True)
        path.write_text(f"{text}\n", encoding="utf-8")
        os.chown(path, USERS, USERS)


def check_reachable(directory: Path) -> None:
    """Raise ImageError if users inside sandboxes could not reach their root's directory."""
    for parent in (directory, *directory.parents):
        if not parent.stat().st_mode & stat.S_IXOTH:
            raise ImageError(
                f"users inside sandboxes cannot reach {directory}: {parent} is closed to others",
                hint="set COPPICE_RUNTIME to a directory that is open to all users",
            )
