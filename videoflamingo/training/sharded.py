"""FSDP2: parameters, gradients and the optimiser's state cut among processes, for models that fit no single GPU.

What is cut together is gathered together: each decoder layer (frozen), each gated block (trained), and the rest of what
is trained. No unit mixes frozen and trained weights, so nothing frozen gets gradients to reduce. The tower and the
embeddings stay whole on every process, as the paper's tower did (v2 B.1.2).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from videoflamingo.errors import ModelError
from videoflamingo.models.language import decoder_layers
from videoflamingo.torchvision_operators import declare_missing_operators

declare_missing_operators()
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy  # noqa: E402  (needs the declaration above)

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from videoflamingo.training.module import FlamingoTraining


def shard(module: "FlamingoTraining", mesh: "DeviceMesh") -> None:
    """Cut a module's model among the processes of a mesh of one dimension.

    From then on weights are used within `module.losses` only, or where `kept_whole` keeps what it gathered, and every
    process must call it as often as the others.

    Raises:
        ModelError: if the language model is quantised, whose weights cannot be cut.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if module.quantize != "none":
        raise ModelError(f"model.quantize is {module.quantize!r}, whose weights cannot be cut among processes; use ddp")
    model = module.model
    for layer in decoder_layers(model.language_model):
        fully_shard(layer, mesh=mesh)
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
        for method in ("keys_values", "written"):
            register_fsdp_forward_method(block, method)
    whole = {parameter for parameter in module.parameters() if not parameter.requires_grad and not is_cut(parameter)}
    fully_shard(module, mesh=mesh, reshard_after_forward=False, ignored_params=whole)
    register_fsdp_forward_method(module, "losses")


@contextmanager
def kept_whole(module: "FlamingoTraining") -> Iterator[None]:
    """What `module.losses` gathers in here stays whole until the end, which needs the memory for it."""
    from torch.distributed.fsdp import FSDPModule

    units = [unit for unit in module.modules() if isinstance(unit, FSDPModule)]
    cast(Any, module).set_reshard_after_forward(False)
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(unit is not module, recurse=False)
            unit.reshard()


def is_cut(tensor: Tensor) -> bool:
    """Whether each process holds a part of it only."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be cut; all processes must ask together."""
    gathered: Any = tensor
    return gathered.full_tensor() if is_cut(tensor) else tensor


def cut_like(value: Tensor, example: Tensor) -> Tensor:
    """The part of a whole tensor that this process holds, cut as another is; all processes must ask together."""
    from torch.distributed.tensor import distribute_tensor

    if not is_cut(example):
        return value.to(example.device)
    like: Any = example
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's FSDP2 strategy for `FlamingoTraining`: checkpoints are those of any other strategy.

    One file with the whole of what is trained, so that a run may go on with another number of processes, or without
    sharding. Frozen weights are never gathered.

    Args:
        process_group_backend: None for the device's usual one.
    """

    def __init__(self, process_group_backend: str | None = None) -> None:
        super().__init__(
            tensor_parallel_size=1, save_distributed_checkpoint=False, process_group_backend=process_group_backend
        )

    def setup_environment(self) -> None:
        """All processes share out the data."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Empty: `FlamingoTraining.on_save_checkpoint` adds what is trained."""
        return {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Tensor]:
        """The whole state, on the first process; the others help to gather it and get an empty one."""
        own: Any = getattr(optimizer, "_optimizer", optimizer)
        state: dict[str, Any] = own.state_dict()
        state["state"] = {
            number: {name: self._gathered(value) for name, value in values.items()}
            for number, values in state["state"].items()
        }
        return state if self.is_global_zero else {}

    def _gathered(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        gathered = whole(value)
        return gathered.cpu() if self.is_global_zero else None

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        module: Any = self.lightning_module
        module.load_trainable_state(checkpoint["state_dict"])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            cut = {
                number: {
                    name: cut_like(value, parameters[number]) if value.dim() else value for name, value in own.items()
                }
                for number, own in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": cut})


def gradient_norm(parameters: list[nn.Parameter], greatest: float | None) -> Tensor:
    """The norm of all gradients together, `[]`, which are scaled down to `greatest` where it is larger."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf") if greatest is None else greatest)
    return whole(norm)
