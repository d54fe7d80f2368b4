"""One thin module per command of `dense-aspp`."""
