"""Which skill goes with which mistake."""

from __future__ import annotations

from collections import defaultdict

from sgsd.bank import Bm25Retriever, pairs_for
from sgsd.lab.demo_bank import demo_bank
from sgsd.lab.task import problems

BANK = demo_bank(0)
QUERIES = [p.text for p, _ in zip(problems(held_out=False, seed=0, families=("carry",)), range(60))]


def partners(pairing: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for pool in pairs_for(Bm25Retriever(BANK), QUERIES, 4, pairing=pairing):  # type: ignore[arg-type]
        for pair in pool:
            assert pair.skill is not None
            assert pair.mistake is not None
            found[pair.skill.id].add(pair.mistake.id)
    return found


def test_by_rank_an_item_always_has_the_same_partner_and_rotated_it_has_them_all() -> None:
    assert {len(mistakes) for mistakes in partners("rank").values()} == {1}
    assert {len(mistakes) for mistakes in partners("rotated").values()} == {4}


def test_rotating_changes_no_item_and_depends_on_the_problem_alone() -> None:
    ranked = pairs_for(Bm25Retriever(BANK), QUERIES, 4)
    rotated = pairs_for(Bm25Retriever(BANK), QUERIES, 4, pairing="rotated")
    assert rotated == pairs_for(Bm25Retriever(BANK), QUERIES[::-1], 4, pairing="rotated")[::-1]
    for before, after in zip(ranked, rotated):
        assert [p.skill for p in before] == [p.skill for p in after]
        assert {p.mistake for p in before} == {p.mistake for p in after}
        assert abs(sum(p.weight for p in after) - 1) < 1e-12
