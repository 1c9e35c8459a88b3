"""A small trained model and a picture for it that come with the package, so that it works without the network."""

from pathlib import Path

FOLDER = Path(__file__).parent
SHAPES_MODEL = FOLDER / "shapes"
"""Size N for the shapes of ``dfine_jax.data.shapes``, in the Hub's layout; its README says how it was trained."""
SHAPES_PICTURE = FOLDER / "shapes.jpg"
"""A picture of such shapes that it was not trained on."""
