"""Names of protocols and what they stand for."""

import pytest

from delora_eval.scoring.judges.protocols import PROTOCOLS, combinations, find_protocol, modify, paired_subjects
from delora_sd.data.subjects import dreambooth
from delora_sd.errors import UserError


def test_twenty_four_combinations_have_different_names_that_find_them():
    protocols = combinations()
    assert len({protocol.name for protocol in protocols}) == 24
    assert all(find_protocol(protocol.name) == protocol for protocol in protocols)


def test_named_protocols_are_what_their_sources_did():
    dreambooth_protocol, oft = PROTOCOLS["dreambooth"], PROTOCOLS["oft"]
    assert dreambooth_protocol.dino.preprocessing.resize_px == 256
    assert dreambooth_protocol.dino.preprocessing.mean == (0.485, 0.456, 0.406)
    assert (dreambooth_protocol.clip.encoder, dreambooth_protocol.pooling) == ("clip/vit-b-32", "subjects")
    assert oft.dino.preprocessing.resize == "squash"
    assert (oft.dino.preprocessing.resample, oft.dino.preprocessing.mean) == ("bilinear", (0.5, 0.5, 0.5))
    assert (oft.clip.encoder, oft.pooling, oft.skips_black) == ("clip/vit-l-14", "pairs", True)
    assert not any(protocol.keeps_self_pairs for protocol in PROTOCOLS.values())


def test_a_changed_protocol_says_so_in_its_name():
    protocol = find_protocol("oft+substring_bug+identifier")
    assert protocol.name == "oft+substring_bug+identifier"
    assert protocol.matches_substring and protocol.text_has_identifier
    assert modify(protocol, "identifier") == protocol


def test_unknown_protocol_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'dreambooth'"):
        find_protocol("dreamboth")
    with pytest.raises(UserError, match="substring_bug"):
        find_protocol("oft+substrin_bug")


def test_the_substring_bug_is_one_pair_of_the_thirty_subjects_and_only_under_its_option():
    subjects = list(dreambooth()["subjects"])
    strict = {name: paired_subjects(name, subjects, find_protocol("oft")) for name in subjects}
    buggy = {name: paired_subjects(name, subjects, find_protocol("oft+substring_bug")) for name in subjects}
    assert all(others == [name] for name, others in strict.items())
    assert {name: others for name, others in buggy.items() if len(others) > 1} == {"dog": ["backpack_dog", "dog"]}
