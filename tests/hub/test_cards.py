"""Cards: their content, the rules of the Hub, and the escaping of text from the data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from hub_server import HubServer
from hub_store import card_complaints
from huggingface_hub import DatasetCard, ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from hf_ptr.data.score_file import BASE_COLUMNS
from hf_ptr.hub.cards import CardFacts, Result, component_card, plain, policy_card, score_card
from hf_ptr.training.weight_record import BINS, WeightRecord

SUCCESS = Result("success_rate", 0.43, (0.36, 0.5), 200, "Meta-World", "metaworld", {"seed": 0, "max_steps": 300})
ERROR = Result("action_mse", 0.5, None, 1, "alice/g1", "alice/g1", {"seed": 1})


def facts(**changes: Any) -> CardFacts:
    given: dict[str, Any] = {
        "repo_id": "alice/card",
        "method": "all chunks have the same weight",
        "data": {
            "source": "alice/g1",
            "revision": "a" * 40,
            "episodes": 3,
            "frames": 100,
            "fps": 30.0,
            "robot_type": "unitree",
            "tasks": ["pick the bottle"],
            "observation_features": ["observation.state"],
            "state_feature": "observation.state",
            "action_feature": "action",
        },
        "corruption": {"protocol": "hard", "seed": 4, "episodes": 2, "faults": {"noise": 1, "instruction": 1}},
        "settings": {"alpha": 0.5, "w_max": 2.0},
        "weights": {"mean": 1.25, "ess": 0.8, "low": 0.25, "high": 4.0},
        "sources": [("alice/g1", 0.75, 0.9), ("alice/more", 0.25, 0.1)],
        "steps": "20 optimiser steps.",
        "results": [SUCCESS, ERROR],
        "versions": {"torch": "2.13.0"},
        "base_model": ("alice/base", True),
        "license": "apache-2.0",
        "parts": ["scorer"],
        "histogram": "weights.png",
    }
    return CardFacts(**{**given, **changes})


CARDS = {
    "policy": lambda given: policy_card(given),
    "adapter": lambda given: policy_card(given, {"r": 8, "target_modules": ["q", "v"]}),
    "scorer": lambda given: component_card(given, {"model_type": "ptr_transition_scorer", "hidden_size": 64}),
    "belief": lambda given: component_card(given, {"model_type": "ptr_belief_tokenizer", "num_tokens": 4}),
    "scores": lambda given: score_card(given, "0a1b", calibrated=True, extra=["failed_element"]),
}


@pytest.mark.parametrize("kind", CARDS)
def test_the_hub_accepts_every_card(kind: str, hub: HubServer) -> None:
    bare = {
        "data": {"source": "folder", "episodes": 1, "frames": 2},
        "corruption": None,
        "weights": None,
        "sources": (),
    }
    bare |= {"results": (), "base_model": None, "license": None, "histogram": None, "settings": {}, "parts": ()}
    for given in (facts(), facts(**bare)):
        card: Any = CARDS[kind](given)
        card.validate()
        text = str(card)
        assert card_complaints(text, "dataset" if kind == "scores" else "model") == []
        assert "{{" not in text and "{%" not in text and "None" not in text
        assert ("Limits" in text or "limits" in text) and "2603.16542" in text
        # Reading the card returns the metadata that were written.
        again = (DatasetCard if kind == "scores" else ModelCard)(text)
        assert again.data.to_dict() == card.data.to_dict()
    assert hub.requests == ["POST /api/validate-yaml"] * 2


def test_a_wrong_card_breaks_the_rules_of_the_hub(hub: HubServer) -> None:
    wrong = {
        "license: my-own": "license",
        "datasets: [not a name]": "datasets",
        "base_model: runs/my/policy": "base_model",
        "tags: robotics": "tags",
        "model-index: [{name: a, results: [{task: {}, dataset: {name: b, type: c}, metrics: []}]}]": "task.type",
    }
    for text, named in wrong.items():
        complaints = card_complaints(f"---\n{text}\n---\n", "model")
        assert len(complaints) >= 1 and named in complaints[0], text
    with pytest.raises(ValueError, match=r"license.* must be one of"):
        ModelCard("---\nlicense: my-own\n---\n").validate()


def test_results_survive_the_model_index_with_their_intervals() -> None:
    text = str(policy_card(facts()))
    name, results = model_index_to_eval_results(yaml.safe_load(text.split("---")[1])["model-index"])
    assert name == "card" and {result.metric_type for result in results} == {"success_rate", "action_mse"}
    success = next(result for result in results if result.metric_type == "success_rate")
    assert (success.metric_value, success.dataset_type, success.dataset_name) == (0.43, "metaworld", "Meta-World")
    expected = {"episodes": 200, "seed": 0, "max_steps": 300, "interval": [0.36, 0.5], "confidence_level": 0.95}
    assert success.metric_args == expected
    assert "| Meta-World | success rate | 0.43 | 0.36 to 0.5 | 200 |" in text
    assert "| alice/g1 | action mse | 0.5 | - | 1 |" in text
    assert isinstance(ModelCard(text).data, ModelCardData)


def test_content_of_a_policy_card() -> None:
    text = str(policy_card(facts()))
    for part in (
        "datasets:\n- alice/g1",
        "base_model: alice/base\n",
        "base_model_relation: finetune",
        f"commit `{'a' * 40}`",
        "protocol `hard`, seed 4; 2 episodes carry at least one (noise: 1, instruction: 1)",
        "| alice/g1 | 0.750 | 0.900 | 1.200 |",
        "| alice/more | 0.250 | 0.100 | 0.400 |",
        "| `w_max` | 2.0 |",
        "](weights.png)",
        "- torch 2.13.0",
        "`apache-2.0`",
    ):
        assert part in text, part
    adapter = str(CARDS["adapter"](facts()))
    assert "base_model_relation: adapter" in adapter and "library_name: peft" in adapter and "| `r` | 8 |" in adapter
    local = str(policy_card(facts(base_model=("mine", False), data={**facts().data, "revision": None})))  # type: ignore[dict-item]
    assert "base_model:" not in local and "datasets:" not in local and "Base policy: `mine`" in local
    assert "no licence" in str(policy_card(facts(license=None))).lower()


def test_the_card_of_a_score_file_states_the_scale_of_its_score() -> None:
    label_free = str(score_card(facts(), "0a1b", calibrated=True))
    assert "label-free score without unit; 0 is typical of episodes with a planted fault" in label_free
    assert "nats" not in label_free and "`weight` is 1" not in label_free
    published = str(score_card(facts(), "0a1b", calibrated=False))
    assert "PTR score in nats over chance" in published and "`score` is 0 and `weight` is 1" in published
    for text in (label_free, published):
        columns = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
        assert [name for name in columns if name in BASE_COLUMNS] == [name for name in BASE_COLUMNS if name in columns]
        assert {"index", "score", "weight", "valid", "scorer"} <= set(columns)


def test_text_from_the_data_cannot_become_markup() -> None:
    evil = '<script>alert("x")</script> | [click](http://x) `code` {{ card_data }}\n# heading'
    data = {**facts().data, "source": evil, "revision": None, "tasks": [evil], "robot_type": evil}  # type: ignore[dict-item]
    corruption = {"protocol": evil, "seed": 4, "episodes": 2, "faults": {evil: 1}}
    for kind, make in CARDS.items():
        text = str(make(facts(data=data, corruption=corruption, sources=[(evil, 1.0, 1.0)], settings={"text": evil})))
        body = text.split("---", 2)[2]
        lines = [line for line in body.splitlines() if "script" in line]
        assert lines, kind
        for line in lines:
            # Text outside backticks is escaped.
            outside = "".join(line.split("`")[::2])
            assert "<script" not in outside.replace("\\<", ""), line
        assert "\n# heading" not in body and "library_name: hf-ptr\nlicense" not in body
    assert plain("a|b\nc") == "a\\|b c"


def test_the_weight_record_counts_every_weight_and_resumes() -> None:
    weight, source = torch.tensor([0.25, 1.0, 4.0, 4.0]), torch.tensor([0, 0, 1, 1])
    record = WeightRecord(0.25, 4.0, ("a", "b"), torch.device("cpu"))
    assert record.to_dict() is None
    record.add(torch.ones(3), source[:3], warm_up=True)
    record.add(weight, source)
    again = WeightRecord(0.25, 4.0, ("a", "b"), torch.device("cpu"))
    again.load_state_dict(record.state_dict())
    again.add(weight, source)
    # The sum over two processes with equal counts.
    again.reduce(lambda tensor: tensor * 2)
    content = again.to_dict()
    assert sum(again.take_log(lambda tensor: tensor * 2)) == 2 * 11
    assert sum(again.take_log(lambda tensor: tensor * 2)) == 0
    assert content is not None and len(content["counts"]) == BINS and sum(content["counts"]) == 16
    assert (content["counts"][0], content["counts"][-1]) == (4, 8)
    assert content["mean"] == pytest.approx(9.25 / 4)
    assert content["ess"] == pytest.approx(9.25**2 / (0.0625 + 1 + 32) / 4, rel=1e-6)
    assert content["sources"]["b"] == {"share": 0.5, "weight": pytest.approx(8 / 9.25)}
