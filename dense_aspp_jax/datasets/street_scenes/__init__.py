"""The generated data set `street_scenes`: its builder and its drawing."""
