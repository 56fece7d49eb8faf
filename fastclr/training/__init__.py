"""A run: its configuration, its loop, its folder."""
