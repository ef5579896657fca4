"""IPython's shell with the interpreter's input and output in place of a terminal's."""

import ast
import asyncio
import os
import subprocess
import sys
import types
import warnings

from cell_output import send, settle


def _import_ipython():
    """Without what only a terminal uses: completion by jedi, and prompt_toolkit. They would be a
    third of the memory and three quarters of the start."""
    unused = types.ModuleType("IPython.terminal.embed")
    unused.embed = None
    sys.modules |= {"jedi": None, unused.__name__: unused}
    try:
        import IPython
        import IPython.core.interactiveshell
        import IPython.core.page
    finally:
        for name in ("jedi", unused.__name__):
            sys.modules.pop(name, None)
    IPython.embed = _embed
    return IPython


def _embed(*arguments, **more):
    from IPython.terminal.embed import embed

    return embed(*arguments, **more)


IPython = _import_ipython()
from cell_results import Publisher, ResultHook, add_formatters  # noqa: E402
from IPython.core.error import UsageError  # noqa: E402
from IPython.core.inputtransformer2 import PromptStripper  # noqa: E402
from traitlets import Type  # noqa: E402
from traitlets.config import Config  # noqa: E402


def parsed(code):
    """The syntax tree of code that is Python as it stands; None for other code."""
    try:
        if "\\" not in code:
            return ast.parse(code)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of "\d", say: IPython compiles the code again
            return ast.parse(code)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return None


class CellShell(IPython.core.interactiveshell.InteractiveShell):
    """Runs cells in `__main__`; sends results and errors as they occur."""

    display_pub_class = Type(Publisher)
    displayhook_class = Type(ResultHook)

    def __init__(self, **more):
        super().__init__(**more)
        self.error_sent = False
        self.loop = self.interrupts = None
        self.db = {}  # of visited directories: newer IPythons warn where it cannot be on disk
        transformers = self.input_transformer_manager.cleanup_transforms
        self._prompts = [each for each in transformers if isinstance(each, PromptStripper)]
        transformers[:] = [each for each in transformers if each not in self._prompts]
        self._transformers = self._known_transformers()
        self.loop_runner = self._run_to_end
        self.set_hook("show_in_pager", IPython.core.page.as_hook(_print_page), 99)
        add_formatters(self.display_formatter)

    def _known_transformers(self):
        manager = self.input_transformer_manager
        return [*manager.cleanup_transforms, *manager.line_transforms, *manager.token_transformers]

    def transform_cell(self, raw_cell):
        """IPython's syntax is only looked for in what is not Python as it stands. Its transformers
        know lines better than strings: they remove the prompts of a doctest in a string."""
        manager = self.input_transformer_manager
        if parsed(raw_cell) is not None and self._known_transformers() == self._transformers:
            cell = raw_cell if raw_cell.endswith("\n") else raw_cell + "\n"
        else:
            cell = manager.transform_cell(raw_cell)
            if parsed(cell) is None:
                without = self._without_prompts(raw_cell)
                again = manager.transform_cell(without) if without != raw_cell else cell
                cell = again if parsed(again) is not None else cell
        if len(cell.splitlines()) == 1:
            with self.builtin_trap:  # a line may be the name of a magic, or `exit`
                cell = self.prefilter_manager.prefilter_lines(cell) + "\n"
        lines = cell.splitlines(keepends=True)
        for transform in self.input_transformers_post:
            lines = transform(lines)
        return "".join(lines)

    def _without_prompts(self, code):
        lines = code.splitlines(keepends=True)
        for strip in self._prompts:
            lines = strip(lines)
        return "".join(lines)

    def _showtraceback(self, etype, evalue, stb):
        text = stb if isinstance(stb, str) else "\n".join(stb)
        self.send_error(etype.__name__, evalue, text)

    def send_error(self, name, value, traceback):
        """A cell has one error, as in E2B."""
        if self.error_sent:
            return
        self.error_sent = True
        name = KeyboardInterrupt.__name__ if self.interrupts.cancelled else name
        settle()
        try:
            value = str(value)
        except Exception:
            value = "<the error has no text>"
        send("error", name=name, value=value, traceback=traceback)

    def system(self, cmd):
        """Of `!command`: its output is that of the cell, as it comes."""
        settle()
        done = subprocess.run(
            self.var_expand(cmd, depth=1), shell=True, stdin=subprocess.DEVNULL,
            executable=os.environ.get("SHELL"),
        )  # fmt: skip
        self.user_ns["_exit_code"] = done.returncode

    system_piped = system_raw = system

    async def run_code(self, code_obj, result=None, *, async_=False):
        self.interrupts.run()
        return await super().run_code(code_obj, result, async_=async_)

    def _run_to_end(self, coroutine):
        """Run a cell that awaits. An interrupted one is cancelled: it does not go on later."""
        task = self.loop.create_task(coroutine)
        with self.interrupts.awaiting(task):
            try:
                return self.loop.run_until_complete(task)
            except BaseException:
                if task.cancel():  # the cell's error is shown where it awaited
                    self.interrupts.cancelled = True
                    self.loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
                raise

    def reset(self, new_session=True, aggressive=False):
        """Of `%reset`, and after a rehearsal. IPython also removes what every module has, such as
        `__spec__`, without which multiprocessing starts no process by spawn or forkserver."""
        super().reset(new_session, aggressive)
        for name, value in vars(types.ModuleType("__main__")).items():
            self.user_ns.setdefault(name, value)

    def enable_gui(self, gui=None):
        if gui not in (None, "inline"):
            raise UsageError(f"a sandbox has no display for {gui}; use %matplotlib inline")

    def ask_exit(self):
        """`exit` ends the cell; the context and its names stay."""
        raise SystemExit


def _print_page(data, start=0, screen_lines=0, pager_cmd=None):
    print(data["text/plain"] if isinstance(data, dict) else data)


def start(directory, loop, interrupts):
    """The shell; `directory` is for IPython's own files."""
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    config.InteractiveShell.colors = "NoColor"
    config.PlainTextFormatter.max_seq_length = 0  # whole, as in E2B
    # A plot that is shown becomes a result, also without %matplotlib inline.
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    warnings.filterwarnings("ignore", message="To exit: use")
    shell = CellShell.instance(config=config, ipython_dir=directory)
    shell.loop, shell.interrupts = loop, interrupts
    return shell
