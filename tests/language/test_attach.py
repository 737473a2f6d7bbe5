"""The house's methods on transformers models: counts, starts, PEFT both ways, dropout, merging."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from peft import DeloraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForSequenceClassification, Qwen2Config

from delora_sd.adapters.catalogue import count_parameters
from delora_sd.adapters.exchange.export.export import export_adapter
from delora_sd.adapters.exchange.stored.formats import load_adapter
from delora_sd.adapters.lowrank.layers import AdaptedLinear
from delora_sd.adapters.lowrank.pack import attach
from delora_sd.errors import UserError
from delora_sd.language.models.attach import attach_language, merge
from delora_sd.language.models.bases import find_shapes, shapes_only
from delora_sd.language.models.families import target_names
from delora_sd.language.models.files import load_state, save_adapted, save_state
from delora_sd.language.settings import LanguageModelConfig
from delora_sd.settings import AdapterConfig, ExportConfig

CONFIG = AdapterConfig(rank=4, boundary=4.0, target_modules=())
IDS = torch.randint(5, 300, (3, 9), generator=torch.Generator().manual_seed(1))


def classifier(folder, seed=0):
    torch.manual_seed(seed)
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()


def moved(adapted, size=0.3):
    """Returns the adapter after a step somewhere: no start hides a fault by being zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _, parameter in adapted.trained():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return adapted


