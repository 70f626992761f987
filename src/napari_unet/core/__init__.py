"""Everything the plugin computes: torch, numpy and scikit-image, without Qt or napari."""
