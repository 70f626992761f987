"""One file per family of networks; a file that is put here is found by itself.

See `core.checkpoints.family` for what it has to offer, and `milesial.py` for an example.
"""
