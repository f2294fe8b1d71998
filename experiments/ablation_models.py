"""The models that an ablation asks, and the tokens that it looks at."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from experiments.ablation_questions import AnyQuestions, Loaded, load_questions
from experiments.config import CONF, build, plain
from focus.engines import AbstractEngine
from focus.errors import InvalidValueError, UnknownNameError
from focus.evidence import Columns
from focus.marks import AnswerKey
from focus.models import VisionLanguageModel
from focus.models.loading import EMBEDDED_PREFIX, embedded_names, embedded_path
from focus.records import digest, identity
from focus.scoring import choice_tokens, first_tokens
from focus.worlds.questions import UNKNOWN

#: Of vocabularies up to this size, every token is looked at.
SMALL = 4096


@dataclass(frozen=True)
class Model:
    """A model that is loaded when it is needed.

    Args:
        name: of the model.
        config: JSON of an entry of ``conf/model``.
        engine_config: JSON of an entry of ``conf/engine``: what answers its questions.
    """

    name: str
    config: str
    engine_config: str

    @classmethod
    def of(cls, node: Mapping[str, Any], engine: Mapping[str, Any]) -> Model:
        """Model of entries of ``conf/model`` and ``conf/engine``, resolved."""
        name = str(node.get("name") or node.get("architecture"))
        return cls(name, json.dumps(dict(node)), json.dumps(dict(engine)))

    @classmethod
    def at(cls, name: str, folder: Path, *, batch: int = 64) -> Model:
        """Model of a folder, on the CPU in float32, in this process."""
        node = {"_target_": "focus.models.Checkpoint", "name": name, "source": str(folder),
                "dtype": "float32", "attention": "sdpa", "device": "cpu"}  # fmt: skip
        engine = plain(cast(DictConfig, OmegaConf.load(CONF / "engine" / "local.yaml")))
        return cls.of(node, {**engine, "batch": batch})

    @property
    def vlm(self) -> VisionLanguageModel:
        """The model; without weights where its engine needs none."""
        return self.engine.vlm

    @property
    def engine(self) -> AbstractEngine:
        """What answers its questions."""
        return _engine(self.config, self.engine_config)

    @property
    def fingerprint(self) -> str:
        """Changes with the weights: what other weights computed is never taken for this model's."""
        node = json.loads(self.config)
        source = str(node.get("source", ""))
        folder = Path(source)
        if source.startswith(EMBEDDED_PREFIX):
            folder = embedded_path(source.removeprefix(EMBEDDED_PREFIX))
        weights = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        known = identity({key: node[key] for key in node if key not in ("name", "source")})
        return digest([known, [_hash(path) for path in weights] or source])

    def load(self, questions: AnyQuestions) -> Loaded:
        """Those of some questions whose choices begin with different tokens of this model.

        Raises:
            InvalidValueError: there are none.
        """
        return _loaded(self, questions)

    def columns(self, loaded: Loaded) -> Columns:
        """The tokens to look at where these questions are asked."""
        return _columns(self, loaded.settings)

    def key(self, loaded: Loaded) -> AnswerKey:
        """What each column is worth as an answer."""
        columns = self.columns(loaded)
        return AnswerKey.of(loaded.examples, columns.ids, columns.unknown, len(columns.words))


@functools.lru_cache(maxsize=2)
def _engine(config: str, engine_config: str) -> AbstractEngine:
    make_engine = build(OmegaConf.create(json.loads(engine_config)))
    maker = build(OmegaConf.create(json.loads(config)))
    engine: AbstractEngine = make_engine(maker.load(weights=make_engine.func.needs_weights))
    return engine


@functools.lru_cache(maxsize=64)
def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@functools.lru_cache(maxsize=64)
def _loaded(model: Model, questions: AnyQuestions) -> Loaded:
    loaded, tokenizer = load_questions(questions), model.vlm.processor.tokenizer
    known = {choices: bool(first_tokens(tokenizer, choices))
             for choices in {example.choices for example in loaded.examples}}  # fmt: skip
    kept = [i for i, example in enumerate(loaded.examples) if known[example.choices]]
    if not kept:
        accepted = "one with choices that begin with different tokens"
        raise InvalidValueError("benchmark", loaded.benchmark.name, accepted)
    return loaded.only(kept)


@functools.lru_cache(maxsize=64)
def _columns(model: Model, questions: AnyQuestions) -> Columns:
    loaded, tokenizer = model.load(questions), model.vlm.processor.tokenizer
    texts = dict.fromkeys(text for e in loaded.examples for text in (*e.choices, *e.distractors))
    tokens = {text: tokenizer.encode(text, add_special_tokens=False) for text in texts}
    first = {text: ids[0] for text, ids in tokens.items()}
    (unknown,) = choice_tokens(tokenizer, [UNKNOWN]) or [()]
    if len(tokenizer) <= SMALL and all(len(ids) == 1 for ids in tokens.values()):
        words = {i: tokenizer.decode([i]).strip() for i in range(len(tokenizer))}
        taught = {UNKNOWN: unknown[0]} if len(unknown) == 1 else {}
        return Columns({**first, **taught}, words, None, UNKNOWN if taught else None)
    kept = tuple(dict.fromkeys(first.values()))
    place = {token: column for column, token in enumerate(kept)}
    words = {place[t]: tokenizer.decode([t]).strip() for t in kept} | {len(kept): "(other)"}
    return Columns({text: place[t] for text, t in first.items()}, words, kept)


def models_of(names: Sequence[str] | None, weights: str | None) -> list[Model]:
    """Embedded models, or those of a folder.

    Args:
        names: of models; None for all there are.
        weights: folder with one folder for each model; None for the embedded ones.

    Raises:
        UnknownNameError: no such model, or none at all.
    """
    if weights is None:
        folders = {name: embedded_path(name) for name in embedded_names()}
    else:
        found = sorted(Path(weights).glob("*/config.json"))
        folders = {path.parent.name: path.parent for path in found}
    chosen = list(folders) if names is None else list(names)
    if not chosen:
        raise UnknownNameError("model", "all", folders)
    for name in chosen:
        if name not in folders:
            raise UnknownNameError("model", name, folders)
    return [Model.at(name, folders[name]) for name in chosen]
