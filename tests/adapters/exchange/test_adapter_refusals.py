"""Bad files and settings: one line that says which, what was found, what is accepted."""

import json
import pickle
import struct

import pytest
import torch
from adapter_cases import ATTENTION, adapted, config_of, small_unet
from safetensors.torch import load_file, save_file

from delora_sd.adapters.attach import attach_method, check_known
from delora_sd.adapters.exchange.merge.merging import merged_adapters
from delora_sd.adapters.exchange.stored.formats import load_adapter, save_adapter
from delora_sd.adapters.lowrank.pack import attach_adapters
from delora_sd.errors import UserError
from delora_sd.files.tensors import read_tensors
from delora_sd.settings import AdapterConfig

FILE = "adapter_model.safetensors"


@pytest.fixture
def lora_folder(tmp_path):
    pack = adapted(small_unet(), config_of("lora"))
    save_adapter(pack.adapters[0], tmp_path / "a", base="owner/base")
    return tmp_path / "a"


def _rewrite(folder, change, *, keep_metadata=False):
    """Replaces the tensors of an adapter folder by `change(tensors)`."""
    from safetensors import safe_open

    with safe_open(folder / FILE, "pt") as file:
        metadata = file.metadata()
    save_file(change(load_file(folder / FILE)), folder / FILE, metadata=metadata if keep_metadata else {"format": "pt"})


@pytest.mark.parametrize("name", ["model.bin", "model.ckpt", "model.pt", "hidden.safetensors"])
def test_pickles_are_refused_by_ending_and_by_content(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="pickle, which can run code"):
        read_tensors(tmp_path / name)
    with pytest.raises(UserError, match="pickle"), merged_adapters(small_unet(), {tmp_path / name: 1.0}):
        pass


@pytest.mark.parametrize("header_bytes", [640, 1152, 1408])
def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path, header_bytes):
    text = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    content = _header(text.ljust(header_bytes)) + struct.pack("<f", 2.5)
    (tmp_path / "a.safetensors").write_bytes(content)
    assert read_tensors(tmp_path / "a.safetensors")[0]["a"].item() == 2.5


def test_a_torch_save_file_in_disguise_is_refused(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="pickle"):
        read_tensors(tmp_path / "a.safetensors")


def test_a_peft_folder_with_pickled_weights_is_refused(lora_folder):
    (lora_folder / FILE).rename(lora_folder / "adapter_model.bin")
    with pytest.raises(UserError, match="pickle"):
        load_adapter(lora_folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_name(lora_folder, value):
    def spoil(tensors):
        tensors[sorted(tensors)[0]][0, 0] = value
        return tensors

    _rewrite(lora_folder, spoil)
    with pytest.raises(UserError, match=r"'base_model.*lora_A.weight' holds values that are not finite"):
        load_adapter(lora_folder)


def _header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        _header(b"{", length=2**60),
        _header(b"not json"),
        _header(json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()),
        _header(json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()) + b"\0" * 8,
        _header(json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 4]}}).encode()) + b"\0" * 4,
    ],
)
def test_broken_and_lying_headers_are_refused(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_tensors(tmp_path / "a.safetensors")


def test_factors_that_do_not_fit_each_other_name_the_layer(lora_folder):
    def shorten(tensors):
        name = next(name for name in tensors if name.endswith("attn1.to_k.lora_A.weight"))
        return tensors | {name: tensors[name][:2].contiguous()}

    _rewrite(lora_folder, shorten)
    with pytest.raises(UserError, match=r"layer .*attn1.to_k: A has rank 2, B has rank 4"):
        load_adapter(lora_folder)


def test_tensors_that_contradict_the_metadata_name_the_layer(lora_folder):
    def widen(tensors):
        name = next(name for name in tensors if name.endswith("attn1.to_k.lora_A.weight"))
        return tensors | {name: torch.ones(4, 99)}

    _rewrite(lora_folder, widen, keep_metadata=True)
    with pytest.raises(UserError, match=r"layer .*attn1.to_k holds .*99"):
        load_adapter(lora_folder)


def test_a_missing_half_of_a_pair_is_named(lora_folder):
    _rewrite(
        lora_folder, lambda tensors: {n: v for n, v in tensors.items() if not n.endswith("attn1.to_k.lora_B.weight")}
    )
    with pytest.raises(UserError, match=r"attn1.to_k lacks B"):
        load_adapter(lora_folder)


def test_an_unknown_tensor_is_named(lora_folder):
    _rewrite(lora_folder, lambda tensors: tensors | {"base_model.model.x.lora_embedding_A": torch.ones(2, 2)})
    with pytest.raises(UserError, match=r"unexpected tensor 'base_model\.model\.x\.lora_embedding_A'"):
        load_adapter(lora_folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"modules_to_save": ["conv_in"]}, "modules_to_save"), ({"bias": "all"}, "trains biases")],
)
def test_peft_features_we_lack_are_refused(lora_folder, settings, message):
    config = json.loads((lora_folder / "adapter_config.json").read_text())
    (lora_folder / "adapter_config.json").write_text(json.dumps(config | settings))
    with pytest.raises(UserError, match=message):
        load_adapter(lora_folder)


