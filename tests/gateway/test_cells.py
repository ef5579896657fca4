"""What cells may contain, and what they are: Python in `__main__`, and IPython's syntax."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import Unsupported
from harness.gateway.fleets import disk
from harness.paths import cache_directory
from tests.gateway.cells import Interpreter, error, interpreter, result, texts


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interpreter]:
    with interpreter(tmp_path_factory.mktemp("cells")) as started:
        yield started


QUOTED = (
    "# Notes\n![logo](logo.png)\n%cd /nowhere\n%pip install nothing\n!rm -rf nothing\n",
    "\n>>> prompt\n... more\nIn [1]: x\n",
    "'it''s' \"quoted\" \\'\\' `x`\n!ls 'a' \"b\"\n",
    "    indented\n\t%cd tab\n?help\n%%bash\n",
    "x = !ls\ny = %pwd\n",
)


@pytest.mark.parametrize("text", QUOTED)
@pytest.mark.parametrize("mixed", [False, True])
def test_strings_are_what_was_written(shell: Interpreter, text: str, mixed: bool) -> None:
    quoted = text.replace("\\", "\\\\")
    code = f"text = '''{quoted} '''\nimport json\nprint(json.dumps(text))"
    if "'''" in quoted.replace("''s", "") or "''" in quoted:
        code = code.replace("'''", '"""')
    if mixed:  # IPython's syntax in the same cell
        code += "\n!true"
    assert json.loads(texts(shell.run(code))) == text + " "


def test_a_file_is_written_as_it_stands(shell: Interpreter) -> None:
    text = "# Notes\n![logo](logo.png)\n"
    lines = shell.run(f"open('/tmp/n.md','w').write('''{text}''')")
    assert result(lines)["text"] == str(len(text))
    assert texts(shell.run("!cat /tmp/n.md")) == text


def test_doctest_prompts_that_were_pasted_are_removed(shell: Interpreter) -> None:
    assert result(shell.run(">>> a = 20\n>>> a + 1"))["text"] == "21"


def test_an_indented_cell_runs(shell: Interpreter) -> None:
    assert result(shell.run("\n    b = 20\n    if b:\n        b += 1\n    b"))["text"] == "21"


@pytest.mark.parametrize(
    ("code", "stdout"),
    [
        ("!echo out; echo err >&2", "out\n"),
        ("x = !echo a; echo b\nprint(list(x))", "['a', 'b']\n"),
        ("name = 'x y'\n!echo {name} $name '$name'", "x y x y $name\n"),
        ("!exit 3\nprint(_exit_code)", "3\n"),
        ("for i in range(2):\n    !echo {i}", "0\n1\n"),
        ("%cd /tmp", "/tmp\n"),
        ("%cd -q /tmp\nimport os\nprint(os.getcwd())", "/tmp\n"),
        ("%%bash\nx=1\necho $x", "1\n"),
        ("%%sh\necho sh", "sh\n"),
        ("%%writefile /tmp/w.txt\n!not %cd\n", "Writing /tmp/w.txt\n"),
        ("%%capture caught\nprint(1)", ""),
        ("print(caught.stdout)", "1\n\n"),
        ("print(1);", "1\n"),
    ],
)
def test_magics_and_commands(shell: Interpreter, code: str, stdout: str) -> None:
    lines = shell.run(code)
    assert error(lines) is None
    assert texts(lines) == stdout
    assert texts(lines, "stderr") == ("err\n" if "err" in code else "")


def test_pip_is_that_of_the_interpreter(shell: Interpreter) -> None:
    lines = shell.run("%pip --version")
    assert error(lines) is None and "pip" in texts(lines) + texts(lines, "stderr")


def test_timeit_measures(shell: Interpreter) -> None:
    assert " per loop " in texts(shell.run("%timeit -n 10 -r 2 1+1"))
    assert " per loop " in texts(shell.run("%%timeit -n 10 -r 2\nx = 1\nx + 1"))


def test_a_magic_that_does_not_exist_is_an_error(shell: Interpreter) -> None:
    failed = error(shell.run("%nosuch"))
    assert failed and failed["name"] == "UsageError"


def test_help_is_output(shell: Interpreter) -> None:
    assert "Prints the values" in texts(shell.run("print?"))


def test_cells_await(shell: Interpreter) -> None:
    code = """
import asyncio
async def count():
    for i in range(3):
        await asyncio.sleep(0)
        yield i
async with asyncio.timeout(10):
    got = await asyncio.gather(asyncio.sleep(0, 'a'), asyncio.sleep(0, 'b'))
async for i in count():
    print(i)
[i async for i in count()], got
"""
    lines = shell.run(code)
    assert texts(lines) == "0\n1\n2\n"
    assert result(lines)["text"] == "([0, 1, 2], ['a', 'b'])"
    assert result(shell.run("asyncio.run(asyncio.sleep(0, 'own loop'))"))["text"] == "own loop"


