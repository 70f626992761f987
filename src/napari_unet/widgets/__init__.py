"""The dock widgets, one per file, and one that stacks them as the steps of one job."""
