"""The page of a model on the Hub: what a folder's ``README.md`` says, with the facts that the Hub sorts models by."""

from dfine_jax.config import DFineConfig
from dfine_jax.display import printable, storable
from dfine_jax.preprocessing import Preprocessing

LISTED = 100
"""Classes that are named; of more their number is said."""
PLACE = "THIS_FOLDER"
"""How a page written by a training calls the model's own folder."""


def hub_card(
    written: str | None, config: DFineConfig, preprocessing: Preprocessing, repository: str, licence: str | None
) -> str:
    """The page for a repository: one that was ``written`` already, or what can be told of the model.

    The block of facts at its start is made unless there is one.
    """
    text = (written or _usage(config, preprocessing, repository)).replace(PLACE, repository)
    if text.startswith("---\n"):
        return text
    return f"---\n{_facts(licence)}\n---\n\n{text}"


def _facts(licence: str | None) -> str:
    from huggingface_hub import ModelCardData

    tags = ["object-detection", "d-fine", "dfine-jax", "jax"]
    facts = ModelCardData(license=licence, library_name="transformers", pipeline_tag="object-detection", tags=tags)
    return facts.to_yaml()


def _usage(config: DFineConfig, preprocessing: Preprocessing, repository: str) -> str:
    names = config.class_names
    shown = ", ".join(f"`{storable(printable(name)).replace('`', chr(39))}`" for name in names[:LISTED])
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"""# A D-FINE detector of {len(names)} classes

For pictures of {preprocessing.height} x {preprocessing.width} pixels, height and width. It finds: {shown}{more}.

With dfine_jax, in JAX:

```console
$ dfine detect PICTURE --model {repository} --save drawn
```

With transformers, in PyTorch:

```python
from transformers import pipeline

found = pipeline("object-detection", model="{repository}")("picture.jpg")
```
"""
