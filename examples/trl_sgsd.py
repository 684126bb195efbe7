"""SGSD inside TRL's GRPOTrainer, on the bundled policy: offline, on one CPU core, in less than a minute.

python examples/trl_sgsd.py [OUTPUT]      (needs trl==1.16.0; see docs/trl.md)
"""

from __future__ import annotations

import logging
import sys
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig

from sgsd.integrations.trl import SgsdGRPOTrainer
from sgsd.lab.policy import POLICY_FOLDER

SETTINGS = {
    "method": {"name": "sgsd", "k": 4, "confidence": 0.01},
    "bank": {"path": "lab"},
    "data": {"path": "lab:train"},
    "prompts": {"folder": "lab", "teacher_thinking": False},
}


def main(output: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = GRPOConfig(
        output_dir=output,
        max_steps=20,
        per_device_train_batch_size=32,
        num_generations=2,
        max_completion_length=96,
        learning_rate=3e-4,
        lr_scheduler_type="constant",
        temperature=1.0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=5,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(POLICY_FOLDER, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(POLICY_FOLDER)
    trainer = SgsdGRPOTrainer(model, SETTINGS, args=args, processing_class=tokenizer)
    trainer.train()
    for entry in trainer.state.log_history[:-1]:
        names = ("validated", "neutral", "reversed")
        shares = ", ".join(f"{name} {entry[f'sgsd/polarity/{name}']:.2f}" for name in names)
        logging.info("step %d: reward %.2f; of the teachers: %s", entry["step"], entry["reward"], shares)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
