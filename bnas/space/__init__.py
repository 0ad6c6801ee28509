"""Genotypes, search spaces, and what determines a network beside its genotype: plain data, no torch."""
