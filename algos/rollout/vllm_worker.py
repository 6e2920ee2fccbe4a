"""Runs inside vLLM and loads the trainer's weights: from a folder, or from memory if vLLM shares the trainer's process.

A server can load them if it was started with::

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --worker-extension-cls algos.rollout.vllm_worker.Extension \\
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
    """Named by ``--worker-extension-cls``: vLLM imports this module in each worker, which registers the backend."""


class NoHandshake(WeightTransferInitInfo):
    """Empty: loading from a folder or from memory needs no connection."""


@dataclass
class Update(WeightTransferUpdateInfo):
    """Where the weights are; one of the two is given. Tensors are named as in the model's checkpoint.

    Attributes:
        folder: Folder of ``*.safetensors`` files.
        tensors: Pairs of name and weight.
    """

    folder: str | None = None
    tensors: Iterable[tuple[str, Tensor]] | None = None


class WeightTransfer(WeightTransferEngine[NoHandshake, Update]):
    """Loads a checkpoint into the running model, layer by layer, as vLLM does at its start."""

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
            # The CPU kernels multiply by a packed copy of the weight. An output layer that is tied to the embedding
            # gets no weight of its own, so vLLM would not pack it again and would continue to use the old copy.
            for layer in self.model.modules():
                if isinstance(layer, ParallelLMHead):
                    layer.quant_method.process_weights_after_loading(layer)

    def shutdown(self) -> None:
        pass


def read(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a folder's safetensors files, one at a time, in the order they were written.

    Raises:
        FileNotFoundError: There are no such files: the folder is not shared with the trainer.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no weights here: trainer and server must see the same folder")
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                yield name, tensors.get_tensor(name)


WeightTransferEngineFactory.register_engine(BACKEND, WeightTransfer)
