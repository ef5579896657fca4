"""Run rigs, store their records, and print a table of the results.

Exit codes: 0 every rig that can run here did; 1 rigs failed for several reasons; else the error's.
SIGINT, SIGTERM and SIGHUP end it after clean-up with 130, 143, 129; a second signal does not wait.
"""

from __future__ import annotations

import argparse
import copy
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import option_types, paths
from harness.claims import of_run
from harness.errors import (
    CoppiceError,
    PluginError,
    Unsupported,
    UsageError,
)
from harness.host.session import open_run
from harness.measure import benchmark_files, machine
from harness.measure.comparison import Thresholds
from harness.measure.record import find, load
from harness.measure.selection import INTERLEAVE, compare_sides, select
from harness.measure.storage import make_ready
from harness.rig import kernel_option, measuring_process, repetition, summary
from harness.rig.discovery import Rig, discover, substrates_of
from harness.rig.info import RigInfo
from harness.sandbox.protocol import Tier, refused
from harness.sandbox.protocol import load as load_substrate

HELP = "run rigs and store their records"
DESCRIPTORS = 240
"""Free file descriptors that sandboxes need at least, and the programs that run them."""
ISOLATED = (sys.executable, "-P")
"""Python that does not import from the current directory."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rig", nargs="?", help="a rig's id, such as cold-start")
    parser.add_argument(
        "--all", action="store_true", help="run every rig that can run here, except long ones"
    )
    parser.add_argument(
        "--substrate", action="append", default=[], metavar="NAME",
        help="only this substrate, such as qemu; may be repeated (coppice doctor lists them)",
    )  # fmt: skip
    parser.add_argument(
        "--tier", action="append", default=[],
        help=f"only this tier, of {', '.join(Tier)}; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--concurrency", action="append", type=option_types.number(1), default=[], metavar="N",
        help="only cases with this many requests at once; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--profile", choices=("quick", "full"), default="quick",
        help="how many samples, and whether the slow cases run too (default: quick)",
    )  # fmt: skip
    parser.add_argument("--site", action="store_true", help="build the site afterwards")
    parser.add_argument(
        "--results",
        type=option_types.path,
        default=paths.default_results(),
        metavar="DIR",
        help="where records are stored (default: ./results)",
    )
    parser.add_argument(
        "--interleave",
        nargs=2,
        metavar=("A", "B"),
        help="run two configurations in alternation (A B B A …) and compare them; each consists of "
        "NAME=VALUE pairs joined by commas: tier=full, an option of the rig, a COPPICE_ variable",
    )
    parser.add_argument(
        "--rounds", type=option_types.number(1), default=10, metavar="N",
        help="rounds of --interleave (default: 10)",
    )  # fmt: skip
    kernel_option.arguments(parser)
    repetition.arguments(parser)
    of_rigs = parser.add_argument_group("options of single rigs, which stand in brackets")
    for name, (info, helps) in sorted(_options_of_rigs().items()):
        # So that it does not look like an option of every rig.
        help = "; ".join(f"{text} ({', '.join(rigs)})" for text, rigs in helps.items())
        if name in info.flags:
            of_rigs.add_argument(f"--{name}", action="store_const", const="yes", help=help)
        else:
            of_rigs.add_argument(f"--{name}", metavar="VALUE", help=help)


def _options_of_rigs() -> dict[str, tuple[RigInfo, dict[str, list[str]]]]:
    """The options and flags of rigs: name -> a rig that declares it, and the rigs by help text."""
    found: dict[str, tuple[RigInfo, dict[str, list[str]]]] = {}
    for id, rig in discover().found.items():
        for name, help in {**rig.info.options, **rig.info.flags}.items():
            found.setdefault(name, (rig.info, {}))[1].setdefault(help, []).append(id)
    return found


def main(options: argparse.Namespace) -> int:
    discovered = discover()
    rigs = discovered.found
    for where, why in {**refused(), **discovered.broken}.items():
        print(f"coppice: skipped {where}: {why}", file=sys.stderr)
    if options.rig is not None and options.rig not in rigs:
        raise UsageError(
            f"no rig is called {options.rig!r}", hint=f"rigs: {', '.join(sorted(rigs))}"
        )
    if options.rig is None and not options.all:
        raise UsageError("name a rig, or use --all", hint=f"rigs: {', '.join(sorted(rigs))}")
    repetition.check(options)
    chosen = selected(rigs, options.rig)
    infos = [rig.info for rig in chosen]
    kernel_option.take(options, infos)
    given = _require_possible(options, infos)
    make_ready(options.results, machine.describe(None).id)
    files = [rig.path for rig in chosen]
    before = set(find(options.results))
    if options.interleave:
        return _interleave(files, options, infos)
    code = repetition.repeated(options, lambda: _once(files, options, given))
    if options.site and set(find(options.results)) - before:
        code = _build_site(options.results) or code
    return code


def _once(files: list[Path], options: argparse.Namespace, given: Mapping[str, str]) -> int:
    """One run of the chosen rigs, with the summary of its records."""
    before = set(find(options.results))
    code = _pytest(files, options, given)
    made = [path for path in find(options.results) if path not in before]
    for line in summary.lines(made) if options.rig else ():
        print(line)
    for line in summary.emulated_beside_kvm([load(path) for path in made]):
        print(line)
    _tell_claims(made)
    if made:
        print(f"\nrecords: {made[0].parent}", flush=True)
    if not made and code == 0:
        raise Unsupported("nothing that was requested can run here", hint="coppice doctor")
    return code


def _tell_claims(made: Sequence[Path]) -> None:
    """Print the claims that these records speak to. What was measured stands without them.

    A host that measures for another one has no published figures: the other one tells.
    """
    if not paths.PUBLISHED.is_dir():
        return
    try:
        for line in of_run.lines([load(path) for path in made]):
            print(line)
    except CoppiceError as error:
        print(
            f"coppice: the claims that this run speaks to cannot be told: {error}", file=sys.stderr
        )


def selected(rigs: Mapping[str, Rig], id: str | None) -> list[Rig]:
    """The rig of this id, or without an id every rig whose quick run does not take long."""
    return [rigs[id]] if id else [rig for rig in rigs.values() if not rig.info.long]


def main_remote(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run rigs on the host that COPPICE_HOST names, and fetch their records."""
    from harness.remote import remote_run

    if getattr(options, "endpoint", None):
        raise UsageError(
            "a service is measured from this machine, which has its key and coppice.toml",
            hint="env -u COPPICE_HOST coppice run ...",
        )
    make_ready(options.results)
    before = set(find(options.results))
    code = remote_run.run_remotely(
        remote_run.address(),
        remote_run.drop_options(argv, "--results", flags=["--site"]),
        options.results,
    )
    made = [path for path in find(options.results) if path not in before]
    _tell_claims(made)
    if made:
        print(f"records fetched to {made[0].parent}")
    if code:
        print(f"directories named as kept are on {os.environ['COPPICE_HOST']}", file=sys.stderr)
    if options.site and made:
        code = _build_site(options.results) or code
    return code


