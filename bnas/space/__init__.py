"""Genotypes, search spaces, and what determines a network beside its genotype: plain data, no torch."""

from bnas.space.genotype import Gene, Genotype
from bnas.space.search_space import SearchSpace

__all__ = ["Gene", "Genotype", "SearchSpace"]
