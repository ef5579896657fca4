"""bin/mise with the real mise, as npm brings it; and what its arguments and refusals come to."""

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
    path.write_text(f"#!/bin/sh\n{body}\n")
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
        [via or root / "bin" / "mise", *arguments], cwd=cwd, env=env, capture_output=True, text=True
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
def obtained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with an empty home and cache, after two launchers at once obtained mise."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm: apt-get install npm")
    home = tmp_path_factory.mktemp("home")
    directories = os.environ["PATH"].split(":")
    path = ":".join(one for one in directories if not (Path(one) / "mise").exists())
    env = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "PATH": path}
    env = {name: value for name, value in env.items() if not name.startswith("MISE_")}
    if (config := Path.home() / ".npmrc").exists():  # how this machine reaches npm's registry
        env["NPM_CONFIG_USERCONFIG"] = str(config)
    command = [str(ROOT / "bin" / "mise"), "--version"]
    both = [subprocess.Popen(command, env=env, cwd="/", text=True, stdout=-1) for _ in range(2)]
    said = [one.communicate()[0] for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert said[0] == said[1]
    return env


def test_it_is_obtained_once_whole_and_pinned(obtained: dict[str, str]) -> None:
    [directory] = (Path(obtained["XDG_CACHE_HOME"]) / "coppice" / "mise").iterdir()
    assert [one.name for one in directory.iterdir()] == ["mise"]
    without_npm = {**obtained, "PATH": "/usr/bin:/bin", "npm_config_offline": "true"}
    done = _mise("--version", env=without_npm, cwd=Path("/"))
    assert done.stdout.startswith(directory.name)
    assert done.stderr == ""


def test_the_tasks_are_there_from_any_directory(obtained: dict[str, str], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(ROOT / "bin" / "mise")
    done = _mise("tasks", "--json", env=obtained, cwd=tmp_path, via=link)
    tasks = {task["name"]: task for task in json.loads(done.stdout)}
    assert {"setup", "bench", "test", "site", "doctor", "clean"} <= tasks.keys()
    for substrate in ("qemu", "bhyve"):
        for tier in TIERS:
            assert tier in tasks[f"bench:{substrate}-{tier}"]["description"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the real launcher and tasks, whose set-up and coppice only say what came."""
    root = tmp_path / "a checkout"
    shutil.copytree(ROOT / "rigs" / "tasks", root / "rigs" / "tasks")
    (root / "bin").mkdir()
    shutil.copy2(ROOT / "bin" / "mise", root / "bin" / "mise")
    shutil.copy2(ROOT / "mise.toml", root / "mise.toml")
    _program(root / "bin" / "setup", "echo set up")
    _program(root / ".venv" / "bin" / "coppice", "printf '<%s>\\n' \"$@\"; exit 69")
    return root


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("substrate", ["qemu", "bhyve"])
def test_bench_tasks_pass_arguments_output_and_exit_code_on(
    obtained: dict[str, str], checkout: Path, substrate: str, tier: str
) -> None:
    task = f"bench:{substrate}-{tier}"
    done = _mise("run", task, "--", "--profile", "full", "a b", root=checkout, env=obtained)
    own = ["run", "cold-start", "--substrate", substrate, "--tier", tier]
    words = [*own, "--profile", "full", "a b"]
    assert done.stdout.splitlines() == ["set up", *(f"<{word}>" for word in words)]
    assert done.returncode == 69


def test_other_directories_tasks_and_tools_stay_out(
    obtained: dict[str, str], checkout: Path
) -> None:
    """A mise.toml above the checkout may be anybody's, and ask for tools that would be fetched."""
    (checkout.parent / "mise.toml").write_text(
        '[tools]\nnode = "99.0.0"\n[tasks.theirs]\nrun = "true"\n'
    )
    done = _mise("tasks", "--json", root=checkout, env=obtained)
    names = {task["name"] for task in json.loads(done.stdout)}
    assert "doctor" in names
    assert "theirs" not in names
    assert _mise("run", "doctor", root=checkout, env=obtained).stdout == "set up\n<doctor>\n"


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


def _fails(env: Mapping[str, str], words: str) -> None:
    done = _mise("--version", env=env)
    assert done.returncode == 69
    last = done.stderr.splitlines()[-1]
    assert last.startswith("bin/mise: ")
    assert words in last
    left = Path(env["HOME"]).rglob("*")
    assert [one for one in left if one.is_file() or one.name.startswith(".obtaining")] == []


def test_another_binary_than_the_pinned_one_is_never_run(
    bare: dict[str, str], tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    fake = f'printf \'#!/bin/sh\\ntouch {ran}\\n\' >"$got/mise"; chmod +x "$got/mise"'
    place = 'got=$3/node_modules/@jdxcode/mise-linux-x64/bin; mkdir -p "$got"'
    _program(tmp_path / "path" / "npm", f"{place}\n{fake}")
    _fails(bare, "its sha256 differs")
    assert not ran.exists()


def test_another_platform_one_sentence(bare: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "path" / "uname").unlink()
    _program(tmp_path / "path" / "uname", "echo Plan9")
    _fails(bare, "npm has no mise for this platform")