def _build_site(results: Path) -> int:
    # In a separate process: a process that measures never loads the renderer.
    site = [*ISOLATED, "-m", "harness", "site", "--results", str(results)]
    return subprocess.call(site)


LISTS = ("substrate", "tier", "concurrency")
"""Options that select a rig's cases, and may be repeated."""


def _interleave(files: list[Path], options: argparse.Namespace, rigs: Sequence[RigInfo]) -> int:
    """Run two configurations in alternation and compare them round by round.

    Every record names its session and round, so that `coppice compare` can repeat the comparison.
    """
    from harness.commands import compare

    if options.rounds < 1:
        raise UsageError(f"--rounds {options.rounds}: must be at least 1")
    before = set(find(options.results))
    session = secrets.token_hex(4)
    arms = {"a": options.interleave[0], "b": options.interleave[1]}
    settings = {arm: _arm(text, options, rigs) for arm, text in arms.items()}
    for own, environment in settings.values():
        kernel_option.check({**os.environ, **environment})
        _require_possible(own, rigs)
    for arm, text in arms.items():  # last, since it takes a second
        _require_cases(f"{arm.upper()} ({text})", files, settings[arm][0], rigs)
    sides = [f"interleave={session}/{arm}" for arm in arms]
    for number in range(options.rounds):
        # A B, then B A: steady drift affects both alike.
        for arm in ("ab", "ba")[number % 2]:
            own, environment = settings[arm]
            turn = {**environment, INTERLEAVE: f"{session}/{arm}/{number}"}
            code = _pytest(files, own, _given(own, rigs), turn)
            if code:
                return code
        if not set(find(options.results)) - before:
            raise Unsupported("nothing that was requested can run here", hint="coppice doctor")
        if number == 0:
            # Sides that cannot be compared after one round cannot after ten.
            a, b = (select(side, options.results) for side in sides)
            compare_sides(a, b, Thresholds())
    command = [*sides, "--results", str(options.results)]
    print(f"\nA is {arms['a']}, B is {arms['b']}; coppice compare {' '.join(command)}")
    parser = argparse.ArgumentParser()
    compare.arguments(parser)
    return compare.main(parser.parse_args([*command, "--fail-on", "never", "--suspect"]))


