"""An extension of vLLM's workers that takes over all weights of the policy and leaves none of the old ones.

Name it to vLLM as `worker_extension_cls`; the engine in its own process does so by itself.
"""

from __future__ import annotations

from typing import Any

EXTENSION = "sgsd.rollout.vllm_extension.PolicyLoader"


class PolicyLoader:
    """Mixed by vLLM into its worker class, whose methods `reload_weights` and attribute `model_runner` it uses."""

    def sgsd_load_policy(self, folder: str) -> None:
        """Read a saved model into the running engine."""
        worker: Any = self
        worker.reload_weights(weights_path=folder)
        for module in worker.model_runner.get_model().modules():
            # On CPUs vLLM multiplies by a copy of each matrix, packed when it is loaded. It does not load the head
            # of a model with tied weights, whose copy would go on being that of the old embedding.
            if hasattr(module, "cpu_linear") and hasattr(module, "num_embeddings"):
                module.quant_method.process_weights_after_loading(module)
