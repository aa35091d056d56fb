"""What happens in a video, before a pixel is drawn: actors whose poses are functions of time.

A model is expected to see `SAMPLED_FRAMES` frames at the centres of equal parts of the video. Times are often counted
in *gaps*, the distance between two such centres (`duration / 8`, half a second).
"""

from dataclasses import dataclass, replace

from datamodules.world.drawings import Drawing

KINDS = ("picture", "move", "sequence", "event", "pair")
SPLITS = ("train", "held_out")
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
PACES = {"slowly": (0.05, 0.08), "quickly": (0.12, 0.16)}  # frame sizes per gap
EVENTS = ("jumps", "spins", "grows", "shrinks", "blinks")
BACKGROUNDS = ("solid", "gradient", "stripes", "checker", "blobs", "noise", "dots")

DURATION_SECONDS = 4.0
FRAMES_PER_SECOND = 8
SAMPLED_FRAMES = 8
GAP_SECONDS = DURATION_SECONDS / SAMPLED_FRAMES

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Background:
    """A still background.

    Args:
        family: one of `BACKGROUNDS`.
        colors: three muted RGB colours, 0 to 255; most families show two of them.
        angle: degrees, of gradient and stripes.
        scale: size of the pattern's period as a fraction of the frame.
        seed: of the random parts of blobs and noise.
    """

    family: str
    colors: tuple[Color, Color, Color]
    angle: float
    scale: float
    seed: int


@dataclass(frozen=True)
class Event:
    """Something that a resting drawing does during `[start_seconds, stop_seconds)`.

    Args:
        name: one of `EVENTS`.
        amount: of a jump its height in frame sizes; of a spin its whole turns, signed; of growing and shrinking the
            factor of the size; of blinking the middle share of the interval in which the drawing is back.
    """

    name: str
    start_seconds: float
    stop_seconds: float
    amount: float

    def progress(self, time_seconds: float) -> float:
        """How much of the event is over: 0 before, 1 after, linear between."""
        done = (time_seconds - self.start_seconds) / (self.stop_seconds - self.start_seconds)
        return min(max(done, 0.0), 1.0)

    def hides(self, time_seconds: float) -> bool:
        """Whether a blink has the drawing away at this time: twice, with a return between."""
        away = self.name == "blinks" and self.start_seconds <= time_seconds < self.stop_seconds
        return away and abs(self.progress(time_seconds) - 0.5) > self.amount / 2


@dataclass(frozen=True)
class Pose:
    """How a drawing stands at one time: centre and size in frame sizes (y down), angle in degrees clockwise."""

    x: float
    y: float
    size: float
    angle: float


