"""Finding a plain U-Net among convolutions of any names, by their shapes and their order."""
