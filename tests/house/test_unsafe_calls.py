"""No call that could open a pickle, run a stranger's code or meet a network by a library's default.

Read from the source: a new one fails here before it does harm.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "delora_sd", ROOT / "eval" / "delora_eval")
SOURCES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))

MINIATURE = (
    "delora_sd/miniature/judges.py",
    "delora_sd/miniature/segmenter.py",
    "delora_sd/miniature/build/train/stage.py",
    "delora_sd/miniature/build/train/unet.py",
    "delora_sd/miniature/build/train/weights.py",
)
"""Read the files that the miniature's build made and the package ships."""

MAY = {
    "torch.load": (),
    "np.load": ("delora_sd/miniature/build/data/dataset.py",),
    "hf_hub_download": ("eval/delora_eval/scoring/judges/networks/weights.py",),
    "snapshot_download": ("delora_sd/diffusion/bases.py", "delora_sd/files/hub.py"),
    "safe_open": ("delora_sd/files/tensors.py", "delora_sd/diffusion/single_file.py"),
    "load_file": MINIATURE,
    "Image.open": ("delora_sd/data/photos.py",),
    "subprocess.run": ("delora_sd/training/record/manifest.py", "delora_sd/studio/jobs/queue.py"),
    "subprocess.Popen": ("delora_sd/studio/jobs/worker.py",),
    **dict.fromkeys(("subprocess.call", "subprocess.check_output", "os.system", "os.popen"), ()),
    **dict.fromkeys(("urlopen", "urlretrieve", "create_connection", "extractall", "requests.get"), ()),
    "from_single_file": ("delora_sd/diffusion/single_file.py",),
    **dict.fromkeys(("create_model_and_transforms", "create_model_from_pretrained"), ()),
}
"""{call, whole or by its last name: the only files that may make it}"""

RUNS_TEXT = ("eval", "exec", "compile", "__import__")
"""Built in; `model.eval()` and `re.compile()` are something else."""

NEEDS = {
    "from_pretrained": {"local_files_only": "True", "use_safetensors": "True"},
    "load_lora_weights": {"local_files_only": "True", "use_safetensors": "True"},
    "create_model": {"pretrained": "False"},
}
"""{last name of a call: keywords it must have}; find_base, find_weights and find_snapshot fetch what is fetched."""

WITHOUT_WEIGHTS = ("Tokenizer", "Scheduler", "Processor", "AutoConfig")

NEVER = {"weights_only": ("False", "None"), "allow_pickle": ("True",), "shell": ("True",)}
"""{keyword: values}; and `trust_remote_code` with any."""


def unsafe(path: Path) -> Iterator[str]:
    """Yields every unsafe call of a source file, and why."""
    file = path.relative_to(ROOT).as_posix()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = ast.unparse(node.func)
            options = {keyword.arg or "**": ast.unparse(keyword.value) for keyword in node.keywords}
            yield from (f"{file}:{node.lineno}: {name} {reason}" for reason in reasons(name, options, file))


def reasons(name: str, options: dict[str, str], file: str) -> Iterator[str]:
    """Yields what speaks against a call."""
    last = name.rpartition(".")[2]
    for listed in {name, last} & MAY.keys():
        if file not in MAY[listed]:
            yield f"belongs into {', '.join(MAY[listed]) or 'no file'}"
    if name in RUNS_TEXT:
        yield "runs text"
    for keyword, value in NEEDS.get(last, {}).items():
        is_free = keyword == "use_safetensors" and any(word in name for word in WITHOUT_WEIGHTS)
        if options.get(keyword) != value and not is_free:
            yield f"needs {keyword}={value}"
    for keyword, values in NEVER.items():
        if options.get(keyword) in values:
            yield f"has {keyword}={options[keyword]}"
    if "trust_remote_code" in options:
        yield "names trust_remote_code"
    if name == "Image.open" and "formats" not in options:
        yield "needs formats=..., or every decoder of Pillow runs"


def test_nothing_unsafe_is_called():
    assert [finding for path in SOURCES for finding in unsafe(path)] == []


@pytest.mark.parametrize(
    "line",
    [
        "AutoModel.from_pretrained(folder, local_files_only=True)",
        "UNet.from_pretrained(folder, use_safetensors=True)",
        "CLIPTokenizer.from_pretrained(folder)",
        "AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, trust_remote_code=False)",
        "pipeline.load_lora_weights(folder, local_files_only=True)",
        "torch.load(file, weights_only=True)",
        "timm.create_model('vit', pretrained=True)",
        "open_clip.create_model_and_transforms('ViT-B-32', pretrained='openai')",
        "np.load(file)",
        "Image.open(file, formats=('PNG',))",
        "huggingface_hub.snapshot_download('a/b')",
        "urllib.request.urlopen(address)",
        "archive.extractall(folder)",
        "run('ls', shell=True)",
        "eval(text)",
    ],
)
def test_an_unsafe_call_would_be_found(line: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "module.py").write_text(line)
    assert len(list(unsafe(tmp_path / "module.py"))) == 1
