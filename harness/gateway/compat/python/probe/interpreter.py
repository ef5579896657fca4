"""The code interpreter: cells and contexts."""

from __future__ import annotations

from registry import ODD, ODD_DIRECTORY, expect, probe


@probe("sandbox.run_code")
async def _(world):
    async def run(code, **more):
        return await world.do(world.box.run_code(code, **more))

    done = await run("import sys\nprint('out')\nprint('err', file=sys.stderr)\n6*7")
    expect(done.text == "42" and done.logs.stdout == ["out\n"], done)
    expect(done.logs.stderr == ["err\n"], done)
    rich = "class R:\n def _repr_html_(self): return '<b>r</b>'\n def _repr_png_(self):"
    shown = (await run(rich + " return b'P'\nR()")).results[0]
    expect(shown.html == "<b>r</b>" and shown.png == "UA==", shown)
    text = "# Notes\n![logo](logo.png)\n%cd /\n"
    written = await run(f"open('n.md', 'w').write('''{text}''');")
    expect(written.error is None and await world.do(world.box.files.read("n.md")) == text, written)
    awaited = await run("import asyncio\n!echo out\nawait asyncio.sleep(0, __name__)")
    expect(awaited.text == "__main__" and awaited.logs.stdout == ["out\n"], awaited)
    failed = await run("def f(): return 1/0\nf()")
    expect(failed.error.name == "ZeroDivisionError" and "f()" in failed.error.traceback, failed)
    expect((await run("import os; os.environ['Q']", envs={"Q": "q"})).text == "q", "no variable")
    echoed = await run("print(os.environ['Q'], end='')", envs={"Q": ODD})
    expect("".join(echoed.logs.stdout) == ODD, echoed)
    echoed = await run(f"print({ODD!r}, end='')")
    expect("".join(echoed.logs.stdout) == ODD, echoed)


@probe("sandbox.create_code_context")
async def _(world):
    made = await world.context()
    code = "import os\nonly_here = 1\nos.getcwd()"
    there = await world.do(world.box.run_code(code, context=made))
    expect(there.text == ODD_DIRECTORY, there)
    elsewhere = await world.do(world.box.run_code("only_here"))
    expect(elsewhere.error and elsewhere.error.name == "NameError", elsewhere)


@probe("sandbox.list_code_contexts")
async def _(world):
    made = await world.context()
    listed = await world.do(world.box.list_code_contexts())
    expect(made.id in [one.id for one in listed], listed)
    expect(all(one.language == "python" for one in listed), listed)


@probe("sandbox.restart_code_context")
async def _(world):
    made = await world.context()
    await world.do(world.box.run_code("gone = 1", context=made))
    await world.do(world.box.restart_code_context(made))
    asked = await world.do(world.box.run_code("gone", context=made))
    expect(asked.error and asked.error.name == "NameError", asked)


@probe("sandbox.remove_code_context")
async def _(world):
    made = await world.context()
    world.taken("context")
    await world.do(world.box.remove_code_context(made))
    listed = await world.do(world.box.list_code_contexts())
    expect(made.id not in [one.id for one in listed], listed)
