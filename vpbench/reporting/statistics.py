"""Tests for comparing methods, on plain arrays: which test is made, and when there are too few numbers for one.

Seeds are repeated measures on the same test images, so seeds x images are never taken for so many independent trials.
Sources: Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 2006 (Wilcoxon, Friedman, Nemenyi);
Dietterich, Approximate statistical tests for comparing supervised classification learning algorithms, 1998 (McNemar);
Hillis, A comparison of denominator degrees of freedom methods for multiple observer ROC analysis, 2007 (readers x cases, here
seeds x images).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

ALPHA = 0.05
CHUNK = 500  # draws of a bootstrap at a time
DRAWS = 10_000
# Below these the smallest p that a test can give is above 0.05, or its approximation is poor.
LEAST_WILCOXON = 6
LEAST_FRIEDMAN = 5
LEAST_METHODS = 3
LEAST_IMAGES = 30  # of a bootstrap over images

Hits = npt.NDArray[np.bool_]
Regions = npt.NDArray[np.float64]
"""Pixels of every class in every image, (seeds, images, 2, classes): intersection and union of prediction and label."""


class TooFewError(ValueError):
    """There are too few data sets, methods or seeds for a test; the message names how many it needs."""


@dataclass(frozen=True)
class Paired:
    """Two methods on one data set.

    Attributes:
        difference: mean of the first minus mean of the second, in percentage points.
        low, high: its 95 % interval; NaN on too few images for a bootstrap.
        p: two-sided.
        test: name of the test that gave ``p``.
    """

    difference: float
    low: float
    high: float
    p: float
    test: str


def compare_hits(first: Hits, second: Hits, seed: int = 0, draws: int = DRAWS) -> Paired:
    """The paired test for one data set: McNemar for one seed, a bootstrap over images and seeds for several.

    Args:
        first, second: whether each prediction is right, (seeds, images); the same seeds and images in both.
        seed, draws: of the bootstrap.

    Raises:
        TooFewError: for several seeds on so few images that the bootstrap is too sure.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"hits of the same (seeds, images) are needed, not {first.shape} and {second.shape}")
    seeds, images = first.shape
    if seeds > 1 and images < LEAST_IMAGES:
        raise TooFewError(f"the bootstrap over images needs {LEAST_IMAGES}, and there are {images}")
    differences = first.astype(float) - second.astype(float)
    drawn = _draws(differences, np.random.default_rng(seed), draws)
    low, high = np.quantile(drawn, [ALPHA / 2, 1 - ALPHA / 2]) if images >= LEAST_IMAGES else (np.nan, np.nan)
    if seeds == 1:
        p, test = mcnemar_p(first[0], second[0]), "McNemar"
    else:
        p, test = _bootstrap_p(drawn), "bootstrap"
    return Paired(100 * float(differences.mean()), 100 * float(low), 100 * float(high), p, test)


def compare_regions(first: Regions, second: Regions, seed: int = 0, draws: int = DRAWS) -> Paired:
    """The paired test of two segmentations: a bootstrap over images, for one seed too, and over seeds.

    A mean IoU is no mean over images: images are drawn with replacement, each with all its seeds and both methods, their pixels
    are added up, and the mean IoU is that of the sums. Between seeds as in :func:`compare_hits`, with the images' influence on
    the mean IoU (infinitesimal jackknife) in place of hits.

    Args:
        first, second: see :data:`Regions`; the same seeds and images in both.
        seed, draws: of the bootstrap.

    Raises:
        TooFewError: on so few images that the bootstrap is too sure.
    """
    if first.shape != second.shape or first.ndim != 4:
        raise ValueError(f"pixels of the same (seeds, images, 2, classes) are needed, not {first.shape} and {second.shape}")
    seeds, images = first.shape[:2]
    if images < LEAST_IMAGES:
        raise TooFewError(f"the bootstrap over images needs {LEAST_IMAGES}, and there are {images}")
    generator = np.random.default_rng(seed)
    parts: list[npt.NDArray[np.float64]] = []
    for start in range(0, draws, CHUNK):
        times = generator.multinomial(images, np.full(images, 1 / images), size=min(CHUNK, draws - start)).astype(float)
        gaps = [_mean_iou_of(times, one) - _mean_iou_of(times, other) for one, other in zip(first, second)]
        parts.append(np.mean(gaps, axis=0))
    drawn = np.concatenate(parts)
    influence = np.stack([_influence(one) - _influence(other) for one, other in zip(first, second)])
    if seeds > 1:
        drawn = drawn + np.sqrt(_seed_variance(influence)) * generator.standard_t(seeds - 1, size=draws)
    low, high = np.quantile(drawn, [ALPHA / 2, 1 - ALPHA / 2])
    return Paired(100 * float(influence.mean()), 100 * float(low), 100 * float(high), _bootstrap_p(drawn), "bootstrap")


def _mean_iou_of(times: npt.NDArray[np.float64], regions: Regions) -> npt.NDArray[np.float64]:
    """Mean IoU, 0 to 1, of draws that have each image so many times, (draws,): over the classes that occur in the draw."""
    intersection, union = (times @ regions[:, part] for part in (0, 1))
    known = union > 0
    iou = np.divide(intersection, union, out=np.zeros_like(intersection), where=known)
    return np.asarray(iou.sum(axis=1) / np.maximum(known.sum(axis=1), 1))


def _influence(regions: Regions) -> npt.NDArray[np.float64]:
    """For every image the mean IoU plus the image's influence on it, (images,); their mean is the mean IoU."""
    intersection, union = regions.sum(axis=0)
    known = union > 0
    iou = intersection[known] / union[known]
    pulls = (regions[:, 0][:, known] - iou * regions[:, 1][:, known]) / (union[known] / len(regions))
    return np.asarray(iou.mean() + pulls.mean(axis=1))


