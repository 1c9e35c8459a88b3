"""D-FINE in JAX."""
