from __future__ import annotations

from benchmarks.rounds.kafka_sums import Round, result


def test_what_is_promised_is_the_round_by_slice_beside_the_one_by_client_and_its_close() -> None:
    found = {"by slice": [Round(5.0, 1.5, 2.0)], "by client": [Round(8.0, 4.0, 8.0)]}
    made = result(found)
    assert made.target is not None
    assert (made.target.value, made.target.limit, made.target.met) == (5.0 / 8.0, 1 / 1.3, True)
    assert [(further.value, further.limit) for further in made.further] == [(1.5, 2.0)]
    assert [figure.spread.median for figure in made.figures] == [5.0, 1.5, 2.0, 8.0, 4.0, 8.0]
    assert made.ratios["by client to by slice"] == 1.6
