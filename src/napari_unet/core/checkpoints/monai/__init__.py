"""What the networks of MONAI have in common, and what its bundles say."""
