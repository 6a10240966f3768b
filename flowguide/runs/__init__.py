"""Runs over files: a clip in, a clip and its manifest out."""