def _require_possible(own: argparse.Namespace, rigs: Sequence[RigInfo]) -> dict[str, str]:
    """Raise for a configuration of which a tier, a substrate or an option is not possible.

    Returns the values given for options of rigs.
    """
    for tier in own.tier:
        if tier not in tuple(Tier):
            raise UsageError(f"no tier is called {tier!r}", hint=f"tiers: {', '.join(Tier)}")
    for name in own.substrate:
        _require_runnable(name, (own.tier or ["full"])[0])
    _require_measurable(rigs, own.substrate, own.tier)
    return _given(own, rigs)


def _require_cases(
    arm: str, files: Sequence[Path], own: argparse.Namespace, rigs: Sequence[RigInfo]
) -> None:
    """Raise, before anything is measured, for a configuration that selects no case."""
    command = [*ISOLATED, str(paths.PYTEST_PROCESS), "--collect-only", "-q", *map(str, files)]
    command += ["-c", str(paths.PYTEST_INI), "--rootdir", str(paths.DATA)]
    command += [f"--coppice-profile={own.profile}", *_selecting(own)]
    environment = measuring_process.own_environment()
    found = subprocess.run(command, capture_output=True, env=environment)
    if found.returncode == measuring_process.NOTHING_COLLECTED:
        raise UsageError(
            f"{arm} selects no case of {', '.join(info.id for info in rigs)}",
            hint="nothing was measured; coppice run RIG --help lists what selects cases",
        )


def _selecting(options: argparse.Namespace) -> list[str]:
    """The options of pytest that select cases."""
    return [f"--coppice-{name}={value}" for name in LISTS for value in getattr(options, name)]


def _arm(
    text: str, options: argparse.Namespace, rigs: Sequence[RigInfo]
) -> tuple[argparse.Namespace, dict[str, str]]:
    """The options and environment of one configuration."""
    own, environment = copy.deepcopy(options), {}
    known = {name for info in rigs for name in (*info.options, *info.flags)}
    for pair in text.split(","):
        name, equals, value = pair.strip().partition("=")
        if not equals:
            raise UsageError(f"{pair!r} in --interleave is not NAME=VALUE")
        if name.startswith("COPPICE_"):
            environment[name] = value
        elif name in LISTS:
            setattr(own, name, [_concurrency(value) if name == "concurrency" else value])
        elif name in known:
            setattr(own, name.replace("-", "_"), value)
        else:
            raise UsageError(
                f"--interleave does not know {name!r}",
                hint=f"names: {', '.join((*LISTS, *sorted(known)))} and COPPICE_ variables",
            )
    return own, environment