def answers(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize(
    ("base", "is_causal", "expected"),
    [("FacebookAI/roberta-base", False, 294_936), ("meta-llama/Llama-2-7b-hf", True, 4_194_304 + 64)],
)
def test_parameters_are_as_the_paper_prints_them(base, is_causal, expected):
    shapes = find_shapes(LanguageModelConfig(base=base), is_causal=is_causal)
    config = AdapterConfig(rank=8, target_modules=target_names(shapes, ()))
    assert count_parameters(shapes_only(shapes, is_causal=is_causal), config) == expected


def test_lora_and_ether_count_as_printed_on_llama():
    shapes = find_shapes(LanguageModelConfig(base="meta-llama/Llama-2-7b-hf"), is_causal=True)
    model, names = shapes_only(shapes, is_causal=True), target_names(shapes, ())
    counts = [
        count_parameters(model, AdapterConfig(method=method, rank=8, target_modules=names))
        for method in ("lora", "ether", "ether_plus")
    ]
    assert counts == [4_194_304, 262_144, 1_048_576]


def test_layers_are_named_by_family_or_asked_for():
    assert target_names(Qwen2Config(), ()) == ("q_proj", "v_proj")
    assert target_names(Qwen2Config(), ("up_proj",)) == ("up_proj",)
    with pytest.raises(UserError, match=r"'t5' model have no names here .*roberta.*target_modules="):
        target_names(AutoConfig.for_model("t5"), ())


@pytest.mark.parametrize("init", ["frozen_copy", "mirrored", "zero_up"])
def test_a_fresh_adapter_leaves_the_model_as_it_was(tiny_encoder, init):
    before = answers(classifier(tiny_encoder))
    adapted = attach_language(classifier(tiny_encoder), replace(CONFIG, init=init), seed=3)
    torch.testing.assert_close(answers(adapted.model), before, atol=1e-6, rtol=0)


def test_what_trains_is_the_adapter_and_the_head_alone(tiny_encoder):
    adapted = attach_language(classifier(tiny_encoder), CONFIG, seed=3)
    trained = {id(parameter) for _, parameter in adapted.trained()}
    assert trained == {id(parameter) for parameter in adapted.model.parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in adapted.head} == {"classifier"}


@pytest.mark.parametrize("init", ["mirrored", "zero_up"])
def test_peft_reads_our_delora_and_answers_the_same(tiny_encoder, tmp_path, init):
    adapted = moved(attach_language(classifier(tiny_encoder), replace(CONFIG, init=init), seed=3))
    save_adapted(adapted, tmp_path, base=str(tiny_encoder))
    theirs = PeftModel.from_pretrained(with_head_of(classifier(tiny_encoder), adapted), tmp_path / "adapter")
    torch.testing.assert_close(answers(theirs), answers(adapted.model), atol=1e-5, rtol=0)


def test_we_read_delora_of_peft_and_answer_the_same(tiny_encoder, tmp_path):
    config = DeloraConfig(r=4, delora_lambda=6, target_modules=["query", "value"])
    theirs = get_peft_model(classifier(tiny_encoder), config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "delora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(4))
    theirs.save_pretrained(tmp_path)
    ours = classifier(tiny_encoder)
    attach(ours, [load_adapter(tmp_path)]).make_factors()
    torch.testing.assert_close(answers(ours), answers(theirs.eval()), atol=1e-5, rtol=0)


def test_the_exact_lora_beside_a_frozen_copy_answers_the_same_in_peft(tiny_encoder, tmp_path):
    adapted = moved(attach_language(classifier(tiny_encoder), CONFIG, seed=3))
    save_adapted(adapted, tmp_path, base=str(tiny_encoder))
    theirs = PeftModel.from_pretrained(with_head_of(classifier(tiny_encoder), adapted), tmp_path / "adapter" / "lora")
    torch.testing.assert_close(answers(theirs), answers(adapted.model), atol=1e-5, rtol=0)


def test_the_export_command_writes_a_plain_lora_that_answers_the_same_in_peft(tiny_encoder, tmp_path):
    adapted = moved(attach_language(classifier(tiny_encoder), CONFIG, seed=3))
    save_adapted(adapted, tmp_path, base=str(tiny_encoder))
    output = tmp_path / "plain"
    export_adapter(ExportConfig(run=str(tmp_path / "adapter"), layout="peft", precision="fp32", output=str(output)))
    theirs = PeftModel.from_pretrained(with_head_of(classifier(tiny_encoder), adapted), output)
    torch.testing.assert_close(answers(theirs), answers(adapted.model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["delora", "lora", "dora", "ether", "ether_plus", "oft", "full"])
def test_the_merged_model_answers_as_the_adapted_one(tiny_encoder, method):
    config = replace(CONFIG, method=method)
    adapted = moved(attach_language(classifier(tiny_encoder), config, seed=3), size=0.05)
    expected = answers(adapted.model)
    merged = merge(adapted)
    assert not any(isinstance(module, AdaptedLinear) for module in merged.modules())
    torch.testing.assert_close(answers(merged), expected, atol=1e-5, rtol=0)
    assert (expected - answers(classifier(tiny_encoder))).abs().max() > 1e-3


def test_dropout_touches_the_adapters_input_alone_and_only_in_training(tiny_encoder, monkeypatch):
    adapted = moved(attach_language(classifier(tiny_encoder), CONFIG, seed=3, dropout=0.3))
    shares = []

    def drop_all(x, share, training=True, inplace=False):
        if not training:
            return x
        shares.append(share)
        return torch.zeros_like(x)

    monkeypatch.setattr(F, "dropout", drop_all)
    in_eval = answers(adapted.model)
    assert shares == []
    layers = [module for module in adapted.model.modules() if isinstance(module, AdaptedLinear)]
    x = torch.randn(2, 5, 32)
    layers[0].train()
    torch.testing.assert_close(layers[0](x), layers[0].base(x))
    assert shares == [0.3] and not torch.equal(in_eval, answers(classifier(tiny_encoder)))


def test_dropout_of_nothing_changes_nothing_and_gradients_agree(tiny_encoder):
    """The path with dropout is another one than without: at a share of almost zero both must be the same."""
    gradients = []
    for dropout in (0.0, 1e-12):
        adapted = moved(attach_language(classifier(tiny_encoder), CONFIG, seed=3, dropout=dropout))
        adapted.model.train()
        adapted.model(input_ids=IDS).logits.square().sum().backward()
        gradients.append([parameter.grad for _, parameter in adapted.trained()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_dropout_is_refused_where_it_would_do_nothing(tiny_encoder):
    with pytest.raises(UserError, match=r"tuning.dropout: full has none"):
        attach_language(classifier(tiny_encoder), replace(CONFIG, method="full"), seed=0, dropout=0.1)


def test_a_state_comes_back_bit_for_bit_and_another_is_refused(tiny_encoder, tmp_path):
    adapted = moved(attach_language(classifier(tiny_encoder), CONFIG, seed=3))
    save_state(adapted, tmp_path / "state.safetensors", {})
    expected = answers(adapted.model)
    fresh = attach_language(classifier(tiny_encoder, seed=1), CONFIG, seed=3)
    load_state(fresh, tmp_path / "state.safetensors")
    assert torch.equal(answers(fresh.model), expected)
    with pytest.raises(UserError, match="state of another training"):
        load_state(
            attach_language(classifier(tiny_encoder), replace(CONFIG, rank=2), seed=3), tmp_path / "state.safetensors"
        )


def with_head_of(model, adapted):
    with torch.no_grad():
        for name in adapted.head:
            model.get_parameter(name).copy_(adapted.model.get_parameter(name))
    return model