def _bootstrap_p(drawn: npt.NDArray[np.float64]) -> float:
    """Two-sided p of a difference, from its draws."""
    below, above = ((np.sum(side) + 1) / (len(drawn) + 1) for side in (drawn <= 0, drawn >= 0))
    return min(1.0, 2 * float(min(below, above)))


def _draws(differences: npt.NDArray[np.float64], generator: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """Draws of the mean difference. Images are drawn with replacement, each with all its seeds; the spread between seeds
    that images do not explain is added from Student's t with seeds - 1 degrees of freedom."""
    seeds, images = differences.shape
    values, counts = np.unique(differences.sum(axis=0), return_counts=True)
    # The mean of a resample depends on how often each value occurs alone: a multinomial draw.
    draws = generator.multinomial(images, counts / images, size=count) @ values / (images * seeds)
    if seeds > 1:
        draws = draws + np.sqrt(_seed_variance(differences)) * generator.standard_t(seeds - 1, size=count)
    return np.asarray(draws, dtype=np.float64)


def _seed_variance(differences: npt.NDArray[np.float64]) -> float:
    """Variance of the mean that comes from seeds alone: (mean square of seeds - residual mean square) / (seeds x images)."""
    seeds, images = differences.shape
    by_seed, by_image = differences.mean(axis=1), differences.mean(axis=0)
    mean = differences.mean()
    of_seeds = images * np.sum((by_seed - mean) ** 2) / (seeds - 1)
    residual = differences - by_seed[:, None] - by_image[None, :] + mean
    of_residual = np.sum(residual**2) / ((seeds - 1) * (images - 1)) if images > 1 else 0.0
    return float(max(of_seeds - of_residual, 0.0) / (seeds * images))


def mcnemar_p(first: Hits, second: Hits) -> float:
    """Two-sided p of McNemar's exact test: one seed, the same images."""
    from scipy.stats import binomtest

    wins, losses = int(np.sum(first & ~second)), int(np.sum(~first & second))
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def wilcoxon_p(differences: npt.ArrayLike) -> float:
    """Two-sided p of Wilcoxon's signed-rank test over data sets; zero differences are left out, as Wilcoxon did.

    Raises:
        TooFewError: below six data sets, where p cannot go below 0.05.
    """
    from scipy.stats import wilcoxon

    values = np.asarray(differences, dtype=float)
    if len(values) < LEAST_WILCOXON:
        raise TooFewError(f"Wilcoxon's test needs {LEAST_WILCOXON} data sets, and there are {len(values)}")
    return float(wilcoxon(values).pvalue) if values.any() else 1.0


def holm(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """p-values adjusted by Holm for making so many comparisons at once.

    Of m sorted p-values the i-th (from 1) is multiplied by m - i + 1; none gets smaller than the one before it, or above 1.
    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    return adjusted


@dataclass(frozen=True)
class Friedman:
    """All methods over all data sets.

    Attributes:
        ranks: mean rank per method, 1 is best; equal scores share their mean rank.
        statistic, p: of the chi-square form, with methods - 1 degrees of freedom.
        nemenyi: p of every pair of methods.
        critical: two mean ranks farther apart than this differ at the 5 % level (Nemenyi).
    """

    ranks: pd.Series[float]
    statistic: float
    p: float
    nemenyi: pd.DataFrame
    critical: float


def friedman(scores: pd.DataFrame) -> Friedman:
    """Friedman's test with Nemenyi's comparisons of all pairs.

    Args:
        scores: data sets x methods, higher is better, nothing missing.

    Raises:
        TooFewError: below three methods or five data sets.
    """
    from scipy.stats import friedmanchisquare, studentized_range

    datasets, methods = scores.shape
    if methods < LEAST_METHODS:
        raise TooFewError(f"Friedman's test needs {LEAST_METHODS} methods, and there are {methods}")
    if datasets < LEAST_FRIEDMAN:
        raise TooFewError(f"Friedman's test needs {LEAST_FRIEDMAN} data sets that every method has, and there are {datasets}")
    ranks = scores.rank(axis=1, ascending=False).mean()
    error = np.sqrt(methods * (methods + 1) / (6 * datasets))  # standard deviation of the difference of two mean ranks
    critical = float(studentized_range.ppf(1 - ALPHA, methods, np.inf) / np.sqrt(2) * error)
    if (scores.nunique(axis=1) == 1).all():  # all alike everywhere: there are no ranks to test
        alike = pd.DataFrame(1.0, index=scores.columns, columns=scores.columns)
        return Friedman(ranks, 0.0, 1.0, alike, critical)
    found = friedmanchisquare(*(scores[name] for name in scores.columns))
    distances = np.abs(ranks.to_numpy()[:, None] - ranks.to_numpy()[None, :]) / error * np.sqrt(2)
    p = np.minimum(studentized_range.sf(distances, methods, np.inf), 1.0)
    pairs = pd.DataFrame(p, index=scores.columns, columns=scores.columns)
    return Friedman(ranks, float(found.statistic), float(found.pvalue), pairs, critical)


def wins(differences: npt.ArrayLike, decimals: int = 1) -> tuple[int, int, int]:
    """Data sets that the first method wins, ties and loses; a tie is a difference that rounds to zero."""
    values = np.round(np.asarray(differences, dtype=float), decimals)
    return int(np.sum(values > 0)), int(np.sum(values == 0)), int(np.sum(values < 0))
