from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image

from datamodules.world import KINDS, frame_at, frames, sample_scene, write_picture, write_video
from datamodules.world.render import paint_background
from datamodules.world.scene import BACKGROUNDS, EVENTS, Background

GREY = Background("solid", ((150, 160, 155),) * 3, angle=0.0, scale=0.2, seed=0)


def on_grey(scene):
    return replace(scene, background=GREY)


def decoded(path):
    """Every frame of a file and its time in seconds, as PyAV gives them."""
    with av.open(str(path)) as container:
        read = [(frame.to_ndarray(format="rgb24"), frame.time) for frame in container.decode(video=0)]
    return np.stack([pixels for pixels, _ in read]), [time for _, time in read]


def inked(pixels, threshold=40):
    """Where a frame on grey shows a drawing: `[height, width]`, bool."""
    return np.abs(pixels.astype(int) - GREY.colors[0]).max(axis=-1) > threshold


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def center_on_torus(mask):
    """Circular mean of the inked pixels, `(x, y)` in frame sizes: right also for what is cut by the frame's edge."""
    angles = 2 * np.pi * (np.arange(len(mask)) + 0.5) / len(mask)
    return np.array([np.angle((mask.sum(axis) * np.exp(1j * angles)).sum()) / (2 * np.pi) % 1.0 for axis in (0, 1)])


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_has_every_frame_at_its_time_and_close_to_what_was_drawn(kind, tmp_path):
    scene = sample_scene(21, kind)
    pixels, times = decoded(write_video(scene, tmp_path / "scene.mp4"))
    assert pixels.shape == (1 if kind == "picture" else 32, 192, 192, 3)
    assert times == [index / 8 for index in range(len(pixels))]
    drawn = frames(scene)
    for one, other in zip(pixels, drawn, strict=True):
        error = np.mean((one.astype(float) - other) ** 2)
        assert 10 * np.log10(255**2 / error) > 26  # dB; thin coloured lines lose the most, to yuv420p


def test_the_frames_of_the_file_are_in_order(tmp_path):
    scene = on_grey(sample_scene(21, "move"))
    pixels, _ = decoded(write_video(scene, tmp_path / "scene.mp4"))
    drawn = frames(scene).astype(float)
    nearest = [np.mean((drawn - frame) ** 2, axis=(1, 2, 3)).argmin() for frame in pixels]
    assert nearest == list(range(32))


def test_the_file_is_h264_yuv420p_at_8_frames_per_second(tmp_path):
    with av.open(str(write_video(sample_scene(3, "event"), tmp_path / "scene.mp4"))) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 8
        assert (stream.width, stream.height, stream.frames) == (192, 192, 32)
        assert stream.start_time == 0
        assert float(stream.duration * stream.time_base) == pytest.approx(4.0)


def test_a_scene_always_makes_the_same_bytes(tmp_path):
    scene = sample_scene(8, "pair")
    one, other = write_video(scene, tmp_path / "one.mp4"), write_video(scene, tmp_path / "other.mp4")
    assert one.read_bytes() == other.read_bytes()
    assert np.array_equal(frames(scene), frames(sample_scene(8, "pair")))


def test_the_decoded_video_shows_the_drawing_where_the_scene_says(tmp_path):
    for seed in range(4):
        scene = on_grey(sample_scene(seed, "sequence"))
        pixels, _ = decoded(write_video(scene, tmp_path / "scene.mp4"))
        for time in scene.sampled_times():
            seen = inked(pixels[round(time * 8)])
            assert overlap(seen, inked(frame_at(scene, time))) > 0.85
            pose = next(pose for actor in scene.actors if (pose := actor.pose_at(time)))
            rows, columns = np.flatnonzero(seen.any(1)) / 192, np.flatnonzero(seen.any(0)) / 192
            for found, center in ((rows, pose.y), (columns, pose.x)):
                assert found.min() > center - pose.size / 2 - 0.02
                assert found.max() < center + pose.size / 2 + 0.02


def test_the_decoded_mover_moves_by_its_speed_around_the_torus(tmp_path):
    alone = [scene for seed in range(12) if (scene := sample_scene(seed, "move")).bystander is None]
    for scene in alone[:5]:
        pixels, _ = decoded(write_video(on_grey(scene), tmp_path / "scene.mp4"))
        for start, stop in ((2, 6), (14, 18), (26, 30)):  # neighbours among the sampled frames
            moved = center_on_torus(inked(pixels[stop])) - center_on_torus(inked(pixels[start]))
            before, after = scene.main.pose_at(start / 8), scene.main.pose_at(stop / 8)
            expected = np.array([after.x - before.x, after.y - before.y])
            assert np.abs((moved - expected + 0.5) % 1.0 - 0.5).max() < 2 / 192


def test_what_leaves_at_one_side_shows_at_the_other():
    scene = on_grey(next(s for seed in range(20) if (s := sample_scene(seed, "move")).bystander is None))
    whole = replace(scene, actors=(replace(scene.main, x=0.5, y=0.5, size=0.4, speed=0.0),))
    split = replace(scene, actors=(replace(whole.main, x=0.0, y=0.0),))
    assert np.array_equal(np.roll(frame_at(whole, 0.0), (96, 96), axis=(0, 1)), frame_at(split, 0.0))


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_seen_in_three_sampled_frames_or_more(name):
    happening = [s for seed in range(80) if (s := sample_scene(seed, "event")).main.event.name == name][:6]
    assert len(happening) == 6
    for scene in happening:
        scene = replace(on_grey(scene), actors=(scene.main,))
        rest = inked(frame_at(scene, 0.0))
        seen = [overlap(rest, inked(frame_at(scene, time))) for time in scene.sampled_times()]
        assert sum(share < 0.85 for share in seen) >= 3


def test_a_drawing_at_the_edge_of_an_event_is_cut_not_wrapped():
    scene = on_grey(sample_scene(0, "event"))
    cut = replace(scene, actors=(replace(scene.main, x=0.05, event=None),))
    mask = inked(frame_at(cut, 0.0))
    assert mask[:, :20].any()
    assert not mask[:, 120:].any()


@pytest.mark.parametrize("family", BACKGROUNDS)
def test_a_background_stays_within_its_colours_and_varies_unless_solid(family):
    background = Background(family, ((200, 180, 170), (120, 140, 130), (160, 150, 190)), 30.0, 0.2, seed=4)
    pixels = paint_background(background, 64)
    assert pixels.shape == (64, 64, 3)
    for channel, (low, high) in enumerate(((120, 200), (140, 180), (130, 190))):
        assert low <= pixels[..., channel].min() <= pixels[..., channel].max() <= high
    assert (len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1) == (family != "solid")


def test_a_picture_is_written_without_loss(tmp_path):
    scene = sample_scene(5, "picture", size=96)
    with Image.open(write_picture(scene, tmp_path / "scene.png")) as picture:
        assert np.array_equal(np.asarray(picture), frame_at(scene, 0.0))


def test_a_drawing_stands_out_from_every_background():
    for seed in range(60):
        scene = sample_scene(seed, "picture")
        changed = np.abs(frame_at(scene, 0.0).astype(int) - paint_background(scene.background, 192)).max(axis=-1)
        assert (changed > 60).mean() > 0.008