def test_a_folder_without_an_adapter_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"expected adapter_config.json, found notes.txt"):
        load_adapter(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        load_adapter(tmp_path / "missing")


def test_an_adapter_for_another_base_says_which_shapes_differ(lora_folder):
    wider = small_unet(cross_attention_dim=40)
    message = (
        r"made for another base: \d+ of \d+ layers differ in shape \(.*attn2.to_k is \(\d+, 24\) there, \(\d+, 40\)"
    )
    with pytest.raises(UserError, match=message), merged_adapters(wider, {lora_folder: 1.0}):
        pass


def _config_error(**changes) -> str:
    with pytest.raises(UserError) as caught:
        attach_adapters(small_unet(), [config_of(changes.pop("method", "delora"), **changes)], seeds=[0])
    return str(caught.value)


def test_a_rank_above_the_layers_size_is_refused():
    assert "adapter.rank: 25 is above the 24 of layer" in _config_error(rank=25)


def test_an_odd_rank_cannot_be_mirrored_or_paired():
    assert "adapter.rank: 3 is odd" in _config_error(rank=3, init="mirrored")
    assert "adapter.rank: 3 is odd" in _config_error(rank=3, method="multiplicative_delora")


def test_a_rank_pattern_is_checked_like_a_rank():
    assert "adapter.rank: 99 is above" in _config_error(rank_pattern={"to_q": 99})


def test_an_unknown_target_names_what_exists():
    error = _config_error(target_modules=("to_z",))
    assert "no layer ends with 'to_z'" in error and "to_q" in error
    assert "no Linear or Conv2d" in _config_error(target_modules=("attn1",))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AdapterConfig(method="dlora"), "did you mean 'delora'"),
        (AdapterConfig(rank=0), "adapter.rank: 0"),
        (AdapterConfig(rank=-4), "adapter.rank: -4"),
        (AdapterConfig(rank_pattern={"to_q": 0}), r"adapter.rank_pattern\['to_q'\]: 0"),
        (AdapterConfig(boundary=0.0), "adapter.boundary: 0.0"),
        (AdapterConfig(boundary=float("nan")), "adapter.boundary: nan"),
        (AdapterConfig(boundary_pattern={"to_q": -1.0}), r"adapter.boundary_pattern\['to_q'\]: -1.0"),
        (AdapterConfig(alpha=-1.0), "adapter.alpha"),
        (AdapterConfig(target_modules=()), "adapter.target_modules: empty"),
        (AdapterConfig(method="peft"), "adapter.peft_config: missing"),
    ],
)
def test_settings_no_layer_could_satisfy_are_refused_at_the_door(config, message):
    with pytest.raises(UserError, match=message):
        check_known(config)


@pytest.mark.parametrize("method", ["full", "oft"])
def test_methods_that_cannot_be_packed_say_so(method):
    with pytest.raises(UserError, match="several adapters in one batch"):
        attach_method(small_unet(), [config_of(method)] * 2, seeds=[0, 1])


def test_oft_blocks_must_divide_the_inputs():
    with pytest.raises(UserError, match=r"adapter.num_blocks: 5 does not divide the 32 inputs of"):
        attach_method(small_unet(), [config_of("oft", num_blocks=5, target_modules=ATTENTION)], seeds=[0])
    with pytest.raises(UserError, match="is a convolution"):
        attach_method(small_unet(), [config_of("oft", target_modules=("conv1",))], seeds=[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"peft_type": "LOHAA"}', "did you mean 'LOHA'"),
        ('{"peft_type": "HRA", "bias": "hra_only"}', "train more than the adapter"),
        ('{"peft_type": "LOHA", "r": -1}', "PEFT refuses"),
        ("[1]", "expected settings"),
        ("{", "not valid JSON"),
    ],
)
def test_bad_peft_configurations_are_refused(tmp_path, content, message):
    (tmp_path / "peft.json").write_text(content)
    config = config_of("peft", peft_config=str(tmp_path / "peft.json"))
    with pytest.raises(UserError, match=message):
        attach_method(small_unet(), [config], seeds=[0])
