"""The documents: their links lead somewhere, their errors are the code's, their Python compiles, the notebook runs."""

import ast
import json
import re
from pathlib import Path

import matplotlib
import pytest

from delora_sd.config.load import read_yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
NOTEBOOK = DOCS / "notebook.ipynb"


def anchors(page: Path) -> set[str]:
    """What a forge makes of the page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


def test_the_site_has_every_page_once_and_no_other():
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"- [^:\n]+: (\S+\.md)$", settings, re.MULTILINE)
    assert sorted(named) == sorted(page.name for page in PAGES)
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.name != "README.md" and f"({page.name})" not in index] == []
    assert read_yaml(ROOT / "mkdocs.yml")["docs_dir"] == "docs"


def test_every_error_of_the_faq_is_one_the_code_says():
    quoted = re.findall(r"^### `(.+)`$", (DOCS / "FAQ.md").read_text(encoding="utf-8"), re.MULTILINE)
    sources = [file for package in ("delora_sd", "eval") for file in (ROOT / package).rglob("*.py")]
    said = "\n".join(text for file in sources for text in literals(file))
    assert len(quoted) > 10 and [error for error in quoted if error not in said] == []


def literals(file: Path) -> list[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_documents_compiles_and_imports_what_is_there(page: Path):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        imports = [node for node in ast.parse(block).body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(ast.unparse(ast.Module(body=imports, type_ignores=[])), {})


@pytest.mark.filterwarnings("default")
def test_the_notebook_runs_on_the_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its cells as they stand there, but for fewer steps and prompts."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    ids = [cell["id"] for cell in notebook["cells"]]
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5) and len(set(ids)) == len(ids)
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell.get("outputs") for cell in notebook["cells"]), "outputs would grow old"
    found: dict = {}
    for number, cell in enumerate(cells):
        for there, here in (("STEPS = 200", "STEPS = 2"), ('"num_inference_steps": 15', '"num_inference_steps": 1')):
            cell = cell.replace(there, here)
        exec(compile(cell, f"cell {number}", "exec"), found)
    assert found["STEPS"] == 2 and found["SAMPLING"]["num_inference_steps"] == 1
    assert found["run"] == Path("runs/notebook/cat") and (tmp_path / found["run"] / "averages" / "ema").is_dir()
    assert found["averaged"].name.startswith("ema-") and len(list(found["trained"].glob("*.png"))) == 4
    assert {name for _, name in found["totals"]} >= {"dino", "context_accuracy", "real_dino"}
