"""Weights on disk: names and layouts of PyTorch's as tables, read in both directions, and the folders of models."""