def test_a_cell_is_the_main_program(shell: Interpreter) -> None:
    code = "import sys\n__name__ == '__main__' and vars(sys.modules['__main__']) is globals()"
    assert result(shell.run(code))["text"] == "True"
    assert texts(shell.run("if __name__ == '__main__':\n    print('main')")) == "main\n"


def test_unittest_finds_the_tests_of_a_cell(shell: Interpreter) -> None:
    code = """
import unittest
class Sums(unittest.TestCase):
    def test_right(self): self.assertEqual(1 + 1, 2)
    def test_wrong(self): self.assertEqual(1 + 1, 3)
unittest.main()
"""
    lines = shell.run(code)
    written = texts(lines, "stderr")
    assert "Ran 2 tests" in written and "FAILED (failures=1)" in written
    failed = error(lines)
    assert failed and failed["name"] == "SystemExit"
    assert "Ran 2 tests" in texts(shell.run("unittest.main(exit=False);"), "stderr")


def test_pickle_knows_what_a_cell_defines(shell: Interpreter) -> None:
    code = """
import pickle, copy
class Point:
    def __init__(self, x): self.x = x
def double(x): return 2 * x
pickle.loads(pickle.dumps((Point(3), double)))[1](copy.deepcopy(Point(3)).x)
"""
    assert result(shell.run(code))["text"] == "6"


def test_multiprocessing_forks_with_what_a_cell_defines(shell: Interpreter) -> None:
    code = """
import multiprocessing, concurrent.futures
context = multiprocessing.get_context('fork')
def square(x): return x * x
def talk(): print('from the child')
with context.Pool(2) as pool: print(pool.map(square, range(4)))
with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
    print(list(pool.map(square, range(4))))
child = context.Process(target=talk)
child.start(); child.join()
child.exitcode
"""
    lines = shell.run(code)
    assert texts(lines) == "[0, 1, 4, 9]\n[0, 1, 4, 9]\nfrom the child\n"
    assert result(lines)["text"] == "0"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_multiprocessing_spawns(shell: Interpreter, method: str) -> None:
    code = f"""
import multiprocessing, math
context = multiprocessing.get_context({method!r})
with context.Pool(1) as pool: print(pool.map(math.factorial, [3, 4]))
queue = context.Queue()
child = context.Process(target=print, args=('from the child',))
child.start(); child.join()
child.exitcode
"""
    lines = shell.run(code)
    assert texts(lines) == "[6, 24]\nfrom the child\n"
    assert result(lines)["text"] == "0"


@pytest.mark.parametrize("first", ["", "%reset -f\n"])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_executors_spawn(shell: Interpreter, method: str, first: str) -> None:
    code = f"""{first}
import concurrent.futures, multiprocessing, math
context = multiprocessing.get_context({method!r})
with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
    print(list(pool.map(math.factorial, [3, 4])))
"""
    assert texts(shell.run(code)) == "[6, 24]\n"


def test_a_spawned_process_does_not_know_what_a_cell_defines(shell: Interpreter) -> None:
    # As in Jupyter: it says so, instead of waiting for ever.
    code = """
import concurrent.futures, multiprocessing
def triple(x): return 3 * x
spawn = multiprocessing.get_context('spawn')
with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
    pool.submit(triple, 2).result()
"""
    lines = shell.run(code)
    failed = error(lines)
    assert failed and failed["name"] == "BrokenProcessPool"
    assert "Can't get attribute 'triple'" in texts(lines, "stderr")


def test_the_main_module_has_what_every_module_has(shell: Interpreter) -> None:
    code = "import sys, types\nset(vars(types.ModuleType('x'))) - set(globals())"
    assert result(shell.run(code))["text"] == "set()"
    assert result(shell.run("%reset -f\n" + code))["text"] == "set()"


def test_doctest_finds_what_a_cell_defines(shell: Interpreter) -> None:
    code = '''
def three():
    """
    >>> three()
    3
    """
    return 3
import doctest
doctest.testmod()
'''
    shown = result(shell.run(code))["text"]
    assert shown.startswith("TestResults(failed=0, attempted=") and "attempted=0" not in shown


def test_a_traceback_shows_the_lines_of_cells(shell: Interpreter) -> None:
    shell.run("def divide(x):\n    return 1 / x")
    failed = error(shell.run("y = 0\ndivide(y)"))
    assert failed and failed["name"] == "ZeroDivisionError"
    assert "return 1 / x" in failed["traceback"] and "divide(y)" in failed["traceback"]
    assert failed["value"] == "division by zero" and "\x1b" not in failed["traceback"]
    wrong = error(shell.run("def ("))
    assert wrong and wrong["name"] == "SyntaxError"


