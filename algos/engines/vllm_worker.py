"""Runs inside vLLM: takes over weights from a folder, or from memory where vLLM shares the trainer's process.

A server takes weights from us if it was started with::

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --worker-extension-cls algos.engines.vllm_worker.Extension \\
        --weight-transfer-config '{"backend": "llm_gym"}' --logprobs-mode processed_logprobs --generation-config vllm
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.platforms import current_platform

BACKEND = "llm_gym"


class Extension:
    """What ``--worker-extension-cls`` names: vLLM imports this module in each worker, which registers the backend."""


class NoHandshake(WeightTransferInitInfo):
    """A folder needs none."""


@dataclass
class Update(WeightTransferUpdateInfo):
    """Where the weights are.

    Attributes:
        folder: Holds ``*.safetensors`` files, the names of their tensors as in the model's checkpoint.
        tensors: Or the weights themselves, each with its name.
    """

    folder: str | None = None
    tensors: Iterable[tuple[str, Tensor]] | None = None


class WeightTransfer(WeightTransferEngine[NoHandshake, Update]):
    """Loads a checkpoint into the running model, layer by layer, as vLLM would have loaded it at its start."""

    init_info_cls = NoHandshake
    update_info_cls = Update

    def init_transfer_engine(self, init_info: NoHandshake) -> None:
        pass

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: Update) -> None:
        if update_info.tensors is not None:
            self.model.load_weights(update_info.tensors)
        else:
            self.model.load_weights(read(Path(str(update_info.folder))))

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if current_platform.is_cpu():
            # The CPU kernels multiply by a packed copy of the weight. An output layer tied to the embedding gets no
            # weight of its own, so vLLM does not pack it again and would go on with the old one.
            for layer in self.model.modules():
                if isinstance(layer, ParallelLMHead):
                    layer.quant_method.process_weights_after_loading(layer)

    def shutdown(self) -> None:
        pass


def read(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a folder's safetensors files, one at a time, in the order they were written.

    Raises:
        FileNotFoundError: There are none: the folder is not shared with the trainer.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no weights here: trainer and server must see the same folder")
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no dict
                yield name, tensors.get_tensor(name)


WeightTransferEngineFactory.register_engine(BACKEND, WeightTransfer)
