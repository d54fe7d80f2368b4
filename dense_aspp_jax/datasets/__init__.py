"""Datasets: builders, stored images, the cache, the input pipeline and its augmentation."""
