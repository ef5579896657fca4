"""The code interpreter: cells and contexts."""

from __future__ import annotations

from checks import CODE, ODD, attribute, check


@check("POST /execute", CODE)
def _(world):
    done = world.one.run_code("import sys\nprint('out')\nprint('err', file=sys.stderr)\n6*7")
    assert done.text == "42" and done.logs.stdout == ["out\n"], done
    assert done.logs.stderr == ["err\n"], done
    rich = "class R:\n def _repr_html_(self): return '<b>r</b>'\n def _repr_png_(self):"
    rich += " return b'P'\nR()"
    shown = world.one.run_code(rich).results[0]
    assert shown.html == "<b>r</b>" and shown.png == "UA==", shown
    text = "# Notes\n![logo](logo.png)\n%cd /\n"
    assert world.one.run_code(f"open('n.md', 'w').write('''{text}''');").error is None
    assert world.one.files.read("n.md") == text
    awaited = world.one.run_code("import asyncio\n!echo out\nawait asyncio.sleep(0, __name__)")
    assert awaited.text == "__main__" and awaited.logs.stdout == ["out\n"], awaited
    failed = world.one.run_code("def f(): return 1/0\nf()")
    assert failed.error.name == "ZeroDivisionError" and "f()" in failed.error.traceback, failed
    assert world.one.run_code("import os; os.environ['Q']", envs={"Q": "q"}).text == "q"
    echoed = world.one.run_code("print(os.environ['Q'], end='')", envs={"Q": ODD})
    assert "".join(echoed.logs.stdout) == ODD, echoed
    echoed = world.one.run_code(f"print({ODD!r}, end='')")
    assert "".join(echoed.logs.stdout) == ODD, echoed


@check("POST /contexts", CODE)
def _(world):
    world.one.files.make_dir("/tmp/c é+%20&=")
    odd = world.one.create_code_context(cwd="/tmp/c é+%20&=")
    assert world.one.run_code("import os; os.getcwd()", context=odd).text == "/tmp/c é+%20&="
    made = world.one.create_code_context(cwd="/tmp")
    world.one.run_code("only_here = 1", context=made)
    assert world.one.run_code("import os; os.getcwd()", context=made).text == "/tmp"
    assert world.one.run_code("only_here").error.name == "NameError"
    if hasattr(world.one, "remove_code_context"):
        world.one.remove_code_context(made)


@check("GET /contexts", CODE)
def _(world):
    listed = attribute(world.one, "list_code_contexts")()
    assert any(one.language == "python" for one in listed), listed


@check("DELETE /contexts/{id}", CODE)
def _(world):
    remove = attribute(world.one, "remove_code_context")
    made = world.one.create_code_context()
    remove(made)
    assert made.id not in [one.id for one in world.one.list_code_contexts()]


@check("POST /contexts/{id}/restart", CODE)
def _(world):
    restart = attribute(world.one, "restart_code_context")
    made = world.one.create_code_context()
    ended = world.one.run_code("gone = 1\nimport os; os._exit(1)", context=made)
    assert ended.error.name == "ContextRestarting", ended
    restart(made)
    assert world.one.run_code("gone", context=made).error.name == "NameError"
    world.one.remove_code_context(made)
