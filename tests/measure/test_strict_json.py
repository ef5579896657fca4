"""JSON that is none is refused, in and out."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest

from harness.errors import CoppiceError, RecordError
from harness.measure import record
from harness.network.policy import Policy
from harness.sandbox import manifest
from harness.strict_json import NotJson, dumps, loads, readable, without_infinities
from tests.measure.factory import run_record

BAD = {
    "NaN": '{"a": NaN}',
    "infinite": "[Infinity, -Infinity]",
    "out of range": "[1e999]",
    "401 digits": f"[{'9' * 401}]",
    "5,000 digits": f"[{'9' * 5000}]",
    "nested lists": "[" * 100_000 + "]" * 100_000,
    "nested objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "nested just too deep": "[" * 101 + "]" * 101,
    "half a pair": r'{"a": "\ud800"}',
    "half a pair as a name": r'{"\uDFFF": 1}',
    "cut off": '{"a": ',
    "nothing": "",
    "not UTF-8": b'"\xff"',
    "a name twice": '{"a": 1, "b": {"c": 1, "c": 2}}',
    "a name twice, escaped": r'{"a": 1, "\u0061": 1}',
    "a long name twice": '{"NAME": 1, "NAME": 1}'.replace("NAME", "a" * 10_000),
    "a byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "a byte order mark in text": '\ufeff{"a": 1}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-16 without a mark": '{"a": 1}'.encode("utf-16-le"),
    "UTF-32": '{"a": 1}'.encode("utf-32-be"),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_is_not_json_is_refused_wherever_it_comes_from(text: str | bytes) -> None:
    with pytest.raises(NotJson) as caught:
        loads(text)
    assert len(str(caught.value)) < 200
    with pytest.raises(RecordError):
        record.parse(text)
    with pytest.raises(CoppiceError):
        Policy.from_json(text)
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(CoppiceError):
        manifest.parse(data, "here", "schema/1", [], {})


@pytest.mark.parametrize(
    "text",
    ["[" * 100 + "]" * 100, r'"\ud83d\ude00"', '["' + "[" * 1000 + '"]', f"[{'9' * 308}]", "1e308",
     r'["\"[[["]', "[1.5, -2, true, null]"],
)  # fmt: skip
def test_what_is_json_is_read(text: str) -> None:
    assert loads(text) == json.loads(text)


@pytest.mark.parametrize("data", [math.nan, [math.inf], "\ud800", {"a": object()}])
def test_what_json_does_not_have_is_not_written(data: object) -> None:
    with pytest.raises(NotJson):
        dumps(data)


def test_a_number_that_json_does_not_have_becomes_null() -> None:
    data: Any = {"ratio": math.inf, "rows": [(1.0, math.nan)]}
    assert loads(dumps(without_infinities(data))) == {"ratio": None, "rows": [[1.0, None]]}


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain é", "plain é"), ("\udcc3\udca9", "é"), ("\udcff", "\ufffd"), ("\ud800", "?")],
)
def test_bytes_that_are_no_text_do_not_keep_a_record_from_being_stored(
    text: str, shown: str
) -> None:
    assert readable(text) == shown
    made = run_record(command=record.Command([text], "/", {}, "mise run bench"))
    assert made.to_json()["command"]["argv"] == [shown]


def test_long_numbers_are_looked_at_only_where_there_are_some() -> None:
    text = json.dumps([1.25] * 500_000)
    started = time.process_time()
    json.loads(text)
    plain = time.process_time() - started
    started = time.process_time()
    loads(text)
    assert time.process_time() - started < 10 * plain + 0.5
