"""Training: what is trained, with which optimiser, and what is told about it (Flamingo v1 3.2.3, v2 B.1.2)."""

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from videoflamingo.errors import ModelError
from videoflamingo.models.flamingo import Flamingo, FlamingoConfig
from videoflamingo.models.language import Quantization
from videoflamingo.pipeline import choose_dtype
from videoflamingo.torchvision_operators import declare_missing_operators
from videoflamingo.training import sharded
from videoflamingo.training.answers import answers
from videoflamingo.training.batch import Batch, Step
from videoflamingo.training.feature_cache import encode_frames
from videoflamingo.training.objective import (
    EncodedBatch,
    LossOn,
    encode_batch,
    said_loss,
    text_loss,
    tokens_for_text,
    visual_tokens,
)
from videoflamingo.training.optimisation import adamw, learning_rate_share

declare_missing_operators()
import lightning as L  # noqa: E402  (its import needs the declaration above)
from lightning.pytorch.strategies import ParallelStrategy  # noqa: E402

TrainedPart = Literal["resampler", "blocks", "new_tokens", "vision"]
BRIDGE: tuple[TrainedPart, ...] = ("resampler", "blocks", "new_tokens")


class FlamingoTraining(L.LightningModule):
    """Negative log-likelihood of text given media; frozen tower and language model, trained bridge.

    Every Lightning batch is one optimisation step over a mixture of datasets: the gradient of `sum over datasets of
    weight * mean loss over the labels of its batch` is accumulated pass by pass, over all processes, then weights are
    updated once (v1 3.2.3). Trained weights and the optimiser's state are float32; with `trainer.precision:
    bf16-mixed` activations are bfloat16 (v2 B.1.2).

    Args:
        config: the model.
        learning_rate: peak, reached after `warmup_steps`; the paper's is 1e-4 after 5,000.
        final_learning_rate_share: the rate falls linearly to this share of the peak at the last step; 1 keeps it
            constant, as in the paper.
        resampler_learning_rate_share: the resampler's rate as a share of the others'; below 1 after a warm-up, so that
            gated blocks that know nothing yet do not undo it.
        weight_decay: of all that is trained but the resampler, which has none (v2 B.1.2).
        gradient_clip: the gradient's greatest norm, over all that is trained (the paper's is 1); None for no limit.
        objective: `text`, the paper's likelihood; or `readout`, a warm-up of resampler and blocks on captions (see
            `videoflamingo.training.readout`).
        readout_weight: with `text`, how much of the warm-up's loss is added, so that visual tokens keep saying what
            they have learnt to say, and learn more of it; 0 = none, as in the paper.
        loss_on: `all` text, the paper's objective, or `answers` only.
        trained: which parts are: the bridge, as in pretraining; with `vision` also the tower, as in the paper's
            fine-tuning (v1 4.3), whose weights checkpoints then hold. The language model is always frozen.
        max_text_tokens: longer texts are cut at the end; None keeps them whole. The paper's pages have 256 (v1 3.2).
        language_attention: kernel of the frozen language model. On CPU the backward of `sdpa` costs more than all
            matrix products together for short texts; `eager` does not.
        frozen_dtype: type of the frozen parts (the trained ones stay float32); `auto` is bfloat16 where the device
            is faster in it, else float32.
        quantize: `int8` keeps the language model's layers in 8 bits.
        activation_checkpointing: recompute activations in the backward pass: less memory, more time, same gradients.
        compile_blocks: see `Flamingo.compile_blocks`.
        init_from: a checkpoint folder or bundled model whose trained weights are the start.

    Attributes:
        updating: whether weights are half changed, so that nothing may be saved.

    Raises:
        ModelError: if an option is out of range.
    """

    def __init__(
        self,
        config: FlamingoConfig,
        learning_rate: float = 1e-4,
        warmup_steps: int = 5000,
        final_learning_rate_share: float = 1.0,
        resampler_learning_rate_share: float = 1.0,
        weight_decay: float = 0.1,
        gradient_clip: float | None = 1.0,
        objective: Literal["text", "readout"] = "text",
        readout_weight: float = 0.0,
        loss_on: LossOn = "all",
        trained: list[TrainedPart] = list(BRIDGE),  # noqa: B006 (never changed; --help shows it)
        max_text_tokens: int | None = None,
        language_attention: Literal["sdpa", "eager"] = "sdpa",
        frozen_dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        quantize: Quantization = "none",
        activation_checkpointing: bool = False,
        compile_blocks: bool = False,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        unknown = [part for part in trained if part not in get_args(TrainedPart)]
        if unknown or not trained:
            raise ModelError(f"model.trained is {trained}; choose among {', '.join(get_args(TrainedPart))}")
        if max_text_tokens is not None and max_text_tokens < 1:
            raise ModelError(f"model.max_text_tokens is {max_text_tokens}; give 1 or more, or null")
        if gradient_clip is not None and gradient_clip <= 0:
            raise ModelError(f"model.gradient_clip is {gradient_clip}; give a norm above 0, or null for no limit")
        self.automatic_optimization = False  # a step has several backward passes, of weighted losses
        # Frozen weights are not in checkpoints; on_load_checkpoint is strict about the rest.
        self.strict_loading = False
        self.config = replace(config, own_tower=config.own_tower or "vision" in trained)
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.final_learning_rate_share = final_learning_rate_share
        self.resampler_learning_rate_share = resampler_learning_rate_share
        self.weight_decay = weight_decay
        self.gradient_clip = gradient_clip
        self.objective = objective
        self.readout_weight = readout_weight
        self.loss_on = loss_on
        self.trained = tuple(trained)
        self.max_text_tokens = max_text_tokens
        self.language_attention = language_attention
        self.frozen_dtype = frozen_dtype
        self.quantize = quantize
        self.activation_checkpointing = activation_checkpointing
        self.compile_blocks = compile_blocks
        self.init_from = init_from
        self.flamingo: Flamingo | None = None
        self.updating = False
        self._measured: dict[str, Tensor] = {}  # in validation and test: dataset -> sums, see _measure

    def configure_model(self) -> None:
        """Build the model once, however often Lightning calls."""
        if self.flamingo is not None:
            return
        device = self.device if self._trainer is None else self.trainer.strategy.root_device
        self.flamingo = flamingo = Flamingo(
            self.config,
            dtype=choose_dtype(self.frozen_dtype, device),
            activation_checkpointing=self.activation_checkpointing,
            quantize=self.quantize,
        )
        if self.compile_blocks:
            flamingo.compile_blocks()
        flamingo.language_model.set_attn_implementation(self.language_attention)
        self._choose_trained(flamingo)
        if self.init_from is not None:
            from videoflamingo.models.checkpoint import load_trainable

            load_trainable(flamingo, self.init_from, as_start=True)
        # Each process has its own, equal ones of these, and some are no floats, which could not be sent.
        frozen = [name for name, value in self.named_parameters() if not value.requires_grad]
        self._ddp_params_and_buffers_to_ignore = [*frozen, *(name for name, _ in self.named_buffers())]
        if self.device_mesh is not None:
            sharded.shard(self, self.device_mesh["data_parallel"])

    def _choose_trained(self, flamingo: Flamingo) -> None:
        for part in BRIDGE:
            getattr(flamingo, part).requires_grad_(part in self.trained)
        if "vision" in self.trained:
            flamingo.vision.backbone.float().requires_grad_(True)
            if self.activation_checkpointing and hasattr(flamingo.vision.backbone, "set_grad_checkpointing"):
                flamingo.vision.backbone.set_grad_checkpointing()
        if self.objective == "readout":
            flamingo.new_tokens.requires_grad_(False)
            for name, parameter in flamingo.blocks.named_parameters():
                parameter.requires_grad_(name.split(".")[1] in ("norm_media", "to_values", "to_output"))

    @property
    def model(self) -> Flamingo:
        """The model; only after `configure_model`."""
        if self.flamingo is None:
            raise ModelError("the model is built by configure_model, which the Trainer calls")
        return self.flamingo

    @property
    def is_sharded(self) -> bool:
        """Whether weights are cut among processes."""
        return self.device_mesh is not None

    def on_fit_start(self) -> None:
        """Measure the feature standardisation on the datamodule's media, unless a checkpoint brought one."""
        vision = self.model.vision
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        if vision.is_trained and getattr(datamodule, "features", None) is not None:
            raise ModelError(
                "model.trained has 'vision', whose features change with every step, but data.features names a cache of "
                "them; set data.features to null"
            )
        untouched = bool((vision.feature_mean == 0).all())
        if self.config.vision.standardise and untouched and hasattr(datamodule, "sample_media"):
            samples = [
                encode_frames(vision, [medium]) if medium.ndim == 4 else torch.from_numpy(medium).to(self.device)
                for medium in datamodule.sample_media()
            ]
            vision.fit_standardisation(torch.cat(samples))

    def encoded(self, batch: Batch) -> EncodedBatch:
        """The batch's prompts as tokens and labels."""
        readout = self.objective == "readout" or self.readout_weight > 0
        return encode_batch(
            self.model, batch, loss_on=self.loss_on, max_text_tokens=self.max_text_tokens, readout=readout
        )

    def losses(self, encoded: EncodedBatch) -> tuple[Tensor, Tensor]:
        """Summed losses of one forward pass, float32 `[]`: of the objective, and the readout that is added to it (0 if
        none). The only place where sharded weights are whole.
        """
        tokens = visual_tokens(self.model, encoded.batch)
        if tokens is None and self.is_sharded:  # every process uses the same parts
            tokens = self.model.unseen_visual_tokens().expand(len(encoded.prompts.input_ids), -1, -1, -1)
        if self.objective == "readout":
            said = said_loss(self.model, encoded, tokens)
            return said, torch.zeros_like(said)
        total = text_loss(self.model, encoded, tokens_for_text(self.model, encoded, tokens))
        adds_readout = self.readout_weight > 0 and self.training
        return total, said_loss(self.model, encoded, tokens) if adds_readout else torch.zeros_like(total)

    def counts(self, encoded: EncodedBatch) -> tuple[int, int]:
        """What the two losses are sums over."""
        said = encoded.num_said(self.config.resampler.num_latents)
        return (said, 0) if self.objective == "readout" else (encoded.num_labels, said)

    def loss_sum(self, batch: Batch) -> tuple[Tensor, int]:
        """The objective's loss summed over the batch's labels, and how many there are."""
        encoded = self.encoded(batch)
        return self.losses(encoded)[0], self.counts(encoded)[0]

    def training_step(self, step: Step, batch_index: int) -> None:
        """All forward and backward passes of a step, then one update.

        Raises:
            ModelError: if the gradient is not finite.
        """
        started = time.perf_counter()
        passes = [(part, self.encoded(batch)) for part, own in enumerate(step.parts) for batch in own.batches]
        # Of each part: labels, said words, text tokens, media, texts.
        counts = torch.zeros(len(step.parts), 5, dtype=torch.float64)
        for part, encoded in passes:
            sizes = (encoded.num_tokens, encoded.batch.num_media, len(encoded.batch))
            counts[part] += torch.tensor([*self.counts(encoded), *sizes])
        counts = self._summed(counts)
        weights = torch.tensor([[own.weight, own.weight * self.readout_weight] for own in step.parts])
        per_label = weights / counts[:, :2].clamp(min=1)  # [parts, 2]
        sums = torch.zeros(len(step.parts), 2, device=self.device)
        for number, (part, encoded) in enumerate(passes):
            with nullcontext() if number == len(passes) - 1 else self._not_synchronised():
                both = torch.stack(self.losses(encoded))  # [2]
                # Processes' gradients are averaged, and the loss is a sum over all of them.
                self.manual_backward((both * per_label[part].to(both)).sum() * self.trainer.world_size)
            sums[part] += both.detach()
        norm = self._update(step)
        means = self._summed(sums) / counts[:, :2].clamp(min=1)  # [parts, 2]
        seconds = step.waited_seconds + time.perf_counter() - started
        self._tell(step, means, weights, counts, norm, seconds)

    def _update(self, step: Step) -> Tensor:
        optimizer = cast(Any, self.optimizers())
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = sharded.gradient_norm(trained, self.gradient_clip)
        if not torch.isfinite(norm):
            raise ModelError(
                f"step {step.index}: the gradient is {float(norm)}, so weights were left as they are; look at the "
                "texts and media of this step, or lower model.learning_rate"
            )
        self.updating = True
        optimizer.step()
        cast(Any, self.lr_schedulers()).step()
        self.updating = False
        optimizer.zero_grad()
        return norm

    def _not_synchronised(self) -> AbstractContextManager[Any]:
        """Gradients stay on each process until the step's last pass, where they need not be reduced at once."""
        strategy = self.trainer.strategy
        if self.is_sharded or not isinstance(strategy, ParallelStrategy) or self.trainer.world_size == 1:
            return nullcontext()
        return strategy.block_backward_sync()

    def _summed(self, values: Tensor) -> Tensor:
        """Summed over all processes; on the CPU."""
        if self._trainer is None or self.trainer.world_size == 1:
            return values.cpu()
        reduced: Any = self.trainer.strategy.reduce(values.to(self.device), reduce_op="sum")
        return reduced.cpu()

    def _tell(self, step: Step, means: Tensor, weights: Tensor, counts: Tensor, norm: Tensor, seconds: float) -> None:
        for part, (mean, said), (_, _, tokens, _, texts) in zip(
            step.parts, means.tolist(), counts.tolist(), strict=True
        ):
            own = {"loss": mean, "tokens": tokens, "texts": texts}
            if self.readout_weight:
                own["readout"] = said
            self.log_dict({f"{name}/{part.name}": value for name, value in own.items()})
        self.log("loss", float((means * weights).sum()), prog_bar=True)
        self.log("gradient_norm", float(norm))
        self.log("learning_rate", self._optimizer.param_groups[0]["lr"])
        self.log("tokens_per_second", float(counts[:, 2].sum()) / seconds, prog_bar=True)
        self.log("clips_per_second", float(counts[:, 3].sum()) / seconds)
        self.log("data_wait", step.waited_seconds / seconds, prog_bar=True)
        if self.trainer.global_step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            for layer, block in zip(self.model.block_layers, cast(Any, self.model.blocks), strict=True):
                for name in ("attention", "feed_forward"):
                    gate = getattr(block, f"{name}_gate")
                    if gate is not None:
                        self.log(f"gate/{name}/{layer}", sharded.whole(gate.detach()).tanh().item())

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return cast(Any, self.optimizers(use_pl_optimizer=False))

    # Validation and test: sums over a split, so that the mean is over all its labels on all processes.

    def on_validation_epoch_start(self) -> None:
        self._measured = {}

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_index: int, dataloader_idx: int = 0) -> None:
        """The loss, without readout."""
        self._measure(batch, dataloader_idx)

    def test_step(self, batch: Batch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Loss, and the share of answers generated word for word."""
        self._measure(batch, dataloader_idx, self.predict_step(batch, batch_index))

    def _measure(self, batch: Batch, loader: int, said: list[dict[str, str]] | None = None) -> None:
        total, count = self.loss_sum(batch)
        said = said or []
        exact = sum(one["answer"] == one["truth"] for one in said)
        sums = torch.tensor([float(total), count, exact, len(said)], dtype=torch.float64)
        name = self._name_of(loader)
        self._measured[name] = self._measured.get(name, 0) + sums

    def _name_of(self, loader: int) -> str:
        """The dataset of the validation or test loader of this number."""
        loaders: Any = self.trainer.test_dataloaders if self.trainer.testing else self.trainer.val_dataloaders
        loaders = loaders if isinstance(loaders, list) else [loaders]
        return getattr(loaders[loader], "name", str(loader))

    def on_validation_epoch_end(self) -> None:
        """Log `val_loss/NAME`, and `val_loss` over all."""
        self._log_measured("val")

    def on_test_epoch_end(self) -> None:
        """Log `test_loss/NAME` and `test_exact/NAME`."""
        self._log_measured("test")

    def _log_measured(self, stage: str) -> None:
        everything = torch.zeros(4, dtype=torch.float64)
        for name, sums in self._measured.items():
            sums = self._summed(sums)
            everything += sums
            self.log(f"{stage}_loss/{name}", float(sums[0] / sums[1].clamp(min=1)), sync_dist=True)
            if sums[3]:
                self.log(f"{stage}_exact/{name}", float(sums[2] / sums[3]), prog_bar=True, sync_dist=True)
        if everything[1]:
            self.log(f"{stage}_loss", float(everything[0] / everything[1]), prog_bar=True, sync_dist=True)

    def predict_step(self, batch: Batch, batch_index: int, dataloader_idx: int = 0) -> list[dict[str, str]]:
        """Greedy answers to the batch's prompts, each cut before its first answer; texts without one are passed over.

        Returns:
            for each text `name`, `place`, `prompt`, `answer` (generated) and `truth`.
        """
        with self._whole_weights(batch):
            return answers(self.model, batch)

    @contextmanager
    def _whole_weights(self, batch: Batch) -> Iterator[None]:
        """Weights that are cut are gathered for as long as they are used, by all processes together.

        Answers end after different numbers of tokens, so none may be gathered while they are generated.
        """
        if not self.is_sharded:
            yield
            return
        with sharded.kept_whole(self):
            self.losses(self.encoded(batch))  # uses, and so gathers, everything
            yield

    def make_optimizer(self) -> torch.optim.AdamW:
        """AdamW over everything trained, see `adamw`."""
        return adamw(
            self.named_parameters(),
            self.learning_rate,
            weight_decay=self.weight_decay,
            resampler_share=self.resampler_learning_rate_share,
            fused=not self.is_sharded,
        )

    def configure_optimizers(self) -> Any:
        """AdamW with a linear warm-up.

        Raises:
            ModelError: if `trainer.precision` is float16, whose gradients would have to be scaled.
        """
        if self._trainer is not None and str(self.trainer.precision).startswith("16"):
            raise ModelError(f"trainer.precision is {self.trainer.precision}; use bf16-mixed or 32-true")
        optimizer = self.make_optimizer()
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_share)]

    def _learning_rate_share(self, step: int) -> float:
        final = self.final_learning_rate_share
        total = math.inf if final == 1.0 else float(self.trainer.estimated_stepping_batches)
        return learning_rate_share(step, self.warmup_steps, final, total)

    def trainable_state(self) -> dict[str, Tensor]:
        """What checkpoints hold, whole, on the CPU; all processes must ask together."""
        return {name: sharded.whole(value.detach()).cpu() for name, value in self.model.trainable_state().items()}

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Take over what a checkpoint holds, by the names of `on_save_checkpoint`; all processes together."""
        with torch.no_grad():
            for name, own in self.model.trainable_state().items():
                own.copy_(sharded.cut_like(state[f"flamingo.{name}"], own))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Frozen weights live elsewhere and are not saved again."""
        checkpoint["state_dict"] = {f"flamingo.{name}": value for name, value in self.trainable_state().items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Everything trained must be there, and nothing else.

        Raises:
            ModelError: if a trained weight is missing or an unknown one is present.
        """
        self.configure_model()
        expected = {f"flamingo.{key}" for key in self.model.trainable_state()}
        found = set(checkpoint["state_dict"])
        if expected != found:
            raise ModelError(
                f"checkpoint does not fit the model: missing {sorted(expected - found) or 'nothing'}, "
                f"unexpected {sorted(found - expected) or 'nothing'}; use the recipe it was trained with"
            )
