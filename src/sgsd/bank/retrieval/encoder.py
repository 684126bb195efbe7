"""Texts to vectors by a sentence-transformers model: safetensors only, no code of the model's own, one text at a time.

Why one at a time: in a padded batch a vector's last bits depend on its neighbours (1.4e-7 on a CPU, nine rows in ten),
and a ranking must not. Texts of equal length need no padding, so items may share a batch with such texts.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sgsd.bank.schema import canonical_json
from sgsd.files import sha256
from sgsd.notices import warn
from sgsd.types import UserError

#: What is fetched from the hub: no pickled weights and no code, so that neither can be loaded.
FETCHED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class EmbeddingSettings:
    """The embedding model and its settings; docs/configuration.md explains each field."""

    model: str
    revision: str | None = None
    instruction: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    batch: int = 1
    cache: str | None = None

    @property
    def cache_folder(self) -> Path:
        """The folder of the vectors: as configured, or in the user's own cache."""
        if self.cache is not None:
            return Path(self.cache).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sgsd" / "embeddings"


class Encoder(Protocol):
    """Embeds queries and documents. A text's vector depends on that text and the space alone.

    A space names everything besides the text that decides a vector: two encoders of one space give the same vectors.
    """

    dimension: int
    query_space: str
    document_space: str

    def queries(self, texts: list[str]) -> np.ndarray:
        """One row [N, D] for each text, of any length but 0."""
        ...

    def documents(self, texts: list[str]) -> np.ndarray:
        """One row [N, D] for each text, of any length but 0."""
        ...


class SentenceEncoder:
    """A sentence-transformers model; queries get its query prompt (or `instruction`), documents its document prompt.

    Raises `UserError` where the library, the model or the device is missing, and for weights that are not safetensors.
    """

    def __init__(self, settings: EmbeddingSettings) -> None:
        folder, identity = _local_copy(settings)
        self._name, self._batch = settings.model, settings.batch
        self._model = _load(folder, settings)
        self.dimension = int(self._model.get_embedding_dimension())
        own = self._model.prompts
        self._query_prompt = settings.instruction if settings.instruction is not None else own.get("query") or ""
        self._document_prompt = next((own[name] for name in ("document", "passage", "corpus") if own.get(name)), "")
        self.query_space = _space(identity, settings.dtype, self._query_prompt, self.dimension)
        self.document_space = _space(identity, settings.dtype, self._document_prompt, self.dimension)

    def queries(self, texts: list[str]) -> np.ndarray:
        return self._encode(self._model.encode_query, texts, self._query_prompt, batch=1)

    def documents(self, texts: list[str]) -> np.ndarray:
        return self._encode(self._model.encode_document, texts, self._document_prompt, self._batch)

    def _encode(self, encode: Callable[..., np.ndarray], texts: list[str], prompt: str, batch: int) -> np.ndarray:
        vectors_ND = np.empty((len(texts), self.dimension), dtype=np.float32)
        for places in self._by_length(texts, prompt):
            alike = [texts[place] for place in places]
            vectors_ND[places] = encode(alike, prompt=prompt, batch_size=batch, show_progress_bar=False)
        return vectors_ND

    def _by_length(self, texts: list[str], prompt: str) -> list[list[int]]:
        """The places of the texts that have the same number of tokens; says so where the model will not read all."""
        tokens = self._model.tokenizer([prompt + text for text in texts], truncation=False, verbose=False)["input_ids"]
        limit = self._model.max_seq_length or max(map(len, tokens), default=0)
        if cut := sum(len(ids) > limit for ids in tokens):
            warn(f"{self._name}: reads {limit} tokens; {cut} of {len(texts)} texts are longer, their ends are not seen")
        groups: dict[int, list[int]] = defaultdict(list)
        for place, ids in enumerate(tokens):
            groups[min(len(ids), limit)].append(place)
        return list(groups.values())


def _space(identity: str, dtype: str, prompt: str, dimension: int) -> str:
    named = {"model": identity, "dtype": dtype, "prompt": prompt, "dimension": dimension, "length": 1}
    return canonical_json(named)


def _local_copy(settings: EmbeddingSettings) -> tuple[Path, str]:
    """The model's folder on this machine, and what names its content. Raises UserError."""
    folder = Path(settings.model).expanduser()
    if folder.is_dir():
        if settings.revision is not None:
            raise UserError(f"embedding model {settings.model}: a folder has no revisions; leave the revision out")
        _require_safetensors(folder, settings.model)
        return folder, _content(folder)
    if settings.model.count("/") > 1 or settings.model.startswith((".", "/", "~")):
        raise UserError(f"embedding model {settings.model}: there is no such folder")
    fetched = _fetched(settings)
    _require_safetensors(fetched, settings.model)
    if settings.revision != fetched.name:
        warn(
            f"embedding model {settings.model}: not pinned, its author may change it; this is revision {fetched.name},"
            " name it to keep it"
        )
    return fetched, f"{settings.model}@{fetched.name}"


def _fetched(settings: EmbeddingSettings) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        fetched = snapshot_download(settings.model, revision=settings.revision, allow_patterns=list(FETCHED))
    except (OSError, HFValidationError) as error:
        raise _unloadable(settings, error) from error
    return Path(fetched)


def _content(folder: Path) -> str:
    """SHA-256 over the files that decide a vector: a folder may change while its name stays."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in FETCHED for path in folder.rglob(pattern)):
        digest.update(f"{path.relative_to(folder).as_posix()}\n{sha256(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _require_safetensors(folder: Path, model: str) -> None:
    for path in sorted(path for pattern in PICKLES for path in folder.rglob(pattern)):
        if not any(path.parent.glob("*.safetensors")):
            raise UserError(
                f"embedding model {model}: {path.relative_to(folder)} is a pickle, which can run any code when read;"
                " use a model saved as safetensors"
            )


def _load(folder: Path, settings: EmbeddingSettings) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UserError("retrieval by embeddings needs sentence-transformers: pip install 'sgsd[embed]'") from error
    import torch
    from safetensors import SafetensorError

    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"embedding device {settings.device}: torch sees no GPU here; use cpu")
    try:
        model = SentenceTransformer(
            str(folder),
            device=settings.device,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"dtype": getattr(torch, settings.dtype), "use_safetensors": True},
        )
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, SafetensorError) as error:
        raise _unloadable(settings, error) from error
    if not callable(getattr(model, "tokenizer", None)) or model.get_embedding_dimension() is None:
        raise UserError(f"embedding model {settings.model}: it is not a transformer that embeds text; name another")
    return model.eval()


def _unloadable(settings: EmbeddingSettings, error: Exception) -> UserError:
    first = " ".join(str(error).split())[:240]
    return UserError(f"embedding model {settings.model}: cannot be loaded: {first}")
