"""The patch for vmm, as far as it can be tested without FreeBSD's source."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from harness.paths import PATCHES

DIRECTORY = PATCHES / "vmm-vnode"
DIFFS = sorted(DIRECTORY.glob("*.diff"))
MAILS = sorted((DIRECTORY / "mails").glob("*.patch"))
_OF_GIT = ("diff --git ", "index ", "new file mode ")


def files(diff: Path) -> dict[str, list[str]]:
    """The lines of a diff by path, without the two header lines."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"(?m)^(?=--- )", diff.read_text(encoding="utf-8"))[1:]:
        _, new, *lines = part.splitlines()
        lines = [line for line in lines if not line.startswith(_OF_GIT)]
        found[new.removeprefix("+++ b/")] = lines
    return found


def apply(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DIRECTORY / "apply", *words], capture_output=True, text=True, encoding="utf-8"
    )


def tree(path: Path, release: str) -> Path:
    (path / "sys" / "conf").mkdir(parents=True)
    (path / "sys" / "conf" / "newvers.sh").write_text(f'REVISION="{release}"\n', encoding="utf-8")
    return path


def test_there_is_a_diff_for_each_release() -> None:
    assert [diff.name for diff in DIFFS] == ["freebsd-13.2.diff", "freebsd-15.1.diff"]


@pytest.mark.parametrize("diff", DIFFS, ids=lambda diff: diff.stem)
def test_every_line_of_a_diff_is_ours(diff: Path) -> None:
    for path, lines in files(diff).items():
        assert all(re.match(r"\+|@@ -\d+,0 \+\d+(,\d+)? @@$", line) for line in lines), path


def test_the_mails_together_are_the_diff_of_their_release() -> None:
    assert len(MAILS) == 4
    together: dict[str, list[str]] = {}
    for mail in MAILS:
        changed = files(mail)
        assert changed and not changed.keys() & together.keys(), "each file is in one mail"
        together |= changed
    assert together == files(DIRECTORY / "freebsd-15.1.diff")


@pytest.mark.parametrize("mail", MAILS, ids=lambda mail: mail.stem)
def test_a_mail_has_a_message(mail: Path) -> None:
    text = mail.read_text(encoding="utf-8")
    head, _, message = text.partition("\n---\n")[0].partition("\n\n")
    subject = re.search(r"(?m)^Subject: \[PATCH \d/4\] (\S+: .+)$", head)
    assert subject and len(subject[1]) <= 72
    assert len(message) > 200 and all(len(line) <= 80 for line in message.splitlines())


@pytest.mark.parametrize("diff", DIFFS, ids=lambda diff: diff.stem)
def test_the_digests_name_the_files_of_the_diff(diff: Path) -> None:
    listed = [
        line.split()
        for line in diff.with_suffix(".digests").read_text(encoding="utf-8").splitlines()
    ]
    changed = files(diff)
    assert sorted(path for _, _, path in listed) == sorted(changed)
    for before, after, path in listed:
        if before == "absent":  # a new file is entirely in the diff
            text = "".join(line[1:] + "\n" for line in changed[path] if line.startswith("+"))
            assert hashlib.sha256(text.encode()).hexdigest() == after, path


def test_a_directory_without_sources_is_refused(tmp_path: Path) -> None:
    done = apply(tmp_path)
    assert done.returncode == 1
    assert "no FreeBSD source tree" in done.stderr


def test_an_unknown_release_is_refused_and_the_known_ones_are_named(tmp_path: Path) -> None:
    done = apply(tree(tmp_path, "14.3"))
    assert done.returncode == 1
    assert "no diff for FreeBSD 14.3, only for: 13.2 15.1" in done.stderr


def test_modified_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    strange = tree(tmp_path, "13.2") / "sys" / "amd64" / "vmm" / "vmm.c"
    strange.parent.mkdir(parents=True)
    strange.write_text("changed locally\n", encoding="utf-8")
    done = apply(tmp_path)
    assert done.returncode == 1
    assert "nothing is changed" in done.stderr
    assert " sys/amd64/vmm/vmm.c" in done.stderr
    assert strange.read_text(encoding="utf-8") == "changed locally\n"
    assert not (tmp_path / "sys" / "amd64" / "vmm" / "vmm_shadow.c").exists()


def test_an_extra_argument_is_a_usage_error(tmp_path: Path) -> None:
    assert apply(tmp_path, tmp_path).returncode == 2
