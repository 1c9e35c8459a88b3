"""Labelled pictures: reading, checking, augmenting and batching them, in numpy on the host."""
