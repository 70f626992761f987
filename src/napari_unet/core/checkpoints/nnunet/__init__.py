"""The networks of nnU-Net v2, and what its plans say."""
