"""Adapters added up: the sum of their updates in one file, what is lost where that is said, and how they interfere."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapter_cases import CONVOLUTIONS, config_of, unet_output
from safetensors import safe_open

from delora_sd.adapters.exchange.export.combine import combine, combine_adapters
from delora_sd.adapters.exchange.export.interference import WHOLE, measure_interference
from delora_sd.adapters.exchange.merge.merging import merged_adapters
from delora_sd.adapters.exchange.merge.updates import load_updates
from delora_sd.adapters.exchange.plain_lora.reading import PlainLayer
from delora_sd.cli.commands import COMMANDS
from delora_sd.cli.main import parse
from delora_sd.errors import UserError
from delora_sd.files.run_folder import read_json, write_json
from delora_sd.settings import CombineConfig


@torch.no_grad()
def dense_sum(unet, strengths: dict[Path, float]) -> dict[str, torch.Tensor]:
    """{layer: sum of strength (W' - W)}, one adapter after the other."""
    total: dict[str, torch.Tensor] = {}
    for path, strength in strengths.items():
        for parameter, update in load_updates(path, unet).items():
            weight = unet.get_parameter(parameter)
            total[parameter] = total.get(parameter, 0) + strength * update(weight)
    return total


def relative_error(layers: dict[str, PlainLayer], expected: dict[str, torch.Tensor]) -> float:
    lost = whole = 0.0
    for parameter, update in expected.items():
        layer = layers[parameter.removesuffix(".weight")]
        product = (layer.up @ layer.down.flatten(1)).view_as(update)
        lost += (product - update).double().square().sum().item()
        whole += update.double().square().sum().item()
    return (lost / whole) ** 0.5


@pytest.mark.parametrize(("layout", "precision"), [("kohya", "fp16"), ("diffusers", "fp32"), ("peft", "fp32")])
def test_the_file_does_what_the_adapters_do_together(make_run, base_unet, tmp_path, capsys, layout, precision):
    delora, _ = make_run(config_of("delora", target_modules=CONVOLUTIONS), name="rex", size=0.1)
    lora, _ = make_run(config_of("lora", alpha=3.0), name="tom", size=0.1)
    pair, _ = make_run(config_of("ether_plus"), name="mia", size=0.1)
    output = tmp_path / ("all" if layout == "peft" else "all.safetensors")
    runs = tuple(str(run.path) for run in (delora, lora, pair))
    combine_adapters(
        CombineConfig(adapters=runs, strengths=(1.0, 0.5, 2.0), output=str(output), layout=layout, precision=precision)
    )
    unet = base_unet()
    with merged_adapters(unet, {delora.adapter: 1.0, lora.adapter: 0.5, pair.adapter: 2.0}):
        expected = unet_output(unet)
    with merged_adapters(unet, {output: 1.0}):
        found = unet_output(unet)
    assert (expected - unet_output(unet)).abs().max() > 1e-2
    assert (found - expected).abs().max() < {"fp16": 1e-2, "fp32": 1e-5}[precision]
    assert "the exact sum" in " ".join(capsys.readouterr().out.split())


def test_what_no_lora_holds_and_what_a_rank_cuts_off_is_said(make_run, base_unet):
    dora, _ = make_run(config_of("dora"), name="rex", size=0.3)
    lora, _ = make_run(config_of("lora"), name="tom", size=0.3)
    strengths = {dora.adapter: 1.0, lora.adapter: 0.5}
    expected = dense_sum(base_unet(), strengths)
    for rank in (None, 3):
        found = combine(strengths, CombineConfig(rank=rank))
        assert [part.error > 0 for part in found.parts] == [True, False]
        true = relative_error(found.layers, expected)
        assert 1e-3 < true <= found.error * 1.001
        assert rank is None or all(layer.down.shape[0] == rank for layer in found.layers.values())
    exact = {lora.adapter: 0.5, lora.path / "adapter": 1.0}
    found = combine(exact, CombineConfig(rank=1))
    assert found.error == pytest.approx(relative_error(found.layers, dense_sum(base_unet(), exact)), rel=1e-3)


def test_interference_is_what_dense_updates_say():
    generator = torch.Generator().manual_seed(0)

    def layer(rank: int) -> PlainLayer:
        return PlainLayer(down=torch.randn(rank, 7, generator=generator), up=torch.randn(5, rank, generator=generator))

    names = ("down_blocks.0.a", "down_blocks.0.b", "mid_block.c")
    first, second = {name: layer(2) for name in names}, {name: layer(3) for name in names[:2]}
    rows = {row.block: row for row in measure_interference([first, second])}
    assert list(rows) == ["down_blocks.0", "mid_block", WHOLE]
    dense = [{name: (each.up @ each.down).double() for name, each in update.items()} for update in (first, second)]

    def total(measure, left: int, right: int) -> float:
        return sum(measure(dense[left][name], dense[right][name]).item() for name in names[:2])

    measures = {
        "cosine": lambda a, b: (a * b).sum(),
        "row_overlap": lambda a, b: (a @ b.T).square().sum(),
        "column_overlap": lambda a, b: (a.T @ b).square().sum(),
    }
    for name, measure in measures.items():
        expected = total(measure, 0, 1) / (total(measure, 0, 0) * total(measure, 1, 1)) ** 0.5
        assert getattr(rows["down_blocks.0"], name) == pytest.approx(expected, rel=1e-5)
    assert rows["mid_block"].norms == (pytest.approx(dense[0][names[2]].norm().item()), 0.0)
    assert rows["mid_block"].cosine == 0
    (itself,) = [row for row in measure_interference([first, first]) if row.block == WHOLE]
    assert (itself.cosine, itself.row_overlap, itself.column_overlap) == pytest.approx((1, 1, 1))


def test_the_file_says_what_it_was_made_of(make_run, tmp_path):
    runs = [make_run(config_of(method), name=name)[0] for method, name in (("lora", "rex"), ("delora", "tom"))]
    output = tmp_path / "both.safetensors"
    combine_adapters(CombineConfig(adapters=tuple(str(run.path) for run in runs), output=str(output)))
    with safe_open(output, framework="pt") as file:
        said = file.metadata()
    assert said["modelspec.title"] == "both" and said["delora.method"] == "combined"
    assert said["modelspec.trigger_phrase"] == "qwe dog"
    assert '"method": "lora"' in said["delora.parts"] and '"name": "tom"' in said["delora.parts"]


def test_what_cannot_be_added_up_is_refused_before_anything_is_written(make_run, tmp_path):
    rex, _ = make_run(config_of("lora"), name="rex")
    tom, _ = make_run(config_of("lora"), name="tom")
    output = tmp_path / "both.safetensors"
    both = CombineConfig(adapters=(str(rex.path), str(tom.path)), output=str(output))
    for config, message in (
        (replace(both, adapters=(str(rex.path),)), "adapters: 1 given"),
        (replace(both, adapters=(str(rex.path), str(rex.adapter))), "given twice"),
        (replace(both, strengths=(1.0,)), "1 for 2 adapters"),
        (replace(both, strengths=(1.0, 3.0)), "a strength is 0"),
        (replace(both, strengths=(1.0, 0.0)), "leave it out"),
        (replace(both, rank=0), "rank: 0"),
        (replace(both, output=""), "output: missing"),
        (replace(both, output=str(tmp_path / "both")), "ends with .safetensors"),
        (replace(both, output=str(tmp_path)), "ends with .safetensors"),
    ):
        with pytest.raises(UserError, match=message):
            combine_adapters(config)
    for run, contents in ((rex, "a" * 64), (tom, "b" * 64)):
        manifest = read_json(run.manifest)
        write_json(run.manifest, manifest | {"base": manifest["base"] | {"fingerprint": contents}})
    with pytest.raises(UserError, match="adapters of two bases cannot be added up"):
        combine_adapters(both)
    assert not output.exists()
    output.write_bytes(b"mine")
    with pytest.raises(UserError, match="exists; give a new name"):
        combine_adapters(both)


def test_every_bare_word_is_an_adapter():
    config = parse(COMMANDS["combine"], ["runs/a,b", "runs/[c]", "d.safetensors", "output=e.safetensors"])
    assert config.adapters == ("runs/a,b", "runs/[c]", "d.safetensors")
