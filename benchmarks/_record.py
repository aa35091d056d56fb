"""What every benchmark writes down beside its numbers, and where."""

import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "timm", "transformers", "av", "numpy")


def circumstances() -> dict[str, Any]:
    """Date, commit, machine and versions."""
    import torch

    from videoflamingo.pipeline import choose_dtype

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit or "unknown",
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": torch.cpu.get_capabilities().get("cpu_name", platform.processor()),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "bfloat16": choose_dtype("auto", torch.device("cpu")) == torch.bfloat16,
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def append(name: str, result: dict[str, Any]) -> Path:
    """Add one run to `benchmarks/results/NAME.json`, a list of runs, oldest first."""
    path = RESULTS / f"{name}.json"
    runs = json.loads(path.read_text("utf-8")) if path.exists() else []
    path.write_text(json.dumps([*runs, {**circumstances(), **result}], indent=1) + "\n", "utf-8")
    return path
