"""Lightning can be imported by the tests beside this file, whichever runs first; photographs to make films of."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.world import photo_films
from videoflamingo.torchvision_operators import declare_missing_operators

declare_missing_operators()


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of cut-outs, some not to be used, and of landscapes, in place of the packages'."""
    rng, folder = np.random.default_rng(0), tmp_path / "photographs"

    def smooth(width: int, height: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((width, height))

    used = ("animals/bald_eagle-2", "animals/cow", "food/fig", "food/plum", "plants/rose", "vehicles/van")
    for name in (*used, "symbols/b", "town/cartoon/inn"):
        (folder / "stamps" / name).parent.mkdir(parents=True, exist_ok=True)
        cut_out = Image.new("RGBA", (60, 48))
        cut_out.paste(smooth(54, 48), (6, 0))
        cut_out.save(folder / "stamps" / f"{name}.png")
    (folder / "nature").mkdir()
    for name in ("hill", "lake"):
        smooth(160, 90).save(folder / "nature" / f"{name}.jpg")
    monkeypatch.setattr(photo_films, "CUT_OUTS", folder / "stamps")
    monkeypatch.setattr(photo_films, "LANDSCAPES", folder / "nature")
    photo_films.cut_outs.cache_clear()
    photo_films.landscapes.cache_clear()
    yield folder
    photo_films.cut_outs.cache_clear()
    photo_films.landscapes.cache_clear()
