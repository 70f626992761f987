"""Training a network from masks, from scratch or from a file, without napari and without Qt."""
