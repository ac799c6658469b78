"""The file of claims: what it may hold, and every fault of it at once."""

import pytest

from tests.helpers.claims import declare
from tokenprune.errors import InvalidConfig
from tokenprune.report.claims.declared import AS_GOOD, BETTER, Measure, claims_of


def test_a_claim_with_all_its_parts(tmp_path):
    (tmp_path / "claims.yaml").write_text(
        "Paper:\n"
        "  - {claim: A is best., where: Table 9, measures: [{in: mine, of: [top1, top5], printed: fps, over: Dense}],\n"
        "     pairs: [{first: {method: A, treatment: last_layer_fusion}, second: {method: B, cls: [a, b]}, effect: -1}], note: Mind.}\n"
        "Other:\n"
        "  - {claim: B is as good., where: Figure 1, rule: as good, measures: [{in: mine, of: top1, file: x.csv, expected: yours}],\n"
        "     pairs: [{first: {block: [3, 4, 5], of: kept, words: kept, less: {block: 0}}, second: 0}]}\n"
    )
    one, two = claims_of(tmp_path / "claims.yaml")
    assert (one.paper, one.text, one.where, one.rule, one.note) == ("Paper", "A is best.", "Table 9", BETTER, "Mind.")
    assert one.measures == (Measure("mine", ("top1", "top5"), "", "fps", "Dense"),)
    (pair,) = one.pairs
    assert (pair.first.words, pair.second.words, pair.effect) == ("A last layer fusion", "B, cls a, b", -1)
    assert two.rule == AS_GOOD and two.measures == (Measure("mine", ("top1",), "x.csv", "", "", "yours"),)
    first, second = two.pairs[0].first, two.pairs[0].second
    assert (first.column, first.words, first.less.where, second.value, second.words) == ("kept", "(kept − block 0)", {"block": 0}, 0, "0")
    assert two.pairs[0].effect is None


def test_consecutive_numbers_are_told_by_their_ends(tmp_path):
    (claim,) = claims_of(declare(tmp_path, "[{first: {method: A, block: [3, 4, 5]}, second: {method: A, block: [0, 2]}}]"))
    assert (claim.pairs[0].first.words, claim.pairs[0].second.words) == ("A, block 3 to 5", "A, block 0, 2")


def test_every_fault_is_named_at_once(tmp_path):
    (tmp_path / "claims.yaml").write_text(
        "Paper:\n"
        "  - {claim: A, where: Table 1, rule: best, measures: [{in: mine}], pairs: [{first: {method: A}, secnd: 1}], size: 3}\n"
        "  - 5\n"
        "  - {claim: A, where: Table 1, measures: [3], pairs: []}\n"
    )
    with pytest.raises(InvalidConfig) as found:
        claims_of(tmp_path / "claims.yaml")
    text = str(found.value)
    assert "claims.yaml, Paper 1: rule is 'best'; allowed: better, as good" in text
    assert "unknown key 'size' of a claim" in text
    assert "unknown key 'secnd' of a pair; allowed: first, second, effect. Did you mean 'second'?" in text
    assert "a measure without of; give it" in text and "a pair without second; give it" in text
    assert "Paper 2: it is 5; allowed: a mapping" in text
    assert "Paper 3: a measure is 3; allowed: a mapping" in text and "a claim without pairs" in text


@pytest.mark.parametrize(("text", "wrong"), [(None, "no readable file"), ("a: [", "no readable file"), ("- 1", "no file of claims")])
def test_other_files_are_refused(tmp_path, text, wrong):
    path = tmp_path / "claims.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidConfig, match=wrong):
        claims_of(path)
