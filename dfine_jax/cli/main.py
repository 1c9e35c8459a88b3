"""``dfine VERB ...``: finds the verb's file, and turns errors into one line and an exit code."""

import gc
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

from dfine_jax.cli.large_pages import start_again_with_large_pages

# Looked up by name so that a verb loads only what it needs.
VERBS = {
    "detect": "find things in pictures",
    "convert": "turn PyTorch weights into a folder for JAX, or back",
    "export": "turn a model into a program for JAX elsewhere, ONNX or transformers",
    "verify": "run an exported model beside the detector",
    "push": "send a model to the Hugging Face Hub",
    "info": "show what a model is made of",
    "data": "inspect labelled pictures",
    "train": "make a detector from labelled pictures",
    "eval": "measure how good a model is on labelled pictures",
    "bench": "measure how fast a model is on this machine",
}
TRACEBACK = "--traceback"


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb with the given arguments and returns the exit code.

    Without any given it is the process's own, and what is compiled is kept for the next one.
    """
    is_process = arguments is None
    arguments, shows_trace = _without_traceback(sys.argv[1:] if is_process else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        return _guarded(lambda: print(_usage()), "", shows_trace)
    verb, *rest = arguments
    if verb == "--version":
        return _guarded(_print_version, "", shows_trace)
    if verb not in VERBS:
        return _guarded(lambda: _refuse(verb), "", shows_trace)
    return _guarded(lambda: _run(verb, rest, is_process), verb, shows_trace)


def _run(verb: str, arguments: list[str], is_process: bool) -> int:
    _require_current_folder()
    if is_process:
        gc.disable()  # nothing that is imported is garbage, and looking for it takes a tenth of a start
    import tyro

    warnings.filterwarnings("ignore", module="PIL")  # what matters of them comes as one line of ours
    module = import_module(f"dfine_jax.cli.{verb}")
    if is_process:
        from dfine_jax.cli.compilation_cache import keep_compiled

        gc.freeze()
        gc.enable()
        # Their one program is kept whole. JAX would keep it, too, and what comes from there can't be kept again: it
        # lacks functions when it is read back.
        keep_compiled(by_jax=verb not in ("detect", "eval"))
    if verb == "train":  # its defaults depend on what is to be trained
        return module.command(arguments)
    return tyro.cli(module.run, prog=f"dfine {verb}", args=arguments) or 0


def _require_current_folder() -> None:
    """``InputError`` where there is none any more: names could not be told, and libraries fail as they are loaded."""
    from dfine_jax.errors import InputError

    try:
        os.getcwd()
    except OSError as error:
        raise InputError(f"the current folder can't be found ({error.strerror}): cd to one that is there") from None


def _guarded(run: Callable[[], int | None], verb: str, shows_trace: bool) -> int:
    """The exit code of ``run``, or the one that its exception stands for, after a line about it."""
    try:
        code = _flushed(run)
    except SystemExit as stop:
        from dfine_jax.cli.failures import PIPE_CLOSED, is_closed_pipe

        if not is_closed_pipe(stop):
            raise
        code = PIPE_CLOSED
    except BaseException as error:
        from dfine_jax.cli.failures import explained

        code, line = explained(error, verb)
        with suppress(OSError):  # nobody may read this either
            if shows_trace:
                _print_trace(error)
            if line is not None:
                print(f"dfine {verb}: {line}" if verb else f"dfine: {line}", file=sys.stderr)
    return code


def _flushed(run: Callable[[], int | None]) -> int:
    """Runs, and notices now what can't be printed, also where tyro ends the process after its help."""
    try:
        return run() or 0
    finally:
        if sys.stdout is not None and not isinstance(sys.exception(), BrokenPipeError | KeyboardInterrupt):
            sys.stdout.flush()


def _print_trace(error: BaseException) -> None:
    import traceback

    from dfine_jax.display import printable

    print(printable("".join(traceback.format_exception(error)), lines=True), end="", file=sys.stderr)


def _without_traceback(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments but for ``--traceback``, and whether it was there; after ``--`` everything is a name."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != TRACEBACK]
    return [*options, *arguments[end:]], len(options) < end


def _refuse(verb: str) -> None:
    import difflib

    from dfine_jax.errors import InputError

    close = difflib.get_close_matches(verb.lower(), VERBS, n=1)
    advice = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(VERBS)}"
    raise InputError(f"no verb {verb!r}; {advice}")


def _print_version() -> None:
    from importlib.metadata import version

    print(f"dfine_jax {version('dfine-jax')}")


def _usage() -> str:
    verbs = "\n".join(f"  {verb:<10}{purpose}" for verb, purpose in VERBS.items())
    return f"""usage: dfine VERB ...

D-FINE, a real-time object detector, in JAX.

{verbs}

dfine VERB --help teaches a verb; dfine --version tells which release this is.
With {TRACEBACK}, which every verb takes, an error also shows where it was raised."""


def console() -> int:
    """``main`` as the whole of a process, which a training starts once more, see ``large_pages``."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # a terminal may not know all letters
            stream.reconfigure(errors="backslashreplace")
    try:
        if sys.argv[1:2] == ["train"]:
            start_again_with_large_pages()
        return main()
    except KeyboardInterrupt:  # while a line was being printed
        return 130
    finally:
        _close_output()


def _close_output() -> None:
    """Lets the interpreter end in silence where nobody reads what is left to be printed."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(console())
