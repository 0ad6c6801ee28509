"""The search problem: a space, what its networks cost, and how genotypes are drawn."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bnas.nn.cost import CostTable
from bnas.records.search import GenerationRecord, Member, SpaceRange, StageName
from bnas.search.generation import Breeder, Evaluate, Generation, VariationRates
from bnas.space.genotype import Genotype
from bnas.space.search_space import Sampler, SearchSpace, sample_stratified, sample_uniform


class ResourceTable(Protocol):
    """What a network of each genotype takes, and the least and the most in the space."""

    def __call__(self, genotype: Genotype, /) -> float:
        """What its network takes."""
        ...

    def range(self) -> tuple[float, float]:
        """The least and the most; of a resource that is no sum over edges, among a sample of the space."""
        ...


Errors = Callable[[Sequence[Genotype]], Sequence[float]]
"""An estimate of the errors of genotypes, `U` of them → `U` values of at least 0."""


@dataclass(frozen=True)
class SearchProblem:
    """What is searched: a space, what its networks cost as they are shipped, and how they are drawn.

    `resource` is what the second objective minimises: `costs.size`, `costs.ops`, `costs.ram`, or a table of latencies
    [ours; the paper's is the size]. The indicators and the spread of sizes stay on the size whatever it is. `sampling`
    says how populations, random offspring and immigrants are drawn: `size_stratified` or `uniform` [ours]. Raises
    ValueError for another way of sampling and for a margin below 1.
    """

    space: SearchSpace
    costs: CostTable
    resource: ResourceTable
    margin: float
    sampling: str

    def __post_init__(self) -> None:
        if self.sampling not in ("size_stratified", "uniform"):
            raise ValueError(f"SearchProblem.sampling: expected size_stratified or uniform, found {self.sampling!r}")
        if self.margin < 1:
            raise ValueError(f"SearchProblem.margin: expected at least 1, found {self.margin}")

    @property
    def sampler(self) -> Sampler:
        """Draws distinct genotypes in the problem's way."""
        if self.sampling == "uniform":
            return partial(sample_uniform, self.space)
        return partial(sample_stratified, self.space, self.costs.size)

    def breeder(self, variation: VariationRates) -> Breeder:
        """Makes offspring in the problem's space."""
        return Breeder(self.space, self.sampler, variation)

    def resources(self, genotypes: Sequence[Genotype]) -> NDArray[np.float64]:
        """`f2` of each, `[U]`: the resource over the fixed bound `margin · most in the space` [ours]."""
        bound = self.margin * self.resource.range()[1]
        return np.array([self.resource(genotype) / bound for genotype in genotypes], dtype=np.float64)

    def objectives(self, genotypes: Sequence[Genotype], errors: Sequence[float]) -> NDArray[np.float64]:
        """`(f1, f2)` of each, `[U, 2]`, both minimised: validation error and relative resource."""
        return np.column_stack([np.asarray(errors, dtype=np.float64), self.resources(genotypes)])

    def evaluation(self, errors: Errors) -> Evaluate:
        """The objectives of genotypes by an estimate of their errors."""
        return lambda genotypes: self.objectives(genotypes, errors(genotypes))

    def record(self, stage: StageName, number: int, rule: str, step: Generation) -> GenerationRecord:
        """The survivors of a generation, in order of size."""
        members = [
            Member(genotype, float(error), None, self.costs.size(genotype))
            for genotype, (error, _) in zip(step.population, step.survivor_objectives, strict=True)
        ]
        ordered = tuple(sorted(members, key=lambda member: (member.size_bytes, member.key)))
        return GenerationRecord(stage, number, rule, ordered)

    def range(self, chance_error: float) -> SpaceRange:
        """The fixed frame of the indicators: the sizes of the space, and `pareto.guessing_error`."""
        low, high = self.costs.size_range()
        return SpaceRange(low, high, chance_error)

    def topped_up(self, population: Sequence[Genotype], count: int, rng: random.Random) -> list[Genotype]:
        """The population with newly drawn genotypes appended until it holds `count` (or the space no more)."""
        members = dict.fromkeys(population)
        while (missing := count - len(members)) > 0:
            before = len(members)
            members.update(dict.fromkeys(self.sampler(rng, missing)))
            if len(members) == before:
                # Those drawn are members already; as many more than missing as there are members hold all there is.
                drawn = self.sampler(rng, missing + before)
                members.update(dict.fromkeys([g for g in drawn if g not in members][:missing]))
                break
        return list(members)
