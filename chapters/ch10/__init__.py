"""Chapter 10: both bends of a pretrained model."""