@pytest.mark.parametrize("code", ["exit()", "exit", "import sys; sys.exit(3)", "raise SystemExit"])
def test_an_exit_ends_the_cell_only(shell: Interpreter, code: str) -> None:
    shell.run("kept = 1")
    failed = error(shell.run(code))
    assert failed and failed["name"] == "SystemExit"
    assert result(shell.run("kept"))["text"] == "1"


def test_cells_are_counted_and_their_results_kept(shell: Interpreter) -> None:
    first = shell.run("40 + 2")
    count = first[0]["execution_count"]
    second = shell.run(f"_{count} + 2, Out[{count}]")
    assert second[0] == {"type": "number_of_executions", "execution_count": count + 1}
    assert result(second)["text"] == "(44, 42)"
    assert shell.run("syntax error")[0]["execution_count"] == count + 2
    assert shell.run("")[0]["execution_count"] == count + 3


FORMS = {
    "html": ("_repr_html_", "'<b>'"), "markdown": ("_repr_markdown_", "'*'"),
    "svg": ("_repr_svg_", "'<svg/>'"), "png": ("_repr_png_", "b'P'"),
    "jpeg": ("_repr_jpeg_", "b'P'"), "pdf": ("_repr_pdf_", "b'P'"),
    "latex": ("_repr_latex_", "'$x$'"), "json": ("_repr_json_", "{'a': float('nan')}"),
    "javascript": ("_repr_javascript_", "'f()'"), "data": ("_repr_e2b_data_", "{'a': [1]}"),
    "chart": ("_repr_e2b_chart_", "{'type': 'line'}"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_results_have_the_forms_that_they_offer(shell: Interpreter, form: str) -> None:
    method, value = FORMS[form]
    code = f"class Rich:\n    def {method}(self): return {value}\n"
    shown = result(shell.run(code + "Rich()"))
    expected = {"png": "UA==", "jpeg": "UA==", "pdf": "UA==", "json": {"a": None}}
    assert shown[form] == expected.get(form, eval(value, {}) if form != "json" else None)
    assert shown["text"].startswith("<__main__.Rich") and shown["is_main_result"] is True
    (displayed,) = [line for line in shell.run("display(Rich());") if line["type"] == "result"]
    assert displayed[form] == shown[form] and displayed["is_main_result"] is False


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("'a'", "a"), ("\"it's\"", "it's"), ("'a\\nb'", "a\\nb"), ("''", ""), ("b'x'", "b'x'"),
        ("'a' 'b'", "ab"), ("('a', 'b')", "('a', 'b')"), ("1.5", "1.5"), ("True", "True"),
    ],
)  # fmt: skip
def test_strings_are_shown_without_quotes(shell: Interpreter, code: str, text: str) -> None:
    assert result(shell.run(code))["text"] == text


def test_containers_have_the_form_json(shell: Interpreter) -> None:
    assert result(shell.run("{'a': [1, None, 'x'], 2: float('inf')}"))["json"] == {
        "a": [1, None, "x"],
        "2": None,
    }
    assert "json" not in result(shell.run("{'a': {1, 2}}"))


def test_other_forms_are_extra(shell: Interpreter) -> None:
    code = "display({'text/latex': 'q', 'x/y': {'z': 1}}, raw=True)"
    (shown,) = [line for line in shell.run(code) if line["type"] == "result"]
    assert (shown["latex"], shown["extra"]) == ("q", {"x/y": {"z": 1}}) and "text" not in shown


def test_results_and_output_come_in_order(shell: Interpreter) -> None:
    code = "import os\nprint('a', end='')\nos.system('echo b')\ndisplay(1)\nprint('c')\n2"
    kinds = [line["type"] for line in shell.run(code)[1:-1]]
    assert kinds == ["stdout", "stdout", "result", "stdout", "result"]


def test_nothing_is_left_in_the_home_directory(shell: Interpreter) -> None:
    assert texts(shell.run("!ls -A /home/user")) == ""


def test_figures_are_results(tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    root = disk.root_directory(cache_directory()).path
    version = f"python3.{sys.version_info.minor}"
    if not (root / "usr/lib" / version).is_dir():
        raise Unsupported(f"the sandboxes' Python is not {version}, that of matplotlib here")
    packages = Path(matplotlib.__file__).parents[1]
    with interpreter(tmp_path, packages=packages) as shell:
        for first in ("", "%matplotlib inline\n", "%matplotlib inline\n"):
            code = f"{first}import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\n"
            for shown in (code, code.replace("plt.show()", "1;")):
                lines = shell.run(shown)
                (figure,) = [line for line in lines if "png" in line]
                assert error(lines) is None
                assert figure["png"].startswith("iVBOR") and figure["is_main_result"] is False
                assert figure["text"].startswith("<Figure size ")
        assert not [line for line in shell.run("1") if "png" in line]
        # As an error or, in newer IPythons, on standard error.
        assert "no display" in str(shell.run("%gui qt"))
