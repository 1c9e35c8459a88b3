"""What a model saw and how it decided: the network's intermediate values, typed, in pixels, and drawn."""
