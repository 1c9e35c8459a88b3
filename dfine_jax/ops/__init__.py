"""The operations that the network is made of, each in the form that the backend is fast at.

This is the only place whose lowering depends on the platform. Every operation has derivatives of every kind and order:
``grad``, ``jvp``, ``linearize``, ``vmap`` and what is made of them.
"""
