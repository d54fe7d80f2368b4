"""Draws the scenes of the generated dataset `street_scenes`."""
