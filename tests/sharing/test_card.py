"""A run's card and its way to the hub, against a hub in this process."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalTokenNotFoundError

from delora_sd.cli.main import main
from delora_sd.config.load import to_yaml
from delora_sd.errors import UserError
from delora_sd.files.run_folder import FORMAT_VERSION, RunFolder, write_json, write_lines, write_text
from delora_sd.settings import (
    AdapterConfig,
    DataConfig,
    ModelConfig,
    TrainConfig,
    TrainingConfig,
)
from delora_sd.sharing.card import write_card
from delora_sd.sharing.push import push
from delora_sd.sharing.settings import CardConfig, PushConfig

SCORES = [
    {
        "set": "main",
        "score": "dino",
        "protocol": "paper",
        "value": 0.61234,
        "prompt": None,
        "encoder": "e|1",
        "pairs": 4,
    },
    {
        "set": "main",
        "score": "dino",
        "protocol": "paper",
        "value": 0.9,
        "prompt": "a dog",
        "encoder": "e|1",
        "pairs": 2,
    },
    {"set": "main", "score": "clip_t", "protocol": "paper", "value": None, "prompt": None, "encoder": "e", "pairs": 0},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run as training, generating and scoring leave it, two images of one prompt in it."""
    run = RunFolder(tmp_path / "rex")
    config = TrainConfig(
        output_dir=str(run.path),
        model=ModelConfig(base=str(tmp_path / "base")),
        data=DataConfig(photos=str(tmp_path / "photos"), class_word="dog"),
        adapter=AdapterConfig(method="lora", rank=2),
        training=TrainingConfig(num_steps=2),
    )
    write_text(run.config, to_yaml(config))
    facts = {"format": FORMAT_VERSION, "finished_step": 2, "subject": {"class_word": "dog"}, "photos": {"a.png": "0"}}
    write_json(run.manifest, facts | {"base": {"random_weights": True}})
    write_json(run.adapter / "adapter_config.json", {})
    for layout in ("kohya", "diffusers"):
        write_text(run.export / f"rex.{layout}.safetensors", layout)
    records = [{"file": f"0{seed}.png", "prompt": "a dog", "prompt_index": 0, "seed": seed} for seed in range(2)]
    write_lines(run.images / "main" / "images.jsonl", records)
    for record in records:
        write_text(run.images / "main" / record["file"], "pixels")
    write_lines(run.scores, SCORES)
    return run.path


class FakeHub:
    """Remembers what it was told; `me/old` exists and is public."""

    def __init__(self):
        self.repositories = {"me/old": False}
        self.commits: dict[str, dict[str, bytes]] = {}
        self.fails = False

    def repo_exists(self, name, *, repo_type):
        return name in self.repositories

    def repo_info(self, name, *, repo_type):
        return SimpleNamespace(private=self.repositories[name])

    def create_repo(self, name, *, private, repo_type, exist_ok):
        if name.startswith("other/"):
            raise OSError("403 Forbidden: you are not other")
        if name.startswith("nobody/"):
            raise LocalTokenNotFoundError("no token")
        self.repositories[name] = private

    def create_commit(self, name, operations, *, commit_message, repo_type):
        if self.fails:
            raise OSError("connection reset")
        self.commits[name] = {each.path_in_repo: Path(each.path_or_fileobj).read_bytes() for each in operations}
        return SimpleNamespace(commit_url=f"https://hub/{name}/commit/1")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    return fake


def test_the_hub_reads_the_card(run: Path):
    file = write_card(CardConfig(run=str(run), licence="openrail"))
    card = ModelCard.load(file)
    data = card.data.to_dict()
    assert data["license"] == "openrail" and data["instance_prompt"] == "a photo of qwe dog"
    assert {"lora", "text-to-image"} <= set(
        data["tags"]
    ) and "base_model" not in data  # a folder is no model of the hub
    assert data["widget"] == [{"text": "a dog", "output": {"url": "images/main/00.png"}}]
    assert "| main | dino | 0.6123 | paper | e/1 | 4 |" in card.text
    assert "0.9000" not in card.text and "clip_t" not in card.text
    assert "What it cannot do" in card.text and "No photo was held out" in card.text
    assert "random weights: the images mean nothing" in card.text
    assert str(run.parent) not in card.content and "| adapter.rank | 2 |" in card.text


def test_an_edited_card_stays_and_a_licence_is_not_guessed(run: Path):
    with pytest.raises(UserError, match="licence: missing"):
        write_card(CardConfig(run=str(run)))
    config = CardConfig(run=str(run), licence="mit")
    write_card(config)
    write_card(config)
    (run / "README.md").write_text("mine")
    with pytest.raises(UserError, match="overwrite=true"):
        write_card(config)
    write_card(replace(config, overwrite=True))
    with pytest.raises(UserError, match="no finished run"):
        write_card(CardConfig(run=str(run.parent)))


def test_what_is_listed_is_what_is_sent_and_it_is_private(run: Path, hub: FakeHub, capsys):
    assert main(["push", str(run), "me/rex", "licence=mit", "--dry-run"]) == 0
    listed = {line.split("  ")[-1].strip() for line in capsys.readouterr().out.splitlines()[:-1]}
    assert not hub.commits and not (run / "README.md").exists()
    assert main(["push", str(run), "me/rex", "licence=mit"]) == 0
    assert "https://hub/me/rex/commit/1" in capsys.readouterr().out
    sent = hub.commits["me/rex"]
    assert set(sent) == listed and hub.repositories["me/rex"] is True
    assert {"README.md", "rex.kohya.safetensors", "adapter/adapter_config.json"} <= set(sent)
    assert not {"config.yaml", "manifest.json", "events.jsonl"} & set(sent)
    assert sent["README.md"] == (run / "README.md").read_bytes()


def test_a_name_that_exists_is_left_alone_unless_told_otherwise(run: Path, hub: FakeHub):
    config = PushConfig(run=str(run), name="me/old", licence="mit")
    with pytest.raises(UserError, match="me/old exists already"):
        push(config)
    with pytest.raises(UserError, match="me/old is public"):
        push(replace(config, update=True))
    assert not hub.commits
    push(replace(config, update=True, private=False))
    assert "README.md" in hub.commits["me/old"]


def test_what_the_hub_refuses_is_said_in_a_line(run: Path, hub: FakeHub):
    config = PushConfig(run=str(run), name="me/rex", licence="mit")
    for name, message in (
        ("rex", "expected owner/name"),
        ("me/../rex", "expected owner/name"),
        ("other/rex", "the hub refuses .403 Forbidden"),
        ("nobody/rex", "not logged in"),
    ):
        with pytest.raises(UserError, match=message):
            push(replace(config, name=name))
    hub.fails = True
    with pytest.raises(UserError, match=r"connection reset.*update=true"):
        push(config)
    hub.fails = False
    push(replace(config, update=True))
    assert "README.md" in hub.commits["me/rex"]
