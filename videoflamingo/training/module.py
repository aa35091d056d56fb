"""Training: the objective, what is trained, and with which optimiser (Flamingo v1 3.2.3, v2 B.1.2)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from videoflamingo.errors import ModelError
from videoflamingo.generation import encode_segments, generate
from videoflamingo.models.flamingo import Flamingo, FlamingoConfig
from videoflamingo.pipeline import choose_dtype
from videoflamingo.prompt import (
    EncodedPrompt,
    PromptTemplate,
    Segment,
    Text,
    pad_prompts,
)
from videoflamingo.torchvision_operators import declare_missing_operators
from videoflamingo.training.batch import Batch
from videoflamingo.training.readout import readout_loss

declare_missing_operators()
import lightning as L  # noqa: E402  (its import needs the declaration above)


class FlamingoTraining(L.LightningModule):
    """Negative log-likelihood of text given media; frozen tower and language model, trained bridge.

    Args:
        config: the model.
        learning_rate: peak, reached after `warmup_steps`; the paper's is 1e-4 after 5,000.
        final_learning_rate_share: the rate falls linearly to this share of the peak at `trainer.max_steps`; 1 keeps it
            constant, as in the paper.
        resampler_learning_rate_share: the resampler's rate as a share of the others'; below 1 after a warm-up, so that
            gated blocks that know nothing yet do not undo it.
        weight_decay: of gated blocks and new tokens; the resampler has none (v2 B.1.2).
        objective: `text`, the paper's likelihood; or `readout`, a warm-up of resampler and blocks on captions (see
            `videoflamingo.training.readout`).
        readout_weight: with `text`, how much of the warm-up's loss is added, so that visual tokens keep saying what
            they have learnt to say, and learn more of it; 0 = none, as in the paper.
        loss_on: `all` text, the paper's objective, or `answers` only.
        language_attention: kernel of the frozen language model. On CPU the backward of `sdpa` costs more than all
            matrix products together for short texts; `eager` does not.
        frozen_dtype: type of the frozen parts (the trained ones stay float32); `auto` is bfloat16 where the device
            is faster in it, else float32.
        activation_checkpointing: recompute activations in the backward pass: less memory, more time, same gradients.
        compile_blocks: see `Flamingo.compile_blocks`.
        init_from: a checkpoint folder whose trained weights are the start.
    """

    def __init__(
        self,
        config: FlamingoConfig,
        learning_rate: float = 1e-4,
        warmup_steps: int = 5000,
        final_learning_rate_share: float = 1.0,
        resampler_learning_rate_share: float = 1.0,
        weight_decay: float = 0.1,
        objective: Literal["text", "readout"] = "text",
        readout_weight: float = 0.0,
        loss_on: Literal["all", "answers"] = "all",
        language_attention: Literal["sdpa", "eager"] = "sdpa",
        frozen_dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        activation_checkpointing: bool = False,
        compile_blocks: bool = False,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        self.strict_loading = (
            False  # frozen weights are not in checkpoints; on_load_checkpoint is strict about the rest
        )
        self.config = config
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.final_learning_rate_share = final_learning_rate_share
        self.resampler_learning_rate_share = resampler_learning_rate_share
        self.weight_decay = weight_decay
        self.objective = objective
        self.readout_weight = readout_weight
        self.loss_on = loss_on
        self.language_attention = language_attention
        self.frozen_dtype = frozen_dtype
        self.activation_checkpointing = activation_checkpointing
        self.compile_blocks = compile_blocks
        self.init_from = init_from
        self.flamingo: Flamingo | None = None

    def configure_model(self) -> None:
        """Build the model once, however often Lightning calls."""
        if self.flamingo is not None:
            return
        device = self.device if self._trainer is None else self.trainer.strategy.root_device
        self.flamingo = Flamingo(
            self.config,
            dtype=choose_dtype(self.frozen_dtype, device),
            activation_checkpointing=self.activation_checkpointing,
        )
        if self.compile_blocks:
            self.flamingo.compile_blocks()
        self.flamingo.language_model.set_attn_implementation(self.language_attention)
        if self.objective == "readout":
            self.flamingo.new_tokens.requires_grad_(False)
            for name, parameter in self.flamingo.blocks.named_parameters():
                parameter.requires_grad_(name.split(".")[1] in ("norm_media", "to_values", "to_output"))
        if self.init_from is not None:
            from videoflamingo.models.checkpoint import load_trainable

            load_trainable(self.flamingo, self.init_from)

    @property
    def model(self) -> Flamingo:
        """The model; only after `configure_model`."""
        if self.flamingo is None:
            raise ModelError("the model is built by configure_model, which the Trainer calls")
        return self.flamingo

    def on_fit_start(self) -> None:
        """Measure the feature standardisation on the datamodule's frames, unless a checkpoint brought one."""
        vision = self.model.vision
        untouched = bool((vision.feature_mean == 0).all())
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        if self.config.vision.standardise and untouched and hasattr(datamodule, "sample_features"):
            vision.fit_standardisation(datamodule.sample_features())

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Features go to the device; prompts and frame_index are read on the host."""
        return replace(batch, features=batch.features.to(device, non_blocking=True))

    def loss_sum(self, batch: Batch) -> tuple[Tensor, int]:
        """Summed negative log-likelihood of the batch's labels, and how many there are."""
        return self._loss_sum(batch, self._resample(batch))

    def _loss_sum(self, batch: Batch, visual_tokens: Tensor) -> tuple[Tensor, int]:
        said = self._readout_sum if self.objective == "readout" else self._text_sum
        return said(batch, visual_tokens)

    def _resample(self, batch: Batch) -> Tensor:
        return self.model.resample(batch.features, batch.frame_index)  # [B, M, N, D]

    def _readout_sum(self, batch: Batch, visual_tokens: Tensor) -> tuple[Tensor, int]:
        texts = [own or (_first_answer(prompt),) for own, prompt in zip(batch.readouts, batch.prompts, strict=True)]
        parts = [[self.model.tokenize(text) for text in own] for own in texts]
        embedding, blocks = self.model.language_model.get_input_embeddings(), cast(Any, self.model.blocks)
        return readout_loss(visual_tokens[:, 0], parts, blocks, embedding)

    def _text_sum(self, batch: Batch, visual_tokens: Tensor) -> tuple[Tensor, int]:
        padded = pad_prompts(self._encode(batch.prompts), side="right", loss_on=self.loss_on)
        return self.model.loss(
            torch.from_numpy(padded.input_ids).to(self.device),
            torch.from_numpy(padded.media_index).to(self.device),
            torch.from_numpy(padded.labels).to(self.device),
            visual_tokens=visual_tokens,
            attention_mask=torch.from_numpy(padded.attention_mask).to(self.device),
        )

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        visual_tokens = self._resample(batch)
        total, count = self._loss_sum(batch, visual_tokens)
        loss = total / max(count, 1)
        self.log(f"loss/{batch.names[0]}", loss.detach(), batch_size=len(batch))
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(batch))
        if self.objective == "text" and self.readout_weight:
            total, count = self._readout_sum(batch, visual_tokens)
            self.log(f"readout/{batch.names[0]}", total.detach() / count, batch_size=len(batch))
            loss = loss + self.readout_weight * total / count
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        total, count = self.loss_sum(batch)
        self.log(f"val_loss/{batch.names[0]}", total / max(count, 1), batch_size=len(batch), add_dataloader_idx=False)
        self.log("val_loss", total / max(count, 1), batch_size=len(batch), prog_bar=True, add_dataloader_idx=False)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Loss, and the share of answers generated word for word."""
        total, count = self.loss_sum(batch)
        said = self.predict_step(batch, batch_index)
        exact = sum(one["answer"] == one["truth"] for one in said) / len(said)
        self.log(f"test_loss/{batch.names[0]}", total / max(count, 1), batch_size=len(batch))
        self.log(f"test_exact/{batch.names[0]}", exact, batch_size=len(batch), prog_bar=True)

    def predict_step(self, batch: Batch, batch_index: int) -> list[dict[str, str]]:
        """Greedy answers to the batch's prompts, each cut before its first answer.

        Returns:
            for each sample `name`, `prompt`, `answer` (generated) and `truth`.
        """
        prompts, truths = [], []
        for segments in batch.prompts:
            place = _answer_place(segments)
            prompts.append(segments[:place])
            truths.append(_first_answer(segments).strip())
        visual_tokens = self.model.resample(batch.features, batch.frame_index)
        generated = generate(self.model, self._encode(prompts), visual_tokens)
        tokenizer, first_new = self.model.tokenizer, self.model.end_of_chunk_id
        said = [
            PromptTemplate().trim(tokenizer.decode([token for token in one.token_ids if token < first_new]))
            for one in generated
        ]
        asked = ["".join(one.text for one in prompt if isinstance(one, Text)) for prompt in prompts]
        return [
            {"name": name, "prompt": prompt, "answer": answer, "truth": truth}
            for name, prompt, answer, truth in zip(batch.names, asked, said, truths, strict=True)
        ]

    def _encode(self, prompts: Sequence[list[Segment]]) -> list[EncodedPrompt]:
        return [encode_segments(self.model, segments) for segments in prompts]

    def make_optimizer(self) -> torch.optim.AdamW:
        """AdamW over everything trained: decayed but for the resampler (v2 B.1.2); betas and epsilon are torch's, the
        paper names none. One fused kernel, which needs no temporary copies.
        """
        undecayed: list[torch.nn.Parameter] = []
        decayed: list[torch.nn.Parameter] = []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                (undecayed if name.startswith("flamingo.resampler.") else decayed).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {
                "params": undecayed,
                "weight_decay": 0.0,
                "lr": self.learning_rate * self.resampler_learning_rate_share,
            },
        ]
        return torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _learning_rate_share(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        total = self.trainer.max_steps
        if self.final_learning_rate_share == 1.0 or total <= self.warmup_steps:
            return 1.0
        done = min(1.0, (step - self.warmup_steps) / (total - self.warmup_steps))
        return 1.0 + (self.final_learning_rate_share - 1.0) * done

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Frozen weights live elsewhere and are not saved again."""
        checkpoint["state_dict"] = {f"flamingo.{key}": value for key, value in self.model.trainable_state().items()}

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


def _answer_place(segments: Sequence[Segment]) -> int:
    """Where the prompt's first answer stands among its segments."""
    return next(at for at, one in enumerate(segments) if isinstance(one, Text) and one.is_answer)


def _first_answer(segments: Sequence[Segment]) -> str:
    return cast(Text, segments[_answer_place(segments)]).text
