"""How a benchmark is asked: the paper's protocol (Flamingo v1 4.1 and C.3), with every choice of it as an option."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from videoflamingo.errors import UsageError
from videoflamingo.evaluation.benchmark import AnswerKind, Benchmark
from videoflamingo.evaluation.results import CONDITIONS, Condition
from videoflamingo.fewshot.leakage import DUPLICATE_SIMILARITY
from videoflamingo.prompt import PROMPTS

Choosing = Literal["random", "random-each", "balanced", "rices", "videoicl"]
Similarity = Literal["video", "text", "both"]
RankBy = Literal["sum", "mean", "characters"]

# Examples in words only that a prompt without shots begins with (v1 4.1.3: one is "highly detrimental", more than two
# help little, and close-ended questions need none).
TEXT_ONLY: dict[AnswerKind, int] = {"open": 2, "caption": 2, "choices": 0}
CONTROLS: tuple[Condition, ...] = tuple(condition for condition in CONDITIONS if condition != "real")
NEEDS_SHOTS: tuple[Condition, ...] = ("swapped_videos", "swapped_answers")


@dataclass(frozen=True)
class Protocol:
    """Everything that decides what is asked, and in which words. As it stands, the paper's.

    Args:
        num_shots: how many examples precede a question; each number is a run of its own.
        trial_seeds: of the draws; each seed is a trial, and scores come with their spread over trials.
        choosing: which examples: `random` draws once a trial, so that all its questions share one prompt's beginning;
            `random-each` draws for every question, as OpenFlamingo does; `balanced` draws as many of each type of
            question, or of each answer where types are not given; `rices` takes the most similar ones, most similar
            last; `videoicl` also, asking again with further ones while the model is unsure (arXiv 2412.02186).
        similarity: of `rices` and `videoicl`: of the videos, of the questions' texts, or the sum of both.
        text_weight: share of the texts in the sum.
        query_size: how many questions are asked, drawn by `query_seed`; None for all.
        support_size: how many examples there are to choose from, drawn likewise; None for all.
        ensemble: over how many random orders of the examples log-likelihoods are averaged; for close-ended questions.
            The paper's is 6.
        rank_by: how options are compared: by summed log-likelihood, the paper's literal reading; per token; or per
            character.
        prompts: wording: `paper` or `openflamingo`.
        text_only: examples in words only that a prompt without shots begins with; None for the paper's: 2, or 0 for
            close-ended questions.
        num_beams: width of the beam search for answers in words (v1 3.3: 3).
        length_penalty: see `Decoding`.
        max_new_tokens: bound on an answer; None for the benchmark's.
        controls: conditions asked beside the real one: `no_video` leaves out all videos, `shuffled_frames` shows the
            frames of the question's video in random order, `swapped_videos` and `swapped_answers` give examples each
            other's.
        control_size: how many of the questions the controls ask; None for all.
        duplicate_similarity: an example whose video's features have at least this cosine with those of the question's
            video counts as the same video; above 1 switches this off.
        allow_parts: whether another part of the question's own video may be an example.
        videoicl_threshold: ask again while the answer's least likely token has less probability than this, ...
        videoicl_rounds: ... at most so often.

    Raises:
        UsageError: if a value is out of range, or two do not go together.
    """

    num_shots: tuple[int, ...] = (0, 4, 8, 16, 32)
    trial_seeds: tuple[int, ...] = (0,)
    choosing: Choosing = "random"
    similarity: Similarity = "video"
    text_weight: float = 0.5
    query_size: int | None = None
    query_seed: int = 0
    support_size: int | None = None
    ensemble: int = 1
    rank_by: RankBy = "sum"
    prompts: Literal["paper", "openflamingo"] = "paper"
    text_only: int | None = None
    num_beams: int = 3
    length_penalty: float = 1.0
    max_new_tokens: int | None = None
    controls: tuple[Condition, ...] = CONTROLS
    control_size: int | None = None
    duplicate_similarity: float = DUPLICATE_SIMILARITY
    allow_parts: bool = False
    videoicl_threshold: float = 0.5
    videoicl_rounds: int = 4

    def __post_init__(self) -> None:
        for name in ("num_shots", "trial_seeds", "controls"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if len(set(values)) < len(values):
                raise UsageError(f"{name} is {list(values)}; give each once")
        for name, least in (("num_shots", 0), ("trial_seeds", 0)):
            values = getattr(self, name)
            if not values or min(values) < least:
                raise UsageError(f"{name} is {list(values)}; give one or more numbers of {least} or more")
        for name in ("query_size", "support_size", "ensemble", "num_beams", "max_new_tokens", "control_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; give 1 or more")
        for name in ("text_only", "query_seed"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UsageError(f"{name} is {value}; give 0 or more")
        if self.videoicl_rounds < 1 or not 0 <= self.videoicl_threshold <= 1:
            raise UsageError(
                f"videoicl_rounds is {self.videoicl_rounds} and videoicl_threshold {self.videoicl_threshold:g}; "
                "give 1 or more, and a probability from 0 to 1"
            )
        if not 0 <= self.text_weight <= 1:
            raise UsageError(f"text_weight is {self.text_weight:g}; give a share from 0 to 1")
        for name, value, known in (
            ("choosing", self.choosing, get_args(Choosing)),
            ("similarity", self.similarity, get_args(Similarity)),
            ("rank_by", self.rank_by, get_args(RankBy)),
            ("prompts", self.prompts, tuple(PROMPTS)),
            *(("controls", control, CONTROLS) for control in self.controls),
        ):
            if value not in known:
                raise UsageError(f"{name} is {value!r}; choose among {', '.join(known)}")
        if self.ensemble > 1 and self.choosing == "videoicl":
            raise UsageError("ensemble does not go with choosing 'videoicl', which asks once with each bundle")

    def for_benchmark(self, benchmark: Benchmark) -> "Protocol":
        """The same protocol, once it is known to suit a benchmark.

        Raises:
            UsageError: if an option is for another kind of answer, or the support is too small.
        """
        kind = benchmark.answer_kind
        if self.ensemble > 1 and kind != "choices":
            raise UsageError(
                f"ensemble is {self.ensemble}, but {benchmark.name} has answers of kind {kind!r}; only log-likelihoods "
                "of given options can be averaged, so leave it at 1"
            )
        if self.similarity != "video" and kind == "caption" and self.choosing in ("rices", "videoicl"):
            raise UsageError(f"similarity is {self.similarity!r}, but captions have no questions; give 'video'")
        needed = max(*self.num_shots, self.num_text_only(kind) if 0 in self.num_shots else 0)
        support = min(len(benchmark.support), self.support_size or len(benchmark.support))
        if needed > support:
            raise UsageError(
                f"num_shots {needed}, but benchmark {benchmark.name} has {support} examples to show; give fewer shots, "
                "or a larger support"
            )
        return self

    def num_text_only(self, kind: AnswerKind) -> int:
        """Examples in words only that a prompt without shots begins with."""
        return TEXT_ONLY[kind] if self.text_only is None else self.text_only

    def conditions(self, num_shots: int) -> tuple[Condition, ...]:
        """What is asked with so many shots: the real condition and the controls that then mean something."""
        return ("real", *(control for control in self.controls if num_shots > 1 or control not in NEEDS_SHOTS))

    def fixed(self) -> dict[str, Any]:
        """All that must be the same when a run goes on: without what only adds further questions."""
        more = ("num_shots", "trial_seeds", "controls", "query_size", "control_size")
        return {name: value for name, value in asdict(self).items() if name not in more}
