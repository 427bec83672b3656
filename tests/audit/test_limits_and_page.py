"""The limits on an audit's figures, and the page that shows the figures."""

import pytest

from feddat.audit.errors import AuditError
from feddat.audit.limits import Limits, exceeded
from feddat.audit.page import page


def row(auc, tpr=0.02):
    return {
        "members": 100,
        "non_members": 100,
        "auc": [auc, auc - 0.05, auc + 0.05],
        "tpr": {"0.001": [0.0, 0.0, 0.03], "0.01": [tpr, 0.0, 0.1]},
        "clients": {"<ann>": auc},
        "by_round": [0.5, auc],
        "roc": [[0.0, 0.0], [0.1, 0.2], [1.0, 1.0]],
    }


@pytest.fixture
def result():
    return {
        "run": {
            **{
                "method": "fedavg",
                "title": "FedAvg",
                "model": "vilt-mini",
                "peft": "bottleneck",
                "source": "mini/domain",
            },
            **{"seed": 0, "rounds": 4, "clients": {"<ann>": 50}, "repeated": True},
        },
        "plan": {"views": ["server"], "seed": 3},
        "attacked_rounds": [1, 4],
        "unused": ["drawn from the same generator"],
        "membership": {"server": {"loss": row(0.7), "combined": row(0.66, 0.2)}, "control": {"loss": row(0.9)}},
        "canaries": {
            **{"delta": 1e-5, "confidence": 0.95},
            "views": {"server": {"epsilon": 1.5, "canaries": 40, "guesses": 20, "right": 18}},
        },
        "stated": {
            **{"epsilon": 1.0, "delta": 1e-5, "unit": "record", "scope": "shared", "record": 1.0},
            "views": ["server", "sum"],
        },
        "seconds": 5.0,
    }


def test_limits_are_held_against_every_attack_but_the_control(result):
    assert exceeded(result, Limits()) == []
    assert exceeded(result, Limits(auc=0.7, tpr=0.2, epsilon=1.5)) == []
    assert exceeded(result, Limits(auc=0.68)) == ["membership (server, loss): AUC is 0.700, at most 0.68 allowed"]
    (tpr,) = exceeded(result, Limits(tpr=0.1))
    assert "server, combined" in tpr and "0.200" in tpr
    (epsilon,) = exceeded(result, Limits(epsilon=1.0))
    assert epsilon == "canaries (server): ε is at least 1.50, at most 1 allowed"


def test_what_is_rebuilt_at_a_client_with_the_runs_settings_counts_and_no_other(result):
    result["reconstruction"] = {
        "without_policy": {"patches, 8 x 1": {"recovered": 60, "of": 128, "examples": 8, "steps": 1}},
        "with_policy": {"patches, 8 x 8": {"recovered": 9, "of": 1024, "examples": 64, "steps": 8}},
        "this_run": {
            "patches, this run": {"recovered": 1, "of": 2892, "examples": 200, "steps": 7},
            "words-rows, this run": {"recovered": 0, "of": 0, "examples": 200, "steps": 7, "refused": "not <possible>"},
        },
    }
    assert exceeded(result, Limits(reconstructed=1)) == []
    assert exceeded(result, Limits(reconstructed=0)) == [
        "reconstruction (patches, this run): 1 recovered, at most 0 allowed"
    ]
    text = page(result, [], False)
    assert "keeps to its policy" in text and "<td>1024</td>" in text and "not &lt;possible&gt;" in text
    assert "pieces, with this run&#39;s settings" in text


def test_a_limit_on_what_was_not_measured_is_no_pass(result):
    del result["canaries"]
    with pytest.raises(AuditError, match="canaries"):
        exceeded(result, Limits(epsilon=1.0))


def test_the_page_says_it_in_words_and_escapes_names(result):
    text = page(result, ["too much"], True)
    for part in ("70 of 100", "coin", "18 of 20", "contradict it", "too much", "to the last bit", "The control is off"):
        assert part in text, part
    assert "&lt;ann&gt;" in text and "<ann>" not in text
    assert "<script" not in text and "http" not in text.replace("http://www.w3.org", "")
    assert text.count("<svg") == 3


def test_a_page_without_a_leak_says_so(result):
    result["membership"] = {"server": {"loss": row(0.51)}, "control": {"loss": row(0.5)}}
    result["stated"] = dict.fromkeys(("epsilon", "delta", "unit", "scope", "record", "views"))
    text = page(result, [], True)
    assert "no better than a coin" in text and "within the limits" in text and "states no ε" in text
    assert "The control is off" not in text


def test_the_page_says_what_a_clients_data_is_like_beside_a_guess(result):
    told = {"answers_auc": [0.89, 0.84, 0.94], "top_answer": [0.5, 0.0, 1.0], "kind_error": 0.043}
    guess = {"answers_auc": None, "top_answer": [0.0, 0.0, 0.8], "kind_error": 0.088}
    result["properties"] = {
        **{"round": 1, "shadow_clients": 40, "clients": 2, "answers": 47, "kinds": ["how many", "other"]},
        "sources": {"server": told | {"top_kind": [1.0, 0.2, 1.0]}, "guess": guess | {"top_kind": [0.0, 0.0, 0.8]}},
        "counts": {"scores": {"answers": [2, 2], "examples": [2, 2]}, "none": {"answers": [0, 2], "examples": [1, 2]}},
    }
    text = page(result, [], False)
    for part in ("0.890 (0.840–0.940)", "<td>1 of 2</td><td>2 of 2</td><td>4.3</td>", "<td>–</td>", "how many, other"):
        assert part in text, part
    assert "nothing beside the update" in text and "<td>0 of 2</td>" in text


def test_matching_is_shown_beside_its_start(result):
    row = {"what": "pictures and words: gradient matching", "examples": 2, "steps": 1, "recovered": 0, "of": 2}
    close = {"correlation": [0.21, 0.55], "psnr": [14.3, 15.8], "words": [2, 3, 7], "words_wrong": 4, "matched": 0.99}
    refused = {"recovered": 0, "of": 64, "refused": "policy.min_examples"}
    result["reconstruction"] = {
        "without_policy": {"matching, 2 x 1": row | close},
        "with_policy": {"matching, 8 x 8": row | refused},
        "this_run": {"sentences, this run": row | {"rouge": [1.0, 0.5, 1.0], "rouge_guess": [0.25, 0.0, 0.25]}},
    }
    text = page(result, [], False)
    assert "<td>0.55 (0.21)</td><td>15.8 (14.3)</td><td>3 of 7 (2)</td>" in text
    assert "ROUGE-1/2/L 100 / 50 / 100 (a guess: 25 / 0 / 25)" in text
    assert text.count("<svg") == 4 and "By trial and error" in text and "keeps to its policy" in text
