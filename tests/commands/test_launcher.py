"""bin/mise with the real mise from npm: its arguments, exit codes and errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIERS = ("full", "durable-pool", "durable-prewarm-pool", "prewarm-pool")
TOOLS = ("chmod", "dirname", "env", "find", "id", "mkdir", "mktemp", "mv", "readlink", "rm", "sh")
MORE_TOOLS = ("sha256sum", "uname")
SHOWS = """
case ${1-} in --version) echo "$VERSION linux-x64"; exit;; esac
printf '%s\\n' "$PWD" "$MISE_TRUSTED_CONFIG_PATHS" "$MISE_CEILING_PATHS" "$@"
exit 7
"""


def _program(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def _mise(
    *arguments: str,
    root: Path = ROOT,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    via: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [via or root / "bin" / "mise", *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An empty home, and a PATH of the few tools that every system has."""
    path = tmp_path / "path"
    path.mkdir()
    for tool in TOOLS + MORE_TOOLS:
        found = shutil.which(tool)
        assert found
        (path / tool).symlink_to(found)
    home = tmp_path / "home"
    home.mkdir()
    return {"PATH": str(path), "HOME": str(home)}


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with a fresh home and cache, after two launchers downloaded mise at once."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm: apt-get install npm")
    home = tmp_path_factory.mktemp("home")
    directories = os.environ["PATH"].split(":")
    path = ":".join(place for place in directories if not (Path(place) / "mise").exists())
    env = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "PATH": path}
    env = {name: value for name, value in env.items() if not name.startswith("MISE_")}
    if (config := Path.home() / ".npmrc").exists():  # how this machine reaches npm's registry
        env["NPM_CONFIG_USERCONFIG"] = str(config)
    command = [str(ROOT / "bin" / "mise"), "--version"]
    both = [
        subprocess.Popen(command, env=env, cwd="/", text=True, stdout=-1, encoding="utf-8")
        for _ in range(2)
    ]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1]
    return env


def test_the_pinned_version_is_downloaded_once(downloaded: dict[str, str]) -> None:
    [directory] = (Path(downloaded["XDG_CACHE_HOME"]) / "coppice" / "mise").iterdir()
    assert [path.name for path in directory.iterdir()] == ["mise"]
    without_npm = {**downloaded, "PATH": "/usr/bin:/bin", "npm_config_offline": "true"}
    done = _mise("--version", env=without_npm, cwd=Path("/"))
    assert done.stdout.startswith(directory.name)
    assert done.stderr == ""


def test_tasks_are_available_from_any_directory(downloaded: dict[str, str], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(ROOT / "bin" / "mise")
    done = _mise("tasks", "--json", env=downloaded, cwd=tmp_path, via=link)
    tasks = {task["name"]: task for task in json.loads(done.stdout)}
    assert {"setup", "bench", "test", "site", "doctor", "clean"} <= tasks.keys()
    for substrate in ("qemu", "bhyve"):
        for tier in TIERS:
            assert tier in tasks[f"bench:{substrate}-{tier}"]["description"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the real launcher and tasks; its setup and coppice print their arguments."""
    root = tmp_path / "a checkout"
    (root / "rigs").mkdir(parents=True)
    shutil.copy(ROOT / "rigs" / "tasks.toml", root / "rigs" / "tasks.toml")
    (root / "bin").mkdir()
    shutil.copy2(ROOT / "bin" / "mise", root / "bin" / "mise")
    shutil.copy2(ROOT / "mise.toml", root / "mise.toml")
    _program(root / "bin" / "setup", "echo set up")
    _program(root / ".venv" / "bin" / "coppice", "printf '<%s>\\n' \"$@\"; exit 69")
    return root


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("substrate", ["qemu", "bhyve"])
def test_bench_tasks_pass_on_arguments_output_and_exit_code(
    downloaded: dict[str, str], checkout: Path, substrate: str, tier: str
) -> None:
    task = f"bench:{substrate}-{tier}"
    done = _mise("run", task, "--", "--profile", "full", "a b", root=checkout, env=downloaded)
    own = ["run", "cold-start", "--substrate", substrate, "--tier", tier]
    argv = [*own, "--profile", "full", "a b"]
    assert done.stdout.splitlines() == ["set up", *(f"<{argument}>" for argument in argv)]
    assert done.returncode == 69


def test_tasks_and_tools_of_other_directories_are_ignored(
    downloaded: dict[str, str], checkout: Path
) -> None:
    """A mise.toml above the checkout may belong to another project, and require downloads."""
    (checkout.parent / "mise.toml").write_text(
        '[tools]\nnode = "99.0.0"\n[tasks.foreign]\nrun = "true"\n', encoding="utf-8"
    )
    done = _mise("tasks", "--json", root=checkout, env=downloaded)
    names = {task["name"] for task in json.loads(done.stdout)}
    assert "doctor" in names
    assert "foreign" not in names
    assert _mise("run", "doctor", root=checkout, env=downloaded).stdout == "set up\n<doctor>\n"


def test_a_mise_on_path_is_used_with_every_argument(bare: dict[str, str], tmp_path: Path) -> None:
    _program(tmp_path / "path" / "mise", SHOWS)
    arguments = ["run", "bench", "--", "a b", "", "*", "$HOME"]
    done = _mise(*arguments, env={**bare, "VERSION": "2026.1.1"}, cwd=tmp_path)
    assert done.stdout.splitlines() == [str(ROOT), str(ROOT), str(ROOT.parent), *arguments]
    assert done.returncode == 7


@pytest.mark.parametrize("version", ["2024.12.9", "1.0", ""])
def test_a_mise_that_is_too_old_is_not_used(
    bare: dict[str, str], tmp_path: Path, version: str
) -> None:
    _program(tmp_path / "path" / "mise", SHOWS)
    done = _mise("run", "bench", env={**bare, "VERSION": version})
    assert done.returncode == 69
    assert done.stdout == ""


def _fails(env: Mapping[str, str], message: str) -> None:
    done = _mise("--version", env=env)
    assert done.returncode == 69
    last = done.stderr.splitlines()[-1]
    assert last.startswith("bin/mise: ")
    assert message in last
    left = Path(env["HOME"]).rglob("*")
    assert [path for path in left if path.is_file() or path.name.startswith(".obtaining")] == []


def test_a_binary_other_than_the_pinned_one_is_never_run(
    bare: dict[str, str], tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    fake = f'printf \'#!/bin/sh\\ntouch {ran}\\n\' >"$got/mise"; chmod +x "$got/mise"'
    place = 'got=$3/node_modules/@jdxcode/mise-linux-x64/bin; mkdir -p "$got"'
    _program(tmp_path / "path" / "npm", f"{place}\n{fake}")
    _fails(bare, "its sha256 differs")
    assert not ran.exists()


def test_an_unsupported_platform_is_refused_in_one_sentence(
    bare: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "path" / "uname").unlink()
    _program(tmp_path / "path" / "uname", "echo Plan9")
    _fails(bare, "npm has no mise for this platform")
