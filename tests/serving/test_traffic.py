from collections import OrderedDict

import numpy as np
import pytest

from stages.serving import traffic


def test_zipf():
    assert traffic.zipf(4, 1.0) == pytest.approx(np.array([12, 6, 4, 3]) / 25)
    assert traffic.zipf(5, 0.0) == pytest.approx([0.2] * 5)


def simulated(probabilities, size, draws=200_000):
    """The hit rate of an LRU cache, counted after a warm-up."""
    cache, hits = OrderedDict(), 0
    rng = np.random.default_rng(0)
    for i, item in enumerate(rng.choice(len(probabilities), draws, p=probabilities)):
        hits += item in cache and i >= draws // 2
        cache[item] = None
        cache.move_to_end(item)
        if len(cache) > size:
            cache.popitem(last=False)
    return hits / (draws - draws // 2)


@pytest.mark.parametrize(("exponent", "size"), [(0.0, 100), (0.6, 256), (1.0, 50), (1.5, 3)])
def test_hit_rate_is_that_of_a_simulated_cache(exponent, size):
    probabilities = traffic.zipf(1000, exponent)
    assert traffic.hit_rate(probabilities, size) == pytest.approx(simulated(probabilities, size), abs=0.01)


def test_caches_of_nothing_and_of_all():
    assert traffic.hit_rate(traffic.zipf(10, 1.0), 0) == 0
    assert traffic.hit_rate(traffic.zipf(10, 1.0), 10) == traffic.hit_rate(traffic.zipf(10, 1.0), 99) == 1


def test_the_exponent_gives_the_hit_rate():
    exponent = traffic.exponent_for(5000, 256, 0.4)
    assert traffic.hit_rate(traffic.zipf(5000, exponent), 256) == pytest.approx(0.4, abs=1e-3)
    assert traffic.exponent_for(100, 60, 0.4) == 0.0  # even without favourites, 60% are known
    assert traffic.exponent_for(10_000, 1, 0.999) == 3.0


@pytest.mark.parametrize(
    ("count", "size", "rate", "as_asked"),
    [
        (5000, 256, 0.4, True),
        (534, 256, 256 / 534, True),  # even traffic, within 10 points
        (500, 256, 256 / 500, False),
        (256, 256, 1.0, False),
        (12, 256, 1.0, False),
        (10, 3, 0.4, True),
    ],
)
def test_hit_rates_that_the_queries_can_give(count, size, rate, as_asked):
    found = traffic.reached(count, size, traffic.exponent_for(count, size, 0.4), 0.4)
    assert found == (pytest.approx(rate, abs=2e-3), as_asked)


def test_draws_follow_the_law():
    queries = [f"query {i}" for i in range(50)]
    drawn = traffic.draw(queries, 1.0, 50_000, seed=3)
    assert drawn == traffic.draw(queries, 1.0, 50_000, seed=3) != traffic.draw(queries, 1.0, 50_000, seed=4)
    counts = sorted((drawn.count(query) for query in queries), reverse=True)
    assert np.array(counts) / 50_000 == pytest.approx(traffic.zipf(50, 1.0), abs=0.01)
    assert max(queries, key=drawn.count) != "query 0"  # the favourite is not the first of the list
