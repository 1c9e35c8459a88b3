"""``dfine VERB ...``: finds the verb's file, and turns errors into one line and exit code 2."""

import gc
import sys
import warnings
from importlib import import_module

from dfine_jax.cli.large_pages import start_again_with_large_pages

# Looked up by name so that a verb loads only what it needs.
VERBS = {
    "detect": "find things in pictures",
    "convert": "turn PyTorch weights into a folder for JAX, or back",
    "info": "show what a model is made of",
    "data": "inspect labelled pictures",
    "train": "make a detector from labelled pictures",
    "eval": "measure how good a model is on labelled pictures",
    "bench": "measure how fast a model is on this machine",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb with the given arguments and returns the exit code.

    Without any given it is the process's own, and what is compiled is kept for the next one.
    """
    is_process = arguments is None
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        print(f"dfine: no verb {verb!r}; choose one of {', '.join(VERBS)}", file=sys.stderr)
        return 2
    if is_process:
        gc.disable()  # nothing that is imported is garbage, and looking for it takes a tenth of a start
    import tyro

    warnings.filterwarnings("ignore", module="PIL")  # what matters of them comes as one line of ours
    module = import_module(f"dfine_jax.cli.{verb}")
    if is_process:
        from dfine_jax.cli.compilation_cache import keep_compiled

        gc.freeze()
        gc.enable()
        keep_compiled(by_jax=verb != "detect")  # its one program is kept whole, and once is enough
    try:
        if verb == "train":  # its defaults depend on what is to be trained
            return module.command(rest)
        return tyro.cli(module.run, prog=f"dfine {verb}", args=rest) or 0
    except (ValueError, OSError, ImportError) as error:
        print(f"dfine {verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"dfine {verb}: stopped", file=sys.stderr)
        return 130


def _usage() -> str:
    verbs = "\n".join(f"  {verb:<10}{purpose}" for verb, purpose in VERBS.items())
    return f"""usage: dfine VERB ...

D-FINE, a real-time object detector, in JAX.

{verbs}

dfine VERB --help teaches a verb."""


def console() -> int:
    """``main`` as the whole of a process, which a training starts once more, see ``large_pages``."""
    if sys.argv[1:2] == ["train"]:
        start_again_with_large_pages()
    return main()


if __name__ == "__main__":
    sys.exit(console())
