"""Every verdict, and the rules between them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from harness.claims import claims, published, verdict
from harness.claims.claims import Answer, Claim, ClaimError
from harness.claims.verdict import Evidence, Mark, Verdict, Ways, judge
from harness.measure import statistics
from harness.measure.conditions import Conditions, Reach
from harness.measure.statistics import samples_needed

PUBLISHED = Path(__file__).parents[2] / "results/published"
FIGURES = published.load(PUBLISHED)
FIGURE = next(one for one in FIGURES if one.id == "coppice.net.rtt-p50")
ANSWER = Answer(
    "net-rtt", "rtt", "p50", "at-most", True, "the same clock", "mise run bench:net-rtt"
)
OWN = "pf"
CLAIM = Claim("a", "A claim", "7 µs", FIGURE, "netperf", OWN, [ANSWER])
BOUND = 7e-6


def around(centre: float, n: int = 100, seed: int = 1) -> list[float]:
    chance = random.Random(seed)
    return [centre * chance.lognormvariate(0, 0.05) for _ in range(n)]


def test_a_verdict_on_the_merits_needs_the_whole_interval_on_one_side() -> None:
    assert judge(CLAIM, ANSWER, Evidence(around(0.8 * BOUND))).verdict is Verdict.REACHED
    assert judge(CLAIM, ANSWER, Evidence(around(1.2 * BOUND))).verdict is Verdict.NOT_REACHED
    higher = replace(ANSWER, holds="at-least")
    assert judge(CLAIM, higher, Evidence(around(1.2 * BOUND))).verdict is Verdict.REACHED
    assert judge(CLAIM, higher, Evidence(around(0.8 * BOUND))).verdict is Verdict.NOT_REACHED


def test_inconclusive_says_what_it_would_take() -> None:
    found = judge(CLAIM, ANSWER, Evidence(around(1.003 * BOUND)))
    assert found.verdict is Verdict.INCONCLUSIVE and found.needed and found.needed > 100
    enough = judge(CLAIM, ANSWER, Evidence(around(1.003 * BOUND, 4 * found.needed, 2)))
    assert enough.verdict is Verdict.NOT_REACHED
    few = judge(CLAIM, ANSWER, Evidence(around(0.5 * BOUND, 3)))
    assert (few.verdict, few.needed) == (Verdict.INCONCLUSIVE, 6)
    tail = judge(CLAIM, replace(ANSWER, statistic="p99"), Evidence(around(0.5 * BOUND, 100)))
    assert tail.verdict is Verdict.INCONCLUSIVE and tail.needed and tail.needed >= 368
    equal = judge(CLAIM, ANSWER, Evidence([BOUND * (0.9 + 0.002 * k) for k in range(1, 101)]))
    assert (equal.verdict, equal.needed) == (Verdict.INCONCLUSIVE, None)


def test_another_clock_concludes_nothing_however_far_apart() -> None:
    other = replace(ANSWER, comparable=False, why="its clock could not be read")
    found = judge(CLAIM, other, Evidence(around(BOUND / 100)))
    assert found.verdict is Verdict.NOT_COMPARABLE and found.estimate
    assert found.reasons[0] == "its clock could not be read"


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (None, "no record"),
        (Evidence([], 3), "all 3 attempts failed"),
        (Evidence([]), "nothing was attempted"),
    ],
)
def test_not_measured_says_why(evidence: Evidence | None, words: str) -> None:
    found = judge(CLAIM, ANSWER, evidence)
    assert found.verdict is Verdict.NOT_MEASURED and found.estimate is None
    assert words in found.reasons[0]


def test_a_disturbed_run_decides_nothing() -> None:
    for status in ("suspect", "failed"):
        found = judge(CLAIM, ANSWER, Evidence(around(0.1 * BOUND), validity=status))
        assert found.verdict is Verdict.INCONCLUSIVE and status in found.reasons[0]


def test_what_has_changed_since_marks_a_verdict_and_changes_none() -> None:
    mark = Mark("rig", "the rig has changed since", "mise run bench:net-rtt")
    for centre in (0.8, 1.003, 1.2):
        plain = judge(CLAIM, ANSWER, Evidence(around(centre * BOUND)))
        found = judge(CLAIM, ANSWER, Evidence(around(centre * BOUND), marks=(mark,)))
        assert found == replace(plain, marks=(mark,))


def test_only_the_claims_own_system_reproduces_or_contradicts_it() -> None:
    below, above = around(0.8 * BOUND), around(1.2 * BOUND)
    for system, held, failed in (
        (OWN, Verdict.REPRODUCED, Verdict.CONTRADICTED),
        ("nftables", Verdict.REACHED, Verdict.NOT_REACHED),
        ("", Verdict.REACHED, Verdict.NOT_REACHED),
    ):
        assert judge(CLAIM, ANSWER, Evidence(below, system=system)).verdict is held
        found = judge(CLAIM, ANSWER, Evidence(above, system=system))
        assert (found.verdict, found.system) == (failed, system)
    open_ = judge(CLAIM, ANSWER, Evidence(around(1.003 * BOUND), system=OWN))
    assert open_.verdict is Verdict.INCONCLUSIVE


def test_a_verdict_is_read_with_its_conditions() -> None:
    samples = around(0.8 * BOUND)
    assert judge(CLAIM, ANSWER, Evidence(samples)).text == "reached here"
    forked = Conditions("tcg", Reach.EMULATION)
    found = judge(CLAIM, ANSWER, Evidence(samples, conditions=forked))
    assert found.text == "reached here, emulated, possible under TCG only"
    real = judge(CLAIM, ANSWER, Evidence(samples, conditions=Conditions("kvm", Reach.ANYWHERE)))
    assert real.text == "reached here"
    unknown = judge(CLAIM, ANSWER, Evidence(samples, conditions=Conditions(None, Reach.ANYWHERE)))
    assert unknown.text == "reached here, accelerator not recorded"
    assert replace(found, ways=Ways(1, 3)).text.endswith(", 1 of 3 ways")
    assert replace(found, ways=Ways(1, 1)).text == found.text


def test_the_program_that_a_pool_has_rehearsed_is_named() -> None:
    rehearsed = Conditions("kvm", Reach.ANYWHERE, rehearsed=True)
    found = judge(CLAIM, ANSWER, Evidence(around(0.8 * BOUND), conditions=rehearsed))
    assert found.text == "reached here, rehearsed"
    other = replace(rehearsed, rehearsed=False)
    assert judge(CLAIM, ANSWER, Evidence(around(0.8 * BOUND), conditions=other)).text == (
        "reached here, not rehearsed"
    )


def test_repeated_readings_have_no_interval_and_must_all_lie_on_one_side() -> None:
    readings = Conditions("none", Reach.ANYWHERE, readings=True)
    samples = [BOUND * (0.99 - 0.001 * number) for number in range(11)]
    found = judge(CLAIM, ANSWER, Evidence(samples, conditions=readings))
    assert found.verdict is Verdict.REACHED and found.estimate and not found.estimate.bounded
    one_above = Evidence([*samples, 1.01 * BOUND], conditions=readings)
    assert judge(CLAIM, ANSWER, replace(one_above, conditions=None)).verdict is Verdict.REACHED
    undecided = judge(CLAIM, ANSWER, one_above)
    assert (undecided.verdict, undecided.needed) == (Verdict.INCONCLUSIVE, None)
    assert undecided.reasons == ("readings lie on both sides of the claimed value",)
    each = [8 * sample for sample in samples]
    divided = judge(CLAIM, ANSWER, Evidence(each, divisor=8, conditions=readings))
    assert divided.verdict is Verdict.REACHED


def test_what_it_would_take_is_asked_of_samples_that_are_not_divided() -> None:
    samples = around(1.003 * BOUND)
    whole = judge(CLAIM, ANSWER, Evidence(samples))
    each = judge(CLAIM, ANSWER, Evidence([10 * one for one in samples], divisor=10))
    assert whole.verdict is each.verdict is Verdict.INCONCLUSIVE
    assert whole.needed == each.needed == samples_needed(samples, 50, BOUND)
    few = judge(CLAIM, ANSWER, Evidence([10 * one for one in samples[:5]], divisor=10))
    assert few.verdict is Verdict.INCONCLUSIVE
    assert few.needed == samples_needed(samples[:5], 50, BOUND)


def test_an_interval_that_ends_at_the_claimed_value_excludes_it_not() -> None:
    ends = statistics.estimate(around(BOUND), 50)
    assert ends.low is not None and ends.high is not None
    for end in (ends.low, ends.high):
        at = replace(ANSWER, bound=end)
        assert judge(CLAIM, at, Evidence(around(BOUND))).verdict is Verdict.INCONCLUSIVE
        beyond = replace(ANSWER, bound=end * (1 + 1e-9 if end == ends.high else 1 - 1e-9))
        assert judge(CLAIM, beyond, Evidence(around(BOUND))).verdict is not Verdict.INCONCLUSIVE


@pytest.mark.parametrize("percent", [50, 90, 95, 99])
def test_an_answers_percentile_is_the_one_that_it_names(percent: int) -> None:
    samples = around(BOUND, 400)
    named = replace(ANSWER, statistic=f"p{percent}")
    found = verdict.estimate(named, Evidence([4 * one for one in samples], divisor=4))
    assert found == statistics.estimate(samples, percent)
    # As many as would tell that very percentile from the claimed value.
    close = replace(named, bound=found.value)
    assert judge(CLAIM, close, Evidence(samples)).needed == samples_needed(
        samples, percent, found.value
    )


def test_other_statistics_are_of_all_there_was() -> None:
    samples = [3.0, 1.0, 2.0, 6.0]
    for name, value in (("min", 1.0), ("max", 6.0), ("sum", 12.0), ("count", 4.0)):
        of = replace(ANSWER, statistic=name)
        assert verdict.estimate(of, Evidence(samples, divisor=2)).value == value / 2
        # Counted, not estimated: the claimed value itself is met.
        for holds in ("at-most", "at-least"):
            exact = replace(of, holds=holds, bound=value)
            assert judge(CLAIM, exact, Evidence(samples)).verdict is Verdict.REACHED
    mean = replace(ANSWER, statistic="mean", bound=1.001 * BOUND)
    found = judge(CLAIM, mean, Evidence(around(BOUND)))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.needed == samples_needed(around(BOUND), 50, 1.001 * BOUND)


def test_of_a_published_range_ours_must_be_within_the_end_that_is_worse() -> None:
    """Of times, the upper end is what was promised at most; of rates, the lower one at least."""
    ranged = replace(CLAIM, figure=replace(FIGURE, value=BOUND, upper=3 * BOUND))
    at_least = replace(ANSWER, holds="at-least")
    assert (ranged.bound(ANSWER), ranged.bound(at_least)) == (3 * BOUND, BOUND)
    between = Evidence(around(2 * BOUND))
    assert judge(ranged, ANSWER, between).verdict is Verdict.REACHED
    assert judge(ranged, at_least, between).verdict is Verdict.REACHED
    assert judge(ranged, ANSWER, Evidence(around(4 * BOUND))).verdict is Verdict.NOT_REACHED
    below = Evidence(around(0.5 * BOUND))
    assert judge(ranged, at_least, below).verdict is Verdict.NOT_REACHED
    assert replace(ranged, answers=[]).bound(replace(ANSWER, bound=1.0)) == 1.0


def test_counts_are_exact_and_divided_sums_are_divided() -> None:
    none = replace(ANSWER, statistic="sum", bound=0.0)
    assert judge(CLAIM, none, Evidence([0.0] * 5)).verdict is Verdict.REACHED
    assert judge(CLAIM, none, Evidence([0.0, 1.0])).verdict is Verdict.NOT_REACHED
    count = replace(ANSWER, statistic="count", holds="at-least", bound=3.0)
    assert judge(CLAIM, count, Evidence([1.0] * 3)).verdict is Verdict.REACHED
    each = judge(CLAIM, ANSWER, Evidence(around(8 * BOUND), divisor=10))
    assert each.verdict is Verdict.REACHED
    assert each.estimate and 0.7 * BOUND < each.estimate.value < 0.9 * BOUND
    mean = judge(CLAIM, replace(ANSWER, statistic="mean"), Evidence(around(0.8 * BOUND)))
    assert mean.verdict is Verdict.REACHED


def test_every_claim_of_ours_is_whole_and_every_front_page_claim_is_there() -> None:
    found = claims.load(FIGURES)
    assert len({one.id for one in found}) == len(found) >= 25
    assert sum(one.front for one in found) >= 15
    for one in found:
        assert one.quote and one.figure.source.startswith("https://")
        assert one.answers, one.id
        assert all(answer.task.startswith("mise run bench:") for answer in one.answers)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- {id: a}", "missing"),
        ("- 1", "must be a mapping"),
        ("- {id: a, title: t, quote: q, figure: coppice.refill, uses: u}", "missing .*system"),
        (
            "- {id: a, title: t, quote: q, figure: none.such, uses: u, system: s}",
            "unknown published figure",
        ),
        (
            "- {id: a, title: t, quote: q, figure: coppice.refill, uses: u, system: s, colour: x}",
            "unknown",
        ),
        (
            "- {id: a, title: t, quote: q, figure: coppice.refill, uses: u, system: s,"
            " answers: [{rig: x}]}",
            "invalid answer",
        ),
        (
            "- {id: a, title: t, quote: q, figure: coppice.refill, uses: u, system: s}\n" * 2,
            "duplicate id",
        ),
        ("- [", "not YAML"),
        (
            "- {id: a, title: t, quote: q, figure: coppice.policy.enforcement, uses: u, system: s,"
            " answers: [{rig: r, metric: m, statistic: p50, holds: at-most, comparable: true,"
            " why: w, task: t}]}",
            "give the answer m a bound",
        ),
    ],
)
def test_an_entry_that_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "claims.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ClaimError, match=words):
        claims.load(FIGURES, tmp_path / "claims.yaml")