@dataclass(frozen=True)
class Actor:
    """One drawing and what it does; at most one of direction, slot and event is given.

    Args:
        x, y: centre at time 0 and at rest, in frame sizes, y down.
        size: side at rest, in frame sizes.
        angle: degrees clockwise at rest.
        wraps: whether the frame is a torus for it, so that what leaves at one side shows at the other.
        direction, pace: keys of `DIRECTIONS` and `PACES`; None for what does not move.
        speed: frame sizes per second along the direction.
        slot: `[start, stop)` seconds outside which it is not shown.
        event: what it does while resting.
    """

    drawing: Drawing
    x: float
    y: float
    size: float
    angle: float = 0.0
    wraps: bool = False
    direction: str | None = None
    pace: str | None = None
    speed: float = 0.0
    slot: tuple[float, float] | None = None
    event: Event | None = None

    @property
    def name(self) -> str:
        """What the drawing is called, without article."""
        return self.drawing.name

    def pose_at(self, time_seconds: float) -> Pose | None:
        """The pose at a time, None while the drawing is not shown."""
        x, y, size, angle = self.x, self.y, self.size, self.angle
        if self.slot is not None and not self.slot[0] <= time_seconds < self.slot[1]:
            return None
        if self.direction is not None:
            step_x, step_y = DIRECTIONS[self.direction]
            x, y = x + step_x * self.speed * time_seconds, y + step_y * self.speed * time_seconds
        if self.wraps:
            x, y = x % 1.0, y % 1.0
        if self.event is not None:
            if self.event.hides(time_seconds):
                return None
            done, amount = self.event.progress(time_seconds), self.event.amount
            if self.event.name == "jumps":
                y -= amount * hop(done)
            elif self.event.name == "spins":
                angle = (angle + 360.0 * amount * done) % 360.0
            elif self.event.name in ("grows", "shrinks"):
                size *= amount**done
        return Pose(x, y, size, angle)

    def reversed_in_time(self, duration_seconds: float) -> "Actor":
        """Whoever at `t` stands as this one does at `duration_seconds - t`."""
        turned = self
        if self.direction is not None:
            step_x, step_y = DIRECTIONS[self.direction]
            way = self.speed * duration_seconds
            opposite = next(name for name, step in DIRECTIONS.items() if step == (-step_x, -step_y))
            turned = replace(turned, x=self.x + step_x * way, y=self.y + step_y * way, direction=opposite)
        if self.slot is not None:
            turned = replace(turned, slot=(duration_seconds - self.slot[1], duration_seconds - self.slot[0]))
        if self.event is not None:
            start, stop = duration_seconds - self.event.stop_seconds, duration_seconds - self.event.start_seconds
            event = replace(self.event, start_seconds=start, stop_seconds=stop)
            if event.name in ("grows", "shrinks"):
                opposite = "shrinks" if event.name == "grows" else "grows"
                turned = replace(turned, size=self.size * event.amount)
                event = replace(event, name=opposite, amount=1 / event.amount)
            elif event.name == "spins":
                turned = replace(turned, angle=(self.angle + 360.0 * event.amount) % 360.0)
                event = replace(event, amount=-event.amount)
            turned = replace(turned, event=event)
        return turned

    def mirrored(self) -> "Actor":
        """Whoever stands where this one is seen in a mirror that swaps left and right; the drawing is not turned."""
        direction = {"left": "right", "right": "left"}.get(self.direction or "", self.direction)
        event = self.event
        if event is not None and event.name == "spins":
            event = replace(event, amount=-event.amount)
        return replace(self, x=1.0 - self.x, angle=-self.angle % 360.0, direction=direction, event=event)


@dataclass(frozen=True)
class Scene:
    """Everything that a video shows, with the facts that are asked about it.

    Args:
        kind: one of `KINDS`.
        seed, split: what it was sampled from.
        actors: in the order in which they are drawn; for `sequence`, in the order in which they appear.
        size: pixels of the square frame's side.
        duration_seconds: one frame's for a picture.
    """

    kind: str
    seed: int
    split: str
    background: Background
    actors: tuple[Actor, ...]
    size: int = 192
    frames_per_second: int = FRAMES_PER_SECOND
    duration_seconds: float = DURATION_SECONDS

    @property
    def num_frames(self) -> int:
        """How many frames the encoded video has."""
        return round(self.duration_seconds * self.frames_per_second)

    @property
    def main(self) -> Actor:
        """The one actor of a picture, a `move` or an `event` that the scene is about.

        Raises:
            ValueError: if the scene has no single main actor.
        """
        if self.kind not in ("picture", "move", "event"):
            raise ValueError(f"a {self.kind} scene has no main actor; use Scene.actors")
        return next(actor for actor in self.actors if self.kind == "picture" or actor.direction or actor.event)

    @property
    def bystander(self) -> Actor | None:
        """The static second actor of a `move` or `event`, None where there is none."""
        return next((actor for actor in self.actors if self.kind in ("move", "event") and actor is not self.main), None)

    def reversed_in_time(self) -> "Scene":
        """The scene whose video is this one's played backwards, with the facts that go with it."""
        actors = tuple(actor.reversed_in_time(self.duration_seconds) for actor in self.actors)
        return replace(self, actors=actors[::-1] if self.kind == "sequence" else actors)

    def mirrored(self) -> "Scene":
        """The scene with left and right swapped, and the facts that go with it."""
        return replace(self, actors=tuple(actor.mirrored() for actor in self.actors))

    def sampled_times(self, num_frames: int = SAMPLED_FRAMES) -> list[float]:
        """Centres of `num_frames` equal parts of the video, in seconds."""
        return [(index + 0.5) * self.duration_seconds / num_frames for index in range(num_frames)]


def hop(progress: float) -> float:
    """Height of a jump, 0 at both ends and 1 halfway."""
    return 4.0 * progress * (1.0 - progress)
