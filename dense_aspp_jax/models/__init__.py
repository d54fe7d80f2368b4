"""The networks: extractors, DenseASPP, the segmentation model."""
