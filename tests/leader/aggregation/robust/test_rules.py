"""Every rule against its paper, against attackers, and in tiles of any width."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leader.aggregation.robust.aggregate import RULES
from leader.aggregation.robust.bulyan import choose
from leader.aggregation.robust.geometric_median import weiszfeld
from leader.aggregation.robust.gram import gram, squared_distances
from leader.aggregation.robust.krum import scores
from leader.config.rules.aggregate import least_updates
from tests.leader.aggregation.robust import references
from tests.leader.aggregation.robust.array_rows import ArrayRows, Matrix, normal
from tests.poison import ALittleIsEnough, Attack, Gaussian, Scaled, SignFlip

BY_COORDINATE = ("median", "trimmed_mean", "bulyan")


def combined(rule: str, updates: Matrix, byzantine: int, width: int = 1 << 30) -> Matrix:
    return RULES[rule](ArrayRows(updates, width), byzantine)


def attacked(attack: Attack, n: int, byzantine: int, size: int = 50) -> tuple[Matrix, Matrix]:
    """(honest, all): the last `byzantine` of n learners attack."""
    updates = normal(n, size, seed=n)
    rng = np.random.Generator(np.random.PCG64(1))
    own = updates[n - byzantine :]
    bad = [attack(update, own, rng) for update in own]
    return updates[: n - byzantine], np.concatenate([updates[: n - byzantine], np.array(bad)])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("byzantine", "more"), [(0, 0), (0, 1), (0, 4), (1, 0), (1, 1), (1, 4), (2, 0), (2, 3)]
)
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_does_what_its_paper_says(rule: str, byzantine: int, more: int, seed: int) -> None:
    updates = normal(least_updates(rule, byzantine) + more, 7, seed)
    expected = getattr(references, rule)(updates, byzantine)
    np.testing.assert_allclose(combined(rule, updates, byzantine), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "byzantine", "expected"),
    [
        ("median", 1, [3.0, 0.0]),
        ("trimmed_mean", 1, [3.0, 0.0]),  # (2 + 3 + 4) / 3
        ("trimmed_mean", 2, [3.0, 0.0]),
        ("krum", 1, [2.0, 0.0]),  # 1, 2 and 3 score 5, 2 and 2 by their two neighbours; the first wins
        ("multi_krum", 1, [2.5, 0.0]),  # mean of the two best
    ],
)
def test_small_cases_by_hand(rule: str, byzantine: int, expected: list[float]) -> None:
    updates = np.array([[1, 0], [2, 0], [3, 0], [4, 0], [1000, 1]], np.float32)
    assert combined(rule, updates, byzantine).tolist() == expected


def test_bulyan_by_hand() -> None:
    updates = np.array([[0], [1], [2], [3], [4], [5], [1000]], np.float32)
    # Krum with 7, 6, 5, 4 and 3 left takes 2, 3, 1, 0 and then 4 or 5, both 1 apart: the first.
    assert choose(squared_distances(gram(ArrayRows(updates))), 1) == [0, 1, 2, 3, 4]
    assert combined("bulyan", updates, 1).tolist() == [2.0]  # of 0 1 2 3 4 the closest to 2


def test_krum_scores_are_sums_over_the_closest_neighbours() -> None:
    distances = squared_distances(gram(ArrayRows(np.array([[0], [1], [3], [7], [100]], np.float32))))
    assert distances[1].tolist() == [1, 0, 4, 36, 99**2]
    assert scores(distances, 1).tolist() == [1 + 9, 1 + 4, 4 + 9, 16 + 36, 93**2 + 97**2]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("more", [0, 1, 3])
@pytest.mark.parametrize("byzantine", [1, 3])
@pytest.mark.parametrize("direction", ["same", "opposed", "random"])
def test_attackers_of_any_size_do_not_move_the_result_beyond_the_honest(
    rule: str, byzantine: int, more: int, direction: str
) -> None:
    n = least_updates(rule, byzantine) + more
    updates = normal(n, 20, seed=n)
    honest, bad = updates[:-byzantine], updates[-byzantine:]
    signs = np.sign(bad - 1) if direction == "random" else np.ones_like(bad)
    if direction == "opposed":
        signs[::2] = -1
    bad[:] = 1e6 * signs
    result = combined(rule, updates, byzantine)
    if rule == "geometric_median":
        # Lopuhaa and Rousseeuw 1991: |m - c| <= 2 (1 - a) / (1 - 2 a) max |x - c|, a the share of attackers.
        share, centre = byzantine / n, honest.mean(axis=0)
        radius = np.linalg.norm(honest - centre, axis=1).max()
        assert np.linalg.norm(result - centre) <= 2 * (1 - share) / (1 - 2 * share) * radius
    else:
        assert (honest.min(axis=0) <= result).all()
        assert (result <= honest.max(axis=0)).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "attack",
    [SignFlip(10), Scaled(), Gaussian(), ALittleIsEnough(15)],
    ids=lambda attack: type(attack).__name__,
)
def test_known_attacks_leave_the_result_near_the_honest_mean(rule: str, attack: Attack) -> None:
    honest, updates = attacked(attack, n=15, byzantine=3)
    centre = honest.mean(axis=0)
    error = np.linalg.norm(combined(rule, updates, 3) - centre)
    # One honest learner alone is about sqrt(50) = 7 away; the plain mean is off by far more, but for
    # "a little is enough", whose point is to be small.
    assert error < (9 if rule == "krum" else 4)
    if not isinstance(attack, ALittleIsEnough):
        assert np.linalg.norm(updates.mean(axis=0) - centre) > 10


def test_without_attackers_the_rules_that_average_are_close_to_the_mean() -> None:
    updates = normal(40, 100)
    mean = updates.mean(axis=0)
    spread = np.linalg.norm(updates[0] - mean)
    for rule in ("trimmed_mean", "multi_krum", "bulyan", "geometric_median"):
        assert np.linalg.norm(combined(rule, updates, 0) - mean) < 0.05 * spread


@pytest.mark.parametrize("rule", RULES)
def test_equal_updates_give_that_update(rule: str) -> None:
    updates = np.repeat(normal(1, 9), 11, axis=0)
    np.testing.assert_allclose(combined(rule, updates, 2), updates[0], rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
@given(width=st.integers(1, 40), n=st.integers(7, 12), seed=st.integers(0, 100))
def test_the_width_of_tiles_makes_no_difference(rule: str, width: int, n: int, seed: int) -> None:
    updates = normal(n, 33, seed)
    whole, tiled = combined(rule, updates, 1), combined(rule, updates, 1, width)
    if rule == "geometric_median":  # sums over coordinates round differently
        np.testing.assert_allclose(tiled, whole, rtol=1e-5)
    else:
        assert tiled.tobytes() == whole.tobytes()


@pytest.mark.parametrize("rule", BY_COORDINATE)
def test_columns_beyond_the_first_piece_are_sorted_too(rule: str) -> None:
    updates = normal(7, 5000)
    last = combined(rule, updates, 0)[-10:]
    assert last.tobytes() == combined(rule, updates, 0, width=1000)[-10:].tobytes()
    if rule == "median":
        np.testing.assert_array_equal(last, np.median(updates[:, -10:], axis=0))


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 130])
def test_scalar_products_of_any_number_of_updates_are_all_there(n: int) -> None:
    updates = normal(n, 300).astype(np.float64)
    products = gram(ArrayRows(normal(n, 300), width=170))
    np.testing.assert_allclose(products, updates @ updates.T, rtol=1e-12, atol=1e-10)
    assert products.tobytes() == products.T.tobytes()


def test_the_distance_of_an_update_to_itself_is_zero_even_beside_huge_ones() -> None:
    updates = np.array([[1e6, 1.0], [1e6, 1.0], [0.5, 0.25]], np.float32)
    distances = squared_distances(gram(ArrayRows(updates)))
    assert np.diag(distances).tolist() == [0, 0, 0]
    assert distances[0, 1] == 0
    assert distances[0, 2] == pytest.approx((1e6 - 0.5) ** 2 + 0.75**2)


def test_the_geometric_median_on_an_update_itself_divides_by_no_zero() -> None:
    updates = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)
    weights = weiszfeld(gram(ArrayRows(updates)))
    assert weights.sum() == pytest.approx(1)
    assert np.abs(weights @ updates).max() < 1e-12
