"""What was asked and answered, a line each: a run appends to it, and all that is said of a run is computed from it."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from videoflamingo.errors import UsageError
from videoflamingo.line_log import read_log

Condition = Literal["real", "no_video", "shuffled_frames", "swapped_videos", "swapped_answers"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
RESULTS = "results*.jsonl"  # several processes write one file each


class Key(NamedTuple):
    """What tells one question from another; none is asked twice."""

    condition: Condition
    num_shots: int
    trial: int
    id: str


class ChoiceScore(NamedTuple):
    """How probable the model finds one option.

    Args:
        sum: log-probability summed over its tokens.
        tokens, characters: its length.
    """

    sum: float
    tokens: int
    characters: int


@dataclass(frozen=True)
class Answered:
    """One question as it was asked, and what came back.

    Args:
        condition: `real`, or the control.
        num_shots: examples of the support before the question; 0 also where two are shown as text only.
        trial: from 0; trials differ in what is drawn.
        id: of the query.
        answer: trimmed; for a close-ended question the chosen option's text. Empty where nothing could be read from
            what the model said.
        option: the chosen one, from 0; None where there are none.
        choices: of a close-ended question, how probable each option is, in order.
        score: mean log-probability of the answer's tokens; None where nothing was asked.
        lowest: the lowest log-probability among the answer's tokens.
        num_tokens: of the answer.
        shots: ids of the support, in the prompt's order.
        frame_times: seconds, of the frames that were shown.
        reader: that read them.
        error: why the video could not be read, else empty. It then counts as wrong, and was not asked without it.

    Raises:
        UsageError: if a value is not what it should be.
    """

    condition: Condition
    num_shots: int
    trial: int
    id: str
    answer: str = ""
    option: int | None = None
    choices: tuple[ChoiceScore, ...] | None = None
    score: float | None = None
    lowest: float | None = None
    num_tokens: int = 0
    shots: tuple[str, ...] = ()
    frame_times: tuple[float, ...] = ()
    reader: str = ""
    error: str = ""

    def __post_init__(self) -> None:
        if self.condition not in CONDITIONS:
            raise UsageError(f"{self.id}: condition is {self.condition!r}; choose among {', '.join(CONDITIONS)}")
        if self.num_shots < 0 or self.trial < 0:
            raise UsageError(f"{self.id}: num_shots is {self.num_shots} and trial {self.trial}; both count from 0")
        if self.option is not None and self.choices is not None and not 0 <= self.option < len(self.choices):
            raise UsageError(f"{self.id}: option is {self.option}, of {len(self.choices)} counted from 0")

    @property
    def key(self) -> Key:
        return Key(self.condition, self.num_shots, self.trial, self.id)

    def to_row(self) -> dict[str, Any]:
        """What is written as one line of JSON."""
        return asdict(self) | {"choices": self.choices and [list(choice) for choice in self.choices]}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Answered":
        """What `to_row` gave.

        Raises:
            UsageError: if a field is missing, unknown, or of another kind.
        """
        known = {field.name for field in fields(cls)}
        if unknown := row.keys() - known:
            raise UsageError(f"has unknown fields {', '.join(sorted(unknown))}; known are {', '.join(sorted(known))}")
        if missing := {"condition", "num_shots", "trial", "id"} - row.keys():
            raise UsageError(f"has no {', '.join(sorted(missing))}")
        values = dict(row)
        try:
            for name in ("shots", "frame_times"):
                values[name] = tuple(values.get(name, ()))
            if values.get("choices") is not None:
                values["choices"] = tuple(ChoiceScore(*choice) for choice in values["choices"])
            return cls(**values)
        except TypeError as error:
            raise UsageError(f"has a field of another kind ({error})") from error


def read_results(folder: Path) -> list[Answered]:
    """All that a run answered, whichever process wrote it; none where it has not begun.

    Raises:
        UsageError: if a line is damaged, or one question has two different answers.
    """
    return list(read_results_by_key(sorted(folder.glob(RESULTS))).values())


def read_results_by_key(files: Iterable[Path]) -> dict[Key, Answered]:
    """The answers in some files. The same line twice is one answer.

    Raises:
        UsageError: as `read_results`.
    """
    answered: dict[Key, Answered] = {}
    for file in files:
        for number, row in enumerate(read_log(file), start=1):
            try:
                if not isinstance(row, dict):
                    raise UsageError("is not an object")
                one = Answered.from_row(row)
            except UsageError as error:
                raise UsageError(
                    f"{file}:{number}: {error}; remove this line, and the question is asked again"
                ) from error
            if answered.setdefault(one.key, one) != one:
                raise UsageError(
                    f"{file}:{number}: {one.id!r} ({one.condition}, {one.num_shots} shots, trial {one.trial}) has "
                    "another answer already; the files are of different runs: keep those of one"
                )
    return answered
