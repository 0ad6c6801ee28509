"""Errors of many paths of one supernet, computed together."""
