"""Data sets of other kinds than text embeddings, made from a seed: pixels, wide vectors of different lengths, many short ones in clusters.

    python tests/benchmarks/datasets.py pixels | wide | clusters DIRECTORY

Writes `NAME.npy` and `NAME-queries.npy` (1,000 queries from the same distribution), float32, for `peers.py`. Needs numpy.
"""

import pathlib
import sys

import numpy as np

QUERIES = 1_000


def pixels(generator, rows=60_000, side=28):
    """Images of 28 × 28 as of handwriting: one of 40 strokes, bent, moved, turned, stretched and drawn with a soft pen. Values 0 to 255."""
    shapes = generator.uniform(0.15, 0.85, (40, 5, 2)).astype(np.float32)
    steps = np.linspace(0, 4, 33, dtype=np.float32)
    grid = np.arange(side, dtype=np.float32)
    images = np.empty((rows, side * side), np.float32)
    for first in range(0, rows, 2_000):
        count = min(2_000, rows - first)
        points = shapes[generator.integers(len(shapes), size=count)] + generator.normal(0, 0.04, (count, 5, 2)).astype(np.float32)
        turn = generator.normal(0, 0.2, count).astype(np.float32)
        cos, sin, stretch = np.cos(turn), np.sin(turn), generator.uniform(0.8, 1.1, (count, 1, 2)).astype(np.float32)
        turned = np.einsum("nij,nkj->nki", np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], 1), points - 0.5)
        points = (turned * stretch + 0.5 + generator.normal(0, 0.03, (count, 1, 2))).astype(np.float32) * side
        left = np.minimum(steps.astype(int), 3)
        path = points[:, left] + (points[:, left + 1] - points[:, left]) * (steps - left)[None, :, None]
        pen = generator.uniform(0.8, 1.4, (count, 1, 1)).astype(np.float32)
        across = np.exp(-(((path[:, :, :1] - grid) / pen) ** 2))
        down = np.exp(-(((path[:, :, 1:] - grid) / pen) ** 2))
        drawn = np.einsum("npx,npy->nyx", across, down)
        images[first : first + count] = (np.minimum(drawn, 1) * 255).astype(np.uint8).reshape(count, -1)
    return images


def wide(generator, rows=50_000, dim=1_536):
    """Vectors as of a large text model, but not normalised: topics below topics, a spectrum that falls, lengths that differ (for the dot product)."""
    spectrum = (1 + np.arange(dim)) ** -0.35
    topics = generator.standard_normal((30, dim))
    themes = topics[generator.integers(30, size=1_500)] + generator.standard_normal((1_500, dim))
    data = (themes[generator.integers(1_500, size=rows)] + 1.2 * generator.standard_normal((rows, dim))) * spectrum
    data /= np.linalg.norm(data, axis=1, keepdims=True)
    return (data * generator.lognormal(0, 0.1, (rows, 1))).astype(np.float32)


def clusters(generator, rows=1_000_000, dim=128):
    """A million short vectors, as of local image features: clusters of different size and shape, each of about 24 free directions."""
    centres = generator.normal(size=(1_000, dim)).astype(np.float32)
    share = generator.pareto(2.0, 1_000) + 0.1
    of = np.sort(generator.choice(1_000, rows, p=share / share.sum()))
    data = centres[of] + 0.1 * generator.standard_normal((rows, dim), dtype=np.float32)
    for cluster in range(1_000):
        own = slice(*np.searchsorted(of, [cluster, cluster + 1]))
        directions = generator.normal(0, generator.uniform(0.1, 0.25), (24, dim)).astype(np.float32)
        data[own] += generator.standard_normal((own.stop - own.start, 24), dtype=np.float32) @ directions
    return data


def main():
    name, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    generator = np.random.default_rng(11)
    data = {"pixels": pixels, "wide": wide, "clusters": clusters}[name](generator)
    order = generator.permutation(len(data))
    np.save(directory / f"{name}.npy", data[order[QUERIES:]])
    np.save(directory / f"{name}-queries.npy", data[order[:QUERIES]])


if __name__ == "__main__":
    main()