def _concurrency(text: str) -> int:
    try:
        return option_types.number(1)(text)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"concurrency={text} in --interleave: {error}") from error


def _require_runnable(name: str, tier: str) -> None:
    """Raise Unsupported for a substrate that the user named and that cannot run here."""
    try:
        needs = load_substrate(name).requirements()
    except CoppiceError:
        raise
    except Exception as error:  # another package may fail in any way
        raise PluginError(f"{name} cannot say what it requires: {error!r}") from error
    for need in needs:
        if not need.satisfied:
            remedy = need.remedy.replace("TIER", tier) if need.remedy else None
            raise Unsupported(f"{name} needs {need.what}; {need.detail}", hint=remedy)


def _require_measurable(
    rigs: Sequence[RigInfo], named: Sequence[str], tiers: Sequence[str]
) -> None:
    """Raise UsageError for substrates that none of the chosen rigs can measure in these tiers."""
    for name in named:
        own = load_substrate(name).tiers
        if tiers and not set(tiers) & set(own):
            raise UsageError(
                f"{name} has no tier {' or '.join(tiers)}", hint=f"its tiers: {', '.join(own)}"
            )
        choosing = [info for info in rigs if info.wants is not None]
        if choosing and not any(substrates_of(info, [name]) for info in choosing):
            suitable = sorted(
                {substrate.name for info in choosing for substrate in substrates_of(info)}
            )
            raise UsageError(
                f"{', '.join(info.id for info in choosing)} cannot measure {name}: "
                "it lacks a tier or sharing that the rig needs",
                hint=f"substrates: {', '.join(suitable)}",
            )


def _given(options: argparse.Namespace, rigs: Sequence[RigInfo]) -> dict[str, str]:
    """The values given for options of rigs. Raises UsageError if no chosen rig has an option."""
    given: dict[str, str] = {
        name: value
        for name in _options_of_rigs()
        if (value := getattr(options, name.replace("-", "_"))) is not None
    }
    for name in given:
        if not any(name in (*info.options, *info.flags) for info in rigs):
            raise UsageError(f"{rigs[0].id} has no option --{name}", hint="coppice run --help")
    for info in rigs:
        for name, value in info.ask(given).items():
            given[name] = value
            setattr(options, name.replace("-", "_"), value)  # so that it is asked only once
        info.check(given)
    return given


def _pytest(
    files: list[Path],
    options: argparse.Namespace,
    given: Mapping[str, str],
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run the rigs in a separate process, which imports nothing that they do not need."""
    # In a run's directory: `coppice clean` removes it after this process was killed.
    with open_run() as owner:
        benchmarks = owner.directory / "benchmark.json"
        command = [*ISOLATED, str(paths.PYTEST_PROCESS), *map(str, files)]
        command += ["-c", str(paths.PYTEST_INI), "--rootdir", str(paths.DATA)]
        command += ["-p", "harness.rig.progress"]
        command += [f"--benchmark-json={benchmarks}", "--benchmark-quiet"]
        command += [f"--coppice-profile={options.profile}"]
        command += [f"--coppice-results={options.results.absolute()}"]
        # Otherwise pytest-benchmark makes a directory where the user is.
        command += [f"--benchmark-storage=file://{owner.directory}"]
        command += _selecting(options)
        command += [f"--coppice-set={name}={value}" for name, value in given.items()]
        try:
            code = measuring_process.run(command, environment or {})
        finally:  # an interrupted run may have stored records, too
            if benchmarks.exists() and benchmarks.stat().st_size:
                benchmark_files.store(benchmarks, options.results)
    if code == measuring_process.NOTHING_COLLECTED:
        if selecting := " ".join(_selecting(options)).replace("--coppice-", "--"):
            raise UsageError(
                f"no case of {options.rig or 'any rig'} has {selecting}",
                hint="coppice run RIG measures all of its cases, and names each",
            )
        return 0
    return code
