"""What belongs to the U-Nets of pytorch-3dunet and PlantSeg: network, and description."""
