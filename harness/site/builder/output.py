"""Writes the site atomically, so that readers see only complete pages during a build.

If nothing of the old site can be kept, the new one is made beside it and replaces it by renaming.
If the same code made the old site, only new and changed files are made, in a hidden directory
within the site. Renaming that directory commits them; then the files are moved into place one by
one, new pages before pages that link to them, and obsolete files are removed last. The next build
finishes a build that was killed in between.

A site's manifest marks the directory as built by this command, and says what it was made from.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness import strict_json
from harness.errors import UsageError
from harness.site.builder.manifest import Manifest

MARKER = ".coppice-site"
"""Marks a directory as a site built by this command, which may be replaced."""
_NEXT, _READY = ".coppice-next", ".coppice-ready"
"""Within a site: files being made, and files that are complete and ready to be moved."""
_GONE = ".coppice-gone"
"""Among the ready files: the names of files to remove."""
_UNFINISHED = ".coppice-unfinished"
"""Marks a whole site that is still being made."""


class Directory:
    """A site being built. As a context manager: its files are removed unless they are placed.

    One build at a time writes to a site; another waits. `before` is the manifest of the existing
    site: empty if other code made it or if `again` is set.
    """

    def __init__(self, out: Path, code: str, *, again: bool = False) -> None:
        self.out = Path.cwd() / out
        if self.out.exists() and (
            not self.out.is_dir() or (any(self.out.iterdir()) and not (self.out / MARKER).exists())
        ):
            raise UsageError(
                f"{self.out} exists and is not a site that this command built",
                hint="name another directory with --out, or remove this one",
            )
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self._held = contextlib.ExitStack()
        self._code, self._again = code, again

    def __enter__(self) -> Directory:
        with contextlib.ExitStack() as stack:
            if _lock(self.out, stack):
                _finish(self.out)
            found = None if self._again else _remembered(self.out, self._code)
            self.before = found or Manifest(self._code)
            self._kept = _files(self.out) if found else frozenset()
            if found:
                self.fresh = self.out / _NEXT
                shutil.rmtree(self.fresh, ignore_errors=True)
                self.fresh.mkdir()
                stack.callback(shutil.rmtree, self.fresh, ignore_errors=True)
            else:
                self._beside(stack)
            self._directories: set[str] = set()
            self._held = stack.pop_all()
        return self

    def _beside(self, stack: contextlib.ExitStack) -> None:
        """Make a whole site beside the old one; remove leftovers of killed builds."""
        for left in self.out.parent.glob(f".{self.out.name}-*/{_UNFINISHED}"):
            with contextlib.ExitStack() as theirs:
                if _lock(left.parent, theirs, wait=False):
                    shutil.rmtree(left.parent, ignore_errors=True)
        self.fresh = self._new(stack)
        self.fresh.chmod(0o755)

    def _new(self, stack: contextlib.ExitStack) -> Path:
        made = Path(tempfile.mkdtemp(dir=self.out.parent, prefix=f".{self.out.name}-"))
        stack.callback(shutil.rmtree, made, ignore_errors=True)
        _lock(made, stack)
        (made / _UNFINISHED).touch()
        return made

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def _within(self, path: str) -> str:
        directory = os.path.dirname(path)  # noqa: PTH120  (for thousands of files)
        if directory not in self._directories:
            (self.fresh / directory).mkdir(parents=True, exist_ok=True)
            self._directories.add(directory)
        return f"{self.fresh}/{path}"

    def write(self, path: str, content: bytes) -> None:
        """Write a file, also over one of this build, unless the existing site has it already."""
        if path in self._kept:
            old = Path(f"{self.out}/{path}")
            with contextlib.suppress(OSError):
                if old.stat().st_size == len(content) and old.read_bytes() == content:
                    Path(f"{self.fresh}/{path}").unlink(missing_ok=True)
                    return
        Path(self._within(path)).write_bytes(content)

    def read(self, path: str) -> bytes:
        """A file that was written or kept."""
        fresh = Path(f"{self.fresh}/{path}")
        return (fresh if fresh.exists() else Path(f"{self.out}/{path}")).read_bytes()

    def keeps(self, paths: Iterable[str]) -> bool:
        """Whether the existing site has these files."""
        return self._kept.issuperset(paths)

    def place(self, marker: Manifest, files: Iterable[str]) -> None:
        """Commit the site: `files` are those written and those kept."""
        self.write(MARKER, marker.dump())
        if self._kept:
            gone = sorted(self._kept.difference(files, (MARKER,)))
            (self.fresh / _GONE).write_text(json.dumps(gone), encoding="utf-8")
            self.fresh.rename(self.out / _READY)
            _finish(self.out)
            return
        if self.out.exists():
            old = self._new(self._held)
            self.out.rename(old / self.out.name)
            try:
                self.fresh.rename(self.out)
            except OSError:
                (old / self.out.name).rename(self.out)
                raise
        else:
            self.fresh.rename(self.out)
        (self.out / _UNFINISHED).unlink()


def _lock(directory: Path, stack: contextlib.ExitStack, *, wait: bool = True) -> bool:
    """Lock a directory until the stack closes; False if it does not exist or is locked already."""
    while True:
        try:
            handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Another build may have replaced the site while this one waited.
            if directory.exists() and os.path.samestat(os.fstat(handle), directory.stat()):
                stack.callback(os.close, handle)
                return True
        except BlockingIOError:
            os.close(handle)
            return False
        os.close(handle)


def _walk(directory: Path) -> Iterator[tuple[str, str]]:
    """Every file below a directory: its relative directory with a slash, and its name."""
    for where, inner, names in os.walk(directory):
        inner[:] = [one for one in inner if one not in (_NEXT, _READY)]
        head = f"{os.path.relpath(where, directory)}/" if where != str(directory) else ""
        for name in names:
            yield head, name


def _files(directory: Path) -> frozenset[str]:
    return frozenset(head + name for head, name in _walk(directory))


def _finish(out: Path) -> None:
    """Move ready files into place, also those of a build that was killed."""
    ready = out / _READY
    if not ready.is_dir():
        return
    made = sorted(
        _files(ready) - {_GONE},
        key=lambda path: (path == MARKER, (out / path).exists(), path.endswith(".html"), path),
    )
    for path in made:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (ready / path).replace(out / path)
    try:
        gone = strict_json.loads((ready / _GONE).read_bytes())
    except FileNotFoundError:
        gone = []
    emptied = set()
    for path in gone:
        (out / path).unlink(missing_ok=True)
        emptied.add((out / path).parent)
    for directory in sorted(emptied, reverse=True):
        with contextlib.suppress(OSError):  # not empty: stays
            directory.rmdir()
    shutil.rmtree(ready)


def _remembered(out: Path, code: str) -> Manifest | None:
    """The manifest of the site in `out`, if the same code made it and it is intact."""
    try:
        with (out / MARKER).open("rb") as file:
            return Manifest.load(file, code)
    except OSError:
        return None
